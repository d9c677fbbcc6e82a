"""A WebSocket as an application sees it, over the connection that its handshake came on. Frames are wsproto's business (RFC 6455).

The law: messages are read ahead by one, so pings are answered and a close is noticed while the application is busy, and a client that sends
faster than the application reads has to wait.
"""

from __future__ import annotations

import enum
import math
from collections.abc import Awaitable, Callable
from typing import Any

import trio
from wsproto import ConnectionType, WSConnection
from wsproto.connection import ConnectionState
from wsproto.events import AcceptConnection, BytesMessage, CloseConnection, Event, Ping, TextMessage
from wsproto.utilities import LocalProtocolError, RemoteProtocolError

from trio_tsconnect.asgi._http import HttpExchange
from trio_tsconnect.asgi._types import ClientDisconnected, Message
from trio_tsconnect.message import Headers, Request
from trio_tsconnect.stream import HTTP1Server

_READ_SIZE = 65536
_LARGEST = 16 << 20
_CLOSE_TIMEOUT = 2.0
_LOST = (trio.BrokenResourceError, trio.ClosedResourceError)
_ABNORMAL = 1006  # RFC 6455 §7.1.5: there was no close frame


class Phase(enum.Enum):
    """What has become of the handshake."""

    CONNECTING = "before websocket.accept"
    OPEN = "on an open connection"
    REFUSING = "within a refusal"
    CLOSED = "after websocket.close"


class WebSocketExchange:
    """One WebSocket. `refusal` is what answers a handshake that the application does not accept."""

    def __init__(self, http: HTTP1Server, request: Request, refusal: HttpExchange, *, grace: float) -> None:
        self.gone = False
        """Whether no message can come from the client any more."""
        self._http = http
        self._stream = http.stream
        self._request = request
        self._refusal = refusal
        self._grace = grace
        self._ws = WSConnection(ConnectionType.SERVER)
        self._phase = Phase.CONNECTING
        self._told_to_connect = False
        self._close: tuple[int, str] = (_ABNORMAL, "")
        self._sending = trio.Lock()
        self._call_scope = trio.CancelScope()
        self._ended = trio.Event()
        self._nursery: trio.Nursery | None = None
        self._parts: list[Any] = []  # of the message that is coming in: all str, or all bytes
        self._size = 0
        self._put, self._messages = trio.open_memory_channel[Message](1)

    def at_once(self) -> Message | None:
        """What `receive` would return without waiting: never known, for a message may have come before the end."""
        return None

    async def run(self, call: Callable[[], Awaitable[bool]]) -> None:
        """Serve it: `call` calls the application, and says whether it returned."""
        if not await self._begin():
            return
        async with trio.open_nursery() as nursery:
            self._nursery = nursery
            returned = False
            with self._call_scope:
                returned = await call()
            await self._conclude(returned)
            nursery.cancel_scope.cancel()

    async def _begin(self) -> bool:
        """Whether the handshake is sound (RFC 6455 §4.2.1); refuses one that is not."""
        wanted = (b"connection", b"upgrade", b"sec-websocket-key", b"sec-websocket-version", b"sec-websocket-protocol")
        fields = [(name, value) for _, name, value in self._request.headers.fields if name in wanted]
        try:
            self._ws.initiate_upgrade_connection([(b"host", b"origin"), *fields], "/")
        except RemoteProtocolError as exc:
            status, headers = getattr(exc.event_hint, "status_code", 400), getattr(exc.event_hint, "headers", ())
            await self._refusal.answer(status, f"{exc}\n".encode(), tuple((bytes(n), bytes(v)) for n, v in headers))
            return False
        return True

    def lost(self) -> None:
        """The client is gone. Synchronous; idempotent."""
        self._refusal.lost()
        self._end(_ABNORMAL, "")

    def _end(self, code: int, reason: str) -> None:
        if self.gone:
            return
        self.gone = True
        self._close = (code, reason)
        self._put.close()
        self._ended.set()
        self._call_scope.deadline = min(self._call_scope.deadline, trio.current_time() + self._grace)

    def go_away(self) -> None:
        """The server goes away: say so to the client, and to the application that its client is gone. Synchronous."""
        if self._phase is Phase.OPEN and self._nursery is not None and not self.gone:
            self._nursery.start_soon(self._go_away, name="WebSocket goes away")

    async def _go_away(self) -> None:
        await self._write(CloseConnection(code=1001))
        self._end(1001, "")

    # ------------------------------------------------------------------------------------------------------------------ receive

    async def receive(self) -> Message:
        """The application's `receive`."""
        if not self._told_to_connect:
            self._told_to_connect = True
            return {"type": "websocket.connect"}
        try:
            return self._messages.receive_nowait()
        except trio.WouldBlock:
            pass
        except trio.EndOfChannel:
            return self._disconnect()
        try:
            return await self._messages.receive()
        except trio.EndOfChannel:
            return self._disconnect()

    def _disconnect(self) -> Message:
        code, reason = self._close
        return {"type": "websocket.disconnect", "code": code, "reason": reason}

    async def _read(self) -> None:
        """Read frames until there will be no more."""
        data = self._http.take_buffer()
        try:
            while True:
                if data:
                    self._ws.receive_data(data)
                    for event in self._ws.events():
                        await self._take(event)
                        if self.gone:
                            return
                data = bytes(await self._stream.receive_some(_READ_SIZE))
                if not data:
                    return
        except (*_LOST, RemoteProtocolError):
            pass
        finally:
            self._end(_ABNORMAL, "")

    async def _take(self, event: Event) -> None:
        match event:
            case TextMessage() | BytesMessage():
                self._size += len(event.data)
                self._parts.append(event.data)
                if self._size > _LARGEST:
                    await self._write(CloseConnection(code=1009, reason="the message is too large"))
                    self._end(1009, "")
                elif event.message_finished:
                    message = _message(self._parts)
                    self._parts, self._size = [], 0
                    await self._deliver(message)
            case Ping():
                await self._write(event.response())
            case CloseConnection():
                if self._ws.state is ConnectionState.REMOTE_CLOSING:
                    await self._write(event.response())
                elif self._ws.state is ConnectionState.OPEN:  # wsproto's own verdict on a frame that is not sound
                    await self._write(event)
                self._end(int(event.code), event.reason or "")

    async def _deliver(self, message: Message) -> None:
        try:
            await self._put.send(message)
        except trio.BrokenResourceError:
            pass  # the application has ended; what matters still is the close frame

    # --------------------------------------------------------------------------------------------------------------------- send

    async def send(self, message: Message) -> None:
        """The application's `send`. `ClientDisconnected`, an OSError, when the client has gone; `RuntimeError` when it is not in order."""
        match self._phase, message["type"]:
            case Phase.CONNECTING, "websocket.accept":
                await self._accept(message)
            case Phase.CONNECTING, "websocket.close":
                self._phase = Phase.CLOSED
                await self._refusal.answer(403, b"")
            case ((Phase.CONNECTING | Phase.REFUSING), ("websocket.http.response.start" | "websocket.http.response.body" as kind)):
                self._phase = Phase.REFUSING
                await self._refusal.send({**message, "type": kind.removeprefix("websocket.")})
            case Phase.OPEN, "websocket.send":
                await self._send(message)
            case Phase.OPEN, "websocket.close":
                self._phase = Phase.CLOSED
                await self._write(CloseConnection(code=message.get("code", 1000), reason=message.get("reason") or ""))
            case phase, kind:
                raise RuntimeError(f"the ASGI message {kind!r} has no place {phase.value}")

    async def _accept(self, message: Message) -> None:
        if self.gone:
            raise ClientDisconnected("the client has gone")
        extra = Headers([(bytes(name), bytes(value)) for name, value in message.get("headers", ())])
        accept = AcceptConnection(subprotocol=message.get("subprotocol"), extra_headers=[(name, value) for _, name, value in extra.fields])
        if not await self._write(accept):
            raise ClientDisconnected("the client has gone")
        self._phase = Phase.OPEN
        assert self._nursery is not None
        self._nursery.start_soon(self._read, name="WebSocket reader")

    async def _send(self, message: Message) -> None:
        data = message.get("bytes")
        event: Event = TextMessage(data=message["text"]) if data is None else BytesMessage(data=bytes(data))
        if not await self._write(event):
            raise ClientDisconnected("the client has gone")

    async def _write(self, event: Event) -> bool:
        """Write a frame; whether it could be."""
        async with self._sending:
            if self.gone:
                return False
            try:
                data = self._ws.send(event)
            except LocalProtocolError:
                if self._phase is Phase.CONNECTING:
                    raise  # the application's fault: a subprotocol that was not offered, say
                return False  # the close frames have crossed
            try:
                await self._stream.send_all(data)
                if (flush := getattr(self._stream, "flush", None)) is not None:
                    flush()
            except _LOST:
                self._end(_ABNORMAL, "")
                return False
            return True

    # ---------------------------------------------------------------------------------------------------------------- afterwards

    async def _conclude(self, returned: bool) -> None:
        """The application has ended: say goodbye, if it has not, and wait a little for the client to do so."""
        self._call_scope.deadline = math.inf
        match self._phase:
            case Phase.CONNECTING | Phase.REFUSING:
                await self._refusal.conclude()
                return
            case Phase.OPEN:
                self._phase = Phase.CLOSED
                await self._write(CloseConnection(code=1000 if returned else 1011))
            case Phase.CLOSED:
                pass
        with trio.move_on_after(_CLOSE_TIMEOUT):
            self._messages.close()  # what still comes is not for anybody
            await self._ended.wait()


def _message(parts: list[Any]) -> Message:
    # the kind that it is not is absent: the specification allows that, and some frameworks ask by `in`
    if isinstance(parts[0], str):
        return {"type": "websocket.receive", "text": "".join(parts)}
    return {"type": "websocket.receive", "bytes": b"".join(parts)}
