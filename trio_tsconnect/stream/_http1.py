"""HTTP/1.1 over any trio stream, both roles.

The law: every byte that is read passes the strict checks of `_heads` and `_chunked` and the rules of `message/` before anybody sees it,
and nothing of h11 shows outside of this room.

A connection reads and writes separately, so one task may do each. What is written is queued until `drain`, so that a head and the
body that is at hand go out in one write; whoever is about to wait for something drains first.
"""

from __future__ import annotations

from collections.abc import Container
from typing import Any, ClassVar

import trio

from trio_tsconnect._util import public
from trio_tsconnect.message import (
    NO_BODY,
    Body,
    Framing,
    Headers,
    MessageError,
    check_trailers,
)
from trio_tsconnect.stream._chunked import ChunkedReader
from trio_tsconnect.stream._heads import (
    HeadLimits,
    check_head_bytes,
    check_head_size,
    fields_to_bytes,
    head_end,
)
from trio_tsconnect.stream._machine import HeadParser, Parser, load_parser
from trio_tsconnect.stream._virtual import VirtualConnection

READ_SIZE = 65536
DRAIN_ABOVE = 65536
LENIENCES = frozenset({"chunk_padding", "status"})
"""What an origin may be forgiven: white space after the size of a chunk, and a status above 599."""
_HEAD_ALONE_ABOVE = 32768
_MOST_EMPTY_LINES = 8


@public("trio_tsconnect.stream")
class IncompleteMessage(Exception):
    """The peer ended its input in the middle of a message. `began`: whether any byte of that message had come."""

    def __init__(self, detail: str, *, began: bool = True) -> None:
        super().__init__(detail)
        self.began = began


class HTTP1Connection:
    """What both roles share: the buffer, bodies both ways, and the queue of what is written."""

    _error: ClassVar[type[MessageError]]
    _reading_requests: ClassVar[bool]

    lenient: Container[str] = ()
    """What the peer is forgiven, of `LENIENCES`."""
    _listed: frozenset[bytes] = frozenset()  # what Connection listed in the head that was read last
    trailers: Headers | None = None
    """The trailer fields of the message that was read last, once its body was read to the end; None without any."""
    body: Body = NO_BODY
    """How the body of the message that was read last is framed."""

    # how each connection begins; an attribute of the class costs one nothing until it changes
    _scanned = 0
    _head = b""
    _ended = False
    _remaining = 0
    _chunks: ChunkedReader | None = None
    _body_read = True
    _sending: Body = NO_BODY
    _unsent = 0
    _sent = True
    _writing = False
    _queued = 0
    _head_in_queue = False
    head_sent: bool = False
    """Whether the final head that was queued last has been handed to the stream whole."""

    def __init__(self, stream: trio.abc.Stream, *, limits: HeadLimits | None = None, parser: Parser = "h11") -> None:
        self.stream = stream
        self.limits: HeadLimits = limits or HeadLimits()
        self._parser: HeadParser = load_parser(parser)
        self._buffer = bytearray()
        self._queue: list[bytes | bytearray] = []
        self._flushes: Any = stream if getattr(stream, "flush", None) is not None else None
        # Its bytes are there, or fit, without a turn of the loop. (Never a stream around one: that may have bytes of its own to give first.)
        self._virtual: VirtualConnection | None = stream if isinstance(stream, VirtualConnection) else None

    # ------------------------------------------------------------------------------------------------------------------ reading

    async def fill(self) -> bool:
        """Read what comes next into the buffer; False at the end of input, for good."""
        if self._ended:
            return False
        data = await self.stream.receive_some(READ_SIZE)
        if not data:
            self._ended = True
            return False
        self._buffer += data
        return True

    def fill_now(self) -> bool:
        """Take what has come already, if this stream can tell; whether that was anything. Never waits, and is no checkpoint."""
        if self._virtual is None or self._ended:
            return False
        try:
            data = self._virtual.receive_nowait(READ_SIZE)
        except trio.WouldBlock:
            return False
        self.feed(data)
        return bool(data)

    def feed(self, data: bytes) -> None:
        """Put bytes that someone else has read from the stream into the buffer; `b""` is the end of input."""
        if data:
            self._buffer += data
        else:
            self._ended = True

    @property
    def buffered(self) -> int:
        """Bytes read from the stream and not used yet."""
        return len(self._buffer)

    @property
    def input_ended(self) -> bool:
        """Whether the end of input has been seen; there may still be bytes in the buffer."""
        return self._ended

    def take_buffer(self) -> bytes:
        """Take the unused bytes out: the beginning of what follows an upgrade."""
        data = bytes(self._buffer)
        self._buffer.clear()
        return data

    async def _read_head(self) -> bytes:
        while (head := self._head_now()) is None:
            if not await self.fill():
                raise IncompleteMessage("the input ended within a head", began=bool(self._buffer))
        return head

    def _head_now(self) -> bytes | None:
        buffer = self._buffer
        end = head_end(buffer, self._scanned)
        check_head_size(buffer, end, self.limits, self._error, request=self._reading_requests)
        if end < 0:
            if self._reading_requests and buffer and not 0x21 <= buffer[0] <= 0x7E:  # a TLS hello, say: there is nothing to wait for
                raise self._error("malformed_head", "The request does not begin with a method.")
            self._scanned = len(buffer)
            return None
        self._scanned = 0
        self._head = head = bytes(buffer[:end])
        del buffer[:end]
        check_head_bytes(head, self.limits, self._error)
        return head

    def _expect_body(self, body: Body) -> None:
        self.body = body
        self.trailers = None
        self._body_read = False
        match body.framing:
            case Framing.CHUNKED:
                self._chunks = ChunkedReader(self.limits, self._error, padding="chunk_padding" in self.lenient)
            case Framing.LENGTH if body.length:
                self._remaining = body.length
            case Framing.NONE | Framing.LENGTH:
                self._finish_body()
            case _:
                pass

    def _finish_body(self) -> None:
        self._body_read = True
        self._chunks = None

    @property
    def body_complete(self) -> bool:
        """Whether the body of the message that was read last has been read to its end."""
        return self._body_read

    def body_piece(self) -> bytes | bytearray | None:
        """What the buffer holds of the body: some bytes; `b""` at its end; None when more must be read (`fill`)."""
        if self._body_read:
            return b""
        if self._chunks is not None:
            piece = self._chunks.next_piece(self._buffer)
            if piece == b"":
                self._end_chunked(self._chunks.trailer_section)
            return piece
        if not self._buffer:
            if self._ended and self.body.framing is Framing.CLOSE:
                self._finish_body()
                return b""
            return None
        if self.body.framing is Framing.LENGTH:
            data = bytes(self._buffer[: self._remaining])
            del self._buffer[: len(data)]
            self._remaining -= len(data)
        else:
            data = self.take_buffer()
        if self.body.framing is Framing.LENGTH and not self._remaining:
            self._finish_body()
        return data

    def _end_chunked(self, section: bytes) -> None:
        check_head_bytes(section, self.limits, self._error, start_line=False)
        if len(section) > 2:
            try:
                event = self._parser.trailers(section)
            except self._parser.error as exc:
                raise self._error("malformed_trailers", f"The trailer section is malformed: {exc}") from None
            trailers = to_headers(event)
            check_trailers(trailers, self._error)
            trailers.remove(self._listed)
            self.trailers = trailers
        self._finish_body()

    async def receive_body(self) -> bytes | bytearray:
        """The next bytes of the body, `b""` at its end. `IncompleteMessage` when the input ends before it does."""
        while (piece := self.body_piece()) is None:
            if not await self.fill() and self.body.framing is not Framing.CLOSE:
                raise IncompleteMessage("the input ended within a body")
        return piece

    # ------------------------------------------------------------------------------------------------------------------ writing

    @property
    def queued(self) -> int:
        """Bytes that wait to be written by `drain`."""
        return self._queued

    def _put(self, data: bytes | bytearray) -> None:
        self._queue.append(data)
        self._queued += len(data)

    def queue_body(self, data: bytes | bytearray) -> None:
        """Add a piece of the body; an empty one adds nothing. `ValueError` for more than the head has announced."""
        if not data:
            return
        if self._sending.framing is Framing.CHUNKED:
            self._put(b"%x\r\n" % len(data))
            self._put(data)
            self._put(b"\r\n")
        else:
            self._unsent -= len(data)
            if self._unsent < 0 and self._sending.framing is Framing.LENGTH:
                raise ValueError("more body than its head has announced")
            self._put(data)

    def queue_end(self, trailers: Headers | None = None) -> None:
        """End the body; `ValueError` when it is shorter than its head has announced.

        Trailers go out only on a chunked one; elsewhere there is no place for them.
        """
        if self._sending.framing is Framing.CHUNKED:
            self._put(b"0\r\n" + fields_to_bytes(trailers) + b"\r\n" if trailers else b"0\r\n\r\n")
        elif self._unsent and self._sending.framing is Framing.LENGTH:
            raise ValueError("less body than its head has announced")
        self._sent = True

    def _joined(self) -> bytes | bytearray:
        return self._queue[0] if len(self._queue) == 1 else b"".join(self._queue)

    def drain_now(self) -> bool:
        """Write all that is queued, if this stream takes it at once; whether it has. Never waits, and is no checkpoint."""
        if self._queue and self._virtual is not None:
            try:
                self._virtual.send_nowait(self._joined())
            except trio.WouldBlock:
                return False
            self._queue.clear()
            self._queued = 0
            self._note_head()
            self._virtual.flush()
        return not self._queue

    def _expect_head(self) -> None:
        """What is queued next is a final head."""
        self._head_in_queue, self.head_sent = True, False

    def _take_queue(self) -> bytes | bytearray:
        data = self._joined()
        self._queue.clear()
        self._queued = 0
        return data

    async def _send_head(self, data: bytes | bytearray) -> None:
        self._head_in_queue = False
        self._queued = max(0, self._queued - len(data))
        await self.stream.send_all(data)
        self.head_sent = True

    def _note_head(self) -> None:
        self.head_sent = self.head_sent or self._head_in_queue
        self._head_in_queue = False

    async def drain(self) -> None:
        """Write all that is queued, in one piece, and let the peer see it at once. A checkpoint only if there is something.

        When this is cancelled a part may have been written: the connection is of no more use.
        """
        if self._queue:
            self._writing = True  # until it has returned: whoever cancels it leaves a message that was cut anywhere
            if self._head_in_queue:
                if self._queued > _HEAD_ALONE_ABOVE:
                    # So that it is known whether the peer has a head, however long it takes to read what follows.
                    await self._send_head(self._queue.pop(0))
                else:
                    await self._send_head(self._take_queue())
            if self._queue:
                await self.stream.send_all(self._take_queue())
            self._writing = False
            if self._flushes is not None:
                self._flushes.flush()


def to_headers(event: Any) -> Headers:
    """The fields of a head or trailer section that h11 has parsed."""
    return Headers.from_parsed([(raw, raw.lower(), value) for raw, value in event.headers.raw_items()])
