"""One direction of a virtual connection. All its semantics live here.

The law: bytes travel in the memory channel, the window beside it only counts. A channel bounds items; what must be bounded is
bytes, so the channel itself is unbounded and `Pipe.send_all` never puts more into it than the window has room for.

Theory of operation
-------------------

A written byte is in one of three places, and counts against the window in all of them:

- *held*: below the water mark, so that a reader is not woken for a trickle. `flush`, end of input, a full window or the mark itself
  ripen what is held.
- *queued*: one item of the channel. Ripe bytes are queued at once, unless an item is waiting there unread already: then small
  writes are merged, for a channel of two-byte items would cost forty times its bytes in memory.
- *rest*: the tail of an item of which a reader took only `max_bytes`.

The invariant that makes reading simple: when nothing is queued, nothing ripe is held. So a reader looks at the rest, then at the
channel, and then it may sleep in the channel; whoever makes bytes ripe wakes it through the channel.

There is at most one writer (the conflict flag sees to that), so what blocks a writer is one task reference, set when it blocks:
an idle pipe owns one channel and nothing else.

A read gives one item, but all that is queued (up to `max_bytes`) while a writer is blocked: the writer fills whatever room there is,
so a small item would come back as small room, and as a small item again, for ever (RFC 9293 §3.8.6.2, the "silly window").

Three ways to end, as for a socket: the writer ends its half (`close_write`: the reader drains, then reads `b""`); the reader goes
(`close_read`: unread bytes are dropped, the writer breaks); or either side aborts (both break at once).
"""

from __future__ import annotations

import contextlib
import math
import operator
from collections.abc import Callable

import attrs
import trio

from trio_tsconnect._util import public

# Below this, a write that finds an unread item in the channel is merged with its neighbours instead of becoming an item of its own.
MERGE_BELOW = 1024


@public("trio_tsconnect.stream")
@attrs.frozen(kw_only=True)
class PipeStatistics:
    """What one direction of a virtual connection holds at this moment."""

    window: int
    """How many unread bytes fit, at the most."""
    unread: int
    """Bytes written and not read yet, held ones included."""
    held: int
    """Those of them that wait for the water mark, a flush, or an unread item before them."""
    total: int
    """Bytes that were ever written."""
    writer_blocked: bool
    """Whether a task waits for room."""
    reader_blocked: bool
    """Whether a task waits for bytes."""
    ended: str | None
    """None while open; else "eof", "reader closed", or the reason of the abort."""


@public("trio_tsconnect.stream")
class Pipe:
    """A bounded one-way byte pipe over a memory channel; one task writes, one task reads."""

    __slots__ = (
        "_abort_reason",
        "_broken_off",
        "_eof",
        "_held",
        "_notify",
        "_queued",
        "_read_busy",
        "_reader_closed",
        "_receive",
        "_rest",
        "_ripe",
        "_send",
        "_total",
        "_unread",
        "_write_busy",
        "_writer",
        "_writer_closed",
        "mark",
        "window",
    )

    def __init__(self, window: int, mark: int = 0) -> None:
        # (without a subscript: that costs a tenth of what it makes)
        channel: tuple[trio.MemorySendChannel[bytes], trio.MemoryReceiveChannel[bytes]] = trio.open_memory_channel(math.inf)
        self._send, self._receive = channel
        self.window: int = window
        self.mark: int = mark
        self._unread = 0
        self._total = 0
        self._held = bytearray()
        self._ripe = not mark
        self._queued = 0
        self._rest = b""
        self._writer: trio.lowlevel.Task | None = None
        self._write_busy = False
        self._read_busy = False
        self._eof = False  # the writer ended its half
        self._writer_closed = False  # the writer's end is closed for local use
        self._reader_closed = False
        self._abort_reason: str | None = None
        self._broken_off: str | None = None  # the writer's half ended in the middle of something
        self._notify: Callable[[], object] | None = None

    # ---------------------------------------------------------------------------------------------------------- the writer's end

    async def send_all(self, data: bytes | bytearray | memoryview) -> None:
        if self._write_busy:
            raise trio.BusyResourceError("another task is using this connection for sending")
        self._write_busy = True
        try:
            await trio.lowlevel.checkpoint_if_cancelled()
            if self._eof or self._reader_closed or self._abort_reason is not None:
                self._check_writable()
            size = len(data) if isinstance(data, (bytes, bytearray)) else data.nbytes
            if size <= self.window - self._unread:
                if size:
                    if self._ripe and not self._queued and not self._held:  # what a reader waits for goes straight on
                        self._unread += size
                        self._total += size
                        self._queue(data if type(data) is bytes else bytes(data))
                    else:
                        self._put(data if type(data) is bytes else bytes(data), size)
                await trio.lowlevel.cancel_shielded_checkpoint()
            else:
                await self._send_in_pieces(memoryview(data).cast("B"))
        finally:
            self._write_busy = False

    def send_nowait(self, data: bytes | bytearray) -> None:
        if self._write_busy:
            raise trio.BusyResourceError("another task is using this connection for sending")
        if self._eof or self._reader_closed or self._abort_reason is not None:
            self._check_writable()
        size = len(data)
        if size > self.window - self._unread:
            raise trio.WouldBlock
        if size:
            self._put(data if type(data) is bytes else bytes(data), size)

    async def _send_in_pieces(self, rest: memoryview) -> None:
        """A write larger than the room: split at the window's edge, and nowhere else."""
        blocked = False
        while rest:
            self._check_writable()  # whoever was told of the last piece may have ended it
            room = self.window - self._unread
            if not room:
                blocked = True
                await self._wait_for_room()
                continue
            piece = bytes(rest[:room])
            self._put(piece, len(piece))
            rest = rest[room:]
        if not blocked:
            await trio.lowlevel.cancel_shielded_checkpoint()

    async def wait_send_all_might_not_block(self) -> None:
        if self._write_busy:
            raise trio.BusyResourceError("another task is using this connection for sending")
        self._write_busy = True
        try:
            await trio.lowlevel.checkpoint()
            if self._writer_closed or self._eof:
                raise trio.ClosedResourceError("this end is closed for sending")
            while self._unread >= self.window:
                await self._wait_for_room()
        except trio.BrokenResourceError:
            return  # a write would fail at once, which is a way of not blocking
        finally:
            self._write_busy = False

    async def _wait_for_room(self) -> None:
        self._writer = trio.lowlevel.current_task()

        def abort(_: object) -> trio.lowlevel.Abort:
            self._writer = None
            return trio.lowlevel.Abort.SUCCEEDED

        await trio.lowlevel.wait_task_rescheduled(abort)
        self._check_writable()

    def _wake_writer(self) -> None:
        if (task := self._writer) is not None:
            self._writer = None
            trio.lowlevel.reschedule(task)

    def _check_writable(self) -> None:
        if self._writer_closed or self._eof:
            raise trio.ClosedResourceError("this end is closed for sending")
        if self._abort_reason is not None:
            raise trio.BrokenResourceError(f"the connection was aborted: {self._abort_reason}")
        if self._reader_closed:
            raise trio.BrokenResourceError("the peer has closed the connection")

    def _put(self, data: bytes, size: int) -> None:
        self._unread += size
        self._total += size
        held = self._held
        if self._ripe and not held and not (self._queued and size < MERGE_BELOW):
            self._queue(data)
            return
        held += data
        if (not self._ripe and (len(held) >= self.mark or self._unread >= self.window)) or (self._ripe and len(held) >= MERGE_BELOW):
            self._release()

    def _queue(self, item: bytes) -> None:
        self._queued += 1
        self._send.send_nowait(item)
        if self._notify is not None:
            self._tell_reader()

    def _tell_reader(self) -> None:
        if (notify := self._notify) is not None:
            self._notify = None
            notify()

    def _release(self) -> None:
        """Make what is held one item of the channel; from here on the mark counts anew."""
        if self._held:
            self._queue(bytes(self._held))
            self._held.clear()
        self._ripe = not self.mark

    def flush(self) -> None:
        """Ripen what is held, whatever the mark."""
        if not self._held:
            return
        if not self._queued or len(self._held) >= MERGE_BELOW:
            self._release()
        else:
            self._ripe = True

    def close_write(self) -> None:
        """End this half: the reader drains what was written, then reads the end of input."""
        if self._eof or self._abort_reason is not None:
            return
        self._eof = True
        if not self._reader_closed:
            self._release()
        self._send.close()
        self._tell_reader()

    def break_off(self, reason: str) -> None:
        """End this half as what is not whole: the reader drains what was written, then fails."""
        if not self._eof:
            self._broken_off = reason
            self.close_write()

    def _end(self) -> bytes:
        """The end of input, for the reader that has drained all there was."""
        if self._broken_off is not None:
            raise trio.BrokenResourceError(f"the connection was broken off: {self._broken_off}")
        return b""

    def close_writer(self) -> None:
        """The writing end is closed: end this half, and fail a local writer that is blocked here."""
        self.close_write()
        self._writer_closed = True
        self._wake_writer()

    # ---------------------------------------------------------------------------------------------------------- the reader's end

    async def receive_some(self, max_bytes: int | None = None) -> bytes:
        if max_bytes is not None and operator.index(max_bytes) < 1:
            raise ValueError(f"max_bytes must be at least 1, not {max_bytes}")
        if self._read_busy:
            raise trio.BusyResourceError("another task is using this connection for receiving")
        self._read_busy = True
        try:
            if not self._queued and not self._rest and not self._eof and self._abort_reason is None and not self._reader_closed:
                return await self._receive_later(max_bytes)  # the channel has the checkpoints of its own
            await trio.lowlevel.checkpoint_if_cancelled()
            self._check_readable()
            if self._rest:
                item = self._rest
            else:
                try:
                    item = self._receive.receive_nowait()
                except trio.EndOfChannel:
                    item = self._end()
                else:
                    self._taken()
            await trio.lowlevel.cancel_shielded_checkpoint()
            if item:  # an end or an abort may have come in between
                self._check_readable()
            return self._take(item, max_bytes)
        finally:
            self._read_busy = False

    async def _receive_later(self, max_bytes: int | None) -> bytes:
        try:
            item = await self._receive.receive()
        except trio.EndOfChannel:
            item = b"" if self._reader_closed or self._abort_reason is not None else self._end()
        else:
            self._queued -= 1
            if self._held and self._ripe and not self._queued:
                self._release()
        if self._reader_closed or self._abort_reason is not None:
            self._check_readable()  # an end or an abort may have come between the wake-up and now
        if self._writer is None and (max_bytes is None or len(item) <= max_bytes):
            self._unread -= len(item)
            return item
        return self._take(item, max_bytes)

    def receive_nowait(self, max_bytes: int | None = None) -> bytes:
        if max_bytes is not None and operator.index(max_bytes) < 1:
            raise ValueError(f"max_bytes must be at least 1, not {max_bytes}")
        if self._read_busy:
            raise trio.BusyResourceError("another task is using this connection for receiving")
        self._check_readable()
        if self._rest:
            item = self._rest
        elif self._queued:
            item = self._receive.receive_nowait()
            self._taken()
        elif self._eof:
            return self._end()
        else:
            raise trio.WouldBlock
        return self._take(item, max_bytes)

    def watch_reader(self, notify: Callable[[], object] | None) -> None:
        self._notify = notify
        if notify is not None and (self._queued or self._rest or self._eof or self._reader_closed or self._abort_reason is not None):
            self._tell_reader()

    def _check_readable(self) -> None:
        if self._reader_closed:
            raise trio.ClosedResourceError("this end is closed for receiving")
        if self._abort_reason is not None:
            raise trio.BrokenResourceError(f"the connection was aborted: {self._abort_reason}")

    def _taken(self) -> None:
        self._queued -= 1
        if self._held and self._ripe and not self._queued:
            self._release()

    def _gather(self, item: bytes, max_bytes: int | None) -> bytes:
        parts, size = [item], len(item)
        while self._queued and (max_bytes is None or size < max_bytes):
            parts.append(self._receive.receive_nowait())
            size += len(parts[-1])
            self._taken()
        return b"".join(parts)

    def _take(self, item: bytes, max_bytes: int | None) -> bytes:
        if self._queued and self._writer is not None:
            item = self._gather(item, max_bytes)
        if max_bytes is not None and len(item) > max_bytes:
            self._rest = item[max_bytes:]
            item = item[:max_bytes]
        else:
            self._rest = b""
        self._unread -= len(item)
        if self._writer is not None:
            self._wake_writer()
        return item

    def close_reader(self) -> None:
        """The reading end is closed: what is unread is dropped, the writer breaks, a local reader that is blocked here fails."""
        self._reader_closed = True
        self._notify = None
        self._drop()
        self._receive.close()
        self._wake_writer()

    # ---------------------------------------------------------------------------------------------------------------- both ends

    def abort(self, reason: str) -> None:
        """Break both ends at once; what is unread is dropped."""
        if self._abort_reason is not None:
            return
        self._abort_reason = reason
        if not self._reader_closed:
            self._drop()
        self._send.close()  # wakes a blocked reader, which then finds the reason
        self._wake_writer()
        self._tell_reader()

    def _drop(self) -> None:
        with contextlib.suppress(trio.WouldBlock, trio.EndOfChannel):  # an item already handed to a reader that has not run yet
            while self._queued:
                self._receive.receive_nowait()
                self._queued -= 1
        self._held.clear()
        self._rest = b""
        self._unread = 0

    def statistics(self) -> PipeStatistics:
        ended = self._abort_reason or ("reader closed" if self._reader_closed else (self._broken_off or "eof") if self._eof else None)
        return PipeStatistics(
            window=self.window,
            unread=self._unread,
            held=len(self._held),
            total=self._total,
            writer_blocked=self._writer is not None,
            reader_blocked=self._read_busy and not self._queued and not self._rest,
            ended=ended,
        )
