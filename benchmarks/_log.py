"""What the log costs: the same proxy with a log of JSON lines and without one, each in a process of its own.

The law: all contestants of a round get the same load from the same client. The added latency of a request is its latency less the median
of the same request sent straight to the origin in the same round.
"""

from __future__ import annotations

import gc
import random
import statistics
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import AsyncExitStack

import trio

from benchmarks._children import Child, child, tells_cpu_time
from benchmarks._exchange import Client
from benchmarks._load import load_h1, origin, own_load, under
from benchmarks._ratio import AGAIN, Contestant, Effort, Figure, Result, race, timed

_ON, _OFF, _DIRECT = "log on", "log off", "no proxy"
_CONNECTIONS = 8

Measure = Callable[[Child], Contestant]


async def log(effort: Effort) -> list[Result]:
    """Throughput with the log on against off, and the latency that the proxy adds over one TCP connection, with the log on and off."""
    async with AsyncExitStack() as stack:
        behind = await stack.enter_async_context(origin())
        on = await stack.enter_async_context(child("proxy-log", behind.port))
        off = await stack.enter_async_context(child("proxy", behind.port))
        again = await stack.enter_async_context(child("proxy-log", behind.port))
        results: list[Result] = []
        results += await race("throughput, 8 connections, log on", _each(_wall, on, off, again), effort)
        if tells_cpu_time():
            results += await race("CPU, 8 connections, log on", _each(_cpu, on, off, again), effort, unit="/CPU-s")
        results += await _added({_ON: on.port, _OFF: off.port, AGAIN: again.port, _DIRECT: behind.port}, effort)
        return results


def _each(measure: Measure, on: Child, off: Child, again: Child) -> Mapping[str, Contestant]:
    return {_ON: measure(on), _OFF: measure(off), AGAIN: measure(again)}


def _wall(server: Child) -> Contestant:
    async def run(n: int) -> None:
        await own_load(max(n, _CONNECTIONS), server.port)

    return timed(run)


def _cpu(server: Child) -> Contestant:
    return under(load_h1(), server)


async def _added(ports: Mapping[str, int], effort: Effort) -> list[Figure]:
    """Measure single requests over one connection to each port, in rounds."""
    lots = random.Random(1)
    taken: dict[str, list[list[float]]] = {name: [] for name in ports}
    async with AsyncExitStack() as stack:
        clients = {
            name: Client(await stack.enter_async_context(await trio.open_tcp_stream("127.0.0.1", port))) for name, port in ports.items()
        }
        order = list(clients)
        for client in clients.values():
            await client.run(100)
        for _ in range(effort.rounds):
            lots.shuffle(order)
            for name in order:
                gc.collect()
                taken[name].append(await _latencies(clients[name], effort.slice))
    return [_figure(f"added latency p{percent}, log on", taken, percent) for percent in (50, 99)]


async def _latencies(client: Client, seconds: float) -> list[float]:
    end = time.perf_counter() + seconds
    found: list[float] = []
    while (start := time.perf_counter()) < end or len(found) < 10:
        await client.run(1)
        found.append(time.perf_counter() - start)
    return found


def _figure(name: str, taken: Mapping[str, Sequence[Sequence[float]]], percent: int) -> Figure:
    added = {
        contestant: [
            max(1e-9, _percentile(each, percent) - statistics.median(direct)) for each, direct in zip(rounds, taken[_DIRECT], strict=True)
        ]
        for contestant, rounds in taken.items()
    }
    ratios = [off / on for on, off in zip(added[_ON], added[_OFF], strict=True)]
    low, median, high = statistics.quantiles(ratios, n=4, method="inclusive")
    return Figure(
        name=name,
        against=_OFF,
        ratio=median,
        low=low,
        high=high,
        same_code=statistics.median(again / on for on, again in zip(added[_ON], added[AGAIN], strict=True)),
        ours=1e6 * statistics.median(added[_ON]),
        theirs=1e6 * statistics.median(added[_OFF]),
        unit="µs",
    )


def _percentile(values: Sequence[float], percent: int) -> float:
    return sorted(values)[min(len(values) - 1, len(values) * percent // 100)]
