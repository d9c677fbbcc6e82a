"""What a stream has to say.

The law: nothing here is written yet; the connection writes from it, when it is the stream's turn.
"""

from __future__ import annotations

from trio_tsconnect.http2._hpack import Pair


class Outbox:
    """What a stream has to say and has not said: heads, then data, then the end."""

    __slots__ = ("data", "ending", "heads", "trailers")

    def __init__(self) -> None:
        self.heads: list[tuple[list[Pair], bool]] = []
        """Heads, interim ones first; and whether the stream ends with it."""
        self.data = bytearray()
        self.ending = False
        """Whether nothing comes after the data but the trailers."""
        self.trailers: list[Pair] | None = None

    def __bool__(self) -> bool:
        return bool(self.heads or self.data or self.ending)
