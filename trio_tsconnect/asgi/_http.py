"""`receive` and `send` of one HTTP request.

Invariant: each body message is written and flushed before its `send` returns, and no part of the request body is read before the
application calls `receive`. So events are sent as they happen, and back-pressure reaches the application in both directions.

When the client disconnects, `receive` returns `http.disconnect`, as the ASGI specification requires, and messages that the application
still sends are dropped. The call is then limited in two ways. An application that continues to stream and has not received
`http.disconnect` is cancelled at its next `send`. Any other is cancelled `grace` seconds after the client disconnected.
"""

from __future__ import annotations

import enum
from typing import Any

import trio

from trio_tsconnect.asgi._types import ClientDisconnected, Message
from trio_tsconnect.message import (
    CHUNKED_BODY,
    NO_BODY,
    Body,
    Framing,
    Headers,
    MessageError,
    Request,
    Response,
    expects_continue,
    frame_response,
    has_no_content,
    keep_alive,
)
from trio_tsconnect.stream import HTTP1Server, IncompleteMessage, reset

_MOST_AHEAD = 65536  # bytes: a message that has this many gets no further pieces, and pipelined input is buffered up to this size
_LOST = (trio.BrokenResourceError, trio.ClosedResourceError)


class Phase(enum.Enum):
    """The position in the response. The values end the error message for an unexpected ASGI message."""

    START = "before http.response.start"
    BODY = "within the response body"
    TRAILERS = "before http.response.trailers"
    DONE = "after the response is complete"


class HttpExchange:
    """One request and its response.

    `watched`: the owner calls `lost` when the client disconnects, so `receive` does not have to read from the stream to notice it.
    `grace`: seconds that the call may continue after that.
    """

    def __init__(self, http: HTTP1Server, request: Request, *, watched: bool, grace: float) -> None:
        self.finished = trio.Event()
        """Set when the response is complete or can no longer be completed. The connection is then done with this exchange."""
        self.call_scope = trio.CancelScope()
        """The cancel scope of the application's call."""
        self.gone = False
        """True if the client has disconnected."""
        self._http = http
        self._request = request
        self._watched = watched
        self._grace = grace
        self._phase = Phase.START
        self._response: Response | None = None
        self._trailers_follow = False
        self._framed = NO_BODY
        self._head_sent = False
        self._left: int | None = None  # bytes of content still to be sent; None without a Content-Length
        self._trailers = Headers()
        self._to_continue = expects_continue(request) and not http.body_complete
        self._body_received = False
        self._receiving = trio.Lock()
        self._sending = trio.Lock()
        self._waiting: trio.CancelScope | None = None
        self._told = False

    @property
    def complete(self) -> bool:
        """True if the whole response was sent, or dropped because the client had disconnected."""
        return self._phase is Phase.DONE

    @property
    def head_sent(self) -> bool:
        """True if the response head was sent. It can then no longer be replaced by another response."""
        return self._head_sent

    @property
    def persists(self) -> bool:
        """True if the connection can carry another request."""
        return (
            not self.gone
            and self.complete
            and self._http.body_complete
            and self._framed.framing is not Framing.CLOSE
            and keep_alive(self._request.version, self._request.headers)
            and self._response is not None
            and "close" not in self._response.headers.tokens("connection")
        )

    def at_once(self) -> Message | None:
        """Return `http.disconnect` if `receive` would return it without waiting, else None. May be called from another thread."""
        if self.gone:
            self._told = True
        return {"type": "http.disconnect"} if self.gone or self.complete else None

    def lost(self) -> None:
        """Note that the client has disconnected, and give the call `grace` seconds to end. Synchronous and idempotent."""
        if self.gone:
            return
        self.gone = True
        self._told = self._waiting is not None  # a `receive` is waiting and returns http.disconnect
        if not self.complete:
            self.call_scope.deadline = trio.current_time() + self._grace
        self._end()

    def _end(self) -> None:
        self.finished.set()
        if self._waiting is not None:
            self._waiting.cancel()

    async def settle(self) -> None:
        """Wait until no `receive` of the application is reading from the stream."""
        async with self._receiving:
            pass

    # ------------------------------------------------------------------------------------------------------------------ receive

    async def receive(self) -> Message:
        """Return the next message. This is the application's `receive`.

        Returns the request body as it arrives. After that it waits until the client disconnects or the response is complete, and returns
        `http.disconnect`. A cancelled `receive` loses no data.
        """
        if (message := self.at_once()) is not None:
            return message
        async with self._receiving:
            with trio.CancelScope() as self._waiting:
                try:
                    if self.at_once() is None:
                        if not self._body_received:
                            return await self._receive_body()
                        await self._wait_for_the_end()
                except (*_LOST, IncompleteMessage, MessageError):
                    self.lost()
                finally:
                    self._waiting = None
        return {"type": "http.disconnect"}

    async def _receive_body(self) -> Message:
        if self._to_continue:
            self._to_continue = False
            if not self._head_sent:
                self._http.queue_response(Response(100), NO_BODY)
                await self._http.drain()
        data = bytes(await self._http.receive_body())
        # Add the pieces that are already buffered. So a small body is one message, with `more_body` false.
        while len(data) < _MOST_AHEAD and not self._http.body_complete and (piece := self._http.body_piece()):
            data += piece
        self._body_received = self._http.body_complete
        return {"type": "http.request", "body": data, "more_body": not self._body_received}

    async def _wait_for_the_end(self) -> None:
        # Reading is the only way to notice that an unwatched peer has closed. Pipelined requests are buffered up to the limit; then only
        # wait.
        while not self._watched and self._http.buffered < _MOST_AHEAD:
            if not await self._http.fill():
                self.lost()
                return
        await trio.sleep_forever()

    # --------------------------------------------------------------------------------------------------------------------- send

    async def send(self, message: Message) -> None:
        """Send a message, and return when it was written and flushed. This is the application's `send`.

        Raises `RuntimeError` for a message that is not allowed at this point or a body that does not match its Content-Length, and
        `TypeError` or `ValueError` for an invalid value. Drops the message if the client has disconnected. Cancellation during a write
        breaks the connection.
        """
        async with self._sending:
            match self._phase, message["type"]:
                case Phase.START, "http.response.start":
                    self._start(message)
                case Phase.START, "http.response.early_hint":
                    await self._early_hint(message)
                case Phase.BODY, "http.response.body":
                    await self._body(message)
                case Phase.TRAILERS, "http.response.trailers":
                    await self._trailer_fields(message)
                case phase, kind:
                    raise RuntimeError(f"unexpected ASGI message {kind!r} {phase.value}")

    def _start(self, message: Message) -> None:
        status = int(message["status"])
        if not 200 <= status <= 599:
            raise ValueError(f"the status of a response must be within 200..599, not {status}")
        headers = Headers([(bytes(name), bytes(value)) for name, value in message.get("headers", ())])
        headers.remove((b"transfer-encoding",))  # ASGI: the server chooses the framing, and ignores this field of the application
        length = headers.get("content-length")
        if length is not None and not (length.isascii() and length.isdigit()):
            raise ValueError(f"Content-Length must be a decimal number, not {length!r}")
        self._response = Response(status, headers)
        self._trailers_follow = bool(message.get("trailers", False))
        self._phase = Phase.BODY

    async def _early_hint(self, message: Message) -> None:
        hint = Response(103, Headers([(b"Link", bytes(link)) for link in message.get("links", ())]))
        if not self.gone and self._request.version != "1.0":
            self._http.queue_response(hint, NO_BODY)
            await self._write()

    async def _body(self, message: Message) -> None:
        data = message.get("body", b"")
        if not isinstance(data, (bytes, bytearray, memoryview)):
            raise TypeError(f"the body of an ASGI message must be bytes, not {type(data).__name__}")
        # `late` is read before the write: an application whose client disconnects during this `send` gets the chance to receive that first.
        more, late = bool(message.get("more_body", False)), self.gone
        if not self._head_sent:
            self._send_head(len(data), more=more)
        self._count(len(data), more=more)
        if not self.gone:
            if self._framed.framing is not Framing.NONE:
                self._http.queue_body(bytes(data))
            if not more and not self._trailers_follow:
                self._http.queue_end()
            await self._write()
        if not more:
            self._phase = Phase.TRAILERS if self._trailers_follow else Phase.DONE
            if self._phase is Phase.DONE:
                self._end()
        elif late:
            await self._give_up()

    def _send_head(self, size: int, *, more: bool) -> None:
        response, method = self._response, self._request.method
        assert response is not None
        declared = response.headers.get("content-length")
        if declared is not None:
            body = Body(Framing.LENGTH, int(declared))
        elif more or self._trailers_follow:
            body = CHUNKED_BODY
        else:
            body = NO_BODY if has_no_content(method, response.status) else Body(Framing.LENGTH, size)
        self._framed = frame_response(method, self._request.version, response, body)
        self._left = self._framed.length if self._framed.framing is Framing.LENGTH else None
        self._head_sent = True
        if not self.gone:
            self._http.queue_response(response, self._framed)

    def _count(self, size: int, *, more: bool) -> None:
        if self._left is None:
            return
        self._left -= size
        if self._left < 0:
            raise RuntimeError("the content of the response is longer than its Content-Length")
        if self._left and not more:
            raise RuntimeError("the content of the response is shorter than its Content-Length")

    async def _trailer_fields(self, message: Message) -> None:
        for name, value in message.get("headers", ()):
            self._trailers.add(bytes(name), bytes(value))
        if message.get("more_trailers", False):
            return
        if not self.gone:
            self._http.queue_end(self._trailers if len(self._trailers) else None)
            await self._write()
        self._phase = Phase.DONE
        self._end()

    async def _write(self) -> None:
        try:
            await self._http.drain()
        except _LOST:
            self.lost()
        except trio.Cancelled:  # an unknown part was written, so nothing that follows on this connection would be framed correctly
            reset(self._http.stream, "the application's write was cancelled")
            self.lost()
            raise

    async def _give_up(self) -> None:
        if self._told:  # it has http.disconnect, and ends by itself within `grace`; to cancel it here would interrupt its clean-up
            await trio.lowlevel.checkpoint()
            return
        self.call_scope.cancel()
        await trio.lowlevel.checkpoint()
        raise ClientDisconnected("the client has disconnected")  # reached only if the application shields itself from cancellation

    # ---------------------------------------------------------------------------------------------------------------- afterwards

    async def conclude(self) -> None:
        """Finish the response after the application has ended.

        Sends a 500 if the head was not sent. Breaks the connection if the response is incomplete, so the client cannot take it for
        complete.
        """
        if not self.gone and not self.complete:
            if self._head_sent:
                reset(self._http.stream, "the application ended within a response")
                self.lost()
            else:
                self._phase = Phase.START
                await self.answer(500, b"Internal Server Error")
        self._end()

    async def answer(self, status: int, text: bytes, headers: tuple[tuple[bytes, bytes], ...] = ()) -> None:
        """Send a complete text response in place of the application's. It closes the connection."""
        fields: list[Any] = [(b"Content-Type", b"text/plain; charset=utf-8"), (b"Connection", b"close"), *headers]
        await self.send({"type": "http.response.start", "status": status, "headers": fields})
        await self.send({"type": "http.response.body", "body": text})
