"""A virtual connection: a byte stream to the engine, or to anything else, with no operating system between its ends.

The law: a `VirtualConnection` is two crossed pipes and an identity; every rule of the byte stream is the pipe's.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Coroutine
from typing import Any, Final

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
    """How many bytes a buffer index stands for: `128 << buffer_index` (Traffic Server's `TSIOBufferSizeIndex`). ValueError out of 0..14."""
    if type(buffer_index) is not int or not 0 <= buffer_index <= MAX_BUFFER_INDEX:
        raise ValueError(f"buffer_index must be an int in 0..{MAX_BUFFER_INDEX}, not {buffer_index!r}")
    return 128 << buffer_index


@public("trio_tsconnect.stream")
def check_water_mark(buffer_water_mark: int, window: int) -> None:
    """ValueError unless the mark lies within 0 and the window."""
    if type(buffer_water_mark) is not int or not 0 <= buffer_water_mark <= window:
        raise ValueError(f"buffer_water_mark must be an int in 0..{window} (the window of this buffer_index), not {buffer_water_mark!r}")


@public("trio_tsconnect.stream")
@attrs.frozen(kw_only=True)
class VirtualConnectionStatistics:
    """Both directions of a virtual connection, seen from one end."""

    sending: PipeStatistics
    """What this end has written."""
    receiving: PipeStatistics
    """What the peer has written."""


@public("trio_tsconnect.stream")
@attrs.frozen(kw_only=True)
class Identity:
    """What both ends of a virtual connection know about it."""

    tag: str | None = None
    """Who opened it, in the opener's words (Traffic Server's `pitag`)."""
    id: int = 0
    """The opener's number for it (Traffic Server's `piid`); 0 means not set."""
    internal: bool = True
    """Whether it was opened for the process itself, not for a network client."""
    opener_address: Address = ("virtual", 0)
    """The address of the opener's end."""
    peer_address: Address = ("virtual", 0)
    """The address of the other end."""
    client: ClientInfo | None = None
    """On whose behalf it was opened, if the opener said so."""


@public("trio_tsconnect")
class VirtualConnection(trio.abc.HalfCloseableStream):
    """One end of a virtual connection; made by `Proxy.connect` and `open_virtual_connection_pair`, never directly.

    A `trio.abc.HalfCloseableStream` with the semantics of a socket: `send_all` blocks while the peer has a window's worth of bytes
    unread (`128 << buffer_index`, exactly); `send_eof` ends one direction; `aclose` ends both, and drops what is unread; `abort` breaks
    both ends at once. Errors are trio's own: `ClosedResourceError` after a local close, `BrokenResourceError` when the peer has gone
    (with the reason of an abort in its text), `BusyResourceError` when two tasks use one direction.

    Every async call is a checkpoint. A cancelled `receive_some` loses nothing; a cancelled `send_all` may have sent a part.
    """

    _in: Pipe
    _out: Pipe
    _peer: VirtualConnection | None
    _identity: Identity
    _opener: bool
    _closed: bool
    _gone_callback: Callable[[str], object] | None
    _peer_left: str | None

    __slots__ = ("_closed", "_gone_callback", "_identity", "_in", "_opener", "_out", "_peer", "_peer_left")

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        raise TypeError("virtual connections come from Proxy.connect() or open_virtual_connection_pair()")

    def send_all(self, data: bytes | bytearray | memoryview) -> Coroutine[Any, Any, None]:
        """Write all of `data`; blocks while the window is full. `b""` writes nothing and is no end of input."""
        return self._out.send_all(data)

    def send_nowait(self, data: bytes | bytearray) -> None:
        """As `send_all`, but without waiting and without a checkpoint: all of it, or `trio.WouldBlock` and nothing."""
        self._out.send_nowait(data)

    async def wait_send_all_might_not_block(self) -> None:
        """Block while the window is full."""
        await self._out.wait_send_all_might_not_block()

    def receive_some(self, max_bytes: int | None = None) -> Coroutine[Any, Any, bytes]:
        """At least one byte as soon as there is one, at most `max_bytes` (None: as they come); `b""` at the end of input."""
        return self._in.receive_some(max_bytes)

    def receive_nowait(self, max_bytes: int | None = None) -> bytes:
        """As `receive_some`, but without waiting and without a checkpoint: what is there to be read, or `trio.WouldBlock`."""
        return self._in.receive_nowait(max_bytes)

    def watch_input(self, callback: Callable[[], object] | None) -> None:
        """Call `callback()` synchronously, once, when there is something to receive: bytes, the end of input, or an error; at once if there is.

        For those who serve many connections from one task. It is called from within what the peer does: it must not raise, and should do no
        more than note that there is something. One callback at a time; None takes it away, and so does closing this end.
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
        """Close both directions, at once and also when cancelled: the peer drains what was written; what it writes breaks."""
        self.close()
        await trio.lowlevel.checkpoint()

    def close(self, reason: str = "closed") -> None:
        """What `aclose` does, without the checkpoint; the peer is told the reason if it watches (`watch_peer`)."""
        if not self._closed:
            self._closed = True
            self._out.close_writer()
            self._in.close_reader()
            self._leave(reason)

    def abort(self, reason: str = "aborted") -> None:
        """Break both ends at once, dropping what is unread, as a reset does to a TCP connection. Synchronous; idempotent."""
        if self._closed:
            return
        self._closed = True
        self._in.watch_reader(None)
        for pipe in (self._out, self._in):
            pipe.abort(reason)
        self._out.close_writer()
        self._in.close_reader()
        self._leave(reason)

    def break_off(self, reason: str = "broken off") -> None:
        """Close both ends in the middle of something: the peer reads what was written before, then fails as after an abort.

        For a writer that has failed, and whose bytes so far are good. Synchronous; idempotent.
        """
        self._out.break_off(reason)
        self.close(reason)

    def _leave(self, reason: str) -> None:
        """Tell the peer, once, and let go of it: two that hold each other are garbage that has to be searched for."""
        if (peer := self._peer) is not None:
            self._peer = None
            peer._gone(reason)

    def flush(self) -> None:
        """Make every byte written so far readable, whatever the peer's water mark. Synchronous: it never has to wait."""
        self._out.flush()

    def watch_peer(self, callback: Callable[[str], object] | None) -> None:
        """Call `callback(reason)` synchronously when the peer closes or aborts (an end of input is neither); at once if it has.

        One callback at a time; None takes it away.
        """
        self._gone_callback = callback
        if callback is not None and self._peer_left is not None:
            self._gone(self._peer_left)

    def _gone(self, reason: str) -> None:
        self._peer_left = reason
        if (callback := self._gone_callback) is not None:
            self._gone_callback = None
            callback(reason)

    def statistics(self) -> VirtualConnectionStatistics:
        """What both directions hold at this moment."""
        return VirtualConnectionStatistics(sending=self._out.statistics(), receiving=self._in.statistics())

    @property
    def tag(self) -> str | None:
        """The opener's tag."""
        return self._identity.tag

    @property
    def id(self) -> int:
        """The opener's number; 0 means not set."""
        return self._identity.id

    @property
    def internal(self) -> bool:
        """Whether it was opened for the process itself, not for a network client."""
        return self._identity.internal

    @property
    def client_info(self) -> ClientInfo | None:
        """On whose behalf it was opened, as the opener said."""
        return self._identity.client

    @property
    def local_address(self) -> Address:
        """The address of this end."""
        return self._identity.opener_address if self._opener else self._identity.peer_address

    @property
    def remote_address(self) -> Address:
        """The address of the other end."""
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
    """Two ends of one connection: the opener's first. The mark acts on what the opener reads."""
    to_peer, to_opener = Pipe(window), Pipe(window, mark)
    opener: VirtualConnection = object.__new__(VirtualConnection)
    other: VirtualConnection = object.__new__(VirtualConnection)
    for end, peer, receiving, sending in ((opener, other, to_opener, to_peer), (other, opener, to_peer, to_opener)):
        end._in, end._out, end._peer = receiving, sending, peer
        end._identity = identity
        end._opener = end is opener
        end._closed = False
        end._gone_callback = end._peer_left = None
    return opener, other


@public("trio_tsconnect")
def open_virtual_connection_pair(*, buffer_index: int = 8, buffer_water_mark: int = 0) -> tuple[VirtualConnection, VirtualConnection]:
    """Two connected virtual connections: (the opener's end, the other end).

    `buffer_index` 0..14: each direction holds at most `128 << buffer_index` unread bytes, exactly. `buffer_water_mark`, in bytes,
    0 to that window: what the opener reads is released to it when so many bytes have come together, the window is full, or the
    writer flushes, ends or closes. ValueError out of range, naming the option. Source: `TSHttpConnectOptions.buffer_index` and
    `.buffer_water_mark`.
    """
    window = window_of(buffer_index)
    check_water_mark(buffer_water_mark, window)
    number = next(_numbers)
    identity = Identity(opener_address=("virtual", number), peer_address=("virtual", number))
    return make_pair(identity, window, buffer_water_mark)
