"""Compressed bodies, taken apart as they stream by: for a transform that wants to read what it is given.

A transform gets bodies as the origin sent them. `decode_response` puts a decoder before it and tells the client the truth, or refuses, by its
name, a coding that nobody here can decode.
"""

from __future__ import annotations

import zlib
from typing import Final

from trio_tsconnect import Transaction
from trio_tsconnect._util import public

CODINGS: Final = ("gzip", "x-gzip", "deflate", "identity")
"""The content codings (RFC 9110 §8.4.1) that can be decoded."""


@public("trio_tsconnect.plugins")
class UnknownCoding(Exception):
    """A body has a content coding that cannot be decoded; the text names it."""

    def __init__(self, coding: str) -> None:
        super().__init__(f"content coding {coding!r} cannot be decoded here, only {', '.join(CODINGS)}")
        self.coding = coding
        """Its name."""


@public("trio_tsconnect.plugins")
class Decode:
    """A transform that decodes one content coding: `gzip` (several members too) or `deflate` (with zlib's wrapper or, as some send it, bare).

    Past `limit` decoded bytes, and for what is not in that coding or is cut short, `feed` and `finish` raise ValueError. `UnknownCoding` when it is
    made with any other coding.

    >>> import gzip
    >>> decode = Decode("gzip")
    >>> decode.feed(gzip.compress(b"hello")) + decode.finish()
    b'hello'
    """

    def __init__(self, coding: str, *, limit: int | None = None) -> None:
        self._coding = coding.lower()
        if self._coding not in CODINGS:
            raise UnknownCoding(coding)
        self._left = limit
        self._machine = self._begin()
        self._begun = False

    def _begin(self, *, bare: bool = False) -> zlib._Decompress:
        return zlib.decompressobj(16 + zlib.MAX_WBITS if "gzip" in self._coding else -zlib.MAX_WBITS if bare else zlib.MAX_WBITS)

    def feed(self, data: bytes) -> bytes:
        """Take a piece; give what it decodes to."""
        if self._coding == "identity":
            return self._count(data)
        if not data:
            return b""
        if not self._begun and self._coding == "deflate" and not _has_zlib_head(data):
            self._machine = self._begin(bare=True)
        self._begun = True
        parts: list[bytes] = []
        while data:
            if self._machine.eof:
                if "gzip" not in self._coding:
                    break  # whatever follows the end is not part of it
                self._machine = self._begin()  # RFC 1952 §2.2: members follow each other
            parts.append(self._decompress(data))
            data = self._machine.unused_data
        return b"".join(parts)

    def _decompress(self, data: bytes) -> bytes:
        # One byte more than is allowed is enough to know: a small piece may stand for gigabytes.
        most = 0 if self._left is None else self._left + 1
        try:
            return self._count(self._machine.decompress(data, most))
        except zlib.error as exc:
            raise ValueError(f"the body is not {self._coding}: {exc}") from None

    def _count(self, data: bytes) -> bytes:
        if self._left is not None:
            self._left -= len(data)
            if self._left < 0:
                raise ValueError("the decoded body is larger than it may be")
        return data

    def finish(self) -> bytes:
        """The body has ended."""
        if self._coding != "identity" and self._begun and not self._machine.eof:
            raise ValueError(f"the {self._coding} body is cut short")
        return b""


def _has_zlib_head(data: bytes) -> bool:
    """RFC 1950 §2.2: deflate as the method, a window of at most 32 KiB; the check over both bytes where both are here."""
    return data[0] & 0x0F == 8 and data[0] >> 4 <= 7 and (len(data) < 2 or (data[0] << 8 | data[1]) % 31 == 0)


@public("trio_tsconnect.plugins")
def decode_response(txn: Transaction, *, limit: int | None = None) -> None:
    """In `read_response`: have the response's body decoded, before transforms that are added after this, and for the client.

    `UnknownCoding` when it is in a coding that cannot be decoded; a response without one is left as it is. `limit`: decoded bytes, past which the
    response is cut.
    """
    headers = txn.response.headers
    codings = [coding for coding in headers.tokens("content-encoding") if coding != "identity"]
    if not codings:
        return
    for coding in reversed(codings):  # RFC 9110 §8.4: listed in the order in which they were applied
        txn.transform_response(Decode(coding, limit=limit))
    headers.remove((b"content-encoding", b"accept-ranges", b"content-digest", b"content-md5"))
    tag = headers.get("etag")
    if tag is not None and not tag.startswith("W/"):
        headers["ETag"] = f"W/{tag}"  # RFC 9110 §8.8.1: the same content, but no longer the same bytes
