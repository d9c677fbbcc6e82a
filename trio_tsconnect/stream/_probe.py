"""What TLS holds back: bytes that were read from the socket and asked for by nobody yet.

The law: a connection is given to another request only when it is known to hold nothing. A socket can be polled; but one read may bring two TLS
records, and the second then waits inside the TLS layer, where no poll sees it. So the transport below TLS can be told to keep silent for a
moment: what a read gives then was held, and when it reaches for the transport, nothing was.
"""

from __future__ import annotations

from typing import Any

import trio

from trio_tsconnect._util import public


class _Silence(Exception):
    """The TLS layer holds nothing: it asked for more."""


@public("trio_tsconnect.stream")
class ProbedTransport(trio.abc.Stream):
    """A transport under TLS that can keep silent."""

    def __init__(self, stream: trio.abc.Stream) -> None:
        self._stream = stream
        self.socket: Any = getattr(stream, "socket", None)
        """The socket below, if there is one."""
        self.silent: bool = False
        """Whether a read is refused now."""

    async def send_all(self, data: bytes | bytearray | memoryview) -> None:
        """Write."""
        await self._stream.send_all(data)

    async def wait_send_all_might_not_block(self) -> None:
        """Wait for room."""
        await self._stream.wait_send_all_might_not_block()

    async def receive_some(self, max_bytes: int | None = None) -> bytes | bytearray:
        """Read, unless silent."""
        if self.silent:
            await trio.lowlevel.checkpoint()
            raise _Silence
        return await self._stream.receive_some(max_bytes)

    async def aclose(self) -> None:
        """Close."""
        await self._stream.aclose()


@public("trio_tsconnect.stream")
async def holds_input(stream: trio.abc.Stream) -> bool:
    """Whether TLS over a `ProbedTransport` holds something that nobody asked for. The stream is of no more use then. False for all others."""
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
