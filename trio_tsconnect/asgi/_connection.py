"""One connection to an application: the requests that come on it, one after another.

The law: a call is a task of the origin's own nursery, not of whoever opened the connection. When the connection is dropped the call is told,
and has time to end as it likes; when its response is complete it may go on (background tasks do) while the connection serves another request.
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
    WebSocketExchange = None  # type: ignore[assignment,misc]  # the extra is not installed

_LINGER = 2.0


@attrs.frozen(kw_only=True)
class Service:
    """What all connections of an origin share while it runs."""

    application: Application
    """The application."""
    loop: Loop
    """Where it runs."""
    calls: trio.Nursery
    """Where its calls are waited for."""
    state: dict[Any, Any]
    """What it has put into the state of its lifespan."""
    root_path: str
    """The path that it is mounted at."""
    websockets: set[WebSocketExchange]
    """Those that are open."""
    grace: float
    """How long a call may go on without its client, in seconds."""

    async def call(self, scope: Scope, receive: Receive, send: Send, at_once: AtOnce, gone: Callable[[], bool]) -> bool:
        """Call the application; whether it returned. What it raises is logged."""
        try:
            await self.loop.call(self.application, scope, receive, send, at_once)
        except BaseException as exc:  # noqa: BLE001 - sorted out
            failure, passing = sort_out(exc)
            if passing is not None:
                raise passing from None
            if gone():  # then it is as good a way to end as any
                logger.info("the application ended %s without its client: %r", scope["path"], failure)
            else:
                logger.error("the application failed in %s", scope["path"], exc_info=failure)
            return False
        return True


class Connection:
    """One connection; `run` serves it."""

    def __init__(self, service: Service, stream: trio.abc.Stream) -> None:
        self.released = trio.Event()
        """Set when the stream is done with."""
        self._service = service
        self._stream = stream
        self._http = HTTP1Server(stream)
        self._client: ClientInfo = describe_client(stream)
        self._watched = False
        self._peer_gone = False
        self._on_gone: Callable[[], None] | None = None

    def drop(self) -> None:
        """Whoever handed the stream over takes it back, or its peer is gone."""
        self._peer_gone = True
        if self._on_gone is not None:
            self._on_gone()

    async def run(self) -> None:
        """Serve requests until the connection ends, and close it. Raises nothing but a cancellation."""
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
            self.drop()
            try:
                await close_gently(self._stream, 0.0 if self._http.input_ended else _LINGER)
            finally:
                self.released.set()

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
        """Whether another may follow."""
        if WebSocketExchange is not None and _offers_websocket(request):
            await self._serve_websocket(request)
            return False
        service = self._service
        scope = http_scope(request, self._client, root_path=service.root_path, state=service.state)
        exchange = HttpExchange(self._http, request, watched=self._watched, grace=service.grace)
        self._tell(exchange.lost)
        service.calls.start_soon(_call, service, scope, exchange, name=f"ASGI {request.method} {scope['path']}")
        await exchange.finished.wait()
        await exchange.settle()
        self._on_gone = None
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
        if self._peer_gone:
            lost()


async def _call(service: Service, scope: Scope, exchange: HttpExchange) -> None:
    try:
        with exchange.call_scope:
            returned = await service.call(scope, exchange.receive, exchange.send, exchange.at_once, lambda: exchange.gone)
            if returned and not exchange.complete and not exchange.gone:
                logger.error("the application returned from %s before its response was complete", scope["path"])
        await exchange.conclude()
    except BaseException:
        exchange.lost()
        raise


def _offers_websocket(request: Request) -> bool:
    """RFC 6455 §4.2.1, as far as it tells a handshake from another request."""
    return (
        request.method == "GET"
        and request.version == "1.1"
        and "upgrade" in request.headers.tokens("connection")
        and "websocket" in request.headers.tokens("upgrade")
    )
