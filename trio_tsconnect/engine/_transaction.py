"""One request and its response, as plugins see them.

The law: `enter` is the only writer of the state; what a plugin may do is asked of the state, and refused with its name.
"""

from __future__ import annotations

import math
from collections.abc import AsyncIterable
from contextlib import AbstractAsyncContextManager
from functools import partial
from typing import TYPE_CHECKING, Any

import trio

from trio_tsconnect._util import public
from trio_tsconnect.engine._bodies import Transform, Transforms, read_request_body
from trio_tsconnect.engine._hooks import blame_intercept
from trio_tsconnect.engine._plugin import Hooks
from trio_tsconnect.engine._watch import Pace, Watch
from trio_tsconnect.hooks import TRANSITIONS, ConnectOptions, InvalidState, State
from trio_tsconnect.log import Ended
from trio_tsconnect.message import Headers, HeadersInput, Request, Response, TargetURI
from trio_tsconnect.origin import InterceptOrigin, Serve
from trio_tsconnect.stream import ClientInfo, FetchedResponse, Identity, VirtualConnection, fetch

if TYPE_CHECKING:
    from trio_tsconnect.config import HttpConfig, OriginConfig, RemapRule
    from trio_tsconnect.engine._proxy import Proxy
    from trio_tsconnect.engine._session import Session
    from trio_tsconnect.origin import OriginConnection


@public("trio_tsconnect")
class Transaction:
    """One request and its response. Hooks get it; nobody else makes one.

    `request` is changed in place as it goes: what the client sent at `read_request`, with the URI of the origin as its target from
    `post_remap` on, what will be sent at `send_request`. `response` likewise. Both are checked at the line that changes them.
    """

    # The engine's own, as each transaction begins with it; an attribute of the class costs a transaction nothing until it changes.
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
    children: tuple[Session, ...] = ()
    children_refused: bool = False
    descendants: int = 0
    deadline_left: dict[str, float] | None = None
    prepared: bool = False
    upgrade: list[str] | None = None
    plugin_name: str = ""
    expects_continue: bool = False
    expectation_met: bool = False
    interim_sent: bool = False
    sending_body: bool = False
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
        self.state: State = State.READ_REQUEST
        """Where it stands; written by the engine alone."""
        self.milestones: dict[str, float] = {}
        """State to the seconds after the beginning at which it was entered."""
        self.parent: Transaction | None = session.parent
        """The transaction that opened the connection on which this one came; None for a root."""
        self.depth: int = self.parent.depth + 1 if self.parent else 0
        """How many ancestors there are."""
        self.uri: TargetURI | None = None
        """Where the request goes, once that is decided (`post_remap`)."""
        self.rule: RemapRule | None = None
        """The remap rule that matched, if one did."""
        self.method: str | None = None
        """The method as received; None until it is known."""
        self.url: str | None = None
        """The absolute URI asked for, before remapping; until `pre_remap` is over, the target as on the request line."""
        self.origin_status: int | None = None
        """The status of the origin's last response."""
        self.attempts: int = 0
        """How many times an origin was asked."""
        self.ended: Ended | None = None
        """How it ended; None while nothing has ended it."""
        self.data: dict[Any, Any] = {}
        """For plugins: what they keep for the length of the transaction, by keys of their own."""
        # what follows is the engine's
        self.started: float = trio.current_time()
        self.wall_time: float = session.proxy.wall_time()
        self.watch: Watch = Watch(session.proxy.timer)
        self.hooks: Hooks = session.proxy.hooks
        self.plugin_log: dict[str, dict[str, Any]] = {}
        self.milestones[State.READ_REQUEST.milestone] = 0.0

    # ------------------------------------------------------------------------------------------------------- what a plugin reads

    @property
    def proxy(self) -> Proxy:
        """The proxy that serves it."""
        return self.session.proxy

    @property
    def request(self) -> Request:
        """The request head. `InvalidState` before it was read (in `transaction_start`, and when it is not acceptable)."""
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
        """Whether the request head was read."""
        return self._request is not None

    @property
    def response(self) -> Response:
        """The response head. `InvalidState` before there is one (until `read_response`, or `respond`)."""
        if self._response is None:
            raise InvalidState(f"transaction {self.number} has no response yet (state {self.state.milestone})")
        return self._response

    @response.setter
    def response(self, response: Response) -> None:
        if not isinstance(response, Response):
            raise TypeError(f"a response is a Response, not {type(response).__name__}")
        self._response = response

    @property
    def root(self) -> Transaction:
        """The first ancestor; a root is its own."""
        ancestor = self
        while ancestor.parent is not None:
            ancestor = ancestor.parent
        return ancestor

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
            raise InvalidState(f"respond() is legal from read_request to post_remap, not in state {self.state.milestone}")
        if not isinstance(status, int) or not 200 <= status <= 599:
            raise ValueError(f"a final status is an int in 200..599, not {status!r}")
        fields = Headers(headers)
        if isinstance(body, str):
            body = body.encode()
            fields.setdefault("Content-Type", "text/plain; charset=utf-8")
        self.answer = bytes(body)
        self._response = Response(status, fields)

    def intercept(self, serve: Serve) -> None:
        """Be the origin of this transaction: `await serve(stream)` runs on the far end of a virtual connection and speaks HTTP/1.1 on it.

        Legal until `post_remap` is over; later `InvalidState`. No remap rule is needed. `serve` runs in the session's nursery and is cancelled
        when the transaction lets go of the connection. An exception in it, or an answer that is not HTTP, is a 502. Source: `TSHttpTxnIntercept`.
        """
        self._only_in("intercept()", State.READ_REQUEST, State.REMAP)
        plugin, nursery = self.plugin_name or "-", self.session.nursery
        assert nursery is not None
        identity = Identity(tag=self.tag, id=self.id, opener_address=("proxy", 0), peer_address=(plugin, 0), client=self.client)
        self.intercept_origin = InterceptOrigin(serve, plugin, identity, nursery, partial(blame_intercept, self, plugin))

    def transform_request(self, transform: Transform) -> None:
        """Send the request body through `transform.feed(bytes) -> bytes` and `transform.finish() -> bytes`; its framing follows.

        Legal until `send_request` is over. Several run in the order in which they were added.
        """
        self._only_in("transform_request()", State.READ_REQUEST, State.REMAP, State.ACQUIRE_ORIGIN, State.SEND_REQUEST)
        self.request_transforms += ((self.plugin_name or "-", transform),)

    def transform_response(self, transform: Transform) -> None:
        """Send the response body through `transform.feed(bytes) -> bytes` and `transform.finish() -> bytes`; its framing follows.

        Legal until `send_response` is over. What a transform gets is the body as the origin sent it, compressed if it was. Only bodies
        of origins (and intercepts) are transformed, not answers of `respond`.
        """
        if self.response_begun:
            raise InvalidState(f"transform_response() is legal until send_response is over, not in state {self.state.milestone}")
        self.response_transforms += ((self.plugin_name or "-", transform),)

    async def read_request_body(self, limit: int) -> bytes:
        """The whole request body, at most `limit` bytes; it is kept, and sent to the origin from memory. Legal until `send_request` is over.

        A larger body ends the transaction with 413. Answers `Expect: 100-continue` itself. Cancellation ends the transaction.
        """
        self._only_in("read_request_body()", State.READ_REQUEST, State.REMAP, State.ACQUIRE_ORIGIN, State.SEND_REQUEST)
        return await read_request_body(self, limit)

    def retry(self, target: str | None = None) -> None:
        """In `read_response`: drop this response and ask again, at `target` (an absolute URI; None: the same one).

        After `origin.max_retries` such attempts the response at hand is sent instead. Legal while nothing was sent to the client and the request body can be sent again: there is none, or `read_request_body` has read it.
        Otherwise `InvalidState`. The hook `send_request` fires again.
        """
        self._only_in("retry()", State.READ_RESPONSE)
        if self.interim_sent:
            raise InvalidState("retry() comes too late: an interim response was sent")
        replayable = self.session.http.body.empty or (self.request_body is not None and not self.request_transforms)
        if not replayable:
            raise InvalidState("retry() needs a request body that can be sent again: call read_request_body() before it is sent")
        if self.retries < self.origin_config.max_retries:
            self.retries += 1
            self.retry_target = target or self.request.target

    def connect(self, options: ConnectOptions | None = None, *, detach: bool = False) -> VirtualConnection:
        """Open a virtual connection whose transactions are children of this one.

        They inherit the client and the deadline, not tag and id; they are cancelled and awaited before this transaction's record is written.
        `detach=True` lets them live on: no deadline is inherited, and draining refuses them. `ConnectRefused` when the transaction has ended
        or a budget is spent (`http.max_depth`, `max_descendants`, `max_concurrent_internal`).
        """
        return self.proxy.open_child(self, options or ConnectOptions(), detach=detach)

    def fetch(
        self, request: Request, *, body: bytes | AsyncIterable[bytes] = b"", options: ConnectOptions | None = None, detach: bool = False
    ) -> AbstractAsyncContextManager[FetchedResponse]:
        """`Proxy.fetch` as a child of this transaction."""
        return fetch(lambda: self.connect(options, detach=detach), request, body)

    def _only_in(self, what: str, *states: State) -> None:
        if self.state not in states or self._request is None:
            raise InvalidState(f"{what} is not legal in state {self.state.milestone} of transaction {self.number}")

    # ------------------------------------------------------------------------------------------------------- what the engine does

    def answered(self) -> bool:
        """Whether a plugin has answered."""
        return self.answer is not None

    @property
    def may_watch_input(self) -> bool:
        """Whether nobody else reads the client's stream now."""
        return self._request is not None and self.session.http.body_complete and self.state is not State.TUNNEL

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
