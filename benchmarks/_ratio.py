"""Races: how many times as fast one thing is as another, measured so that noise cannot pass for a difference.

The law: a figure is the median of the ratios of rounds. In a round all contestants run one after the other, for about the same time, in an order
of the round's own, each after a moment to get warm; and the first of them runs once more under another name. The ratio of the first to itself
is printed beside each figure: what it is away from 1, the figure may be wrong by.
"""

from __future__ import annotations

import gc
import random
import statistics
import time
from collections.abc import Awaitable, Callable, Mapping
from typing import Literal

import attrs

Contestant = Callable[[int], Awaitable[float]]
"""Does its thing so many times, and says how many it did per second."""

AGAIN = "the same again"
"""The name under which the first contestant runs once more; a contestant that is given under this name takes that part."""


@attrs.frozen(kw_only=True)
class Effort:
    """How long to measure."""

    rounds: int
    """Rounds of each race."""
    slice: float
    """Seconds that each contestant runs in a round."""

    def times(self, rounds: float, slice: float) -> Effort:
        """The same for a race that needs other proportions."""
        return Effort(rounds=max(2, round(self.rounds * rounds)), slice=self.slice * slice)


FULL = Effort(rounds=15, slice=0.1)
QUICK = Effort(rounds=5, slice=0.05)
SMOKE = Effort(rounds=2, slice=0.0)


@attrs.frozen(kw_only=True)
class Figure:
    """One thing against another."""

    name: str
    """What was measured."""
    against: str
    """What it is compared with."""
    ratio: float
    """How many times as fast it is: the median over the rounds."""
    low: float
    """The lower quartile of the ratios."""
    high: float
    """The upper quartile."""
    same_code: float
    """The ratio of the first contestant to itself, from the same rounds."""
    ours: float
    """How many the first did per second (median)."""
    theirs: float
    """How many the other did per second (median)."""
    unit: Literal["/s", "/CPU-s", "MiB/s", "µs"]
    """What was counted; for a time (µs) `ours` and `theirs` are times, and a ratio above 1 still means faster."""


@attrs.frozen(kw_only=True)
class Absent:
    """A figure that cannot be had here."""

    name: str
    """What would have been measured."""
    why: str
    """What is missing."""


Result = Figure | Absent


async def race(
    name: str, contestants: Mapping[str, Contestant], effort: Effort, *, unit: Literal["/s", "/CPU-s", "MiB/s"] = "/s"
) -> list[Figure]:
    """Race the first contestant against each of the others."""
    first, *others = [each for each in contestants if each != AGAIN]
    runners = {AGAIN: contestants[first], **contestants}
    counts = {each: await _count(runner, effort.slice) for each, runner in runners.items()}
    rates: dict[str, list[float]] = {each: [] for each in runners}
    order = list(runners)
    lots = random.Random(1)  # not in turn: the one that always comes after the same other one pays for what that leaves in the caches
    for _ in range(effort.rounds):
        lots.shuffle(order)
        for each in order:
            gc.collect()
            await runners[each](max(1, counts[each] // 10))
            rates[each].append(await runners[each](counts[each]))
    return [_figure(name, other, rates[first], rates[other], rates[AGAIN], unit) for other in others]


async def _count(runner: Contestant, seconds: float) -> int:
    """How many it does in so many seconds; it is warm afterwards."""
    count = 1
    for share in (0.25, 1.0):
        count = max(1, int(await runner(count) * seconds * share))
    return count


def _figure(
    name: str, other: str, ours: list[float], theirs: list[float], again: list[float], unit: Literal["/s", "/CPU-s", "MiB/s"]
) -> Figure:
    ratios = [a / b for a, b in zip(ours, theirs, strict=True)]
    low, median, high = statistics.quantiles(ratios, n=4, method="inclusive")
    return Figure(
        name=name,
        against=other,
        ratio=median,
        low=low,
        high=high,
        same_code=statistics.median(a / b for a, b in zip(ours, again, strict=True)),
        ours=statistics.median(ours),
        theirs=statistics.median(theirs),
        unit=unit,
    )


def timed(work: Callable[[int], Awaitable[object]], *, per: float = 1.0) -> Contestant:
    """A contestant from a coroutine function that does its thing n times, each of which counts for `per`."""

    async def run(n: int) -> float:
        start = time.perf_counter()
        await work(n)
        return n * per / (time.perf_counter() - start)

    return run


TITLES = ("what", "against", "ratio", "quartiles", "same code", "ours", "theirs", "")
_ROW = "{:<44} {:<34} {:>6} {:>13} {:>9} {:>9} {:>9} {}"


def as_row(result: Result) -> str:
    """One line of the table."""
    if isinstance(result, Absent):
        return f"{result.name:<44} not there: {result.why}"
    quartiles = f"{result.low:.2f}..{result.high:.2f}"
    numbers = (f"{result.ratio:.2f}", quartiles, f"{result.same_code:.2f}", f"{result.ours:.0f}", f"{result.theirs:.0f}")
    return _ROW.format(result.name, result.against, *numbers, result.unit)


def title_row() -> str:
    """The head of the table."""
    return _ROW.format(*TITLES).rstrip()
