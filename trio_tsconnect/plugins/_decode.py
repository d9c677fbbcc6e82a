"""Decode compressed bodies while they are streamed, for transforms that read the content.

A transform gets the body as the origin sent it. `decode_response` puts a decoder before it and corrects the header fields of the response,
or raises `UnknownCoding`.
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
    """A body has a content coding that cannot be decoded."""

    def __init__(self, coding: str) -> None:
        super().__init__(f"cannot decode the content coding {coding!r}, expected one of {', '.join(CODINGS)}")
        self.coding = coding
        """The name of the coding."""


@public("trio_tsconnect.plugins")
class Decode:
    """A transform that decodes one of `CODINGS`: `gzip` (also several members), or `deflate` (with a zlib header, or raw).

    `feed` and `finish` raise `ValueError` if the decoded body has more than `limit` bytes, or if the body is invalid or truncated. The
    constructor raises `UnknownCoding` for any other coding.

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
        """Decode a piece of the body, and return the decoded bytes."""
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
                    break  # drop the bytes after the end of a deflate stream
                self._machine = self._begin()  # RFC 1952 §2.2: members follow each other
            parts.append(self._decompress(data))
            data = self._machine.unused_data
        return b"".join(parts)

    def _decompress(self, data: bytes) -> bytes:
        # Decompress at most one byte more than the limit allows: a small piece may expand to gigabytes.
        most = 0 if self._left is None else self._left + 1
        try:
            return self._count(self._machine.decompress(data, most))
        except zlib.error as exc:
            raise ValueError(f"the body is not valid {self._coding}: {exc}") from None

    def _count(self, data: bytes) -> bytes:
        if self._left is not None:
            self._left -= len(data)
            if self._left < 0:
                raise ValueError("the decoded body is larger than the limit")
        return data

    def finish(self) -> bytes:
        """Check at the end of the body that it was complete, and return `b""`."""
        if self._coding != "identity" and self._begun and not self._machine.eof:
            raise ValueError(f"the {self._coding} body is truncated")
        return b""


def _has_zlib_head(data: bytes) -> bool:
    """Return True if `data` starts with a zlib header (RFC 1950 §2.2): method deflate, window of at most 32 KiB, and a valid check value.

    The check value is tested only if `data` has both bytes of the header.
    """
    return data[0] & 0x0F == 8 and data[0] >> 4 <= 7 and (len(data) < 2 or (data[0] << 8 | data[1]) % 31 == 0)


@public("trio_tsconnect.plugins")
def decode_response(txn: Transaction, *, limit: int | None = None) -> None:
    """Decode the body of the response, for the client and for transforms that are added after this call. Call it in `read_response`.

    Removes `Content-Encoding` and the fields that depend on it, and makes the `ETag` weak. A response without a content coding is not
    changed. Raises `UnknownCoding` if the body cannot be decoded. `limit`: the largest decoded size in bytes; a larger body breaks the
    response.
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
        headers["ETag"] = f"W/{tag}"  # RFC 9110 §8.8.1: the content is the same, but the bytes are not
