"""One machine for each content coding: it decompresses a body that arrives in pieces.

Invariant: `feed(data, most)` decompresses no more than `most` bytes, whatever the body expands to. Brotli alone may exceed it, by one block
of its library (32 KiB). A machine that has returned `most` bytes is not used again.
"""

from __future__ import annotations

import importlib
import sys
import zlib
from collections.abc import Callable
from types import ModuleType
from typing import Any, Final, Protocol


def _library(name: str) -> ModuleType | None:
    try:
        return importlib.import_module(name)
    except ImportError:
        return None


brotli: Final = _library("brotli")
"""The library for `br`, or None if it is not installed."""
zstd: Final = _library("compression.zstd" if sys.version_info >= (3, 14) else "backports.zstd")
"""The library for `zstd`, or None if it is not installed."""

_ZSTD_WINDOW_LOG = 23
"""RFC 9659 §3: the window of a `zstd` body has at most 8 MiB. Without this bound a body could demand 128 MiB of memory."""


class Machine(Protocol):
    """Decompresses one body."""

    @property
    def errors(self) -> tuple[type[Exception], ...]:
        """What `feed` raises if the body is invalid."""

    @property
    def complete(self) -> bool:
        """Whether the body may end here."""

    def feed(self, data: bytes, most: int | None) -> bytes:
        """Decompress a piece that is not empty. Return at most `most` bytes; None: all of them."""


class Identity:
    """`identity`: the body is not compressed."""

    errors: tuple[type[Exception], ...] = ()
    complete = True

    def feed(self, data: bytes, most: int | None) -> bytes:
        """Return the piece."""
        return data


class Members:
    """`gzip` and `zstd`: complete streams may follow each other (RFC 1952 §2.2, RFC 8878 §3.1)."""

    def __init__(self, begin: Callable[[], Any], error: type[Exception], *, no_bound: int) -> None:
        self.errors = (error,)
        self._begin = begin
        self._no_bound = no_bound
        self._member = begin()

    @property
    def complete(self) -> bool:
        """Whether a member has just ended."""
        return bool(self._member.eof)

    def feed(self, data: bytes, most: int | None) -> bytes:
        """Decompress a piece, which may contain the end of a member and the begin of others."""
        parts: list[bytes] = []
        while data and most != 0:
            if self._member.eof:
                self._member = self._begin()
            parts.append(self._member.decompress(data, self._no_bound if most is None else most))
            most = None if most is None else most - len(parts[-1])
            data = self._member.unused_data
        return b"".join(parts)


class Deflate:
    """`deflate`: a zlib stream, or a raw deflate stream, which some servers send. Bytes after its end are dropped."""

    errors = (zlib.error,)

    def __init__(self) -> None:
        self._stream: zlib._Decompress | None = None

    @property
    def complete(self) -> bool:
        """Whether the stream has ended."""
        return self._stream is not None and self._stream.eof

    def feed(self, data: bytes, most: int | None) -> bytes:
        """Decompress a piece. The first one shows whether there is a zlib header."""
        if self._stream is None:
            self._stream = zlib.decompressobj(zlib.MAX_WBITS if _has_zlib_head(data) else -zlib.MAX_WBITS)
        return b"" if self._stream.eof else self._stream.decompress(data, most or 0)


class Brotli:
    """`br`: one stream. Its library raises an error for bytes after the end."""

    def __init__(self, library: ModuleType) -> None:
        self.errors = (library.error,)
        self._stream = library.Decompressor()

    @property
    def complete(self) -> bool:
        """Whether the stream has ended."""
        return bool(self._stream.is_finished())

    def feed(self, data: bytes, most: int | None) -> bytes:
        """Decompress a piece, block by block if there is a bound."""
        if most is None:
            return bytes(self._stream.process(data))
        # The library fills the block that it has begun: a bound of 1 yields blocks of the smallest size, which is 32 KiB. It may keep output
        # although `can_accept_more_data` returns True, so only an empty block shows that there is no more.
        blocks: list[bytes] = [self._stream.process(data, output_buffer_limit=1)]
        while blocks[-1] and (most := most - len(blocks[-1])) > 0 and not self.complete:
            blocks.append(self._stream.process(b"", output_buffer_limit=1))
        return b"".join(blocks)


def _gzip() -> Machine:
    return Members(lambda: zlib.decompressobj(16 + zlib.MAX_WBITS), zlib.error, no_bound=0)


def _br() -> Machine | None:
    return None if brotli is None else Brotli(brotli)


def _zstandard() -> Machine | None:
    if zstd is None:
        return None
    options = {zstd.DecompressionParameter.window_log_max: _ZSTD_WINDOW_LOG}
    library = zstd
    return Members(lambda: library.ZstdDecompressor(options=options), library.ZstdError, no_bound=-1)


_MACHINES: Final[dict[str, Callable[[], Machine | None]]] = {
    "gzip": _gzip,
    "x-gzip": _gzip,
    "deflate": Deflate,
    "br": _br,
    "zstd": _zstandard,
    "identity": Identity,
}


def names() -> tuple[str, ...]:
    """Return the names of the codings that can be decoded in this installation."""
    return tuple(name for name, make in _MACHINES.items() if make() is not None)


def is_optional(coding: str) -> bool:
    """Return True if the coding can be decoded once its library is installed."""
    return coding.lower() in ("br", "zstd")


def begin(coding: str) -> Machine | None:
    """Return a machine for the coding, in lower case. None: it is unknown, or its library is not installed."""
    make = _MACHINES.get(coding)
    return None if make is None else make()


def _has_zlib_head(data: bytes) -> bool:
    """Return True if `data` starts with a zlib header (RFC 1950 §2.2): method deflate, window of at most 32 KiB, and a valid check value.

    The check value is tested only if `data` has both bytes of the header.
    """
    return data[0] & 0x0F == 8 and data[0] >> 4 <= 7 and (len(data) < 2 or (data[0] << 8 | data[1]) % 31 == 0)
