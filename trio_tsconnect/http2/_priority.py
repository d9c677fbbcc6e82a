"""Priorities of responses (RFC 9218): what a client asks for, and in which order streams write.

The law: priority orders what is ready to be written, and holds nothing back: a stream whose window is closed is not ready.
"""

from __future__ import annotations

import re
from typing import Protocol

import attrs

# RFC 8941 §3.2, as far as `u` and `i` need it: members at the top level, each a key with a value or without (which is true). A string may
# hold a comma, so strings are reduced to one character first.
_STRING = re.compile(rb'"(?:[\x20\x21\x23-\x5b\x5d-\x7e]|\\["\\])*"')
_LONGEST = 256
"""Bytes of a value that is looked at: what means anything takes ten, and what looks for it may take the square of its length."""
_MEMBER = re.compile(rb"[ \t]*([a-z*][a-z0-9_\-.*]*)(?:=([^;,]+))?(?:;[^,]*)?[ \t]*")


@attrs.frozen
class Priority:
    """RFC 9218 §4."""

    urgency: int = 3
    """0 is the most urgent, 7 is background."""
    incremental: bool = False
    """Whether a part of the response is of use, so that responses of one urgency share the connection."""


DEFAULT = Priority()


def parse_priority(value: bytes, otherwise: Priority = DEFAULT) -> Priority:
    """Read a Priority field; what it does not say, or says wrongly, stays as it was (RFC 9218 §4: it is ignored)."""
    if len(value) > _LONGEST:
        return otherwise
    urgency, incremental = otherwise.urgency, otherwise.incremental
    for member in _STRING.sub(b"_", value).split(b","):
        match = _MEMBER.fullmatch(member)
        if match is None:
            if member.strip():
                return otherwise  # RFC 8941 §4.2: what fails to parse is ignored whole
            continue
        key, given = match[1], match[2]
        if key == b"u" and given is not None and len(given) == 1 and given in b"01234567":
            urgency = int(given)
        elif key == b"i" and given in (None, b"?0", b"?1"):
            incremental = given != b"?0"
    return otherwise if (urgency, incremental) == (otherwise.urgency, otherwise.incremental) else Priority(urgency, incremental)


class Ranked(Protocol):
    """What can be put in order."""

    id: int
    """RFC 9218 §10: among equals the order of requests, which is that of the numbers."""
    priority: Priority
    """What the client, or the origin, asked for."""
    turn: int
    """When it wrote last; those that share take turns."""


def rank(stream: Ranked) -> tuple[int, bool, int, int]:
    """What sorts streams that are ready into the order in which they write."""
    priority = stream.priority
    return (priority.urgency, priority.incremental, stream.turn if priority.incremental else 0, stream.id)
