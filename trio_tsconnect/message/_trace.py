"""The W3C trace context: the position of a request in a distributed trace.

Source: https://www.w3.org/TR/trace-context/, level 1, §3.
"""

from __future__ import annotations

import re
import secrets

import attrs

from trio_tsconnect._util import public

# §3.2: version "-" trace-id "-" parent-id "-" trace-flags; later versions may append "-" and more.
_TRACEPARENT = re.compile(r"(?P<version>[0-9a-f]{2})-(?P<trace>[0-9a-f]{32})-(?P<parent>[0-9a-f]{16})-(?P<flags>[0-9a-f]{2})(?P<more>-.*)?")


@public("trio_tsconnect.message")
@attrs.frozen
class TraceContext:
    """The position of a request in a trace."""

    trace: str
    """The id of the trace: 32 hexadecimal digits."""
    span: str
    """The id of this request: 16 hexadecimal digits."""
    parent: str | None
    """The span of the parent request; None if the trace begins here."""
    flags: str
    """Two hexadecimal digits. The lowest bit is set if the trace is recorded."""

    def to_field(self) -> str:
        """Return the `traceparent` value for the next hop."""
        return f"00-{self.trace}-{self.span}-{self.flags}"

    def child(self) -> TraceContext:
        """Return a new span within this one."""
        return TraceContext(self.trace, secrets.token_hex(8), self.span, self.flags)


@public("trio_tsconnect.message")
def parse_traceparent(value: str | None) -> TraceContext | None:
    """Parse a `traceparent` value. Its `parent-id` becomes the span. Return None if it is invalid; a new trace must then begin (§3.2.2)."""
    match = _TRACEPARENT.fullmatch(value or "")
    if match is None or match["version"] == "ff" or (match["version"] == "00" and match["more"]):
        return None
    if not match["trace"].strip("0") or not match["parent"].strip("0"):
        return None
    return TraceContext(
        match["trace"], match["parent"], None, match["flags"] if match["version"] == "00" else f"0{int(match['flags'], 16) & 1}"
    )
