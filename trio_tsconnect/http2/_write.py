"""The writer of a connection: one task writes the frames of all streams, the most urgent first (RFC 9218 §10).

Invariant: response heads and DATA are handed to h2 only here, and only when the previous `send_all` has returned.

Theory of operation. If each stream's task called h2 and sent by itself, three things would go wrong. h2 buffers without a limit, so a
client that does not read could make the proxy buffer whole responses. Frames would be written in the order in which origins answer, not in
the order of priority. And each frame would cost a system call, and a TLS record.

So streams only fill their outboxes, which are bounded, and mark themselves as ready. `run` builds one batch at a time and sends it.

- Backlog. While `send_all` blocks, only control frames accumulate. Nearly all of them answer frames of the client: acknowledgements of
  SETTINGS and PING, WINDOW_UPDATE, RST_STREAM. `check_backlog` counts their bytes and closes the connection past a limit.
- Fairness. A batch has about `_BATCH` bytes, so an urgent frame waits only for the batch that is being sent. A batch is filled in rounds
  over the ready streams, in the order of `rank`. In a round, a non-incremental stream may use all that is left of the batch, so those after
  it wait until it is empty or blocked. An incremental one may use `_SHARE` bytes; then the next stream is served, even a less urgent one.
- Flow control. A stream that is blocked by its own window leaves the set of ready streams until the client opens the window, so it costs
  nothing in later batches and delays no other stream. If the connection's window is closed, streams stay in the set, and its WINDOW_UPDATE
  wakes the writer.
- Wake-ups. `_bell` is replaced before a batch is built. So a call of `ready` or `ring` while a batch is built or sent is not lost.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import trio

from trio_tsconnect.config import Http2Limits
from trio_tsconnect.http2._errors import ConnectionFault, ErrorCode
from trio_tsconnect.http2._priority import rank
from trio_tsconnect.http2._protocol import Machine
from trio_tsconnect.http2._stream import Stream

_BATCH = 65536
"""Bytes of one batch, approximately. A larger batch would make urgent frames wait longer."""
_SHARE = 16384
"""Bytes that an incremental stream may write before the next stream is served."""
_HEAD_COST = 128
"""Bytes that a head or the end of a stream counts in a batch: an estimate of its encoded size."""


class Writer:
    """The sending half of a connection.

    `start` is called for a stream that needs a task to relay its response, `ended` when the END_STREAM of a stream was handed to h2.
    """

    def __init__(
        self,
        machine: Machine,
        stream: trio.abc.Stream,
        limits: Http2Limits,
        *,
        start: Callable[[Stream], object],
        ended: Callable[[Stream], object],
    ) -> None:
        self._h2 = machine.h2
        self._machine = machine
        self._stream = stream
        self._limits = limits
        self._start = start
        self._ended = ended
        self._answered: list[Stream] = []
        self._ready: set[Stream] = set()
        self._out = bytearray()
        self._turn = 0
        self._bell = trio.Event()
        self._idle = trio.Event()
        self.frames = 0
        """Number of DATA frames handed to h2 so far."""
        self.since: float | None = None
        """Trio's time at which the `send_all` in progress was called; None if there is none."""

    def ready(self, stream: Stream) -> None:
        """Add a stream to the ready streams and wake the writer. Adding it again is harmless."""
        self._ready.add(stream)
        self._bell.set()

    def look_at(self, stream: Stream) -> None:
        """Schedule reading the response of a stream that has no task, and wake the writer.

        The response is read for the next batch, not now: while the client does not read, responses stay in their bounded virtual
        connections.
        """
        self._answered.append(stream)
        self._bell.set()

    def forget(self, stream: Stream) -> None:
        """Remove a stream from the ready streams."""
        self._ready.discard(stream)

    def ring(self) -> None:
        """Wake the writer: h2 has queued frames."""
        self._bell.set()

    def put(self, frames: bytes) -> None:
        """Queue serialized frames after everything that h2 has queued, and wake the writer."""
        self._out += self._h2.data_to_send()  # first, to keep the order of the frames
        self._out += frames
        self._bell.set()

    def check_backlog(self) -> None:
        """Raise `ConnectionFault` if unsent control frames exceed `Http2Limits.max_control_backlog` bytes. Call this after each read.

        Does nothing unless a `send_all` is in progress (CVE-2019-9512, CVE-2019-9515).
        """
        if self.since is not None:
            self._out += self._h2.data_to_send()
            if len(self._out) > self._limits.max_control_backlog:
                raise ConnectionFault(ErrorCode.ENHANCE_YOUR_CALM, "too many answers to control frames are unread", "enhance_your_calm")

    async def flushed(self) -> None:
        """Wait until everything was sent that can be sent now. Data that is blocked by a flow-control window remains."""
        self._idle = trio.Event()
        self._bell.set()  # so that `run` looks once more and then sets `_idle`, even if it is already waiting
        await self._idle.wait()

    async def run(self) -> None:
        """Send batches until cancelled. Raises trio's `BrokenResourceError` or `ClosedResourceError` if the stream fails."""
        while True:
            if not self._bell.is_set():
                self._idle.set()
                await self._bell.wait()
            self._bell = trio.Event()  # before `_gather`: a ring during `send_all` must not be lost
            while data := self._gather():
                self.since = trio.current_time()
                await self._stream.send_all(data)
                self.since = None

    def _gather(self) -> bytes | bytearray:
        """Return the bytes of the next batch; empty if there is nothing to send."""
        if self._answered:
            answered, self._answered = self._answered, []
            for stream in answered:
                if not stream.closed and not stream.answer_now():
                    self._start(stream)
        if self._ready:
            self._write_streams(_BATCH)
        if not self._out:
            return self._h2.data_to_send()
        data = self._out + self._h2.data_to_send()
        self._out = bytearray()
        return data

    def _write_streams(self, budget: int) -> None:
        """Hand frames of the ready streams to h2, in order of `rank`, until about `budget` bytes are used or all streams are blocked."""
        while self._ready and budget > 0:
            before, urgency = budget, 0
            # Sorted again in each round: a write changes the rank of an incremental stream. A copy: a write removes streams from the set.
            for stream in sorted(self._ready, key=rank) if len(self._ready) > 1 else list(self._ready):
                if stream.priority.urgency > urgency and budget < before:
                    break  # RFC 9218 §10: as long as the more urgent ones move, it is their turn again
                urgency = stream.priority.urgency
                share = min(budget, _SHARE) if stream.priority.incremental else budget
                budget -= self._write_stream(stream, share)
                if budget <= 0:
                    break
            if budget == before:
                break  # all ready streams wait for the connection's window

    def _write_stream(self, stream: Stream, budget: int) -> int:
        """Hand heads, data and the end of one stream to h2, as far as its window and `budget` permit. Return the bytes that were used."""
        outbox, h2, spent = stream.outbox, self._h2, 0
        if outbox.heads:
            for fields, last in outbox.heads:
                h2.send_headers(stream.id, fields, end_stream=last)
                spent += _HEAD_COST
                if last:
                    self._end(stream)
                    return spent
            outbox.heads.clear()
        if outbox.data:
            sent, blocked = self._write_data(stream, budget)
            spent += sent
            if stream.local_ended or blocked:
                return spent
        if not outbox.data:
            if outbox.ending:
                if outbox.trailers:
                    h2.send_headers(stream.id, outbox.trailers, end_stream=True)
                else:
                    h2.end_stream(stream.id)
                self._end(stream)
                return spent + _HEAD_COST
            self._ready.discard(stream)
        return spent

    def _write_data(self, stream: Stream, budget: int) -> tuple[int, bool]:
        """Hand DATA of one stream to h2. Return the bytes written, and True if data is left in the outbox.

        The last frame may exceed `budget`: its size is limited by the frame size and the window only.
        """
        outbox, h2 = stream.outbox, self._h2
        data, most = outbox.data, self._machine.frame_size
        window = h2.local_flow_control_window(stream.id)
        sent = 0
        while data and sent < budget and sent < window:
            size = min(len(data), most, window - sent)
            last = outbox.ending and size == len(data) and not outbox.trailers
            chunk = bytes(data[:size])
            del data[:size]
            h2.send_data(stream.id, chunk, end_stream=last)
            self.frames += 1
            sent += size
            if last:
                self._end(stream)
                return sent, False
        if sent:
            self._turn += 1
            stream.turn = self._turn
            stream.moved = (
                trio.current_time() if data and sent >= window else math.inf
            )  # (else the batch was full, which is no fault of the client)
            stream.sent()
        elif data and stream.moved == math.inf:
            stream.moved = trio.current_time()
        if data and sent >= window and h2.outbound_flow_control_window > 0:
            # Blocked by its own window, not by the connection's: a WINDOW_UPDATE or SETTINGS frame makes it ready again (`Receiver`).
            self._ready.discard(stream)
        return sent, bool(data)

    def _end(self, stream: Stream) -> None:
        """Record that END_STREAM was handed to h2, and wake a task that waits for it."""
        stream.outbox.ending = False
        stream.outbox.heads.clear()
        stream.local_ended = True
        self._ready.discard(stream)
        stream.sent()
        self._ended(stream)
