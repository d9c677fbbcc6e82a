"""Where an origin has a limit, no client has all of it: shares, the order of the line, and those who hold a place without moving."""

from __future__ import annotations

import math
from typing import Any

import pytest
import trio
import trio.testing
from hypothesis import given
from hypothesis import strategies as st

from tests.engine._world import GET, OK, Wire, how, open_world, replying, silent
from tests.engine.test_pool import FakeOrigin, held, make_pool
from trio_tsconnect import ClientInfo, ConfigError, OriginConfig
from trio_tsconnect.origin._pool import OriginConnection

Clock = trio.testing.MockClock
POST = b"POST /path HTTP/1.1\r\nHost: origin.test\r\nContent-Length: 1000\r\n\r\n"
LARGE = b"HTTP/1.1 200 OK\r\nContent-Length: 1000000\r\n\r\n" + bytes(1_000_000)


def client(address: str, connection: int = 0) -> ClientInfo:
    return ClientInfo(address=address, connection=connection)


async def ask_as(world: Any, who: ClientInfo, request: bytes = GET, **options: Any) -> Wire:
    wire: Wire = world.connect(client=who, **options)
    await wire.send(request)
    return wire


ATTACKS = {"long polls": GET, "bodiless uploads": POST}


@pytest.mark.parametrize("attack", ATTACKS)
@pytest.mark.parametrize("by", ["connection", "address"])
async def test_one_client_holds_no_more_than_its_share(attack: str, by: str, autojump_clock: Clock) -> None:
    asked = 0

    async def origin(wire: Wire) -> None:
        nonlocal asked
        _, headers = await wire.head()
        asked += 1
        if headers.get("x-quick"):
            await wire.send(OK)
        else:
            await wire.rest()

    async with open_world(origin, origin={"max_connections": 8}, http={"drain_timeout": 0}) as world:
        wires = []
        for number in range(64):
            who = client("192.0.2.1", 7) if by == "connection" else client("192.0.2.1", number + 1)
            wires.append(await ask_as(world, who, ATTACKS[attack]))
        await trio.testing.wait_all_tasks_blocked()
        assert asked == 6
        assert world.taken() == (6, 58)
        start = trio.current_time()
        quick = GET.replace(b"\r\n\r\n", b"\r\nX-Quick: 1\r\n\r\n")
        for number in range(20):
            wire = await ask_as(world, client(f"192.0.2.{number + 2}", 100 + number), quick)
            assert (await wire.answer()).status == 200
        assert trio.current_time() == start


async def test_share_of_one_is_all_of_it(autojump_clock: Clock) -> None:
    async with open_world(silent, origin={"max_connections": 8, "max_share": 1}, http={"drain_timeout": 0}) as world:
        for _ in range(9):
            await ask_as(world, client("192.0.2.1", 1))
        await trio.testing.wait_all_tasks_blocked()
        assert world.taken() == (8, 1)


async def test_requests_of_the_process_are_nobodys_share(autojump_clock: Clock) -> None:
    async with open_world(silent, origin={"max_connections": 8}, http={"drain_timeout": 0}) as world:
        for _ in range(9):
            await world.connect().send(GET)
        await trio.testing.wait_all_tasks_blocked()
        assert world.taken() == (8, 1)


async def test_place_that_comes_free_goes_to_the_client_that_holds_the_fewest(autojump_clock: Clock) -> None:
    order: list[str] = []
    answers: list[trio.Event] = []

    async def origin(wire: Wire) -> None:
        _, headers = await wire.head()
        order.append(headers["x-forwarded-for"])
        answers.append(trio.Event())
        await answers[-1].wait()
        await wire.send(b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\nConnection: close\r\n\r\n")

    async with open_world(origin, origin={"max_connections": 4}, http={"drain_timeout": 0}) as world:
        for address, count in (("192.0.2.1", 20), ("192.0.2.2", 5), ("192.0.2.3", 1)):
            for _ in range(count):
                await ask_as(world, client(address, int(address[-1])))
        await trio.testing.wait_all_tasks_blocked()
        assert sorted(order) == ["192.0.2.1"] * 3 + ["192.0.2.2"]
        for answer in answers:  # more come while the first are answered
            answer.set()
            await trio.testing.wait_all_tasks_blocked()
    assert order[4] == "192.0.2.3"
    assert order.count("192.0.2.1") == 20


@pytest.mark.parametrize("others_wait", [False, True])
@pytest.mark.parametrize("stall", ["reader", "upload"])
async def test_client_that_stalls_gives_its_place_back_when_others_wait(stall: str, others_wait: bool, autojump_clock: Clock) -> None:
    async def origin(wire: Wire) -> None:
        while True:
            _, headers = await wire.head()
            await wire.body(headers)
            await wire.send(LARGE if headers.get("x-large") else OK)

    request = GET.replace(b"\r\n\r\n", b"\r\nX-Large: 1\r\n\r\n") if stall == "reader" else POST
    limits = {"max_connections": 1, "stall_timeout": 3, "wait_timeout": 60}
    async with open_world(origin, origin=limits, http={"drain_timeout": 0}) as world:
        stalled = await ask_as(world, client("192.0.2.1", 1), request)
        await trio.sleep(20)
        assert world.records == []  # nobody waits, so nobody minds
        if others_wait:
            start = trio.current_time()
            other = await ask_as(world, client("192.0.2.2", 2))
            assert (await other.answer()).status == 200
            assert trio.current_time() - start <= 3
            assert how(world.records[0]) == ("client", "client_stalled")
            answer = await stalled.answer()
            assert (answer.status, answer.whole) == ((200, False) if stall == "reader" else (408, True))


async def test_client_that_begins_to_stall_while_others_wait_is_found(autojump_clock: Clock) -> None:
    limits = {"max_connections": 1, "stall_timeout": 3, "wait_timeout": 60}
    async with open_world(replying(OK), origin=limits, http={"drain_timeout": 0}) as world:
        slow = await ask_as(world, client("192.0.2.1", 1), POST)
        await trio.testing.wait_all_tasks_blocked()
        other = await ask_as(world, client("192.0.2.2", 2))
        start = trio.current_time()
        for _ in range(8):  # it moves every second, so it keeps its place
            await trio.sleep(1)
            await slow.send(b"x")
        assert (await other.answer()).status == 200
        assert 10 <= trio.current_time() - start <= 14


async def test_uploads_that_trickle_leave_room_for_others(autojump_clock: Clock) -> None:
    """200 uploads of a few bytes every 5 s from one address: each moves, and all of them are one client's share."""
    async with open_world(replying(OK), origin={"max_connections": 64, "wait_timeout": 5}, http={"drain_timeout": 0}) as world:

        async def trickle(number: int) -> None:
            wire = await ask_as(world, client("192.0.2.1", number), POST)
            try:
                while True:
                    await trio.sleep(4)
                    await wire.send(b"xx")
            except trio.BrokenResourceError:
                pass

        async with trio.open_nursery() as nursery:
            for number in range(1, 201):
                nursery.start_soon(trickle, number)
            await trio.sleep(30)
            for number in range(50):
                start = trio.current_time()
                wire = await ask_as(world, client(f"198.51.100.{number}", 1000 + number))
                assert (await wire.answer()).status == 200
                assert trio.current_time() == start
            nursery.cancel_scope.cancel()


async def test_default_has_no_limit() -> None:
    async with open_world(silent, http={"drain_timeout": 0}) as world:
        for _ in range(200):
            await ask_as(world, client("192.0.2.1", 1))
        await trio.testing.wait_all_tasks_blocked()
        assert world.taken() == (200, 0)


@pytest.mark.parametrize("value", [0, -1, 1.01, True, "half", math.nan])
def test_share_is_a_part(value: Any) -> None:
    with pytest.raises(ConfigError, match="max_share: must be a number above 0 and at most 1"):
        OriginConfig(max_share=value)


@given(
    st.integers(1, 6),
    st.sampled_from([0.25, 0.5, 0.75, 1.0]),
    st.lists(st.tuples(st.sampled_from(["take", "give", "leave"]), st.integers(0, 3), st.integers(0, 30)), max_size=60),
)
def test_no_one_is_above_its_share_and_no_place_is_free_for_one_who_may_have_it(
    limit: int, share: float, steps: list[tuple[str, int, int]]
) -> None:
    most = math.ceil(limit * share)

    async def main() -> None:
        pool, origin = make_pool(), FakeOrigin()
        config = OriginConfig(max_connections=limit, max_share=share, wait_timeout=1000)
        holding: list[tuple[int, OriginConnection]] = []
        waiting: dict[int, tuple[int, trio.CancelScope]] = {}

        async def take(number: int, who: int) -> None:
            with trio.CancelScope() as scope:
                waiting[number] = (who, scope)
                connection = await pool.acquire(origin, config, holder=(("connection", who),))
                holding.append((who, connection))
            del waiting[number]

        def check() -> None:
            held_by = [sum(who == each for each, _ in holding) for who in range(4)]
            assert max(held_by) <= most
            assert len(holding) <= limit
            assert held(pool)[1:] == (len(holding), len(waiting))
            if len(holding) < limit:
                assert all(held_by[who] >= most for who, _ in waiting.values())

        async with trio.open_nursery() as nursery:
            for number, (step, who, which) in enumerate(steps):
                if step == "take":
                    nursery.start_soon(take, number, who)
                elif step == "leave" and waiting:
                    list(waiting.values())[which % len(waiting)][1].cancel()
                elif step == "give" and holding:
                    _, connection = holding.pop(which % len(holding))
                    if which % 2 or not pool.release(connection, config):
                        await pool.discard(connection)
                await trio.testing.wait_all_tasks_blocked()
                check()
            nursery.cancel_scope.cancel()
        for _, connection in holding:
            await pool.discard(connection)
        assert held(pool)[1:] == (0, 0)

    trio.run(main)
