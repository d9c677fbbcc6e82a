"""Keep-alive transactions in one process: over a virtual connection against loopback TCP, and against what h11 alone would take."""

from __future__ import annotations

from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from functools import partial
from typing import TYPE_CHECKING

import trio

from benchmarks import h11_floor
from benchmarks._children import child
from benchmarks._exchange import Client, Intercept, Respond
from benchmarks._ratio import Absent, Effort, Figure, Result, race, timed
from trio_tsconnect import MemoryLog, Plugin, Proxy, ProxyConfig, RemapRule, Transaction, open_proxy

if TYPE_CHECKING:
    from trio_tsconnect import LogRecord


class Forgetful(MemoryLog):
    """A log that is given every record and keeps none, so that what is measured does not grow."""

    def write(self, record: LogRecord) -> None:
        """Count it."""
        self.written += 1


@asynccontextmanager
async def serving(plugins: Sequence[Plugin] = (), origin_port: int | None = None) -> AsyncIterator[Proxy]:
    """A proxy in this process that sends everything to one origin on the loopback interface."""
    rules = () if origin_port is None else (RemapRule("/", f"http://127.0.0.1:{origin_port}/"),)
    async with open_proxy(ProxyConfig(remap=rules), plugins=plugins, log=Forgetful()) as proxy:
        yield proxy


async def _virtual_against_tcp(name: str, proxy: Proxy, effort: Effort) -> list[Figure]:
    async with trio.open_nursery() as nursery:
        serve = partial(trio.serve_tcp, proxy.serve_stream, 0, host="127.0.0.1")
        listeners: list[trio.SocketListener] = await nursery.start(serve)
        async with await trio.open_tcp_stream(*listeners[0].socket.getsockname()) as socket, proxy.connect() as virtual:
            contestants = {"virtual connection": timed(Client(virtual).run), "loopback TCP": timed(Client(socket).run)}
            figures = await race(name, contestants, effort)
        nursery.cancel_scope.cancel()
    return figures


async def keep_alive(effort: Effort) -> list[Figure]:
    """A transaction over a virtual connection against the same over loopback TCP."""
    async with serving([Respond()]) as proxy:
        figures = await _virtual_against_tcp("transaction, virtual, plugin answers", proxy, effort)
    async with child("origin") as origin, serving(origin_port=origin.port) as proxy:
        return figures + await _virtual_against_tcp("transaction, virtual, TCP origin", proxy, effort)


async def engine(effort: Effort) -> list[Result]:
    """The whole engine in memory, against the two h11 machines of a proxy hop without anything around them."""

    async def floor(n: int) -> None:
        h11_floor.run(n)

    results: list[Result] = []
    for name, plugin, needs in (
        ("engine in memory, plugin answers", Respond(), "respond"),
        ("engine in memory, plugin is the origin", Intercept(), "intercept"),
    ):
        if not hasattr(Transaction, needs):
            results.append(Absent(name=name, why=f"Transaction.{needs}"))
            continue
        async with serving([plugin], origin_port=9) as proxy, proxy.connect() as virtual:
            results += await race(name, {"engine": timed(Client(virtual).run), "h11_floor.py, two machines": timed(floor)}, effort)
    return results
