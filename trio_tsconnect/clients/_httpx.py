"""An httpx transport on virtual connections: `httpx.AsyncClient(transport=HttpxTransport(proxy))`.

The law: one request, one virtual connection. It is closed when the response was read to its end, and broken when it was not, so whatever
ends a request early (a cancellation, a timeout, a response that is closed or given up) also ends its transaction.

Theory of operation
-------------------

A request body may be longer than the response takes: a client may send as it reads, in both directions at once. So something has to send
while the caller has the response, and that is a task, and a task has to live in a nursery. httpx offers one place for it: its client enters the
transport, so `async with httpx.AsyncClient(...)` is the block in which senders live. A client that is used without `async with` has no
such block; then a request is sent to its end before the response is handed over, as httpx's own transport always does. (Meanwhile the
response is read as far as its head, so an early refusal is not missed.)

The sender never raises. What it meets it notes, and breaks the connection; the reader then finds it there.
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

_AT_ONCE = 16384  # a body up to here fits the window of a fresh connection together with its head: writing it cannot block


class Opener(Protocol):
    """What opens virtual connections: a `Proxy`, or a `Transaction`, whose children the requests then are."""

    def connect(self, options: ConnectOptions, /) -> VirtualConnection:
        """As `Proxy.connect`."""
        ...


@public("trio_tsconnect.clients")
class HttpxTransport(httpx.AsyncBaseTransport):
    """A transport for `httpx.AsyncClient` that sends each request over a virtual connection of its own.

    `opener`: a `Proxy`, or a `Transaction`, whose children the requests then are. `tag` and `id` are those of `ConnectOptions`, for the log;
    `ValueError` when they are out of range. There is no TLS: an https:// URL is written into the request line in absolute form, and the proxy
    decides what to do with it.

    Request bodies are sent while the response is read if the client is used in `async with`; otherwise before it is handed over. httpx's read
    timeout counts once the request has been sent, and its write timeout counts each write; connecting takes no time, so the other two never
    pass. Errors are httpx's: `ConnectError` when the connection is refused, `ReadError` when it breaks, `RemoteProtocolError` when the
    response is cut short, `LocalProtocolError` when the request cannot be sent as it is. What a request body raises comes out as it is.
    """

    def __init__(self, opener: Opener, *, tag: str | None = None, id: int = 0) -> None:
        self._opener = opener
        self._options = ConnectOptions(tag=tag, id=id)
        self._open: set[Exchange] = set()
        self._senders: AbstractAsyncContextManager[trio.Nursery] | None = None
        self._nursery: trio.Nursery | None = None

    async def handle_async_request(self, request: httpx.Request) -> httpx.Response:
        """Send a request, and return its response when the head has come."""
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
        except BaseException:
            exchange.end("the request was given up")
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
        """Open the block in which request bodies are sent."""
        if self._senders is not None:
            raise RuntimeError("this HttpxTransport is open already: give each client one of its own")
        self._senders = trio.open_nursery()
        self._nursery = await self._senders.__aenter__()
        return self

    async def __aexit__(
        self,
        exc_type: type[BaseException] | None = None,
        exc_value: BaseException | None = None,
        traceback: TracebackType | None = None,
    ) -> None:
        """Break what is still open, and end the block."""
        senders, self._senders, self._nursery = self._senders, None, None
        self._break_all()
        if senders is not None:
            await senders.__aexit__(None, None, None)  # the block's own exception is none of theirs: it leaves as it is

    async def aclose(self) -> None:
        """Break every connection whose response was not read to its end."""
        self._break_all()
        await trio.lowlevel.checkpoint()

    def _break_all(self) -> None:
        for exchange in list(self._open):
            exchange.end("the client was closed")


async def _send_and_read_head(exchange: Exchange, stream: httpx.AsyncByteStream, body: Body) -> Response:
    """Both at once, until both are done; an error leaves as it is, not in a group."""
    error: BaseException | None = None
    async with trio.open_nursery() as nursery:
        nursery.start_soon(exchange.send, stream, body, name="httpx request body")
        try:
            response = await exchange.read_head()
        except BaseException as exc:  # noqa: BLE001 - raised below
            error = exc
            nursery.cancel_scope.cancel()
    try:
        if error is not None:
            raise error
        return response
    finally:
        del error
