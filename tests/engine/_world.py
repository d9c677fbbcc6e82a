"""A proxy and an origin in memory, in raw bytes: no HTTP library of ours stands between a test and what it sees."""

from __future__ import annotations

import functools
import itertools
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable
from contextlib import asynccontextmanager
from typing import Any

import attrs
import trio
import trio.testing

from trio_tsconnect import HttpConfig, LogRecord, MemoryLog, OriginConfig, Plugin, Proxy, ProxyConfig, VirtualConnection, open_proxy
from trio_tsconnect.hooks import ConnectOptions
from trio_tsconnect.stream import open_virtual_connection_pair

Serve = Callable[["Wire"], Awaitable[None]]

GET = b"GET /path HTTP/1.1\r\nHost: origin.test\r\n\r\n"
OK = b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nhello"


@attrs.frozen
class Answer:
    """One response as the client saw it."""

    status: int
    headers: dict[str, str]
    body: bytes
    whole: bool = True
    """Whether its body came to its end."""


class Wire:
    """A stream with a buffer: the least that reading HTTP/1.1 needs."""

    def __init__(self, stream: trio.abc.Stream) -> None:
        self.stream = stream
        self.buffer = bytearray()
        self.ended = False
        self.broken = False

    async def send(self, data: bytes) -> None:
        await self.stream.send_all(data)

    async def more(self) -> bool:
        try:
            data = b"" if self.ended else await self.stream.receive_some()
        except trio.BrokenResourceError:
            data, self.broken = b"", True
        self.ended = self.ended or not data
        self.buffer += data
        return bool(data)

    async def until(self, end: bytes) -> bytes:
        while (at := self.buffer.find(end)) < 0:
            if not await self.more():
                raise EOFError(bytes(self.buffer))
        return self.take(at + len(end))

    async def exactly(self, size: int) -> bytes:
        while len(self.buffer) < size:
            if not await self.more():
                raise EOFError(bytes(self.buffer))
        return self.take(size)

    def take(self, size: int) -> bytes:
        data = bytes(self.buffer[:size])
        del self.buffer[:size]
        return data

    async def rest(self) -> bytes:
        while await self.more():
            pass
        return self.take(len(self.buffer))

    async def head(self) -> tuple[str, dict[str, str]]:
        """A start line and its fields, names in lower case."""
        first, *lines = (await self.until(b"\r\n\r\n")).decode("latin-1").removesuffix("\r\n\r\n").split("\r\n")
        fields = [line.partition(": ") for line in lines]
        return first, {name.lower(): value for name, _, value in fields}

    async def body(self, headers: dict[str, str], *, to_the_end: bool = False) -> bytes:
        if headers.get("transfer-encoding") == "chunked":
            content = bytearray()
            while size := int(await self.until(b"\r\n"), 16):
                content += await self.exactly(size)
                assert await self.exactly(2) == b"\r\n"
            while await self.until(b"\r\n") != b"\r\n":
                pass
            return bytes(content)
        if "content-length" in headers:
            return await self.exactly(int(headers["content-length"]))
        return await self.rest() if to_the_end else b""

    async def answer(self, method: str = "GET") -> Answer:
        """The next response; `whole` says whether its body came to its end."""
        first, headers = await self.head()
        status = int(first.split(" ")[1])
        if method == "HEAD" or status < 200 or status in (204, 304):
            return Answer(status, headers, b"")
        try:
            return Answer(status, headers, await self.body(headers, to_the_end=True))
        except EOFError as exc:
            return Answer(status, headers, exc.args[0], whole=False)

    async def ask(self, request: bytes = GET) -> Answer:
        await self.send(request)
        return await self.answer(request.split(b" ")[0].decode())


@attrs.define(eq=False)
class MemoryOrigin:
    """Whatever address is asked for, `serve` answers."""

    serve: Serve
    nursery: trio.Nursery
    streams: list[VirtualConnection] = attrs.Factory(list)
    heads: list[tuple[str, dict[str, str]]] = attrs.Factory(list)
    buffer_index: int = 8
    delay: float = 0.0

    async def open(self) -> trio.abc.Stream:
        await trio.sleep(self.delay)
        near, far = open_virtual_connection_pair(buffer_index=self.buffer_index)
        self.streams.append(near)
        self.nursery.start_soon(self._run, far)
        return near

    async def _run(self, far: VirtualConnection) -> None:
        try:
            await self.serve(Wire(far))
        except (trio.BrokenResourceError, trio.ClosedResourceError, EOFError):
            pass
        finally:
            await trio.aclose_forcefully(far)

    @property
    def open_connections(self) -> int:
        return sum(not stream._closed for stream in self.streams)


@attrs.frozen
class AtOrigin:
    """One origin address, in memory."""

    address: str
    memory: MemoryOrigin = attrs.field(eq=False)
    persistent: bool = True

    @property
    def name(self) -> str:
        return self.address

    async def open(self) -> trio.abc.Stream:
        return await self.memory.open()


class TellingLog(MemoryLog):
    """Says when it has so many records."""

    def __init__(self) -> None:
        super().__init__()
        self._news = trio.Event()

    def write(self, record: LogRecord) -> None:
        super().write(record)
        self._news.set()
        self._news = trio.Event()

    async def wait(self, count: int = 1, *, patience: float = 5.0) -> list[LogRecord]:
        with trio.fail_after(patience):
            while len(self.records) < count:
                await self._news.wait()
        return self.records


@attrs.define(eq=False)
class World:
    proxy: Proxy
    log: TellingLog
    origin: MemoryOrigin

    def connect(self, **options: Any) -> Wire:
        options.setdefault("target", ("origin.test", 80))
        return Wire(self.proxy.connect(ConnectOptions(**options)))

    @property
    def records(self) -> list[LogRecord]:
        return self.log.records

    async def record(self) -> LogRecord:
        """The only record there is, once everybody has come to rest."""
        await trio.testing.wait_all_tasks_blocked()
        (record,) = self.log.records
        return record

    def taken(self) -> tuple[int, int]:
        statistics = self.proxy.core.pool.statistics()
        return statistics.taken, statistics.waiting


def how(record: LogRecord) -> tuple[str, str]:
    return record.ended.by, record.ended.why


def use_memory(proxy: Proxy, memory: MemoryOrigin) -> None:
    """Have the proxy's pool, as it is, open its connections in memory."""
    acquire = proxy.core.pool.acquire

    async def acquire_in_memory(origin: Any, config: OriginConfig, **more: Any) -> Any:
        return await acquire(AtOrigin(origin.name, memory), config, **more)

    proxy.core.pool.acquire = acquire_in_memory  # type: ignore[method-assign]


@asynccontextmanager
async def open_world(
    serve: Serve | None = None,
    *,
    plugins: Iterable[Plugin] = (),
    http: dict[str, Any] | None = None,
    origin: dict[str, Any] | None = None,
    remap: tuple[Any, ...] = (),
) -> AsyncIterator[World]:
    """A proxy whose origins are all `serve`; when it has closed, nothing may be left of what it opened."""
    config = ProxyConfig(http=HttpConfig(**(http or {})), origin=OriginConfig(**(origin or {})), remap=remap)
    async with trio.open_nursery() as nursery:
        memory = MemoryOrigin(serve or replying(OK), nursery)
        log = TellingLog()
        async with open_proxy(config, plugins=plugins, log=log) as proxy:
            use_memory(proxy, memory)
            world = World(proxy, log, memory)
            yield world
        assert world.taken() == (0, 0)
        assert memory.open_connections == 0
        assert not proxy.core.timer._timed, "there are deadlines of what has ended"
        assert len({record.transaction for record in log.records}) == len(log.records)
        nursery.cancel_scope.cancel()


def replying(*replies: bytes) -> Serve:
    """Read a request whole, and give the next of the replies; the last one for ever."""
    numbers = itertools.count()

    async def serve(wire: Wire) -> None:
        while True:
            _, headers = await wire.head()
            await wire.body(headers)
            await wire.send(replies[min(next(numbers), len(replies) - 1)])

    return serve


def stopping_after(words: bytes) -> Serve:
    """Read a head, say so much, and nothing more, though the connection stays."""

    async def serve(wire: Wire) -> None:
        await wire.head()
        await wire.send(words)
        await wire.rest()

    return serve


async def silent(wire: Wire) -> None:
    """Read for ever, and say nothing."""
    await wire.rest()


async def echo(wire: Wire) -> None:
    """Send the request body back as it comes."""
    while True:
        _, headers = await wire.head()
        left = int(headers["content-length"])
        await wire.send(b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n" % left)
        while left:
            if not wire.buffer and not await wire.more():
                raise EOFError
            piece = wire.take(min(len(wire.buffer), left))
            left -= len(piece)
            await wire.send(piece)


@asynccontextmanager
async def listening(handler: Callable[[trio.abc.Stream], Awaitable[object]]) -> AsyncIterator[int]:
    """Serve a loopback port for the length of a block."""
    async with trio.open_nursery() as nursery:
        serve = functools.partial(trio.serve_tcp, handler, 0, host="127.0.0.1")
        listeners = await nursery.start(serve)
        yield listeners[0].socket.getsockname()[1]
        nursery.cancel_scope.cancel()
