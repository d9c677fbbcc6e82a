"""One direction of a virtual connection. `Pipe` implements all of its semantics.

Invariant: `unread`, the number of bytes written and not yet read, is never larger than `window`.

Theory of operation
-------------------

A stream must be bounded in bytes, but a trio memory channel is bounded in items, which may have any size. So the channel is unbounded, the
pipe counts bytes, and `send_all` never puts more into the channel than the window has room for. An unread byte is in one of three places,
and counts against the window in each of them:

- *held*: below the water mark, and not readable. The mark, a full window, `flush` and the end of input make held bytes ripe.
- *queued*: in an item of the channel. Ripe bytes are queued at once, unless an unread item is already queued: then writes smaller than
  `MERGE_BELOW` stay held and are merged. A channel of two-byte items would need about forty times the memory of its bytes.
- *rest*: the tail of an item from which the reader took only `max_bytes`.

Invariant: if no item is queued, no ripe byte is held. So a reader checks the rest, then the channel, and may then block in the channel:
every byte that becomes ripe later wakes it through the channel. The `_write_busy` flag admits one writer at a time, so one task reference
is enough to record a blocked writer.

A read returns one item. While a writer is blocked, a read returns everything that is queued, up to `max_bytes`. Without this rule, a small
read would make little room, the writer would fill it with a small item, and all later items would stay small (the silly window syndrome,
RFC 9293 §3.8.6.2).

A pipe ends as a socket does. `close_write`: the reader drains the pipe, then reads `b""`. `break_off`: the reader drains it, then fails.
`close_reader`: unread bytes are dropped and writes fail. `abort`: unread bytes are dropped and both ends fail.
"""

from __future__ import annotations

import contextlib
import math
import operator
from collections.abc import Callable

import attrs
import trio

from trio_tsconnect._util import public

# Size in bytes. If an unread item is queued, smaller writes are merged instead of becoming items of their own.
MERGE_BELOW = 1024


@public("trio_tsconnect.stream")
@attrs.frozen(kw_only=True)
class PipeStatistics:
    """A snapshot of one direction of a virtual connection."""

    window: int
    """Maximum number of unread bytes."""
    unread: int
    """Number of bytes written and not yet read, held bytes included."""
    held: int
    """Number of unread bytes that wait for the water mark, for a flush, or for an earlier item to be read."""
    total: int
    """Number of bytes written since the pipe was created."""
    writer_blocked: bool
    """True if a task is blocked until there is room."""
    reader_blocked: bool
    """True if a task is blocked until there are bytes."""
    ended: str | None
    """None while open; else "eof", "reader closed", or the reason given to `break_off` or `abort`."""


@public("trio_tsconnect.stream")
class Pipe:
    """A bounded one-way byte pipe over a memory channel, for one writing and one reading task at a time."""

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
        # No `[bytes]` subscript on the call: evaluating it adds a tenth to the time of creating a pipe.
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
        self._eof = False  # the writer ended this direction
        self._writer_closed = False  # the writing end was closed locally
        self._reader_closed = False
        self._abort_reason: str | None = None
        self._broken_off: str | None = None  # reason of `break_off`: the input is incomplete
        self._notify: Callable[[], object] | None = None

    # ---------------------------------------------------------------------------------------------------------- the writer's end

    async def send_all(self, data: bytes | bytearray | memoryview) -> None:
        """Write all of `data`; block while the window is full. If cancelled while blocked, a part may have been written."""
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
                    # Count, then queue: `_queue` may call the reader's callback, which may read at once. Copy: callers reuse buffers.
                    if self._ripe and not self._queued and not self._held:
                        self._unread += size
                        self._total += size
                        self._queue(data if type(data) is bytes else bytes(data))
                    else:
                        self._put(data if type(data) is bytes else bytes(data), size)
                # Shielded: the bytes are written, and a `Cancelled` here would tell the caller that they are not.
                await trio.lowlevel.cancel_shielded_checkpoint()
            else:
                await self._send_in_pieces(memoryview(data).cast("B"))
        finally:
            self._write_busy = False

    def send_nowait(self, data: bytes | bytearray) -> None:
        """Write all of `data` without a checkpoint, or raise `trio.WouldBlock` and write nothing."""
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
        """Write data that is larger than the room; split it only where the window is full."""
        blocked = False
        while rest:
            self._check_writable()  # the reader's callback may have closed or aborted the pipe during `_put`
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
        """Block while the window is full. Return also if the connection is broken: a write would then fail at once."""
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
            return  # a write would fail at once, so it would not block
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
            self._writer = None  # first: trio forbids rescheduling a task twice
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
        held += data  # behind the bytes that are held already: order
        if (not self._ripe and (len(held) >= self.mark or self._unread >= self.window)) or (self._ripe and len(held) >= MERGE_BELOW):
            self._release()

    def _queue(self, item: bytes) -> None:
        self._queued += 1
        self._send.send_nowait(item)
        if self._notify is not None:
            self._tell_reader()

    def _tell_reader(self) -> None:
        if (notify := self._notify) is not None:
            self._notify = None  # before the call: the callback may set the next one
            notify()

    def _release(self) -> None:
        """Queue the held bytes as one item, and start to count towards the water mark again."""
        if self._held:
            self._queue(bytes(self._held))
            self._held.clear()
        self._ripe = not self.mark

    def flush(self) -> None:
        """Make the held bytes readable without waiting for the water mark."""
        if not self._held:
            return
        if not self._queued or len(self._held) >= MERGE_BELOW:
            self._release()
        else:
            self._ripe = True

    def close_write(self) -> None:
        """End this direction: the reader drains what was written, then reads `b""`. Idempotent."""
        if self._eof or self._abort_reason is not None:
            return
        self._eof = True
        if not self._reader_closed:
            self._release()  # before the channel is closed, which then takes no more items
        self._send.close()
        self._tell_reader()

    def break_off(self, reason: str) -> None:
        """End this direction as incomplete: the reader drains what was written, then gets `BrokenResourceError`."""
        if not self._eof:
            self._broken_off = reason
            self.close_write()

    def _end(self) -> bytes:
        """Return `b""`, or raise `BrokenResourceError` after `break_off`. For a reader that has drained the pipe."""
        if self._broken_off is not None:
            raise trio.BrokenResourceError(f"the connection was broken off: {self._broken_off}")
        return b""

    def close_writer(self) -> None:
        """Close the writing end: end this direction, and fail a local task that is blocked in a write."""
        self.close_write()
        self._writer_closed = True
        self._wake_writer()

    # ---------------------------------------------------------------------------------------------------------- the reader's end

    async def receive_some(self, max_bytes: int | None = None) -> bytes:
        """Return 1 to `max_bytes` bytes; block while there are none; return `b""` at the end of input. A cancelled call loses no byte."""
        if max_bytes is not None and operator.index(max_bytes) < 1:
            raise ValueError(f"max_bytes must be at least 1, not {max_bytes}")
        if self._read_busy:
            raise trio.BusyResourceError("another task is using this connection for receiving")
        self._read_busy = True
        try:
            if not self._queued and not self._rest and not self._eof and self._abort_reason is None and not self._reader_closed:
                return await self._receive_later(max_bytes)  # the channel's `receive` is a checkpoint
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
            # Shielded: the item has left the channel, and a `Cancelled` here would lose it.
            await trio.lowlevel.cancel_shielded_checkpoint()
            if item:  # if the pipe was closed or aborted during the checkpoint, the item was dropped
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
            # Before `_unread` changes: a close or abort after the wake-up has dropped this item and reset the count.
            self._check_readable()
        if self._writer is None and (max_bytes is None or len(item) <= max_bytes):
            self._unread -= len(item)
            return item
        return self._take(item, max_bytes)

    def receive_nowait(self, max_bytes: int | None = None) -> bytes:
        """Do what `receive_some` does, without a checkpoint. Raise `trio.WouldBlock` if there is nothing to read."""
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
        """Call `notify()` once when there is something to read, or at once if there already is. None removes the callback."""
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
        """Close the reading end: drop unread bytes, and fail the writer and a local task that is blocked in a read."""
        self._reader_closed = True
        self._notify = None
        self._drop()
        self._receive.close()
        self._wake_writer()

    # ---------------------------------------------------------------------------------------------------------------- both ends

    def abort(self, reason: str) -> None:
        """Fail both ends with `reason`, and drop unread bytes. Idempotent. The caller then closes both ends, which wakes a blocked writer."""
        if self._abort_reason is not None:
            return
        self._abort_reason = reason
        if not self._reader_closed:
            self._drop()
        self._send.close()  # wakes a blocked reader, which then raises because of `_abort_reason`
        self._tell_reader()

    def _drop(self) -> None:
        # `_queued` still counts an item that the channel has handed to a reader which has not run yet.
        with contextlib.suppress(trio.WouldBlock, trio.EndOfChannel):
            while self._queued:
                self._receive.receive_nowait()
                self._queued -= 1
        self._held.clear()
        self._rest = b""
        self._unread = 0

    def statistics(self) -> PipeStatistics:
        """Return a snapshot of the pipe."""
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
