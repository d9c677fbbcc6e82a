"""Detect bytes that the TLS layer has read from the socket but that no caller has received.

Invariant: a connection is reused for another request only if it holds no unread bytes. A socket can be polled. But one read can return two
TLS records; the second one then waits inside the TLS layer, where `poll` does not see it. So the transport below TLS can be switched to
silent mode: a read through TLS then returns bytes only if the TLS layer held them, and otherwise fails when it calls the silent transport.
"""

from __future__ import annotations

from typing import Any

import trio

from trio_tsconnect._util import public


class _Silence(Exception):
    """The TLS layer holds no bytes: it called the silent transport for more."""


@public("trio_tsconnect.stream")
class ProbedTransport(trio.abc.Stream):
    """A transport below TLS with a silent mode."""

    def __init__(self, stream: trio.abc.Stream) -> None:
        self._stream = stream
        self.socket: Any = getattr(stream, "socket", None)
        """The socket of the transport; None if it has none."""
        self.silent: bool = False
        """True while reads are rejected."""

    async def send_all(self, data: bytes | bytearray | memoryview) -> None:
        """Write to the transport."""
        await self._stream.send_all(data)

    async def wait_send_all_might_not_block(self) -> None:
        """Block until the transport may accept a write."""
        await self._stream.wait_send_all_might_not_block()

    async def receive_some(self, max_bytes: int | None = None) -> bytes | bytearray:
        """Read from the transport, or raise `_Silence` in silent mode."""
        if self.silent:
            await trio.lowlevel.checkpoint()
            raise _Silence
        return await self._stream.receive_some(max_bytes)

    async def aclose(self) -> None:
        """Close the transport."""
        await self._stream.aclose()


@public("trio_tsconnect.stream")
async def holds_input(stream: trio.abc.Stream) -> bool:
    """Return True if TLS over a `ProbedTransport` holds bytes that no caller has received, or has failed. False for all other streams.

    If True, close the stream: the probe may have removed a byte from it.
    """
    if not isinstance(stream, trio.SSLStream) or not isinstance(stream.transport_stream, ProbedTransport):
        return False
    transport = stream.transport_stream
    transport.silent = True
    try:
        await stream.receive_some(1)
    except _Silence:
        return False
    except trio.BrokenResourceError:
        return True
    finally:
        transport.silent = False
    return True
