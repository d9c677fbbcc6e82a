"""Counting what a client does against its limits (`Http2Limits`)."""

from __future__ import annotations

from trio_tsconnect.engine import RateLimit
from trio_tsconnect.http2._errors import ConnectionFault, ErrorCode


class Meter:
    """Counts one kind of frame against its rate."""

    __slots__ = ("_limit", "_since", "_tokens", "_what")

    def __init__(self, limit: RateLimit, what: str, now: float) -> None:
        self._limit = limit
        self._what = what
        self._tokens = float(limit.burst)
        self._since = now

    def count(self, now: float, cost: int = 1) -> None:
        """One more; `ConnectionFault` when it is one too many."""
        self._tokens -= cost
        if self._tokens < 0:
            self._tokens = min(self._limit.burst, self._tokens + (now - self._since) * self._limit.rate)
            self._since = now
            if self._tokens < 0:
                raise ConnectionFault(ErrorCode.ENHANCE_YOUR_CALM, f"too many {self._what}", "enhance_your_calm")
