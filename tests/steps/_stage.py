"""A stage: a proxy, a client and an origin, one of whom something happens to at the Nth task step; and what must be true afterwards.

The schedule has a seed, so a run is told by four words and a number: scenario, party, action, N. A run that does not come to its end is
ended by a real clock, which no shield holds up.
"""

from __future__ import annotations

import gc
import os
import signal
import socket
import ssl
import struct
import time
import warnings
from collections.abc import Awaitable, Callable, Iterator
from contextlib import asynccontextmanager, contextmanager, suppress
from functools import lru_cache
from typing import Any
from zlib import crc32

import attrs
import trio
import trio.testing
import trustme

from tests.engine._world import Wire
from tests.http2._raw import DATA, END_STREAM, HEADERS, RST_STREAM, WINDOW_UPDATE, RawClient, frame, number
from trio_tsconnect import (
    ConnectOptions,
    ConnectRefused,
    FetchError,
    HttpConfig,
    MemoryLog,
    OriginConfig,
    Plugin,
    Proxy,
    ProxyConfig,
    RemapRule,
    Request,
    Transaction,
    VirtualConnection,
    open_proxy,
)
from trio_tsconnect.asgi import AsgiOrigin
from trio_tsconnect.http2 import serve_http2
from trio_tsconnect.testing._schedule import seeded_schedule

PATIENCE = 20
"""Seconds of real time after which a run hangs."""
BROKEN = (trio.BrokenResourceError, trio.ClosedResourceError, OSError, EOFError, ConnectRefused, FetchError)
BODY = bytes(200_000)


class Hung(BaseException):
    """A run has not come to its end."""


@lru_cache
def contexts() -> tuple[ssl.SSLContext, ssl.SSLContext, str]:
    """For servers, for clients, and the authority's file."""
    import tempfile

    authority = trustme.CA()
    server, client = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH), ssl.create_default_context()
    authority.issue_cert("localhost", "127.0.0.1").configure_cert(server)
    authority.configure_trust(client)
    with tempfile.NamedTemporaryFile(suffix=".pem", delete=False) as file:
        file.write(authority.cert_pem.bytes())
    return server, client, file.name


class Counter(trio.abc.Instrument):
    """Counts task steps, and acts before the Nth."""

    def __init__(self, at: int) -> None:
        self.at = at
        self.steps = 0
        self.fired = False
        self.act: Callable[[], object] | None = None

    def before_task_step(self, _task: trio.lowlevel.Task) -> None:
        if self.act is None:
            return
        self.steps += 1
        if self.steps == self.at:
            self.fired = True
            self.act()


class Counting(Plugin):
    """Notes which transactions have begun and ended, and fails when it is told to."""

    def __init__(self, stage: Stage) -> None:
        self.stage = stage
        self.started: list[int] = []
        self.closed: list[int] = []

    async def transaction_start(self, txn: Transaction) -> None:
        self.started.append(txn.number)

    async def transaction_close(self, txn: Transaction) -> None:
        self.closed.append(txn.number)

    async def read_request(self, txn: Transaction) -> None:
        await self.stage.point()
        match txn.request.target.rpartition("/")[2]:
            case "alive":
                txn.respond(204)
            case "children":
                async with trio.open_nursery() as nursery:
                    for _ in range(3):
                        nursery.start_soon(self._child, txn)
                txn.respond(200, "three")
            case "detached":
                connection = txn.connect(detach=True)
                await connection.send_all(b"GET /small HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n")
                connection.close()
                txn.respond(200)
            case "body":
                txn.respond(200, await txn.read_request_body(1 << 20))

    async def _child(self, txn: Transaction) -> None:
        async with txn.fetch(Request("GET", "/small", {"Host": "a"})) as answer:
            await answer.body.read()

    async def post_remap(self, txn: Transaction) -> None:
        await self.stage.point()
        if self.stage.origin == "intercept":
            txn.intercept(self.stage.serve_origin)

    async def send_request(self, txn: Transaction) -> None:
        await self.stage.point()

    async def read_response(self, txn: Transaction) -> None:
        await self.stage.point()
        if txn.response.status == 503 and txn.attempts < 3:
            txn.retry()

    async def send_response(self, txn: Transaction) -> None:
        await self.stage.point()


async def application(scope: Any, receive: Any, send: Any) -> None:
    """An ASGI application that does what `serve_origin` does, as far as it can."""
    assert scope["type"] == "http"
    while (await receive()).get("more_body"):
        pass
    await send({"type": "http.response.start", "status": 200, "headers": []})
    size = len(BODY) if scope["path"].endswith("large") else 5
    await send({"type": "http.response.body", "body": BODY[:size]})


@attrs.define(eq=False)
class Stage:
    """What a scenario plays on."""

    client: str
    origin: str
    party: str
    action: str
    proxy: Proxy | None = None
    port: int = 0
    connect_port: int = 0
    fails: bool = False
    streams: dict[str, list[trio.abc.Stream]] = attrs.Factory(lambda: {"client": [], "origin": []})
    scopes: dict[str, list[trio.CancelScope]] = attrs.Factory(lambda: {"client": [], "origin": [], "proxy": []})

    async def point(self) -> None:
        """Where a plugin may be told to fail."""
        await trio.lowlevel.checkpoint()
        if self.fails:
            self.fails = False
            raise ValueError("told to fail")

    def act(self) -> None:
        """What happens to the party."""
        match self.action:
            case "cancel":
                for scope in self.scopes[self.party]:
                    scope.cancel()
            case "kill":
                for stream in self.streams[self.party]:
                    kill(stream)
            case "close":
                for stream in self.streams[self.party]:
                    close(stream)
            case "raise":
                self.fails = True

    @contextmanager
    def as_party(self, name: str, stream: trio.abc.Stream | None = None) -> Iterator[None]:
        """For the length of a block this task, and this stream, are a party's."""
        with trio.CancelScope() as scope:
            self.scopes[name].append(scope)
            if stream is not None:
                self.streams[name].append(stream)
            try:
                yield
            finally:
                self.scopes[name].remove(scope)
                if stream is not None:
                    self.streams[name].remove(stream)

    async def serve_origin(self, stream: trio.abc.Stream) -> None:
        """Speaks HTTP/1.1, and does what the target says."""
        with self.as_party("origin", stream):
            wire = Wire(stream)
            try:
                while True:
                    first, headers = await wire.head()
                    if self.origin == "intercept":
                        await self.point()
                    target = first.split(" ")[1].rpartition("/")[2]
                    if target == "early":
                        await wire.send(b"HTTP/1.1 413 Content Too Large\r\nContent-Length: 3\r\n\r\nbig")
                    if target == "upgrade":
                        await wire.send(b"HTTP/1.1 101 Switching\r\nConnection: Upgrade\r\nUpgrade: echo\r\n\r\n")
                        while await wire.more():
                            await wire.send(wire.take(len(wire.buffer)))
                        return
                    await wire.body(headers)
                    if target == "busy":
                        await wire.send(b"HTTP/1.1 503 Busy\r\nContent-Length: 0\r\n\r\n")
                    elif target == "large":
                        await wire.send(b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n" % len(BODY) + BODY)
                    elif target != "early":
                        await wire.send(b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nhello")
            except BROKEN:
                pass
        await trio.aclose_forcefully(stream)

    async def echo(self, stream: trio.abc.Stream) -> None:
        """Where CONNECT goes."""
        with self.as_party("origin", stream), suppress(*BROKEN):
            while data := await stream.receive_some():
                await stream.send_all(data)
        await trio.aclose_forcefully(stream)

    @asynccontextmanager
    async def dial(self, nursery: trio.Nursery) -> Any:
        """A client's connection of the kind that the scenario names."""
        assert self.proxy is not None
        if self.client == "virtual":
            stream: trio.abc.Stream = self.proxy.connect(ConnectOptions(tag="steps", buffer_index=4))
        elif self.client == "h2":
            near, far = trio.testing.memory_stream_pair()
            nursery.start_soon(serve_http2, self.proxy, far)
            stream = near
        else:
            stream = await trio.open_tcp_stream("127.0.0.1", self.port)
            if self.client == "tls":
                stream = trio.SSLStream(stream, contexts()[1], server_hostname="localhost", https_compatible=True)
        try:
            with self.as_party("client", stream):
                yield stream
        finally:
            await trio.aclose_forcefully(stream)


def close(stream: trio.abc.Stream) -> None:
    """An orderly end, as far as one can be had without waiting."""
    if isinstance(stream, trio.SSLStream):
        stream = stream.transport_stream
    if isinstance(stream, VirtualConnection):
        stream.close()
    elif isinstance(stream, trio.SocketStream):
        stream.socket.close()
    else:
        stream.send_stream.close()  # type: ignore[attr-defined]
        stream.receive_stream.close()  # type: ignore[attr-defined]


def kill(stream: trio.abc.Stream) -> None:
    """What a crash does to a connection."""
    if isinstance(stream, trio.SSLStream):
        stream = stream.transport_stream
    if isinstance(stream, VirtualConnection):
        stream.abort("killed")
    elif isinstance(stream, trio.SocketStream):
        with suppress(OSError):
            stream.socket.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        stream.socket.close()
    else:
        close(stream)


Play = Callable[[Stage, trio.Nursery], Awaitable[None]]


async def _main(stage: Stage, play: Play, counter: Counter) -> None:
    log = MemoryLog()
    plugin = Counting(stage)
    async with trio.open_nursery() as nursery:
        tls = stage.origin == "tls"
        listeners: list[Any] = await trio.open_tcp_listeners(0, host="127.0.0.1")
        port = listeners[0].socket.getsockname()[1]
        if tls:
            listeners = [trio.SSLListener(listeners[0], contexts()[0], https_compatible=True)]
        echoes = await trio.open_tcp_listeners(0, host="127.0.0.1")
        nursery.start_soon(trio.serve_listeners, stage.serve_origin, listeners)
        nursery.start_soon(trio.serve_listeners, stage.echo, echoes)
        extra = [AsgiOrigin(application, loop=stage.origin[4:]).plugin()] if stage.origin.startswith("asgi") else []  # type: ignore[arg-type]
        rule = RemapRule("/", f"{'https' if tls else 'http'}://127.0.0.1:{port}/", plugins=extra, ca_file=contexts()[2] if tls else None)
        http = HttpConfig(
            drain_timeout=2, close_timeout=1, linger_timeout=1, inactivity_timeout=5, connect=("*:*",), max_concurrent_internal=50
        )
        config = ProxyConfig(remap=[rule], http=http, origin=OriginConfig(max_connections=20, wait_timeout=3))
        await trio.testing.wait_all_tasks_blocked()
        tasks = trio.lowlevel.current_statistics().tasks_living
        with trio.CancelScope() as body:
            stage.scopes["proxy"].append(body)
            async with open_proxy(config, plugins=[plugin], log=log) as proxy:
                stage.proxy = proxy
                doors: list[Any] = await trio.open_tcp_listeners(0, host="127.0.0.1")
                stage.port = doors[0].socket.getsockname()[1]
                if stage.client == "tls":
                    doors = [trio.SSLListener(doors[0], contexts()[0], https_compatible=True)]
                async with trio.open_nursery() as doors_nursery:
                    doors_nursery.start_soon(trio.serve_listeners, proxy.serve_stream, doors)
                    await trio.lowlevel.checkpoint()
                    counter.act = stage.act
                    stage.connect_port = echoes[0].socket.getsockname()[1]
                    with suppress(*BROKEN):
                        await play(stage, doors_nursery)
                    stage.fails = False
                    await _settle(proxy)
                    _check_rest(proxy)
                    # Also while it is being disturbed.
                    async with proxy.fetch(Request("GET", "/alive", {"Host": "a"}), raise_failures=False) as answer:
                        assert answer.status == 204 or (stage.action == "raise" and answer.status == 500)
                    doors_nursery.cancel_scope.cancel()
        counter.act = None
        assert stage.proxy is not None or body.cancelled_caught
        if stage.proxy is not None:
            _check_rest(stage.proxy)
        numbers = [record.transaction for record in log.records]
        assert len(set(numbers)) == len(numbers), "a record is doubled"
        assert sorted(numbers) == sorted(plugin.started), "records and transactions differ"
        assert sorted(plugin.closed) == sorted(plugin.started), "a closing hook was left out"
        with trio.move_on_after(5):
            while trio.lowlevel.current_statistics().tasks_living > tasks + len(stage.scopes["origin"]):  # noqa: ASYNC110
                await trio.sleep(0.05)
        left = trio.lowlevel.current_statistics().tasks_living - tasks - len(stage.scopes["origin"])
        assert left <= 0, f"{left} tasks are left"
        nursery.cancel_scope.cancel()


async def _settle(proxy: Proxy) -> None:
    with trio.move_on_after(30):
        while (held := proxy.statistics()).sessions or held.origin_taken:  # noqa: ASYNC110 - nobody tells of it
            await trio.sleep(0.05)


def _check_rest(proxy: Proxy) -> None:
    held = proxy.statistics()
    assert (held.sessions, held.transactions, held.origin_taken, held.origin_waiting) == (0, 0, 0, 0), held
    assert proxy._internal == 0
    assert proxy._virtual == 0
    assert not proxy.core.timer._timed, "a deadline of what has ended"


def run(scenario: str, play: Play, client: str, origin: str, party: str, action: str, at: int) -> int:
    """Play a scenario to its end, with this happening at this step (0: nothing happens); how many steps it took."""
    name = f"{scenario} ({client}, {origin}): {party} {action} at step {at}"
    counter = Counter(at)
    descriptors = len(os.listdir("/proc/self/fd"))

    def hung(*_: object) -> None:
        raise Hung(name)

    before = signal.signal(signal.SIGALRM, hung)
    signal.setitimer(signal.ITIMER_REAL, PATIENCE)
    try:
        clock = None if "asyncio" in origin else trio.testing.MockClock(autojump_threshold=0)
        with seeded_schedule(crc32(f"{scenario}{client}{origin}".encode())), warnings.catch_warnings():
            warnings.simplefilter("ignore", ResourceWarning)
            stage = Stage(client, origin, party, action)
            try:
                trio.run(_main, stage, play, counter, clock=clock, instruments=[counter])
            except BaseExceptionGroup as group:
                raise AssertionError(name) from group
            except AssertionError as exc:
                raise AssertionError(name) from exc
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)
    # The schedule is the same up to that step; what the system's sockets do may shift the last few.
    assert counter.fired or at == 0 or at > counter.steps, f"{name}: nothing happened in {counter.steps} steps"
    gc.collect()
    for _ in range(100):  # a thread that looked a name up, and was given up, may not have ended yet
        if len(os.listdir("/proc/self/fd")) <= descriptors:
            break
        time.sleep(0.01)
    else:
        raise AssertionError(f"{name}: descriptors are left")
    return counter.steps


async def h2_get(stage: Stage, nursery: trio.Nursery, *targets: str, body: bytes = b"") -> None:
    """One HTTP/2 connection with a stream for each target."""
    async with stage.dial(nursery) as stream:
        client = RawClient(stream)
        await client.greet(frame(WINDOW_UPDATE, 0, 0, number(1 << 20)), initial_window_size=1 << 20)
        for index, target in enumerate(targets):
            fields = [(":method", "POST" if body else "GET"), (":scheme", "http"), (":path", f"/{target}"), (":authority", "a")]
            await client.send(client.head(2 * index + 1, fields, end=not body))
            if body:
                await client.send(client.data(2 * index + 1, body[:16384]), client.data(2 * index + 1, body[16384:32768], end=True))
        for index in range(len(targets)):
            await client.answer(2 * index + 1)


async def h2_connect(stage: Stage, nursery: trio.Nursery) -> None:
    """A tunnel over one stream."""
    async with stage.dial(nursery) as stream:
        client = RawClient(stream)
        await client.greet()
        await client.send(client.head(1, [(":method", "CONNECT"), (":authority", f"127.0.0.1:{stage.connect_port}")], end=False))
        await _next_of_stream(client, HEADERS)
        for _ in range(3):
            await client.send(client.data(1, b"words"))
            await _next_of_stream(client, DATA)
        await client.send(client.data(1, b"", end=True))
        await client.answer(1)


async def _next_of_stream(client: RawClient, kind: int) -> None:
    while (got := await client.next_frame()) is not None:
        if got.stream == 1 and got.kind == kind and not got.flags & END_STREAM:
            return
        if got.stream == 1 and (got.kind == RST_STREAM or got.flags & END_STREAM):
            break
    raise EOFError
