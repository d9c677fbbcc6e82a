"""One request and its response, as the engine runs on it.

Invariant: `enter` is the only writer of the state.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

import trio

from trio_tsconnect.config import HttpConfig, OriginConfig, RemapRule
from trio_tsconnect.engine._core import Core
from trio_tsconnect.engine._transforms import Transforms
from trio_tsconnect.engine._watch import Pace, Watch
from trio_tsconnect.hooks import TRANSITIONS, Hooks, InvalidState, Proxy, State, Transaction, Transform
from trio_tsconnect.log import Ended
from trio_tsconnect.message import Failure, Request, Response, TargetURI
from trio_tsconnect.origin import InterceptOrigin, OriginConnection
from trio_tsconnect.stream import ClientInfo

if TYPE_CHECKING:
    from trio_tsconnect.engine._session import EngineSession


class EngineTransaction(Transaction):
    """What the engine adds to the face that plugins see. What plugins do with it is in `ServedTransaction`."""

    session: EngineSession
    parent: EngineTransaction | None

    # As each transaction begins; an attribute of the class costs a transaction nothing until it changes.
    answer: bytes | None = None
    intercept_origin: InterceptOrigin | None = None
    request_transforms: tuple[tuple[str, Transform], ...] = ()
    response_transforms: tuple[tuple[str, Transform], ...] = ()
    request_chain: Transforms | None = None
    request_body: bytes | None = None
    request_body_sent: bool = False
    request_body_lost: bool = False
    request_parts: list[bytes | bytearray] | None = None
    retry_target: str | None = None
    retries: int = 0
    reconnects: int = 0
    children: tuple[EngineSession, ...] = ()
    children_refused: bool = False
    descendants: int = 0
    deadline_left: dict[str, float] | None = None
    prepared: bool = False
    upgrade: list[str] | None = None
    plugin_name: str = ""
    expects_continue: bool = False
    expectation_met: bool = False
    interim_sent: bool = False
    response_due: float = math.inf
    response_begun: bool = False
    response_complete: bool = False
    close_delimited: bool = False
    wants_keep_alive: bool = False
    keep_alive: bool = False
    origin: OriginConnection | None = None
    origin_id: int | None = None
    origin_reused: bool | None = None
    origin_url: str | None = None
    status: int | None = None
    version: str = "1.1"
    request_bytes: int = 0
    response_bytes: int = 0
    body_withheld: bool = False
    interims: int = 0
    request_pace: Pace | None = None
    response_pace: Pace | None = None

    def __init__(self, session: EngineSession, number: int) -> None:
        core = session.core
        self.session = session
        self.core: Core = core
        self.number = number
        self._request: Request | None = None
        self._response: Response | None = None
        self.config: HttpConfig = core.config.http
        self.origin_config: OriginConfig = core.config.origin
        self.state: State = State.READ_REQUEST
        self.milestones: dict[str, float] = {}
        self.parent = parent = session.parent
        self.depth: int = parent.depth + 1 if parent else 0
        self.uri: TargetURI | None = None
        self.rule: RemapRule | None = None
        self.method: str | None = None
        self.url: str | None = None
        self.origin_status: int | None = None
        self.attempts: int = 0
        self.ended: Ended | None = None
        self.data: dict[Any, Any] = {}
        self.started: float = trio.current_time()
        self.wall_time: float = core.wall_time()
        self.watch: Watch = Watch(core.timer)
        self.hooks: Hooks = core.hooks
        self.plugin_log: dict[str, dict[str, Any]] = {}
        self.milestones[State.READ_REQUEST.milestone] = 0.0

    # ------------------------------------------------------------------------------------------------------- what a plugin reads

    @property
    def proxy(self) -> Proxy:
        return self.core.proxy

    @property
    def request(self) -> Request:
        if self._request is None:
            raise InvalidState(f"the request of transaction {self.number} has not been read (state {self.state.milestone})")
        return self._request

    @request.setter
    def request(self, request: Request) -> None:
        if not isinstance(request, Request):
            raise TypeError(f"a request is a Request, not {type(request).__name__}")
        self._request = request

    @property
    def has_request(self) -> bool:
        return self._request is not None

    @property
    def response(self) -> Response:
        if self._response is None:
            raise InvalidState(f"transaction {self.number} has no response yet (state {self.state.milestone})")
        return self._response

    @response.setter
    def response(self, response: Response) -> None:
        if not isinstance(response, Response):
            raise TypeError(f"a response is a Response, not {type(response).__name__}")
        self._response = response

    @property
    def root(self) -> EngineTransaction:
        ancestor: EngineTransaction = self
        while ancestor.parent is not None:
            ancestor = ancestor.parent
        return ancestor

    @property
    def client(self) -> ClientInfo:
        return self.session.client

    @property
    def tag(self) -> str | None:
        return self.session.tag

    @property
    def id(self) -> int:
        return self.session.id

    @property
    def internal(self) -> bool:
        return self.session.internal

    @property
    def log(self) -> dict[str, Any]:
        return self.plugin_log.setdefault(self.plugin_name or "-", {})

    # ------------------------------------------------------------------------------------------------------- what the engine does

    def answered(self) -> bool:
        """Whether a plugin has answered."""
        return self.answer is not None

    @property
    def may_watch_input(self) -> bool:
        """Whether nobody else reads the client's stream now."""
        return self._request is not None and self.session.http.body_complete and self.state is not State.TUNNEL

    @property
    def asks_for_switch(self) -> bool:
        """True if the client offers to switch protocols."""
        if self.prepared:
            return self.upgrade is not None
        return self._request is not None and "upgrade" in self._request.headers

    def set_bounds(self) -> None:
        """Bound the whole by the configuration and the opener's deadline, whichever is earlier."""
        limit, deadline = self.config.transaction_timeout, self.session.end
        end = math.inf if limit is None else self.started + limit
        if deadline is not None and deadline <= end:
            self.watch.bound(deadline, Failure.DEADLINE)
        elif end != self.watch.end:
            self.watch.bound(end, Failure.TRANSACTION_TIMEOUT)

    def enter(self, state: State) -> None:
        """Go to a state, if the table allows it, and stamp the milestone."""
        if state not in TRANSITIONS[self.state]:
            raise InvalidState(f"transaction {self.number} cannot go from {self.state.milestone} to {state.milestone}")
        self.state = state
        now = trio.current_time()
        self.milestones[state.milestone] = now - self.started
        if self.watch.end != math.inf:
            self._note_left(state, self.watch.end - now)

    def _note_left(self, state: State, seconds: float) -> None:
        if self.deadline_left is None:
            self.deadline_left = {}
        self.deadline_left[state.milestone] = seconds

    def end(self, by: str, why: str) -> None:
        """Note how it ended; the first cause counts."""
        if self.ended is None:
            self.ended = Ended(by, why, self.state.milestone)

    def __repr__(self) -> str:
        what = f"{self.method} {self.url}" if self.method else "no request yet"
        return f"<Transaction {self.number} {what} ({self.state.milestone})>"
