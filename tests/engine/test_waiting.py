"""Whom the engine waits for, for how long, and what ends a wait."""

from __future__ import annotations

import math
from contextlib import suppress
from typing import Any

import attrs
import pytest
import trio
import trio.testing

from tests.engine._world import GET, OK, Wire, how, listening, open_world, replying, stopping_after
from tests.engine.test_hooks import make_plugin
from trio_tsconnect import (
    ClientInfo,
    ConnectOptions,
    ConnectRefused,
    HttpConfig,
    ProxyConfig,
    open_proxy,
)
from trio_tsconnect.engine._core import Activity
from trio_tsconnect.engine._timer import Timer
from trio_tsconnect.origin import TLS, TCPOrigin

Clock = trio.testing.MockClock


# ---------------------------------------------------------------------------------------------------------------------------- tunnels


TUNNEL = b"CONNECT far.test:1 HTTP/1.1\r\nHost: far.test:1\r\n\r\n"


class OneEnd(trio.abc.Stream):
    """A stream that cannot end its output alone, as one of TLS."""

    def __init__(self, stream: trio.abc.Stream) -> None:
        self.stream = stream

    async def send_all(self, data: Any) -> None:
        await self.stream.send_all(data)

    async def wait_send_all_might_not_block(self) -> None:
        await self.stream.wait_send_all_might_not_block()

    async def receive_some(self, max_bytes: int | None = None) -> bytes | bytearray:
        return await self.stream.receive_some(max_bytes)

    async def aclose(self) -> None:
        await self.stream.aclose()


async def test_end_of_the_origin_ends_a_client_that_knows_no_half_close(autojump_clock: Clock) -> None:
    async def origin(wire: Wire) -> None:
        await wire.send(b"bye")

    async with open_world(origin, http={"connect": ("*:*",)}) as world, trio.open_nursery() as nursery:
        near, far = trio.testing.memory_stream_pair()
        nursery.start_soon(world.proxy.serve_stream, OneEnd(far))
        wire = Wire(near)
        began = trio.current_time()
        await wire.send(TUNNEL)
        assert (await wire.rest()).endswith(b"\r\n\r\nbye")
        assert trio.current_time() - began < 5
        await near.aclose()
    assert how(world.records[0]) == ("proxy", "complete")


@pytest.mark.parametrize("leaves", [True, False])
async def test_tunnel_ends_with_a_client_that_leaves_and_not_with_one_that_has_said_all(leaves: bool, autojump_clock: Clock) -> None:
    """Nobody would read what the origin still says, if it says anything."""

    async def origin(wire: Wire) -> None:
        await wire.rest()
        await trio.sleep(50)
        await wire.send(b"at last")

    async with open_world(origin, http={"connect": ("*:*",)}) as world:
        client = world.proxy.connect()
        wire = Wire(client)
        await wire.send(TUNNEL + b"hello")
        await wire.until(b"\r\n\r\n")
        await trio.testing.wait_all_tasks_blocked()
        began = trio.current_time()
        if leaves:
            await client.aclose()
        else:
            await client.send_eof()
            assert await wire.rest() == b"at last"
        await world.log.wait(patience=100)
        assert trio.current_time() - began == pytest.approx(0 if leaves else 50)
        await client.aclose()
    assert world.records[0].request_bytes == 5


async def test_nobody_but_the_tunnel_reads_from_its_client(autojump_clock: Clock) -> None:
    """The engine watches clients that wait, by reading from them. A client in a tunnel does not wait."""

    async def origin(wire: Wire) -> None:
        got = await wire.rest()
        await trio.sleep(5)
        await wire.send(b"got " + got)

    async with open_world(origin, http={"connect": ("*:*",), "gone_check_interval": 0.5}) as world, trio.open_nursery() as nursery:
        near, far = trio.testing.memory_stream_pair()
        nursery.start_soon(world.proxy.serve_stream, far)
        wire = Wire(near)
        await wire.send(TUNNEL)
        assert (await wire.until(b"\r\n\r\n")).startswith(b"HTTP/1.1 200 ")
        await trio.sleep(5)
        for word in (b"one ", b"two"):
            await wire.send(word)
            await trio.sleep(1)
        await near.send_eof()
        assert await wire.rest() == b"got one two"
        await near.aclose()
    assert how(world.records[0]) == ("proxy", "complete")


# --------------------------------------------------------------------------------------------------------------------------- waiting


async def test_origin_that_takes_nothing_of_a_request_that_is_there_is_too_slow(autojump_clock: Clock) -> None:
    """The head and its body are one write: that one has a limit as well."""

    async def origin(_wire: Wire) -> None:
        await trio.sleep_forever()

    async with open_world(origin, http={"inactivity_timeout": 5}, origin={"response_timeout": 100}) as world:
        world.origin.buffer_index = 0
        began = trio.current_time()
        answer = await world.connect().ask(b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 1000\r\n\r\n" + bytes(1000))
        assert answer.status == 504
        assert trio.current_time() - began == pytest.approx(5)
    assert how(world.records[0]) == ("origin", "origin_inactivity")


async def test_client_that_does_not_take_an_interim_response_is_too_slow(autojump_clock: Clock) -> None:
    early = b"HTTP/1.1 103 Early\r\nLink: " + b"x" * 1000 + b"\r\n\r\n"
    async with open_world(replying(early + OK), http={"inactivity_timeout": 5}) as world:
        wire = world.connect(buffer_index=0)
        await wire.send(GET)
        await trio.sleep(6)
        assert world.proxy.statistics().transactions == 0
    assert how(world.records[0]) == ("client", "client_timeout")


async def test_response_that_has_begun_is_not_late_when_the_request_ends(autojump_clock: Clock) -> None:
    """`response_timeout` is for its head. From there on it may pause as long as any body."""

    async def origin(wire: Wire) -> None:
        _, headers = await wire.head()
        await wire.send(b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nhe")
        await wire.body(headers)
        await trio.sleep(5)
        await wire.send(b"llo")

    async with open_world(origin, http={"inactivity_timeout": 10}, origin={"response_timeout": 2}) as world:
        wire = world.connect()
        await wire.send(b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 5\r\n\r\n")
        await wire.until(b"he")
        await wire.send(b"hello")
        with trio.move_on_after(20):
            assert await wire.exactly(3) == b"llo"
    assert how(world.records[0]) == ("proxy", "complete")


async def test_what_is_valid_is_sent_before_what_is_not(autojump_clock: Clock) -> None:
    """How much a client gets does not depend on how the bytes were split."""
    async with open_world(stopping_after(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhello\r\nzz\r\n")) as world:
        answer = await world.connect().ask()
    assert (answer.status, answer.whole) == (200, False)
    assert how(world.records[0]) == ("origin", "bad_chunk")
    assert world.records[0].response_bytes == 5


@pytest.mark.parametrize(("interims", "status"), [(2, 200), (3, 502)])
async def test_origin_may_send_as_many_interim_responses_as_configured(interims: int, status: int) -> None:
    async with open_world(replying(b"HTTP/1.1 103 Early\r\n\r\n" * interims + OK), origin={"max_interim": 2}) as world:
        wire = world.connect()
        await wire.send(GET)
        answers = [await wire.answer() for _ in range(3)]
        assert [answer.status for answer in answers] == [103, 103, status]


@pytest.mark.parametrize(("interim", "kept"), [(100, True), (103, False)])
async def test_only_a_100_tells_a_client_to_send_its_body(interim: int, kept: bool) -> None:
    """After any other the client may send it or not, so what follows may be the next request."""

    async def origin(wire: Wire) -> None:
        await wire.head()
        await wire.send(b"HTTP/1.1 %d Interim\r\n\r\n" % interim + OK)

    async with open_world(origin) as world:
        wire = world.connect()
        await wire.send(b"POST / HTTP/1.1\r\nHost: a\r\nExpect: 100-continue\r\nContent-Length: 5\r\n\r\n")
        assert (await wire.answer()).status == interim
        answer = await wire.answer()
        assert (answer.status, "connection" not in answer.headers) == (200, kept)
        await wire.send(b"hello")


@pytest.mark.parametrize(
    ("end", "cause"), [(b"", "origin_closed"), (b"HTTP/1.1 200", "origin_bad_response"), (b"HTTP/1.1 200 OK\r\n", "origin_bad_response")]
)
async def test_origin_that_closes_within_a_head_has_begun_to_answer(end: bytes, cause: str) -> None:
    async def origin(wire: Wire) -> None:
        await wire.head()
        await wire.send(end)

    async with open_world(origin) as world:
        assert (await world.connect().ask()).status == 502
    assert how(world.records[0]) == ("origin", cause)


# ------------------------------------------------------------------------------------------------------------------- the end of a proxy


async def test_closed_proxy_takes_no_front_end_and_a_draining_one_tells_it(autojump_clock: Clock) -> None:
    told: list[str] = []
    async with open_proxy() as proxy, trio.open_nursery() as nursery:
        with proxy.front_end(drain=lambda: told.append("first"), end=list):
            assert told == []
            nursery.start_soon(proxy.drain, 5)
            await trio.testing.wait_all_tasks_blocked()
            assert told == ["first"]
            with proxy.front_end(drain=lambda: told.append("second"), end=list):
                assert told == ["first", "second"]
    with pytest.raises(ConnectRefused, match="closed"), proxy.front_end(drain=list, end=list):
        pass
    with pytest.raises(ConnectRefused, match="closed"):
        proxy.connect()


async def test_drain_waits_for_each_front_end_and_no_longer(autojump_clock: Clock) -> None:
    async with open_proxy() as proxy, trio.open_nursery() as nursery:

        async def serve(seconds: float) -> None:
            with proxy.front_end(drain=list, end=list):
                await trio.sleep(seconds)

        began = trio.current_time()
        for seconds in (1, 3, 2):
            nursery.start_soon(serve, seconds)
        await trio.testing.wait_all_tasks_blocked()
        assert await proxy.drain(10)
        assert trio.current_time() - began == pytest.approx(3)


async def test_calls_from_another_thread_are_refused_whatever_they_ask_for() -> None:
    async with open_proxy() as proxy:
        _, far = trio.testing.memory_stream_pair()
        with proxy.front_end(drain=list, end=list) as front_end:
            calls: list[tuple[str, Any]] = [
                ("connect", proxy.connect),
                ("connect", lambda: front_end.connect(ConnectOptions())),
                ("serve_stream", lambda: proxy.serve_stream(far).send(None)),
                ("drain", lambda: proxy.drain(0).send(None)),
                ("front_end", lambda: proxy.front_end(drain=list, end=list).__enter__()),
            ]
            for name, call in calls:
                with pytest.raises(RuntimeError, match=rf"{name}\(\) must be called in the trio run"):
                    await trio.to_thread.run_sync(call)
        assert proxy.statistics().sessions == 0
        assert not proxy.draining


@pytest.mark.parametrize(("open_", "refused"), [(1, False), (2, True)])
async def test_so_many_internal_requests_may_be_open_and_no_more(open_: int, refused: bool) -> None:
    async with open_proxy(ProxyConfig(http=HttpConfig(max_concurrent_internal=2))) as proxy:
        connections = [proxy.connect() for _ in range(open_)]
        if refused:
            with pytest.raises(ConnectRefused, match="concurrency"):
                proxy.connect()
            connections.append(proxy.connect(ConnectOptions(client=ClientInfo(address="192.0.2.1"))))
        else:
            connections.append(proxy.connect())
        for connection in connections:
            connection.close()


@pytest.mark.parametrize(
    ("header_timeout", "deadline", "status", "after"), [(3, None, 500, 3), (3, 2, 504, 2), (3, 3, 504, 3), (3, 4, 500, 3)]
)
async def test_plugin_that_begins_a_session_has_the_time_of_a_head_or_of_the_deadline(
    header_timeout: float, deadline: float | None, status: int, after: float, autojump_clock: Clock
) -> None:
    async def act(_hook: str, _session: Any) -> None:
        await trio.sleep_forever()

    async with open_world(plugins=[make_plugin("Slow", act, "session_start")], http={"header_timeout": header_timeout}) as world:
        began = trio.current_time()
        options = {} if deadline is None else {"deadline": began + deadline}
        assert (await world.connect(**options).ask()).status == status
        assert trio.current_time() - began == pytest.approx(after)
    assert how(world.records[0]) == (("plugin", "plugin") if status == 500 else ("proxy", "deadline"))


async def test_what_a_client_still_sends_after_the_last_response_is_read(autojump_clock: Clock) -> None:
    """RFC 9112 §9.6: a reset because of unread bytes could cost the client its response."""
    async with open_world(http={"remap_required": False, "linger_timeout": 5}) as world, trio.open_nursery() as nursery:
        near, far = trio.testing.memory_stream_pair()
        nursery.start_soon(world.proxy.serve_stream, far)
        wire = Wire(near)
        assert (await wire.ask(GET.replace(b"\r\n\r\n", b"\r\nConnection: close\r\n\r\n"))).status == 200
        for _ in range(3):
            await trio.testing.wait_all_tasks_blocked()
            await near.send_all(b"more")
        assert await wire.rest() == b""
        await near.aclose()


# --------------------------------------------------------------------------------------------------------------------------- the timer


@attrs.define(eq=False)
class Due:
    """Notes when it was due."""

    deadline: float = math.inf
    times: list[float] = attrs.Factory(list)

    def due(self) -> None:
        self.times.append(trio.current_time())


@pytest.mark.parametrize(("others", "exact"), [(253, True), (254, False), (1000, False)])
async def test_deadlines_pass_in_time_and_together_if_there_are_many(others: int, exact: bool, autojump_clock: Clock) -> None:
    """Of up to 256 each passes on its own; of more, each at most a hundred thousandth of a second late for each of them."""
    timer = Timer()
    start = trio.current_time()
    first, second, third = Due(), Due(), Due()
    timer.set(first, start + 5)  # before the timer runs
    async with trio.open_nursery() as nursery:
        nursery.start_soon(timer.run)
        for _ in range(others):
            timer.set(Due(), start + 100)
        await trio.testing.wait_all_tasks_blocked()
        timer.set(third, start + 1.001)
        timer.set(second, start + 1)
        await trio.sleep(10)
        assert first.times == [start + 5]
        assert second.times == [start + 1]
        late = third.times[0] - (start + 1.001)
        assert late == 0 if exact else 0 < late <= (others + 3) * 1e-5
        timer.set(first, start + 12)
        timer.remove(first)
        timer.set(second, start + 12)
        timer.set(second, math.inf)
        await trio.sleep(10)
        assert (len(first.times), len(second.times)) == (1, 1)
        nursery.cancel_scope.cancel()


async def test_handshake_that_is_given_up_leaves_no_connection_open() -> None:
    hello, ended = trio.Event(), trio.Event()

    async def listen(stream: trio.abc.Stream) -> None:
        assert await stream.receive_some()
        hello.set()
        with suppress(trio.BrokenResourceError):
            while await stream.receive_some():
                pass
        ended.set()

    async with listening(listen) as port:
        with trio.fail_after(5):
            async with trio.open_nursery() as nursery:
                nursery.start_soon(TCPOrigin("127.0.0.1", port, TLS("127.0.0.1")).open)
                await hello.wait()
                nursery.cancel_scope.cancel()
            await ended.wait()


async def test_nobody_looks_for_clients_that_are_gone_while_there_are_none(autojump_clock: Clock) -> None:
    activity = Activity()
    for _ in range(2):
        with trio.move_on_after(1) as scope:
            await activity.wait()
        assert scope.cancelled_caught
        activity.begin()
        activity.begin()
        with trio.fail_after(1):
            await activity.wait()
        activity.end()
        with trio.fail_after(1):
            await activity.wait()
        activity.end()
    with trio.fail_after(1):
        async with trio.open_nursery() as nursery:
            nursery.start_soon(activity.wait)
            await trio.testing.wait_all_tasks_blocked()
            activity.begin()


async def test_virtual_client_that_has_said_all_is_not_taken_for_one_that_is_gone(autojump_clock: Clock) -> None:
    """It would say so. Others have to be read from, and their end of input counts as configured."""

    async def act(_hook: str, txn: Any) -> None:
        await trio.sleep(10)
        txn.respond(204)

    async with (
        open_world(plugins=[make_plugin("Slow", act, "read_request")], http={"gone_check_interval": 0.5}) as world,
        trio.open_nursery() as nursery,
    ):
        near, far = trio.testing.memory_stream_pair()
        nursery.start_soon(world.proxy.serve_stream, far)
        client = world.proxy.connect()
        for stream in (near, client):
            await stream.send_all(GET)
            await stream.send_eof()
        assert (await Wire(client).answer()).status == 204
        assert await near.receive_some() == b""
        await near.aclose()
    assert [how(record) for record in world.records] == [("client", "client_gone"), ("plugin", "responded")]
