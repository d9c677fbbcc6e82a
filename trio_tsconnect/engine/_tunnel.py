"""A tunnel: after an upgrade (RFC 9110 §7.8) or CONNECT (§9.3.6) bytes go both ways, and mean nothing to us.

The law: each direction ends by itself, and the other goes on; the tunnel ends when both have, when one side breaks, or when nothing has
moved for too long.
"""

from __future__ import annotations

from collections.abc import Callable

import trio

from trio_tsconnect.engine._errors import TransactionFailure
from trio_tsconnect.engine._watch import Watch
from trio_tsconnect.message import Failure

_READ_SIZE = 65536


async def tunnel(
    client: trio.abc.Stream,
    origin: trio.abc.Stream,
    *,
    from_client: bytes,
    from_origin: bytes,
    watch: Watch,
    idle_timeout: float,
    client_has_gone: Callable[[], bool],
    count_request: Callable[[int], None],
    count_response: Callable[[int], None],
) -> None:
    """Carry bytes until the tunnel ends. `TransactionFailure` when it was idle for too long or the client broke it."""
    broken: list[str] = []

    async def carry(
        source: trio.abc.Stream, sink: trio.abc.Stream, data: bytes, count: Callable[[int], None], names: tuple[str, str]
    ) -> None:
        side = names[0]
        try:
            while True:
                if data:
                    side = names[1]
                    await sink.send_all(data)
                    _flush(sink)
                    count(len(data))
                    side = names[0]
                watch.arm(Failure.TUNNEL_IDLE, idle_timeout)
                data = bytes(await source.receive_some(_READ_SIZE))
                if not data:
                    break
            side = names[1]
            if isinstance(sink, trio.abc.HalfCloseableStream):
                await sink.send_eof()
                if source is client and client_has_gone():  # nobody is there to take what the origin still says
                    nursery.cancel_scope.cancel()
            else:  # TLS has no half-close that its peers understand: the end of one direction is the end of both
                nursery.cancel_scope.cancel()
        except (trio.BrokenResourceError, trio.ClosedResourceError):
            broken.append(side)
            nursery.cancel_scope.cancel()

    watch.arm(Failure.TUNNEL_IDLE, idle_timeout)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(carry, client, origin, from_client, count_request, ("client", "origin"))
        await carry(origin, client, from_origin, count_response, ("origin", "client"))
    watch.disarm()
    if broken and broken[0] == "client":
        raise TransactionFailure(Failure.CLIENT_GONE, "The client broke the tunnel.")


def _flush(stream: trio.abc.Stream) -> None:
    flush = getattr(stream, "flush", None)
    if flush is not None:
        flush()
