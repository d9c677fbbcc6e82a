"""One HTTP/2 stream of a client, relayed over one virtual connection to the engine.

Invariant: a stream speaks HTTP/1.1 with the engine and never handles frames. The connection passes received content to it (`take`), and
the connection's writer sends what the stream puts into its outbox.
"""

from __future__ import annotations

import contextlib
import logging
import math

import trio

from trio_tsconnect import VirtualConnection
from trio_tsconnect.http2._beside import run_beside
from trio_tsconnect.http2._errors import ErrorCode
from trio_tsconnect.http2._exchange import READ_SIZE, BrokenOff, Exchange, ResponseHead, frame_chunk, frame_end, read_whole, send_quietly
from trio_tsconnect.http2._fields import RequestHead, websocket_accepted
from trio_tsconnect.http2._flow import StreamWindow
from trio_tsconnect.http2._hpack import Pair
from trio_tsconnect.http2._outbox import Outbox
from trio_tsconnect.http2._owner import StreamOwner
from trio_tsconnect.http2._priority import Priority, parse_priority

logger = logging.getLogger("trio_tsconnect.http2")


class Stream:
    """One stream. It has a task (`run`) only while it must wait: for the rest of a request or of a response, or for a tunnel."""

    __slots__ = (
        "_begin",
        "_connection",
        "_dropped",
        "_exchange",
        "_held",
        "_inbox",
        "_left",
        "_news",
        "_room",
        "_room_at",
        "began",
        "closed",
        "head",
        "id",
        "local_ended",
        "moved",
        "outbox",
        "pipe",
        "priority",
        "received",
        "remote_ended",
        "sent_whole",
        "trailers",
        "turn",
        "window",
    )

    def __init__(
        self,
        connection: StreamOwner,
        id: int,
        head: RequestHead,
        pipe: VirtualConnection,
        window: StreamWindow | None,
        priority: Priority,
        ended: bool,
    ) -> None:
        self._connection = connection
        self.id = id
        self.head = head
        self.pipe = pipe
        self.window = window
        """Inbound flow-control window; None if the request ended with its head."""
        self.priority = priority
        self.turn = 0
        """Sequence number of the stream's last write among those of its connection."""
        self.outbox = Outbox()
        self.remote_ended = ended
        """True if the client has sent END_STREAM."""
        self.local_ended = False
        """True if our END_STREAM was handed to h2."""
        self.began = False
        """True if a response head was put into the outbox."""
        self.closed = False
        """True if both sides have ended the stream, or one has reset it."""
        self.sent_whole = False
        """True if the virtual connection has accepted the whole request."""
        self.received = 0
        """Bytes of content received, without padding."""
        self.trailers: list[Pair] | None = None
        """Trailers of the request."""
        self.moved = math.inf
        """Trio's time since which data in the outbox has made no progress; `inf` if no write has left data over."""
        self._inbox: list[tuple[bytes, int]] = []
        self._held = 0  # bytes of content that count in `ConnectionWindow.held`
        self._dropped = False  # True if further content is discarded on receipt
        self._left = False  # True if the engine has closed the tunnel
        self._room_at = connection.window_size // 2  # bytes; `_wait_for_room` returns when the outbox has at most so many
        self._news: trio.Event | None = None
        self._room: trio.Event | None = None
        self._exchange: Exchange | None = None
        self._begin = head.head

    # --------------------------------------------------------------------------------------------------- called by the connection

    def take(self, data: bytes, size: int) -> None:
        """Accept received content. `size` is its length in the flow-control window, including padding."""
        self.received += len(data)
        if self._dropped:
            self._connection.window.released(len(data))
        else:
            self._held += len(data)
            self._inbox.append((data, size))
        self.wake()

    def wake(self) -> None:
        """Wake the task that waits for content, for END_STREAM, or for the end of the stream."""
        if self._news is not None:
            self._news.set()
            self._news = None

    def sent(self) -> None:
        """Wake the task that waits for room in the outbox, if there is room now."""
        if self._room is not None and self._has_room:
            self._room.set()
            self._room = None

    @property
    def _has_room(self) -> bool:
        return len(self.outbox.data) <= self._room_at

    def close(self, reason: str | None) -> int:
        """Mark the stream as closed in HTTP/2. With a reason, also abort its transaction. Return the bytes of content discarded."""
        self.closed = True
        held = 0
        if reason is not None or not self.head.tunnel:
            # a tunnel that ends normally still has to carry the client's last bytes to the origin
            self._dropped = True
            held, self._held = self._held, 0
            self._inbox.clear()
        if reason is not None:
            self._break_off(reason)
            self.outbox.data.clear()
        self.wake()
        if self._room is not None:
            self._room.set()
        return held

    def _break_off(self, reason: str) -> None:
        """Abort the transaction. If the engine has not read the request head yet, close instead, so that the request is logged."""
        sending = self.pipe.statistics().sending
        if sending.unread != sending.total:
            self.pipe.abort(reason)
            return
        if not sending.total:
            # BusyResourceError: the stream's own task is inside `send_all` and is being cancelled
            with contextlib.suppress(trio.WouldBlock, trio.BusyResourceError, trio.BrokenResourceError, trio.ClosedResourceError):
                self.pipe.send_nowait(self.head.head[: self._connection.window_size])
        self.pipe.close(reason)

    # ------------------------------------------------------------------------------------------------------------------- its task

    def begin(self) -> bool:
        """Send the request head. Return True if a task must `run` now. If not, `connection.look_at` is called when there is a response."""
        if len(self._begin) > self._connection.window_size:
            return True
        self.pipe.send_nowait(self._begin)
        self._begin = b""
        if not self.remote_ended or self.head.tunnel:
            return True
        self.sent_whole = True
        self.pipe.watch_input(self._answered)
        return False

    def _answered(self) -> None:
        self._connection.look_at(self)

    def answer_now(self) -> bool:
        """Relay the response if all of it is received. Return False if a task must `run`: to wait for the rest, or to handle an error."""
        try:
            data = self.pipe.receive_nowait(READ_SIZE)
        except (trio.WouldBlock, trio.BrokenResourceError, trio.ClosedResourceError):
            return False
        if (whole := read_whole(data, self.head.method)) is None:
            self._exchange = Exchange(self.pipe, self.head.method, data)
            return False
        head, content = whole
        if head.priority is not None:
            self.priority = parse_priority(head.priority, self.priority)  # RFC 9218 §8
        self._put_head(head.fields, last=not content)
        if content:
            self.outbox.data += content
            self._put_end()
        return True

    async def run(self) -> None:
        """Relay the request to the engine, the response to the client. Raises only `trio.Cancelled`, which aborts the transaction."""
        complete = False
        try:
            await self._ask()
            complete = True
        except (trio.BrokenResourceError, trio.ClosedResourceError, BrokenOff):
            # RFC 9113 §8.1: an incomplete response must not look complete to the client, so the stream is reset
            if self.head.tunnel and self.began:
                await self._cut_tunnel()
            else:
                self._connection.reset(self, ErrorCode.INTERNAL_ERROR, "broken_off")
        except Exception:
            logger.exception("HTTP/2 stream %d failed: unexpected exception in the front end", self.id)
            self._connection.reset(self, ErrorCode.INTERNAL_ERROR, "front_end_failed")
        finally:
            # not after a complete exchange: the transaction may still run hooks, and its session then closes the virtual connection
            if not complete:
                self.pipe.abort("front_end_closed")

    async def _ask(self) -> None:
        head, exchange = self.head, self._exchange or Exchange(self.pipe, self.head.method)
        if self.sent_whole:
            await self._relay(exchange)
        elif head.tunnel:
            await send_quietly(self.pipe, self._begin)
            await self._tunnel_or_refusal(exchange)
        elif self.remote_ended and len(head.head) + self.received < self._connection.window_size // 2:
            # the whole request is received and fits into the buffer, so sending cannot block: no second task is needed
            data, content, flow = self._take_inbox(self._begin)
            await send_quietly(self.pipe, data)
            self._took(content, flow)
            await self._relay(exchange)
        else:
            await run_beside(self._pump, self._relay(exchange))
            await self.pipe.send_eof()
            await self._linger()

    # ------------------------------------------------------------------------------------------------------------------ the request

    def _take_inbox(self, begin: bytes = b"") -> tuple[bytes, int, int]:
        """Empty the inbox. Return `begin` and its content, framed for HTTP/1.1; the size of the content; the bytes of window it used."""
        inbox, self._inbox = self._inbox, []
        flow = sum([size for _, size in inbox])
        content = b"".join([data for data, _ in inbox])
        data = content
        if self.head.chunked:
            data = frame_chunk(content) if content else b""
            if self.remote_ended:
                data += frame_end(self.trailers)
        return begin + data if begin else data, len(content), flow

    def _took(self, content: int, flow: int) -> None:
        if (flow or content) and not self._dropped:
            self._held -= content
            self._connection.took(self, content, flow)

    async def _pump(self) -> None:
        """Send the request to the virtual connection. Returns early if the engine stops reading: its response says why."""
        begin = self._begin
        try:
            while not self.closed:
                data, content, flow = self._take_inbox(begin)
                ended, begin = self.remote_ended, b""
                try:
                    if data:
                        await self.pipe.send_all(data)
                finally:
                    self._took(content, flow)  # also after an error or a cancellation: the bytes are no longer held
                if ended:
                    return
                await self._wait_for_news()
        except (trio.BrokenResourceError, trio.ClosedResourceError):
            pass  # `_relay` sees if there is a response

    async def _linger(self) -> None:
        """After a complete response, discard the rest of the request, then reset the stream with NO_ERROR (RFC 9113 §8.1).

        Ends after `max_dropped` bytes, or `linger_timeout` seconds without content. Not reset at once: curl before 8.0 loses a response
        that a RST_STREAM follows immediately, and hangs if a RST_STREAM arrives during its upload.
        """
        _, content, _ = self._take_inbox()
        begin = self.received - content
        self._took(content, 0)
        self._dropped = True
        await self._until_ended()
        most, patience = self._connection.limits.max_dropped, self._connection.config.linger_timeout
        with trio.move_on_after(patience) as scope:
            while self.received - begin <= most and not self.remote_ended and not self.closed:
                seen = self.received
                await self._wait_for_news()
                if self.received > seen:
                    scope.deadline = trio.current_time() + patience
        self._connection.reset(self, ErrorCode.NO_ERROR, "front_end_closed")

    def _let_finish(self) -> None:
        """Before the response ends, open the window for all of the request that `_linger` may discard.

        The WINDOW_UPDATE must precede END_STREAM: curl before 8.0 reads nothing after the response, but still completes its request.
        """
        if not self.remote_ended and not self.closed and not self.head.tunnel:
            left = self._connection.limits.max_dropped
            if self.head.declared is not None:
                left = min(left, self.head.declared - self.received)
            self._connection.open_wide(self, left)

    async def _until_ended(self) -> None:
        """Wait until our END_STREAM was handed to h2, or the stream is closed."""
        while not self.local_ended and not self.closed:
            self._room = trio.Event()
            await self._room.wait()

    async def _wait_for_news(self) -> None:
        if not self._inbox and not self.remote_ended and not self.closed:
            self._news = trio.Event()
            await self._news.wait()

    # ----------------------------------------------------------------------------------------------------------------- the response

    async def _read_head(self, exchange: Exchange) -> ResponseHead:
        """Return the final response head, or a 101. Forward the interim ones before it (RFC 9113 §8.1)."""
        while True:
            head = await exchange.read_head()
            if head.status >= 200 or head.status == 101:
                return head
            self._put_head(head.fields, last=False)

    async def _relay(self, exchange: Exchange) -> None:
        head = await self._read_head(exchange)
        if head.status == 101:
            raise BrokenOff("the engine sent 101 to a request without upgrade")
        await self._relay_final(exchange, head)

    async def _relay_final(self, exchange: Exchange, head: ResponseHead) -> None:
        if head.priority is not None:
            self.priority = parse_priority(head.priority, self.priority)  # RFC 9218 §8
        self._put_head(head.fields, last=exchange.is_complete())
        if exchange.is_complete():
            return
        while True:
            if piece := exchange.next_piece():
                self.outbox.data += piece
            if exchange.is_complete():
                break
            if piece:
                self._connection.ready(self)
            else:
                await self._wait_for_room()
                if not await exchange.fill():
                    exchange.input_ended()
        self._put_end(exchange.trailers)

    def _put_head(self, fields: list[Pair], *, last: bool) -> None:
        self.began = True
        if last:
            self._let_finish()
        self.outbox.heads.append((fields, last))
        self._connection.ready(self)

    def _put_end(self, trailers: list[Pair] | None = None) -> None:
        self._let_finish()
        self.outbox.ending = True
        self.outbox.trailers = trailers
        self._connection.ready(self)

    async def _wait_for_room(self) -> None:
        """Wait until the outbox has at most half a window of data, so that a stream buffers little more than one read.

        It does not wait until the outbox is empty: an urgent stream would lose its place in the next batch while it reads.
        """
        if not self._has_room and not self.closed:
            self._room = trio.Event()
            await self._room.wait()

    # ------------------------------------------------------------------------------------------------------------------ the tunnel

    async def _tunnel_or_refusal(self, exchange: Exchange) -> None:
        """Relay a CONNECT (RFC 9113 §8.5) or extended CONNECT (RFC 8441): a tunnel if it was accepted, an ordinary response if not."""
        head = await self._read_head(exchange)
        switched = head.status == 101
        if switched and not websocket_accepted(self.head.websocket_key, head.proof):
            raise BrokenOff("invalid Sec-WebSocket-Accept in the 101 response")
        if not switched and not (self.head.method == b"CONNECT" and head.status < 300):
            self.head.tunnel = False
            if head.status < 300 and self.head.method != b"CONNECT":
                # RFC 8441 §5: a 2xx would open the tunnel for the client, but the origin has not switched protocols. Only a 101 does.
                self._put_head([(b":status", b"502"), (b"content-length", b"0")], last=True)
                self.pipe.abort("broken_off")
                await self._linger()
                return
            await self._relay_final(exchange, head)
            await self.pipe.send_eof()
            await self._linger()
            return
        status = b"200" if switched else b"%d" % head.status
        fields = [(b":status", status), *[field for field in head.fields[1:] if field[0] != b"sec-websocket-accept"]]
        self._put_head(fields, last=False)
        self.pipe.watch_peer(self._engine_has_left)
        await run_beside(self._carry_up, self._carry_down(exchange.take_rest()), until_both=True)
        if not self.remote_ended:  # the engine has ended its output and closed the tunnel, so the client's bytes go nowhere
            await self._until_ended()
            await self._cut_tunnel()

    def _engine_has_left(self, _: str) -> None:
        self._left = True
        self.wake()

    async def _cut_tunnel(self) -> None:
        """Reset the stream of a broken tunnel, after at most `linger_timeout` seconds for sending the outbox (RFC 9110 §9.3.6)."""
        self._room_at = 0  # `sent` now wakes this task only when the outbox is empty
        with trio.move_on_after(self._connection.config.linger_timeout):
            while self.outbox.data and not self.closed:
                self._room = trio.Event()
                await self._room.wait()
        # RFC 9113 §8.5: CONNECT_ERROR for CONNECT. RFC 8441 §5: CANCEL for extended CONNECT.
        self._connection.reset(self, ErrorCode.CONNECT_ERROR if self.head.method == b"CONNECT" else ErrorCode.CANCEL, "broken_off")

    async def _carry_up(self) -> None:
        try:
            while not self._dropped:
                while self._inbox:
                    data, content, flow = self._take_inbox()
                    try:
                        await self.pipe.send_all(data)
                    finally:
                        self._took(content, flow)
                if self.remote_ended:
                    await self.pipe.send_eof()
                    return
                if self._left:
                    return
                await self._wait_for_news()
        except (trio.BrokenResourceError, trio.ClosedResourceError):
            pass  # `_carry_down` sees the end of the tunnel too, and handles it
        finally:
            # release what is left and discard what follows: otherwise it would stay in `held` and keep the connection's window closed
            self._took(self._take_inbox()[1], 0)
            self._dropped = True

    async def _carry_down(self, data: bytes) -> None:
        while True:
            if data:
                self.outbox.data += data
                self._connection.ready(self)
                await self._wait_for_room()
            data = await self.pipe.receive_some(READ_SIZE)
            if not data:
                break
        self._put_end()
