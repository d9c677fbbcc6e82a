"""Every limit of time: what crossing it does, and when exactly. All on a virtual clock."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from contextlib import suppress

import attrs
import pytest
import trio
import trio.testing

from tests.engine._world import GET, OK, Wire, echo, how, open_world, replying, silent, stopping_after
from trio_tsconnect import Plugin, RemapRule, Transaction, VirtualConnection

Clock = trio.testing.MockClock

POST = b"POST /path HTTP/1.1\r\nHost: origin.test\r\nContent-Length: 10\r\n\r\n"
CHUNKED = b"POST /path HTTP/1.1\r\nHost: origin.test\r\nTransfer-Encoding: chunked\r\n\r\n"
HALF_CHUNKED = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n"


class Elapsed:
    def __init__(self) -> None:
        self.start = trio.current_time()

    def __eq__(self, seconds: object) -> bool:
        return bool(trio.current_time() - self.start == pytest.approx(seconds, abs=1e-6))


async def assert_504_after(seconds: float, wire: Wire) -> None:
    """Ask, on a connection that has just been opened."""
    elapsed = Elapsed()
    assert (await wire.ask()).status == 504
    assert elapsed == seconds


async def test_a_head_that_does_not_end_gets_408_and_the_connection_is_closed(autojump_clock: Clock) -> None:
    async with open_world(http={"header_timeout": 10}) as world:
        wire, elapsed = world.connect(), Elapsed()
        await wire.send(b"GET /slow HTTP/1.1\r\nHost: ")
        answer = await wire.answer()
        assert elapsed == 10
        assert answer.status == 408
        assert answer.headers["connection"] == "close"
        assert await wire.rest() == b""
        assert how(await world.record()) == ("client", "header_timeout")


async def test_a_head_that_trickles_in_is_not_given_more_time(autojump_clock: Clock) -> None:
    async with open_world(http={"header_timeout": 10}) as world:
        wire, elapsed = world.connect(), Elapsed()
        async with trio.open_nursery() as nursery:

            async def trickle() -> None:
                for byte in GET:
                    await wire.send(bytes([byte]))
                    await trio.sleep(1)

            nursery.start_soon(trickle)
            assert (await wire.answer()).status == 408
            assert elapsed == 10
            nursery.cancel_scope.cancel()


@pytest.mark.parametrize("before", [b"", b"\r\n", GET])
async def test_an_idle_connection_is_closed_silently(before: bytes, autojump_clock: Clock) -> None:
    async with open_world(http={"keep_alive_timeout": 60}) as world:
        wire = world.connect()
        await wire.send(before)
        if before == GET:
            await wire.answer()
        elapsed = Elapsed()
        assert await wire.rest() == b""
        assert elapsed == 60
        assert len(world.records) == (before == GET)


@pytest.mark.parametrize("request_begin", [POST + b"half", CHUNKED + b"5\r\nhal"])
async def test_a_request_body_that_stops_gets_408(request_begin: bytes, autojump_clock: Clock) -> None:
    async with open_world(silent, http={"inactivity_timeout": 20}) as world:
        wire, elapsed = world.connect(), Elapsed()
        answer = await wire.ask(request_begin)
        assert elapsed == 20
        assert answer.status == 408
        assert await wire.rest() == b""
        assert how(await world.record()) == ("client", "request_body_timeout")
        assert world.origin.open_connections == 0


async def test_a_request_body_that_trickles_in_is_waited_for(autojump_clock: Clock) -> None:
    async with open_world(http={"inactivity_timeout": 20}) as world:
        wire = world.connect()
        await wire.send(POST)
        for byte in b"0123456789":
            await trio.sleep(19)
            await wire.send(bytes([byte]))
        assert (await wire.answer()).status == 200
        assert (await world.record()).request_bytes == 10


async def test_a_client_that_does_not_read_is_cut_off(autojump_clock: Clock) -> None:
    large = b"HTTP/1.1 200 OK\r\nContent-Length: 1000000\r\n\r\n" + bytes(1_000_000)
    async with open_world(replying(large), http={"inactivity_timeout": 20}) as world:
        wire = world.connect()
        await wire.send(GET)
        await trio.sleep(19)
        assert world.records == []
        await trio.sleep(2)
        assert how(await world.record()) == ("client", "client_timeout")
        assert (await world.record()).response_bytes < 1_000_000
        assert world.origin.open_connections == 0
        assert len(await wire.rest()) < 1_000_000


def unread(wire: Wire) -> int:
    assert isinstance(wire.stream, VirtualConnection)
    return wire.stream.statistics().receiving.unread


async def test_a_client_that_reads_slowly_is_not(autojump_clock: Clock) -> None:
    large = b"HTTP/1.1 200 OK\r\nContent-Length: 300000\r\n\r\n" + bytes(300_000)
    async with open_world(replying(large), http={"inactivity_timeout": 20}) as world:
        wire = world.connect(buffer_index=10)  # a write of the engine fits into it
        await wire.send(GET)
        size = 0
        for _ in range(6):
            await trio.sleep(19)
            while unread(wire):
                size += len(await wire.stream.receive_some())
        assert size > 300_000
        assert how(await world.record()) == ("proxy", "complete")


async def test_an_origin_that_takes_no_more_of_a_request_is_a_504(autojump_clock: Clock) -> None:
    async def deaf(wire: Wire) -> None:
        await trio.sleep_forever()

    async with open_world(deaf, http={"inactivity_timeout": 20}) as world:
        wire, elapsed = world.connect(), Elapsed()
        async with trio.open_nursery() as nursery:

            async def upload() -> None:
                with suppress(trio.BrokenResourceError, trio.ClosedResourceError):
                    while True:
                        await wire.send(b"1000\r\n" + bytes(0x1000) + b"\r\n")

            await wire.send(CHUNKED)
            nursery.start_soon(upload)
            answer = await wire.answer()
            assert answer.status == 504
            assert elapsed == 20
            assert answer.headers["connection"] == "close"
            assert await wire.rest() == b""
            await wire.stream.aclose()
        assert how(await world.record()) == ("origin", "origin_inactivity")


async def test_no_first_byte_of_a_response_is_a_504_and_the_client_may_go_on(autojump_clock: Clock) -> None:
    answers = iter([silent, replying(OK)])

    async def serve(wire: Wire) -> None:
        await next(answers)(wire)

    async with open_world(serve, origin={"response_timeout": 50}) as world:
        wire = world.connect()
        await assert_504_after(50, wire)
        assert how(await world.record()) == ("origin", "origin_response_timeout")
        assert world.origin.open_connections == 0
        assert (await wire.ask()).status == 200


@pytest.mark.parametrize("head", [POST, CHUNKED])
async def test_the_response_is_due_from_the_end_of_the_request_on(head: bytes, autojump_clock: Clock) -> None:
    async with open_world(silent, origin={"response_timeout": 50}) as world:
        wire = world.connect()
        await wire.send(head)
        for _ in range(5):
            await trio.sleep(30)
            await wire.send(b"1\r\nx\r\n" if head is CHUNKED else b"xy")
        if head is CHUNKED:
            await wire.send(b"0\r\n\r\n")
        elapsed = Elapsed()
        answer = await wire.answer()
        assert answer.status == 504
        assert elapsed == 50


async def test_interim_responses_do_not_put_the_limit_off(autojump_clock: Clock) -> None:
    async def hopeful(wire: Wire) -> None:
        await wire.head()
        while True:
            await wire.send(b"HTTP/1.1 102 Processing\r\n\r\n")
            await trio.sleep(10)

    async with open_world(hopeful, origin={"response_timeout": 45}) as world:
        wire, elapsed = world.connect(), Elapsed()
        await wire.send(GET)
        while (answer := await wire.answer()).status == 102:
            pass
        assert answer.status == 504
        assert elapsed == 45


async def test_an_interim_response_while_the_request_body_ends_does_not_lift_the_limit(autojump_clock: Clock) -> None:
    class Slow(Plugin):
        async def read_response(self, txn: Transaction) -> None:
            await trio.sleep(5)  # the rest of the request body is sent meanwhile

    hopeful = stopping_after(b"HTTP/1.1 100 Continue\r\n\r\n")
    async with open_world(hopeful, plugins=[Slow()], origin={"response_timeout": 50}) as world:
        wire = world.connect()
        await wire.send(POST)
        await trio.testing.wait_all_tasks_blocked()
        await wire.send(b"0123456789")
        with trio.fail_after(200):
            while (answer := await wire.answer()).status == 100:
                pass
        assert answer.status == 504


async def test_a_response_that_stops_is_cut_so_that_the_client_can_tell(autojump_clock: Clock) -> None:
    stalling = stopping_after(b"HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\nhello")
    async with open_world(stalling, http={"inactivity_timeout": 20}) as world:
        wire, elapsed = world.connect(), Elapsed()
        answer = await wire.ask()
        assert elapsed == 20
        assert not answer.whole
        assert answer.body == b"hello"
        assert how(await world.record()) == ("origin", "origin_inactivity")


async def test_a_cut_response_that_ends_by_closing_is_reset_for_its_end_would_make_it_whole(autojump_clock: Clock) -> None:
    async with open_world(stopping_after(HALF_CHUNKED), http={"inactivity_timeout": 20}) as world:
        wire = world.connect()
        await wire.send(b"GET / HTTP/1.0\r\nHost: origin.test\r\n\r\n")
        await wire.head()
        await wire.rest()
        assert wire.broken
        assert how(await world.record()) == ("origin", "origin_inactivity")


async def test_a_cut_chunked_response_has_no_last_chunk(autojump_clock: Clock) -> None:
    async with open_world(stopping_after(HALF_CHUNKED), http={"inactivity_timeout": 20}) as world:
        wire = world.connect()
        await wire.send(GET)
        await wire.head()
        assert await wire.rest() == b"5\r\nhello\r\n"


async def test_an_origin_that_cannot_be_connected_to_in_time_is_a_504(autojump_clock: Clock) -> None:
    async with open_world(origin={"connect_timeout": 10}) as world:
        world.origin.delay = 1000
        await assert_504_after(10, world.connect())
        assert how(await world.record()) == ("origin", "origin_connect_timeout")


async def test_a_wait_for_a_connection_that_is_too_long_is_a_503(autojump_clock: Clock) -> None:
    async with open_world(silent, origin={"max_connections": 1, "wait_timeout": 10}) as world:
        first, second = world.connect(), world.connect()
        await first.send(GET)
        await trio.testing.wait_all_tasks_blocked()
        elapsed = Elapsed()
        answer = await second.ask()
        assert answer.status == 503
        assert elapsed == 10
        assert how(await world.record()) == ("proxy", "origin_busy")
        assert world.taken() == (1, 0)
        await first.stream.aclose()


@pytest.mark.parametrize("serve", [silent, None])
async def test_a_whole_transaction_has_its_limit(serve: Callable[[Wire], Awaitable[None]] | None, autojump_clock: Clock) -> None:
    async def endless(wire: Wire) -> None:
        await wire.head()
        await wire.send(b"HTTP/1.1 200 OK\r\n\r\n")
        while True:
            await wire.send(b"more")
            await trio.sleep(1)

    async with open_world(serve or endless, http={"transaction_timeout": 30}) as world:
        wire, elapsed = world.connect(), Elapsed()
        answer = await wire.ask()
        assert elapsed == 30
        if serve is silent:
            assert answer.status == 504
        else:
            assert (answer.status, answer.whole) == (200, False)
        assert how(await world.record()) == ("proxy", "transaction_timeout")


async def test_a_limit_that_is_crossed_once_the_response_is_whole_is_no_failure(autojump_clock: Clock) -> None:
    async with open_world(stopping_after(OK), http={"transaction_timeout": 1, "linger_timeout": 2}) as world:
        wire, elapsed = world.connect(), Elapsed()
        assert (await wire.ask(POST)).whole
        assert await wire.rest() == b""
        assert elapsed == 1
        assert how(await world.record()) == ("proxy", "complete")


async def test_the_limit_of_a_transaction_counts_for_each_anew(autojump_clock: Clock) -> None:
    async with open_world(http={"transaction_timeout": 30}) as world:
        wire = world.connect()
        for _ in range(3):
            assert (await wire.ask()).status == 200
            await trio.sleep(29)


async def test_a_rule_may_set_the_limit_of_its_transactions(autojump_clock: Clock) -> None:
    rule = RemapRule("//origin.test/", "http://origin.test/", config={"transaction_timeout": 7.0})
    async with open_world(silent, remap=(rule,)) as world:
        await assert_504_after(7, world.connect(target=None))


async def test_a_plugin_may_set_the_limit_of_a_transaction(autojump_clock: Clock) -> None:
    class Hasty(Plugin):
        async def read_request(self, txn: Transaction) -> None:
            txn.config = attrs.evolve(txn.config, transaction_timeout=3.0)

    async with open_world(silent, plugins=[Hasty()]) as world:
        await assert_504_after(3, world.connect())


async def test_a_connection_has_the_deadline_that_its_opener_gave(autojump_clock: Clock) -> None:
    async with open_world(silent) as world:
        await assert_504_after(5, world.connect(deadline=trio.current_time() + 5))
        assert how(await world.record()) == ("proxy", "deadline")


async def test_a_deadline_that_is_over_leaves_no_time_at_all(autojump_clock: Clock) -> None:
    async with open_world() as world:
        await assert_504_after(0, world.connect(deadline=trio.current_time() - 1))
        assert how(await world.record()) == ("proxy", "deadline")


async def test_the_earlier_of_deadline_and_limit_counts_and_says_its_name(autojump_clock: Clock) -> None:
    for seconds, why in ((5, "deadline"), (50, "transaction_timeout")):
        async with open_world(silent, http={"transaction_timeout": 20}) as world:
            wire = world.connect(deadline=trio.current_time() + seconds)
            assert (await wire.ask()).status == 504
            assert how(await world.record()) == ("proxy", why)


async def test_a_plugin_that_never_returns_meets_the_limit_of_the_transaction(autojump_clock: Clock) -> None:
    class Asleep(Plugin):
        async def pre_remap(self, txn: Transaction) -> None:
            await trio.sleep_forever()

    async with open_world(plugins=[Asleep()], http={"transaction_timeout": 30}) as world:
        await assert_504_after(30, world.connect())


async def test_a_plugin_that_takes_its_time_is_not_mistaken_for_a_slow_party(autojump_clock: Clock) -> None:
    class Thorough(Plugin):
        async def _think(self, txn: Transaction) -> None:
            await trio.sleep(1000)

        async def read_request(self, txn: Transaction) -> None:
            await self._think(txn)

        async def send_request(self, txn: Transaction) -> None:
            await self._think(txn)

        async def read_response(self, txn: Transaction) -> None:
            await self._think(txn)

        async def send_response(self, txn: Transaction) -> None:
            await self._think(txn)

    async with open_world(echo, plugins=[Thorough()]) as world:
        assert (await world.connect().ask(POST + b"0123456789")).status == 200
        assert how(await world.record()) == ("proxy", "complete")


async def test_closing_hooks_are_cut_short_at_their_bound(autojump_clock: Clock) -> None:
    class Asleep(Plugin):
        async def transaction_close(self, txn: Transaction) -> None:
            await trio.sleep_forever()

    async with open_world(plugins=[Asleep()], http={"close_timeout": 5}) as world:
        wire, elapsed = world.connect(), Elapsed()
        assert (await wire.ask()).status == 200
        assert elapsed == 0
        assert (await wire.ask()).status == 200
        assert elapsed == 5
