"""The frame layer (RFC 9113 §4): split bytes into frames, validate frame headers, serialize frames.

Invariant: h2 receives only complete frames of at most `MAX_FRAME` bytes of payload, one at a time. So h2 never buffers a large partial
frame, and all frames received before an invalid one are processed.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator
from typing import Final

from trio_tsconnect.http2._errors import ConnectionFault, ErrorCode

PREFACE: Final = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"
"""The first bytes that a client sends (RFC 9113 §3.4)."""
MAX_FRAME: Final = 16384
"""Payload bytes. The default of SETTINGS_MAX_FRAME_SIZE (RFC 9113 §4.2); we announce no other value, so larger frames are rejected."""

DATA: Final = 0x0
HEADERS: Final = 0x1
PRIORITY: Final = 0x2
RST_STREAM: Final = 0x3
SETTINGS: Final = 0x4
PUSH_PROMISE: Final = 0x5
PING: Final = 0x6
GOAWAY: Final = 0x7
WINDOW_UPDATE: Final = 0x8
CONTINUATION: Final = 0x9
PRIORITY_UPDATE: Final = 0x10  # RFC 9218 §7.1

END_STREAM: Final = 0x1
ACK: Final = 0x1
END_HEADERS: Final = 0x4
PADDED: Final = 0x8
HAS_PRIORITY: Final = 0x20

HEAD: Final = 9
"""Bytes of a frame header, which precedes the payload."""

_HEAD = struct.Struct(">HBBBL")
_TWO = struct.Struct(">LL")
_SETTING = struct.Struct(">HL")
_ON_CONNECTION = frozenset({SETTINGS, PING, GOAWAY, PRIORITY_UPDATE})
_ON_STREAMS = frozenset({DATA, HEADERS, PRIORITY, RST_STREAM, CONTINUATION})
_EXACT = {RST_STREAM: 4, PING: 8, WINDOW_UPDATE: 4}

_ANY = (0, 0xFFFFFFFF, ErrorCode.PROTOCOL_ERROR)
_BOUNDS = {
    0x2: (0, 1, ErrorCode.PROTOCOL_ERROR),
    0x4: (0, 0x7FFFFFFF, ErrorCode.FLOW_CONTROL_ERROR),
    0x5: (16384, 0xFFFFFF, ErrorCode.PROTOCOL_ERROR),
    0x8: (0, 1, ErrorCode.PROTOCOL_ERROR),
    0x9: (0, 1, ErrorCode.PROTOCOL_ERROR),
}
"""For each setting that has bounds: the minimum, the maximum, and the error code for a value outside them."""

Frame = tuple[int, int, int, bytes]
"""Type, flags, stream identifier, and the bytes of the frame, including its header."""


class FrameReader:
    """Splits the bytes from a client into frames."""

    __slots__ = ("_rest", "began")

    def __init__(self) -> None:
        self._rest = b""
        self.began = False
        """True once the complete preface was received."""

    @property
    def partial(self) -> int:
        """Number of bytes buffered of an incomplete frame."""
        return len(self._rest)

    def feed(self, data: bytes) -> Iterator[Frame]:
        """Yield the frames that `data` completes, and buffer the rest.

        Exhaust the iterator before the next call: the rest is buffered when the iterator ends. Raises `ConnectionFault`, while iterating,
        for an invalid preface or frame header. The length is checked before the payload is received, so at most one frame is buffered.
        """
        if self._rest:
            data = self._rest + data
        position = 0
        if not self.began:
            self._rest = data
            if data[: len(PREFACE)] != PREFACE[: len(data)]:
                raise ConnectionFault(ErrorCode.PROTOCOL_ERROR, "invalid connection preface, expected 'PRI * HTTP/2.0'")
            if len(data) < len(PREFACE):
                return
            self.began = True
            position = len(PREFACE)
        end = len(data)
        try:
            while end - position >= HEAD:
                high, low, kind, flags, stream = _HEAD.unpack_from(data, position)
                length = high << 8 | low
                if length > MAX_FRAME:
                    raise ConnectionFault(ErrorCode.FRAME_SIZE_ERROR, f"frame of {length} bytes, expected at most {MAX_FRAME}")
                if end - position < HEAD + length:
                    break
                stream &= 0x7FFFFFFF
                _check_frame(kind, flags, stream, length)
                frame = data[position : position + HEAD + length]
                position += HEAD + length
                yield kind, flags, stream, frame
        finally:
            self._rest = data[position:]


def _check_frame(kind: int, flags: int, stream: int, length: int) -> None:
    """Raise `ConnectionFault` if the length or the stream identifier is invalid for the type of frame (RFC 9113 §6).

    The length of PRIORITY is not checked here: a wrong one is a stream error (§6.3).
    """
    if (kind in _EXACT and length != _EXACT[kind]) or (kind == SETTINGS and (length % 6 or (flags & ACK and length))):
        raise ConnectionFault(ErrorCode.FRAME_SIZE_ERROR, f"invalid length {length} of a frame of type {kind}")
    if (kind == GOAWAY and length < 8) or (kind == PRIORITY_UPDATE and length < 4):
        raise ConnectionFault(ErrorCode.FRAME_SIZE_ERROR, f"invalid length {length} of a frame of type {kind}")
    if (kind in _ON_CONNECTION and stream) or (kind in _ON_STREAMS and not stream):
        raise ConnectionFault(ErrorCode.PROTOCOL_ERROR, f"frame of type {kind} not allowed on stream {stream}")
    if kind == PUSH_PROMISE:
        raise ConnectionFault(ErrorCode.PROTOCOL_ERROR, "a client must not send PUSH_PROMISE")


def make_frame(kind: int, flags: int, stream: int, payload: bytes) -> bytes:
    """Return a serialized frame."""
    return _HEAD.pack(len(payload) >> 8, len(payload) & 0xFF, kind, flags, stream) + payload


def goaway(last_stream: int, code: int, detail: str = "") -> bytes:
    """Return a GOAWAY frame (RFC 9113 §6.8). `detail` becomes its debug data; characters outside ASCII become question marks."""
    return make_frame(GOAWAY, 0, 0, _TWO.pack(last_stream, code) + detail.encode("ascii", "replace"))


def rst_stream(stream: int, code: int) -> bytes:
    """Return a RST_STREAM frame (RFC 9113 §6.4)."""
    return make_frame(RST_STREAM, 0, stream, code.to_bytes(4, "big"))


def settings_of(frame: bytes) -> list[tuple[int, int]]:
    """Parse a SETTINGS frame into pairs of identifier and value, in the order of the frame. Unknown and repeated settings are included.

    Raises `ConnectionFault` for a value out of bounds (RFC 9113 §6.5.2, RFC 8441 §3, RFC 9218 §2.1).
    """
    values = list(_SETTING.iter_unpack(frame[HEAD:]))
    for number, value in values:
        least, most, code = _BOUNDS.get(number, _ANY)
        if not least <= value <= most:
            raise ConnectionFault(code, f"setting {number} is {value}, expected {least} to {most}")
    return values


def settings_frame(values: dict[int, int]) -> bytes:
    """Return a SETTINGS frame with these identifiers and values."""
    return make_frame(SETTINGS, 0, 0, b"".join([_SETTING.pack(*each) for each in values.items()]))


def two_numbers(frame: bytes) -> tuple[int, int]:
    """Return the first two 32-bit numbers of a payload, the first without its reserved bit: last stream and error code of a GOAWAY."""
    first, second = _TWO.unpack_from(frame, HEAD)
    return first & 0x7FFFFFFF, second


def one_number(frame: bytes) -> int:
    """Return the first 32-bit number of a payload, without its reserved bit."""
    return int.from_bytes(frame[HEAD : HEAD + 4], "big") & 0x7FFFFFFF


def without_priority(flags: int, stream: int, frame: bytes) -> tuple[int, bytes, bool]:
    """Remove the deprecated priority fields from a HEADERS frame (RFC 9113 §5.3.2).

    Returns the new flags, the new frame, and True if the stream depended on itself. Raises `ConnectionFault` if the frame is too short.
    """
    start = HEAD + (1 if flags & PADDED else 0)
    if len(frame) < start + 5:
        raise ConnectionFault(ErrorCode.FRAME_SIZE_ERROR, "HEADERS frame is too short for its priority fields")
    itself = int.from_bytes(frame[start : start + 4], "big") & 0x7FFFFFFF == stream
    flags &= ~HAS_PRIORITY
    return flags, make_frame(HEADERS, flags, stream, frame[HEAD:start] + frame[start + 5 :]), itself
