"""A proxy between a raw client and a raw origin: both see bytes, and both judge them by `_strict`.

The client is a TCP connection or a virtual one, whichever the test is run with; the origin is always a TCP server of its own. Via and
the X-Forwarded fields are off unless a test turns them on, so that what reaches the other side can be compared byte by byte.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable, Iterable
from contextlib import asynccontextmanager
from typing import Any, Literal

import attrs
import trio
import trio.testing

from tests.engine._world import TellingLog
from tests.rfc._strict import Message, Violation, parse_request, parse_response
from trio_tsconnect import HttpConfig, LogRecord, OriginConfig, Plugin, Proxy, ProxyConfig, RemapRule, open_proxy

Transport = Literal["tcp", "virtual"]
Serve = Callable[["Wire"], Awaitable[None]]

PATIENCE = 1000.0
"""Seconds of the mock clock after which a test has hung: longer than any limit of the proxy, or several of them."""


def on_mock_clock(main: Callable[..., Awaitable[Any]], *args: Any, clock: trio.abc.Clock | None = None, **options: Any) -> Any:
    """For `pytest.mark.trio(run=...)`: no wait takes time.

    The clock jumps when nothing has happened for a moment: long enough for a byte to cross the loopback interface.
    """
    return trio.run(main, *args, clock=clock or trio.testing.MockClock(autojump_threshold=0.005), **options)


DATE = b"Date: Sun, 06 Nov 1994 08:49:37 GMT\r\n"


def response(content: bytes = b"hello", *, fields: bytes = b"", status: bytes = b"200 OK") -> bytes:
    """A plain answer of an origin."""
    return b"HTTP/1.1 %b\r\n%b%bContent-Length: %d\r\n\r\n%b" % (status, DATE, fields, len(content), content)


OK = response()


def get(path: bytes = b"/", *, fields: bytes = b"") -> bytes:
    """A plain request."""
    return b"GET %b HTTP/1.1\r\nHost: site.test\r\n%b\r\n" % (path, fields)


def post(content: bytes, *, fields: bytes = b"") -> bytes:
    """A request with a counted body."""
    return b"POST / HTTP/1.1\r\nHost: site.test\r\n%bContent-Length: %d\r\n\r\n%b" % (fields, len(content), content)


def chunked(body: bytes, *, fields: bytes = b"") -> bytes:
    """A request whose body is these bytes of the chunked coding."""
    return b"POST / HTTP/1.1\r\nHost: site.test\r\n%bTransfer-Encoding: chunked\r\n\r\n%b" % (fields, body)


class Cut(Exception):
    """The connection ended within a message."""


class Wire:
    """A stream and what was read from it."""

    def __init__(self, stream: trio.abc.HalfCloseableStream) -> None:
        self.stream = stream
        self.buffer = b""
        self.ended = False
        self.broken = False

    async def send(self, data: bytes) -> None:
        await self.stream.send_all(data)

    async def send_eof(self) -> None:
        await self.stream.send_eof()

    async def more(self) -> bool:
        """Read once; False at the end, however it came."""
        try:
            data = b"" if self.ended else bytes(await self.stream.receive_some(65536))
        except trio.BrokenResourceError:
            data, self.broken = b"", True
        self.ended = self.ended or not data
        self.buffer += data
        return bool(data)

    def take(self, size: int) -> bytes:
        data, self.buffer = self.buffer[:size], self.buffer[size:]
        return data

    async def until(self, end: bytes) -> bytes:
        while (at := self.buffer.find(end)) < 0:
            if not await self.more():
                raise Cut(self.buffer)
        return self.take(at + len(end))

    async def rest(self) -> bytes:
        while await self.more():
            pass
        return self.take(len(self.buffer))

    async def request(self) -> Message:
        """The next request, judged strictly."""
        while (message := parse_request(self.buffer)) is None:
            if not await self.more():
                raise Cut(self.buffer)
        self.take(len(message.raw))
        return message

    async def response(self, method: bytes = b"GET", *, may_close: bool = False) -> Message:
        """The next response, judged strictly."""
        while (message := parse_response(self.buffer, method, ended=self.ended and not self.broken, may_close=may_close)) is None:
            if self.ended or not (await self.more() or may_close):
                raise Cut(self.buffer)
        self.take(len(message.raw))
        return message

    async def ask(self, data: bytes) -> Message:
        """Send a request and read the final response."""
        await self.send(data)
        return await self.response(data.partition(b" ")[0])

    async def is_closed(self) -> bool:
        """Wait for the peer to say or end something; whether it ended, with nothing said."""
        return not self.buffer and not await self.more()

    async def aclose(self) -> None:
        await trio.aclose_forcefully(self.stream)


@attrs.define(eq=False)
class Origin:
    """What came to the origin, and what it says."""

    serve: Serve
    port: int = 0
    received: list[Message] = attrs.Factory(list)
    """Whole requests, in the order in which they were complete."""
    violations: list[Violation] = attrs.Factory(list)
    """What no origin should ever see."""
    connections: int = 0

    async def handle(self, stream: trio.SocketStream) -> None:
        self.connections += 1
        try:
            await self.serve(Wire(stream))
        except Violation as violation:
            self.violations.append(violation)
        except (Cut, trio.BrokenResourceError):
            pass

    def raw(self) -> list[bytes]:
        return [message.raw for message in self.received]


@attrs.define(eq=False)
class Rig:
    """The proxy, its log, its origin, and a way to become its client."""

    transport: Transport
    proxy: Proxy
    log: TellingLog
    origin: Origin
    port: int
    _clients: list[Wire] = attrs.Factory(list)

    async def connect(self) -> Wire:
        if self.transport == "virtual":
            stream: trio.abc.HalfCloseableStream = self.proxy.connect()
        else:
            stream = await trio.open_tcp_stream("127.0.0.1", self.port)
        self._clients.append(Wire(stream))
        return self._clients[-1]

    @property
    def records(self) -> list[LogRecord]:
        return self.log.records

    async def record(self) -> LogRecord:
        """The one record, once it is written."""
        await self.records_of(1)
        (record,) = self.log.records
        return record

    async def records_of(self, count: int) -> list[LogRecord]:
        """So many records, once they are written."""
        await trio.testing.wait_all_tasks_blocked()
        return await self.log.wait(count, patience=PATIENCE)

    async def settled(self) -> None:
        """Once no session is left."""
        await trio.testing.wait_all_tasks_blocked()
        while self.proxy.statistics().sessions:  # noqa: ASYNC110 - the proxy tells nobody
            await trio.sleep(0.01)

    async def close_clients(self) -> None:
        for client in self._clients:
            await client.aclose()
        self._clients.clear()


def how(record: LogRecord) -> tuple[str, str]:
    """Whose doing, and why."""
    return record.ended.by, record.ended.why


def saying(origin: list[Message], *replies: bytes, close: bool = False) -> Serve:
    """Read requests whole and give each the next reply, the last one for ever; `close` the connection after each."""
    given = iter(replies)
    latest = b""

    async def serve(wire: Wire) -> None:
        nonlocal latest
        while True:
            origin.append(await wire.request())
            latest = next(given, latest)
            await wire.send(latest)
            if close:
                return

    return serve


@asynccontextmanager
async def open_rig(
    transport: Transport,
    *replies: bytes,
    serve: Serve | None = None,
    close: bool = False,
    http: dict[str, Any] | None = None,
    origin: dict[str, Any] | None = None,
    plugins: Iterable[Plugin] = (),
    rules: Callable[[int], tuple[RemapRule, ...]] | None = None,
) -> AsyncIterator[Rig]:
    """A proxy before an origin that gives `replies`, or does what `serve` says.

    At the end nothing may be left: no connection, no task, no request that the origin should not have seen.
    """
    received: list[Message] = []
    server = Origin(serve or saying(received, *(replies or (OK,)), close=close), received=received)
    log = TellingLog()
    async with trio.open_nursery() as nursery:
        server.port = await _listen(nursery, server.handle)
        remap = rules(server.port) if rules else (RemapRule("//site.test/", f"http://127.0.0.1:{server.port}/", preserve_host=True),)
        config = ProxyConfig(
            remap=remap, http=HttpConfig(**{"via": None, "forwarded": "off"} | (http or {})), origin=OriginConfig(**origin or {})
        )
        with trio.fail_after(PATIENCE):
            async with open_proxy(config, plugins=plugins, log=log) as proxy:
                rig = Rig(transport, proxy, log, server, await _listen(nursery, proxy.serve_stream))
                try:
                    yield rig
                finally:
                    await rig.close_clients()
        statistics = proxy.statistics()
        assert (statistics.sessions, statistics.origin_taken, statistics.origin_waiting) == (0, 0, 0)
        assert len({record.transaction for record in log.records}) == len(log.records)
        assert not any(record.ended.why == "internal" for record in log.records)
        assert not server.violations, server.violations
        nursery.cancel_scope.cancel()


async def _listen(nursery: trio.Nursery, handler: Callable[[trio.SocketStream], Awaitable[object]]) -> int:
    listeners = await trio.open_tcp_listeners(0, host="127.0.0.1")
    nursery.start_soon(trio.serve_listeners, handler, listeners)
    port = listeners[0].socket.getsockname()[1]
    assert isinstance(port, int)
    return port
