"""Every wait has a limit: of hooks that answer a failure, of clients that do not read it, of interim responses, and of slow bodies."""

from __future__ import annotations

from typing import Any

import pytest
import trio
import trio.testing

from tests.engine._world import GET, OK, TellingLog, Wire, how, open_world, replying, silent
from tests.engine.test_hooks import make_plugin
from trio_tsconnect import ConnectOptions, ProxyConfig, open_proxy
from trio_tsconnect.engine._timer import Timer

Clock = trio.testing.MockClock
EXPECTS = b"POST / HTTP/1.1\r\nHost: origin.test\r\nExpect: 100-continue\r\nContent-Length: 5\r\n\r\n"


async def hang(_hook: str, _subject: object) -> None:
    await trio.sleep_forever()


HOOKS = ["transaction_start", "read_request", "pre_remap", "post_remap", "send_request", "read_response", "send_response"]


@pytest.mark.parametrize("hook", HOOKS)
@pytest.mark.parametrize("limit", ["deadline", "transaction_timeout"])
async def test_end_of_the_whole_holds_in_every_hook(hook: str, limit: str, autojump_clock: Clock) -> None:
    http = {"transaction_timeout": 3} if limit == "transaction_timeout" else {}
    async with open_world(replying(OK), plugins=[make_plugin("Hanging", hang, hook)], http=http) as world:
        wire = world.connect(deadline=trio.current_time() + 3 if limit == "deadline" else None)
        start = trio.current_time()
        answer = await wire.ask()
        assert answer.status == 504
        # a hook that hangs over the failure's answer as well is left out after error_timeout
        assert trio.current_time() - start == pytest.approx(4 if hook == "send_response" else 3)
    assert how(world.records[0]) == ("proxy", limit)
    assert world.records[0].status == 504


async def test_hook_that_hangs_over_an_error_is_left_out(autojump_clock: Clock) -> None:
    async def dying(wire: Wire) -> None:
        await wire.head()

    http = {"inactivity_timeout": 7}
    async with open_world(dying, plugins=[make_plugin("Hanging", hang, "send_response")], http=http) as world:
        start = trio.current_time()
        assert (await world.connect().ask()).status == 502
        assert trio.current_time() - start == pytest.approx(7)
    assert (world.records[0].status, how(world.records[0])) == (502, ("origin", "origin_closed"))


async def test_client_that_does_not_take_its_error_is_given_up(autojump_clock: Clock) -> None:
    log = TellingLog()
    async with open_proxy(ProxyConfig(), plugins=[make_plugin("Hanging", hang, "read_request")], log=log) as proxy:
        client = proxy.connect(ConnectOptions(buffer_index=0, deadline=trio.current_time() + 2))
        start = trio.current_time()
        await client.send_all(GET)
        await log.wait()
        assert trio.current_time() - start == pytest.approx(3)
    assert log.records[0].status is None  # of 504 the client has a part of the head
    assert how(log.records[0]) == ("proxy", "deadline")


@pytest.mark.parametrize("asks", ["configuration", "plugin"])
async def test_100_continue_that_is_not_taken_is_given_up(asks: str, autojump_clock: Clock) -> None:
    async def act(_hook: str, txn: Any) -> None:
        if txn.request.target == "/first":
            txn.respond(200, b"x" * 72, headers=[("Date", "x")])  # so that the client's window is full
        elif asks == "plugin":
            await txn.read_request_body(100)

    http = {"inactivity_timeout": 5, **({"expect": "answer"} if asks == "configuration" else {})}
    async with open_world(silent, plugins=[make_plugin("Asking", act, "read_request")], http=http) as world:
        wire = world.connect(buffer_index=0)
        await wire.send(GET.replace(b"/path", b"/first"))
        await trio.testing.wait_all_tasks_blocked()
        start = trio.current_time()
        await wire.send(EXPECTS)
        records = await world.log.wait(2, patience=50)
        assert trio.current_time() - start == pytest.approx(5)
    assert how(records[1]) == ("client", "client_timeout")
    assert records[1].status is None


async def test_transform_that_fails_on_the_first_piece_is_a_500() -> None:
    """The head has not left yet, so the failure takes its place; the record tells what was sent."""

    class Failing:
        def feed(self, data: bytes) -> bytes:
            raise ValueError("cannot")

        def finish(self) -> bytes:
            return b""

    async def add(_hook: str, txn: Any) -> None:
        txn.transform_response(Failing())

    async with open_world(replying(OK), plugins=[make_plugin("Adding", add, "read_response")]) as world:
        answer = await world.connect().ask()
        assert (answer.status, b"A plugin failed" in answer.body) == (500, True)
    assert (world.records[0].status, how(world.records[0])) == (500, ("plugin", "plugin"))


@pytest.mark.parametrize("value", [None, "text", 7, [1]])
@pytest.mark.parametrize("direction", ["request", "response"])
async def test_transform_that_returns_no_bytes_is_its_plugins_failure_at_once(value: Any, direction: str) -> None:
    class Odd:
        def feed(self, data: bytes) -> Any:
            return value

        def finish(self) -> bytes:
            return b""

    async def add(_hook: str, txn: Any) -> None:
        txn.transform_response(Odd()) if direction == "response" else txn.transform_request(Odd())

    async with open_world(replying(OK), plugins=[make_plugin("Adding", add, "post_remap")]) as world:
        answer = await world.connect().ask(b"POST / HTTP/1.1\r\nHost: origin.test\r\nContent-Length: 2\r\n\r\nhi")
        assert answer.status == 500
    failed = world.records[0].plugin["Adding"]["failed"]
    assert type(value).__name__ in failed["exception"]


@pytest.mark.parametrize("limit", [0, 3])
async def test_interim_responses_have_a_bound(limit: int) -> None:
    async def flood(wire: Wire) -> None:
        await wire.head()
        for _ in range(limit):
            await wire.send(b"HTTP/1.1 103 Early Hints\r\n\r\n")
        await wire.until(b"never") if limit == 3 and len(wire.buffer) else None
        while True:
            await wire.send(b"HTTP/1.1 103 Early Hints\r\n\r\n")

    async with open_world(flood, origin={"max_interim": limit}) as world:
        wire = world.connect()
        await wire.send(GET)
        for _ in range(limit):
            assert (await wire.answer()).status == 103
        answer = await wire.answer()
        assert (answer.status, b"too many interim" in answer.body) == (502, True)


async def test_nothing_that_follows_a_refused_expectation_reaches_the_origin() -> None:
    """RFC 9110 §10.1.1: after a final answer the body may not come, and what comes may be a request that no rule has seen."""
    seen = bytearray()

    async def refusing(wire: Wire) -> None:
        await wire.head()
        await wire.send(b"HTTP/1.1 403 Forbidden\r\nContent-Length: 10000\r\n\r\n" + bytes(5000))
        seen.extend(wire.take(len(wire.buffer)))
        while await wire.more():
            seen.extend(wire.take(len(wire.buffer)))

    async with open_world(refusing) as world:
        wire = world.connect()
        await wire.send(EXPECTS)
        first, _ = await wire.head()
        assert first == "HTTP/1.1 403 Forbidden"
        await wire.send(b"GET /admin HTTP/1.1\r\nHost: origin.test\r\n\r\n")
        await trio.testing.wait_all_tasks_blocked()
        assert seen == b""
        await wire.stream.aclose()


@pytest.mark.parametrize(("every", "ends"), [(1, False), (5, True)])
async def test_request_body_below_the_least_rate_ends(every: int, ends: bool, autojump_clock: Clock) -> None:
    """10 bytes at a time: 10 B/s is enough, 2 B/s is not, once header_timeout has passed."""
    http = {"min_rate": 5, "header_timeout": 10, "inactivity_timeout": 120}
    async with open_world(replying(OK), http=http) as world:
        wire = world.connect()
        await wire.send(b"POST / HTTP/1.1\r\nHost: origin.test\r\nContent-Length: 1000\r\n\r\n")
        start = trio.current_time()
        with trio.CancelScope():
            for _ in range(100):
                await trio.sleep(every)
                try:
                    await wire.send(bytes(10))
                except trio.BrokenResourceError:
                    break
                if world.records:
                    break
        answer = await wire.answer()
        assert answer.status == (408 if ends else 200)
        if ends:
            assert 15 <= trio.current_time() - start <= 25
    assert how(world.records[0]) == (("client", "request_body_timeout") if ends else ("proxy", "complete"))


@pytest.mark.parametrize(("every", "ends"), [(1, False), (10, True)])
async def test_reader_below_the_least_rate_ends(every: int, ends: bool, autojump_clock: Clock) -> None:
    http = {"min_rate": 50, "header_timeout": 10, "inactivity_timeout": 120}
    body = bytes(20_000)
    async with open_world(replying(b"HTTP/1.1 200 OK\r\nContent-Length: 20000\r\n\r\n" + body), http=http) as world:
        world.origin.buffer_index = 0
        wire = world.connect(buffer_index=0)
        await wire.send(GET)
        got = 0
        while not wire.ended and got < 20_000:
            await trio.sleep(every)
            await wire.more()
            got += len(wire.take(len(wire.buffer)))
        await trio.testing.wait_all_tasks_blocked()
    assert how(world.records[0]) == (("client", "client_timeout") if ends else ("proxy", "complete"))


async def test_timer_looks_at_many_deadlines_a_bounded_number_of_times(autojump_clock: Clock) -> None:
    """10,000 deadlines, one due every millisecond: looking at all of them for each would cost 10,000 looks in 10 s."""
    looks = 0

    class Due:
        deadline = 0.0

        def due(self) -> None:
            nonlocal fired
            fired += 1
            late.append(trio.current_time() - self.at)

        at = 0.0

    fired = 0
    late: list[float] = []
    timer = Timer()
    now = trio.current_time()
    for number in range(10_000):
        each = Due()
        each.at = now + (number + 1) / 1000
        timer.set(each, each.at)

    class Counting(trio.abc.Instrument):
        def before_task_step(self, task: trio.lowlevel.Task) -> None:
            nonlocal looks
            looks += task.name == "timer"

    trio.lowlevel.add_instrument(counting := Counting())
    async with trio.open_nursery() as nursery:
        nursery.start_soon(timer.run, name="timer")
        await trio.sleep(11)
        nursery.cancel_scope.cancel()
    trio.lowlevel.remove_instrument(counting)
    assert fired == 10_000
    assert looks < 250
    assert max(late) <= 0.11
