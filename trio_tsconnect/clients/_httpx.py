"""An httpx transport on virtual connections: `httpx.AsyncClient(transport=HttpxTransport(proxy))`.

Invariant: each request has its own virtual connection. The connection is closed if the response was read to its end, and aborted otherwise.
So anything that ends a request early (a cancellation, a timeout, a response that is closed unread) also ends its transaction.

Theory of operation
-------------------

A request body may take longer than its response: a client may send and receive at the same time. So a task must send the body while the
caller reads the response, and a task needs a nursery. httpx has one place for a nursery: its client enters the transport, so
`async with httpx.AsyncClient(...)` is the block in which the senders live.

A client that is used without `async with` has no such block. Then a request is sent to its end before the response is returned, as httpx's
own transport always does. The response head is read meanwhile, so an early refusal is not missed.

Invariant: a sender never raises into the nursery, where it would cancel the requests of others. It stores its exception and aborts the
connection. The reader notices the abort and raises the stored exception.
"""

from __future__ import annotations

from contextlib import AbstractAsyncContextManager
from types import TracebackType
from typing import Protocol, Self, cast

import httpx
import trio

from trio_tsconnect import ConnectOptions, ConnectRefused, VirtualConnection
from trio_tsconnect._util import public
from trio_tsconnect.clients._httpx_exchange import Exchange, ResponseStream, make_head
from trio_tsconnect.message import Body, Framing, Response

_AT_ONCE = 16384  # bytes: a body up to this size and its head fit into the buffer of a new connection, so writing them cannot block


class Opener(Protocol):
    """An object that opens virtual connections: a `Proxy`, or a `Transaction`. Requests on the latter's connections are its children."""

    def connect(self, options: ConnectOptions, /) -> VirtualConnection:
        """Open a virtual connection, as `Proxy.connect` does."""
        ...


@public("trio_tsconnect.clients")
class HttpxTransport(httpx.AsyncBaseTransport):
    """A transport for `httpx.AsyncClient` that sends each request over its own virtual connection.

    `opener`: a `Proxy`, or a `Transaction`, whose children the requests then are. `tag` and `id` are those of `ConnectOptions`, for the
    log; raises `ValueError` if they are out of range. There is no TLS: an https:// URL is written into the request line in absolute form,
    and the proxy decides how to forward it.

    If the client is used with `async with`, a request body is sent while the response is read; otherwise it is sent before the response is
    returned. httpx's read timeout starts when the request has been sent. Its write timeout applies to each write. Its connect and pool
    timeouts never expire, because connecting takes no time.

    Errors are httpx's: `ConnectError` if the connection is refused, `ReadError` if it breaks, `RemoteProtocolError` if the response is
    invalid or incomplete, `LocalProtocolError` if the request is not valid HTTP. Exceptions of a request body's iterator are raised
    unchanged.
    """

    def __init__(self, opener: Opener, *, tag: str | None = None, id: int = 0) -> None:
        self._opener = opener
        self._options = ConnectOptions(tag=tag, id=id)
        self._open: set[Exchange] = set()
        self._senders: AbstractAsyncContextManager[trio.Nursery] | None = None
        self._nursery: trio.Nursery | None = None

    async def handle_async_request(self, request: httpx.Request) -> httpx.Response:
        """Send a request, and return the response when its head was received. Cancellation aborts the connection and its transaction."""
        head, body = make_head(request)
        stream = cast(httpx.AsyncByteStream, request.stream)
        try:
            connection = self._opener.connect(self._options)
        except ConnectRefused as refused:
            raise httpx.ConnectError(str(refused)) from refused
        exchange = Exchange(connection, request.extensions.get("timeout", {}), self._open.discard)
        self._open.add(exchange)
        try:
            exchange.http.queue_request(head, body)
            response = await self._exchange(exchange, stream, body)
        except BaseException:  # a cancellation too: the transaction must not outlive its request
            exchange.end("the request was abandoned")
            raise
        return httpx.Response(
            response.status,
            headers=response.headers.raw(),
            stream=ResponseStream(exchange),
            extensions={
                "http_version": b"HTTP/" + response.version.encode(),
                "reason_phrase": response.reason.encode("latin-1"),
            },
        )

    async def _exchange(self, exchange: Exchange, stream: httpx.AsyncByteStream, body: Body) -> Response:
        if body.empty or (isinstance(stream, httpx.ByteStream) and body.framing is Framing.LENGTH and body.length <= _AT_ONCE):
            await exchange.send(stream, body, head_first=False)
            return await exchange.read_head()
        if self._nursery is not None:
            self._nursery.start_soon(exchange.send, stream, body, name="httpx request body")
            return await exchange.read_head()
        return await _send_and_read_head(exchange, stream, body)

    async def __aenter__(self) -> Self:
        """Open the nursery that sends request bodies. Raises `RuntimeError` if it is open already."""
        if self._senders is not None:
            raise RuntimeError("this HttpxTransport is open already: give each client its own transport")
        self._senders = trio.open_nursery()
        self._nursery = await self._senders.__aenter__()
        return self

    async def __aexit__(
        self,
        exc_type: type[BaseException] | None = None,
        exc_value: BaseException | None = None,
        traceback: TracebackType | None = None,
    ) -> None:
        """Abort the connections that are still open, and close the nursery."""
        senders, self._senders, self._nursery = self._senders, None, None
        self._break_all()
        if senders is not None:
            # Not with the block's exception: the nursery would wrap it in a group. It propagates unchanged.
            await senders.__aexit__(None, None, None)

    async def aclose(self) -> None:
        """Abort every connection whose response was not read to its end."""
        self._break_all()
        await trio.lowlevel.checkpoint()

    def _break_all(self) -> None:
        for exchange in list(self._open):
            exchange.end("the client was closed")


async def _send_and_read_head(exchange: Exchange, stream: httpx.AsyncByteStream, body: Body) -> Response:
    """Send the request and read the response head concurrently, until both are done. Raises the reader's error outside of a group."""
    error: BaseException | None = None
    async with trio.open_nursery() as nursery:
        nursery.start_soon(exchange.send, stream, body, name="httpx request body")
        try:
            response = await exchange.read_head()
        except BaseException as exc:  # noqa: BLE001 - raised below, outside the nursery, which would wrap it in a group
            error = exc
            nursery.cancel_scope.cancel()
    try:
        if error is not None:
            raise error
        return response
    finally:
        del error  # breaks the reference cycle between the exception, its traceback and this frame
