"""Deadlines, kept by one task for a whole proxy.

The law: to set a deadline is to write it down. Nearly every deadline is moved on before it comes, some of them several times in a transaction;
giving each move to the loop's own heap was a tenth of a keep-alive transaction. So the one task sleeps until the earliest deadline that it
has seen, looks at all of them when it wakes, and is told only of one that is earlier still.
"""

from __future__ import annotations

import math
from typing import Protocol

import trio

# To look at one deadline takes a tenth of a microsecond. With many connections there is always one that is due next, so the pause between
# two looks grows with them: looking takes about a hundredth of the time, and with 10,000 deadlines one fires at most 0.1 s late.
_FEW = 256
_PAUSE_FOR_EACH = 1e-5


class Timed(Protocol):
    """Something with a deadline."""

    deadline: float
    """The trio time at which it is due; infinite when it is not."""

    def due(self) -> None:
        """The deadline has passed; called once for each time it passes."""
        ...


class Timer:
    """The deadlines of a proxy's sessions and transactions."""

    __slots__ = ("_next", "_scope", "_timed")

    def __init__(self) -> None:
        self._timed: set[Timed] = set()
        self._next = math.inf
        self._scope: trio.CancelScope | None = None

    def remove(self, timed: Timed) -> None:
        """Look after it no more."""
        self._timed.discard(timed)

    def set(self, timed: Timed, deadline: float) -> None:
        """This is due then, instead of what was said of it before. It is looked after until `remove`, from its first deadline on."""
        timed.deadline = deadline
        if deadline != math.inf:
            self._timed.add(timed)
        if deadline < self._next:
            self._next = deadline
            if self._scope is not None:
                self._scope.deadline = deadline

    async def run(self) -> None:
        """Call what is due, until cancelled; sleeps without a wake-up while nothing has a deadline."""
        while True:
            with trio.CancelScope(deadline=self._next) as self._scope:
                await trio.sleep_forever()
            now = trio.current_time()
            self._next = math.inf
            late: list[Timed] = []
            for timed in self._timed:
                if timed.deadline <= now:
                    late.append(timed)
                elif timed.deadline < self._next:
                    self._next = timed.deadline
            if len(self._timed) > _FEW:
                self._next = max(self._next, now + len(self._timed) * _PAUSE_FOR_EACH)
            for timed in late:
                timed.deadline = math.inf
                timed.due()
