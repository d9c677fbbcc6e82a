"""Timeouts of a transaction.

Invariant: code that is about to wait for the client or the origin calls `arm` with the `Failure` that a timeout means. So a timeout always
names the side that was waited for. One cancel scope covers the whole transaction; the proxy's timer cancels it at the deadline.
"""

from __future__ import annotations

import math

import trio

from trio_tsconnect.engine._timer import Timer
from trio_tsconnect.message import Failure, TransactionFailure


class Pace:
    """Minimum rate of a body in one direction (`http.min_rate`).

    Only the time spent waiting for that side counts, not delays in the proxy or on the other side. The side may use `allowance` seconds
    and another `1 / rate` seconds for each byte moved; `rate` is in bytes per second.
    """

    __slots__ = ("_allowance", "_rate", "_since", "_waited")

    def __init__(self, rate: int, allowance: float) -> None:
        self._rate = rate
        self._allowance = allowance
        self._waited = self._since = 0.0

    def begin(self, moved: int, most: float) -> float:
        """Begin a wait. Return the seconds that it may take, 0 to `most`. `moved` is the number of bytes moved so far."""
        self._since = trio.current_time()
        return max(0.0, min(most, self._allowance + moved / self._rate - self._waited))

    def end(self) -> None:
        """End the wait and count its time."""
        self._waited += trio.current_time() - self._since


class Watch:
    """Cancel scope whose deadline moves with each wait, but never past `end`.

    Use it as a context manager. Call `check` afterwards: it raises the failure if a timeout ended the block.
    """

    __slots__ = ("_end_failure", "_failure", "_timer", "deadline", "end", "fired", "scope")

    def __init__(self, timer: Timer) -> None:
        self.scope: trio.CancelScope = trio.CancelScope()
        self.deadline: float = math.inf
        self.end: float = math.inf
        """Trio time at which the whole block ends at the latest; infinite if there is no limit."""
        self._timer: Timer | None = timer  # None after the block was left: later calls of `arm` have no effect
        self._end_failure = self._failure = Failure.TRANSACTION_TIMEOUT
        self.fired: Failure | None = None
        """The failure that cancelled the scope; None if nothing has."""

    def __enter__(self) -> None:
        self.scope.__enter__()

    def __exit__(self, *exc_info: object) -> bool | None:
        if self._timer is not None:
            self._timer.remove(self)
            self._timer = None
        return self.scope.__exit__(*exc_info)  # type: ignore[arg-type]

    def due(self) -> None:
        """Cancel the scope because the deadline has passed. Called by the timer."""
        self.fired = self._failure  # kept now: the block may arm another failure before its next checkpoint
        self.scope.cancel()

    def bound(self, end: float, failure: Failure) -> None:
        """Set the trio time at which the block ends at the latest, and the failure for it. Disarms the current wait."""
        self.end = end
        self._end_failure = failure
        self.disarm()

    def arm(self, failure: Failure, seconds: float) -> None:
        """Set a timeout of `seconds` from now, but not past `end`. If it passes, the block ends with `failure`."""
        self.rearm(failure, trio.current_time() + seconds)

    def rearm(self, failure: Failure, deadline: float) -> None:
        """Set the timeout to a trio time. If it is not before `end`, only `end` counts."""
        if deadline < self.end:
            self._failure = failure
            if self._timer is not None:
                self._timer.set(self, deadline)
        else:
            self.disarm()

    def disarm(self) -> None:
        """Remove the timeout; only `end` counts."""
        self._failure = self._end_failure
        if self._timer is not None:
            self._timer.set(self, self.end)

    def fire(self, failure: Failure) -> None:
        """End the block with `failure` now. Without effect after the block was left."""
        if self._timer is not None:
            self._failure = failure
            self.due()

    def look(self) -> None:
        """Cancel the scope if `end` has passed. Needed after code that ran long without a checkpoint: the timer has not run yet."""
        if self.end != math.inf and self.end <= trio.current_time():
            self._failure = self._end_failure
            self.due()

    def check(self) -> None:
        """Raise `TransactionFailure` if a timeout ended the block. Call it after the block."""
        if self.fired is not None and self.scope.cancelled_caught:
            raise TransactionFailure(self.fired)
