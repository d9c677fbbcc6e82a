"""One HTTP/2 connection of a client, from its preface to its end.

Invariant: one task reads and one task writes; every other task serves a single stream. A stream error closes only its stream. A connection
error closes all streams of the connection, and affects no other connection.
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
"""Seconds from the first GOAWAY to the final one, if the client does not acknowledge our PING."""
_HIGHEST = (1 << 31) - 1
"""The highest stream identifier, and the largest flow-control window."""
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
    """Serve HTTP/2 (RFC 9113) on a stream until the connection ends, and close the stream.

    Each request is sent over its own virtual connection, with the tag `h2` and this connection's number (`Proxy.next_id`) as the id.
    `client` overrides the description of the peer. `limits` overrides `ProxyConfig.http2`. `received`: bytes that the caller has already
    read, from the first byte of the preface on. Raises nothing but `trio.Cancelled`; cancellation aborts all transactions and closes the
    stream at once.
    """
    await Connection(proxy, stream, client or describe_client(stream), limits or proxy.config.http2).run(received)


class Connection:
    """One HTTP/2 connection of a client. Implements `StreamOwner` and `ReceiverOwner`."""

    def __init__(self, proxy: Proxy, stream: trio.abc.Stream, client: ClientInfo, limits: Http2Limits) -> None:
        self.proxy = proxy
        self.number = proxy.next_id()
        self.client = attrs.evolve(client, protocol="h2", connection=self.number)
        self.limits = limits
        self._options = ConnectOptions(tag="h2", id=self.number, client=self.client, buffer_index=limits.buffer_index)
        self.window_size = 128 << limits.buffer_index
        self.streams: dict[int, Stream] = {}
        """The streams that are open in HTTP/2, by identifier."""
        self._stream = stream
        self.config = proxy.config.http
        self._machine = Machine(limits)
        self.writer = Writer(self._machine, stream, limits, start=self._run, ended=self._local_ended)
        self.shared = shared_by(proxy)
        self.window = ConnectionWindow(self._machine, limits, self.shared, self.writer.ring)
        self._receiver = Receiver(self, self._machine, limits)
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

    # ------------------------------------------------------------------------------------------------------------- start and end

    async def run(self, received: bytes, *, since: float | None = None) -> None:
        """Serve until the connection ends, and close the stream. `since`: trio's time of the first byte, if that was before now."""
        if since is not None:
            self._receiver.waiting_since = since
        self._machine.begin(self.limits, self.config.max_head)  # before `front_end`: it may drain at once, and SETTINGS come first (§3.4)
        try:
            with self.proxy.front_end(drain=self.drain, end=self._end, client=self.client) as self._front_end:
                await self._serve(received)
        except ConnectRefused:
            pass
        except Exception:
            logger.exception("HTTP/2 connection %d failed: unexpected exception in the front end", self.number)
            self._broken = True
        finally:
            self.shared.changed(-self.window.held)
            self.shared.forget(self.window)
            if self._broken:
                await close_now(self._stream)
            else:
                await close_gently(self._stream, self.config.linger_timeout)

    async def _serve(self, received: bytes) -> None:
        """Read until the connection stops, close all streams, then send what is queued for at most `linger_timeout` seconds."""
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
        """Receive until the client closes the connection. The deadline of the cancel scope is updated after each read."""
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
        """Process all bytes of one read. Yield to other tasks when the budget of the pass is spent (see `_limits`)."""
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
        """Stop after a connection error: abort all transactions with its cause, and send GOAWAY after what h2 had queued before."""
        logger.info("HTTP/2 connection %d from %s closed: %s", self.number, self.client.host, fault)
        self._stopping = True
        self._close_streams(fault.cause)
        self.writer.put(self._machine.last_words + goaway(self._machine.h2.highest_inbound_stream_id, fault.code, fault.detail))

    def _end(self) -> None:
        """End the connection because the proxy closes: reset each stream with CANCEL and send GOAWAY (RFC 9113 §5.4.2, §6.8)."""
        if self._stopping:
            return
        for stream in list(self.streams.values()):
            self.reset(stream, ErrorCode.CANCEL, "front_end_closed")
        self.writer.put(goaway(self._machine.h2.highest_inbound_stream_id, ErrorCode.NO_ERROR))
        self._stop()

    def _lost(self) -> None:
        """Stop, because the client has closed the connection or the connection is broken: nothing more is sent."""
        self._broken = True
        self._stop()

    def _stop(self) -> None:
        self._stopping = True
        self._reading.cancel()

    def _close_streams(self, reason: str) -> None:
        for stream in list(self.streams.values()):
            self.closed(stream, reason)

    # -------------------------------------------------------------------------------------------------------- timeouts and GOAWAY

    def _deadline(self) -> float:
        """Return trio's time at which `_look_around` must run next."""
        config = self.config
        until = min(self._receiver.waiting_since + config.header_timeout, self._final_goaway_at)
        if self.streams:
            return min(until, self._checked + config.inactivity_timeout)
        return min(until, self._idle_since + config.keep_alive_timeout)

    def _look_around(self) -> None:
        """Handle the deadlines that have passed. Raises `ConnectionFault` if SETTINGS or the rest of a head was not received in time."""
        now, config = trio.current_time(), self.config
        if now >= self._receiver.waiting_since + config.header_timeout:
            # RFC 9113 §7 has an error code for missing SETTINGS, but none for slow heads
            greeted = self._receiver.greeted
            raise ConnectionFault(
                ErrorCode.ENHANCE_YOUR_CALM if greeted else ErrorCode.SETTINGS_TIMEOUT,
                "SETTINGS or the rest of a head not received within header_timeout",
                "header_timeout",
            )
        if now >= self._final_goaway_at:
            self._say_last()
        if not self.streams and now >= self._idle_since + config.keep_alive_timeout:
            self.writer.put(goaway(self._machine.h2.highest_inbound_stream_id, ErrorCode.NO_ERROR))
            self._stop()
        if now >= self._checked + config.inactivity_timeout:
            self._checked = now
            self._look_for_stalls(now - config.inactivity_timeout)

    def _look_for_stalls(self, before: float) -> None:
        """Close the connection if a write has been blocked since `before`, or reset the streams whose data has not moved since then."""
        if self.writer.since is not None and self.writer.since <= before:
            logger.info("HTTP/2 connection %d from %s closed: the client does not read", self.number, self.client.host)
            self._close_streams("client_timeout")
            self._lost()
            return
        for stream in list(self.streams.values()):
            if stream.outbox.data and stream.moved <= before:
                self.fail(stream, StreamFault(ErrorCode.CANCEL, "the client does not open the flow-control window", "client_timeout"))

    def drain(self) -> None:
        """Shut down gracefully (RFC 9113 §6.8): send GOAWAY and PING, then the final GOAWAY after the PING's answer or `_GRACE` seconds."""
        if not self._stopping and self._last_stream == _HIGHEST and self._final_goaway_at == math.inf:
            self.writer.put(goaway(_HIGHEST, ErrorCode.NO_ERROR))
            self._machine.h2.ping(_PING_DATA)
            self._final_goaway_at = trio.current_time() + _GRACE
            self._reading.deadline = min(self._reading.deadline, self._final_goaway_at)

    def ping_returned(self) -> None:
        """Handle an acknowledged PING: during a drain, send the final GOAWAY."""
        if self._final_goaway_at != math.inf:
            self._say_last()

    def _say_last(self) -> None:
        """Send the final GOAWAY: streams above its last stream are refused from now on."""
        self._final_goaway_at = math.inf
        self._last_stream = self._machine.h2.highest_inbound_stream_id
        self.writer.put(goaway(self._last_stream, ErrorCode.NO_ERROR))
        self._check_done()

    def client_leaves(self, code: int) -> None:
        """Handle GOAWAY from the client: stop once its open streams have ended."""
        if code:
            logger.info("HTTP/2 connection %d from %s: the client sent GOAWAY: %s", self.number, self.client.host, code_name(code))
        self._leaving = True
        self._check_done()

    def _check_done(self) -> None:
        if not self.streams and (self._leaving or self._last_stream != _HIGHEST):
            self._stop()

    # --------------------------------------------------------------------------------------------------------------------- streams

    def open_stream(self, number: int, fields: Fields, *, ended: bool, refuse: bool) -> None:
        """Validate a request and open a virtual connection for it; reset its stream if it is malformed or refused."""
        priority_update = self._receiver.priorities.pop(number, None) if self._receiver.priorities else None
        if number > self._last_stream:
            self._refuse(number)  # RFC 9113 §6.8: streams above the final GOAWAY are not processed
            return
        alive = len(self.streams)
        if alive >= self.limits.max_concurrent_streams or alive + self._unwinding >= self._most_transactions:
            self._refuse(number)
            self._nursery.start_soon(self._record, number, Rejected("too many concurrent streams", fields, cause="too_many_streams"))
            return
        try:
            head = read_request(fields, ended=ended)
            if refuse:
                raise Rejected("stream depends on itself", fields)
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
        client = ClientInfo(  # written out: attrs.evolve takes twice the time
            address=who.address, scheme=who.scheme, protocol="h2", alpn=who.alpn, tls=who.tls, connection=self.number, stream=number
        )
        return self._front_end.connect(self._options, client=client)

    def _refuse(self, number: int) -> None:
        self._receiver.count_refusal()
        self._reset_number(number, ErrorCode.REFUSED_STREAM)

    def _reject(self, number: int, fault: Rejected) -> None:
        """Reset the stream of a malformed request (RFC 9113 §8.1.1), and log the request."""
        self._receiver.count_reset()
        self._reset_number(number, fault.code)
        logger.info("HTTP/2 connection %d from %s, stream %d reset: %s", self.number, self.client.host, number, fault)
        self._nursery.start_soon(self._record, number, fault)

    async def _record(self, number: int, fault: Rejected) -> None:
        """Make the engine log a rejected request: send it an incomplete head, then abort with the cause."""
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
            # h2 considers the stream closed, because the malformed frame itself ended it. It must be reset all the same (RFC 9113 §8.1.1).
            self.writer.put(rst_stream(number, code))
        self._receiver.remember_reset(number)
        self.writer.ring()

    def put(self, data: bytes) -> None:
        """Queue serialized frames after everything that h2 has queued."""
        self.writer.put(data)

    def ring(self) -> None:
        """Wake the writer: h2 has queued frames."""
        self.writer.ring()

    @property
    def frames_written(self) -> int:
        """Number of DATA frames that were written."""
        return self.writer.frames

    def look_at(self, stream: Stream) -> None:
        """Schedule reading the response of a stream that has no task."""
        self.writer.look_at(stream)

    def ready(self, stream: Stream) -> None:
        """Schedule a stream for writing, unless it is closed."""
        if not stream.closed:
            self.writer.ready(stream)

    def took(self, stream: Stream, content: int, size: int) -> None:
        """Credit content that a stream's virtual connection has accepted to the client's windows."""
        if self._stopping:  # as in `closed`: h2 may be in its error state
            return
        self.window.released(content)
        if size and not stream.remote_ended:
            assert stream.window is not None
            stream.window.taken(size)
        self.writer.ring()

    def open_wide(self, stream: Stream, size: int) -> None:
        """Open the stream's window to `size` bytes, and the connection's window in advance by as much. The caller wakes the writer."""
        h2, limits = self._machine.h2, self.limits
        # when the client applies our SETTINGS, it reduces the window by this difference (RFC 9113 §6.9.2)
        owed = max(0, h2.local_settings.initial_window_size - self.window_size)
        if (lack := size + owed - h2.remote_flow_control_window(stream.id)) > 0:
            h2.increment_flow_control_window(lack, stream.id)
            most = min(limits.connection_window + limits.max_dropped, _HIGHEST)  # a limit for all streams together
            if (more := min(size, most - h2.inbound_flow_control_window)) > 0:
                h2.increment_flow_control_window(more)
                self.window.received(-more, 0)  # these bytes are credited already: do not credit them again on receipt

    def remote_ended(self, stream: Stream) -> None:
        """Handle END_STREAM from the client."""
        stream.remote_ended = True
        stream.wake()
        if stream.local_ended:
            self.closed(stream, None)

    def _local_ended(self, stream: Stream) -> None:
        """Handle our own END_STREAM."""
        if stream.remote_ended:
            self.closed(stream, None)

    def reset(self, stream: Stream, code: int, reason: str) -> None:
        """Reset a stream with an error code and abort its transaction with a reason, unless the stream is closed."""
        if not stream.closed:
            self._reset_number(stream.id, code)
            self.closed(stream, reason)

    def fail(self, stream: Stream, fault: StreamFault) -> None:
        """Reset a stream for a stream error of the client."""
        logger.info("HTTP/2 connection %d from %s, stream %d reset: %s", self.number, self.client.host, stream.id, fault)
        self.reset(stream, fault.code, fault.cause)

    def closed(self, stream: Stream, reason: str | None) -> None:
        """Remove a stream that is closed in HTTP/2. With a reason, abort its transaction. Does nothing if it was removed before."""
        if self.streams.pop(stream.id, None) is None:
            return
        self.writer.forget(stream)
        self._unwinds(stream.pipe)
        held = stream.close(reason)
        if not self._stopping:  # after a connection error h2 rejects calls, and no more content is received
            self.window.released(held)
        if not self.streams:
            self._idle_since = trio.current_time()
            self._reading.deadline = self._deadline()
            self._check_done()

    def _unwinds(self, pipe: VirtualConnection) -> None:
        """Count a closed stream until its session has closed the virtual connection: its transaction may still run (CVE-2023-44487)."""
        self._unwinding += 1
        pipe.watch_peer(self._unwound)

    def _unwound(self, reason: str) -> None:
        self._unwinding -= 1
