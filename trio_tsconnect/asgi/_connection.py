"""One connection to an application, which carries one request after another.

Invariant: an HTTP call runs in the origin's own nursery (`Service.calls`), not in the task that opened the connection. When the connection
is dropped, the call receives `http.disconnect` and gets `grace` seconds to end. When its response is complete, the call may continue
(background tasks do) while the connection serves the next request.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import attrs
import trio

from trio_tsconnect._contain import sort_out
from trio_tsconnect.asgi._http import HttpExchange
from trio_tsconnect.asgi._scope import http_scope, websocket_scope
from trio_tsconnect.asgi._types import Application, AtOnce, Loop, Receive, Scope, Send, logger
from trio_tsconnect.message import BadRequest, Body, Framing, Headers, Request, Response
from trio_tsconnect.stream import ClientInfo, HTTP1Server, IncompleteMessage, close_gently, describe_client, watch_peer

try:
    from trio_tsconnect.asgi._websocket import WebSocketExchange
except ModuleNotFoundError as missing:
    if missing.name != "wsproto":
        raise
    WebSocketExchange = None  # type: ignore[assignment,misc]  # the extra `asgi` is not installed: upgrades are ordinary requests

_LINGER = 2.0  # seconds to wait for the peer's close after the last response


@attrs.frozen(kw_only=True)
class Service:
    """The state that all connections of a running origin share."""

    application: Application
    """The ASGI application."""
    loop: Loop
    """The event loop on which it runs."""
    calls: trio.Nursery
    """The nursery of the connections and calls."""
    state: dict[Any, Any]
    """The lifespan state. Each scope gets a shallow copy."""
    root_path: str
    """The path at which the application is mounted."""
    websockets: set[WebSocketExchange]
    """The WebSockets that are being served."""
    grace: float
    """Seconds that a call may continue after its client has disconnected."""

    async def call(self, scope: Scope, receive: Receive, send: Send, at_once: AtOnce, gone: Callable[[], bool]) -> bool:
        """Call the application. Return True if it returned, False if it raised an exception, which is logged.

        `gone` returns True if the client has disconnected; an exception is then logged as information and not as an error.
        """
        try:
            await self.loop.call(self.application, scope, receive, send, at_once)
        except BaseException as exc:  # noqa: BLE001 - sort_out separates the application's failure from what must be re-raised
            failure, passing = sort_out(exc)
            if passing is not None:
                raise passing from None
            if gone():  # frameworks often raise when the client has disconnected: that is no error of the application
                logger.info("the application ended its call for %s after the client had disconnected: %r", scope["path"], failure)
            else:
                logger.error("the application failed in %s", scope["path"], exc_info=failure)
            return False
        return True


class Connection:
    """One connection. `run` serves it."""

    def __init__(self, service: Service, stream: trio.abc.Stream) -> None:
        self.released = trio.Event()
        """Set when the stream has been closed and is no longer used."""
        self._service = service
        self._stream = stream
        self._http = HTTP1Server(stream)
        self._client: ClientInfo = describe_client(stream)
        self._watched = False
        self._peer_gone = False
        self._on_gone: Callable[[], None] | None = None

    def drop(self) -> None:
        """Tell the current call that its client has disconnected.

        Called when the peer closes, and when the owner of the stream takes it back. Synchronous and idempotent.
        """
        self._peer_gone = True
        if self._on_gone is not None:
            self._on_gone()

    async def run(self) -> None:
        """Serve requests until the connection ends, then close it. Raises only `trio.Cancelled`."""
        self._watched = watch_peer(self._stream, lambda _reason: self.drop())
        try:
            while await self._http.wait_for_request() and await self._serve_one(await self._http.read_request()):
                pass
        except BadRequest as exc:
            await self._refuse(exc)
        except (IncompleteMessage, trio.BrokenResourceError, trio.ClosedResourceError):
            pass
        finally:
            watch_peer(self._stream, None)
            self.drop()  # a call that still runs must not wait for a client whose connection is closed
            try:
                await close_gently(self._stream, 0.0 if self._http.input_ended else _LINGER)
            finally:
                self.released.set()  # also when cancelled: `AsgiOrigin.serve` waits for it

    async def _refuse(self, exc: BadRequest) -> None:
        text = f"{exc.detail}\n".encode()
        fields = {"Content-Type": "text/plain; charset=utf-8", "Content-Length": str(len(text)), "Connection": "close"}
        self._http.queue_response(Response(exc.status, Headers(fields)), Body(Framing.LENGTH, len(text)))
        self._http.queue_body(text)
        try:
            await self._http.drain()
        except (trio.BrokenResourceError, trio.ClosedResourceError):
            pass

    async def _serve_one(self, request: Request) -> bool:
        """Serve one request. Return True if the connection can carry another."""
        if WebSocketExchange is not None and _offers_websocket(request):
            await self._serve_websocket(request)
            return False
        service = self._service
        scope = http_scope(request, self._client, root_path=service.root_path, state=service.state)
        exchange = HttpExchange(self._http, request, watched=self._watched, grace=service.grace)
        self._tell(exchange.lost)
        service.calls.start_soon(_call, service, scope, exchange, name=f"ASGI {request.method} {scope['path']}")
        await exchange.finished.wait()
        await exchange.settle()  # a `receive` of this call must not read from the stream beside the next request's parser
        self._on_gone = None  # a later disconnect does not concern this call: its response is complete
        return exchange.persists

    async def _serve_websocket(self, request: Request) -> None:
        service = self._service
        scope = websocket_scope(request, self._client, root_path=service.root_path, state=service.state)
        refusal = HttpExchange(self._http, request, watched=self._watched, grace=service.grace)
        exchange = WebSocketExchange(self._http, request, refusal, grace=service.grace)
        self._tell(exchange.lost)

        async def call() -> bool:
            return await service.call(scope, exchange.receive, exchange.send, exchange.at_once, lambda: exchange.gone)

        service.websockets.add(exchange)
        try:
            await exchange.run(call)
        finally:
            service.websockets.discard(exchange)

    def _tell(self, lost: Callable[[], None]) -> None:
        self._on_gone = lost
        if self._peer_gone:  # the peer left before this request had a callback, and `watch_peer` calls only once
            lost()


async def _call(service: Service, scope: Scope, exchange: HttpExchange) -> None:
    try:
        with exchange.call_scope:
            returned = await service.call(scope, exchange.receive, exchange.send, exchange.at_once, lambda: exchange.gone)
            if returned and not exchange.complete and not exchange.gone:
                logger.error("the application returned from %s before its response was complete", scope["path"])
        await exchange.conclude()
    except BaseException:
        exchange.lost()  # sets `finished`, for which the connection waits
        raise


def _offers_websocket(request: Request) -> bool:
    """Return True if this is a WebSocket handshake (RFC 6455 §4.2.1). The handshake's other fields are validated by `WebSocketExchange`."""
    return (
        request.method == "GET"
        and request.version == "1.1"
        and "upgrade" in request.headers.tokens("connection")
        and "websocket" in request.headers.tokens("upgrade")
    )
