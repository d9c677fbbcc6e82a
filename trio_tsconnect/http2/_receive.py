"""What comes in: each frame is judged, counted, given to h2, and its consequence told to the connection.

The law: h2 gets one frame at a time, and none that RFC 9113 makes a fault of one stream where h2 would end the connection. Those are turned
into a fault of their stream here, as are the frames that are to be ignored.
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
_AT_ONCE = 64
"""Work that is done in one turn of the loop, in units of a small frame: of those a single read has thousands, and others are to have their turn."""
_OF_A_HEAD = 4
"""Units of a head beside its frame: it may start a task."""
_FIELDS_A_UNIT = 32
"""Fields that cost as much as a small frame: by HPACK a byte may stand for one."""


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
        self._priorities = Meter(limits.priorities, "changes of priority", now)
        self._updates = Meter(limits.window_updates, "WINDOW_UPDATE frames", now)
        self._oddities = Meter(limits.oddities, "frames that are to be ignored", now)
        self.now = now
        """The time of the bytes that are being read."""
        self.greeted = False
        """Whether the preface and the client's SETTINGS have come."""
        self.waiting_since = now
        """Since when something unfinished is waited for: the preface, or a head; `inf` when nothing is."""
        self.priorities: dict[int, bytes] = {}
        """What PRIORITY_UPDATE said of streams that are not there yet (RFC 9218 §7)."""
        self.reset_here: dict[int, bool] = {}
        """Streams for which a RST_STREAM went out; True if of our own accord, so that the client may not know yet."""
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
        """Act on what the client has sent, up to a number of frames; whether there is more (`go_on`). `ConnectionFault` when it must not go on."""
        self._pending = self._frames.feed(bytes(data))
        return self.go_on(now)

    def go_on(self, now: float) -> bool:
        """Act on more of it; whether there still is more."""
        self.now = now
        most = self._left = max(1, min(_AT_ONCE, self._connection.shared.take_turn()))
        try:
            return self._act(now)
        finally:
            self._connection.shared.used(most - self._left)

    def _act(self, now: float) -> bool:
        for kind, flags, stream, frame in self._pending:
            if not self.greeted:
                if kind != f.SETTINGS or flags & f.ACK:
                    raise ConnectionFault(ErrorCode.PROTOCOL_ERROR, "the preface ends with SETTINGS")  # RFC 9113 §3.4
                self.greeted = True
                self.waiting_since = math.inf
            if self._block and (kind != f.CONTINUATION or stream != self._block_stream):
                raise ConnectionFault(ErrorCode.PROTOCOL_ERROR, "a head is interrupted")  # RFC 9113 §6.2
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
        """What may follow from any frame."""
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
        """One more stream was reset for the client's doing."""
        self._resets.count(self.now)
        self._connection.shared.count_reset(self._connection.client.host, self.now)

    def count_refusal(self) -> None:
        """One more stream was refused: the client may not have heard of the limit yet."""
        self._oddities.count(self.now)

    def remember_reset(self, stream: int) -> None:
        """We have reset this stream: what still comes for it is no fault."""
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
                    self._empty.count(self.now, 0 if not size else 1)  # nothing but padding
                self._connection.window.received(size, len(data))
                stream.take(data, size)
                if self._is_wrong_length(stream, ended):
                    self.count_reset()
                    self._connection.fail(stream, StreamFault(ErrorCode.PROTOCOL_ERROR, "the content is not as long as declared"))
                elif ended:
                    self._connection.remote_ended(stream)
            else:
                self._happened(event)

    @staticmethod
    def _is_wrong_length(stream: Stream, ended: bool) -> bool:
        """RFC 9113 §8.1.1. A client that has its whole response may stop where it likes; too much is a fault at any time."""
        declared, received = stream.head.declared, stream.received
        return declared is not None and (received > declared or (ended and received != declared and not stream.local_ended))

    def _data_of_no_stream(self, number: int, frame: bytes) -> None:
        """h2 knows whether the stream is idle or closed; it opens the connection's window again by itself (RFC 9113 §5.1, §6.9)."""
        if not self.reset_here.get(number):
            self._oddities.count(self.now)  # not what was under way when we reset the stream
        if number not in self.reset_here:
            self._feed(frame)
            self._remember(number, ours=False)
            self._connection.ring()
            return
        self._feed_late(frame)

    def _feed_late(self, frame: bytes) -> None:
        """What comes for a stream that was reset: h2 would reset it once more, and one RST_STREAM is enough (RFC 9113 §5.4.2)."""
        self._connection.put(b"")
        self._feed(frame)
        produced = self._machine.h2.data_to_send()
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
            raise ConnectionFault(ErrorCode.PROTOCOL_ERROR, "a CONTINUATION continues nothing")
        self._block.append(frame)
        if len(self._block) - 1 > self._limits.max_continuations or sum(map(len, self._block)) > self._limits.max_header_block:
            raise ConnectionFault(ErrorCode.ENHANCE_YOUR_CALM, "a head without end", "enhance_your_calm")
        if flags & f.END_HEADERS:
            frames, self._block = b"".join(self._block), []
            self.waiting_since = math.inf
            self._head(self._block_flags, number, frames)

    def _head(self, flags: int, number: int, frames: bytes) -> None:
        stream, unending = self._connection.streams.get(number), False
        if stream is not None and not stream.remote_ended and not flags & f.END_STREAM:
            # RFC 9113 §8.1: trailers end the stream. h2 would end the connection: it is to see them do it.
            unending = True
            frames = frames[:4] + bytes((flags | f.END_STREAM,)) + frames[5:]
        elif stream is None and number <= self._machine.h2.highest_inbound_stream_id:
            if self.reset_here.get(number):
                self.reset_here[number] = False  # trailers that were under way when we reset it; after them nothing is
            else:
                self._oddities.count(self.now)
            if number in self.reset_here:
                self._feed_late(frames)
                return
            self._remember(number, ours=False)  # one RST_STREAM is enough
        events = self._machine.receive(frames)
        self._left -= _OF_A_HEAD + len(self._machine.fields) // _FIELDS_A_UNIT
        # A head that is in order makes h2 say nothing. The writer is not to be woken for it: it would be awake before the responses are there.
        said = not events
        for event in events:
            if isinstance(event, RequestReceived):
                self._connection.open_stream(number, self._machine.fields, ended=bool(flags & f.END_STREAM), refuse=self._depends_on_itself)
            elif isinstance(event, TrailersReceived):
                assert stream is not None
                self._trailers(stream.id, unending)
            elif not isinstance(event, StreamEnded):  # which `flags` has told already
                self._happened(event)
                said = True
        if said:
            self._connection.ring()

    def _trailers(self, number: int, unending: bool) -> None:
        stream = self._connection.streams[number]
        try:
            if unending:
                raise StreamFault(ErrorCode.PROTOCOL_ERROR, "the trailers do not end the stream")
            if self._depends_on_itself:
                raise StreamFault(ErrorCode.PROTOCOL_ERROR, "a stream depends on itself")
            if stream.head.tunnel:
                raise StreamFault(ErrorCode.PROTOCOL_ERROR, "a tunnel has no trailers")  # RFC 9113 §8.5
            if self._is_wrong_length(stream, True):
                raise StreamFault(ErrorCode.PROTOCOL_ERROR, "the content is not as long as declared")
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
        else:  # h2 has reset it, for a fault of the client
            self.count_reset()
            self.remember_reset(event.stream_id)
            self._connection.closed(stream, "protocol_error")
            self._connection.ring()

    def _goaway(self, flags: int, number: int, frame: bytes) -> None:
        # h2 would take a GOAWAY for the end of everything; but what the client has asked for is still to be answered (RFC 9113 §6.8).
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
        for stream in self._connection.streams.values():
            if stream.outbox:
                self._connection.ready(stream)

    def _ping(self, flags: int, number: int, frame: bytes) -> None:
        self._pings.count(self.now)
        self._feed(frame)
        self._connection.ring()

    def _window_update(self, flags: int, number: int, frame: bytes) -> None:
        if self._updates_in_order < 2 * self._connection.frames_written:
            self._updates_in_order += 1
        else:
            self._updates.count(self.now)
        if frame[f.HEAD] & 0x80:  # the reserved bit is ignored (RFC 9113 §6.9)
            frame = f.make_frame(f.WINDOW_UPDATE, 0, number, f.one_number(frame).to_bytes(4, "big"))
        if number and not f.one_number(frame) and (stream := self._connection.streams.get(number)) is not None:
            self.count_reset()
            self._connection.fail(stream, StreamFault(ErrorCode.PROTOCOL_ERROR, "a window is updated by nothing", "protocol_error"))
            return
        self._feed(frame)

    # ------------------------------------------------------------------------------------------------------------------ priorities

    def _priority(self, flags: int, number: int, frame: bytes) -> None:
        """RFC 9113 §5.3: ignored, but for what makes it malformed (§6.3)."""
        self._priorities.count(self.now)
        if len(frame) != f.HEAD + 5:
            self._fail_number(number, StreamFault(ErrorCode.FRAME_SIZE_ERROR, "a PRIORITY frame has 5 bytes", "protocol_error"))
        elif f.one_number(frame) == number:
            self._fail_number(number, StreamFault(ErrorCode.PROTOCOL_ERROR, "a stream depends on itself", "protocol_error"))

    def _fail_number(self, number: int, fault: StreamFault) -> None:
        self.count_reset()
        if (stream := self._connection.streams.get(number)) is not None:
            self._connection.fail(stream, fault)
        elif number > self._machine.h2.highest_inbound_stream_id or fault.code == ErrorCode.FRAME_SIZE_ERROR:
            # neither an idle stream can be reset nor one that is over (RFC 9113 §5.1, §6.4); the end of the connection is open to us (§5.4.1)
            raise ConnectionFault(fault.code, fault.detail)

    def _priority_update(self, flags: int, number: int, frame: bytes) -> None:
        """RFC 9218 §7.1."""
        self._priorities.count(self.now)
        of, value = f.one_number(frame), frame[f.HEAD + 4 :]
        if not of % 2:
            raise ConnectionFault(ErrorCode.PROTOCOL_ERROR, "PRIORITY_UPDATE for a stream that cannot be")
        if (stream := self._connection.streams.get(of)) is not None:
            stream.priority = parse_priority(value)
        elif of > self._machine.h2.highest_inbound_stream_id:
            self.priorities[of] = value
            if len(self.priorities) > self._limits.max_concurrent_streams:
                del self.priorities[next(iter(self.priorities))]
