"""How origins read a path: percent-decoding, dot segments, slashes, backslashes and path parameters.

Invariant: `readings` yields every combination of the habits below. So a rule that looks at all readings cannot be bypassed by another
spelling of the path.

RFC 3986 allows few readings, but origins and the intermediaries before them have more habits. Some take `%2F` for a separator, some decode
two or three times, accept overlong UTF-8 or `%u002f`, some take a backslash for a slash, merge empty segments before or after they resolve
dot segments, do not resolve them, cut a segment at `;`, or cut the path at NUL, `?` or `#` after decoding. A path without any of these
characters has one reading, which costs one search.

Not included: origins that ignore the case of a path, or dots and spaces at the end of a name (Windows).
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from functools import lru_cache
from urllib.parse import unquote_to_bytes

Segments = tuple[str, ...]

_ODD = re.compile(r"[%\\;]|//|/\.")
_PARAMETERS = re.compile(r";[^/]*")
_TAIL = re.compile(r"[\0?#].*", re.DOTALL)
_OVERLONG = re.compile(rb"[\xc0\xc1][\x80-\xbf]|\xe0[\x80\x81][\x80-\xbf]|\xf0\x80[\x80\x81][\x80-\xbf]")
_UTF16 = re.compile(rb"%u00([0-9a-fA-F]{2})", re.IGNORECASE)
_INNER = "\udc2f"
"""Stands for a `/` that is part of a name. UTF-8 decodes to no lone surrogate, so a path cannot contain it."""
_ROUNDS = 3
"""A path is decoded at most so many times: by the origin and by intermediaries before it."""
MOST_SEGMENTS = 256
"""A path that can be read in several ways and has more segments than this is `excessive`: to compare it would take too long."""
_LONGEST_KEPT = 256
"""Longer paths are not kept in the cache: a client could fill the memory with them."""


def excessive(path: str) -> bool:
    """Return True if a path has too many segments to be compared in all its readings. No honest client sends one."""
    if len(path) <= MOST_SEGMENTS or not _ODD.search(path):
        return False
    return _decode(path, _ROUNDS).replace("\\", "/").count("/") > MOST_SEGMENTS


def readings(path: str) -> tuple[Segments, ...]:
    """Return all readings of an absolute path, each as its segments. The first is the one of an origin that has all habits at once."""
    return _kept(path) if len(path) <= _LONGEST_KEPT else _readings(path)


def _readings(path: str) -> tuple[Segments, ...]:
    if not _ODD.search(path):
        return (_named(path.split("/")[1:]),)
    texts = dict.fromkeys(cut for text in _decoded(path) for cut in _cut(text))
    found = [segments for text in texts for segments in _resolved(text.split("/")[1:])]
    return tuple(dict.fromkeys(reversed(found)))


_kept = lru_cache(maxsize=64)(_readings)


def _decoded(path: str) -> Iterator[str]:
    """Yield the path with `%2F` as a character of a name, then as a separator; decoded once, twice, then completely."""
    for rounds in (1, 2, _ROUNDS) if "%25" in path else (1, _ROUNDS) if "%" in path else (0,):  # twice matters only if "%" is encoded
        if rounds:
            yield "/".join([_decode(segment, rounds).replace("/", _INNER) for segment in path.split("/")])
        yield _decode(path, rounds)


def _decode(text: str, rounds: int) -> str:
    data = text.encode()
    for _ in range(rounds):
        if b"%" not in data:
            break
        data = unquote_to_bytes(data)
    if rounds == _ROUNDS:
        data = _UTF16.sub(lambda match: bytes.fromhex(match[1].decode()), data)
        data = _OVERLONG.sub(_shortest, data)
    return data.decode("utf-8", "replace")


def _shortest(match: re.Match[bytes]) -> bytes:
    *_, before, last = match[0]
    return bytes([(before & 1) << 6 | last & 0x3F])


def _cut(text: str) -> Iterator[str]:
    """Yield the path with `\\` in a name, then as a separator; whole, then up to NUL, `?` or `#`; with parameters, then without them."""
    for slashes in (text, text.replace("\\", "/")) if "\\" in text else (text,):
        for whole in (slashes, _TAIL.sub("", slashes)) if _TAIL.search(slashes) else (slashes,):
            yield whole
            if ";" in whole:
                yield _PARAMETERS.sub("", whole)


def _resolved(segments: list[str]) -> Iterator[Segments]:
    """Yield the segments with and without the empty ones, before and after dot segments are resolved (RFC 3986 §5.2.4)."""
    dots = "." in segments or ".." in segments
    yield _named(segments)
    if dots:
        resolved = _without_dots(segments)
        yield _named(resolved)
        yield _named([segment for segment in resolved if segment])
    if "" in segments[:-1]:
        merged = [segment for segment in segments if segment]
        yield _named(merged)
        if dots:
            yield _named(_without_dots(merged))


def _without_dots(segments: list[str]) -> list[str]:
    plain: list[str] = []
    for segment in segments:
        if segment == "..":
            if plain:
                plain.pop()
        elif segment != ".":
            plain.append(segment)
    return plain


def _named(segments: list[str]) -> Segments:
    """Drop the empty segments at the end, which say only that the path ends with a slash."""
    end = len(segments)
    while end and not segments[end - 1]:
        end -= 1
    return tuple([segment.replace(_INNER, "/") for segment in segments[:end]])
