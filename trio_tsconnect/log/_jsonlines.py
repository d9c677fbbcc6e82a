"""A log of JSON lines, written by one task.

Invariant: no record is lost without being counted, and only the writer task waits for the disk.

`write` appends to a deque. The writer task sleeps while the deque is empty. The first record wakes it. It waits `flush_interval` for more,
encodes the records in steps between which other tasks run, and writes the lines to the file in one call in a worker thread. At most
`max_pending` records are held, including those of a write that has not succeeded yet. Further records are dropped, and a line in their
place says how many.

The writer is shielded from cancellation. A second task converts a cancellation into `close`. It also gives up on a disk that does not
respond. It measures that time in a thread, in real time: the virtual clock of a test would not wait for the worker thread.
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
    """A position in the log at which records were dropped."""

    since: float
    count: int = 0


@public("trio_tsconnect.log")
class JsonLinesLog(Log):
    """A log that appends one line of JSON per record to a file.

    `file` is a path or a binary file. A path is opened at once, so that an error raises `OSError` before anything else starts. A binary
    file must be closed by the caller. A record is written at most `flush_interval` seconds late. If `max_pending` records wait already,
    further ones are dropped and counted, and a line ``{"dropped": N, "time": "..."}`` takes their place. A write that fails is reported
    once on standard error and retried until it succeeds. After `close`, a failed write is not retried, and a write that does not return is
    abandoned after `close_timeout` seconds. `run` can be called once.
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
        """Accept `record`. If `max_pending` records wait already, or if the log has ended, count it as dropped."""
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
        """Tell `run` to write the accepted records and to return."""
        self._closed.set()
        self._wake.set()
        if not self._started and not self._pending:  # `run` may never be called: close the file now
            self._finish()

    def reopen(self) -> None:
        """Reopen the path. Later writes go to the new file. Raises `OSError` if it cannot be opened; then the old file stays in use."""
        if self._path is None or self._finished.is_set():
            return
        fresh = Sink.open(self._path)
        if self._next_sink is not None:
            self._next_sink.close()
        self._next_sink = fresh
        self._wake.set()

    # ---- the writer --------------------------------------------------------------------------------------------------------------

    async def run(self) -> None:
        """Write records until the log is closed, then write the rest and return. Cancellation closes the log.

        Raises `RuntimeError` if it is called twice.
        """
        if self._started:
            raise RuntimeError("run() of a log can be called only once; create a new log")
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
        limiter = trio.CapacityLimiter(1)  # the default limiter may be used up by slow threads of other code
        due = -math.inf
        while True:
            if not self._pending:
                await self._until_woken_at(1)
                due = trio.current_time() + self.flush_interval
            with trio.move_on_at(due):
                await self._until_woken_at(max(1, self.max_pending // 2))
            due = trio.current_time() + self.flush_interval
            await self._write_pending(limiter)
            if self._closed.is_set() and (self._batch or not self._pending):  # records left in the batch could not be written
                return

    async def _until_woken_at(self, count: int) -> None:
        """Wait for `count` pending records, for `close`, or for a reopened file."""
        self._wake_at = count
        if len(self._pending) < count and not self._closed.is_set() and self._next_sink is None:
            self._wake = trio.Event()
            await self._wake.wait()

    async def _write_pending(self, limiter: trio.CapacityLimiter) -> None:
        """Write the pending records. Records that could not be written stay in `_batch`."""
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
        """Write `data`, with retries until it succeeds or the log is closed. Return the number of bytes written."""
        done = 0
        while True:
            done = self._change_file(data, done)
            if not data:
                return 0
            try:
                count, error = await trio.to_thread.run_sync(self._try, data, done, abandon_on_cancel=True, limiter=limiter)
            except trio.Cancelled:
                self._stuck = True  # the thread goes on and may still use the file
                raise
            done += count
            if error is None or self._closed.is_set():
                return done
            with trio.move_on_after(_RETRY_AFTER):
                await self._closed.wait()

    def _change_file(self, data: bytes, done: int) -> int:
        """Switch to a reopened file, if any. Return the offset in `data` to continue at: the start of an interrupted line."""
        if self._next_sink is None:
            return done
        self._sink.close()
        self._sink, self._next_sink = self._next_sink, None
        return data.rfind(b"\n", 0, done) + 1

    def _try(self, data: bytes, done: int) -> tuple[int, Exception | None]:
        """Write once, in a worker thread. Report the first failure, and the first success after it, on standard error."""
        count, error = self._sink.append(memoryview(data)[done:])
        if error is not None and not self._failing:
            self._failing = True
            self._complain(f"cannot write the log {self._sink.name}, will retry: {error}")
        elif error is None and self._failing:
            self._failing = False
            self._complain(f"the log {self._sink.name} can be written again")
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
        if not self._stuck:  # an abandoned thread may still use the file
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
    """A `JsonLinesLog` on standard error, as it is when the log is created."""

    def __init__(self, *, flush_interval: float = 0.2, max_pending: int = 65536, close_timeout: float = 5.0) -> None:
        file = getattr(sys.stderr, "buffer", None) or open(2, "wb", buffering=0, closefd=False)  # noqa: SIM115
        super().__init__(file, flush_interval=flush_interval, max_pending=max_pending, close_timeout=close_timeout)

    def _complain(self, text: str) -> None:
        """Do nothing: messages go to standard error, which is what failed."""


def _count_records(items: list[LogRecord | _Gap]) -> int:
    return sum(isinstance(item, LogRecord) for item in items)


def _line(item: LogRecord | _Gap) -> str:
    if isinstance(item, _Gap):
        return to_json_line({"dropped": item.count, "time": iso_time(item.since)}) + "\n"
    return item.to_json() + "\n"
