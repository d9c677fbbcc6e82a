"""Priorities of responses (RFC 9218): parsing of the Priority field, and the order in which streams are written.

Invariant: a priority only orders the streams that are ready. A stream whose flow-control window is closed never delays another one.
"""

from __future__ import annotations

import re
from typing import Protocol

import attrs

# The part of RFC 8941 §3.2 that `u` and `i` need: a dictionary of top-level members, each a key with an optional value (no value: true).
# A string may contain a comma, so every string is replaced by one character before the field is split at commas.
_STRING = re.compile(rb'"(?:[\x20\x21\x23-\x5b\x5d-\x7e]|\\["\\])*"')
_LONGEST = 256
"""Bytes; a longer value is ignored. `u` and `i` take about ten, and matching these expressions may take time quadratic in the length."""
_MEMBER = re.compile(rb"[ \t]*([a-z*][a-z0-9_\-.*]*)(?:=([^;,]+))?(?:;[^,]*)?[ \t]*")


@attrs.frozen
class Priority:
    """The priority of one response (RFC 9218 §4)."""

    urgency: int = 3
    """0 to 7; 0 is the most urgent, 7 is background."""
    incremental: bool = False
    """True if the client can use parts of the response: incremental responses of one urgency share the connection."""


DEFAULT = Priority()


def parse_priority(value: bytes, otherwise: Priority = DEFAULT) -> Priority:
    """Parse a Priority field. A parameter that is missing or invalid keeps its value from `otherwise` (RFC 9218 §4).

    Returns `otherwise` unchanged if the value is longer than 256 bytes or is not a dictionary (RFC 8941 §4.2). Never raises.
    """
    if len(value) > _LONGEST:
        return otherwise
    urgency, incremental = otherwise.urgency, otherwise.incremental
    for member in _STRING.sub(b"_", value).split(b","):
        match = _MEMBER.fullmatch(member)
        if match is None:
            if member.strip():
                return otherwise  # RFC 8941 §4.2: a field that fails to parse is ignored as a whole
            continue
        key, given = match[1], match[2]
        if key == b"u" and given is not None and len(given) == 1 and given in b"01234567":
            urgency = int(given)
        elif key == b"i" and given in (None, b"?0", b"?1"):
            incremental = given != b"?0"
    return otherwise if (urgency, incremental) == (otherwise.urgency, otherwise.incremental) else Priority(urgency, incremental)


class Ranked(Protocol):
    """A stream that `rank` can order."""

    id: int
    """Stream identifier. Streams of equal priority are written in the order of their requests (RFC 9218 §10), that is, of their ids."""
    priority: Priority
    """The priority that the client or the origin asked for."""
    turn: int
    """Sequence number of the stream's last write. Incremental streams of one urgency are served least recently written first."""


def rank(stream: Ranked) -> tuple[int, bool, int, int]:
    """Return the sort key of a stream; the stream with the lowest key is written first.

    The order is: urgency, non-incremental before incremental, least recently written (incremental streams only), stream id.
    """
    priority = stream.priority
    return (priority.urgency, priority.incremental, stream.turn if priority.incremental else 0, stream.id)
