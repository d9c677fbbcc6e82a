"""Deadlines of all sessions and transactions of a proxy, served by one task.

Invariant: `Timer.set` changes trio's own deadlines only if the new deadline is earlier than the next wake-up of the task.

Nearly every deadline is moved before it passes, often several times in one transaction. A trio cancel scope for each would change trio's
heap of deadlines each time; that took a tenth of the time of a keep-alive transaction. Here the task sleeps until the earliest deadline
that it knows, then looks at all of them.
"""

from __future__ import annotations

import math
from typing import Protocol

import trio

# Checking one deadline takes 0.1 us. With many connections some deadline is always near, so the pause between two scans grows with their
# number: scanning takes about a hundredth of the time, and with 10,000 deadlines one fires at most 0.1 s late.
_FEW = 256
_PAUSE_FOR_EACH = 1e-5


class Timed(Protocol):
    """An object with a deadline."""

    deadline: float
    """Trio time at which `due` is called; infinite for never."""

    def due(self) -> None:
        """Handle the passed deadline. Called synchronously, once for each deadline that passes. Must not raise."""
        ...


class Timer:
    """Timer for the sessions and transactions of one proxy."""

    __slots__ = ("_next", "_scope", "_timed")

    def __init__(self) -> None:
        self._timed: set[Timed] = set()
        self._next = math.inf
        self._scope: trio.CancelScope | None = None

    def remove(self, timed: Timed) -> None:
        """Forget `timed`. Without effect if it has no deadline here."""
        self._timed.discard(timed)

    def set(self, timed: Timed, deadline: float) -> None:
        """Set the deadline of `timed` to a trio time; `inf` for none. The timer keeps a reference to `timed` until `remove`."""
        timed.deadline = deadline
        if deadline != math.inf:
            self._timed.add(timed)
        if deadline < self._next:
            self._next = deadline
            if self._scope is not None:
                self._scope.deadline = deadline

    async def run(self) -> None:
        """Call `due` of each object whose deadline has passed, until cancelled. Sleeps without waking up while there is no deadline."""
        while True:
            with trio.CancelScope(deadline=self._next) as self._scope:
                await trio.sleep_forever()
            now = trio.current_time()
            self._next = math.inf
            late: list[Timed] = []  # called after the loop: `due` may change `_timed`
            for timed in self._timed:
                if timed.deadline <= now:
                    late.append(timed)
                elif timed.deadline < self._next:
                    self._next = timed.deadline
            if len(self._timed) > _FEW:
                self._next = max(self._next, now + len(self._timed) * _PAUSE_FOR_EACH)
            for timed in late:
                timed.deadline = math.inf  # before `due`, which may set a new one
                timed.due()
