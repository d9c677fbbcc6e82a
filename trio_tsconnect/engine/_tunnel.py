"""A tunnel: after an upgrade (RFC 9110 §7.8) or CONNECT (§9.3.6) bytes go both ways, and mean nothing to us.

The law: each direction ends by itself, and the other goes on; the tunnel ends when both have, when one side breaks, or when nothing has
moved for too long. An end is passed on as an end, and whatever else stops a tunnel as a reset, to both sides: no length and no last chunk would
tell them that something is missing.
"""

from __future__ import annotations

from collections.abc import Callable

import trio

from trio_tsconnect.engine._watch import Watch
from trio_tsconnect.message import Failure, TransactionFailure
from trio_tsconnect.stream import close_now, reset, unsent

_READ_SIZE = 65536
_PATIENCE = 1.0
"""Seconds that one side has to take what the other said before it broke."""
_LOOK_EVERY = 0.01


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
    """Carry bytes until the tunnel ends.

    `BrokenResourceError` when the client broke it, `TransactionFailure` when the origin did. Whatever it raises, a cancellation included, both
    sides are reset then, and the client's is closed.
    """
    ended: set[str] = set()
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
            if side in broken:  # it takes nothing any more, and this was the rest of what it had said: no end, but a part of its breaking
                return
            ended.add(side)
            side = names[1]
            if isinstance(sink, trio.abc.HalfCloseableStream):
                await sink.send_eof()
                if source is client and client_has_gone():  # nobody is there to take what the origin still says
                    nursery.cancel_scope.cancel()
            else:  # TLS has no half-close that its peers understand: the end of one direction is the end of both
                nursery.cancel_scope.cancel()
        except (trio.BrokenResourceError, trio.ClosedResourceError):
            if side == names[0]:
                broken.append(side)
                nursery.cancel_scope.cancel()
            elif side == "client" or side not in ended:  # an origin that has said all it had to say may leave
                broken.append(side)

    whole = False
    try:
        watch.arm(Failure.TUNNEL_IDLE, idle_timeout)
        async with trio.open_nursery() as nursery:
            nursery.start_soon(carry, client, origin, from_client, count_request, ("client", "origin"))
            await carry(origin, client, from_origin, count_response, ("origin", "client"))
        watch.disarm()
        whole = not broken
        if broken:
            await _let_arrive(origin if broken[0] == "client" else client)
    finally:
        if not whole:
            for each in (origin, client):
                reset(each, "the tunnel was cut")
            await close_now(client)
    if not whole:
        if broken[0] == "client":
            raise trio.BrokenResourceError("the client broke the tunnel")
        raise TransactionFailure(Failure.ORIGIN_TRUNCATED, "The origin broke the tunnel.")


async def _let_arrive(stream: trio.abc.Stream) -> None:
    """RFC 9110 §9.3.6: what came from a side that is gone is still to be delivered, and the reset that follows would drop it.

    So it is waited for, within bounds, until a virtual connection's peer has read it, or a socket's system has.
    """
    with trio.move_on_after(_PATIENCE):
        while unsent(stream):  # noqa: ASYNC110 - nobody tells when it has arrived
            await trio.sleep(_LOOK_EVERY)


def _flush(stream: trio.abc.Stream) -> None:
    flush = getattr(stream, "flush", None)
    if flush is not None:
        flush()
