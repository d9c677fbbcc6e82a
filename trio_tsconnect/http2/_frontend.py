"""One HTTP/2 connection of a client, from its preface to its end.

The law: one task reads, one writes, and each stream has one more. An error of one stream stays with that stream; an error of the connection
ends all of its streams and nothing else.
"""

from __future__ import annotations

import logging
import math

import attrs
import trio

from trio_tsconnect import ClientInfo, ConnectOptions, ConnectRefused, Proxy, VirtualConnection
from trio_tsconnect._util import public
from trio_tsconnect.config import Http2Limits
from trio_tsconnect.http2._errors import ConnectionFault, ErrorCode, StreamFault, code_name
from trio_tsconnect.http2._fields import Rejected, read_request
from trio_tsconnect.http2._flow import ConnectionWindow, StreamWindow
from trio_tsconnect.http2._frames import goaway, rst_stream
from trio_tsconnect.http2._hpack import Fields
from trio_tsconnect.http2._limits import shared_by
from trio_tsconnect.http2._priority import DEFAULT, parse_priority
from trio_tsconnect.http2._protocol import Machine
from trio_tsconnect.http2._receive import Receiver
from trio_tsconnect.http2._stream import Stream
from trio_tsconnect.http2._write import Writer
from trio_tsconnect.stream import close_gently, close_now, describe_client

logger = logging.getLogger("trio_tsconnect.http2")

_READ_SIZE = 65536
_GRACE = 1.0
"""Seconds that a client has to learn that we go away, if it answers no PING."""
_HIGHEST = (1 << 31) - 1
_PING_DATA = b"goodbye?"


@public("trio_tsconnect.http2")
async def serve_http2(
    proxy: Proxy,
    stream: trio.abc.Stream,
    *,
    client: ClientInfo | None = None,
    limits: Http2Limits | None = None,
    received: bytes = b"",
) -> None:
    """Serve HTTP/2 (RFC 9113) on a stream, its preface included, until it ends, and close the stream.

    Each request becomes one virtual connection with the tag `h2` and this connection's number (`Proxy.next_id`) as its id. `client`: who is at
    the other end, where the caller knows better than the stream. `limits`: in place of `ProxyConfig.http2`. `received`: what the caller has
    read of the stream already, from its first byte on. Never raises but for a cancellation, which resets what is under way.
    """
    await Connection(proxy, stream, client or describe_client(stream), limits or proxy.config.http2).run(received)


class Connection:
    """A client's connection."""

    def __init__(self, proxy: Proxy, stream: trio.abc.Stream, client: ClientInfo, limits: Http2Limits) -> None:
        self.proxy = proxy
        self.number = proxy.next_id()
        self.client = attrs.evolve(client, protocol="h2", connection=self.number)
        self.limits = limits
        self._options = ConnectOptions(tag="h2", id=self.number, client=self.client, buffer_index=limits.buffer_index)
        self.window_size = 128 << limits.buffer_index
        self.streams: dict[int, Stream] = {}
        """Those that are open in HTTP/2."""
        self._stream = stream
        self.config = proxy.config.http
        self._machine = Machine(limits)
        self.writer = Writer(self._machine, stream, limits, start=self._run, ended=self._local_ended)
        self.shared = shared_by(proxy)
        self.window = ConnectionWindow(self._machine, limits, self.shared, self.writer.ring)
        self._receiver = Receiver(self, self._machine, limits)
        self._scope = trio.CancelScope()
        self._reading = trio.CancelScope()
        self._requests = 0
        self._unwinding = 0
        unwinding = limits.max_concurrent_streams if limits.max_unwinding is None else limits.max_unwinding
        self._most_transactions = limits.max_concurrent_streams + unwinding
        self._broken = False
        self._stopping = False
        self._leaving = False
        self._last_stream = _HIGHEST
        self._final_goaway_at = math.inf
        self._idle_since = self._checked = trio.current_time()

    # ------------------------------------------------------------------------------------------------------------------ its life

    async def run(self, received: bytes, *, since: float | None = None) -> None:
        """Serve until the connection ends. `since`: when it began, where that was before now."""
        if since is not None:
            self._receiver.waiting_since = since
        self._machine.begin(self.limits, self.config.max_head)  # RFC 9113 §3.4: SETTINGS come first, also where a drain has begun before
        try:
            with self._scope, self.proxy.front_end(drain=self.drain, end=self._end, client=self.client) as self._front_end:
                await self._serve(received)
        except ConnectRefused:
            pass
        except Exception:
            logger.exception("HTTP/2 connection %d failed inside the front end", self.number)
            self._broken = True
        finally:
            self.shared.changed(-self.window.held)
            self.shared.forget(self.window)
            if self._broken or self._scope.cancelled_caught:
                await close_now(self._stream)
            else:
                await close_gently(self._stream, self.config.linger_timeout)

    async def _serve(self, received: bytes) -> None:
        async with trio.open_nursery() as nursery:
            self._nursery = nursery
            writing = trio.CancelScope()
            nursery.start_soon(self._write, writing)
            self.writer.ring()
            try:
                await self._read(received)
            finally:
                self._stopping = True
                self._close_streams("client_gone" if self._broken else "front_end_closed")
            if not self._broken:
                with trio.move_on_after(self.config.linger_timeout):
                    await self.writer.flushed()
            writing.cancel()

    async def _write(self, scope: trio.CancelScope) -> None:
        with scope:
            try:
                await self.writer.run()
            except (trio.BrokenResourceError, trio.ClosedResourceError):
                self._lost()

    async def _read(self, received: bytes) -> None:
        try:
            if received:
                await self._act(received)
            while not self._stopping:
                with trio.CancelScope(deadline=self._deadline()) as self._reading:
                    await self._read_on()
                    return
                if not self._stopping:
                    self._look_around()
        except ConnectionFault as fault:
            self._fault(fault)

    async def _read_on(self) -> None:
        """Read until the client ends; trio's deadline follows what there is to wait for."""
        while True:
            try:
                data = await self._stream.receive_some(_READ_SIZE)
            except (trio.BrokenResourceError, trio.ClosedResourceError):
                data = b""
            if not data:
                self._lost()
                return
            await self._act(data)
            self._reading.deadline = self._deadline()

    async def _act(self, data: bytes | bytearray) -> None:
        """Act on what was read, all of it, and let others have their turn in between."""
        shared = self.shared
        if shared.take_turn() <= 0:
            await shared.next_pass()
        more = self._receiver.receive(data, trio.current_time())
        self.writer.check_backlog()
        while more and not self._stopping:
            await shared.next_pass()
            more = self._receiver.go_on(trio.current_time())
            self.writer.check_backlog()

    def _fault(self, fault: ConnectionFault) -> None:
        logger.info("HTTP/2 connection %d of %s ended: %s", self.number, self.client.host, fault)
        self._stopping = True
        self._close_streams(fault.cause)
        self.writer.put(self._machine.last_words + goaway(self._machine.h2.highest_inbound_stream_id, fault.code, fault.detail))

    def _end(self) -> None:
        """The proxy ends what is left: the client is told what becomes of each stream (RFC 9113 §5.4.2, §6.8)."""
        if self._stopping:
            return
        for stream in list(self.streams.values()):
            self.reset(stream, ErrorCode.CANCEL, "front_end_closed")
        self.writer.put(goaway(self._machine.h2.highest_inbound_stream_id, ErrorCode.NO_ERROR))
        self._stop()

    def _lost(self) -> None:
        """The client is gone: nothing can be written any more."""
        self._broken = True
        self._stop()

    def _stop(self) -> None:
        self._stopping = True
        self._reading.cancel()

    def _close_streams(self, reason: str) -> None:
        for stream in list(self.streams.values()):
            self.closed(stream, reason)

    # ------------------------------------------------------------------------------------------------------------- times and ends

    def _deadline(self) -> float:
        config = self.config
        until = min(self._receiver.waiting_since + config.header_timeout, self._final_goaway_at)
        if self.streams:
            return min(until, self._checked + config.inactivity_timeout)
        return min(until, self._idle_since + config.keep_alive_timeout)

    def _look_around(self) -> None:
        """A deadline has passed: see which."""
        now, config = trio.current_time(), self.config
        if now >= self._receiver.waiting_since + config.header_timeout:
            # RFC 9113 §7 has a code for SETTINGS that do not come, and none for slow heads
            greeted = self._receiver.greeted
            raise ConnectionFault(ErrorCode.ENHANCE_YOUR_CALM if greeted else ErrorCode.SETTINGS_TIMEOUT, "too slow", "header_timeout")
        if now >= self._final_goaway_at:
            self._say_last()
        if not self.streams and now >= self._idle_since + config.keep_alive_timeout:
            self.writer.put(goaway(self._machine.h2.highest_inbound_stream_id, ErrorCode.NO_ERROR))
            self._stop()
        if now >= self._checked + config.inactivity_timeout:
            self._checked = now
            self._look_for_stalls(now - config.inactivity_timeout)

    def _look_for_stalls(self, before: float) -> None:
        """A client that does not read for too long is closed, as one of HTTP/1.1 is."""
        if self.writer.since is not None and self.writer.since <= before:
            logger.info("HTTP/2 connection %d of %s ended: it does not read", self.number, self.client.host)
            self._close_streams("client_timeout")
            self._lost()
            return
        for stream in list(self.streams.values()):
            if stream.outbox.data and stream.moved <= before:
                self.fail(stream, StreamFault(ErrorCode.CANCEL, "the client does not read", "client_timeout"))

    def drain(self) -> None:
        """Go away gracefully (RFC 9113 §6.8): say so, and after one round trip say which stream was the last that is served."""
        if not self._stopping and self._last_stream == _HIGHEST and self._final_goaway_at == math.inf:
            self.writer.put(goaway(_HIGHEST, ErrorCode.NO_ERROR))
            self._machine.h2.ping(_PING_DATA)
            self._final_goaway_at = trio.current_time() + _GRACE
            self._reading.deadline = min(self._reading.deadline, self._final_goaway_at)

    def ping_returned(self) -> None:
        """The client has answered a PING."""
        if self._final_goaway_at != math.inf:
            self._say_last()

    def _say_last(self) -> None:
        self._final_goaway_at = math.inf
        self._last_stream = self._machine.h2.highest_inbound_stream_id
        self.writer.put(goaway(self._last_stream, ErrorCode.NO_ERROR))
        self._check_done()

    def client_leaves(self, code: int) -> None:
        """The client has sent GOAWAY: it asks for nothing more."""
        if code:
            logger.info("HTTP/2 connection %d of %s: the client goes away: %s", self.number, self.client.host, code_name(code))
        self._leaving = True
        self._check_done()

    def _check_done(self) -> None:
        if not self.streams and (self._leaving or self._last_stream != _HIGHEST):
            self._stop()

    # --------------------------------------------------------------------------------------------------------------------- streams

    def open_stream(self, number: int, fields: Fields, *, ended: bool, refuse: bool) -> None:
        """A request has come: judge it, and give it a virtual connection."""
        priority_update = self._receiver.priorities.pop(number, None) if self._receiver.priorities else None
        if number > self._last_stream:
            self._refuse(number)  # RFC 9113 §6.8: it was not, and will not be, acted on
            return
        alive = len(self.streams)
        if alive >= self.limits.max_concurrent_streams or alive + self._unwinding >= self._most_transactions:
            self._refuse(number)
            self._nursery.start_soon(self._record, number, Rejected("one stream too many", fields, cause="too_many_streams"))
            return
        try:
            head = read_request(fields, ended=ended)
            if refuse:
                raise Rejected("the stream depends on itself", fields)
        except Rejected as fault:
            self._reject(number, fault)
            return
        try:
            pipe = self._connect(number)
        except ConnectRefused:
            self._refuse(number)
            return
        priority = parse_priority(head.priority) if head.priority else DEFAULT
        if priority_update is not None:
            priority = parse_priority(priority_update)
        window = None if ended else StreamWindow(self._machine, self.limits, number)
        stream = Stream(self, number, head, pipe, window, priority, ended)
        self.streams[number] = stream
        if stream.begin():
            self._run(stream)
        self._requests += 1
        if self.config.max_requests_per_connection is not None and self._requests >= self.config.max_requests_per_connection:
            self.drain()

    def _run(self, stream: Stream) -> None:
        self._nursery.start_soon(stream.run)

    def _connect(self, number: int) -> VirtualConnection:
        who = self.client
        client = ClientInfo(  # attrs.evolve, at half its price
            address=who.address, scheme=who.scheme, protocol="h2", alpn=who.alpn, tls=who.tls, connection=self.number, stream=number
        )
        return self._front_end.connect(self._options, client=client)

    def _refuse(self, number: int) -> None:
        self._receiver.count_refusal()
        self._reset_number(number, ErrorCode.REFUSED_STREAM)

    def _reject(self, number: int, fault: Rejected) -> None:
        """RFC 9113 §8.1.1: a malformed request is a fault of its stream."""
        self._receiver.count_reset()
        self._reset_number(number, fault.code)
        logger.info("HTTP/2 connection %d of %s, stream %d: %s", self.number, self.client.host, number, fault)
        self._nursery.start_soon(self._record, number, fault)

    async def _record(self, number: int, fault: Rejected) -> None:
        """Have the engine log a request that it is not going to see: as one whose head did not come to its end."""
        try:
            pipe = self._connect(number)
        except ConnectRefused:
            return
        self._unwinds(pipe)
        try:
            await pipe.send_all(f"{fault.method} {fault.target} HTTP/1.1\r\n".encode("ascii"))
            for _ in range(10):
                await trio.lowlevel.checkpoint()
                if not pipe.statistics().sending.unread:
                    break
        finally:
            pipe.abort(fault.cause)

    def _reset_number(self, number: int, code: int) -> None:
        if not self._machine.reset(number, code):
            # what ended the stream is what is at fault: to h2 it is over, and the client is to be told all the same (RFC 9113 §8.1.1)
            self.writer.put(rst_stream(number, code))
        self._receiver.remember_reset(number)
        self.writer.ring()

    def put(self, data: bytes) -> None:
        """Write frames that h2 does not."""
        self.writer.put(data)

    def ring(self) -> None:
        """There is something to write."""
        self.writer.ring()

    @property
    def frames_written(self) -> int:
        """How many frames have been written, as far as they may be answered by WINDOW_UPDATE."""
        return self.writer.frames

    def look_at(self, stream: Stream) -> None:
        """The engine has answered a stream that has no task."""
        self.writer.look_at(stream)

    def ready(self, stream: Stream) -> None:
        """A stream has something to write."""
        if not stream.closed:
            self.writer.ready(stream)

    def took(self, stream: Stream, content: int, size: int) -> None:
        """The virtual connection of a stream has taken content: the client may send more."""
        if self._stopping:  # as in `closed`
            return
        self.window.released(content)
        if size and not stream.remote_ended:
            assert stream.window is not None
            stream.window.taken(size)
        self.writer.ring()

    def open_wide(self, stream: Stream, size: int) -> None:
        """Let the client send so much more of this stream at once; the connection's window is opened for it in advance."""
        h2, limits = self._machine.h2, self.limits
        # a client that has not heard of our SETTINGS yet is going to take its window back by the difference (RFC 9113 §6.9.2)
        owed = max(0, h2.local_settings.initial_window_size - self.window_size)
        if (lack := size + owed - h2.remote_flow_control_window(stream.id)) > 0:
            h2.increment_flow_control_window(lack, stream.id)
            most = min(limits.connection_window + limits.max_dropped, _HIGHEST)  # however many streams ask for it
            if (more := min(size, most - h2.inbound_flow_control_window)) > 0:
                h2.increment_flow_control_window(more)
                self.window.received(-more, 0)  # what comes of it is not to open the window again
            self.writer.ring()

    def remote_ended(self, stream: Stream) -> None:
        """The client has sent END_STREAM."""
        stream.remote_ended = True
        stream.wake()
        if stream.local_ended:
            self.closed(stream, None)

    def _local_ended(self, stream: Stream) -> None:
        """END_STREAM was written."""
        if stream.remote_ended:
            self.closed(stream, None)

    def reset(self, stream: Stream, code: int, reason: str) -> None:
        """Reset a stream for a fault of ours or of the origin's, unless it is over."""
        if not stream.closed:
            self._reset_number(stream.id, code)
            self.closed(stream, reason)

    def fail(self, stream: Stream, fault: StreamFault) -> None:
        """Reset a stream for a fault of the client's."""
        logger.info("HTTP/2 connection %d of %s, stream %d: %s", self.number, self.client.host, stream.id, fault)
        self.reset(stream, fault.code, fault.cause)

    def closed(self, stream: Stream, reason: str | None) -> None:
        """A stream is over in HTTP/2; with a reason, its transaction is broken off."""
        if self.streams.pop(stream.id, None) is None:
            return
        self.writer.forget(stream)
        self._unwinds(stream.pipe)
        held = stream.close(reason)
        if not self._stopping:  # after a fault h2 takes nothing more, and nothing more is to come
            self.window.released(held)
        if not self.streams:
            self._idle_since = trio.current_time()
            self._reading.deadline = self._deadline()
            self._check_done()

    def _unwinds(self, pipe: VirtualConnection) -> None:
        """A stream is over, and its transaction may not be: count it until its session has closed the connection."""
        self._unwinding += 1
        pipe.watch_peer(self._unwound)

    def _unwound(self, reason: str) -> None:
        self._unwinding -= 1
