"""Frames as bytes (RFC 9113 §4): where each one ends, and what about its head is wrong whatever it holds.

The law: nothing reaches the protocol library but whole frames of a permitted size, one at a time; so nothing large is ever held for it, and a
frame at fault takes nothing down with it that came before.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator
from typing import Final

from trio_tsconnect.http2._errors import ConnectionFault, ErrorCode

PREFACE: Final = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"
"""RFC 9113 §3.4: what a client begins with."""
MAX_FRAME: Final = 16384
"""RFC 9113 §4.2: the size that every peer may send, and that we ask nobody to exceed."""

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
"""Bytes before the payload."""

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
"""The least and the most that a setting may be, and the code of the error where it is not."""

Frame = tuple[int, int, int, bytes]
"""Type, flags, stream, and the whole frame, its head included."""


class FrameReader:
    """Cuts what a client sends into frames."""

    __slots__ = ("_rest", "began")

    def __init__(self) -> None:
        self._rest = b""
        self.began = False
        """Whether the preface has come whole."""

    @property
    def partial(self) -> int:
        """Bytes of a frame that is not whole yet."""
        return len(self._rest)

    def feed(self, data: bytes) -> Iterator[Frame]:
        """The frames that these bytes complete. `ConnectionFault` for one that cannot stand."""
        if self._rest:
            data = self._rest + data
        position = 0
        if not self.began:
            self._rest = data
            if data[: len(PREFACE)] != PREFACE[: len(data)]:
                raise ConnectionFault(ErrorCode.PROTOCOL_ERROR, "this is not the preface of HTTP/2")
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
                    raise ConnectionFault(ErrorCode.FRAME_SIZE_ERROR, f"a frame of {length} bytes")
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
    """RFC 9113 §6: lengths, and on what a frame may be about. A PRIORITY frame of the wrong size is a matter of its stream."""
    if (kind in _EXACT and length != _EXACT[kind]) or (kind == SETTINGS and (length % 6 or (flags & ACK and length))):
        raise ConnectionFault(ErrorCode.FRAME_SIZE_ERROR, f"a frame of type {kind} and {length} bytes")
    if (kind == GOAWAY and length < 8) or (kind == PRIORITY_UPDATE and length < 4):
        raise ConnectionFault(ErrorCode.FRAME_SIZE_ERROR, f"a frame of type {kind} and {length} bytes")
    if (kind in _ON_CONNECTION and stream) or (kind in _ON_STREAMS and not stream):
        raise ConnectionFault(ErrorCode.PROTOCOL_ERROR, f"a frame of type {kind} on stream {stream}")
    if kind == PUSH_PROMISE:
        raise ConnectionFault(ErrorCode.PROTOCOL_ERROR, "a client cannot push")


def make_frame(kind: int, flags: int, stream: int, payload: bytes) -> bytes:
    """A frame as bytes."""
    return _HEAD.pack(len(payload) >> 8, len(payload) & 0xFF, kind, flags, stream) + payload


def goaway(last_stream: int, code: int, detail: str = "") -> bytes:
    """RFC 9113 §6.8."""
    return make_frame(GOAWAY, 0, 0, _TWO.pack(last_stream, code) + detail.encode("ascii", "replace"))


def rst_stream(stream: int, code: int) -> bytes:
    """RFC 9113 §6.4."""
    return make_frame(RST_STREAM, 0, stream, code.to_bytes(4, "big"))


def settings_of(frame: bytes) -> list[tuple[int, int]]:
    """What a SETTINGS frame says, in its order; `ConnectionFault` for a value that cannot be (RFC 9113 §6.5.2, RFC 8441 §3, RFC 9218 §2.1)."""
    values = list(_SETTING.iter_unpack(frame[HEAD:]))
    for number, value in values:
        least, most, code = _BOUNDS.get(number, _ANY)
        if not least <= value <= most:
            raise ConnectionFault(code, f"setting {number} cannot be {value}")
    return values


def settings_frame(values: dict[int, int]) -> bytes:
    """A SETTINGS frame that says this."""
    return make_frame(SETTINGS, 0, 0, b"".join([_SETTING.pack(*each) for each in values.items()]))


def two_numbers(frame: bytes) -> tuple[int, int]:
    """The first two numbers of a payload: the last stream and the code of a GOAWAY."""
    first, second = _TWO.unpack_from(frame, HEAD)
    return first & 0x7FFFFFFF, second


def one_number(frame: bytes) -> int:
    """The first number of a payload, its reserved bit left out."""
    return int.from_bytes(frame[HEAD : HEAD + 4], "big") & 0x7FFFFFFF


def without_priority(flags: int, stream: int, frame: bytes) -> tuple[int, bytes, bool]:
    """A HEADERS frame without the deprecated priority fields (RFC 9113 §5.3.2): its flags, itself, and whether it depended on itself."""
    start = HEAD + (1 if flags & PADDED else 0)
    if len(frame) < start + 5:
        raise ConnectionFault(ErrorCode.FRAME_SIZE_ERROR, "a HEADERS frame is too short for its priority")
    itself = int.from_bytes(frame[start : start + 4], "big") & 0x7FFFFFFF == stream
    flags &= ~HAS_PRIORITY
    return flags, make_frame(HEADERS, flags, stream, frame[HEAD:start] + frame[start + 5 :]), itself
