"""RFC 9218: the order in which responses are written."""

from __future__ import annotations

import math
from types import SimpleNamespace

import pytest
from hypothesis import given
from hypothesis import strategies as st
from trio.testing import MockClock

from trio_tsconnect.http2 import Http2Limits
from trio_tsconnect.http2._outbox import Outbox
from trio_tsconnect.http2._priority import DEFAULT, Priority, parse_priority
from trio_tsconnect.http2._write import Writer

from . import _raw as raw
from ._raw import DATA, FRAME_SIZE_ERROR, GET, PRIORITY_UPDATE, PROTOCOL_ERROR, WINDOW_UPDATE, frame, number, open_world, saying

SIZE = 40_000


def body(size: int, *, fields: bytes = b"") -> raw.Serve:
    return saying(b"HTTP/1.1 200 OK\r\n%bContent-Length: %d\r\n\r\n%b" % (fields, size, bytes(size)))


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        (b"", DEFAULT),
        (b"u=0", Priority(0)),
        (b"u=7, i", Priority(7, True)),
        (b"i,u=1", Priority(1, True)),
        (b"i=?1", Priority(3, True)),
        (b"i=?0", DEFAULT),
        (b"u=1;x=2", Priority(1)),
        (b"u=1, u=5", Priority(5)),
        (b'x="a, u=0", u=2', Priority(2)),
        (b"later=1.5, u=2, other=(1 2)", Priority(2)),
        # out of range or of the wrong type: ignored (RFC 9218 §4)
        (b"u=8", DEFAULT),
        (b"u=-1", DEFAULT),
        (b"u=1.0", DEFAULT),
        (b"u", DEFAULT),
        (b"i=1", DEFAULT),
        (b"i=1, u=2", Priority(2)),
        # not a dictionary at all: ignored whole (RFC 8941 §4.2)
        (b"u=1, =", DEFAULT),
        (b"U=1", DEFAULT),
        (b"u=1 2", DEFAULT),
    ],
)
def test_priority_field_is_read(value: bytes, expected: Priority) -> None:
    assert parse_priority(value) == expected


def test_origin_overrides_what_it_says_and_nothing_else() -> None:
    """RFC 9218 §8."""
    assert parse_priority(b"u=1", Priority(5, True)) == Priority(1, True)


def test_long_value_is_ignored_for_what_it_would_cost_to_read_it() -> None:
    """RFC 9218 §7.1, RFC 9113 §10.5."""
    assert parse_priority(b"u=1," + b"a" * 252) == Priority(1)
    assert parse_priority(b"u=1," + b"a" * 253) == DEFAULT
    assert parse_priority(b"u=1, " + b'"\\' * 30_000) == DEFAULT


@given(st.binary(max_size=60))
def test_any_value_is_a_priority(value: bytes) -> None:
    priority = parse_priority(value)
    assert 0 <= priority.urgency <= 7


async def ask(world: raw.World, requests: dict[int, str | None], *before: bytes) -> None:
    """Use the connection's window up, then ask for all of these."""
    client = world.client
    world.origin.serve = body(65535)
    await client.get(1)
    world.origin.serve = body(SIZE)
    client.frames.clear()
    await client.send(*before)
    for stream, priority in requests.items():
        await client.send(client.head(stream, [*GET, ("priority", priority)] if priority is not None else GET))
    await client.settle()
    assert not any(got.kind == DATA for got in client.frames)


async def order(world: raw.World) -> list[int]:
    """Open the window bit by bit: the streams in the order in which their data comes, without those that repeat."""
    client = world.client
    while not all(answer.ended for answer in client.answers.values() if answer.fields):
        await client.send(frame(WINDOW_UPDATE, 0, 0, number(20_000)))
        await client.settle()
    seen = [got.stream for got in client.frames if got.kind == DATA and got.payload]
    return [stream for at, stream in enumerate(seen) if seen[at - 1 : at] != [stream]]


async def test_urgent_responses_come_first(autojump_clock: MockClock) -> None:
    async with open_world(initial_window_size=1 << 20) as world:
        await ask(world, {3: "u=5", 5: None, 7: "u=0", 9: "u=2"})
        assert await order(world) == [7, 9, 5, 3]


async def test_equals_come_one_after_another(autojump_clock: MockClock) -> None:
    async with open_world(initial_window_size=1 << 20) as world:
        await ask(world, {3: None, 5: "u=3", 7: None})
        assert await order(world) == [3, 5, 7]


async def test_incremental_equals_take_turns(autojump_clock: MockClock) -> None:
    async with open_world(initial_window_size=1 << 20) as world:
        await ask(world, {3: "i", 5: "i"})
        assert await order(world) == [3, 5, 3, 5, 3, 5]


async def test_less_urgent_ones_wait_for_incremental_ones_that_move(autojump_clock: MockClock) -> None:
    """RFC 9218 §10: sharing is between equals."""
    async with open_world(initial_window_size=1 << 20) as world:
        await ask(world, {3: "u=7", 5: "u=0, i"})
        assert await order(world) == [5, 3]


class FakeStream:
    """As much of a stream as the writer looks at."""

    def __init__(self) -> None:
        self.id = 1
        self.outbox = Outbox()
        self.moved = math.inf
        self.turn = 0

    def sent(self) -> None:
        """Nobody waits for room."""


@pytest.mark.parametrize(("window", "stalls"), [(1_000_000, False), (16_384, True)])
async def test_stream_stalls_when_a_window_keeps_it_back_and_not_when_the_batch_is_full(window: int, stalls: bool) -> None:
    """`moved` is what `inactivity_timeout` looks at: a stream that more urgent ones keep waiting is no fault of the client's."""
    h2 = SimpleNamespace(local_flow_control_window=lambda _: window, outbound_flow_control_window=1 << 20, send_data=lambda *_, **__: None)
    writer = Writer(SimpleNamespace(h2=h2, frame_size=16_384), None, Http2Limits(), start=print, ended=print)  # type: ignore[arg-type]
    stream = FakeStream()
    stream.outbox.data += bytes(100_000)
    assert writer._write_data(stream, 16_384) == (16_384, True)  # type: ignore[arg-type]
    assert (stream.moved != math.inf) is stalls


async def test_update_changes_the_order_of_what_is_under_way(autojump_clock: MockClock) -> None:
    """RFC 9218 §7."""
    async with open_world(initial_window_size=1 << 20) as world:
        await ask(world, {3: None, 5: None, 7: None})
        await world.client.send(frame(PRIORITY_UPDATE, 0, 0, number(7) + b"u=0"), frame(PRIORITY_UPDATE, 0, 0, number(3) + b"u=7"))
        assert await order(world) == [7, 5, 3]


async def test_update_may_come_before_its_request(autojump_clock: MockClock) -> None:
    async with open_world(initial_window_size=1 << 20) as world:
        await ask(world, {3: None, 5: "u=6"}, frame(PRIORITY_UPDATE, 0, 0, number(5) + b"u=1"))
        assert await order(world) == [5, 3]


async def test_origin_may_set_the_priority(autojump_clock: MockClock) -> None:
    """RFC 9218 §8."""
    async with open_world(initial_window_size=1 << 20) as world:
        await ask(world, {})
        client = world.client
        world.origin.serve = body(SIZE, fields=b"Priority: u=6\r\n")
        await client.send(client.head(3, GET))
        await client.settle()
        world.origin.serve = body(SIZE)
        await client.send(client.head(5, GET))
        await client.settle()
        assert await order(world) == [5, 3]


async def test_stream_whose_window_is_closed_holds_nobody_back(autojump_clock: MockClock) -> None:
    async with open_world(initial_window_size=1000) as world:
        client = world.client
        world.origin.serve = body(SIZE)
        await client.send(client.head(1, [*GET, ("priority", "u=0")]), client.head(3, GET))
        await client.send(frame(WINDOW_UPDATE, 0, 3, number(SIZE)))
        assert len((await client.answer(3)).body) == SIZE
        assert len(client.answers[1].body) == 1000


@pytest.mark.parametrize(
    ("bad", "code"),
    [
        (frame(PRIORITY_UPDATE, 0, 1, number(1)), PROTOCOL_ERROR),
        (frame(PRIORITY_UPDATE, 0, 0, number(0)), PROTOCOL_ERROR),
        (frame(PRIORITY_UPDATE, 0, 0, number(2)), PROTOCOL_ERROR),
        (frame(PRIORITY_UPDATE, 0, 0, bytes(3)), FRAME_SIZE_ERROR),
    ],
    ids=["on a stream", "of the connection", "of a push", "too short"],
)
async def test_malformed_update_ends_the_connection(autojump_clock: MockClock, bad: bytes, code: int) -> None:
    async with open_world() as world:
        await world.client.send(bad)
        assert (await world.client.goaway()).number == code


async def test_update_of_a_closed_stream_is_ignored(autojump_clock: MockClock) -> None:
    async with open_world() as world:
        await world.client.get(1)
        await world.client.send(frame(PRIORITY_UPDATE, 0, 0, number(1) + b"u=1"))
        assert (await world.client.get(3)).status == "200"
