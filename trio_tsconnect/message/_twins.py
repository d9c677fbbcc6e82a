"""Fields whose names differ from another name only in `_` for `-`.

A server that passes fields to programs as variables (CGI, RFC 3875 §4.1.18; WSGI) maps `-` and `_` to the same character: for such a
program `X_User` is `X-User`. So a client could set a field that only the proxy may set, by spelling its name with an underscore.
"""

from __future__ import annotations

from collections.abc import Container

from trio_tsconnect._util import public
from trio_tsconnect.message._fields import HOP_BY_HOP
from trio_tsconnect.message._forwarded import is_claim
from trio_tsconnect.message._headers import Headers

OWNED = HOP_BY_HOP | frozenset(b"host via content-length content-type trailer expect max-forwards date proxy-authorization".split())
"""Names of fields that the proxy writes or validates in every request, in addition to those of `is_claim`."""


@public("trio_tsconnect.message")
def drop_twins(headers: Headers, owned: Container[bytes] = ()) -> None:
    """Remove fields with underscores in their names that stand for another field: with hyphens, the name is in `owned`, is the proxy's, or
    is present.

    The last case: the party that wrote the present field spelled it with hyphens, so another party added the variant with underscores.
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
    """Return the trailers without those whose names were claimed in the head (`Headers.claim`).

    With `present`, also drop those whose names are in the head. The head must be the one that the proxy sends.
    """
    taken = head.claimed | {field[1] for field in head.fields} if present else head.claimed
    if not taken:
        return trailers
    return Headers.from_parsed([field for field in trailers.fields if field[1] not in taken and _hyphened(field[1]) not in taken])


def _hyphened(name: bytes) -> bytes:
    return name.replace(b"_", b"-")
