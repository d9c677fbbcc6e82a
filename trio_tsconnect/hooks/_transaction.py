"""`Transaction`: one request and its response, as plugins see them."""

from __future__ import annotations

import abc
from collections.abc import AsyncIterable, Awaitable, Callable
from contextlib import AbstractAsyncContextManager
from typing import Any, Protocol

import trio

from trio_tsconnect._util import public
from trio_tsconnect.config import HttpConfig, OriginConfig, RemapRule
from trio_tsconnect.hooks._connect import ConnectOptions
from trio_tsconnect.hooks._proxy import Proxy
from trio_tsconnect.hooks._session import Session
from trio_tsconnect.hooks._states import State
from trio_tsconnect.log import Ended
from trio_tsconnect.message import HeadersInput, Request, Response, TargetURI
from trio_tsconnect.stream import ClientInfo, FetchedResponse, VirtualConnection, fetch

Serve = Callable[[trio.abc.HalfCloseableStream], Awaitable[object]]
"""What `Transaction.intercept` takes: a coroutine function that speaks HTTP/1.1 on the stream it is given."""


@public("trio_tsconnect.hooks")
class Transform(Protocol):
    """Something that changes a body as it streams by."""

    def feed(self, data: bytes) -> bytes:
        """Take a piece; give what is ready."""
        ...

    def finish(self) -> bytes:
        """The body has ended; give the rest."""
        ...


@public("trio_tsconnect")
class Transaction(abc.ABC):
    """One request and its response. Hooks get it; nobody else makes one.

    `request` is changed in place as it goes: what the client sent at `read_request`, with the URI of the origin as its target from
    `post_remap` on, what will be sent at `send_request`. `response` likewise. Both are checked at the line that changes them.
    """

    # Attributes that are only annotated here are set by the engine: a property would cost it a call.

    number: int
    """The number of this transaction, unique in the process (`transaction` in the log)."""
    session: Session
    """The client stream on which the request came."""
    config: HttpConfig
    """The limits of this transaction; assign an `attrs.evolve` of it to change them for this transaction alone."""
    origin_config: OriginConfig
    """Those towards the origin."""
    state: State
    """Where it stands; written by the engine alone."""
    milestones: dict[str, float]
    """State to the seconds after the beginning at which it was entered."""
    parent: Transaction | None
    """The transaction that opened the connection on which this one came; None for a root."""
    depth: int
    """How many ancestors there are."""
    uri: TargetURI | None
    """Where the request goes, once that is decided (`post_remap`)."""
    rule: RemapRule | None
    """The remap rule that matched, if one did."""
    method: str | None
    """The method as received; None until it is known."""
    url: str | None
    """The absolute URI asked for, before remapping; until `pre_remap` is over, the target as on the request line."""
    origin_status: int | None
    """The status of the origin's last response."""
    attempts: int
    """How many times an origin was asked."""
    ended: Ended | None
    """How it ended; None while nothing has ended it."""
    data: dict[Any, Any]
    """For plugins: what they keep for the length of the transaction, by keys of their own."""

    @property
    @abc.abstractmethod
    def proxy(self) -> Proxy:
        """The proxy that serves it."""

    @property
    @abc.abstractmethod
    def request(self) -> Request:
        """The request head. `InvalidState` before it was read (in `transaction_start`, and when it is not acceptable)."""

    @request.setter
    @abc.abstractmethod
    def request(self, request: Request) -> None: ...

    @property
    @abc.abstractmethod
    def has_request(self) -> bool:
        """Whether the request head was read."""

    @property
    @abc.abstractmethod
    def response(self) -> Response:
        """The response head. `InvalidState` before there is one (until `read_response`, or `respond`)."""

    @response.setter
    @abc.abstractmethod
    def response(self, response: Response) -> None: ...

    @property
    @abc.abstractmethod
    def root(self) -> Transaction:
        """The first ancestor; a root is its own."""

    @property
    @abc.abstractmethod
    def client(self) -> ClientInfo:
        """On whose behalf the request comes."""

    @property
    @abc.abstractmethod
    def tag(self) -> str | None:
        """The tag of the connection's opener; None for network clients."""

    @property
    @abc.abstractmethod
    def id(self) -> int:
        """The number the connection's opener gave it; 0 is not set."""

    @property
    @abc.abstractmethod
    def internal(self) -> bool:
        """Whether the request is the process's own."""

    @property
    @abc.abstractmethod
    def log(self) -> dict[str, Any]:
        """What the plugin whose hook is running adds to the record: `plugin` there holds one such dict by the plugin's class name."""

    @abc.abstractmethod
    def respond(self, status: int, body: bytes | str = b"", *, headers: HeadersInput = ()) -> None:
        """Answer the request here: no origin is asked. The response is sent after the hook returns; the last call counts.

        Legal until `post_remap` is over; later `InvalidState`. A str body is UTF-8, as text/plain unless the headers say otherwise.
        """

    @abc.abstractmethod
    def intercept(self, serve: Serve) -> None:
        """Be the origin of this transaction: `await serve(stream)` runs on the far end of a virtual connection and speaks HTTP/1.1 on it.

        Legal until `post_remap` is over; later `InvalidState`. No remap rule is needed. `serve` runs in the session's nursery and is cancelled
        when the transaction lets go of the connection. An exception in it, or an answer that is not HTTP, is a 502. Of CONNECT, which is
        answered with 200 and needs no permission then, the stream carries the bytes of the tunnel. Source: `TSHttpTxnIntercept`.
        """

    @abc.abstractmethod
    def transform_request(self, transform: Transform) -> None:
        """Send the request body through `transform.feed(bytes) -> bytes` and `transform.finish() -> bytes`; its framing follows.

        Legal until `send_request` is over. Several run in the order in which they were added.
        """

    @abc.abstractmethod
    def transform_response(self, transform: Transform) -> None:
        """Send the response body through `transform.feed(bytes) -> bytes` and `transform.finish() -> bytes`; its framing follows.

        Legal until `send_response` is over. What a transform gets is the body as the origin sent it, compressed if it was. Only bodies
        of origins (and intercepts) are transformed, not answers of `respond`.
        """

    @abc.abstractmethod
    async def read_request_body(self, limit: int) -> bytes:
        """The whole request body, at most `limit` bytes; it is kept, and sent to the origin from memory. Legal until `send_request` is over.

        A larger body ends the transaction with 413. Answers `Expect: 100-continue` itself. Cancellation ends the transaction.
        """

    @abc.abstractmethod
    def retry(self, target: str | None = None) -> None:
        """In `read_response`: drop this response and ask again, at `target` (an absolute URI; None: the same one).

        After `origin.max_retries` such attempts the response at hand is sent instead. Legal while nothing was sent to the client and the request
        body can be sent again: there is none, or `read_request_body` has read it. Otherwise `InvalidState`. The hook `send_request` fires again.
        """

    @abc.abstractmethod
    def connect(self, options: ConnectOptions | None = None, *, detach: bool = False) -> VirtualConnection:
        """Open a virtual connection whose transactions are children of this one.

        They inherit the client and the deadline, not tag and id; they are cancelled and awaited before this transaction's record is written.
        `detach=True` lets them live on: no deadline is inherited, and draining refuses them. `ConnectRefused` when the transaction has ended
        or a budget is spent (`http.max_depth`, `max_descendants`, `max_concurrent_internal`).
        """

    def fetch(
        self, request: Request, *, body: bytes | AsyncIterable[bytes] = b"", options: ConnectOptions | None = None, detach: bool = False
    ) -> AbstractAsyncContextManager[FetchedResponse]:
        """`Proxy.fetch` as a child of this transaction."""
        return fetch(lambda: self.connect(options, detach=detach), request, body)
