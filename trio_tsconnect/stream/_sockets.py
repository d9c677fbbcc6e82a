"""Operations that differ between kinds of streams: sockets, TLS over sockets, virtual connections, and others.

Invariant: `message`, `log`, `engine` and `http2` never access the socket of a stream (tests/test_house.py). Operations that need it are
here.
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

# Maximum number of bytes that `close_gently` reads and drops.
_LINGER_MOST = 1 << 20


@public("trio_tsconnect.stream")
def has_input(stream: trio.abc.Stream) -> bool:
    """Return True if a stream has unread input, including the end of input. The stream is not read.

    Return True for a closed or failed socket as well, so that callers do not reuse it. Return False for streams that cannot be polled.
    """
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
    # A closed socket has the descriptor -1, which `poll` rejects.
    except (OSError, ValueError):
        return True


@public("trio_tsconnect.stream")
def has_hung_up(stream: trio.abc.Stream, *, half_close: bool = True) -> bool:
    """Return True if the peer of a socket has reset the connection or (`half_close`) closed its direction, even if there is unread input.

    Return False for streams without a socket, and for closed ones.
    """
    sock = _socket_of(stream)
    if sock is None or sock.fileno() < 0:
        return False
    poll = select.poll()
    poll.register(sock.fileno(), getattr(select, "POLLRDHUP", 0) if half_close else 0)
    return bool(poll.poll(0))


@public("trio_tsconnect.stream")
def unsent(stream: trio.abc.Stream) -> int:
    """Return the number of bytes written that have not arrived: not read from a virtual connection, or not acknowledged on a socket.

    Return 0 for streams that cannot tell.
    """
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
    """Arrange that `callback(reason)` is called as soon as the peer closes or aborts. None removes the callback.

    Return False if the stream has no `watch_peer` method: then only reading can tell that the peer has gone.
    """
    watch = getattr(stream, "watch_peer", None)
    if watch is None:
        return False
    watch(callback)
    return True


@public("trio_tsconnect.stream")
def reset(stream: trio.abc.Stream, reason: str) -> None:
    """Make the next forced close of this stream visible to the peer as a failure, not as an orderly end of input.

    A socket will be reset (SO_LINGER with a timeout of 0), and bytes in transit may be lost. A virtual connection is broken off at once:
    the peer reads what was written, then gets `BrokenResourceError` with `reason`. Other streams are not changed.
    """
    if isinstance(stream, trio.SSLStream):
        stream = stream.transport_stream
    if isinstance(stream, VirtualConnection):
        stream.break_off(reason)
    elif (sock := getattr(stream, "socket", None)) is not None:
        with contextlib.suppress(OSError):
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))


@public("trio_tsconnect.stream")
async def close_now(stream: trio.abc.Stream) -> None:
    """Close by force, without a TLS close_notify. Shielded from cancellation, because it does not block: a cancelled task also closes."""
    if isinstance(stream, VirtualConnection):
        stream.close()
        return
    with trio.CancelScope(shield=True):
        await trio.aclose_forcefully(stream)


@public("trio_tsconnect.stream")
async def close_gently(stream: trio.abc.Stream, seconds: float) -> None:
    """Close so that the peer receives what was written (RFC 9112 §9.6). End the output, then read and drop input until the peer closes.

    Draining stops after `seconds` seconds or 1 MiB. A virtual connection is closed at once: its peer can still read what was written. If
    cancelled, the stream is closed by force.
    """
    if isinstance(stream, VirtualConnection):
        stream.close()
        return
    try:
        with trio.move_on_after(seconds), contextlib.suppress(trio.BrokenResourceError, trio.ClosedResourceError):
            transport: Any = stream
            if isinstance(stream, trio.SSLStream):
                transport = stream.transport_stream
                # `unwrap` fails if the peer still sends application data.
                with contextlib.suppress(trio.BrokenResourceError):
                    await stream.unwrap()
            if isinstance(transport, trio.abc.HalfCloseableStream):
                await transport.send_eof()
            # Closing a socket that has unread input sends a reset, which can destroy the response before the peer reads it.
            left = _LINGER_MOST
            while left > 0 and (data := await transport.receive_some(65536)):
                left -= len(data)
    finally:
        await close_now(stream)
