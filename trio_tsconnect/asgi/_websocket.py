"""`receive` and `send` of one WebSocket, on the connection of its handshake. wsproto parses and builds the frames (RFC 6455).

A background task reads frames, and buffers at most one message for the application; with a second one it waits. So pings are answered and a
close is noticed while the application is busy, and a client that sends faster than the application receives is blocked by flow control.
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
_LARGEST = 16 << 20  # the largest message from a client: bytes, or characters of a text
_CLOSE_TIMEOUT = 2.0  # seconds to wait for the client's close frame after the application has ended
_LOST = (trio.BrokenResourceError, trio.ClosedResourceError)
_ABNORMAL = 1006  # RFC 6455 §7.1.5: no close frame was received


class Phase(enum.Enum):
    """The state of the WebSocket. The values end the error message for an unexpected ASGI message."""

    CONNECTING = "before websocket.accept"
    OPEN = "on an open WebSocket"
    REFUSING = "within a websocket.http.response"
    CLOSED = "after websocket.close"


class WebSocketExchange:
    """One WebSocket.

    `refusal`: the HTTP exchange that answers the handshake if the application does not accept it. `grace`: seconds that the call may
    continue after the client has disconnected.
    """

    def __init__(self, http: HTTP1Server, request: Request, refusal: HttpExchange, *, grace: float) -> None:
        self.gone = False
        """True if no further message can arrive from the client: it has sent a close frame, or the connection is broken."""
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
        self._parts: list[Any] = []  # of the message that is being received: all str, or all bytes
        self._size = 0
        self._put, self._messages = trio.open_memory_channel[Message](1)

    def at_once(self) -> Message | None:
        """Return None: messages received before the close may still be buffered, so the next message is not known here."""
        return None

    async def run(self, call: Callable[[], Awaitable[bool]]) -> None:
        """Serve the WebSocket until it is closed. `call` calls the application, and returns True if the application returned."""
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
        """Return True if the handshake is valid (RFC 6455 §4.2.1). Otherwise answer it with an error status and return False."""
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
        """Note that the connection is broken: the application receives `websocket.disconnect` with code 1006.

        Synchronous and idempotent.
        """
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
        """Send a close frame with code 1001 to the client, and `websocket.disconnect` to the application.

        Does nothing if not open. Synchronous.
        """
        if self._phase is Phase.OPEN and self._nursery is not None and not self.gone:
            self._nursery.start_soon(self._go_away, name="WebSocket goes away")

    async def _go_away(self) -> None:
        await self._write(CloseConnection(code=1001))
        self._end(1001, "")

    # ------------------------------------------------------------------------------------------------------------------ receive

    async def receive(self) -> Message:
        """Return the next message. This is the application's `receive`.

        Returns `websocket.connect`, then the messages of the client, and `websocket.disconnect` once it has disconnected.
        """
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
        """Read frames until the client closes or the connection breaks."""
        data = self._http.take_buffer()  # frames that arrived together with the handshake
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
                elif self._ws.state is ConnectionState.OPEN:  # not from the client: wsproto's close frame for an invalid frame
                    await self._write(event)
                self._end(int(event.code), event.reason or "")

    async def _deliver(self, message: Message) -> None:
        try:
            await self._put.send(message)
        except trio.BrokenResourceError:
            pass  # the application has ended: drop the message, and read on until the close frame

    # --------------------------------------------------------------------------------------------------------------------- send

    async def send(self, message: Message) -> None:
        """Send a message, and return when it was written and flushed. This is the application's `send`.

        Raises `ClientDisconnected`, an `OSError`, if the client has disconnected, and `RuntimeError` for a message that is not allowed at
        this point.
        """
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
                raise RuntimeError(f"unexpected ASGI message {kind!r} {phase.value}")

    async def _accept(self, message: Message) -> None:
        if self.gone:
            raise ClientDisconnected("the client has disconnected")
        extra = Headers([(bytes(name), bytes(value)) for name, value in message.get("headers", ())])
        accept = AcceptConnection(subprotocol=message.get("subprotocol"), extra_headers=[(name, value) for _, name, value in extra.fields])
        if not await self._write(accept):
            raise ClientDisconnected("the client has disconnected")
        self._phase = Phase.OPEN
        assert self._nursery is not None
        self._nursery.start_soon(self._read, name="WebSocket reader")

    async def _send(self, message: Message) -> None:
        data = message.get("bytes")
        event: Event = TextMessage(data=message["text"]) if data is None else BytesMessage(data=bytes(data))
        if not await self._write(event):
            raise ClientDisconnected("the client has disconnected")

    async def _write(self, event: Event) -> bool:
        """Write a frame and flush it. Return False if the client has disconnected or the close frames were exchanged already."""
        async with self._sending:
            if self.gone:
                return False
            try:
                data = self._ws.send(event)
            except LocalProtocolError:
                if self._phase is Phase.CONNECTING:
                    raise  # an error of the application, such as a subprotocol that the client did not offer
                return False  # the close frames of both sides have crossed
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
        """Close the WebSocket after the application has ended.

        Sends a close frame if the application has not: 1000 if it returned, 1011 if it failed. Then waits at most `_CLOSE_TIMEOUT` seconds
        for the client's close frame. A handshake that was not accepted is answered by `refusal`.
        """
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
            self._messages.close()  # unblocks the reader, which may be waiting to deliver a message and must see the close frame
            await self._ended.wait()


def _message(parts: list[Any]) -> Message:
    # Only one of the keys "text" and "bytes" is present. The specification allows this, and some frameworks test for the key with `in`.
    if isinstance(parts[0], str):
        return {"type": "websocket.receive", "text": "".join(parts)}
    return {"type": "websocket.receive", "bytes": b"".join(parts)}
