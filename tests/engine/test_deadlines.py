"""One deadline through the whole chain: what is left of it is in the log, and the origin can be told."""

from __future__ import annotations

from typing import Any

import attrs
import pytest
import trio
from trio.testing import MockClock

from tests.engine._world import GET, OK, Wire, how, open_world, replying
from tests.engine.test_hooks import make_plugin


async def test_what_is_left_at_each_state_is_in_the_record(autojump_clock: MockClock) -> None:
    async with open_world(replying(OK)) as world:
        assert (await world.connect(deadline=trio.current_time() + 5).ask()).status == 200
        record = await world.record()
    assert record.deadline_left is not None
    assert {"remap", "send_request", "release"} <= set(record.deadline_left) <= set(record.milestones)
    assert record.deadline_left["send_response"] == pytest.approx(5, abs=0.5)


async def test_without_a_deadline_the_record_says_nothing_of_it(autojump_clock: MockClock) -> None:
    async with open_world(replying(OK)) as world:
        assert (await world.connect().ask()).status == 200
        assert (await world.record()).deadline_left is None


@pytest.mark.parametrize(("deadline", "told"), [(5, "5000"), (None, None)])
async def test_the_origin_is_told_what_is_left_and_never_what_the_client_claims(
    deadline: float | None, told: str | None, autojump_clock: MockClock
) -> None:
    got: list[dict[str, str]] = []

    async def serve(wire: Wire) -> None:
        got.append((await wire.head())[1])
        await wire.send(OK)

    async with open_world(serve, http={"deadline_header": "X-Deadline-Ms"}) as world:
        wire = world.connect(deadline=None if deadline is None else trio.current_time() + deadline)
        await wire.ask(b"GET / HTTP/1.1\r\nHost: origin.test\r\nX-Deadline-Ms: 99\r\n\r\n")
    assert got[0].get("x-deadline-ms") == told


@pytest.mark.parametrize("hook", ["transaction_start", "read_request", "pre_remap"])
async def test_limit_that_a_hook_sets_holds_at_once(hook: str, autojump_clock: MockClock) -> None:
    async def act(name: str, txn: Any) -> None:
        txn.config = attrs.evolve(txn.config, transaction_timeout=1.0)

    async def wait(_name: str, _txn: Any) -> None:
        await trio.sleep(60)

    plugins = [make_plugin("First", act, hook), make_plugin("Second", wait, "pre_remap")]
    async with open_world(replying(OK), plugins=plugins) as world:
        began = trio.current_time()
        assert (await world.connect().ask()).status == 504
        assert trio.current_time() - began == pytest.approx(1, abs=0.1)
    assert how(world.records[0]) == ("proxy", "transaction_timeout")


async def test_limit_holds_for_the_answer_of_the_plugin_that_set_it(autojump_clock: MockClock) -> None:
    async def act(_name: str, txn: Any) -> None:
        txn.config = attrs.evolve(txn.config, transaction_timeout=1.0)
        txn.respond(200, bytes(1_000_000))

    async with open_world(plugins=[make_plugin("Answering", act, "read_request")]) as world:
        began = trio.current_time()
        wire = world.connect()
        await wire.send(GET)
        await world.log.wait(patience=300)
        assert trio.current_time() - began < 10
    assert how(world.records[0]) == ("proxy", "transaction_timeout")


async def test_deadline_holds_while_a_session_starts(autojump_clock: MockClock) -> None:
    async def act(_name: str, _session: Any) -> None:
        await trio.sleep(60)

    async with open_world(plugins=[make_plugin("Slow", act, "session_start")]) as world:
        began = trio.current_time()
        assert (await world.connect(deadline=began + 1).ask()).status == 504
        assert trio.current_time() - began == pytest.approx(1, abs=0.1)
    assert how(world.records[0]) == ("proxy", "deadline")


@pytest.mark.parametrize("swallows", [False, True])
async def test_failure_is_told_whatever_a_hook_does_about_its_cancellation(swallows: bool, autojump_clock: MockClock) -> None:
    async def act(_name: str, _txn: Any) -> None:
        try:
            await trio.sleep(1000)
        except trio.Cancelled:
            if not swallows:
                raise

    plugins = [make_plugin("Slow", act, "read_request"), make_plugin("Slower", act, "send_response")]
    async with open_world(plugins=plugins, http={"transaction_timeout": 1.0}) as world:
        assert (await world.connect().ask()).status == 504
    assert (world.records[0].status, how(world.records[0])) == (504, ("proxy", "transaction_timeout"))
