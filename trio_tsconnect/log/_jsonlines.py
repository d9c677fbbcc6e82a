"""JSON lines through one writer task. The law: no record is lost silently, and nobody waits for the disk but the writer.

`write` appends to a deque. The writer sleeps while the deque is empty; the first record wakes it, it lets more come for `flush_interval`,
turns what is there into lines between other tasks' steps, and gives them to the file in one write in a worker thread. At most
`max_pending` records are held, counting those of a write that has not succeeded; what comes on top is dropped, and a line in its place
in the log says how many. The writer itself never sees a cancellation: a second task turns it into `close`, and is the one that gives up
on a disk that does not answer, in real time, for a virtual clock would not wait for a thread.
"""

from __future__ import annotations

import math
import os
import sys
import threading
import time
from collections import deque
from typing import BinaryIO

import attrs
import trio

from trio_tsconnect._util import public
from trio_tsconnect.log._log import Log
from trio_tsconnect.log._record import LogRecord, iso_time, to_json_line
from trio_tsconnect.log._sink import Sink, complain

_RECORDS_A_STEP = 64
_RETRY_AFTER = 1.0


@attrs.define(eq=False)
class _Gap:
    """The place in the log where records are missing."""

    since: float
    count: int = 0


@public("trio_tsconnect.log")
class JsonLinesLog(Log):
    """One line of JSON for each record, appended to a file.

    `file` is a path, opened here and now so that what is wrong with it raises `OSError` before anything else starts, or a binary file, which
    stays the caller's to close. A record is in the file at most `flush_interval` seconds late. More than `max_pending` records that wait
    are dropped, counted, and told by a line ``{"dropped": N, "time": "..."}`` in their place. A write that fails is said on standard error
    once, and tried again until it succeeds; after `close`, a failed try is the last, and one that does not return has `close_timeout`
    seconds. A log runs once.
    """

    def __init__(
        self,
        file: str | os.PathLike[str] | BinaryIO,
        *,
        flush_interval: float = 0.2,
        max_pending: int = 65536,
        close_timeout: float = 5.0,
    ) -> None:
        if max_pending < 1:
            raise ValueError(f"max_pending must be at least 1, not {max_pending}")
        if not flush_interval >= 0:
            raise ValueError(f"flush_interval must be 0 or more, not {flush_interval}")
        if not close_timeout >= 0:
            raise ValueError(f"close_timeout must be 0 or more, not {close_timeout}")
        self.flush_interval = flush_interval
        self.max_pending = max_pending
        self.written: int = 0
        self.dropped: int = 0
        self.close_timeout: float = min(close_timeout, threading.TIMEOUT_MAX)
        self._path: str | os.PathLike[str] | None = None
        if isinstance(file, str | os.PathLike):
            self._path = file
            self._sink = Sink.open(file)
        else:
            self._sink = Sink(file, str(getattr(file, "name", file)), ours=False)
        self._next_sink: Sink | None = None
        self._pending: deque[LogRecord | _Gap] = deque()
        self._room = max_pending
        self._batch: list[LogRecord | _Gap] = []
        self._wake_at: float = 1
        self._wake = trio.Event()
        self._closed = trio.Event()
        self._started = False
        self._stuck = False
        self._failing = False
        self._finished = threading.Event()

    # ---- what others call --------------------------------------------------------------------------------------------------------

    def write(self, record: LogRecord) -> None:
        """Take `record`, or count it as dropped when there is no room for it or the log has ended."""
        pending = self._pending
        if len(pending) >= self._room:
            self._drop()
            return
        pending.append(record)
        if len(pending) >= self._wake_at:
            self._wake.set()

    def _drop(self) -> None:
        self.dropped += 1
        if self._finished.is_set():
            return
        last = self._pending[-1] if self._pending else None
        if not isinstance(last, _Gap):
            last = _Gap(since=time.time())
            self._pending.append(last)
        last.count += 1

    def close(self) -> None:
        """Let `run` write what there is and return."""
        self._closed.set()
        self._wake.set()
        if not self._started and not self._pending:
            self._finish()

    def reopen(self) -> None:
        """Open the path anew, for the records from the next write on; `OSError` if that fails, and then the old file stays in use."""
        if self._path is None or self._finished.is_set():
            return
        fresh = Sink.open(self._path)
        if self._next_sink is not None:
            self._next_sink.close()
        self._next_sink = fresh
        self._wake.set()

    # ---- the writer --------------------------------------------------------------------------------------------------------------

    async def run(self) -> None:
        """Write until the log is closed, or until this is cancelled, which closes it; return once everything is written."""
        if self._started:
            raise RuntimeError("a log runs once")
        self._started = True
        if self._finished.is_set():
            return
        async with trio.open_nursery() as nursery:
            with trio.CancelScope(shield=True) as writing:
                nursery.start_soon(self._end_in_time, writing)
                try:
                    await self._write_until_closed()
                finally:
                    self._finish()
            nursery.cancel_scope.cancel()

    async def _end_in_time(self, writing: trio.CancelScope) -> None:
        try:
            await self._closed.wait()
        finally:
            self.close()
            if not self._finished.is_set():
                with trio.CancelScope(shield=True):
                    in_time = await trio.to_thread.run_sync(self._finished.wait, self.close_timeout, limiter=trio.CapacityLimiter(1))
                if not in_time:
                    writing.cancel()

    async def _write_until_closed(self) -> None:
        limiter = trio.CapacityLimiter(1)  # the common one may be full of someone else's slow threads
        due = -math.inf
        while True:
            if not self._pending:
                await self._until_woken_at(1)
                due = trio.current_time() + self.flush_interval
            with trio.move_on_at(due):
                await self._until_woken_at(max(1, self.max_pending // 2))
            due = trio.current_time() + self.flush_interval
            await self._write_pending(limiter)
            if self._closed.is_set() and (self._batch or not self._pending):  # what is still in the batch was given up
                return

    async def _until_woken_at(self, count: int) -> None:
        """Wait for `count` pending records, or for something else that the writer has to see to."""
        self._wake_at = count
        if len(self._pending) < count and not self._closed.is_set() and self._next_sink is None:
            self._wake = trio.Event()
            await self._wake.wait()

    async def _write_pending(self, limiter: trio.CapacityLimiter) -> None:
        """Put in the file what is pending; what is given up stays in the batch."""
        self._batch = list(self._pending)
        self._pending.clear()
        self._room = self.max_pending - len(self._batch)
        data = await self._lines()
        out = await self._put(data, limiter)
        lines = data.count(b"\n", 0, out)
        self.written += _count_records(self._batch[:lines])
        self._batch = self._batch[lines:]
        self._room = self.max_pending - len(self._batch)

    async def _lines(self) -> bytes:
        steps = []
        for start in range(0, len(self._batch), _RECORDS_A_STEP):
            if start:
                await trio.lowlevel.checkpoint()
            steps.append("".join(map(_line, self._batch[start : start + _RECORDS_A_STEP])))
        return "".join(steps).encode("ascii")

    async def _put(self, data: bytes, limiter: trio.CapacityLimiter) -> int:
        """Write `data`, trying until it succeeds or the log is closed; how many of its bytes are in the file."""
        done = 0
        while True:
            done = self._change_file(data, done)
            if not data:
                return 0
            try:
                count, error = await trio.to_thread.run_sync(self._try, data, done, abandon_on_cancel=True, limiter=limiter)
            except trio.Cancelled:
                self._stuck = True
                raise
            done += count
            if error is None or self._closed.is_set():
                return done
            with trio.move_on_after(_RETRY_AFTER):
                await self._closed.wait()

    def _change_file(self, data: bytes, done: int) -> int:
        """Go over to a reopened file, with the line that was under way from its beginning."""
        if self._next_sink is None:
            return done
        self._sink.close()
        self._sink, self._next_sink = self._next_sink, None
        return data.rfind(b"\n", 0, done) + 1

    def _try(self, data: bytes, done: int) -> tuple[int, Exception | None]:
        """Write once, in a worker thread; tell the first failure and the end of the failures."""
        count, error = self._sink.append(memoryview(data)[done:])
        if error is not None and not self._failing:
            self._failing = True
            self._complain(f"the log {self._sink.name} cannot be written and will be tried again: {error}")
        elif error is None and self._failing:
            self._failing = False
            self._complain(f"the log {self._sink.name} is written again")
        return count, error

    def _finish(self) -> None:
        left = [*self._batch, *self._pending]
        lost = _count_records(left)
        self.dropped += lost
        self._batch.clear()
        self._pending.clear()
        self._room = 0
        if self._next_sink is not None:
            self._next_sink.close()
        if not self._stuck:  # a thread may still be using it
            self._sink.close()
        if left:
            untold = lost + sum(item.count for item in left if isinstance(item, _Gap))
            self._complain(f"records missing at the end of the log {self._sink.name}: {untold}")
        self._finished.set()

    def _complain(self, text: str) -> None:
        complain(text)

    def __repr__(self) -> str:
        return f"<{type(self).__name__} {self._sink.name}: {self.written} written, {self.dropped} dropped, {len(self._pending)} pending>"


@public("trio_tsconnect.log")
class StderrLog(JsonLinesLog):
    """One line of JSON for each record on standard error, as it is when the log is made; otherwise as `JsonLinesLog`."""

    def __init__(self, *, flush_interval: float = 0.2, max_pending: int = 65536, close_timeout: float = 5.0) -> None:
        file = getattr(sys.stderr, "buffer", None) or open(2, "wb", buffering=0, closefd=False)  # noqa: SIM115
        super().__init__(file, flush_interval=flush_interval, max_pending=max_pending, close_timeout=close_timeout)

    def _complain(self, text: str) -> None:
        """Where it would be said is what failed."""


def _count_records(items: list[LogRecord | _Gap]) -> int:
    return sum(isinstance(item, LogRecord) for item in items)


def _line(item: LogRecord | _Gap) -> str:
    if isinstance(item, _Gap):
        return to_json_line({"dropped": item.count, "time": iso_time(item.since)}) + "\n"
    return item.to_json() + "\n"
