"""Tunnels: after an upgrade (RFC 9110 §7.8) or CONNECT (§9.3.6), bytes are forwarded both ways without interpretation.

Invariant: an end of input is forwarded as an end of output, and the other direction goes on. If anything else stops the tunnel, both sides
are reset: without a length or a last chunk, only a reset tells them that bytes are missing.

A tunnel ends when both directions have ended, when one side breaks, or when no byte has moved for `http.tunnel_timeout`.
"""

from __future__ import annotations

from collections.abc import Callable

import trio

from trio_tsconnect.engine._watch import Watch
from trio_tsconnect.message import Failure, TransactionFailure
from trio_tsconnect.stream import close_now, reset, unsent

_READ_SIZE = 65536
_PATIENCE = 1.0
"""Seconds that one side has to read what the other sent before it broke."""
_LOOK_EVERY = 0.01
"""Seconds between two checks of whether it has."""


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
    """Forward bytes both ways until the tunnel ends.

    `from_client` and `from_origin` were read before the tunnel began and are forwarded first. `idle_timeout` is in seconds. Raise
    `trio.BrokenResourceError` if the client broke the tunnel, `TransactionFailure` if the origin did. If anything is raised, a cancellation
    included, both sides are reset and the client's stream is closed.
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
            if side in broken:  # it broke before, for writing: this is not an orderly end
                return
            ended.add(side)
            side = names[1]
            if isinstance(sink, trio.abc.HalfCloseableStream):
                await sink.send_eof()
                if source is client and client_has_gone():  # nobody reads what the origin still sends
                    nursery.cancel_scope.cancel()
            else:  # TLS has no half-close that peers support: one end closes both directions
                nursery.cancel_scope.cancel()
        except (trio.BrokenResourceError, trio.ClosedResourceError):
            if side == names[0]:
                broken.append(side)
                nursery.cancel_scope.cancel()
            elif side == "client" or side not in ended:  # an origin that has ended its output may close
                broken.append(side)

    whole = False
    try:
        watch.arm(Failure.TUNNEL_IDLE, idle_timeout)
        async with trio.open_nursery() as nursery:
            nursery.start_soon(carry, client, origin, from_client, count_request, ("client", "origin"))
            await carry(origin, client, from_origin, count_response, ("origin", "client"))
        watch.disarm()
        whole = not broken
        if broken and broken[0] == "client":
            await _let_arrive(origin)
        elif broken and not hasattr(client, "break_off"):  # (a virtual connection can be read after its reset)
            await _let_arrive(client)
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
    """Wait until the remaining side has received what the other side sent before it left (RFC 9110 §9.3.6), for `_PATIENCE` seconds at most.

    The reset that follows would drop these bytes. On a virtual connection they have to be read, on a socket acknowledged.
    """
    with trio.move_on_after(_PATIENCE):
        while unsent(stream):  # noqa: ASYNC110 - there is no event for this
            await trio.sleep(_LOOK_EVERY)


def _flush(stream: trio.abc.Stream) -> None:
    flush = getattr(stream, "flush", None)
    if flush is not None:
        flush()
