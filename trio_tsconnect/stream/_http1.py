"""HTTP/1.1 over any trio stream: the part that servers and clients share.

Invariant: every byte that is read passes the strict checks of `_heads` and `_chunked` and the rules of `message/` before a caller sees it.
No type of h11 is visible outside `stream/`.

Reading and writing are independent, so one task may read while another writes. Output is queued until `drain`, so that a head and the
available part of its body are sent in one write. A caller must drain before it waits for anything that depends on the output.
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

# Bytes: of one read, and of queued output at which callers drain.
READ_SIZE = 65536
DRAIN_ABOVE = 65536
LENIENCES = frozenset({"chunk_padding", "status"})
"""Deviations that may be accepted from an origin: white space after a chunk size, and a status above 599."""
# Bytes: if more is queued, the head is written separately.
_HEAD_ALONE_ABOVE = 32768
_MOST_EMPTY_LINES = 8


@public("trio_tsconnect.stream")
class IncompleteMessage(Exception):
    """The peer ended its input within a message. `began` is True if any byte of that message was received."""

    def __init__(self, detail: str, *, began: bool = True) -> None:
        super().__init__(detail)
        self.began = began


class HTTP1Connection:
    """Base class of both roles: the input buffer, bodies in both directions, and the output queue."""

    _error: ClassVar[type[MessageError]]
    _reading_requests: ClassVar[bool]

    lenient: Container[str] = ()
    """The deviations that are accepted from this peer: members of `LENIENCES`."""
    _listed: frozenset[bytes] = frozenset()  # names that Connection listed in the last head that was read
    trailers: Headers | None = None
    """The trailer fields of the last message that was read, after its body was read completely; None if there were none."""
    body: Body = NO_BODY
    """The framing of the body of the last message that was read."""

    # Initial state. A class attribute costs an instance nothing until it is assigned.
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
    response_head_size: int = 0
    """Bytes of the last response head that was queued."""
    head_sent: bool = False
    """True if the last final head that was queued has been written to the stream completely."""

    def __init__(self, stream: trio.abc.Stream, *, limits: HeadLimits | None = None, parser: Parser = "h11") -> None:
        self.stream = stream
        self.limits: HeadLimits = limits or HeadLimits()
        self._parser: HeadParser = load_parser(parser)
        self._buffer = bytearray()
        self._queue: list[bytes | bytearray] = []
        self._flushes: Any = stream if getattr(stream, "flush", None) is not None else None
        # For I/O that never blocks. None if the stream wraps a virtual connection: the wrapper may hold bytes that must be read first.
        self._virtual: VirtualConnection | None = stream if isinstance(stream, VirtualConnection) else None

    # ------------------------------------------------------------------------------------------------------------------ reading

    async def fill(self) -> bool:
        """Read more input into the buffer; block until there is some. Return False at the end of input, and at every later call."""
        if self._ended:
            return False
        data = await self.stream.receive_some(READ_SIZE)
        if not data:
            self._ended = True
            return False
        self._buffer += data
        return True

    def fill_now(self) -> bool:
        """Read available input of a virtual connection, without a checkpoint. Return True if there was any; False for other streams."""
        if self._virtual is None or self._ended:
            return False
        try:
            data = self._virtual.receive_nowait(READ_SIZE)
        except trio.WouldBlock:
            return False
        self.feed(data)
        return bool(data)

    def feed(self, data: bytes) -> None:
        """Add bytes that other code has read from the stream to the buffer; `b""` is the end of input."""
        if data:
            self._buffer += data
        else:
            self._ended = True

    @property
    def buffered(self) -> int:
        """Number of bytes that were read from the stream and not used yet."""
        return len(self._buffer)

    @property
    def input_ended(self) -> bool:
        """True if the end of input was read. The buffer may still hold bytes."""
        return self._ended

    def take_buffer(self) -> bytes:
        """Remove and return the unused bytes. After an upgrade they are the first bytes of the new protocol."""
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
            # Not a method, for example a TLS ClientHello: reject it now. Waiting for the end of a head would only end in a timeout.
            if self._reading_requests and buffer and not 0x21 <= buffer[0] <= 0x7E:
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
    def head_size(self) -> int:
        """Bytes of the last head that was read."""
        return len(self._head)

    @property
    def body_complete(self) -> bool:
        """True if the body of the last message was read completely."""
        return self._body_read

    def body_piece(self) -> bytes | bytearray | None:
        """Return buffered bytes of the body; `b""` at its end; None if more input is needed (`fill`)."""
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
            # A field that Connection listed is for this connection only (RFC 9110 §7.6.1), also as a trailer.
            trailers.remove(self._listed)
            self.trailers = trailers
        self._finish_body()

    async def receive_body(self) -> bytes | bytearray:
        """Return the next bytes of the body, or `b""` at its end. Raise `IncompleteMessage` if the input ends within the body."""
        while (piece := self.body_piece()) is None:
            if not await self.fill() and self.body.framing is not Framing.CLOSE:
                raise IncompleteMessage("the input ended within a body")
        return piece

    # ------------------------------------------------------------------------------------------------------------------ writing

    @property
    def queued(self) -> int:
        """Number of bytes that wait for `drain`."""
        return self._queued

    def _put(self, data: bytes | bytearray) -> None:
        self._queue.append(data)
        self._queued += len(data)

    def queue_body(self, data: bytes | bytearray) -> None:
        """Queue a piece of the body; an empty piece adds nothing. Raise ValueError if the body exceeds its Content-Length."""
        if not data:
            return
        if self._sending.framing is Framing.CHUNKED:
            self._put(b"%x\r\n" % len(data))
            self._put(data)
            self._put(b"\r\n")
        else:
            self._unsent -= len(data)
            if self._unsent < 0 and self._sending.framing is Framing.LENGTH:
                raise ValueError("the body is longer than the Content-Length of its head")
            self._put(data)

    def queue_end(self, trailers: Headers | None = None) -> None:
        """End the body. Raise ValueError if it is shorter than its Content-Length.

        Trailers are sent only with a chunked body. Otherwise they are dropped, because HTTP/1.1 has no place for them.
        """
        if self._sending.framing is Framing.CHUNKED:
            self._put(b"0\r\n" + fields_to_bytes(trailers) + b"\r\n" if trailers else b"0\r\n\r\n")
        elif self._unsent and self._sending.framing is Framing.LENGTH:
            raise ValueError("the body is shorter than the Content-Length of its head")
        self._sent = True

    def _joined(self) -> bytes | bytearray:
        return self._queue[0] if len(self._queue) == 1 else b"".join(self._queue)

    def drain_now(self) -> bool:
        """Write the queue at once if the stream is a virtual connection that has room for it. Never blocks, and is not a checkpoint.

        Return True if the queue is empty afterwards. Otherwise nothing was written.
        """
        if self._queue and self._virtual is not None:
            try:
                self._virtual.send_nowait(self._joined())  # all or nothing: if it raises, the queue stays complete
            except trio.WouldBlock:
                return False
            self._queue.clear()
            self._queued = 0
            self._note_head()
            self._virtual.flush()
        return not self._queue

    def _expect_head(self) -> None:
        """Record that the next item that is queued is a final head."""
        self._head_in_queue, self.head_sent = True, False

    def _take_queue(self) -> bytes | bytearray:
        data = self._joined()
        self._queue.clear()
        self._queued = 0
        return data

    async def _send_head(self, data: bytes | bytearray) -> None:
        self._head_in_queue = False  # before the write: after its first byte, `take_back` must not drop the head
        self._queued = max(0, self._queued - len(data))
        await self.stream.send_all(data)
        self.head_sent = True

    def _note_head(self) -> None:
        self.head_sent = self.head_sent or self._head_in_queue
        self._head_in_queue = False

    async def drain(self) -> None:
        """Write the queue and flush the stream. A checkpoint only if the queue was not empty.

        If cancelled, a part may have been written: the connection cannot be used again, and `HTTP1Client.reusable` is False from then on.
        """
        if self._queue:
            self._writing = True  # until all is written: stays True if cancelled, because the message may be cut at any byte
            if self._head_in_queue:
                if self._queued > _HEAD_ALONE_ABOVE:
                    # Alone, so that `head_sent` is set even if the peer reads the body slowly.
                    await self._send_head(self._queue.pop(0))
                else:
                    await self._send_head(self._take_queue())
            if self._queue:
                await self.stream.send_all(self._take_queue())
            self._writing = False
            if self._flushes is not None:
                self._flushes.flush()


def to_headers(event: Any) -> Headers:
    """Return the fields of a head or a trailer section that h11 has parsed."""
    return Headers.from_parsed([(raw, raw.lower(), value) for raw, value in event.headers.raw_items()])
