"""Decode compressed bodies while they are streamed, for transforms that read the content.

A transform gets the body as the origin sent it. `decode_response` puts a decoder before it and corrects the header fields of the response,
or raises `UnknownCoding`.
"""

from __future__ import annotations

from typing import Final

from trio_tsconnect import Transaction
from trio_tsconnect._util import public
from trio_tsconnect.plugins._codings import begin, is_optional, names

CODINGS: Final = names()
"""The content codings (RFC 9110 §8.4.1) that can be decoded in this installation. `br` and `zstd` need the extra `decode`."""


@public("trio_tsconnect.plugins")
class UnknownCoding(Exception):
    """A body has a content coding that cannot be decoded, or not in this installation."""

    def __init__(self, coding: str) -> None:
        remedy = (
            "install the extra: pip install 'trio-tsconnect[decode]'" if is_optional(coding) else f"expected one of {', '.join(CODINGS)}"
        )
        super().__init__(f"cannot decode the content coding {coding!r}, {remedy}")
        self.coding = coding
        """The name of the coding."""


@public("trio_tsconnect.plugins")
class Decode:
    """A transform that decodes one of `CODINGS`.

    `gzip` may have several members and `zstd` several frames. `deflate` may have a zlib header, or none. `br` and `zstd` need the extra
    `decode`. `feed` and `finish` raise `ValueError` if the decoded body has more than `limit` bytes, or if the body is invalid or
    truncated. The constructor raises `UnknownCoding` for any other coding.

    >>> import gzip
    >>> decode = Decode("gzip")
    >>> decode.feed(gzip.compress(b"hello")) + decode.finish()
    b'hello'
    """

    def __init__(self, coding: str, *, limit: int | None = None) -> None:
        self._coding = coding.lower()
        machine = begin(self._coding)
        if machine is None:
            raise UnknownCoding(coding)
        self._machine = machine
        self._left = limit
        self._begun = False

    def feed(self, data: bytes) -> bytes:
        """Decode a piece of the body, and return the decoded bytes."""
        if not data:
            return b""
        self._count(b"")  # it raises again after the limit was exceeded
        self._begun = True
        # Decompress at most one byte more than the limit allows: a small piece may expand to gigabytes.
        most = None if self._left is None else self._left + 1
        try:
            decoded = self._machine.feed(data, most)
        except self._machine.errors as exc:
            raise ValueError(f"the body is not valid {self._coding}: {exc}") from None
        self._count(decoded)
        return decoded

    def _count(self, data: bytes) -> None:
        if self._left is None:
            return
        self._left -= len(data)
        if self._left < 0:
            raise ValueError("the decoded body is larger than the limit")

    def finish(self) -> bytes:
        """Check at the end of the body that it was complete, and return `b""`."""
        if self._begun and not self._machine.complete:
            raise ValueError(f"the {self._coding} body is truncated")
        return b""


@public("trio_tsconnect.plugins")
def ask_readable(txn: Transaction) -> None:
    """Ask the origin for a whole body in a coding of `CODINGS`, for a plugin that reads the response. Call it in `send_request`.

    Removes Range and If-Range, and from Accept-Encoding the codings that cannot be decoded.
    """
    headers = txn.request.headers
    headers.remove((b"range", b"if-range"))
    if "accept-encoding" in headers:
        offered = [each.strip() for each in headers["accept-encoding"].split(",")]
        readable = [each for each in offered if each.partition(";")[0].strip().lower() in CODINGS]
        headers["Accept-Encoding"] = ", ".join(readable) or "identity"


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
    for decode in [Decode(coding, limit=limit) for coding in reversed(codings)]:  # RFC 9110 §8.4: listed in the order of their application
        txn.transform_response(decode)
    headers.remove((b"content-encoding", b"accept-ranges", b"content-digest", b"content-md5"))
    tag = headers.get("etag")
    if tag is not None and not tag.startswith("W/"):
        headers["ETag"] = f"W/{tag}"  # RFC 9110 §8.8.1: the content is the same, but the bytes are not
