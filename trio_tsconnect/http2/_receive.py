"""The receiver of a connection: validates each frame, counts it against its rate limit, passes it to h2, and acts on h2's events.

Invariant: h2 gets one frame at a time, and never a frame for which RFC 9113 requires a stream error but h2 would close the connection. Such
frames are handled here, as are those that RFC 9113 requires to be ignored.
"""

from __future__ import annotations

import math
from collections.abc import Iterator

import trio

from trio_tsconnect.config import Http2Limits
from trio_tsconnect.http2 import _frames as f
from trio_tsconnect.http2._errors import ConnectionFault, ErrorCode, StreamFault, code_name
from trio_tsconnect.http2._fields import read_trailers
from trio_tsconnect.http2._limits import Meter
from trio_tsconnect.http2._owner import ReceiverOwner
from trio_tsconnect.http2._priority import parse_priority
from trio_tsconnect.http2._protocol import (
    DataReceived,
    Event,
    Machine,
    PingAckReceived,
    RemoteSettingsChanged,
    RequestReceived,
    StreamEnded,
    StreamReset,
    TrailersReceived,
    WindowUpdated,
)
from trio_tsconnect.http2._stream import Stream

_SMALL = 64
"""Bytes; a DATA frame with less is counted against `Http2Limits.small_data`."""
_AT_ONCE = 64
"""Units of work of one connection between two checkpoints; a small frame is one unit. A single read may contain thousands of frames."""
_OF_A_HEAD = 4
"""Units of work that a head costs in addition to its frame, because it may start a task."""
_FIELDS_A_UNIT = 32
"""Fields that cost one unit of work. With HPACK, one byte may stand for a field."""


class Receiver:
    """The receiving half of a connection."""

    def __init__(self, connection: ReceiverOwner, machine: Machine, limits: Http2Limits) -> None:
        now = trio.current_time()
        self._connection = connection
        self._machine = machine
        self._limits = limits
        self._frames = f.FrameReader()
        self._pending: Iterator[f.Frame] = iter(())
        self._left = _AT_ONCE
        self._block: list[bytes] = []
        self._block_stream = 0
        self._block_flags = 0
        self._depends_on_itself = False
        self._updates_in_order = 0
        self._resets = Meter(limits.resets, "reset streams", now)
        self._settings = Meter(limits.settings, "SETTINGS frames", now)
        self._pings = Meter(limits.pings, "PING frames", now)
        self._empty = Meter(limits.empty_data, "empty DATA frames", now)
        self._small = Meter(limits.small_data, "small DATA frames", now)
        self._priorities = Meter(limits.priorities, "PRIORITY and PRIORITY_UPDATE frames", now)
        self._updates = Meter(limits.window_updates, "WINDOW_UPDATE frames", now)
        self._oddities = Meter(limits.oddities, "ignored or refused frames", now)
        self.now = now
        """Trio's time at which the frames in progress are processed."""
        self.greeted = False
        """True once the preface and the client's first SETTINGS frame were received."""
        self.waiting_since = now
        """Trio's time since which the preface or the rest of a head is awaited; `inf` if neither is."""
        self.priorities: dict[int, bytes] = {}
        """Values of PRIORITY_UPDATE for streams that are not open yet (RFC 9218 §7). At most `max_concurrent_streams` are kept."""
        self.reset_here: dict[int, bool] = {}
        """The last 1000 streams for which we sent RST_STREAM. True while frames that the client sent before it knew may arrive."""
        self._handlers = {
            f.DATA: self._data,
            f.HEADERS: self._headers,
            f.PRIORITY: self._priority,
            f.RST_STREAM: self._rst_stream,
            f.SETTINGS: self._settings_frame,
            f.PING: self._ping,
            f.GOAWAY: self._goaway,
            f.WINDOW_UPDATE: self._window_update,
            f.CONTINUATION: self._continuation,
            f.PRIORITY_UPDATE: self._priority_update,
        }

    def receive(self, data: bytes | bytearray, now: float) -> bool:
        """Process bytes from the client, at most one budget of work. Return True if frames are left; `go_on` must process them first.

        Raises `ConnectionFault` for a connection error; nothing may be received afterwards. `now` is trio's time.
        """
        self._pending = self._frames.feed(bytes(data))
        return self.go_on(now)

    def go_on(self, now: float) -> bool:
        """Process more of the received frames. Return True if frames are left."""
        self.now = now
        most = self._left = max(1, min(_AT_ONCE, self._connection.shared.take_turn()))
        try:
            return self._act(now)
        finally:
            self._connection.shared.used(most - self._left)

    def _act(self, now: float) -> bool:
        """Process frames until none is left (return False) or `_left` is used up (return True)."""
        for kind, flags, stream, frame in self._pending:
            if not self.greeted:
                if kind != f.SETTINGS or flags & f.ACK:
                    raise ConnectionFault(ErrorCode.PROTOCOL_ERROR, "the first frame is not SETTINGS")  # RFC 9113 §3.4
                self.greeted = True
                self.waiting_since = math.inf
            if self._block and (kind != f.CONTINUATION or stream != self._block_stream):
                raise ConnectionFault(ErrorCode.PROTOCOL_ERROR, "expected a CONTINUATION frame")  # RFC 9113 §6.2
            handler = self._handlers.get(kind)
            if handler is None:
                self._oddities.count(now)  # RFC 9113 §5.5: unknown types are ignored
            else:
                handler(flags, stream, frame)
            self._left -= 1
            if self._left <= 0:
                return True
        return False

    def _feed(self, frame: bytes) -> None:
        for event in self._machine.receive(frame):
            self._happened(event)

    def _happened(self, event: Event) -> None:
        """Act on an event that any frame may cause."""
        connection = self._connection
        if isinstance(event, WindowUpdated):
            if event.stream_id:
                if (stream := connection.streams.get(event.stream_id)) is not None and stream.outbox:
                    connection.ready(stream)
            else:
                connection.ring()
        elif isinstance(event, StreamReset):
            self._stream_reset(event)
        elif isinstance(event, RemoteSettingsChanged):
            self._settings_changed()
        elif isinstance(event, PingAckReceived):
            connection.ping_returned()

    def count_reset(self) -> None:
        """Count a stream reset that the client made or caused. Raises `ConnectionFault` past the limit (CVE-2023-44487, CVE-2025-8671)."""
        self._resets.count(self.now)
        self._connection.shared.count_reset(self._connection.client.host, self.now)

    def count_refusal(self) -> None:
        """Count a refused stream. It is not counted as a reset: the client may not have received our SETTINGS yet."""
        self._oddities.count(self.now)

    def remember_reset(self, stream: int) -> None:
        """Record that we have reset a stream: frames that the client had already sent for it are no fault."""
        self._remember(stream, ours=True)

    def _remember(self, stream: int, *, ours: bool) -> None:
        self.reset_here[stream] = ours
        if len(self.reset_here) > 1000:
            del self.reset_here[next(iter(self.reset_here))]

    # --------------------------------------------------------------------------------------------------------------- DATA (§6.1)

    def _data(self, flags: int, number: int, frame: bytes) -> None:
        size = len(frame) - f.HEAD
        if size < _SMALL:
            self._small.count(self.now)
            if not size and not flags & f.END_STREAM:
                self._empty.count(self.now)
        stream = self._connection.streams.get(number)
        if stream is None:
            self._data_of_no_stream(number, frame)
            return
        for event in self._machine.receive(frame):
            if isinstance(event, DataReceived):
                data, ended = event.data or b"", bool(flags & f.END_STREAM)
                if not data and not ended:
                    self._empty.count(self.now, 0 if not size else 1)  # only padding; a DATA frame of size 0 was counted above
                self._connection.window.received(size, len(data))
                stream.take(data, size)
                if self._is_wrong_length(stream, ended):
                    self.count_reset()
                    self._connection.fail(stream, StreamFault(ErrorCode.PROTOCOL_ERROR, "content does not match Content-Length"))
                elif ended:
                    self._connection.remote_ended(stream)
            else:
                self._happened(event)

    @staticmethod
    def _is_wrong_length(stream: Stream, ended: bool) -> bool:
        """True if the content received contradicts Content-Length (RFC 9113 §8.1.1).

        Once the response is complete, the client may end its request early. More content than declared is always wrong.
        """
        declared, received = stream.head.declared, stream.received
        return declared is not None and (received > declared or (ended and received != declared and not stream.local_ended))

    def _data_of_no_stream(self, number: int, frame: bytes) -> None:
        """Handle DATA for a stream that is not open. h2 checks if it is idle or closed, and credits the connection's window (§6.9)."""
        if not self.reset_here.get(number):
            self._oddities.count(self.now)  # the client should have known that the stream is closed
        if number not in self.reset_here:
            self._feed(frame)
            self._remember(number, ours=False)
            self._connection.ring()
            return
        self._feed_late(frame)

    def _feed_late(self, frame: bytes) -> None:
        """Pass a frame for a stream that we have reset to h2, and drop the second RST_STREAM that h2 would send (RFC 9113 §5.4.2)."""
        self._connection.put(b"")  # moves what h2 has queued before, so that `produced` is only the answer to this frame
        self._feed(frame)
        produced = self._machine.h2.data_to_send()
        # h2 answers with RST_STREAM and WINDOW_UPDATE at most; both have 13 bytes
        kept = [piece for start in range(0, len(produced), 13) if (piece := produced[start : start + 13])[3] != f.RST_STREAM]
        self._connection.put(b"".join(kept))

    # ---------------------------------------------------------------------------------------------- HEADERS, CONTINUATION (§6.2, §6.10)

    def _headers(self, flags: int, number: int, frame: bytes) -> None:
        self._depends_on_itself = False
        if flags & f.HAS_PRIORITY:
            flags, frame, self._depends_on_itself = f.without_priority(flags, number, frame)
        self._block_flags = flags
        if flags & f.END_HEADERS:
            self._head(flags, number, frame)
            return
        self._block = [frame]
        self._block_stream = number
        self.waiting_since = self.now

    def _continuation(self, flags: int, number: int, frame: bytes) -> None:
        if not self._block:
            raise ConnectionFault(ErrorCode.PROTOCOL_ERROR, "CONTINUATION without HEADERS")
        self._block.append(frame)
        # CVE-2024-27316: both limits are checked before anything is decoded
        if len(self._block) - 1 > self._limits.max_continuations or sum(map(len, self._block)) > self._limits.max_header_block:
            raise ConnectionFault(ErrorCode.ENHANCE_YOUR_CALM, "too many CONTINUATION frames or bytes in one head", "enhance_your_calm")
        if flags & f.END_HEADERS:
            frames, self._block = b"".join(self._block), []
            self.waiting_since = math.inf
            self._head(self._block_flags, number, frames)

    def _head(self, flags: int, number: int, frames: bytes) -> None:
        """Handle HEADERS with all its CONTINUATION frames. Every head is decoded, to keep the HPACK table synchronized (RFC 9113 §4.3)."""
        stream, unending = self._connection.streams.get(number), False
        if stream is not None and not stream.remote_ended and not flags & f.END_STREAM:
            # RFC 9113 §8.1: trailers must end the stream. Without END_STREAM h2 would close the connection, but it is only a stream error.
            unending = True
            frames = frames[:4] + bytes((flags | f.END_STREAM,)) + frames[5:]
        elif stream is None and number <= self._machine.h2.highest_inbound_stream_id:
            if self.reset_here.get(number):
                self.reset_here[number] = False  # trailers sent before the client knew of the reset; nothing may follow them
            else:
                self._oddities.count(self.now)
            if number in self.reset_here:
                self._feed_late(frames)
                return
            self._remember(number, ours=False)  # the next frame gets no second RST_STREAM
        events = self._machine.receive(frames)
        self._left -= _OF_A_HEAD + len(self._machine.fields) // _FIELDS_A_UNIT
        # For a valid head h2 queues no frames, so the writer is not woken: it would run before any response is there to be written.
        said = not events
        for event in events:
            if isinstance(event, RequestReceived):
                self._connection.open_stream(number, self._machine.fields, ended=bool(flags & f.END_STREAM), refuse=self._depends_on_itself)
            elif isinstance(event, TrailersReceived):
                assert stream is not None
                self._trailers(stream.id, unending)
            elif not isinstance(event, StreamEnded):  # StreamEnded: `flags` has the same information
                self._happened(event)
                said = True
        if said:
            self._connection.ring()

    def _trailers(self, number: int, unending: bool) -> None:
        """Validate the trailers of a request and end its body. `unending`: they came without END_STREAM."""
        stream = self._connection.streams[number]
        try:
            if unending:
                raise StreamFault(ErrorCode.PROTOCOL_ERROR, "trailers without END_STREAM")
            if self._depends_on_itself:
                raise StreamFault(ErrorCode.PROTOCOL_ERROR, "stream depends on itself")
            if stream.head.tunnel:
                raise StreamFault(ErrorCode.PROTOCOL_ERROR, "trailers are not allowed in a tunnel")  # RFC 9113 §8.5
            if self._is_wrong_length(stream, True):
                raise StreamFault(ErrorCode.PROTOCOL_ERROR, "content does not match Content-Length")
            stream.trailers = read_trailers(self._machine.fields)
        except StreamFault as fault:
            self.count_reset()
            self._connection.fail(stream, fault)
        else:
            self._connection.remote_ended(stream)

    # --------------------------------------------------------------------------------------------------- RST_STREAM, GOAWAY (§6.4, §6.8)

    def _rst_stream(self, flags: int, number: int, frame: bytes) -> None:
        if number > self._machine.h2.highest_inbound_stream_id or not number % 2:
            raise ConnectionFault(ErrorCode.PROTOCOL_ERROR, "RST_STREAM for an idle stream")
        self.count_reset()
        self._feed(frame)

    def _stream_reset(self, event: StreamReset) -> None:
        stream = self._connection.streams.get(event.stream_id)
        if stream is None:
            return
        code = int(event.error_code or 0)
        if event.remote_reset:
            self._connection.closed(stream, f"reset by the client: {code_name(code)}")
        else:  # h2 has reset the stream for a stream error of the client
            self.count_reset()
            self.remember_reset(event.stream_id)
            self._connection.closed(stream, "protocol_error")
            self._connection.ring()

    def _goaway(self, flags: int, number: int, frame: bytes) -> None:
        # Not passed to h2, which would drop all queued frames and close. Open streams must still be answered (RFC 9113 §6.8).
        _, code = f.two_numbers(frame)
        self._oddities.count(self.now)
        self._connection.client_leaves(code)

    # ------------------------------------------------------------------------------------------------ SETTINGS, PING, WINDOW_UPDATE

    def _settings_frame(self, flags: int, number: int, frame: bytes) -> None:
        self._settings.count(self.now)
        if flags & f.ACK:
            self._feed(frame)
        else:
            for event in self._machine.settings(f.settings_of(frame)):
                self._happened(event)
        self._connection.ring()

    def _settings_changed(self) -> None:
        """Schedule all streams with data: a larger SETTINGS_INITIAL_WINDOW_SIZE may have opened their windows (RFC 9113 §6.9.2)."""
        for stream in self._connection.streams.values():
            if stream.outbox:
                self._connection.ready(stream)

    def _ping(self, flags: int, number: int, frame: bytes) -> None:
        self._pings.count(self.now)
        self._feed(frame)
        self._connection.ring()

    def _window_update(self, flags: int, number: int, frame: bytes) -> None:
        # Two per DATA frame that was sent are free, one for the stream and one for the connection.
        if self._updates_in_order < 2 * self._connection.frames_written:
            self._updates_in_order += 1
        else:
            self._updates.count(self.now)
        if frame[f.HEAD] & 0x80:  # the reserved bit is ignored (RFC 9113 §6.9)
            frame = f.make_frame(f.WINDOW_UPDATE, 0, number, f.one_number(frame).to_bytes(4, "big"))
        if number and not f.one_number(frame) and (stream := self._connection.streams.get(number)) is not None:
            self.count_reset()
            self._connection.fail(stream, StreamFault(ErrorCode.PROTOCOL_ERROR, "WINDOW_UPDATE with an increment of 0", "protocol_error"))
            return
        self._feed(frame)

    # ------------------------------------------------------------------------------------------------------------------ priorities

    def _priority(self, flags: int, number: int, frame: bytes) -> None:
        """Ignore a PRIORITY frame (RFC 9113 §5.3) unless it is malformed (§6.3)."""
        self._priorities.count(self.now)
        if len(frame) != f.HEAD + 5:
            self._fail_number(number, StreamFault(ErrorCode.FRAME_SIZE_ERROR, "PRIORITY frame length is not 5", "protocol_error"))
        elif f.one_number(frame) == number:
            self._fail_number(number, StreamFault(ErrorCode.PROTOCOL_ERROR, "stream depends on itself", "protocol_error"))

    def _fail_number(self, number: int, fault: StreamFault) -> None:
        """Reset a stream for a malformed PRIORITY frame.

        Raises `ConnectionFault` if the stream is not open, and is idle or the frame has a wrong length; else ignores it.
        """
        self.count_reset()
        if (stream := self._connection.streams.get(number)) is not None:
            self._connection.fail(stream, fault)
        elif number > self._machine.h2.highest_inbound_stream_id or fault.code == ErrorCode.FRAME_SIZE_ERROR:
            # An idle or closed stream must not be reset (RFC 9113 §5.1, §6.4). A stream error may become a connection error (§5.4.1).
            raise ConnectionFault(fault.code, fault.detail)

    def _priority_update(self, flags: int, number: int, frame: bytes) -> None:
        """Apply a PRIORITY_UPDATE frame, or keep it for a stream that is not open yet (RFC 9218 §7.1)."""
        self._priorities.count(self.now)
        of, value = f.one_number(frame), frame[f.HEAD + 4 :]
        if not of % 2:
            raise ConnectionFault(ErrorCode.PROTOCOL_ERROR, "PRIORITY_UPDATE for a stream that a client cannot open")
        if (stream := self._connection.streams.get(of)) is not None:
            stream.priority = parse_priority(value)
        elif of > self._machine.h2.highest_inbound_stream_id:
            self.priorities[of] = value
            if len(self.priorities) > self._limits.max_concurrent_streams:
                del self.priorities[next(iter(self.priorities))]
