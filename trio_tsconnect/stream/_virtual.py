"""Virtual connections: byte streams to the engine, or between any two tasks, without the operating system.

Invariant: a `VirtualConnection` is two pipes, one for each direction, and an identity. `Pipe` implements all rules of the byte stream.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Coroutine
from typing import Any, Final, Literal

import attrs
import trio

from trio_tsconnect._util import public
from trio_tsconnect.stream._client_info import ClientInfo
from trio_tsconnect.stream._pipe import Pipe, PipeStatistics

MAX_BUFFER_INDEX: Final = 14
_numbers = itertools.count(1)

Address = tuple[str, int]


@public("trio_tsconnect.stream")
def window_of(buffer_index: int) -> int:
    """Return the number of bytes for a buffer index: `128 << buffer_index` (Traffic Server's `TSIOBufferSizeIndex`).

    Raise ValueError unless the index is an int in 0..14.
    """
    if type(buffer_index) is not int or not 0 <= buffer_index <= MAX_BUFFER_INDEX:
        raise ValueError(f"buffer_index must be an int in 0..{MAX_BUFFER_INDEX}, not {buffer_index!r}")
    return 128 << buffer_index


@public("trio_tsconnect.stream")
def check_water_mark(buffer_water_mark: int, window: int) -> None:
    """Raise ValueError unless the water mark is an int from 0 to the window, in bytes."""
    if type(buffer_water_mark) is not int or not 0 <= buffer_water_mark <= window:
        raise ValueError(f"buffer_water_mark must be an int in 0..{window} (the window of this buffer_index), not {buffer_water_mark!r}")


@public("trio_tsconnect.stream")
@attrs.frozen(kw_only=True)
class VirtualConnectionStatistics:
    """Both directions of a virtual connection, seen from one end."""

    sending: PipeStatistics
    """The direction that this end writes."""
    receiving: PipeStatistics
    """The direction that the peer writes."""


@public("trio_tsconnect.stream")
@attrs.frozen(kw_only=True)
class Identity:
    """Facts about a virtual connection that both ends share."""

    tag: str | None = None
    """Name of the opener, chosen by the opener (Traffic Server's `pitag`)."""
    id: int = 0
    """Number chosen by the opener (Traffic Server's `piid`); 0 if not set."""
    internal: bool = True
    """True if the connection was opened for the process itself, not for a network client."""
    opener_address: Address = ("virtual", 0)
    """Address of the opener's end."""
    peer_address: Address = ("virtual", 0)
    """Address of the other end."""
    client: ClientInfo | None = None
    """The client on whose behalf it was opened, if the opener named one."""


ResponseSource = Literal["origin", "plugin", "proxy"]
_ORIGIN: tuple[ResponseSource, None] = ("origin", None)


@public("trio_tsconnect")
class VirtualConnection(trio.abc.HalfCloseableStream):
    """One end of a virtual connection. Created by `Proxy.connect` and `open_virtual_connection_pair`; the constructor raises TypeError.

    A `trio.abc.HalfCloseableStream` with the semantics of a socket. `send_all` blocks while the peer has a full window of unread bytes,
    exactly `128 << buffer_index`. `send_eof` ends one direction. `aclose` ends both, and drops what this end has not read. `abort` breaks
    both ends at once. Errors are those of trio: `ClosedResourceError` after a local close, `BrokenResourceError` after the peer has gone
    (its text includes the reason of an abort), `BusyResourceError` if two tasks use one direction.

    Every async method is a checkpoint. A cancelled `receive_some` loses no byte. A cancelled `send_all` may have written a part.
    """

    _in: Pipe
    _out: Pipe
    _peer: VirtualConnection | None
    _identity: Identity
    _opener: bool
    _closed: bool
    _gone_callback: Callable[[str], object] | None
    _peer_left: str | None
    response_source: tuple[ResponseSource, str | None]
    """Who made the last response that was written on the other end, and the cause in the log if it reports a failure."""

    __slots__ = ("_closed", "_gone_callback", "_identity", "_in", "_opener", "_out", "_peer", "_peer_left", "response_source")

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        raise TypeError("VirtualConnection cannot be created directly: call Proxy.connect() or open_virtual_connection_pair()")

    def send_all(self, data: bytes | bytearray | memoryview) -> Coroutine[Any, Any, None]:
        """Write all of `data`; block while the window is full. `b""` writes nothing, and does not end the input of the peer."""
        return self._out.send_all(data)

    def send_nowait(self, data: bytes | bytearray) -> None:
        """Write all of `data` without blocking and without a checkpoint, or raise `trio.WouldBlock` and write nothing."""
        self._out.send_nowait(data)

    async def wait_send_all_might_not_block(self) -> None:
        """Block while the window is full. Return also if the peer has gone."""
        await self._out.wait_send_all_might_not_block()

    def receive_some(self, max_bytes: int | None = None) -> Coroutine[Any, Any, bytes]:
        """Return at least one byte, at most `max_bytes` (None: no limit); block while there is none. Return `b""` at the end of input."""
        return self._in.receive_some(max_bytes)

    def receive_nowait(self, max_bytes: int | None = None) -> bytes:
        """Do what `receive_some` does, without blocking and without a checkpoint. Raise `trio.WouldBlock` if there is nothing to read."""
        return self._in.receive_nowait(max_bytes)

    def watch_input(self, callback: Callable[[], object] | None) -> None:
        """Call `callback()` once, synchronously, when there are bytes, the end of input, or an error to receive; at once if there are.

        For code that serves many connections from one task. The callback runs inside the call of the peer that caused it: it must not
        raise, and should only record that there is something to read. There is one callback at a time. None removes it, and so does closing
        this end.
        """
        self._in.watch_reader(callback)

    async def send_eof(self) -> None:
        """End this direction: the peer drains what was written, then reads `b""`. The other direction stays open."""
        if self._closed:
            await trio.lowlevel.checkpoint()
            raise trio.ClosedResourceError("this end is closed")
        if self._out._write_busy:
            await trio.lowlevel.checkpoint()
            raise trio.BusyResourceError("another task is using this connection for sending")
        self._out.close_write()
        await trio.lowlevel.checkpoint()

    async def aclose(self) -> None:
        """Close both directions at once, also when cancelled. The peer can still read what was written; its writes fail."""
        self.close()
        await trio.lowlevel.checkpoint()

    def close(self, reason: str = "closed") -> None:
        """Do what `aclose` does, without a checkpoint. `reason` is passed to the peer's `watch_peer` callback."""
        if not self._closed:
            self._closed = True  # first: the callbacks of both ends run below, and may close or abort again
            self._out.close_writer()
            self._in.close_reader()
            self._leave(reason)

    def abort(self, reason: str = "aborted") -> None:
        """Break both ends at once and drop unread bytes, as a reset does for TCP. Synchronous; idempotent."""
        if self._closed:
            return
        self._closed = True
        # First: `Pipe.abort` would call the callback of this end, which knows already.
        self._in.watch_reader(None)
        for pipe in (self._out, self._in):
            pipe.abort(reason)
        self._out.close_writer()
        self._in.close_reader()
        self._leave(reason)

    def break_off(self, reason: str = "broken off") -> None:
        """Close both directions in the middle of a message: the peer reads what was written, then gets an error as after an abort.

        For a writer that has failed after it wrote valid bytes. Synchronous; idempotent.
        """
        self._out.break_off(reason)
        self.close(reason)

    def tell_source(self, source: ResponseSource, cause: str | None = None) -> None:
        """Tell the peer who has made the response that is written next. For the server of a connection; unless told, it is the origin."""
        if self._peer is not None:
            self._peer.response_source = (source, cause)

    def _leave(self, reason: str) -> None:
        """Notify the peer, once, and drop the reference to it: two ends that refer to each other need the cyclic garbage collector."""
        if (peer := self._peer) is not None:
            self._peer = None
            peer._gone(reason)

    def flush(self) -> None:
        """Make all bytes written so far readable, without waiting for the peer's water mark. Synchronous; never blocks."""
        self._out.flush()

    def watch_peer(self, callback: Callable[[str], object] | None) -> None:
        """Call `callback(reason)` synchronously when the peer closes or aborts; at once if it already has. `send_eof` does not call it.

        There is one callback at a time. None removes it.
        """
        self._gone_callback = callback
        if callback is not None and self._peer_left is not None:
            self._gone(self._peer_left)

    def _gone(self, reason: str) -> None:
        self._peer_left = reason
        if (callback := self._gone_callback) is not None:
            # Before the call: the callback may set another one.
            self._gone_callback = None
            callback(reason)

    def statistics(self) -> VirtualConnectionStatistics:
        """Return a snapshot of both directions."""
        return VirtualConnectionStatistics(sending=self._out.statistics(), receiving=self._in.statistics())

    @property
    def tag(self) -> str | None:
        """Tag given by the opener."""
        return self._identity.tag

    @property
    def id(self) -> int:
        """Number given by the opener; 0 if not set."""
        return self._identity.id

    @property
    def internal(self) -> bool:
        """True if the connection was opened for the process itself, not for a network client."""
        return self._identity.internal

    @property
    def client_info(self) -> ClientInfo | None:
        """The client on whose behalf the connection was opened, if the opener named one."""
        return self._identity.client

    @property
    def local_address(self) -> Address:
        """Address of this end."""
        return self._identity.opener_address if self._opener else self._identity.peer_address

    @property
    def remote_address(self) -> Address:
        """Address of the other end."""
        return self._identity.peer_address if self._opener else self._identity.opener_address

    def __repr__(self) -> str:
        sending, receiving = self._out.statistics(), self._in.statistics()
        state = "closed" if self._closed else f"{receiving.ended or 'open'}/{sending.ended or 'open'}"
        who = f" tag={self.tag!r}" if self.tag else ""
        number = f" id={self.id}" if self.id else ""
        local, remote = self.local_address, self.remote_address
        return (
            f"<VirtualConnection {local[0]}:{local[1]} -> {remote[0]}:{remote[1]}{who}{number} {state},"
            f" {receiving.unread} to read, {sending.unread}/{sending.window} sent and unread>"
        )


@public("trio_tsconnect.stream")
def make_pair(identity: Identity, window: int, mark: int) -> tuple[VirtualConnection, VirtualConnection]:
    """Return the two ends of a new connection, the opener's end first.

    `window` is the limit of each direction, in bytes. The water mark `mark`, in bytes, applies only to what the opener reads.
    """
    to_peer, to_opener = Pipe(window), Pipe(window, mark)
    # Not `VirtualConnection()`: `__init__` always raises TypeError.
    opener: VirtualConnection = object.__new__(VirtualConnection)
    other: VirtualConnection = object.__new__(VirtualConnection)
    for end, peer, receiving, sending in ((opener, other, to_opener, to_peer), (other, opener, to_peer, to_opener)):
        end._in, end._out, end._peer = receiving, sending, peer
        end._identity = identity
        end._opener = end is opener
        end._closed = False
        end._gone_callback = end._peer_left = None
        end.response_source = _ORIGIN
    return opener, other


@public("trio_tsconnect")
def open_virtual_connection_pair(*, buffer_index: int = 8, buffer_water_mark: int = 0) -> tuple[VirtualConnection, VirtualConnection]:
    """Return two connected virtual connections: (the opener's end, the other end).

    `buffer_index` is in 0..14: each direction holds at most `128 << buffer_index` unread bytes, exactly. `buffer_water_mark` is in bytes,
    from 0 to that window. The opener can read bytes when so many have been written, or when the window is full, or when the writer flushes,
    ends or closes. Raise ValueError, with the name of the option, for a value out of range. Source: `TSHttpConnectOptions.buffer_index` and
    `.buffer_water_mark`.
    """
    window = window_of(buffer_index)
    check_water_mark(buffer_water_mark, window)
    number = next(_numbers)
    identity = Identity(opener_address=("virtual", number), peer_address=("virtual", number))
    return make_pair(identity, window, buffer_water_mark)
