"""One request and its response, as plugins see them.

The law: `enter` is the only writer of the state; what a plugin may do is asked of the state, and refused with its name.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import trio

from trio_tsconnect._util import public
from trio_tsconnect.engine._errors import InvalidState
from trio_tsconnect.engine._plugin import Hooks
from trio_tsconnect.engine._states import TRANSITIONS, State
from trio_tsconnect.engine._watch import Watch
from trio_tsconnect.log import Ended
from trio_tsconnect.message import Headers, HeadersInput, Request, Response, TargetURI
from trio_tsconnect.stream import ClientInfo

if TYPE_CHECKING:
    from trio_tsconnect.engine._config import HttpConfig, OriginConfig, RemapRule
    from trio_tsconnect.engine._pool import OriginConnection
    from trio_tsconnect.engine._proxy import Proxy
    from trio_tsconnect.engine._session import Session


@public("trio_tsconnect")
class Transaction:
    """One request and its response. Hooks get it; nobody else makes one.

    `request` is changed in place as it goes: what the client sent at `read_request`, with the URI of the origin as its target from
    `post_remap` on, what will be sent at `send_request`. `response` likewise. Both are checked at the line that changes them.
    """

    def __init__(self, session: Session, number: int) -> None:
        self.session = session
        self.number = number
        """The number of this transaction, unique in the process (`transaction` in the log)."""
        self._request: Request | None = None
        self._response: Response | None = None
        self.config: HttpConfig = session.proxy.config.http
        """The limits of this transaction; assign an `attrs.evolve` of it to change them for this transaction alone."""
        self.origin_config: OriginConfig = session.proxy.config.origin
        """Those towards the origin."""
        self.state = State.READ_REQUEST
        """Where it stands; written by the engine alone."""
        self.milestones: dict[str, float] = {}
        """State to the seconds after the beginning at which it was entered."""
        self.parent: Transaction | None = session.parent
        """The transaction that opened the connection on which this one came; None for a root."""
        self.root: Transaction = self.parent.root if self.parent else self
        """The first ancestor; a root is its own."""
        self.depth: int = self.parent.depth + 1 if self.parent else 0
        """How many ancestors there are."""
        # what follows is the engine's
        self.started = trio.current_time()
        self.wall_time = session.proxy.wall_time()
        self.watch = Watch()
        self.hooks: Hooks = session.proxy.hooks
        self.answer: bytes | None = None
        self.ended: Ended | None = None
        self.plugin_log: dict[str, dict[str, Any]] = {}
        self.plugin_name = ""
        self.expects_continue = False
        self.interim_sent = False
        self.sending_body = False
        self.response_begun = False
        self.response_complete = False
        self.wants_keep_alive = False
        self.keep_alive = False
        self.uri: TargetURI | None = None
        self.rule: RemapRule | None = None
        self.origin: OriginConnection | None = None
        self.origin_id: int | None = None
        self.origin_reused: bool | None = None
        self.origin_url: str | None = None
        self.origin_status: int | None = None
        self.status: int | None = None
        self.method: str | None = None
        self.url: str | None = None
        self.version = "1.1"
        self.attempts = 0
        self.request_bytes = 0
        self.response_bytes = 0
        self.milestones[State.READ_REQUEST.value] = 0.0

    # ------------------------------------------------------------------------------------------------------- what a plugin reads

    @property
    def proxy(self) -> Proxy:
        """The proxy that serves it."""
        return self.session.proxy

    @property
    def request(self) -> Request:
        """The request head. `InvalidState` before it was read (in `transaction_start`, and when it is not acceptable)."""
        if self._request is None:
            raise InvalidState(f"the request of transaction {self.number} has not been read (state {self.state.value})")
        return self._request

    @request.setter
    def request(self, request: Request) -> None:
        if not isinstance(request, Request):
            raise TypeError(f"a request is a Request, not {type(request).__name__}")
        self._request = request

    @property
    def has_request(self) -> bool:
        """Whether the request head was read."""
        return self._request is not None

    @property
    def response(self) -> Response:
        """The response head. `InvalidState` before there is one (until `read_response`, or `respond`)."""
        if self._response is None:
            raise InvalidState(f"transaction {self.number} has no response yet (state {self.state.value})")
        return self._response

    @response.setter
    def response(self, response: Response) -> None:
        if not isinstance(response, Response):
            raise TypeError(f"a response is a Response, not {type(response).__name__}")
        self._response = response

    @property
    def client(self) -> ClientInfo:
        """On whose behalf the request comes."""
        return self.session.client

    @property
    def tag(self) -> str | None:
        """The tag of the connection's opener; None for network clients."""
        return self.session.tag

    @property
    def id(self) -> int:
        """The number the connection's opener gave it; 0 is not set."""
        return self.session.id

    @property
    def internal(self) -> bool:
        """Whether the request is the process's own."""
        return self.session.internal

    @property
    def log(self) -> dict[str, Any]:
        """What the plugin whose hook is running adds to the record: `plugin` there holds one such dict by the plugin's class name."""
        return self.plugin_log.setdefault(self.plugin_name or "-", {})

    # --------------------------------------------------------------------------------------------------------- what a plugin does

    def respond(self, status: int, body: bytes | str = b"", *, headers: HeadersInput = ()) -> None:
        """Answer the request here: no origin is asked. The response is sent after the hook returns; the last call counts.

        Legal until `post_remap` is over; later `InvalidState`. A str body is UTF-8, as text/plain unless the headers say otherwise.
        """
        if self.state not in (State.READ_REQUEST, State.REMAP) or self._request is None:
            raise InvalidState(f"respond() is legal from read_request to post_remap, not in state {self.state.value}")
        if not isinstance(status, int) or not 200 <= status <= 599:
            raise ValueError(f"a final status is an int in 200..599, not {status!r}")
        fields = Headers(headers)
        if isinstance(body, str):
            body = body.encode()
            fields.setdefault("Content-Type", "text/plain; charset=utf-8")
        self.answer = bytes(body)
        self._response = Response(status, fields)

    # ------------------------------------------------------------------------------------------------------- what the engine does

    def enter(self, state: State) -> None:
        """Go to a state, if the table allows it, and stamp the milestone."""
        if state not in TRANSITIONS[self.state]:
            raise InvalidState(f"transaction {self.number} cannot go from {self.state.value} to {state.value}")
        self.state = state
        self.milestones[state.value] = trio.current_time() - self.started

    def end(self, by: str, why: str) -> None:
        """Note how it ended; the first cause counts."""
        if self.ended is None:
            self.ended = Ended(by, why, self.state.value)

    def __repr__(self) -> str:
        what = f"{self.method} {self.url}" if self.method else "no request yet"
        return f"<Transaction {self.number} {what} ({self.state.value})>"
