"""The one clock of a transaction's I/O.

The law: whoever is about to wait for a party says so (`arm`), and what fires names that party. One cancel scope serves a whole
transaction; arming it moves its deadline, which costs less than a scope of its own for each wait.
"""

from __future__ import annotations

import math

import trio

from trio_tsconnect.engine._errors import TransactionFailure
from trio_tsconnect.message import Failure


class Watch:
    """A cancel scope whose deadline follows what is being waited for, and never passes the end of the whole."""

    __slots__ = ("_end", "_end_failure", "_failure", "scope")

    def __init__(self) -> None:
        self.scope = trio.CancelScope()
        self._end = math.inf
        self._end_failure = self._failure = Failure.TRANSACTION_TIMEOUT

    def bound(self, end: float, failure: Failure) -> None:
        """Never wait past `end`, whatever is armed; the earliest bound counts."""
        if end < self._end:
            self._end = end
            self._end_failure = failure
            if end < self.scope.deadline:
                self.disarm()

    def arm(self, failure: Failure, seconds: float) -> None:
        """From now on wait for so many seconds; crossing them is this failure."""
        self.rearm(failure, trio.current_time() + seconds)

    def rearm(self, failure: Failure, deadline: float) -> None:
        """Go on waiting until a time that was armed before, unless it was no more than the end of the whole."""
        if deadline < self._end:
            self._failure = failure
            self.scope.deadline = deadline
        else:
            self.disarm()

    def disarm(self) -> None:
        """Wait for nobody in particular: only the end of the whole counts."""
        self._failure = self._end_failure
        self.scope.deadline = self._end

    @property
    def end(self) -> float:
        """The end of the whole; infinite when there is none."""
        return self._end

    def check(self) -> None:
        """After the scope: raise what fired, if it did."""
        if self.scope.cancelled_caught:
            raise TransactionFailure(self._failure)
