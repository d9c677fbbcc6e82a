"""The one clock of a transaction's I/O.

The law: whoever is about to wait for a party says so (`arm`), and what fires names that party. One cancel scope serves a whole
transaction, and the proxy's timer cancels it when the deadline passes.
"""

from __future__ import annotations

import math

import trio

from trio_tsconnect.engine._timer import Timer
from trio_tsconnect.message import Failure, TransactionFailure


class Pace:
    """A least rate for a body in one direction (`http.min_rate`), counted in the time that its party is waited for.

    Each byte that has moved allows for another `1 / rate` seconds of waiting, beyond a first allowance. The proxy's own pauses, and those of
    the other side, are nobody's slowness.
    """

    __slots__ = ("_allowance", "_rate", "_since", "_waited")

    def __init__(self, rate: int, allowance: float) -> None:
        self._rate = rate
        self._allowance = allowance
        self._waited = self._since = 0.0

    def begin(self, moved: int, most: float) -> float:
        """A wait begins, `moved` bytes have moved: how many seconds it may take, at most `most`."""
        self._since = trio.current_time()
        return max(0.0, min(most, self._allowance + moved / self._rate - self._waited))

    def end(self) -> None:
        """The wait is over."""
        self._waited += trio.current_time() - self._since


class Watch:
    """A cancel scope with a deadline that follows what is being waited for, and never passes the end of the whole.

    Use it as a context manager around what it watches; `check` afterwards raises what fired.
    """

    __slots__ = ("_end_failure", "_failure", "_timer", "deadline", "end", "fired", "scope")

    def __init__(self, timer: Timer) -> None:
        self.scope: trio.CancelScope = trio.CancelScope()
        self.deadline: float = math.inf
        self.end: float = math.inf
        """The end of the whole; infinite when there is none."""
        self._timer: Timer | None = timer  # None once it is over: then nothing that is armed counts any more
        self._end_failure = self._failure = Failure.TRANSACTION_TIMEOUT
        self.fired: Failure | None = None
        """What has fired; the scope is cancelled since then."""

    def __enter__(self) -> None:
        self.scope.__enter__()

    def __exit__(self, *exc_info: object) -> bool | None:
        if self._timer is not None:
            self._timer.remove(self)
            self._timer = None
        return self.scope.__exit__(*exc_info)  # type: ignore[arg-type]

    def due(self) -> None:
        """The timer's call: the deadline has passed."""
        self.fired = self._failure  # what is armed between now and the next checkpoint is not to blame
        self.scope.cancel()

    def bound(self, end: float, failure: Failure) -> None:
        """Never wait past `end`, whatever was armed or is going to be; in place of what was said of it before."""
        self.end = end
        self._end_failure = failure
        self.disarm()

    def arm(self, failure: Failure, seconds: float) -> None:
        """From now on wait for so many seconds; crossing them is this failure."""
        self.rearm(failure, trio.current_time() + seconds)

    def rearm(self, failure: Failure, deadline: float) -> None:
        """From now on wait until this time, unless it is no earlier than the end of the whole."""
        if deadline < self.end:
            self._failure = failure
            if self._timer is not None:
                self._timer.set(self, deadline)
        else:
            self.disarm()

    def disarm(self) -> None:
        """Wait for nobody in particular: only the end of the whole counts."""
        self._failure = self._end_failure
        if self._timer is not None:
            self._timer.set(self, self.end)

    def fire(self, failure: Failure) -> None:
        """Somebody else ends the wait."""
        if self._timer is not None:
            self._failure = failure
            self.due()

    def look(self) -> None:
        """Fire if the end of the whole has passed already: the timer, like everybody, comes to know of it only when it is its turn."""
        if self.end != math.inf and self.end <= trio.current_time():
            self._failure = self._end_failure
            self.due()

    def check(self) -> None:
        """Afterwards: raise what fired, if it did."""
        if self.fired is not None and self.scope.cancelled_caught:
            raise TransactionFailure(self.fired)
