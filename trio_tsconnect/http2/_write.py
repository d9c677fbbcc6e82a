"""What goes out: all streams' frames of one turn of the loop in one write, the most urgent first (RFC 9218 §10).

The law: only here is data handed to h2, and only when the last write is done. So while a client reads nothing, nothing but answers to its own
control frames can pile up, and those are counted.
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
"""Bytes after which a write is good; more would only make what is urgent wait."""
_SHARE = 16384
"""Bytes of a turn among streams that share."""
_HEAD_COST = 128


class Writer:
    """The sending half of a connection."""

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
        """DATA frames that were written."""
        self.since: float | None = None
        """When the write that is under way began."""

    def ready(self, stream: Stream) -> None:
        """This stream has something to write."""
        self._ready.add(stream)
        self._bell.set()

    def look_at(self, stream: Stream) -> None:
        """The response to this stream has come, or the beginning of it: it is read when there is time to write it."""
        self._answered.append(stream)
        self._bell.set()

    def forget(self, stream: Stream) -> None:
        """This stream has nothing to write any more."""
        self._ready.discard(stream)

    def ring(self) -> None:
        """h2 has something to write."""
        self._bell.set()

    def put(self, frames: bytes) -> None:
        """Write these frames after all that h2 has."""
        self._out += self._h2.data_to_send()
        self._out += frames
        self._bell.set()

    def check_backlog(self) -> None:
        """After reading: `ConnectionFault` when a client asks for answers and does not read them."""
        if self.since is not None:
            self._out += self._h2.data_to_send()
            if len(self._out) > self._limits.max_control_backlog:
                raise ConnectionFault(ErrorCode.ENHANCE_YOUR_CALM, "answers are not being read", "enhance_your_calm")

    async def flushed(self) -> None:
        """Wait until nothing is left that can be written now."""
        self._idle = trio.Event()
        self._bell.set()
        await self._idle.wait()

    async def run(self) -> None:
        """Write until cancelled. Trio's errors when the stream is broken."""
        while True:
            if not self._bell.is_set():
                self._idle.set()
                await self._bell.wait()
            self._bell = trio.Event()
            while data := self._gather():
                self.since = trio.current_time()
                await self._stream.send_all(data)
                self.since = None

    def _gather(self) -> bytes | bytearray:
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
        while self._ready and budget > 0:
            before, urgency = budget, 0
            for stream in sorted(self._ready, key=rank) if len(self._ready) > 1 else list(self._ready):
                if stream.priority.urgency > urgency and budget < before:
                    break  # RFC 9218 §10: as long as the more urgent ones move, it is their turn again
                urgency = stream.priority.urgency
                share = min(budget, _SHARE) if stream.priority.incremental else budget
                budget -= self._write_stream(stream, share)
                if budget <= 0:
                    break
            if budget == before:
                break  # what is ready waits for the connection's window

    def _write_stream(self, stream: Stream, budget: int) -> int:
        """Write of one stream what its window and its share permit; how much that was."""
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
        """How many bytes were written, and whether a window keeps the rest back."""
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
            self._ready.discard(stream)  # its own window is closed: an update of it makes it ready again
        return sent, bool(data)

    def _end(self, stream: Stream) -> None:
        stream.outbox.ending = False
        stream.outbox.heads.clear()
        stream.local_ended = True
        self._ready.discard(stream)
        stream.sent()
        self._ended(stream)
