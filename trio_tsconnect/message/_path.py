"""How origins read a path: percent-decoding, dot segments, slashes, backslashes and path parameters.

Invariant: `readings` returns every way in which an origin may read a path. So a rule that looks at all of them cannot be bypassed by another
spelling of the path.

RFC 3986 allows few readings, but origins have more. Some take `%2F` for a separator, some decode twice or accept overlong UTF-8, some take a
backslash for a slash, merge empty segments, cut a segment at `;` or NUL, or do not resolve dot segments. Each origin combines these habits
in its own way, so all combinations are returned. A path without any of these characters has one reading, which costs one search.

Not included: origins that ignore the case of a path, or dots and spaces at the end of a name (Windows).
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from functools import lru_cache
from urllib.parse import unquote_to_bytes

Segments = tuple[str, ...]

_ODD = re.compile(r"[%\\;]|//|/\.")
_PARAMETERS = re.compile(r"[;\0][^/]*")
_OVERLONG = re.compile(rb"[\xc0\xc1][\x80-\xbf]|\xe0[\x80\x81][\x80-\xbf]")
_INNER = "\udc2f"
"""Stands for a `/` that is part of a name. UTF-8 decodes to no lone surrogate, so a path cannot contain it."""
_ROUNDS = 3
"""A path is decoded at most so many times: by the origin and by intermediaries before it."""


@lru_cache(maxsize=512)
def readings(path: str) -> tuple[Segments, ...]:
    """Return all readings of an absolute path, each as its segments. The first is the one of an origin that has all habits at once."""
    if not _ODD.search(path):
        return (_named(path.split("/")[1:]),)
    texts = dict.fromkeys(cut for text in _decoded(path) for cut in _cut(text))
    found = [segments for text in texts for segments in _resolved(text.split("/")[1:])]
    return tuple(dict.fromkeys(reversed(found)))


def _decoded(path: str) -> Iterator[str]:
    """Yield the path with `%2F` as a character of a name, then as a separator; decoded once, then completely."""
    for rounds in (1, _ROUNDS) if "%" in path else (0,):
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
        data = _OVERLONG.sub(_shortest, data)
    return data.decode("utf-8", "replace")


def _shortest(match: re.Match[bytes]) -> bytes:
    *_, before, last = match[0]
    return bytes([(before & 1) << 6 | last & 0x3F])


def _cut(text: str) -> Iterator[str]:
    """Yield the path with `\\` in a name, then as a separator; with path parameters, then without them."""
    for slashes in (text, text.replace("\\", "/")) if "\\" in text else (text,):
        yield slashes
        if ";" in slashes or "\0" in slashes:
            yield _PARAMETERS.sub("", slashes)


def _resolved(segments: list[str]) -> Iterator[Segments]:
    """Yield the segments with and without the empty ones, before and after dot segments are resolved (RFC 3986 §5.2.4)."""
    for merged in (segments, [segment for segment in segments if segment]) if "" in segments[:-1] else (segments,):
        yield _named(merged)
        if "." in merged or ".." in merged:
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
