"""The few things that differ between kinds of streams, each asked in one place.

The law: what only a socket needs is done here, by duck and by type; everything above treats all streams alike.
"""

from __future__ import annotations

import contextlib
import fcntl
import select
import socket
import struct
import sys
import termios
from collections.abc import Callable
from typing import Any

import trio

from trio_tsconnect._util import public
from trio_tsconnect.stream._virtual import VirtualConnection

_LINGER_MOST = 1 << 20


@public("trio_tsconnect.stream")
def has_input(stream: trio.abc.Stream) -> bool:
    """Whether a stream that nobody reads has something to read, the end of input included. What cannot be asked has none."""
    if isinstance(stream, VirtualConnection):
        receiving = stream.statistics().receiving
        return bool(receiving.unread) or receiving.ended is not None
    sock = _socket_of(stream)
    if sock is None:
        return False
    try:
        poll = select.poll()
        poll.register(sock.fileno(), select.POLLIN)
        return bool(poll.poll(0))
    except (OSError, ValueError):
        return True


@public("trio_tsconnect.stream")
def has_hung_up(stream: trio.abc.Stream, *, half_close: bool = True) -> bool:
    """True if a socket's peer has reset the connection, or (`half_close`) ended its direction, whatever is still to be read.

    False for a stream that cannot be asked, or is closed.
    """
    sock = _socket_of(stream)
    if sock is None or sock.fileno() < 0:
        return False
    poll = select.poll()
    poll.register(sock.fileno(), getattr(select, "POLLRDHUP", 0) if half_close else 0)
    return bool(poll.poll(0))


@public("trio_tsconnect.stream")
def unsent(stream: trio.abc.Stream) -> int:
    """Bytes that were written and have not arrived: not read from a virtual connection, not acknowledged on a socket. 0 where that is not known."""
    if isinstance(stream, VirtualConnection):
        return stream.statistics().sending.unread
    sock = _socket_of(stream)
    if sock is None or sock.fileno() < 0:
        return 0
    try:
        return int.from_bytes(fcntl.ioctl(sock.fileno(), termios.TIOCOUTQ, bytes(4)), sys.byteorder)
    except OSError:
        return 0  # a kind of socket that does not count


def _socket_of(stream: trio.abc.Stream) -> Any:
    transport: Any = stream.transport_stream if isinstance(stream, trio.SSLStream) else stream
    return getattr(transport, "socket", None)


@public("trio_tsconnect.stream")
def watch_peer(stream: trio.abc.Stream, callback: Callable[[str], object] | None) -> bool:
    """Have `callback(reason)` called at the moment the peer is gone; False when the stream cannot tell without being read.

    None takes the callback away.
    """
    watch = getattr(stream, "watch_peer", None)
    if watch is None:
        return False
    watch(callback)
    return True


@public("trio_tsconnect.stream")
def reset(stream: trio.abc.Stream, reason: str) -> None:
    """See to it that closing this stream by force is no orderly end to the peer: a socket is reset, and loses bytes on their way;
    what is unread of a virtual connection is still the peer's, which fails after it."""
    if isinstance(stream, trio.SSLStream):
        stream = stream.transport_stream
    if isinstance(stream, VirtualConnection):
        stream.break_off(reason)
    elif (sock := getattr(stream, "socket", None)) is not None:
        with contextlib.suppress(OSError):
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))


@public("trio_tsconnect.stream")
async def close_now(stream: trio.abc.Stream) -> None:
    """Close by force, without a farewell. Waits for nothing, so it is shielded: it also closes, and returns, in a cancelled task."""
    if isinstance(stream, VirtualConnection):
        stream.close()
        return
    with trio.CancelScope(shield=True):
        await trio.aclose_forcefully(stream)


@public("trio_tsconnect.stream")
async def close_gently(stream: trio.abc.Stream, seconds: float) -> None:
    """Close so that what was written arrives (RFC 9112 §9.6): end the output, then read and drop until the peer closes, for so long at most.

    A virtual connection needs none of it: its bytes are there already. Closes by force when cancelled.
    """
    if isinstance(stream, VirtualConnection):
        stream.close()
        return
    try:
        with trio.move_on_after(seconds), contextlib.suppress(trio.BrokenResourceError, trio.ClosedResourceError):
            transport: Any = stream
            if isinstance(stream, trio.SSLStream):
                transport = stream.transport_stream
                with contextlib.suppress(trio.BrokenResourceError):  # whatever the peer still sends belongs to no record any more
                    await stream.unwrap()
            if isinstance(transport, trio.abc.HalfCloseableStream):
                await transport.send_eof()
            left = _LINGER_MOST
            while left > 0 and (data := await transport.receive_some(65536)):
                left -= len(data)
    finally:
        await close_now(stream)
