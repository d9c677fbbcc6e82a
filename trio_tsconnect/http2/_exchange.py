"""HTTP/1.1 with the engine, over a stream's virtual connection.

The law: what the engine writes was judged where it came from, and is written by its own serialiser; so here it is only taken apart. The strict
reading that `trio_tsconnect.stream` gives to messages of strangers would be a second one, and would cost more than all the rest of a stream.
What does not have the form that the engine writes is a fault of ours, and ends the stream.
"""

from __future__ import annotations

from functools import lru_cache

import trio

from trio_tsconnect import VirtualConnection
from trio_tsconnect.http2._fields import response_fields
from trio_tsconnect.http2._hpack import Pair

READ_SIZE = 65536


class BrokenOff(Exception):
    """The response ended before its end, or is none."""


class ResponseHead:
    """A response head as HTTP/2 has it."""

    __slots__ = ("chunked", "fields", "length", "priority", "proof", "status")

    def __init__(self, head: bytes) -> None:
        line, *lines = head.split(b"\r\n")
        self.status = int(line[9:12])
        self.length: int | None = None
        self.chunked = False
        self.priority: bytes | None = None
        """The value of its Priority field (RFC 9218 §8)."""
        self.proof: bytes | None = None
        """The value of its Sec-WebSocket-Accept field."""
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


_known_field = lru_cache(maxsize=512)(_field)  # most lines of a response are those of the last one
_LONG = 256

_NOTED = frozenset({b"content-length", b"transfer-encoding", b"priority", b"sec-websocket-accept"})


class Exchange:
    """One request and its response, in the client's role. `BrokenOff`, or trio's errors, when the engine breaks it off."""

    __slots__ = ("_buffer", "_chunked", "_complete", "_in_chunk", "_left", "_method", "pipe", "trailers")

    def __init__(self, pipe: VirtualConnection, method: bytes, begun: bytes = b"") -> None:
        self.pipe = pipe
        self._complete = False
        self.trailers: list[Pair] | None = None
        """The trailer fields, once the body was read."""
        self._method = method
        self._buffer = begun
        self._chunked = False
        self._in_chunk = False
        self._left: int | None = None

    def is_complete(self) -> bool:
        """Whether the response was read to its end."""
        return self._complete

    async def fill(self) -> bool:
        """Read what comes next; False at the end of input."""
        data = await self.pipe.receive_some(READ_SIZE)
        self._buffer = self._buffer + data if self._buffer else data
        return bool(data)

    def take_rest(self) -> bytes:
        """What was read and is not of the head: the beginning of what follows it in a tunnel."""
        data, self._buffer = self._buffer, b""
        return data

    async def read_head(self) -> ResponseHead:
        """The next head, an interim one included."""
        while (end := self._buffer.find(b"\r\n\r\n")) < 0:
            if not await self.fill():
                raise BrokenOff("there is no response")
        try:
            head = ResponseHead(self._buffer[:end])
        except ValueError:
            raise BrokenOff("this is no response") from None
        self._buffer = self._buffer[end + 4 :]
        if head.status >= 200:
            self._chunked, self._left = head.chunked, head.length
            if _has_no_body(self._method, head):
                self._complete = True
        return head

    def next_piece(self) -> bytes | None:
        """What was read of the body; None when more must be read first, or when it is complete."""
        if self._chunked:
            return self._next_chunks()
        data, self._buffer = self._buffer, b""
        if self._left is not None and data:
            if len(data) > self._left:
                raise BrokenOff("the body is longer than its length")
            self._left -= len(data)
            self._complete = not self._left
        return data or None

    def input_ended(self) -> None:
        """There is no more: right for a body that ends with its connection, and a fault for any other."""
        if self._chunked or self._left is not None:
            raise BrokenOff("the response is not complete")
        self._complete = True

    def _next_chunks(self) -> bytes | None:
        """The content of all chunks that are here (RFC 9112 §7.1)."""
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
                        raise BrokenOff("a chunk is longer than its size")
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
            raise BrokenOff("this is no chunk") from None
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
    """A response to this method and its content, if that is what the bytes are, and it is nothing out of the ordinary."""
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
    """Content as one chunk."""
    return b"%x\r\n%b\r\n" % (len(data), data)


def frame_end(trailers: list[Pair] | None) -> bytes:
    """The last chunk and the trailers."""
    if not trailers:
        return b"0\r\n\r\n"
    return b"0\r\n%b\r\n" % b"".join([b"%b: %b\r\n" % pair for pair in trailers])


async def send_quietly(pipe: VirtualConnection, data: bytes) -> None:
    """Write; an engine that has read enough to refuse has answered, and the response, or its absence, tells."""
    try:
        await pipe.send_all(data)
    except trio.BrokenResourceError:
        pass
