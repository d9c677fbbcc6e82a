"""Where a keep-alive transaction spends its time: a sampling profiler of a page, for a tracing one makes small functions look dear.

The law: nothing is changed in what is profiled. A timer of CPU time interrupts it, and the frames that are found on the stack are counted.
"""

from __future__ import annotations

import signal
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import CodeType, FrameType

import attrs
import trio

from benchmarks._children import child
from benchmarks._exchange import Client, Respond
from benchmarks._transactions import serving

KINDS = ("respond", "origin")
INTERVAL = 0.001
SHOWN = 25


@attrs.define
class Samples:
    """What was found on the stack."""

    taken: int = 0
    """How often was looked."""
    own: Counter[CodeType] = attrs.field(factory=Counter)
    """How often a function was running itself."""
    total: Counter[CodeType] = attrs.field(factory=Counter)
    """How often it, or what it had called, was running."""

    def take(self, _signal: int, frame: FrameType | None) -> None:
        """Look at the stack."""
        if frame is None:
            return
        self.taken += 1
        self.own[frame.f_code] += 1
        self.total.update(set(_codes(frame)))


def _codes(frame: FrameType | None) -> Iterator[CodeType]:
    while frame is not None:
        yield frame.f_code
        frame = frame.f_back


@contextmanager
def sampling() -> Iterator[Samples]:
    """Sample this process; only in the main thread of a system that has the timer."""
    samples = Samples()
    before = signal.signal(signal.SIGPROF, samples.take)
    signal.setitimer(signal.ITIMER_PROF, INTERVAL, INTERVAL)
    try:
        yield samples
    finally:
        signal.setitimer(signal.ITIMER_PROF, 0)
        signal.signal(signal.SIGPROF, before)


def place(code: CodeType) -> str:
    """The room or the package that a function belongs to."""
    parts = Path(code.co_filename).parts
    for package in ("trio_tsconnect", "benchmarks"):
        if package in parts:
            rest = parts[len(parts) - parts[::-1].index(package) :]
            return rest[0] if len(rest) > 1 else package
    for package in ("trio", "h11", "h2", "hpack", "outcome"):
        if package in parts:
            return package
    return "others"


async def profile(kind: str, seconds: float) -> str:
    """Profile transactions over a virtual connection, which a plugin answers ("respond") or an origin over TCP ("origin")."""
    if kind == "respond":
        async with serving([Respond()]) as proxy, proxy.connect() as stream:
            return await _profile(stream, seconds)
    async with child("origin") as origin, serving(origin_port=origin.port) as proxy, proxy.connect() as stream:
        return await _profile(stream, seconds)


async def _profile(stream: trio.abc.Stream, seconds: float) -> str:
    client = Client(stream)
    await client.run(200)
    count, start = 0, time.process_time()
    with sampling() as samples:
        while (spent := time.process_time() - start) < seconds:
            await client.run(50)
            count += 50
    return "\n".join(_report(samples, spent / count * 1e6))


def _report(samples: Samples, microseconds: float) -> Iterator[str]:
    each = microseconds / max(1, samples.taken)
    rooms: Counter[str] = Counter()
    for code, hits in samples.own.items():
        rooms[place(code)] += hits
    yield f"{microseconds:.1f} us of CPU time per transaction, the client's included ({samples.taken} samples)"
    yield "by room: " + ", ".join(f"{room} {hits * each:.1f}" for room, hits in rooms.most_common())
    for title, counter in (("itself", samples.own), ("with what it calls", samples.total)):
        yield f"\n{'us':>6}  {title}"
        for code, hits in counter.most_common(SHOWN):
            yield f"{hits * each:6.1f}  {place(code)}: {Path(code.co_filename).name}:{code.co_firstlineno} {code.co_qualname}"
