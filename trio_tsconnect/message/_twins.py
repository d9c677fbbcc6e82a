"""A field and its twins with underscores.

A server that hands fields to programs as variables (CGI, RFC 3875 §4.1.18; WSGI) makes `-` and `_` one: to such a program `X_User` is `X-User`.
So wherever the proxy owns a name, a client that spells it with an underscore would speak in the proxy's name.
"""

from __future__ import annotations

from collections.abc import Container

from trio_tsconnect._util import public
from trio_tsconnect.message._fields import HOP_BY_HOP
from trio_tsconnect.message._forwarded import is_claim
from trio_tsconnect.message._headers import Headers

OWNED = HOP_BY_HOP | frozenset(b"host via content-length content-type trailer expect max-forwards date proxy-authorization".split())
"""Names that the proxy writes or judges in every request, beside what `is_claim` knows."""


@public("trio_tsconnect.message")
def drop_twins(headers: Headers, owned: Container[bytes] = ()) -> None:
    """Remove every field with an underscore whose name, with hyphens, is the proxy's, is in `owned`, or is there in that form as well.

    Whoever has written a field has written it with hyphens, so what stands beside it with underscores is somebody else's word.
    """
    names = [field[1] for field in headers.fields]
    if b"_" not in b"".join(names):
        return
    present = set(names)
    headers.fields = [field for field in headers.fields if b"_" not in field[1] or not _is_owned(_hyphened(field[1]), present, owned)]


def _is_owned(name: bytes, present: set[bytes], owned: Container[bytes]) -> bool:
    return name in present or name in OWNED or name in owned or is_claim(name)


@public("trio_tsconnect.message")
def drop_underscored(headers: Headers) -> None:
    """Remove every field with an underscore in its name."""
    if b"_" in b"".join([field[1] for field in headers.fields]):
        headers.fields = [field for field in headers.fields if b"_" not in field[1]]


@public("trio_tsconnect.message")
def drop_claimed(trailers: Headers, head: Headers, *, present: bool = False) -> Headers:
    """The trailers without those whose names were claimed in the head (`Headers.claim`), or (`present`) are in it, as the proxy sends it on."""
    taken = head.claimed | {field[1] for field in head.fields} if present else head.claimed
    if not taken:
        return trailers
    return Headers.from_parsed([field for field in trailers.fields if field[1] not in taken and _hyphened(field[1]) not in taken])


def _hyphened(name: bytes) -> bytes:
    return name.replace(b"_", b"-")
