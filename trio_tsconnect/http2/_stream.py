"""One stream of a client, which is one virtual connection to the engine.

The law: a stream speaks HTTP/1.1 with the engine, and leaves frames to its connection. What comes from the client is put into it (`take`), what
goes to the client it puts into its outbox, from which the connection writes when it is the stream's turn.
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
    """One stream. It has a task of its own only while there is something to wait for: a request, or a response, that comes in parts."""

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
        """None for a request that had ended with its head."""
        self.priority = priority
        self.turn = 0
        """When it wrote last, counted over the connection."""
        self.outbox = Outbox()
        self.remote_ended = ended
        """Whether the client has sent END_STREAM."""
        self.local_ended = False
        """Whether we have."""
        self.began = False
        """Whether the head of a response was put into the outbox."""
        self.closed = False
        """Whether both have, or one has reset it."""
        self.sent_whole = False
        """Whether the virtual connection has taken the whole request already."""
        self.received = 0
        """Bytes of content that came."""
        self.trailers: list[Pair] | None = None
        """The trailers of the request."""
        self.moved = math.inf
        """Since when the client's windows keep back what is in its outbox; `inf` while they do not."""
        self._inbox: list[tuple[bytes, int]] = []
        self._held = 0
        self._dropped = False
        self._left = False
        self._room_at = connection.window_size // 2
        self._news: trio.Event | None = None
        self._room: trio.Event | None = None
        self._exchange: Exchange | None = None
        self._begin = head.head

    # ------------------------------------------------------------------------------------------------ what the connection tells it

    def take(self, data: bytes, size: int) -> None:
        """Content came; `size` counts its padding too."""
        self.received += len(data)
        if self._dropped:
            self._connection.window.released(len(data))
        else:
            self._held += len(data)
            self._inbox.append((data, size))
        self.wake()

    def wake(self) -> None:
        """Something came, or the stream is over."""
        if self._news is not None:
            self._news.set()
            self._news = None

    def sent(self) -> None:
        """Data went out of the outbox."""
        if self._room is not None and self._has_room:
            self._room.set()
            self._room = None

    @property
    def _has_room(self) -> bool:
        return len(self.outbox.data) <= self._room_at

    def close(self, reason: str | None) -> int:
        """It is over in HTTP/2. With a reason the transaction is broken off, else it may come to its end. How many bytes it still held."""
        self.closed = True
        held = 0
        if reason is not None or not self.head.tunnel:
            # (what the client said last in a tunnel is still to be carried)
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
        """End the transaction. One that the engine has not seen yet gets to see who leaves: so it too has its record."""
        sending = self.pipe.statistics().sending
        if sending.unread != sending.total:
            self.pipe.abort(reason)
            return
        if not sending.total:
            # (busy: the stream's own task is being cancelled as it writes)
            with contextlib.suppress(trio.WouldBlock, trio.BusyResourceError, trio.BrokenResourceError, trio.ClosedResourceError):
                self.pipe.send_nowait(self.head.head[: self._connection.window_size])
        self.pipe.close(reason)

    # ------------------------------------------------------------------------------------------------------------ its task, if any

    def begin(self) -> bool:
        """Begin; whether a task has to `run` from the start. If not, the connection is told when to look for the response (`answer_now`)."""
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
        """Relay a response that has come whole; False when a task has to `run`, to wait for the rest of it or to find out what is wrong."""
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
        """Ask the engine, and relay what it answers. Never raises but for a cancellation."""
        complete = False
        try:
            await self._ask()
            complete = True
        except (trio.BrokenResourceError, trio.ClosedResourceError, BrokenOff):
            # the response cannot be completed, or will not begin: the client must be able to tell (RFC 9113 §8.1)
            if self.head.tunnel and self.began:
                await self._cut_tunnel()
            else:
                self._connection.reset(self, ErrorCode.INTERNAL_ERROR, "broken_off")
        except Exception:
            logger.exception("stream %d failed inside the front end", self.id)
            self._connection.reset(self, ErrorCode.INTERNAL_ERROR, "front_end_failed")
        finally:
            # after a whole exchange the session closes the connection, as it was asked to: its transaction may still have hooks to run
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
            # all of it is here, and one write cannot block: this task can do without another
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
        """What came, framed for HTTP/1.1: the bytes, how many of them are content, and how many were taken of the window."""
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
        """Stream the request body into the virtual connection. An engine that does not want it has its reasons: its response tells."""
        begin = self._begin
        try:
            while not self.closed:
                data, content, flow = self._take_inbox(begin)
                ended, begin = self.remote_ended, b""
                try:
                    if data:
                        await self.pipe.send_all(data)
                finally:
                    self._took(content, flow)  # also when it is dropped: nobody holds it any more
                if ended:
                    return
                await self._wait_for_news()
        except (trio.BrokenResourceError, trio.ClosedResourceError):
            pass

    async def _linger(self) -> None:
        """The response is complete and the request is not: drop what comes of it, within bounds, then ask for no more (RFC 9113 §8.1).

        A RST_STREAM that comes together with the response makes some clients lose the response, and one in the middle of an upload makes some
        wait for ever (curl before 8.0 does both), so there is patience with those who send.
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
        """The end of the response overtakes that of the request: open the window for all that may still be dropped, and before the end.

        A client may read nothing more once it has its response, and still want to send its request to the end (curl before 8.0): it would
        never learn of a window that is opened later.
        """
        if not self.remote_ended and not self.closed and not self.head.tunnel:
            left = self._connection.limits.max_dropped
            if self.head.declared is not None:
                left = min(left, self.head.declared - self.received)
            self._connection.open_wide(self, left)

    async def _until_ended(self) -> None:
        """Wait until END_STREAM is written, or the stream is over."""
        while not self.local_ended and not self.closed:
            self._room = trio.Event()
            await self._room.wait()

    async def _wait_for_news(self) -> None:
        if not self._inbox and not self.remote_ended and not self.closed:
            self._news = trio.Event()
            await self._news.wait()

    # ----------------------------------------------------------------------------------------------------------------- the response

    async def _read_head(self, exchange: Exchange) -> ResponseHead:
        """The final response head; interim ones go out on the way (RFC 9113 §8.1)."""
        while True:
            head = await exchange.read_head()
            if head.status >= 200 or head.status == 101:
                return head
            self._put_head(head.fields, last=False)

    async def _relay(self, exchange: Exchange) -> None:
        head = await self._read_head(exchange)
        if head.status == 101:
            raise BrokenOff("a switch of protocols that nobody asked for")
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
        """Wait until most of what was put is written: so a stream holds little more than one read, and its virtual connection the rest.

        Most of it, and not all: an urgent stream with nothing at hand would lose its turn to the next one while it reads.
        """
        if not self._has_room and not self.closed:
            self._room = trio.Event()
            await self._room.wait()

    # ------------------------------------------------------------------------------------------------------------------ the tunnel

    async def _tunnel_or_refusal(self, exchange: Exchange) -> None:
        """CONNECT (RFC 9113 §8.5) and extended CONNECT (RFC 8441): bytes both ways once it was agreed to, a plain response otherwise."""
        head = await self._read_head(exchange)
        switched = head.status == 101
        if switched and not websocket_accepted(self.head.websocket_key, head.proof):
            raise BrokenOff("whoever switched protocols has not read our key")
        if not switched and not (self.head.method == b"CONNECT" and head.status < 300):
            self.head.tunnel = False
            if head.status < 300 and self.head.method != b"CONNECT":
                # RFC 8441 §5: to the client any 2xx opens the tunnel, and it is opened by a switch and nothing else.
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
        if not self.remote_ended:  # the origin has said all it had to say, and then has gone: it takes nothing more
            await self._until_ended()
            await self._cut_tunnel()

    def _engine_has_left(self, _: str) -> None:
        self._left = True
        self.wake()

    async def _cut_tunnel(self) -> None:
        """Reset the stream, as the connection behind it was; but what came before that is still the client's (RFC 9110 §9.3.6)."""
        self._room_at = 0
        with trio.move_on_after(self._connection.config.linger_timeout):
            while self.outbox.data and not self.closed:
                self._room = trio.Event()
                await self._room.wait()
        # RFC 9113 §8.5 for CONNECT, RFC 8441 §5 for the extended one
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
            pass  # the other direction finds out, and says so
        finally:
            # nobody takes what is left: it is held no longer, or the connection's window would stay closed by so much
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
