"""`make soak`: hours of use in minutes. Clients of every kind do what clients do, break off at any point, and nothing may be left of them.

Everything runs in one process, so its memory, tasks and descriptors are those of the engine, its origin and its clients together. They are
printed as it goes, and judged at the end: exit status 1 names what grew.
"""

from __future__ import annotations

import argparse
import gc
import logging
import math
import os
import random
import sys
from collections.abc import Awaitable, Callable
from contextlib import asynccontextmanager, suppress
from functools import partial
from typing import Any

import attrs
import httpx
import trio

from trio_tsconnect import (
    ConnectOptions,
    ConnectRefused,
    FetchError,
    HttpConfig,
    Log,
    LogRecord,
    OriginConfig,
    Plugin,
    Proxy,
    ProxyConfig,
    RemapRule,
    Request,
    Transaction,
    open_proxy,
)
from trio_tsconnect.asgi import AsgiOrigin
from trio_tsconnect.http2 import serve_auto

LARGE = 1 << 20
SLOPE = 4096.0
"""Bytes of memory a second that the second half may grow by: 14 MiB an hour is what a fragmented heap may come to, a leak is more."""
Ask = Callable[["World"], Awaitable[None]]


class CountingLog(Log):
    """Counts records by their cause."""

    def __init__(self) -> None:
        self.causes: dict[str, int] = {}
        self._closed = trio.Event()

    def write(self, record: LogRecord) -> None:
        self.causes[record.ended.why] = self.causes.get(record.ended.why, 0) + 1

    async def run(self) -> None:
        await self._closed.wait()

    def close(self) -> None:
        self._closed.set()


class Working(Plugin):
    """Does what plugins do, by the path that is asked for."""

    async def read_request(self, txn: Transaction) -> None:
        match txn.request.target.rpartition("/")[2]:
            case "answer":
                txn.respond(200, b"x" * 100)
            case "boom":
                raise RuntimeError("boom")
            case "leave":
                raise SystemExit(1)
            case "children":
                async with trio.open_nursery() as nursery:
                    for _ in range(3):
                        nursery.start_soon(self._child, txn)
                txn.respond(200, b"three")
            case "detached":
                txn.connect(detach=True).close()
                txn.respond(200, b"on its own")

    async def _child(self, txn: Transaction) -> None:
        with suppress(FetchError, ConnectRefused):
            async with txn.fetch(Request("GET", "/small", {"Host": "a"})) as answer:
                await answer.body.read()

    async def read_response(self, txn: Transaction) -> None:
        if txn.response.status == 503 and txn.request.method == "GET":
            txn.retry()


async def application(scope: Any, receive: Any, send: Any) -> None:
    """Answers piece by piece, and fails now and then."""
    assert scope["type"] == "http"
    await send({"type": "http.response.start", "status": 200, "headers": []})
    for _ in range(5):
        await send({"type": "http.response.body", "body": b"event", "more_body": True})
    if scope["path"].endswith("fail"):
        raise RuntimeError("the application fails")
    await send({"type": "http.response.body"})


async def origin(stream: trio.SocketStream) -> None:
    """Speaks just enough HTTP/1.1."""
    async with stream:
        buffer = bytearray()
        with suppress(trio.BrokenResourceError):
            while True:
                while b"\r\n\r\n" not in buffer:
                    data = await stream.receive_some(65536)
                    if not data:
                        return
                    buffer += data
                head, _, rest = bytes(buffer).partition(b"\r\n\r\n")
                buffer = bytearray(rest)
                if not await _reply(stream, head, buffer):
                    return


async def _reply(stream: trio.SocketStream, head: bytes, buffer: bytearray) -> bool:
    target = head.split(b" ", 2)[1].rpartition(b"/")[2]
    length = next((int(line[15:]) for line in head.lower().split(b"\r\n") if line.startswith(b"content-length:")), 0)
    match target:
        case b"die":
            return False
        case b"early":
            await stream.send_all(b"HTTP/1.1 413 Content Too Large\r\nContent-Length: 3\r\nConnection: close\r\n\r\nbig")
            return False
        case b"slow":
            await trio.sleep(2)
        case b"echo":
            await stream.send_all(b"HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: echo\r\n\r\n")
            async for data in stream:
                await stream.send_all(data)
            return False
    while len(buffer) < length:
        data = await stream.receive_some(65536)
        if not data:
            return False
        buffer += data
    del buffer[:length]
    if target == b"busy" and random.random() < 0.5:
        await stream.send_all(b"HTTP/1.1 503 Service Unavailable\r\nContent-Length: 0\r\n\r\n")
    elif target == b"large":
        await stream.send_all(b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n" % LARGE + bytes(LARGE))
    elif target == b"cut":
        await stream.send_all(b"HTTP/1.1 200 OK\r\nContent-Length: 1000\r\n\r\n" + bytes(500))
        return False
    else:
        await stream.send_all(b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nhello")
    return True


@attrs.frozen(eq=False)
class World:
    """What clients need to know."""

    proxy: Proxy
    port: int
    chance: random.Random

    @asynccontextmanager
    async def dial(self) -> Any:
        """A client's connection: over loopback, or virtual."""
        if self.chance.random() < 0.5:
            stream: trio.abc.Stream = await trio.open_tcp_stream("127.0.0.1", self.port)
        else:
            stream = self.proxy.connect(ConnectOptions(tag="soak", buffer_index=self.chance.choice((0, 4, 8))))
        try:
            yield stream
        finally:
            await trio.aclose_forcefully(stream)


TARGETS = ["small", "large", "answer", "boom", "leave", "children", "detached", "busy", "cut", "die", "app/ok", "app/fail", "refused/x"]


async def keep_alive(world: World) -> None:
    """Several requests on one connection."""
    async with world.dial() as stream:
        for _ in range(world.chance.randint(1, 5)):
            target = world.chance.choice(TARGETS)
            await stream.send_all(f"GET /{target} HTTP/1.1\r\nHost: a\r\n\r\n".encode())
            if not await stream.receive_some(65536) or target == "large":
                return


async def leave_early(world: World) -> None:
    """A request of which some part is sent, and a response of which some part is read."""
    request = (
        b"POST /"
        + world.chance.choice((b"small", b"early", b"large"))
        + b" HTTP/1.1\r\nHost: a\r\nContent-Length: 50000\r\n\r\n"
        + bytes(50_000)
    )
    async with world.dial() as stream:
        with trio.move_on_after(world.chance.random() / 10):
            await stream.send_all(request[: world.chance.randint(1, len(request))])
            for _ in range(world.chance.randint(0, 3)):
                if not await stream.receive_some(world.chance.randint(1, 65536)):
                    break


async def upload(world: World) -> None:
    """A large upload with fetch."""

    async def body() -> Any:
        for _ in range(16):
            yield bytes(65536)

    with suppress(FetchError, ConnectRefused):
        async with world.proxy.fetch(Request("POST", f"/{world.chance.choice(('small', 'early'))}", {"Host": "a"}), body=body()) as answer:
            await answer.body.read()


async def too_late(world: World) -> None:
    """A deadline that passes."""
    options = ConnectOptions(deadline=trio.current_time() + 0.05)
    with suppress(FetchError, ConnectRefused):
        async with world.proxy.fetch(Request("GET", "/slow", {"Host": "a"}), options=options) as answer:
            await answer.body.read()


async def tunnel(world: World) -> None:
    """An upgrade, some words, and an end of some kind."""
    async with world.dial() as stream:
        await stream.send_all(b"GET /echo HTTP/1.1\r\nHost: a\r\nConnection: Upgrade\r\nUpgrade: echo\r\n\r\n")
        for _ in range(world.chance.randint(0, 4)):
            await stream.receive_some(65536)
            await stream.send_all(b"words")
        if world.chance.random() < 0.5 and isinstance(stream, trio.abc.HalfCloseableStream):
            await stream.send_eof()
            while await stream.receive_some(65536):
                pass


async def http2(world: World) -> None:
    """Streams of one HTTP/2 connection, some of which are given up."""
    # (What httpx makes of a connection that it has given up itself is no matter here.)
    async with httpx.AsyncClient(http1=False, http2=True, base_url=f"http://127.0.0.1:{world.port}", timeout=5) as client:

        async def get(target: str) -> None:
            with suppress(Exception), trio.move_on_after(5 if world.chance.random() < 0.8 else 0.01):
                await client.get(f"/{target}")

        async with trio.open_nursery() as nursery:
            for _ in range(world.chance.randint(1, 12)):
                nursery.start_soon(get, world.chance.choice(TARGETS))


ASKS: list[Ask] = [keep_alive, keep_alive, leave_early, upload, too_late, tunnel, http2]


@attrs.frozen(kw_only=True)
class Sample:
    """What there was at one moment."""

    at: float
    memory: int
    tasks: int
    descriptors: int

    @classmethod
    def now(cls, start: float) -> Sample:
        with open("/proc/self/statm", encoding="ascii") as file:
            pages = int(file.read().split()[1])
        living = trio.lowlevel.current_statistics().tasks_living
        return cls(
            at=trio.current_time() - start,
            memory=pages * os.sysconf("SC_PAGESIZE"),
            tasks=living,
            descriptors=len(os.listdir("/proc/self/fd")),
        )


def slope(samples: list[Sample]) -> float:
    """Bytes a second by which memory grows in the second half, by least squares."""
    half = [each for each in samples if each.at >= samples[-1].at / 2]
    if len(half) < 3:
        return 0.0
    mean_at = sum(each.at for each in half) / len(half)
    mean = sum(each.memory for each in half) / len(half)
    return sum((each.at - mean_at) * (each.memory - mean) for each in half) / sum((each.at - mean_at) ** 2 for each in half)


async def soak(seconds: float, clients: int, seed: int, show: Callable[[str], object]) -> list[str]:
    """Run the load; what is wrong afterwards."""
    log = CountingLog()
    origins = await trio.open_tcp_listeners(0, host="127.0.0.1")
    address = f"http://127.0.0.1:{origins[0].socket.getsockname()[1]}/"
    rules = [
        RemapRule("/app/", "http://app.test/", plugins=[AsgiOrigin(application).plugin()]),
        RemapRule("/refused/", "http://127.0.0.1:1/"),
        RemapRule("/", address),
    ]
    limits = OriginConfig(max_connections=48, max_share=1, wait_timeout=5)
    config = ProxyConfig(remap=rules, origin=limits, http=HttpConfig(drain_timeout=5, linger_timeout=0.2))
    samples: list[Sample] = []
    asked, end = 0, math.inf

    async def client(world: World) -> None:
        nonlocal asked
        while trio.current_time() < end:
            asked += 1
            with suppress(OSError, trio.BrokenResourceError, trio.ClosedResourceError, httpx.HTTPError, ConnectRefused):
                await world.chance.choice(ASKS)(world)

    async with trio.open_nursery() as origin_nursery:
        origin_nursery.start_soon(partial(trio.serve_listeners, origin, origins))
        async with trio.open_nursery() as nursery, open_proxy(config, plugins=[Working()], log=log) as proxy:
            doors = await trio.open_tcp_listeners(0, host="127.0.0.1")
            nursery.start_soon(partial(trio.serve_listeners, partial(serve_auto, proxy), doors))
            port = doors[0].socket.getsockname()[1]
            await trio.sleep(0.1)
            start = trio.current_time()
            end, before = start + seconds, Sample.now(start)
            async with trio.open_nursery() as load:
                for number in range(clients):
                    load.start_soon(client, World(proxy, port, random.Random(seed * 1000 + number)))
                while trio.current_time() < end:
                    await trio.sleep(max(0.1, seconds / 60))
                    samples.append(Sample.now(start))
                    last, held = samples[-1], proxy.statistics()
                    show(
                        f"{last.at:7.1f} s  {last.memory / 2**20:7.1f} MiB  {last.tasks:5} tasks  {last.descriptors:4} descriptors  "
                        f"{held.sessions:4} sessions  {held.origin_taken:3} taken  {held.origin_waiting:3} waiting  {asked:8} asked"
                    )
            await proxy.drain(10)  # what the clients broke off comes to its end
            gc.collect()  # clients that break off leave sockets to the collector
            await trio.sleep(2.5)  # longer than the slow origin takes
            after, held = Sample.now(start), proxy.statistics()
            nursery.cancel_scope.cancel()
        origin_nursery.cancel_scope.cancel()
    show("causes: " + ", ".join(f"{count} {cause}" for cause, count in sorted(log.causes.items(), key=lambda item: -item[1])))
    growth = slope(samples)
    show(
        f"memory: {growth:+.0f} B/s in the second half; tasks {before.tasks} -> {after.tasks}; descriptors {before.descriptors} -> {after.descriptors}"
    )
    wrong = []
    if held.sessions or held.transactions or held.origin_taken or held.origin_waiting:
        wrong.append(f"left over: {held}")
    if after.tasks > before.tasks + held.origin_idle:  # each idle connection is a task of the origin
        wrong.append(f"tasks: {before.tasks} before, {after.tasks} after, {held.origin_idle} idle origin connections")
    if after.descriptors > before.descriptors + 2 * held.origin_idle + 2:
        wrong.append(f"descriptors: {before.descriptors} before, {after.descriptors} after, {held.origin_idle} idle origin connections")
    if growth > SLOPE and seconds >= 120:
        wrong.append(f"memory grows by {growth:.0f} B/s, more than {SLOPE:.0f}")
    return wrong


def main() -> None:
    """The command."""
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks._soak", description="A mixed load; exit status 1 when something is left of it."
    )
    parser.add_argument("--seconds", type=float, default=600.0, help="how long (600); memory is judged from 120 on")
    parser.add_argument("--clients", type=int, default=24, help="clients at once (24)")
    parser.add_argument("--seed", type=int, default=1, help="which load (1)")
    options = parser.parse_args()
    logging.disable(logging.CRITICAL)  # plugins and applications are meant to fail
    wrong = trio.run(soak, options.seconds, options.clients, options.seed, partial(print, flush=True))
    for each in wrong:
        print(each, file=sys.stderr)
    sys.exit(1 if wrong else 0)


if __name__ == "__main__":
    main()
