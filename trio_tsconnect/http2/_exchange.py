"""HTTP/1.1 with the engine, over the virtual connection of a stream.

Invariant: this module only parses what the engine's own serializer has written, and does not validate it. The engine has validated each
response when it received it from the origin. A second strict parse, with the parsers of `trio_tsconnect.stream`, would cost more than
everything else that a stream does. A response of another form is an error of the proxy and raises `BrokenOff`, which ends the stream.
"""

from __future__ import annotations

from functools import lru_cache

import trio

from trio_tsconnect import VirtualConnection
from trio_tsconnect.http2._fields import response_fields
from trio_tsconnect.http2._hpack import Pair

READ_SIZE = 65536
"""Bytes to read from a virtual connection at once, at most."""


class BrokenOff(Exception):
    """The engine's response is incomplete, missing or malformed."""


class ResponseHead:
    """A response head, converted to HTTP/2. Raises `ValueError` if the status or Content-Length is no number."""

    __slots__ = ("chunked", "fields", "length", "priority", "proof", "status")

    def __init__(self, head: bytes) -> None:
        line, *lines = head.split(b"\r\n")
        self.status = int(line[9:12])
        self.length: int | None = None
        """Content-Length, None if there is none."""
        self.chunked = False
        """True if there is a Transfer-Encoding field."""
        self.priority: bytes | None = None
        """Value of the Priority field (RFC 9218 §8)."""
        self.proof: bytes | None = None
        """Value of the Sec-WebSocket-Accept field."""
        fields = [(b":status", line[9:12])]
        for each in lines:
            field = _known_field(each) if len(each) < _LONG else _field(each)
            name, value = field
            if name in _NOTED:
                if name == b"content-length":
                    self.length = int(value)
                elif name == b"transfer-encoding":
                    self.chunked = True
                elif name == b"priority":
                    self.priority = value
                elif name == b"sec-websocket-accept":
                    self.proof = value
            fields.append(field)
        self.fields = response_fields(fields)


def _field(line: bytes) -> Pair:
    name, _, value = line.partition(b":")
    return name.lower(), value.strip(b" ")


_known_field = lru_cache(maxsize=512)(_field)  # most field lines repeat from one response to the next
_LONG = 256
"""Bytes; longer field lines are not cached, which bounds the memory of the cache."""

_NOTED = frozenset({b"content-length", b"transfer-encoding", b"priority", b"sec-websocket-accept"})


class Exchange:
    """A parser of the response to one request, incremental.

    `begun`: bytes of the response that were read already. Methods raise `BrokenOff` for an incomplete or malformed response; those that
    read also raise trio's `BrokenResourceError` and `ClosedResourceError`.
    """

    __slots__ = ("_buffer", "_chunked", "_complete", "_in_chunk", "_left", "_method", "pipe", "trailers")

    def __init__(self, pipe: VirtualConnection, method: bytes, begun: bytes = b"") -> None:
        self.pipe = pipe
        self._complete = False
        self.trailers: list[Pair] | None = None
        """Trailer fields, set when the response is complete; None if there are none."""
        self._method = method
        self._buffer = begun
        self._chunked = False
        self._in_chunk = False
        self._left: int | None = None

    def is_complete(self) -> bool:
        """Return True if the response was read to its end."""
        return self._complete

    async def fill(self) -> bool:
        """Read more bytes into the buffer. Return False at the end of input."""
        data = await self.pipe.receive_some(READ_SIZE)
        self._buffer = self._buffer + data if self._buffer else data
        return bool(data)

    def take_rest(self) -> bytes:
        """Return and remove the bytes that follow the head in the buffer: the first bytes of a tunnel."""
        data, self._buffer = self._buffer, b""
        return data

    async def read_head(self) -> ResponseHead:
        """Read the next head, interim or final."""
        while (end := self._buffer.find(b"\r\n\r\n")) < 0:
            if not await self.fill():
                raise BrokenOff("the engine closed the connection without a response")
        try:
            head = ResponseHead(self._buffer[:end])
        except ValueError:
            raise BrokenOff("malformed response head from the engine") from None
        self._buffer = self._buffer[end + 4 :]
        if head.status >= 200:
            self._chunked, self._left = head.chunked, head.length
            if _has_no_body(self._method, head):
                self._complete = True
        return head

    def next_piece(self) -> bytes | None:
        """Return the content that is buffered. None if more must be read first (`fill`), or if the response is complete."""
        if self._chunked:
            return self._next_chunks()
        data, self._buffer = self._buffer, b""
        if self._left is not None and data:
            if len(data) > self._left:
                raise BrokenOff("response content is longer than its Content-Length")
            self._left -= len(data)
            self._complete = not self._left
        return data or None

    def input_ended(self) -> None:
        """Handle the end of input: it completes a body without Content-Length and chunked coding, and raises `BrokenOff` for any other."""
        if self._chunked or self._left is not None:
            raise BrokenOff("the engine closed the connection before the response was complete")
        self._complete = True

    def _next_chunks(self) -> bytes | None:
        """Return the content of all chunks in the buffer (RFC 9112 §7.1). A chunk may be returned in parts."""
        buffer, position, pieces = self._buffer, 0, []
        try:
            while not self._complete:
                if self._in_chunk:
                    left = self._left or 0
                    piece = buffer[position : position + left]
                    position += len(piece)
                    self._left = left - len(piece)
                    if piece:
                        pieces.append(piece)
                    if self._left or len(buffer) < position + 2:
                        break
                    if buffer[position : position + 2] != b"\r\n":
                        raise BrokenOff("chunk from the engine is longer than its size")
                    position += 2
                    self._in_chunk = False
                end = buffer.find(b"\r\n", position)
                if end < 0:
                    break
                size = int(buffer[position:end], 16)
                if size:
                    position, self._left, self._in_chunk = end + 2, size, True
                elif not self._read_trailers(end):
                    break
        except ValueError:
            raise BrokenOff("malformed chunk size from the engine") from None
        self._buffer = buffer[position:]
        return (pieces[0] if len(pieces) == 1 else b"".join(pieces)) or None

    def _read_trailers(self, start: int) -> bool:
        end = self._buffer.find(b"\r\n\r\n", start)
        if end < 0:
            return False
        lines = self._buffer[start + 2 : end].split(b"\r\n") if end > start else []
        if lines:
            pairs = [line.partition(b":") for line in lines]
            self.trailers = response_fields([(name.lower(), value.strip(b" ")) for name, _, value in pairs])
        self._complete = True
        return True


def read_whole(data: bytes, method: bytes) -> tuple[ResponseHead, bytes] | None:
    """Parse a complete final response to a request with this method. Return its head and content.

    Return None if the response is incomplete, interim, chunked, malformed, or has neither Content-Length nor a known empty body.
    """
    end = data.find(b"\r\n\r\n")
    if end < 0:
        return None
    try:
        head = ResponseHead(data[:end])
    except ValueError:
        return None
    size = len(data) - end - 4
    if head.status < 200 or head.chunked or size != (0 if _has_no_body(method, head) else head.length):
        return None
    return head, data[end + 4 :]


def _has_no_body(method: bytes, head: ResponseHead) -> bool:
    return method == b"HEAD" or head.status in (204, 304) or (head.length == 0 and not head.chunked)


def frame_chunk(data: bytes) -> bytes:
    """Return content as one chunk. It must not be empty: an empty chunk ends the body."""
    return b"%x\r\n%b\r\n" % (len(data), data)


def frame_end(trailers: list[Pair] | None) -> bytes:
    """Return the last chunk and the trailer section."""
    if not trailers:
        return b"0\r\n\r\n"
    return b"0\r\n%b\r\n" % b"".join([b"%b: %b\r\n" % pair for pair in trailers])


async def send_quietly(pipe: VirtualConnection, data: bytes) -> None:
    """Send `data`, ignoring `trio.BrokenResourceError`: the engine may respond, and stop reading, before it has read the whole request."""
    try:
        await pipe.send_all(data)
    except trio.BrokenResourceError:
        pass  # reading the response shows if there is one
