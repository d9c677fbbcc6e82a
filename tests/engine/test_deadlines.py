"""One deadline through the whole chain: what is left of it is in the log, and the origin can be told."""

from __future__ import annotations

import pytest
import trio
from trio.testing import MockClock

from tests.engine._world import OK, Wire, open_world, replying


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
