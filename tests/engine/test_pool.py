"""The pool of origin connections: its counts are right at every checkpoint, whoever is cancelled, and nothing it opened stays open."""

from __future__ import annotations

import itertools
import math
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from typing import Any

import attrs
import pytest
import trio
import trio.testing

from trio_tsconnect.config import OriginConfig
from trio_tsconnect.message import Failure, TransactionFailure
from trio_tsconnect.origin._pool import OriginConnection, Pool, PoolStatistics
from trio_tsconnect.stream import HeadLimits, VirtualConnection, open_virtual_connection_pair


@attrs.define(eq=False)
class FakeOrigin:
    """Opens virtual connections, and remembers both ends of each."""

    name: str = "fake"
    persistent: bool = True
    delay: float = 0.0
    failure: Failure | None = None
    near: list[VirtualConnection] = attrs.Factory(list)
    far: list[VirtualConnection] = attrs.Factory(list)

    async def open(self) -> trio.abc.Stream:
        await trio.lowlevel.checkpoint()
        if self.delay:
            await trio.sleep(self.delay)
        if self.failure is not None:
            raise TransactionFailure(self.failure)
        near, far = open_virtual_connection_pair()
        self.near.append(near)
        self.far.append(far)
        return near

    @property
    def open_connections(self) -> int:
        return sum(not near._closed for near in self.near)


def make_pool() -> Pool:
    numbers = itertools.count(1)
    return Pool(lambda: next(numbers), HeadLimits(), "h11")


@asynccontextmanager
async def running_pool() -> AsyncIterator[Pool]:
    pool = make_pool()
    async with trio.open_nursery() as nursery:
        nursery.start_soon(pool.run)
        await trio.testing.wait_all_tasks_blocked()
        yield pool
        nursery.cancel_scope.cancel()


def held(pool: Pool) -> tuple[int, int, int]:
    statistics = pool.statistics()
    return statistics.idle, statistics.taken, statistics.waiting


async def use(pool: Pool, origin: FakeOrigin, config: OriginConfig) -> OriginConnection:
    connection = await pool.acquire(origin, config)
    assert pool.release(connection, config)
    return connection


class CancelAt(trio.abc.Instrument):
    """Cancels a scope just before the n-th step of the task that made it."""

    def __init__(self, steps: int) -> None:
        self.scope = trio.CancelScope()
        self._task = trio.lowlevel.current_task()
        self._left = steps

    def after_task_step(self, task: trio.lowlevel.Task) -> None:
        if task is self._task:
            if self._left == 0:
                self.scope.cancel()
            self._left -= 1


async def cancel_at_every_step(
    world: Callable[[], AbstractAsyncContextManager[Any]],
    act: Callable[[Any], Awaitable[object]],
    check: Callable[[Any, bool], Awaitable[object]],
) -> int:
    """Run `act` in worlds of its own, cancelled at its first checkpoint, its second, ... until it gets through; how many times that was."""
    for step in itertools.count():
        async with world() as subject:
            instrument = CancelAt(step)
            if step == 0:
                instrument.scope.cancel()
            trio.lowlevel.add_instrument(instrument)
            try:
                with instrument.scope:
                    await act(subject)
            finally:
                trio.lowlevel.remove_instrument(instrument)
            cancelled = instrument.scope.cancelled_caught
            await trio.testing.wait_all_tasks_blocked()
            await check(subject, cancelled)
        if not instrument.scope.cancel_called:
            return step
    raise AssertionError("count() does not end")


async def check_nothing_is_held(subject: tuple[Pool, FakeOrigin], _cancelled: bool) -> None:
    pool, origin = subject
    idle, taken, waiting = held(pool)
    assert (taken, waiting) == (0, 0)
    assert origin.open_connections == idle


ONE = OriginConfig(max_connections=1)


@asynccontextmanager
async def empty_world() -> AsyncIterator[tuple[Pool, FakeOrigin]]:
    async with running_pool() as pool:
        yield pool, FakeOrigin()


@asynccontextmanager
async def world_with_two_dead_and_one_live() -> AsyncIterator[tuple[Pool, FakeOrigin]]:
    async with running_pool() as pool:
        origin = FakeOrigin()
        config = OriginConfig()
        connections = [await pool.acquire(origin, config) for _ in range(3)]
        for connection in connections:
            pool.release(connection, config)
        for far in origin.far[1:]:  # those that are looked at first
            await far.aclose()
        yield pool, origin


async def test_acquiring_and_releasing_survives_a_cancel_at_every_checkpoint() -> None:
    async def act(subject: tuple[Pool, FakeOrigin]) -> None:
        pool, origin = subject
        connection = await pool.acquire(origin, ONE)
        try:
            await trio.lowlevel.checkpoint()
        except trio.Cancelled:
            await pool.discard(connection)
            raise
        pool.release(connection, ONE)

    assert await cancel_at_every_step(empty_world, act, check_nothing_is_held) >= 2


async def test_closing_stale_connections_survives_a_cancel_at_every_checkpoint() -> None:
    async def act(subject: tuple[Pool, FakeOrigin]) -> None:
        pool, origin = subject
        connection = await pool.acquire(origin, OriginConfig())
        pool.release(connection, OriginConfig())
        await trio.lowlevel.checkpoint()

    async def check(subject: tuple[Pool, FakeOrigin], cancelled: bool) -> None:
        await check_nothing_is_held(subject, cancelled)
        assert subject[1].open_connections == 1  # the live one is in the pool still

    assert await cancel_at_every_step(world_with_two_dead_and_one_live, act, check) >= 1


@pytest.mark.parametrize("keep", [True, False])
async def test_waiting_in_line_survives_a_cancel_at_every_checkpoint(keep: bool) -> None:
    async def act(subject: tuple[Pool, FakeOrigin]) -> None:
        pool, origin = subject
        taken = await pool.acquire(origin, ONE)

        async def let_go() -> None:
            await trio.testing.wait_all_tasks_blocked()
            if keep:
                assert pool.release(taken, ONE)
            else:
                await pool.discard(taken)

        async with trio.open_nursery() as nursery:
            nursery.start_soon(shielded, let_go)
            connection = await pool.acquire(origin, ONE)
            pool.release(connection, ONE)

    assert await cancel_at_every_step(empty_world, act, check_nothing_is_held) >= 3


async def shielded(act: Callable[[], Awaitable[None]]) -> None:
    with trio.CancelScope(shield=True):
        await act()


async def test_a_connection_granted_to_one_who_is_cancelled_at_that_moment_leaves_room_for_the_next() -> None:
    async with running_pool() as pool:
        origin = FakeOrigin()
        first = await pool.acquire(origin, ONE)
        got: list[OriginConnection] = []

        async def wait_in_line(scope: trio.CancelScope) -> None:
            with scope:
                got.append(await pool.acquire(origin, ONE))

        async with trio.open_nursery() as nursery:
            scopes = [trio.CancelScope(), trio.CancelScope()]
            for scope in scopes:
                nursery.start_soon(wait_in_line, scope)
                await trio.testing.wait_all_tasks_blocked()
            assert held(pool) == (0, 1, 2)
            scopes[0].cancel()  # the first in line will not want it any more ...
            assert pool.release(first, ONE)  # ... but stands there still, and is given it
            await trio.testing.wait_all_tasks_blocked()
        assert len(got) == 1
        assert held(pool) == (0, 1, 0)
        assert origin.open_connections == 1


async def test_cancelled_while_dead_connections_are_closed_the_rest_are_closed_all_the_same() -> None:
    async with world_with_two_dead_and_one_live() as (pool, origin):
        await origin.far[0].aclose()
        with trio.CancelScope() as scope:
            scope.cancel()
            await pool.acquire(origin, OriginConfig())
        assert scope.cancelled_caught
        assert held(pool) == (0, 0, 0)
        assert origin.open_connections == 0


async def test_dead_connections_found_by_one_who_then_waits_in_vain_are_closed(autojump_clock: trio.testing.MockClock) -> None:
    async with running_pool() as pool:
        origin, roomy = FakeOrigin(), OriginConfig(max_connections=3)
        busy = await pool.acquire(origin, roomy)
        await use(pool, origin, roomy)
        await origin.far[1].aclose()
        with pytest.raises(TransactionFailure):
            await pool.acquire(origin, ONE)  # a rule with a smaller bound for the same origin
        assert origin.open_connections == 1
        await pool.discard(busy)
    assert origin.open_connections == 0


async def test_never_more_connections_than_the_limit_idle_ones_included() -> None:
    async with running_pool() as pool:
        origin, config = FakeOrigin(), OriginConfig(max_connections=2)
        most = 0

        async def one(number: int) -> None:
            nonlocal most
            connection = await pool.acquire(origin, config, fresh=number % 3 == 0)
            most = max(most, origin.open_connections)
            await trio.testing.wait_all_tasks_blocked(0.001 * (number % 2))
            if number % 4:
                assert pool.release(connection, config)
            else:
                await pool.discard(connection)

        async with trio.open_nursery() as nursery:
            for number in range(20):
                nursery.start_soon(one, number)
        assert most == 2
        assert held(pool)[1:] == (0, 0)


async def test_those_who_wait_are_served_in_the_order_they_came() -> None:
    async with running_pool() as pool:
        origin = FakeOrigin()
        order: list[int] = []
        connection = await pool.acquire(origin, ONE)

        async def one(number: int) -> None:
            mine = await pool.acquire(origin, ONE)
            order.append(number)
            if number % 2:
                pool.release(mine, ONE)
            else:
                await pool.discard(mine)

        async with trio.open_nursery() as nursery:
            for number in range(5):
                nursery.start_soon(one, number)
                await trio.testing.wait_all_tasks_blocked()
            pool.release(connection, ONE)
        assert order == [0, 1, 2, 3, 4]


async def test_one_who_waits_too_long_is_told_that_the_origin_is_busy(autojump_clock: trio.testing.MockClock) -> None:
    async with running_pool() as pool:
        origin, config = FakeOrigin(), OriginConfig(max_connections=1, wait_timeout=3)
        connection = await pool.acquire(origin, config)
        start = trio.current_time()
        with pytest.raises(TransactionFailure) as caught:
            await pool.acquire(origin, config)
        assert caught.value.failure is Failure.ORIGIN_BUSY
        assert trio.current_time() - start == pytest.approx(3)
        assert held(pool) == (0, 1, 0)
        await pool.discard(connection)
        assert held(pool) == (0, 0, 0)


async def test_an_origin_that_refuses_leaves_its_room_to_the_next() -> None:
    async with running_pool() as pool:
        origin = FakeOrigin(failure=Failure.ORIGIN_REFUSED)
        for _ in range(3):
            with pytest.raises(TransactionFailure) as caught:
                await pool.acquire(origin, ONE)
            assert caught.value.failure is Failure.ORIGIN_REFUSED
        origin.failure = None
        await use(pool, origin, ONE)


async def test_the_failure_of_the_first_lets_the_next_in_line_try() -> None:
    async with running_pool() as pool:
        origin = FakeOrigin(failure=Failure.ORIGIN_REFUSED)
        failures = []

        async def one() -> None:
            try:
                await pool.acquire(origin, ONE)
            except TransactionFailure as failed:
                failures.append(failed.failure)

        async with trio.open_nursery() as nursery:
            for _ in range(3):
                nursery.start_soon(one)
        assert failures == [Failure.ORIGIN_REFUSED] * 3


async def test_a_connection_that_does_not_come_about_in_time_is_a_connect_timeout(autojump_clock: trio.testing.MockClock) -> None:
    async with running_pool() as pool:
        origin, config = FakeOrigin(delay=100), OriginConfig(connect_timeout=7)
        start = trio.current_time()
        with pytest.raises(TransactionFailure) as caught:
            await pool.acquire(origin, config)
        assert caught.value.failure is Failure.ORIGIN_CONNECT_TIMEOUT
        assert trio.current_time() - start == pytest.approx(7)
        assert held(pool) == (0, 0, 0)


async def test_a_connection_is_used_again_and_says_so() -> None:
    async with running_pool() as pool:
        origin = FakeOrigin()
        first = await pool.acquire(origin, ONE)
        assert not first.reused
        pool.release(first, ONE)
        second = await pool.acquire(origin, ONE)
        assert second is first
        assert second.reused
        pool.release(second, ONE)


async def test_each_origin_has_connections_of_its_own() -> None:
    async with running_pool() as pool:
        one, other = FakeOrigin(), FakeOrigin()
        first = await use(pool, one, ONE)
        assert await use(pool, other, ONE) is not first
        assert await use(pool, one, ONE) is first


async def test_the_most_recently_used_idle_connection_is_taken_first() -> None:
    async with running_pool() as pool:
        origin, config = FakeOrigin(), OriginConfig()
        first, second = await pool.acquire(origin, config), await pool.acquire(origin, config)
        pool.release(second, config)
        pool.release(first, config)
        assert await use(pool, origin, config) is first


@pytest.mark.parametrize("what", ["close", "eof", "bytes", "abort"])
async def test_an_idle_connection_on_which_something_has_come_is_not_used_again(what: str) -> None:
    async with running_pool() as pool:
        origin = FakeOrigin()
        first = await use(pool, origin, ONE)
        far = origin.far[0]
        match what:
            case "close":
                await far.aclose()
            case "eof":
                await far.send_eof()
            case "bytes":
                await far.send_all(b"HTTP/1.1 408 Request Timeout\r\n\r\n")
            case _:
                far.abort("gone")
        second = await use(pool, origin, ONE)
        assert second is not first
        assert not second.reused
        assert origin.open_connections == 1


async def test_a_fresh_connection_is_made_although_one_is_idle_and_the_idle_one_makes_room() -> None:
    async with running_pool() as pool:
        origin = FakeOrigin()
        first = await use(pool, origin, ONE)
        second = await pool.acquire(origin, ONE, fresh=True)
        assert second is not first
        assert origin.open_connections == 1
        pool.release(second, ONE)


async def test_idle_connections_are_closed_when_their_time_is_over(autojump_clock: trio.testing.MockClock) -> None:
    async with running_pool() as pool:
        origin, config = FakeOrigin(), OriginConfig(keep_alive_timeout=30)
        await use(pool, origin, config)
        await trio.sleep(29)
        assert held(pool) == (1, 0, 0)
        await use(pool, origin, config)  # used again: counts anew
        await trio.sleep(29)
        assert held(pool) == (1, 0, 0)
        await trio.sleep(2)
        assert held(pool) == (0, 0, 0)
        assert origin.open_connections == 0
        await use(pool, origin, config)  # and once more, after the pool had nothing to watch
        await trio.sleep(31)
        assert origin.open_connections == 0


async def test_each_idle_connection_has_its_own_time(autojump_clock: trio.testing.MockClock) -> None:
    async with running_pool() as pool:
        patient, hasty = OriginConfig(keep_alive_timeout=100), OriginConfig(keep_alive_timeout=2)
        origin, other = FakeOrigin(), FakeOrigin()
        first, second = await pool.acquire(origin, patient), await pool.acquire(origin, hasty)
        pool.release(first, patient)
        await trio.sleep(1)
        pool.release(second, hasty)
        await use(pool, other, hasty)
        await trio.sleep(3)
        assert origin.open_connections == 1
        assert other.open_connections == 0
        await trio.sleep(100)
        assert origin.open_connections == 0


async def test_no_connection_is_kept_where_the_configuration_keeps_none() -> None:
    async with running_pool() as pool:
        origin = FakeOrigin()
        for config in (OriginConfig(keep_alive_timeout=0), OriginConfig(max_idle=0)):
            connection = await pool.acquire(origin, config)
            assert not pool.release(connection, config)
            await pool.discard(connection)
        assert held(pool) == (0, 0, 0)


async def test_max_idle_bounds_what_is_kept() -> None:
    async with running_pool() as pool:
        origin, config = FakeOrigin(), OriginConfig(max_idle=1)
        first, second = await pool.acquire(origin, config), await pool.acquire(origin, config)
        assert pool.release(first, config)
        assert not pool.release(second, config)
        await pool.discard(second)
        assert held(pool) == (1, 0, 0)


async def test_the_end_of_the_pool_closes_what_is_idle_and_it_keeps_nothing_from_then_on() -> None:
    async with running_pool() as pool:
        origin, config = FakeOrigin(), OriginConfig(keep_alive_timeout=math.inf)
        late = await pool.acquire(origin, config)
        await use(pool, origin, config)
        await use(pool, origin, config)
    assert origin.open_connections == 1
    assert not pool.release(late, config)
    await pool.discard(late)
    assert origin.open_connections == 0
    assert pool.statistics() == PoolStatistics(idle=0, taken=0, waiting=0)


async def test_an_origin_that_was_used_once_leaves_nothing_behind() -> None:
    async with running_pool() as pool:
        config = OriginConfig(keep_alive_timeout=0)
        for _ in range(10):
            origin = FakeOrigin()
            await pool.discard(await pool.acquire(origin, config))
            origin.failure = Failure.ORIGIN_REFUSED
            with pytest.raises(TransactionFailure):
                await pool.acquire(origin, config)
        assert not pool._places


async def test_connection_beyond_the_limit_is_not_handed_on_to_those_in_line() -> None:
    async with running_pool() as pool:
        origin = FakeOrigin()
        first, beyond = await pool.acquire(origin, ONE), await pool.acquire(origin, ONE, beyond_limit=True)
        got: list[OriginConnection] = []

        async def wait() -> None:
            got.append(await pool.acquire(origin, ONE))

        async with trio.open_nursery() as nursery:
            nursery.start_soon(wait)
            await trio.testing.wait_all_tasks_blocked()
            assert not pool.release(beyond, ONE)
            await pool.discard(beyond)
            await trio.testing.wait_all_tasks_blocked()
            assert held(pool) == (0, 1, 1)
            assert pool.release(first, ONE)
        assert got == [first]
        await pool.discard(first)
