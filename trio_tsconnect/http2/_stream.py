"""One stream of a client, which is one virtual connection to the engine.

The law: a stream speaks HTTP/1.1 with the engine, and leaves frames to its connection. What comes from the client is put into it (`take`,
`end`), what goes to the client is put into its outbox, from which the connection writes when it is the stream's turn.
"""

from __future__ import annotations

import logging
from collections import deque
from typing import TYPE_CHECKING

import trio

from trio_tsconnect import Headers, Response, VirtualConnection
from trio_tsconnect.http2._errors import ErrorCode
from trio_tsconnect.http2._fields import Pair, RequestHead, response_fields, trailer_fields, websocket_accepted
from trio_tsconnect.http2._flow import StreamWindow
from trio_tsconnect.http2._priority import Priority, parse_priority
from trio_tsconnect.message import Framing, MessageError
from trio_tsconnect.stream import HeadLimits, HTTP1Client, IncompleteMessage

if TYPE_CHECKING:
    from trio_tsconnect.http2._frontend import Connection

logger = logging.getLogger("trio_tsconnect.http2")

# What the engine writes has been judged where it came from; these only keep a fault of our own from growing without end.
_LIMITS = HeadLimits(head=1 << 22, fields=1 << 16)
_READ_SIZE = 65536


class Outbox:
    """What a stream has to say and has not said: heads, then data, then the end."""

    __slots__ = ("data", "ending", "heads", "trailers")

    def __init__(self) -> None:
        self.heads: list[tuple[list[Pair], bool]] = []
        """Heads, interim ones first; and whether the stream ends with it."""
        self.data = bytearray()
        self.ending = False
        """Whether nothing comes after the data but the trailers."""
        self.trailers: list[Pair] | None = None

    def __bool__(self) -> bool:
        return bool(self.heads or self.data or self.ending)


class Stream:
    """One stream. Its task ends with the session at the other end of its virtual connection."""

    __slots__ = (
        "_connection",
        "_inbox",
        "_news",
        "_room",
        "_unread",
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
        "trailers",
        "turn",
        "window",
    )

    def __init__(
        self, connection: Connection, id: int, head: RequestHead, pipe: VirtualConnection, window: StreamWindow, priority: Priority, ended: bool
    ) -> None:
        self._connection = connection
        self.id = id
        self.head = head
        self.pipe = pipe
        self.window = window
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
        self.received = 0
        """Bytes of content that came."""
        self.trailers: Headers | None = None
        """The trailers of the request."""
        self.moved = 0.0
        """When a byte of its outbox was written last, or its outbox was empty."""
        self._inbox: deque[tuple[bytes, int]] = deque()
        self._news: trio.Event | None = None
        self._room: trio.Event | None = None

    # ------------------------------------------------------------------------------------------------ what the connection tells it

    def take(self, data: bytes, size: int) -> None:
        """Content came; `size` counts its padding too."""
        self.received += len(data)
        self._inbox.append((data, size))
        self.wake()

    def wake(self) -> None:
        """Something came, or the stream is over."""
        if self._news is not None:
            self._news.set()
            self._news = None

    def sent(self) -> None:
        """Data went out of the outbox."""
        if self._room is not None and not self.outbox.data:
            self._room.set()
            self._room = None

    def close(self, reason: str | None) -> int:
        """It is over in HTTP/2. With a reason the transaction is broken off, else it may come to its end. How many bytes it still held."""
        self.closed = True
        held = sum([len(data) for data, _ in self._inbox])
        self._inbox.clear()
        if reason is not None:
            self.pipe.abort(reason)
            self.outbox.data.clear()
        self.wake()
        if self._room is not None:
            self._room.set()
        return held

    # ------------------------------------------------------------------------------------------------------------------- its task

    async def run(self) -> None:
        """Ask the engine, and relay what it answers. Never raises but for a cancellation."""
        try:
            await self._exchange()
        except (trio.BrokenResourceError, trio.ClosedResourceError, IncompleteMessage, MessageError):
            # the response cannot be completed, or will not begin: the client must be able to tell (RFC 9113 §8.1)
            code = ErrorCode.CONNECT_ERROR if self.head.tunnel and self.began else ErrorCode.INTERNAL_ERROR
            self._connection.reset(self, code, "broken_off")
        except Exception:
            logger.exception("stream %d failed inside the front end", self.id)
            self._connection.reset(self, ErrorCode.INTERNAL_ERROR, "front_end_failed")
        finally:
            self.pipe.abort("front_end_closed")
            self._connection.task_ended()

    async def _exchange(self) -> None:
        http, head = HTTP1Client(self.pipe, limits=_LIMITS, parser=self._connection.parser), self.head
        http.queue_request(head.request, head.body, upgrade=head.tunnel)
        if head.tunnel:
            await self._drain(http)
            await self._tunnel_or_refusal(http)
        elif self.remote_ended and http.queued + self.received <= self._connection.window_size:
            # all of it is here, and one write cannot block: this task can do without another
            size = self._queue_inbox(http)
            http.queue_end(self.trailers)
            await self._drain(http)
            self._took(size)
            await self._relay(http)
        else:
            async with trio.open_nursery() as nursery:
                nursery.start_soon(self._pump, http)
                try:
                    await self._relay(http)
                finally:
                    nursery.cancel_scope.cancel()
            await self.pipe.send_eof()
        while await self.pipe.receive_some():
            pass  # the session ends when its transaction has come to its end, hooks and record included

    # ------------------------------------------------------------------------------------------------------------------ the request

    async def _drain(self, http: HTTP1Client) -> None:
        try:
            await http.drain()
        except trio.BrokenResourceError:
            pass  # an engine that has read enough to refuse has answered: the response, or its absence, tells

    def _queue_inbox(self, http: HTTP1Client) -> tuple[int, int]:
        """Move what came into the queue: how many bytes of content that was, and how many of the window."""
        content = flow = 0
        inbox = self._inbox
        while inbox:
            data, size = inbox.popleft()
            http.queue_body(data)
            content += len(data)
            flow += size
        return content, flow

    def _took(self, size: tuple[int, int]) -> None:
        content, flow = size
        if flow:
            self._connection.took(self, content, flow)

    async def _pump(self, http: HTTP1Client) -> None:
        """Stream the request body into the virtual connection. An engine that does not want it has its reasons: its response tells."""
        try:
            while not self.closed:
                size = self._queue_inbox(http)
                ended = self.remote_ended
                if ended:
                    http.queue_end(self.trailers)
                await http.drain()
                self._took(size)
                if ended:
                    return
                await self._wait_for_news()
        except (trio.BrokenResourceError, trio.ClosedResourceError):
            pass

    async def _wait_for_news(self) -> None:
        if not self._inbox and not self.remote_ended and not self.closed:
            self._news = trio.Event()
            await self._news.wait()

    # ----------------------------------------------------------------------------------------------------------------- the response

    async def _read_head(self, http: HTTP1Client) -> Response:
        """The final response head; interim ones go out on the way (RFC 9113 §8.1)."""
        while True:
            response = await http.read_response()
            if response.status >= 200 or response.status == 101:
                return response
            self._put_head(response_fields(response), last=False)

    async def _relay(self, http: HTTP1Client) -> None:
        response = await self._read_head(http)
        if response.status == 101:
            raise IncompleteMessage("a switch of protocols that nobody asked for")
        await self._relay_final(http, response)

    async def _relay_final(self, http: HTTP1Client, response: Response) -> None:
        if (wanted := response.headers.get(b"priority")) is not None:
            self.priority = parse_priority(wanted.encode("latin-1"), self.priority)  # RFC 9218 §8
        self._put_head(response_fields(response), last=http.body_complete)
        if http.body_complete:
            return
        while True:
            piece = http.body_piece()
            if piece:
                self._put_data(piece)
            elif piece is not None:
                break
            else:
                await self._wait_for_room()
                if not await http.fill() and http.body.framing is not Framing.CLOSE:
                    raise IncompleteMessage("the input ended within a body")
        self._put_end(http.trailers)

    def _put_head(self, fields: list[Pair], *, last: bool) -> None:
        self.began = True
        self.outbox.heads.append((fields, last))
        self._connection.ready(self)

    def _put_data(self, data: bytes | bytearray) -> None:
        self.outbox.data += data
        self._connection.ready(self)

    def _put_end(self, trailers: Headers | None = None) -> None:
        self.outbox.ending = True
        if trailers:
            self.outbox.trailers = trailer_fields(trailers)
        self._connection.ready(self)

    async def _wait_for_room(self) -> None:
        """Wait until what was put is written: so a stream holds one read, and its virtual connection the rest."""
        if self.outbox.data and not self.closed:
            self._room = trio.Event()
            await self._room.wait()

    # ------------------------------------------------------------------------------------------------------------------ the tunnel

    async def _tunnel_or_refusal(self, http: HTTP1Client) -> None:
        """CONNECT (RFC 9113 §8.5) and extended CONNECT (RFC 8441): bytes both ways once it was agreed to, a plain response otherwise."""
        response = await self._read_head(http)
        switched = response.status == 101
        if switched and not websocket_accepted(self.head, response):
            raise IncompleteMessage("whoever switched protocols has not read our key")
        if not switched and not (self.head.request.method == "CONNECT" and response.status < 300):
            await self._relay_final(http, response)
            await self.pipe.send_eof()
            return
        response.headers.remove((b"sec-websocket-accept",))
        self._put_head(response_fields(response, 200 if switched else response.status), last=False)
        async with trio.open_nursery() as nursery:
            nursery.start_soon(self._carry_up)
            await self._carry_down(http.take_buffer())

    async def _carry_up(self) -> None:
        try:
            while not self.closed:
                while self._inbox:
                    data, size = self._inbox.popleft()
                    await self.pipe.send_all(data)
                    self._took((len(data), size))
                if self.remote_ended:
                    await self.pipe.send_eof()
                    return
                await self._wait_for_news()
        except (trio.BrokenResourceError, trio.ClosedResourceError):
            pass  # the other direction finds out, and says so

    async def _carry_down(self, data: bytes) -> None:
        while True:
            if data:
                self._put_data(data)
                await self._wait_for_room()
            data = await self.pipe.receive_some(_READ_SIZE)
            if not data:
                break
        self._put_end()
