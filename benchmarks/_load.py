"""Servers in processes of their own, under the same load: what each makes of a second of CPU time.

The law: all of a race's servers get the same load from the same client, and what counts is the CPU time of the server alone.
"""

from __future__ import annotations

import importlib.util
import re
import shutil
import subprocess
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AsyncExitStack, asynccontextmanager

import trio

from benchmarks import h11_floor
from benchmarks._children import Child, bare_proxy, child, nginx, tells_cpu_time
from benchmarks._exchange import Client
from benchmarks._ratio import AGAIN, Absent, Contestant, Effort, Result, race

CONNECTIONS = 8
STREAMS = 20
PATH = "/path/to/resource?id=12345"
FIELDS = [f"{name.decode()}: {value.decode()}" for name, value in h11_floor.REQUEST_FIELDS if name != b"host"]

Load = Callable[[int, int], Awaitable[None]]
"""Sends so many requests to a port and returns when all have been answered."""


async def _h2load(n: int, port: int, *more: str) -> None:
    command = ["h2load", "-n", str(n), "-c", str(CONNECTIONS), *more, f"http://127.0.0.1:{port}{PATH}"]
    done = await trio.run_process(command, capture_stdout=True, stderr=subprocess.STDOUT, check=False)
    if re.search(rf"{n} total, .* {n} succeeded, 0 failed, 0 errored".encode(), done.stdout) is None:
        raise RuntimeError(f"h2load was not answered as it should be:\n{done.stdout.decode(errors='replace')}")


async def _load_h1(n: int, port: int) -> None:
    await _h2load(n, port, "--h1", *(part for field in FIELDS for part in ("-H", field)))


async def _load_h2(n: int, port: int) -> None:
    await _h2load(n, port, "-m", str(STREAMS))


async def own_load(n: int, port: int) -> None:
    """Send the requests over some connections, with a client in this process."""

    async def run() -> None:
        async with await trio.open_tcp_stream("127.0.0.1", port) as stream:
            await Client(stream).run(n // CONNECTIONS)

    async with trio.open_nursery() as nursery:
        for _ in range(CONNECTIONS):
            nursery.start_soon(run)


def load_h1() -> Load:
    """The load of HTTP/1.1: that of h2load, where it is installed."""
    return _load_h1 if shutil.which("h2load") else own_load


def under(load: Load, server: Child) -> Contestant:
    """A contestant that is a server under a load: requests per second of its CPU time."""

    async def run(n: int) -> float:
        whole = max(1, n // (CONNECTIONS * STREAMS)) * CONNECTIONS * STREAMS  # as much for each connection
        start = server.cpu_seconds()
        await load(whole, server.port)
        return whole / (server.cpu_seconds() - start)

    return run


@asynccontextmanager
async def origin() -> AsyncIterator[Child]:
    """An origin in a process of its own: nginx, where it is installed."""
    async with nginx() if shutil.which("nginx") else child("origin") as server:
        yield server


async def proxies(effort: Effort) -> list[Result]:
    """Our proxy against the least that trio and h11 can do, in front of the same origin."""
    name = "proxy over TCP"
    if not tells_cpu_time():
        return [Absent(name=name, why="the CPU time of another process (Linux)")]
    load = load_h1()
    async with AsyncExitStack() as stack:
        behind = await stack.enter_async_context(origin())
        ours = await stack.enter_async_context(child("proxy", behind.port))
        again = await stack.enter_async_context(child("proxy", behind.port))
        logging = await stack.enter_async_context(child("proxy-log", behind.port))
        bare = await stack.enter_async_context(bare_proxy(behind.port))
        contestants = {
            "ours": under(load, ours),
            AGAIN: under(load, again),
            "bare_proxy.py": under(load, bare),
            "itself with a log of JSON lines": under(load, logging),
        }
        return list(await race(name, contestants, effort, unit="/CPU-s"))


async def http2(effort: Effort) -> list[Result]:
    """Our HTTP/2 front end with a plugin that answers, against hypercorn's trio worker with an application that does."""
    name = "HTTP/2 front end, plugin answers"
    for there, what in (
        (importlib.util.find_spec("trio_tsconnect.http2"), "trio_tsconnect.http2"),
        (importlib.util.find_spec("h2"), "h2 (from PyPI)"),
        (importlib.util.find_spec("hypercorn"), "hypercorn (from PyPI)"),
        (shutil.which("h2load"), "h2load (Debian: nghttp2-client)"),
        (tells_cpu_time(), "the CPU time of another process (Linux)"),
    ):
        if not there:
            return [Absent(name=name, why=what)]
    results: list[Result] = []
    for title, which in ((name, "http2"), (f'{name}, "fast"', "http2-fast")):
        if which == "http2-fast" and importlib.util.find_spec("h11_mypyc") is None:
            results.append(Absent(name=title, why="h11-mypyc (from PyPI)"))
            continue
        async with AsyncExitStack() as stack:
            ours = await stack.enter_async_context(child(which))
            again = await stack.enter_async_context(child(which))
            theirs = await stack.enter_async_context(child("hypercorn"))
            contestants = {
                "ours": under(_load_h2, ours),
                AGAIN: under(_load_h2, again),
                "hypercorn, trio worker": under(_load_h2, theirs),
            }
            results += await race(title, contestants, effort, unit="/CPU-s")
    return results
