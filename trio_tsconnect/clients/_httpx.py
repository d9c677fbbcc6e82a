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

import math
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from types import TracebackType
from typing import Any, NoReturn, Protocol, cast

import httpx
import trio

from trio_tsconnect import ConnectOptions, ConnectRefused, VirtualConnection
from trio_tsconnect._util import public
from trio_tsconnect.message import BadRequest, Body, Framing, Headers, MessageError, Request, Response, check_request, request_body
from trio_tsconnect.stream import HTTP1Client, IncompleteMessage

_INLINE = 16384  # a body up to here fits the window of a fresh connection together with any head: writing it cannot block


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
        self._open: set[_Exchange] = set()
        self._manager: Any = None
        self._nursery: trio.Nursery | None = None

    async def handle_async_request(self, request: httpx.Request) -> httpx.Response:
        """Send a request, and return its response when the head has come."""
        head, framing = _make_head(request)
        stream = cast(httpx.AsyncByteStream, request.stream)
        try:
            connection = self._opener.connect(self._options)
        except ConnectRefused as refused:
            raise httpx.ConnectError(str(refused), request=request) from refused
        exchange = _Exchange(connection, _Timeouts(request))
        self._open.add(exchange)
        exchange.on_end = self._open.discard
        try:
            response = await self._exchange(exchange, head, framing, stream)
        except BaseException:
            exchange.end("the request was given up")
            raise
        return httpx.Response(
            response.status,
            headers=response.headers.raw(),
            stream=_ResponseStream(exchange),
            extensions={
                "http_version": b"HTTP/" + response.version.encode(),
                "reason_phrase": response.reason.encode("latin-1"),
            },
        )

    async def _exchange(self, exchange: _Exchange, head: Request, framing: Body, stream: httpx.AsyncByteStream) -> Response:
        exchange.http.queue_request(head, framing)
        if framing.empty or (framing.framing is Framing.LENGTH and framing.length <= _INLINE and isinstance(stream, httpx.ByteStream)):
            await exchange.send(stream, framing)
            return await exchange.read_head()
        if self._nursery is not None:
            self._nursery.start_soon(exchange.send, stream, framing, name="httpx request body")
            return await exchange.read_head()
        response: Response | None = None
        error: BaseException | None = None
        async with trio.open_nursery() as nursery:
            nursery.start_soon(exchange.send, stream, framing, name="httpx request body")
            try:
                response = await exchange.read_head()
            except BaseException as exc:  # it leaves as it is, not in a group
                error = exc
                nursery.cancel_scope.cancel()
        if error is not None:
            try:
                raise error
            finally:
                del error
        assert response is not None
        exchange.check()
        return response

    async def __aenter__(self) -> HttpxTransport:
        """Open the block in which request bodies are sent."""
        if self._manager is not None:
            raise RuntimeError("this HttpxTransport is open already: give each client one of its own")
        self._manager = _open_senders()
        self._nursery = await self._manager.__aenter__()
        return self

    async def __aexit__(
        self,
        exc_type: type[BaseException] | None = None,
        exc_value: BaseException | None = None,
        traceback: TracebackType | None = None,
    ) -> None:
        """Break what is still open, and end the block."""
        manager, self._manager, self._nursery = self._manager, None, None
        self._break_all()
        if manager is not None:
            await manager.__aexit__(None, None, None)

    async def aclose(self) -> None:
        """Break every connection whose response was not read to its end."""
        self._break_all()
        await trio.lowlevel.checkpoint()

    def _break_all(self) -> None:
        for exchange in list(self._open):
            exchange.end("the client was closed")


@asynccontextmanager
async def _open_senders() -> AsyncIterator[trio.Nursery]:
    async with trio.open_nursery() as nursery:
        yield nursery
        nursery.cancel_scope.cancel()
