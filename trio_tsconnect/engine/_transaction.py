"""State of one request and its response.

Invariant: after `__init__`, only `enter` writes `state`.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

import trio

from trio_tsconnect.config import HttpConfig, OriginConfig, RemapRule
from trio_tsconnect.engine._core import Core
from trio_tsconnect.engine._transforms import Transforms
from trio_tsconnect.engine._watch import Pace, Watch
from trio_tsconnect.hooks import TRANSITIONS, AnyTransform, Hooks, InvalidState, OriginFailure, Proxy, State, Transaction
from trio_tsconnect.log import Ended
from trio_tsconnect.message import URL, Failure, Request, Response, TraceContext, TransactionFailure, is_idempotent, outcome
from trio_tsconnect.origin import InterceptOrigin, Origin, OriginConnection
from trio_tsconnect.stream import ClientInfo, ResponseSource

if TYPE_CHECKING:
    from trio_tsconnect.engine._session import EngineSession


Chain = tuple[tuple[str, AnyTransform], ...]


class EngineTransaction(Transaction):
    """Engine side of a transaction: the public `Transaction` and the state that only the engine uses.

    The methods for plugins are in `ServedTransaction`.
    """

    session: EngineSession
    parent: EngineTransaction | None

    # Initial values. As class attributes they cost a transaction nothing until they are assigned.
    answer: bytes | None = None
    """Body of a response that a plugin or the proxy has made; None if the origin is to be asked."""
    answered_by: str | None = None
    """Name of the plugin that has answered the request before an origin was asked."""
    replaced: tuple[State, str] | None = None
    """The plugin that has replaced the response, and whether it did so while the origin was asked or before the response is sent."""
    refused_by: str | None = None
    """Who has refused the request: a guard, or an access rule."""
    origin_persists: bool = False
    """True if the origin keeps its connection open after the response."""
    offered: TransactionFailure | None = None
    """The failure of the last attempt that was offered to plugins (`origin_failed`)."""
    may_recover: bool = False
    """True while the hook `origin_failed` runs."""
    intercept_origin: InterceptOrigin | None = None
    """The plugin that acts as the origin, if there is one."""
    request_transforms: Chain = ()
    """(plugin name, transform) for the request body, in order."""
    response_transforms: Chain = ()
    """(plugin name, transform) for the response body, in order."""
    before_attempt: tuple[Chain, Chain] | None = None
    """The transforms of request and response before the current attempt; None if none has begun."""
    before_response: Chain | None = None
    """The response transforms before the response of the origin was there; None if it is not."""
    awaits_head: bool = False
    """True while the transaction waits for a response head."""
    head_received: bool = False
    """True if the current attempt has received the final response head."""
    request_chain: Transforms | None = None
    """The request transforms of the current attempt."""
    request_body: bytes | None = None
    """The whole request body, if a plugin has read it."""
    request_body_sent: bool = False
    """True if the request body was taken to its end in the current attempt."""
    request_body_lost: bool = False
    """True if a plugin has read a part of the request body and not the rest."""
    request_parts: list[bytes | bytearray] | None = None
    """The parts that a plugin has read so far."""
    retry_target: str | None = None
    """Target of the attempt that a plugin has asked for; None if none has."""
    retry_elsewhere: bool = False
    """True if the plugin has given that target."""
    elsewhere: bool = False
    """True once a plugin has chosen another origin with `retry`."""
    uri: URL | None = None
    """URL at the origin; None before remap."""
    seen_target: str | None = None
    """The target as received; for the log, if there is no valid URL."""
    retries: int = 0
    """Attempts that plugins have asked for."""
    reconnects: int = 0
    """Attempts repeated because a reused connection was closed."""
    children: tuple[EngineSession, ...] = ()
    """Sessions opened by this transaction, without the detached ones; some may have ended."""
    children_refused: bool = False
    """True once no more children may be opened."""
    descendants: int = 0
    """Internal requests below this transaction. Only counted in a root."""
    deadline_left: dict[str, float] | None = None
    """Seconds left until the end of the transaction, by the state that was entered."""
    prepared: bool = False
    """True once `prepare_request` has changed the request head for the origin."""
    upgrade: list[str] | None = None
    """Protocols that the client offers to switch to; None if it offers none that is forwarded."""
    plugin_name: str = ""
    """Name of the plugin whose hook runs now."""
    guarding: bool = False
    """True if that plugin is a `Guard`."""
    hook_name: str = ""
    """Name of the hook that runs now."""
    origin_address: str | None = None
    """Address that the origin connection used last was made to."""
    noted: dict[bytes, bytes] | None = None
    """Fields of the request as received, by name in lower case, that every record has."""
    noted_heads: dict[str, str] | None = None
    """Fields of the request as received, by name in lower case, that the log has selected; None if it selects none."""
    trace: TraceContext | None = None
    expects_continue: bool = False
    """True if the request that is forwarded has `Expect: 100-continue`."""
    expectation_met: bool = False
    """True once the client was sent a 100, or needs none because its body was received already."""
    interim_sent: bool = False
    """True once a 1xx response of the origin was queued for the client."""
    response_due: float = math.inf
    """Trio time at which the response of the origin is overdue; infinite until the request was sent."""
    response_begun: bool = False
    """True once the final response head was queued."""
    response_complete: bool = False
    """True once the whole response was written."""
    close_delimited: bool = False
    """True if the response body ends with the connection."""
    wants_keep_alive: bool = False
    """True if nothing in the request or the response forbids another request on the connection."""
    keep_alive: bool = False
    """True if another request may follow on the connection."""
    origin: OriginConnection | None = None
    """The origin connection that the transaction holds now."""
    origin_id: int | None = None
    """Number of the origin connection used last."""
    origin_reused: bool | None = None
    """True if that connection had served a request before."""
    origin_url: str | None = None
    """The URL after remapping, as text."""
    asked: Origin | None = None
    """The origin that was asked last."""
    response_source: ResponseSource = "origin"
    status: int | None = None
    """Status of the response to the client; None if none was begun."""
    version: str = "1.1"
    """HTTP version of the request."""
    request_bytes: int = 0
    """Bytes of request body received, without framing; in a tunnel also those forwarded to the origin."""
    response_bytes: int = 0
    """Bytes of response body queued for the client, without framing; in a tunnel also those forwarded to the client."""
    body_withheld: bool = False
    """True if the rest of the request body must not be forwarded."""
    interims: int = 0
    """Interim responses of origins, over all attempts."""
    request_pace: Pace | None = None
    """Minimum rate of the request body, if one is configured."""
    response_pace: Pace | None = None
    """Minimum rate of the response body, if one is configured."""

    _request: Request | None = None
    _response: Response | None = None
    rule: RemapRule | None = None
    method: str | None = None
    url: URL | None = None
    origin_status: int | None = None
    attempts: int = 0
    ended: Ended | None = None

    def __init__(self, session: EngineSession, number: int) -> None:
        core = session.core
        self.session = session
        self.core: Core = core
        self.number = number
        self.config: HttpConfig = core.config.http
        self.origin_config: OriginConfig = core.config.origin
        self.state: State = State.READ_REQUEST
        self.milestones: dict[str, float] = {}
        self.parent = parent = session.parent
        self.depth: int = parent.depth + 1 if parent else 0
        self.data: dict[Any, Any] = {}
        self.started: float = trio.current_time()
        self.wall_time: float = core.wall_time()
        self.watch: Watch = Watch(core.timer)
        self.hooks: Hooks = core.hooks
        self.plugin_log: dict[str, dict[str, Any]] = {}
        self.milestones[State.READ_REQUEST.milestone] = 0.0

    # ---------------------------------------------------------------------------------------------------------------------- read by plugins

    @property
    def proxy(self) -> Proxy:
        return self.core.proxy

    @property
    def request(self) -> Request:
        if self._request is None:
            raise InvalidState(f"transaction {self.number} has no request yet (state {self.state.milestone})")
        return self._request

    @request.setter
    def request(self, request: Request) -> None:
        if not isinstance(request, Request):
            raise TypeError(f"request must be a Request, not {type(request).__name__}")
        self._request = request

    @property
    def has_request(self) -> bool:
        return self._request is not None

    @property
    def has_route(self) -> bool:
        url = self.request.url
        return self.session.target is not None or not self.config.remap_required or self.core.remap.match(url) is not None

    @property
    def response(self) -> Response:
        if self._response is None:
            raise InvalidState(f"transaction {self.number} has no response yet (state {self.state.milestone})")
        return self._response

    @response.setter
    def response(self, response: Response) -> None:
        if not isinstance(response, Response):
            raise TypeError(f"response must be a Response, not {type(response).__name__}")
        self._response = response

    @property
    def replaced_by(self) -> str | None:
        return self.replaced[1] if self.replaced is not None else None

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
    def failure(self) -> OriginFailure:
        if self.offered is None or not self.may_recover:
            raise InvalidState(f"failure is there only in origin_failed, not in state {self.state.milestone}")
        return OriginFailure(
            cause=outcome(self.offered.failure).why,
            origin=self.asked.name if self.asked is not None else "",
            attempt=self.attempts,
            repeatable=self.can_repeat and (is_idempotent(self.request.method) or self.state is State.ACQUIRE_ORIGIN),
        )

    @property
    def log(self) -> dict[str, Any]:
        return self.plugin_log.setdefault(self.plugin_name or "-", {})

    # ------------------------------------------------------------------------------------------------------------------- used by the engine

    def answered(self) -> bool:
        """Return True if a plugin has called `respond`."""
        return self.answer is not None

    @property
    def can_retry(self) -> bool:
        return (self.may_recover or self.state is State.READ_RESPONSE) and self.answer is None and self.can_repeat

    def forget_response(self) -> None:
        """Forget the origin's response, because there will be another: also the transforms that were added for it."""
        self._response = None
        if self.before_response is not None:
            self.response_transforms, self.before_response = self.before_response, None

    def forget_attempt(self) -> None:
        """Forget the attempt at the origin, because there will be another: also the transforms that its hooks have added."""
        self.forget_response()
        if self.before_attempt is not None:
            (self.request_transforms, self.response_transforms), self.before_attempt = self.before_attempt, None
        self.request_chain = None
        self.head_received = False
        self.response_due = math.inf
        self.watch.disarm()

    @property
    def can_repeat(self) -> bool:
        """True if the request can be sent again: nothing was sent to the client, and the request body is there from its beginning."""
        if self.interim_sent:
            return False
        if self.session.http.body.empty:
            return True
        # A chain of transforms has a state: it cannot begin anew. It is made when the request is sent.
        return self.request_chain is None and (self.request_body is not None or not self.request_bytes)

    @property
    def may_watch_input(self) -> bool:
        """True if no other task reads from the client now: the request body was read to its end, and there is no tunnel."""
        return self._request is not None and self.session.http.body_complete and self.state is not State.TUNNEL

    @property
    def asks_for_switch(self) -> bool:
        """True if the client offers to switch protocols."""
        if self.prepared:
            return self.upgrade is not None
        return self._request is not None and "upgrade" in self._request.headers

    def set_bounds(self) -> None:
        """Set the end of the transaction: its start plus `http.transaction_timeout`, or the opener's deadline if that is not later."""
        limit, deadline = self.config.transaction_timeout, self.session.end
        end = math.inf if limit is None else self.started + limit
        if deadline is not None and deadline <= end:
            self.watch.bound(deadline, Failure.DEADLINE)
        elif end != self.watch.end:
            self.watch.bound(end, Failure.TRANSACTION_TIMEOUT)

    def enter(self, state: State) -> None:
        """Go to `state` and note the time. Raise `InvalidState` if `TRANSITIONS` does not allow it."""
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
        """Note for the log how the transaction ended. Later calls change nothing."""
        if self.ended is None:
            self.ended = Ended(by, why, self.state.milestone)

    def __repr__(self) -> str:
        what = f"{self.method} {self.url or self.seen_target}" if self.method else "no request yet"
        return f"<Transaction {self.number} {what} ({self.state.milestone})>"
