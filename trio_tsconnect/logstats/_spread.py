"""Percentiles in constant memory. Invariant: a percentile is exact up to `EXACT` values, and at most 1 % off beyond."""

from __future__ import annotations

import math
from collections import Counter
from typing import Final

EXACT: Final = 1000
"""How many values are kept as they are."""
_GAMMA = 1.02
_LOG = math.log(_GAMMA)
_SMALLEST = 1e-9


class Times:
    """Some times in seconds, of which percentiles are asked."""

    def __init__(self) -> None:
        self.count = 0
        """How many there are."""
        self.max: float | None = None
        """The longest; None if there is none."""
        self._values: list[float] = []
        self._steps: Counter[int] = Counter()

    def add(self, seconds: float) -> None:
        """Add one."""
        self.count += 1
        if self.max is None or seconds > self.max:
            self.max = seconds
        if self._steps:
            self._steps[_step(seconds)] += 1
            return
        self._values.append(seconds)
        if len(self._values) > EXACT:
            self._steps.update(map(_step, self._values))
            self._values.clear()

    def percentile(self, percent: int) -> float | None:
        """Return the smallest value that is not less than `percent` per cent of the values; None if there is none."""
        if not self.count:
            return None
        rank = max(1, -(-self.count * percent // 100))
        if not self._steps:
            return sorted(self._values)[rank - 1]
        for step in sorted(self._steps):
            rank -= self._steps[step]
            if rank <= 0:
                return _middle(step)
        return self.max


def _step(seconds: float) -> int:
    return math.ceil(math.log(seconds) / _LOG) if seconds > _SMALLEST else math.ceil(math.log(_SMALLEST) / _LOG)


def _middle(step: int) -> float:
    """Return the value that is equally far, in proportion, from both ends of a step."""
    found = 2.0 * _GAMMA**step / (_GAMMA + 1.0)
    return found if found > 2 * _SMALLEST else 0.0
