"""What once went wrong where two things met: an answer and a write, a watcher and a tunnel, the end of a proxy and a request on its way."""

from __future__ import annotations

import errno
import math
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from typing import Any

import pytest
import trio
import trio.testing

from tests.engine import _world
from tests.engine._world import GET, OK, Serve, Wire, World, how, listening, replying, silent, stopping_after
from trio_tsconnect import ConfigError, ConnectOptions, MemoryLog, Plugin, ProxyConfig, RemapRule, Request, Session, Transaction, open_proxy
from trio_tsconnect.engine import _exchange
from trio_tsconnect.engine._session import EngineSession
from trio_tsconnect.engine._timer import Timer
from trio_tsconnect.engine._watch import Watch
from trio_tsconnect.message import Failure, TransactionFailure
from trio_tsconnect.stream import open_virtual_connection_pair

Clock = trio.testing.MockClock
Connect = Callable[[], Awaitable[Wire]]

POST = b"POST /path HTTP/1.1\r\nHost: origin.test\r\nContent-Length: 11\r\n\r\n"
CHUNKED = b"POST /path HTTP/1.1\r\nHost: origin.test\r\nTransfer-Encoding: chunked\r\n\r\n"
OPEN_PROXY = {"remap_required": False}


@asynccontextmanager
async def open_world(serve: Serve | None = None, **options: Any) -> AsyncIterator[World]:
    """A world that does not hang where it used to: on a virtual clock the bound comes at once."""
    with trio.fail_after(300):
        async with _world.open_world(serve, **options) as world:
            yield world


@asynccontextmanager
async def open_door(transport: str, serve: Serve, **options: Any) -> AsyncIterator[tuple[World, Connect]]:
    """A world, and a way in that a client keeps when the world has closed: it can still tell what its connection came to."""
    worlds: list[World] = []

    async def handle(stream: trio.abc.Stream) -> None:
        await worlds[0].proxy.serve_stream(stream)

    options["http"] = {**OPEN_PROXY, **options.get("http", {})}
    async with listening(handle) as port, open_world(serve, **options) as world:
        worlds.append(world)

        async def connect() -> Wire:
            return world.connect(buffer_index=14) if transport == "virtual" else Wire(await trio.open_tcp_stream("127.0.0.1", port))

        yield world, connect


# --------------------------------------------------------------------------------------------------------- answers that come early


async def test_an_answer_while_the_request_is_being_written_does_not_put_that_connection_back_into_the_pool() -> None:
    sent = trio.Event()

    async def hasty(wire: Wire) -> None:
        await wire.head()
        await sent.wait()
        await trio.testing.wait_all_tasks_blocked()  # the window is full, and the last write of the body is in the middle of it
        await wire.send(OK)
        await trio.sleep_forever()

    async with open_world(hasty) as world:
        wire = world.connect(buffer_index=14)
        await wire.send(b"POST /path HTTP/1.1\r\nHost: origin.test\r\nContent-Length: 40000\r\n\r\n")
        await trio.testing.wait_all_tasks_blocked()
        await wire.send(bytes(40_000))
        sent.set()
        assert (await wire.answer()).body == b"hello"
        await trio.testing.wait_all_tasks_blocked()
        assert world.proxy.core.pool.statistics().idle == 0
        assert (await wire.ask()).body == b"hello"  # the client's own connection is in step
        assert [record.origin_reused for record in await world.log.wait(2)] == [False, False]


# --------------------------------------------------------------------------------------------------- tunnels that are long in coming


async def greet(wire: Wire) -> None:
    await wire.send(b"got " + await wire.exactly(9))
    await wire.rest()


class Watching(trio.abc.Instrument):
    """Tells when somebody begins to watch a client: reads its stream while its transaction waits."""

    def __init__(self) -> None:
        self.begun = trio.Event()

    def task_spawned(self, task: trio.lowlevel.Task) -> None:
        if task.name == "client reader":
            self.begun.set()


async def tunnel_late(world: World, wire: Wire, ask: bytes, status: bytes, gate: trio.Event) -> None:
    """Ask, speak before the answer is there, and once more when it is."""
    watching = Watching()
    trio.lowlevel.add_instrument(watching)
    await wire.send(ask)
    await watching.begun.wait()
    trio.lowlevel.remove_instrument(watching)
    await wire.send(b"early")
    (session,) = world.proxy.sessions
    while not session.http.buffered:  # until the watch has read it
        await trio.testing.wait_all_tasks_blocked()
    gate.set()
    assert (await wire.until(b"\r\n\r\n")).startswith(status)
    await wire.send(b"late")
    assert await wire.exactly(13) == b"got earlylate"
    await wire.stream.aclose()
    (record,) = await world.log.wait()
    assert how(record) == ("proxy", "complete")
    assert record.request_bytes == 9


async def test_an_upgrade_that_an_origin_grants_late_is_a_tunnel_with_all_bytes() -> None:
    gate = trio.Event()

    async def slow(wire: Wire) -> None:
        await wire.head()
        await gate.wait()
        await wire.send(b"HTTP/1.1 101 Switching Protocols\r\nConnection: upgrade\r\nUpgrade: x\r\n\r\n")
        await greet(wire)

    async with open_door("tcp", slow, http={"gone_check_interval": 0.05}) as (world, connect):
        ask = b"GET / HTTP/1.1\r\nHost: origin.test\r\nConnection: upgrade\r\nUpgrade: x\r\n\r\n"
        await tunnel_late(world, await connect(), ask, b"HTTP/1.1 101 ", gate)


async def test_a_connect_that_comes_about_late_is_a_tunnel_with_all_bytes() -> None:
    gate = trio.Event()

    class Ponders(Plugin):
        async def post_remap(self, txn: Transaction) -> None:
            await gate.wait()

    http = {"connect": ("*:*",), "gone_check_interval": 0.05}
    async with open_door("tcp", greet, plugins=[Ponders()], http=http) as (world, connect):
        ask = b"CONNECT origin.test:80 HTTP/1.1\r\nHost: origin.test:80\r\n\r\n"
        await tunnel_late(world, await connect(), ask, b"HTTP/1.1 200 ", gate)


async def test_one_who_waits_in_line_for_a_fresh_connection_is_not_given_a_used_one() -> None:
    gate = trio.Event()
    first: list[Wire] = []

    async def serve(wire: Wire) -> None:
        if first:
            await greet(wire)
            return
        first.append(wire)
        await wire.head()
        await gate.wait()
        await wire.send(OK)
        await wire.rest()

    async with open_world(serve, http={"connect": ("*:*",)}, origin={"max_connections": 1}) as world:
        asking, tunnel = world.connect(), world.connect()
        await asking.send(GET)
        await trio.testing.wait_all_tasks_blocked()
        await tunnel.send(b"CONNECT origin.test:80 HTTP/1.1\r\nHost: origin.test:80\r\n\r\n")
        await trio.testing.wait_all_tasks_blocked()
        assert world.taken() == (1, 1)
        gate.set()
        assert (await asking.answer()).body == b"hello"
        assert (await tunnel.until(b"\r\n\r\n")).startswith(b"HTTP/1.1 200 ")
        assert len(world.origin.streams) == 2
        assert world.origin.open_connections == 1  # the used one made room
        await tunnel.send(b"raw bytes")
        assert await tunnel.exactly(13) == b"got raw bytes"
        await tunnel.stream.aclose()
        await trio.testing.wait_all_tasks_blocked()
        assert [record.origin_reused for record in world.records] == [False, False]


# ------------------------------------------------------------------------------------------------------- responses that are cut short


async def cut(transport: str, end: str, serve: Serve, request: bytes) -> tuple[bytes, bool]:
    """What a client has got that reads only a little before the proxy has gone, and whether its connection was broken."""
    with trio.CancelScope() as scope:
        async with open_door(transport, serve, http={"drain_timeout": 20}) as (_, connect):
            wire = await connect()
            await wire.send(request)
            wire.buffer += await wire.stream.receive_some(20)  # all of what has come was written in one piece
            if end == "cancel":
                scope.cancel()
                await trio.sleep_forever()
    with trio.fail_after(60):
        received = await wire.rest()
    await wire.stream.aclose()
    return received, wire.broken


@pytest.mark.parametrize("transport", ["virtual", "tcp"])
@pytest.mark.parametrize("end", ["drain", "cancel"])
async def test_a_body_that_ends_by_closing_is_reset_when_the_proxy_ends_it(transport: str, end: str, autojump_clock: Clock) -> None:
    serve = stopping_after(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n")
    _, broken = await cut(transport, end, serve, b"GET http://origin.test/ HTTP/1.0\r\nHost: origin.test\r\n\r\n")
    assert broken


@pytest.mark.parametrize("transport", ["virtual", "tcp"])
@pytest.mark.parametrize("end", ["drain", "cancel"])
async def test_a_body_of_known_length_that_the_proxy_ends_arrives_as_far_as_it_came(
    transport: str, end: str, autojump_clock: Clock
) -> None:
    serve = stopping_after(b"HTTP/1.1 200 OK\r\nContent-Length: 100000\r\n\r\n" + bytes(20_000))
    received, broken = await cut(transport, end, serve, GET)
    assert received.partition(b"\r\n\r\n")[2] == bytes(20_000)
    assert not broken


@pytest.mark.parametrize("transport", ["virtual", "tcp"])
async def test_a_body_that_ends_by_closing_is_reset_when_its_origin_dies(transport: str) -> None:
    died = trio.Event()

    async def dying(wire: Wire) -> None:
        await wire.head()
        await wire.send(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n")
        await died.wait()

    async with open_door(transport, dying) as (world, connect):
        wire = await connect()
        await wire.send(b"GET http://origin.test/ HTTP/1.0\r\nHost: origin.test\r\n\r\n")
        await wire.until(b"hello")
        died.set()
        assert how((await world.log.wait())[0]) == ("origin", "origin_truncated")
        assert await wire.rest() == b""
        assert wire.broken
        await wire.stream.aclose()


async def test_an_origin_that_dies_takes_no_byte_back_although_the_client_has_asked_for_more() -> None:
    died = trio.Event()

    async def dying(wire: Wire) -> None:
        await wire.head()
        await wire.send(b"HTTP/1.1 200 OK\r\nContent-Length: 10000\r\n\r\n" + bytes(5000))
        await died.wait()

    async with open_door("tcp", dying, http={"gone_check_interval": math.inf}) as (world, connect):
        wire = await connect()
        await wire.send(GET)
        await wire.head()
        await wire.send(GET)  # what nobody reads makes a socket reset its connection when it is closed
        died.set()
        assert how((await world.log.wait())[0]) == ("origin", "origin_truncated")
        assert await wire.rest() == bytes(5000)
        assert not wire.broken
        await wire.stream.aclose()


# ---------------------------------------------------------------------------------------------------------- faults that are the engine's


async def test_a_fault_of_the_engine_is_a_500_that_tells_nobody_but_the_logs(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def fail(_txn: Transaction) -> None:
        raise RuntimeError("something secret")

    async with open_world() as world:
        with monkeypatch.context() as patch:
            patch.setattr(_exchange, "prepare_request", fail)
            wire = world.connect()
            answer = await wire.ask()
        assert answer.status == 500
        assert b"secret" not in answer.body
        assert how(await world.record()) == ("proxy", "internal")
        assert "something secret" in caplog.text
        assert world.taken() == (0, 0)
        assert (await wire.ask()).status == 200  # and the connection goes on


class OddStream(trio.abc.HalfCloseableStream):
    """A stream that fails in ways of its own."""

    def __init__(self, inner: trio.abc.HalfCloseableStream, *, reads: float = math.inf, closes: bool = True) -> None:
        self._inner = inner
        self._reads = reads
        self._closes = closes

    async def receive_some(self, max_bytes: int | None = None) -> bytes | bytearray:
        if not self._reads:
            raise OSError("odd read")
        self._reads -= 1
        return await self._inner.receive_some(max_bytes)

    async def send_all(self, data: bytes | bytearray | memoryview) -> None:
        await self._inner.send_all(data)

    async def wait_send_all_might_not_block(self) -> None:
        await self._inner.wait_send_all_might_not_block()

    async def send_eof(self) -> None:
        await self._inner.send_eof()

    async def aclose(self) -> None:
        try:
            await self._inner.aclose()
        finally:
            if not self._closes:
                raise OSError("odd close")


async def test_a_stream_that_cannot_be_watched_any_more_has_lost_its_client(
    autojump_clock: Clock, caplog: pytest.LogCaptureFixture
) -> None:
    async with open_world(silent, http=OPEN_PROXY) as world:
        near, far = open_virtual_connection_pair()
        await near.send_all(GET)
        with trio.fail_after(10):
            await world.proxy.serve_stream(OddStream(far, reads=1))
        assert how(await world.record()) == ("client", "client_gone")
        assert "odd read" in caplog.text
        assert await near.receive_some() == b""


async def test_a_stream_that_cannot_be_closed_properly_ends_like_any_other(caplog: pytest.LogCaptureFixture) -> None:
    closed: list[Session] = []

    class Told(Plugin):
        async def session_close(self, session: Session) -> None:
            closed.append(session)

    async with open_world(http=OPEN_PROXY, plugins=[Told()]) as world:
        near, far = open_virtual_connection_pair()
        await near.send_all(GET)
        await near.send_eof()
        await world.proxy.serve_stream(OddStream(far, closes=False))
        assert (await Wire(near).answer()).status == 200
        assert "odd close" in caplog.text
        assert len(closed) == 1
        assert not world.proxy.sessions


async def test_an_application_that_cannot_be_loaded_is_a_plain_error_before_anything_runs() -> None:
    config = ProxyConfig(remap=(RemapRule("/", "asgi:no_module_of_this_name:app"),))
    with pytest.raises(ConfigError, match="no_module_of_this_name"):
        async with open_proxy(config):
            raise AssertionError("it must not open")


def test_who_has_crossed_a_limit_is_blamed_and_not_who_is_waited_for_next() -> None:
    async def main() -> None:
        watch = Watch(Timer())
        with watch:
            watch.arm(Failure.ORIGIN_INACTIVITY, 5)
            watch.due()
            watch.arm(Failure.CLIENT_TIMEOUT, 5)  # before the next checkpoint, at which the cancel is seen
            await trio.lowlevel.checkpoint()
        with pytest.raises(TransactionFailure) as caught:
            watch.check()
        assert caught.value.failure is Failure.ORIGIN_INACTIVITY

    trio.run(main)


# ------------------------------------------------------------------------------------------------------------- plugins that read bodies


class Reads(Plugin):
    """Reads the request body, in one of many ways."""

    def __init__(self, read: Callable[[Transaction], Awaitable[object]]) -> None:
        self.read = read
        self.got: list[object] = []

    async def read_request(self, txn: Transaction) -> None:
        self.got.append(await self.read(txn))


async def impatient(txn: Transaction) -> None:
    with trio.move_on_after(1):
        await txn.read_request_body(100)


async def unimpressed(txn: Transaction) -> None:
    with pytest.raises(TransactionFailure):
        await txn.read_request_body(3)


@pytest.mark.parametrize("read", [impatient, unimpressed])
async def test_a_body_that_a_plugin_has_begun_to_read_and_given_up_goes_nowhere(
    read: Callable[[Transaction], Awaitable[object]], autojump_clock: Clock
) -> None:
    received: list[bytes] = []

    async def note(wire: Wire) -> None:
        received.append(await wire.rest())

    async with open_world(note, plugins=[Reads(read)]) as world:
        wire = world.connect()
        await wire.send(POST + b"first")
        await trio.sleep(2)
        await wire.send(b"second")
        assert (await wire.answer()).status == 500
        assert how(await world.record()) == ("plugin", "plugin")
        assert received == [b""]


@pytest.mark.parametrize("read", [impatient, unimpressed])
async def test_a_plugin_that_reads_on_where_it_gave_up_has_all_of_the_body_and_so_has_the_origin(
    read: Callable[[Transaction], Awaitable[object]], autojump_clock: Clock
) -> None:
    bodies: list[bytes] = []

    async def keep(wire: Wire) -> None:
        _, headers = await wire.head()
        bodies.append(await wire.body(headers))
        await wire.send(OK)

    async def twice(txn: Transaction) -> bytes:
        await read(txn)
        return await txn.read_request_body(11)

    plugin = Reads(twice)
    async with open_world(keep, plugins=[plugin]) as world:
        wire = world.connect()
        await wire.send(POST + b"first")
        await trio.sleep(2)
        await wire.send(b"second")
        assert (await wire.answer()).status == 200
        assert plugin.got == bodies == [b"firstsecond"]
        assert (await world.record()).request_bytes == 11


async def test_a_plugin_that_answers_may_give_up_on_the_body(autojump_clock: Clock) -> None:
    async def answer(txn: Transaction) -> None:
        await unimpressed(txn)
        txn.respond(403)

    async with open_world(plugins=[Reads(answer)]) as world:
        wire = world.connect()
        for _ in range(2):  # the connection stays in step
            await wire.send(POST + b"first")
            assert (await wire.answer()).status == 403
            await wire.send(b"second")


async def whole(txn: Transaction) -> bytes:
    return await txn.read_request_body(10_000)


async def test_a_plugin_gets_a_body_that_comes_slowly_and_steadily(autojump_clock: Clock) -> None:
    plugin = Reads(whole)
    async with open_world(plugins=[plugin], http={"inactivity_timeout": 20}) as world:
        wire = world.connect()
        await wire.send(CHUNKED)
        for _ in range(5):
            await trio.sleep(19)
            await wire.send(b"1\r\nx\r\n")
        await wire.send(b"0\r\n\r\n")
        assert (await wire.answer()).status == 200
        assert plugin.got == [b"xxxxx"]


async def test_a_plugin_does_not_wait_for_a_body_that_stops(autojump_clock: Clock) -> None:
    async with open_world(plugins=[Reads(whole)], http={"inactivity_timeout": 20}) as world:
        wire = world.connect()
        await wire.send(CHUNKED)
        await trio.sleep(19)
        await wire.send(b"5\r\nhel")
        start = trio.current_time()
        assert (await wire.answer()).status == 408
        assert trio.current_time() - start == pytest.approx(20)
        assert how(await world.record()) == ("client", "request_body_timeout")


@pytest.mark.parametrize(("most", "limit", "status"), [(4, 10_000, 413), (10_000, 4, 413), (None, 4, 413), (5, 5, 200)])
async def test_a_plugin_gets_no_more_of_a_body_than_the_configuration_allows(most: int | None, limit: int, status: int) -> None:
    async def read(txn: Transaction) -> bytes:
        return await txn.read_request_body(limit)

    async with open_world(plugins=[Reads(read)], http={"max_request_body": most}) as world:
        assert (await world.connect().ask(CHUNKED + b"3\r\nhel\r\n2\r\nlo\r\n0\r\n\r\n")).status == status


async def test_a_session_start_hook_that_never_returns_is_a_500(autojump_clock: Clock) -> None:
    class Stuck(Plugin):
        async def session_start(self, session: Session) -> None:
            await trio.sleep_forever()

    async with open_world(plugins=[Stuck()], http={"header_timeout": 10}) as world:
        wire, start = world.connect(), trio.current_time()
        assert (await wire.ask()).status == 500
        assert trio.current_time() - start == pytest.approx(10)
        record = await world.record()
        assert how(record) == ("plugin", "plugin")
        assert record.plugin["Stuck"]["failed"]["hook"] == "session_start"


# ------------------------------------------------------------------------------------------------ requests that come while the proxy ends


@asynccontextmanager
async def draining(world: World) -> AsyncIterator[None]:
    async with trio.open_nursery() as nursery:
        nursery.start_soon(world.proxy.drain, 30)
        await trio.testing.wait_all_tasks_blocked()
        yield


@pytest.mark.parametrize("opened", ["before", "during"])
async def test_a_front_ends_stream_is_served_although_its_request_comes_when_the_proxy_drains(opened: str, autojump_clock: Clock) -> None:
    async with open_world() as world:
        options = ConnectOptions(target=("origin.test", 80))
        with world.proxy.front_end(drain=list, end=list) as front_end:
            stream = front_end.connect(options) if opened == "before" else None
            await trio.testing.wait_all_tasks_blocked()
            async with draining(world):
                wire = Wire(stream or front_end.connect(options))
                await trio.testing.wait_all_tasks_blocked()
                assert (await wire.ask()).status == 200
                assert await wire.rest() == b""


@pytest.mark.parametrize("opened", ["before", "during"])
async def test_a_child_is_served_although_its_request_comes_when_the_proxy_drains(opened: str, autojump_clock: Clock) -> None:
    gate = trio.Event()

    class Asks(Plugin):
        async def read_request(self, txn: Transaction) -> None:
            if txn.parent is None:
                options = ConnectOptions(target=("origin.test", 80))
                stream = txn.connect(options) if opened == "before" else None
                await gate.wait()
                wire = Wire(stream or txn.connect(options))
                await trio.testing.wait_all_tasks_blocked()
                answer = await wire.ask()
                txn.respond(200, answer.body)

    async with open_world(replying(OK), plugins=[Asks()]) as world:
        wire = world.connect()
        await wire.send(GET)
        await trio.testing.wait_all_tasks_blocked()
        async with draining(world):
            gate.set()
            assert (await wire.answer()).body == b"hello"
        assert [record.depth for record in world.records] == [1, 0]


@pytest.mark.parametrize("end", [EngineSession.due, EngineSession.stop_idling])
async def test_a_request_that_comes_in_the_moment_in_which_its_connection_has_idled_enough_is_served(
    end: Callable[[Session], None],
) -> None:
    async with open_world() as world:
        wire = world.connect()
        await trio.testing.wait_all_tasks_blocked()
        (session,) = world.proxy.sessions
        wire.stream.send_nowait(GET)  # type: ignore[attr-defined]
        end(session)
        assert (await wire.answer()).status == 200
        assert how(await world.record()) == ("proxy", "complete")


async def test_half_an_empty_line_is_no_request_that_a_connection_is_kept_for(autojump_clock: Clock) -> None:
    async with open_world(http={"keep_alive_timeout": 60}) as world:
        wire, start = world.connect(), trio.current_time()
        await wire.send(b"\r")
        assert await wire.rest() == b""
        assert trio.current_time() - start == pytest.approx(60)


async def test_a_request_that_comes_in_the_moment_in_which_its_connection_ends_is_not_begun() -> None:
    async with open_world() as world:
        wire = world.connect()
        await trio.testing.wait_all_tasks_blocked()
        (session,) = world.proxy.sessions
        wire.stream.send_nowait(GET)  # type: ignore[attr-defined]
        session.cancel("proxy", "closed")
        assert await wire.rest() == b""
        assert world.records == []


# ------------------------------------------------------------------------------------------------------------ bodies that callers send


async def failing(error: Exception) -> AsyncIterator[bytes]:
    yield b"some"
    raise error


@pytest.mark.parametrize("error", [ValueError("mine"), trio.BrokenResourceError("mine"), ExceptionGroup("mine", [KeyError()])])
async def test_what_the_body_of_a_fetched_request_raises_leaves_as_it_is(error: Exception, autojump_clock: Clock) -> None:
    async with open_world(silent) as world:
        options = ConnectOptions(target=("origin.test", 80))
        with pytest.raises(type(error)) as caught:
            async with world.proxy.fetch(Request("POST", "http://origin.test/"), body=failing(error), options=options):
                raise AssertionError("there is no response")
        assert how(await world.record()) == ("client", "client_gone")
    assert caught.value is error  # out here, for a nursery on the way out swallows what it takes for its own cancellation


async def test_what_the_body_of_a_fetched_request_raises_ends_the_reading_of_its_response(autojump_clock: Clock) -> None:
    async def early(wire: Wire) -> None:
        await wire.head()
        await wire.send(OK.replace(b"5\r\n", b"9\r\n"))
        await wire.rest()

    error, begun = ValueError("mine"), trio.Event()

    async def late() -> AsyncIterator[bytes]:
        yield b"some"
        await begun.wait()
        raise error

    async def read(world: World) -> None:
        options = ConnectOptions(target=("origin.test", 80))
        async with world.proxy.fetch(Request("POST", "http://origin.test/"), body=late(), options=options) as response:
            assert response.status == 200
            begun.set()
            await response.body.read()

    async with open_world(early) as world:
        with pytest.raises(ValueError, match="mine") as caught:
            await read(world)
    assert caught.value is error


# --------------------------------------------------------------------------------------- clients that go in the tick they come in


async def test_a_request_whose_client_goes_as_it_comes_has_a_record_and_costs_no_idle_connection() -> None:
    async def answering(wire: Wire) -> None:
        while True:
            await wire.head()
            await wire.send(OK)

    async with open_world(answering, http=OPEN_PROXY) as world:
        wire = world.connect()
        assert (await wire.ask()).body == b"hello"
        await trio.testing.wait_all_tasks_blocked()
        assert world.proxy.core.pool.statistics().idle == 1
        late = world.proxy.connect()
        late.send_nowait(GET)
        late.close()
        records = await world.log.wait(2)
        await trio.testing.wait_all_tasks_blocked()
        assert how(records[1]) == ("client", "client_gone")
        assert records[1].url == "http://origin.test/path"
        assert world.proxy.core.pool.statistics().idle == 1


async def test_a_request_that_comes_in_the_tick_in_which_the_proxy_ends_has_a_record() -> None:
    log = MemoryLog()
    async with open_proxy(log=log) as proxy:
        connection = proxy.connect()
        connection.send_nowait(GET)
        (session,) = proxy.sessions
        session.cancel("proxy", "closed")
    assert [(record.method, record.url) for record in log.records] == [("GET", "http://origin.test/path")]


@pytest.mark.parametrize("field", [b"", b"Connection: close\r\n"])
async def test_session_that_a_hook_cancels_says_nothing_more(field: bytes) -> None:
    class Refuses(Plugin):
        async def read_request(self, txn: Transaction) -> None:
            txn.session.cancel("plugin", "not_you")
            txn.respond(200, b"secret")

    log = MemoryLog()
    async with open_proxy(plugins=[Refuses()], log=log) as proxy:
        connection = proxy.connect()
        connection.send_nowait(b"GET / HTTP/1.1\r\nHost: a\r\n" + field + b"\r\n")
        with trio.fail_after(5):
            assert await connection.receive_some() == b""
        connection.close()
    assert [how(record) for record in log.records] == [("plugin", "not_you")]


# -------------------------------------------------------------------------------------------------------- requests that name no host

BARE = b"GET /path HTTP/1.0\r\n%b\r\n"


@pytest.mark.parametrize("host", [b"", b"Host:\r\n"])
@pytest.mark.parametrize("transport", ["virtual", "tcp"])
async def test_http_1_0_without_a_host_means_the_proxy_itself(transport: str, host: bytes, autojump_clock: Clock) -> None:
    """RFC 9112 §3.3: so a rule for any host has it."""
    heads: list[tuple[str, dict[str, str]]] = []

    async def note(wire: Wire) -> None:
        heads.append(await wire.head())
        await wire.send(OK)

    rules = (RemapRule("//other.test/", "http://other.test/"), RemapRule("/", "http://origin.test/"))
    async with open_door(transport, note, remap=rules) as (world, connect):
        wire = await connect()
        async with wire.stream:
            assert (await wire.ask(BARE % host)).status == 200
        (head,) = heads
        assert (head[0], head[1]["host"]) == ("GET /path HTTP/1.1", "origin.test")
        (record,) = await world.log.wait()
        assert (record.url or "").endswith("/path")


@pytest.mark.parametrize("host", [b"", b"Host:\r\n"])
async def test_http_1_0_without_a_host_is_for_the_connections_target(host: bytes, autojump_clock: Clock) -> None:
    heads: list[tuple[str, dict[str, str]]] = []

    async def note(wire: Wire) -> None:
        heads.append(await wire.head())
        await wire.send(OK)

    async with open_world(note) as world:
        assert (await world.connect(target=("origin.test", 80)).ask(BARE % host)).status == 200
        assert (await world.record()).url == "http://origin.test/path"
        assert heads[0][1]["host"] == "origin.test"


@pytest.mark.parametrize("remap_required", [True, False])
@pytest.mark.parametrize("transport", ["virtual", "tcp"])
async def test_what_names_no_host_is_never_sent_back_to_the_proxy_itself(
    transport: str, remap_required: bool, autojump_clock: Clock
) -> None:
    rules = (RemapRule("//other.test/", "http://other.test/"),)
    async with open_door(transport, replying(OK), http={"remap_required": remap_required}, remap=rules) as (world, connect):
        wire = await connect() if transport == "tcp" else world.connect(target=None)
        async with wire.stream:
            assert (await wire.ask(BARE % b"")).status == 400
        assert how((await world.log.wait())[0]) == ("client", "no_host")


@pytest.mark.parametrize("target", [b"/path", b"http://origin.test/path"])
async def test_http_1_1_without_a_host_is_refused_whatever_its_target(target: bytes, autojump_clock: Clock) -> None:
    """RFC 9112 §3.2."""
    async with open_world(http=OPEN_PROXY) as world:
        wire = world.connect(target=None)
        answer = await wire.ask(b"GET %b HTTP/1.1\r\n\r\n" % target)
        assert (answer.status, answer.headers["connection"]) == (400, "close")
        assert how(await world.record()) == ("client", "no_host")
        assert world.origin.heads == []


# -------------------------------------------------------------------------------------------------- what cannot become a request any more


@pytest.mark.parametrize("begin", [b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc", b"\x00", b" GET", b"\xff\xfb", b"\x7f"])
async def test_what_begins_as_no_request_does_is_refused_at_once(begin: bytes, autojump_clock: Clock) -> None:
    """A TLS handshake with a port in clear text, say: its client waits for an answer, and would for as long as a head may take."""
    async with open_world() as world:
        wire = world.connect()
        await wire.send(begin)
        answer = await wire.answer()
        assert (answer.status, answer.headers["connection"]) == (400, "close")
        assert trio.current_time() == 0
        assert how(await world.record()) == ("client", "malformed_head")


@pytest.mark.parametrize("answered", ["no rule", "by a plugin", "by access"])
async def test_a_client_that_waits_for_100_is_told_that_the_connection_ends(answered: str, autojump_clock: Clock) -> None:
    """RFC 9110 §10.1.1: it may send the body or not, so what comes next could be either."""

    class Answers(Plugin):
        async def pre_remap(self, txn: Transaction) -> None:
            txn.respond(200, "from here")

    plugins = [Answers()] if answered == "by a plugin" else []
    http = {"max_request_body": 5} if answered == "by access" else {}
    async with open_world(plugins=plugins, http=http) as world:
        wire = world.connect(target=None if answered == "no rule" else ("origin.test", 80))
        answer = await wire.ask(POST.replace(b"\r\n\r\n", b"\r\nExpect: 100-continue\r\n\r\n"))
        assert answer.status == {"no rule": 404, "by a plugin": 200, "by access": 413}[answered]
        assert answer.headers["connection"] == "close"


# ------------------------------------------------------------------------------------------------------------ when the system has no more


@pytest.mark.parametrize("grouped", [False, True])
async def test_a_lack_of_descriptors_is_not_the_origins_fault(
    grouped: bool, monkeypatch: pytest.MonkeyPatch, autojump_clock: Clock
) -> None:
    async def fail(*args: object) -> trio.SocketStream:
        lack = OSError(errno.EMFILE, "Too many open files")
        cause = ExceptionGroup("all of them", [OSError(errno.ECONNREFUSED, "refused"), lack]) if grouped else lack
        raise OSError("all attempts to connect failed") from cause

    monkeypatch.setattr(trio, "open_tcp_stream", fail)
    log = MemoryLog()
    async with open_proxy(ProxyConfig(remap=(RemapRule("/", "http://127.0.0.1:1/"),)), log=log) as proxy:
        assert (await Wire(proxy.connect()).ask(GET)).status == 503
    assert [how(record) for record in log.records] == [("proxy", "no_descriptors")]


# ------------------------------------------------------------------------------------------------------------- what a rule says otherwise


@pytest.mark.parametrize(("of_proxy", "of_rule", "status"), [(10, 60, 200), (60, 10, 504), (None, 10, 504), (10, None, 504)])
async def test_the_time_that_a_rule_gives_counts_in_place_of_the_proxys(
    of_proxy: float | None, of_rule: float | None, status: int, autojump_clock: Clock
) -> None:
    async def slow(wire: Wire) -> None:
        await wire.head()
        await trio.sleep(30)
        await wire.send(OK)

    config = {} if of_rule is None else {"transaction_timeout": of_rule}
    rules = (RemapRule("/", "http://origin.test/", config={"inactivity_timeout": 100, **config}),)
    async with open_world(slow, remap=rules, http={"transaction_timeout": of_proxy}, origin={"response_timeout": 100}) as world:
        assert (await world.connect().ask()).status == status
        assert trio.current_time() == pytest.approx(30 if status == 200 else 10)


async def test_no_rule_gives_more_time_than_a_deadline(autojump_clock: Clock) -> None:
    rules = (RemapRule("/", "http://origin.test/", config={"transaction_timeout": 60}),)
    async with open_world(silent, remap=rules, origin={"response_timeout": 100}) as world:
        assert (await world.connect(deadline=trio.current_time() + 5).ask()).status == 504
        assert how(await world.record()) == ("proxy", "deadline")
        assert trio.current_time() == pytest.approx(5)


async def test_a_loop_is_known_by_the_name_that_the_rule_gives_us(autojump_clock: Clock) -> None:
    rules = (RemapRule("/", "http://origin.test/", config={"via": "edge"}),)
    async with open_world(remap=rules) as world:
        answer = await world.connect().ask(GET.replace(b"\r\n\r\n", b"\r\nVia: 1.1 edge\r\n\r\n"))
        assert answer.status == 400
        assert how(await world.record()) == ("proxy", "loop")


# -------------------------------------------------------------------------------------------------------------- what comes to an end early


async def test_a_deadline_that_has_passed_sends_nothing_not_even_on_a_connection_that_is_there(autojump_clock: Clock) -> None:
    async with open_world() as world:
        assert (await world.connect().ask()).status == 200
        await trio.testing.wait_all_tasks_blocked()
        await trio.sleep(10)
        assert (await world.connect(deadline=trio.current_time() - 5).ask(POST + b"hello world")).status == 504
        assert [record.attempts for record in await world.log.wait(2)] == [1, 0]
        assert how(world.records[1]) == ("proxy", "deadline")


async def test_a_deadline_that_passes_while_a_plugin_computes_sends_nothing(autojump_clock: Clock) -> None:
    class Busy(Plugin):
        async def post_remap(self, txn: Transaction) -> None:
            autojump_clock.jump(10)

    async with open_world(plugins=[Busy()]) as world:
        assert (await world.connect(deadline=trio.current_time() + 5).ask()).status == 504
        assert how(await world.record()) == ("proxy", "deadline")
        assert world.records[0].attempts == 0


@pytest.mark.parametrize(
    ("sent", "method", "url"), [(b"GET /path HTTP/1.1\r\nHo", "GET", "/path"), (b"GET /pa", "GET", "/pa"), (b"", None, None)]
)
async def test_a_head_that_takes_too_long_is_logged_with_what_has_come_of_it(
    sent: bytes, method: str | None, url: str | None, autojump_clock: Clock
) -> None:
    async with open_world(http={"header_timeout": 5, "keep_alive_timeout": 5}) as world:
        wire = world.connect()
        await wire.send(sent)
        await wire.rest()
        assert [(record.method, record.url, how(record)) for record in world.records] == (
            [(method, url, ("client", "header_timeout"))] if sent else []
        )


async def test_what_is_no_request_at_all_is_not_logged_as_a_method(autojump_clock: Clock) -> None:
    async with open_world() as world:
        wire = world.connect()
        await wire.send(b"\x16\x03\x01\x02\x00 x y\r\n\r\n")
        await wire.rest()
        record = await world.record()
        assert (record.method, record.url, how(record)[0]) == (None, None, "client")


@pytest.mark.parametrize("empty", [b"\r\n", b"\r", b"\r\n\r\n\r"])
@pytest.mark.parametrize("used", [False, True])
async def test_empty_lines_do_not_hold_a_drain(empty: bytes, used: bool, autojump_clock: Clock) -> None:
    async with open_world() as world:
        wire = world.connect()
        if used:
            assert (await wire.ask()).status == 200
        await trio.testing.wait_all_tasks_blocked()
        await wire.send(empty)
        assert await world.proxy.drain(60)
        assert trio.current_time() == 0


async def test_front_end_that_fails_when_it_is_told_of_the_end_is_no_matter_to_others(
    caplog: pytest.LogCaptureFixture, autojump_clock: Clock
) -> None:
    told: list[str] = []

    def fail() -> None:
        raise RuntimeError("odd front end")

    async with open_world() as world:
        with (
            world.proxy.front_end(drain=fail, end=fail),
            world.proxy.front_end(drain=lambda: told.append("drain"), end=lambda: told.append("end")),
        ):
            assert not await world.proxy.drain(1)
    assert told == ["drain"]
    assert "odd front end" in caplog.text
