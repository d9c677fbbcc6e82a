"""A log of lines, written by one task.

Invariant: no record is lost without being counted, and only the writer task waits for the disk.

`write` turns the record into its line at once and appends the line to a deque. Encoding later, in batches, would cost the same time in
longer pieces, for which other transactions would wait. The writer task sleeps while the deque is empty. The first record wakes it. It waits
`flush_interval` for more and writes the lines in one call in a worker thread. At most `max_pending` records are held, including those of a
write that has not succeeded yet. Further records are dropped, and a line in their place says how many.

The writer is shielded from cancellation. A second task converts a cancellation into `close`. It also gives up on a disk that does not
respond. It measures that time in a thread, in real time: the virtual clock of a test would not wait for the worker thread.
"""

from __future__ import annotations

import math
import os
import threading
import time
from collections import deque
from collections.abc import Callable
from typing import BinaryIO

import attrs
import trio

from trio_tsconnect._util import public
from trio_tsconnect.log._format import JSON, Format
from trio_tsconnect.log._log import Log
from trio_tsconnect.log._record import LogRecord
from trio_tsconnect.log._sink import Destination, Sink, complain

JOINED_HERE = 1024
"""Lines that are joined in the loop. More are joined in a worker thread, because that takes long."""

NOTHING = b""
"""What stands between two lines."""
_RETRY_AFTER = 1.0


@attrs.define(eq=False)
class _Gap:
    """A position in the log at which records were dropped."""

    since: float
    count: int = 0


@public("trio_tsconnect.log")
class LineLog(Log):
    """A log that writes one line per record to a destination.

    `to` is a path, a binary file, or a `Destination`. A path is opened at once, so that an error raises `OSError` before anything else
    starts. A binary file must be closed by the caller. `form` is the format of the lines. `wants` selects the records; the others are not
    written and not counted. A record is written at most `flush_interval` seconds late. If `max_pending` records wait already,
    further ones are dropped and counted, and a line such as ``{"dropped": N, "time": "..."}`` takes their place. A write that fails is reported
    once on standard error and retried until it succeeds. After `close`, a failed write is not retried, and a write that does not return is
    abandoned after `close_timeout` seconds. `run` can be called once.
    """

    def __init__(
        self,
        to: str | os.PathLike[str] | BinaryIO | Destination,
        *,
        form: Format = JSON,
        wants: Callable[[LogRecord], bool] | None = None,
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
        self.request_headers: frozenset[str] = form.request_headers
        self.response_headers: frozenset[str] = form.response_headers
        self._form = form
        self._encode = form.encode
        self._wants = wants
        self._sink: Destination = _destination(to)
        self._next_sink: Destination | None = None
        self._pending: deque[bytes | _Gap] = deque()
        self._room = max_pending
        self._batch: list[bytes | _Gap] = []
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
        try:
            if self._wants is not None and not self._wants(record):
                return
            if len(pending) >= self._room:
                self._drop()
                return
            pending.append(self._encode(record))
        except Exception:  # noqa: BLE001 - a format of the caller, or a value of another type than its field
            self._drop()
            return
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
        fresh = None if self._finished.is_set() else self._sink.reopened()
        if fresh is None:
            return
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
        data = await self._joined(limiter)
        out = await self._put(data, limiter)
        lines = len(self._batch) if out == len(data) else data.count(b"\n", 0, out)
        self.written += _count_records(self._batch[:lines]) - self._uncounted()
        self._batch = self._batch[lines:]
        self._room = self.max_pending - len(self._batch)

    def _uncounted(self) -> int:
        """Count as dropped the records that the destination has refused for good. Return their number."""
        lost, self._sink.lost = self._sink.lost, 0
        self.dropped += lost
        return lost

    async def _joined(self, limiter: trio.CapacityLimiter) -> bytes:
        """Return the lines of the batch as one piece. Joining very many takes long; it does not hold up the loop in a worker thread."""
        lines = [item if isinstance(item, bytes) else self._form.gap(item.count, item.since) for item in self._batch]
        if len(lines) <= JOINED_HERE:
            return NOTHING.join(lines)
        return await trio.to_thread.run_sync(NOTHING.join, lines, limiter=limiter)

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


def _destination(to: str | os.PathLike[str] | BinaryIO | Destination) -> Destination:
    if isinstance(to, Destination):
        return to
    if isinstance(to, str | os.PathLike):
        return Sink.open(to)
    return Sink(to, str(getattr(to, "name", to)), ours=False)


def _count_records(items: list[bytes | _Gap]) -> int:
    return sum(isinstance(item, bytes) for item in items)
