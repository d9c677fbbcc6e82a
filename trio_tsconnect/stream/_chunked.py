"""Strict reader of the chunked transfer coding (RFC 9112 §7.1).

Invariant: unless `padding` is set, a size line is `1*HEXDIG [chunk-ext] CRLF` and nothing else. Chunk extensions are validated and dropped
(§7.1.1: a recipient ignores unknown ones). The trailer section is returned as bytes, because it is validated and parsed as heads are.
"""

from __future__ import annotations

import re

from trio_tsconnect.message import MessageError
from trio_tsconnect.stream._heads import HeadLimits, head_end, too_large

_TOKEN = rb"[!#$%&'*+\-.^_`|~0-9A-Za-z]+"
_QUOTED = rb'"(?:[\t \x21\x23-\x5b\x5d-\x7e\x80-\xff]|\\[\t \x21-\x7e\x80-\xff])*"'
_SIZE_LINE = re.compile(
    rb"([0-9A-Fa-f]{1,16})((?:[ \t]*;[ \t]*" + _TOKEN + rb"(?:[ \t]*=[ \t]*(?:" + _TOKEN + rb"|" + _QUOTED + rb"))?)*)\r\n"
)
_PADDED_SIZE_LINE = re.compile(rb"([0-9A-Fa-f]{1,16})([ \t]*)\r\n")
_SMALL_CHUNK = re.compile(rb"\r\n([1-9A-Fa-f][0-9A-Fa-f]?)\r\n")  # begins with the CRLF that ends the chunk before it
# In bytes. A piece of this size is returned alone; smaller pieces are joined until they have four times this size.
_SMALL = 4096
# Maximum number of chunks that are joined into one piece.
_MOST_TOGETHER = 256
# Bytes of one size line, and of the chunk extensions of a whole body.
_MAX_LINE = 1024
_MAX_EXTENSIONS = 16384


class ChunkedReader:
    """A reader that removes a chunked body from the front of a buffer.

    Call `next_piece` until it returns `b""`; then `trailer_section` is the trailer section, with its blank line.
    """

    __slots__ = ("_error", "_extensions", "_fault", "_limits", "_padding", "_remaining", "_scanned", "_state", "trailer_section")

    def __init__(self, limits: HeadLimits, error: type[MessageError], *, padding: bool = False) -> None:
        # Accept white space after a chunk size. Some servers send it, but RFC 9112 §7.1 does not allow it.
        self._padding = padding
        self._limits = limits
        self._error = error
        self._fault: MessageError | None = None
        self._state = "size"
        self._remaining = 0
        self._scanned = 0
        self._extensions = 0
        self.trailer_section = b""

    def next_piece(self, buffer: bytearray) -> bytes | None:
        """Return the next bytes of content; None if the buffer holds too few; `b""` after the last chunk and the trailer section.

        Small chunks are returned together, so that the work per piece is not repeated for each byte of a client that sends one byte per
        chunk. Raise the error type of this reader for a malformed body, after the content that precedes the malformed part.
        """
        piece = self._next(buffer)
        if piece is None or not piece or len(piece) >= _SMALL:
            return piece
        parts, size = [piece], len(piece)
        while len(parts) < _MOST_TOGETHER and size < _SMALL * 4 and buffer:
            if self._state == "data end" and _SMALL_CHUNK.match(buffer) and (taken := self._take_small(buffer, parts)):
                size += taken
                continue
            try:
                more = self._next(buffer)
            except MessageError as exc:
                self._fault = exc  # return the content before it first; the next call raises
                break
            if not more:  # the state keeps the end of the body for the next call
                break
            parts.append(more)
            size += len(more)
        return piece if len(parts) == 1 else b"".join(parts)

    def _take_small(self, buffer: bytearray, parts: list[bytes]) -> int:
        """Remove the complete small chunks without extensions from the front of `buffer` and append them to `parts`. Return their size in
        bytes.

        One pass over a copy is cheaper than `_next` for each chunk: a body of one byte per chunk must not delay other connections.
        """
        window, at, size = bytes(buffer[:_SMALL]), 0, 0
        while len(parts) < _MOST_TOGETHER and (found := _SMALL_CHUNK.match(window, at)):
            end = found.end() + int(found[1], 16)
            if end > len(window):
                break
            parts.append(window[found.end() : end])
            size += end - found.end()
            at = end
        del buffer[:at]
        return size

    def _next(self, buffer: bytearray) -> bytes | None:
        if self._fault is not None:
            raise self._fault
        while True:
            if self._state == "data":
                if not buffer:
                    return None
                piece = bytes(buffer[: self._remaining])
                del buffer[: len(piece)]
                self._remaining -= len(piece)
                if not self._remaining:
                    self._state = "data end"
                return piece
            if self._state == "data end":
                if len(buffer) < 2:
                    if buffer and buffer != b"\r":
                        raise self._bad("The chunk data is longer than the chunk size: no CRLF follows it.")
                    return None
                if buffer[:2] != b"\r\n":
                    raise self._bad("The chunk data is longer than the chunk size: no CRLF follows it.")
                del buffer[:2]
                self._state = "size"
            if self._state == "size" and not self._read_size(buffer):
                return None
            if self._state == "trailers" and not self._read_trailers(buffer):
                return None
            if self._state == "end":
                return b""

    def _read_size(self, buffer: bytearray) -> bool:
        end = buffer.find(b"\n", 0, _MAX_LINE)
        if end < 0:
            if len(buffer) >= _MAX_LINE:
                raise self._bad(f"A chunk size line is longer than {_MAX_LINE} bytes.")
            return False
        match = _SIZE_LINE.fullmatch(buffer, 0, end + 1)
        if match is None and self._padding:
            match = _PADDED_SIZE_LINE.fullmatch(buffer, 0, end + 1)
        if match is None:
            raise self._bad(f"The chunk size line {bytes(buffer[: min(end, 40)])!r} is malformed.")
        self._extensions += len(match[2])
        if self._extensions > _MAX_EXTENSIONS:
            raise self._bad(f"More than {_MAX_EXTENSIONS} bytes of chunk extensions.")
        self._remaining = int(match[1], 16)
        # As for Content-Length: a number that does not fit into 64 bits is an attempt to overflow a parser.
        if self._remaining >= 1 << 63:
            raise self._bad("A chunk size does not fit into a signed 64-bit integer.")
        del buffer[: end + 1]
        self._state = "data" if self._remaining else "trailers"
        return True

    def _read_trailers(self, buffer: bytearray) -> bool:
        if buffer[:2] == b"\r\n":
            end = 2
        elif buffer[:1] == b"\n":
            end = 1
        else:
            end = head_end(buffer, self._scanned)
        if (end if end >= 0 else len(buffer)) > self._limits.head:
            raise self._error("head_too_large", f"The trailer section is longer than {self._limits.head} bytes.", too_large(self._error))
        if end < 0:
            self._scanned = len(buffer)
            return False
        self.trailer_section = bytes(buffer[:end])
        del buffer[:end]
        self._state = "end"
        return True

    def _bad(self, detail: str) -> MessageError:
        return self._error("bad_chunk", f"{detail} (RFC 9112 section 7.1)")
