"""`Transaction`: one request and its response, in the interface for plugins."""

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
"""A coroutine function for `Transaction.intercept`: it serves HTTP/1.1 on the given stream."""


@public("trio_tsconnect.hooks")
class Transform(Protocol):
    """Changes a body while it is streamed."""

    def feed(self, data: bytes) -> bytes:
        """Accept a piece of the body. Return the output that is ready, possibly empty."""
        ...

    def finish(self) -> bytes:
        """Return the rest of the output. Called once, at the end of the body."""
        ...


@public("trio_tsconnect")
class Transaction(abc.ABC):
    """One request and its response. Created by the engine and passed to hooks.

    `request` changes in place: in `read_request` it is what the client sent, from `post_remap` on its target is the URI at the origin, and
    in `send_request` it is what will be sent. `response` changes in the same way. Changes by plugins are validated when they are made.
    """

    # The engine sets the attributes that are only annotated here. They are not properties, to save the engine a call per access.

    number: int
    """Number of the transaction, unique in the process (`transaction` in the log)."""
    session: Session
    """Client stream on which the request was received."""
    config: HttpConfig
    """Configuration of this transaction. Assign an `attrs.evolve` of it to change options for this transaction only."""
    origin_config: OriginConfig
    """Configuration towards the origin. Assign an `attrs.evolve` of it as for `config`."""
    state: State
    """State of the transaction. Only the engine changes it."""
    milestones: dict[str, float]
    """For each state that was entered, the seconds from the start of the transaction to that moment."""
    parent: Transaction | None
    """Transaction that opened the connection of this one; None for a root."""
    depth: int
    """Number of ancestors; 0 for a root."""
    uri: TargetURI | None
    """URI at the origin; None before `post_remap`."""
    rule: RemapRule | None
    """Remap rule that matched; None if there is none."""
    method: str | None
    """Method as received; None until it is known."""
    url: str | None
    """Absolute request URI before remapping. Until `pre_remap` is over, the target as received in the request line."""
    origin_status: int | None
    """Status of the last response of the origin; None if there was none."""
    attempts: int
    """Number of attempts at an origin."""
    ended: Ended | None
    """How the transaction ended; None while it is in progress."""
    data: dict[Any, Any]
    """Storage for plugins, kept until the transaction ends. Plugins must use distinct keys."""

    @property
    @abc.abstractmethod
    def proxy(self) -> Proxy:
        """Proxy that serves the transaction."""

    @property
    @abc.abstractmethod
    def request(self) -> Request:
        """Request head. Raises `InvalidState` if none was received: in `transaction_start`, and if the head was rejected."""

    @request.setter
    @abc.abstractmethod
    def request(self, request: Request) -> None: ...

    @property
    @abc.abstractmethod
    def has_request(self) -> bool:
        """True if the request head was received and accepted."""

    @property
    @abc.abstractmethod
    def response(self) -> Response:
        """Response head. Raises `InvalidState` before there is one: until `read_response`, or a call of `respond`."""

    @response.setter
    @abc.abstractmethod
    def response(self, response: Response) -> None: ...

    @property
    @abc.abstractmethod
    def root(self) -> Transaction:
        """Topmost ancestor; the transaction itself if it has no parent."""

    @property
    @abc.abstractmethod
    def client(self) -> ClientInfo:
        """Client that the request is made for."""

    @property
    @abc.abstractmethod
    def tag(self) -> str | None:
        """Tag given by the opener of the connection; None for network clients."""

    @property
    @abc.abstractmethod
    def id(self) -> int:
        """Number given by the opener of the connection; 0 means not set."""

    @property
    @abc.abstractmethod
    def internal(self) -> bool:
        """True if the request is internal, made by this process for itself."""

    @property
    @abc.abstractmethod
    def log(self) -> dict[str, Any]:
        """Dict for log entries of the plugin whose hook is running. Logged in the field `plugin`, under the name of the plugin."""

    @abc.abstractmethod
    def respond(self, status: int, body: bytes | str = b"", *, headers: HeadersInput = ()) -> None:
        """Answer the request without contacting an origin. The response is sent after the hook returns. The last call counts.

        Legal from `read_request` to `post_remap`; otherwise raises `InvalidState`. `status` is in 200..599, otherwise `ValueError`. A str
        body is encoded as UTF-8 and sent as text/plain, unless the headers have a Content-Type.
        """

    @abc.abstractmethod
    def intercept(self, serve: Serve) -> None:
        """Serve as the origin of this transaction: `await serve(stream)` runs at the other end of a virtual connection and speaks HTTP/1.1.

        Legal from `read_request` to `post_remap`; otherwise raises `InvalidState`. No remap rule is needed. `serve` runs in the nursery of
        the session. It is cancelled when the transaction closes the connection. An exception in it, or an answer that is not HTTP, gives
        502. A CONNECT request is answered with 200 without the permission of `http.connect`; the stream then carries the bytes of the
        tunnel. Source: `TSHttpTxnIntercept`.
        """

    @abc.abstractmethod
    def transform_request(self, transform: Transform) -> None:
        """Pass the request body through `transform.feed(bytes) -> bytes` and `transform.finish() -> bytes`. The framing is adapted.

        Legal from `read_request` to `send_request`; otherwise raises `InvalidState`. Several transforms run in the order in which they were
        added.
        """

    @abc.abstractmethod
    def transform_response(self, transform: Transform) -> None:
        """Pass the response body through `transform.feed(bytes) -> bytes` and `transform.finish() -> bytes`. The framing is adapted.

        Legal until `send_response` is over; later raises `InvalidState`. The input is the body as the origin sent it: a compressed body is
        not decompressed. Only bodies from origins and intercepts are transformed, not the answers of `respond`.
        """

    @abc.abstractmethod
    async def read_request_body(self, limit: int) -> bytes:
        """Return the whole request body, of at most `limit` bytes. It is kept in memory and sent to the origin from there.

        Legal from `read_request` to `send_request`; otherwise raises `InvalidState`. A larger body ends the transaction with 413. `Expect:
        100-continue` is answered by the proxy. After a cancelled call, call again to read the rest; otherwise sending the request fails
        with 500.
        """

    @abc.abstractmethod
    def retry(self, target: str | None = None) -> None:
        """Discard this response and send the request again, to `target` (an absolute URI; None: the same as before).

        Legal in `read_response`, if nothing was sent to the client and the request body can be sent again: there is none, or
        `read_request_body` has read it and there is no `transform_request`. Otherwise raises `InvalidState`. After `origin.max_retries`
        attempts the call has no effect and the current response is sent. The hook `send_request` runs again.
        """

    @abc.abstractmethod
    def connect(self, options: ConnectOptions | None = None, *, detach: bool = False) -> VirtualConnection:
        """Open a virtual connection whose transactions are children of this one. Synchronous; does not block.

        Children inherit the client, unless the options set one, and the deadline, but not the tag and the id. They are cancelled and
        awaited before this transaction is logged. With `detach=True` they may outlive it: they do not inherit the deadline, and a draining
        proxy refuses them. Raises `ConnectRefused` if this transaction has ended, if access rules deny the client every request, or at a
        limit (`http.max_depth`, `max_descendants`, `max_concurrent_internal`).
        """

    def fetch(
        self, request: Request, *, body: bytes | AsyncIterable[bytes] = b"", options: ConnectOptions | None = None, detach: bool = False
    ) -> AbstractAsyncContextManager[FetchedResponse]:
        """Send a request as `Proxy.fetch` does, as a child of this transaction. `detach` is as for `connect`."""
        return fetch(lambda: self.connect(options, detach=detach), request, body)
