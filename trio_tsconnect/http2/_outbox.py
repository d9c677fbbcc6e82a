"""The send buffer of one stream.

Invariant: nothing in an outbox has been handed to h2. The connection's writer (`_write`) removes what it sends.
"""

from __future__ import annotations

from trio_tsconnect.http2._hpack import Pair


class Outbox:
    """The unsent part of one response, in the order in which it is sent: heads, data, trailers or END_STREAM."""

    __slots__ = ("data", "ending", "heads", "trailers")

    def __init__(self) -> None:
        self.heads: list[tuple[list[Pair], bool]] = []
        """Response heads, interim ones first. The flag is True if the head carries END_STREAM."""
        self.data = bytearray()
        """Content, without framing."""
        self.ending = False
        """True if `data` is complete: after it only the trailers or END_STREAM remain to be sent."""
        self.trailers: list[Pair] | None = None
        """Trailer fields, sent after `data` if `ending` is set; None if there are none."""

    def __bool__(self) -> bool:
        return bool(self.heads or self.data or self.ending)
