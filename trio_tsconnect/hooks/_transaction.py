"""`Transaction`: one request and its response, in the interface for plugins."""

from __future__ import annotations

import abc
from collections.abc import AsyncIterable, AsyncIterator, Awaitable, Callable
from contextlib import AbstractAsyncContextManager
from typing import Any, Protocol

import trio

from trio_tsconnect._util import public
from trio_tsconnect.config import HttpConfig, OriginConfig, RemapRule
from trio_tsconnect.hooks._connect import ConnectOptions
from trio_tsconnect.hooks._errors import OriginFailure
from trio_tsconnect.hooks._fetch import as_request, directed
from trio_tsconnect.hooks._proxy import Proxy
from trio_tsconnect.hooks._session import Session
from trio_tsconnect.hooks._states import State
from trio_tsconnect.log import Ended
from trio_tsconnect.message import URL, HeadersInput, Request, Response, TraceContext
from trio_tsconnect.stream import ClientInfo, FetchedResponse, ResponseSource, VirtualConnection, fetch

Serve = Callable[[trio.abc.HalfCloseableStream], Awaitable[object]]
"""A coroutine function for `Transaction.intercept`: it serves HTTP/1.1 on the given stream."""


@public("trio_tsconnect.hooks")
class Transform(Protocol):
    """Changes a body while it is streamed."""

    def feed(self, data: bytes) -> bytes | Awaitable[bytes]:
        """Accept a piece of the body. Return the output that is ready, possibly empty. May be a coroutine method."""
        ...

    def finish(self) -> bytes | Awaitable[bytes]:
        """Return the rest of the output. Called once, at the end of the body. May be a coroutine method."""
        ...

    # A transform may have an attribute `holds_head = True`: the response head is then sent with the first output, not before. So a failure
    # of a transform that reads the whole body first is answered with 500.


AnyTransform = Transform | Callable[[AsyncIterator[bytes]], AsyncIterator[bytes]]
"""A `Transform`, or an async generator function that reads the pieces of the body and yields those of the new one."""


@public("trio_tsconnect")
class Transaction(abc.ABC):
    """One request and its response. Created by the engine and passed to hooks.

    `request` changes in place: in `read_request` it is what the client sent, from `post_remap` on its `url` is the URL at the origin, and in
    `send_request` it is what will be sent. `response` changes in the same way. Changes by plugins are validated when they are made.
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
    rule: RemapRule | None
    """Remap rule that matched; None if there is none."""
    method: str | None
    """Method as received; None until it is known."""
    url: URL | None
    """URL that the client asks for. Later changes of `request.url` do not change it. None if there is no valid one."""
    answered_by: str | None
    """Name of the plugin that has answered with `respond` or `intercept` before an origin was asked; None if none has."""
    origin_status: int | None
    """Status of the last response of the origin; None if there was none."""
    attempts: int
    """Number of attempts at an origin."""
    ended: Ended | None
    """How the transaction ended; None while it is in progress."""
    trace: TraceContext | None
    """Position in a distributed trace, which a plugin such as `RequestId` sets; in the record `trace_id`, `span_id`, `parent_span_id`."""
    data: dict[Any, Any]
    """Storage for plugins, kept until the transaction ends. `DataKey` gives typed entries; other keys must be distinct."""

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
    def has_route(self) -> bool:
        """True if a remap rule matches `request.url`, or if none is needed: the connection has a `target`, or `http.remap_required` is off.

        For plugins that act as the origin of requests that would get 404 otherwise. Raises `InvalidState` if there is no request.
        """

    @property
    @abc.abstractmethod
    def response(self) -> Response:
        """Response head. Raises `InvalidState` before there is one: until `read_response`, or a call of `respond`."""

    @response.setter
    @abc.abstractmethod
    def response(self, response: Response) -> None: ...

    response_source: ResponseSource
    """Who has made `response`: "origin" (also a plugin that has intercepted the request), "plugin" (by `respond`) or "proxy"."""

    @property
    @abc.abstractmethod
    def replaced_by(self) -> str | None:
        """Name of the plugin that has replaced the response since an origin was asked; None if none has."""

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
    def failure(self) -> OriginFailure:
        """Why the attempt at the origin failed. Only in `origin_failed`; elsewhere raises `InvalidState`."""

    @property
    @abc.abstractmethod
    def can_retry(self) -> bool:
        """True if `retry` is legal now, apart from its limit `origin.max_retries`."""

    @property
    @abc.abstractmethod
    def log(self) -> dict[str, Any]:
        """Dict for log entries of the plugin whose hook is running. Logged in the field `plugin`, under the name of the plugin."""

    @abc.abstractmethod
    def respond(self, status: int, body: bytes | str = b"", *, headers: HeadersInput = ()) -> None:
        """Answer the request in place of an origin, or replace the response. It is sent after the hook returns.

        Legal in every hook from `read_request` to `send_response`, until the response is begun; otherwise raises `InvalidState`. The first
        answer stands: after it no other hook runs before `send_response`, except that of a `Guard`, whose refusal replaces the answer. A
        second call raises `InvalidState`, which names the plugin that has answered. From `send_request` on, the call drops the origin's
        response and the transforms that were added for it; in `send_response` it replaces any response, but a refusal only with another
        one (300 or more).

        `status` is in 200..599, otherwise `ValueError`. A str body is encoded as UTF-8 and sent as text/plain, unless the headers have a
        Content-Type. Access rules are applied before an answer is used.
        """

    @abc.abstractmethod
    def intercept(self, serve: Serve) -> None:
        """Serve as the origin of this transaction: `await serve(stream)` runs at the other end of a virtual connection and speaks HTTP/1.1.

        Legal from `read_request` to `post_remap`; otherwise raises `InvalidState`. All hooks run as for any origin. The first intercept
        stands: a second raises `InvalidState`, which names the plugin that has answered. `respond` is legal after it, as before any origin is
        asked. No remap rule is needed. `serve` runs in the nursery of the session. It is cancelled when the transaction closes the
        connection. An exception in it, or an answer that is not HTTP, gives 502. A CONNECT request is answered with 200 without the
        permission of `http.connect`; the stream then carries the bytes of the tunnel. Source: `TSHttpTxnIntercept`.
        """

    @abc.abstractmethod
    def transform_request(self, transform: AnyTransform) -> None:
        """Pass the request body through a `Transform`, or an async generator function. The framing is adapted.

        Legal from `read_request` to `send_request`; otherwise raises `InvalidState`. Several transforms run in the order in which they were
        added.
        """

    @abc.abstractmethod
    def transform_response(self, transform: AnyTransform) -> None:
        """Pass the response body through a `Transform`, or an async generator function. The framing is adapted.

        Legal until `send_response` is over; later raises `InvalidState`. The input is the body as the origin sent it: a compressed body is
        not decompressed. The error responses of the proxy are not transformed.
        """

    @abc.abstractmethod
    async def read_request_body(self, limit: int) -> bytes:
        """Return the whole request body, of at most `limit` bytes. It is kept in memory and sent to the origin from there.

        Legal from `read_request` to `send_request`; otherwise raises `InvalidState`. A larger body ends the transaction with 413. `Expect:
        100-continue` is answered by the proxy. After a cancelled call, call again to read the rest; otherwise sending the request fails
        with 500.
        """

    @abc.abstractmethod
    def retry(self, target: URL | str | None = None) -> None:
        """Discard this response and send the request again, to `target` (a URL, or an absolute URL as text; None: the same as before).

        Legal in `read_response` and `origin_failed`, if nothing was sent to the client and the request body can be sent again: there is
        none, or nothing of it was read yet, or `read_request_body` has read it and there is no `transform_request`. Otherwise raises
        `InvalidState`. After `origin.max_retries` attempts the call has no effect and the current response is sent. The hook `send_request`
        runs again. With a `target`, a plugin that has intercepted the transaction is not asked again.
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
        self,
        request: Request | URL | str,
        *,
        body: bytes | AsyncIterable[bytes] = b"",
        options: ConnectOptions | None = None,
        detach: bool = False,
        direct: bool = False,
        raise_failures: bool = True,
    ) -> AbstractAsyncContextManager[FetchedResponse]:
        """Send a request as `Proxy.fetch` does, as a child of this transaction. `detach` is as for `connect`."""
        request, where = directed(as_request(request), options, direct=direct)
        return fetch(lambda: self.connect(where, detach=detach), request, body, raise_failures=raise_failures)
