"""RFC 9218: the order in which responses are written."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st
from trio.testing import MockClock

from trio_tsconnect.http2._priority import DEFAULT, Priority, parse_priority

from . import _raw as raw
from ._raw import DATA, END_STREAM, FRAME_SIZE_ERROR, GET, PRIORITY_UPDATE, PROTOCOL_ERROR, WINDOW_UPDATE, frame, number, open_world, saying

SIZE = 40_000
BODY = saying(b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n%b" % (SIZE, bytes(SIZE)))


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


@given(st.binary(max_size=60))
def test_any_value_is_a_priority(value: bytes) -> None:
    priority = parse_priority(value)
    assert 0 <= priority.urgency <= 7


async def order(world: raw.World, requests: dict[int, str | None], *before: bytes) -> list[int]:
    """Ask for all at once with the connection's window closed, open it bit by bit, and tell in which order data comes."""
    client = world.client
    await client.send(*before)
    for stream, priority in requests.items():
        await client.send(client.head(stream, [*GET, ("priority", priority)] if priority is not None else GET))
    await client.settle()
    return await read_order(client, len(requests))


async def read_order(client: raw.RawClient, count: int) -> list[int]:
    """The streams of the DATA frames, without those that repeat."""
    seen: list[int] = []
    ended = sum(answer.ended for answer in client.answers.values())
    while ended < count:
        await client.send(frame(WINDOW_UPDATE, 0, 0, number(20_000)))
        await client.settle()
        ended = sum(answer.ended for answer in client.answers.values())
    for got in client.frames:
        if got.kind == DATA and got.payload and seen[-1:] != [got.stream]:
            seen.append(got.stream)
    return seen


def closed_window(client: raw.RawClient) -> bytes:
    """A request that uses up the connection's window."""
    return client.head(101, GET)


async def test_urgent_responses_come_first(autojump_clock: MockClock) -> None:
    async with open_world(BODY, initial_window_size=1 << 20) as world:
        await exhaust(world)
        assert await order(world, {103: "u=5", 105: None, 107: "u=0", 109: "u=3"}) == [101, 107, 105, 109, 103]


async def exhaust(world: raw.World) -> None:
    """Leave the connection's window as good as closed: 65535 bytes are 40000 and 25535 of two responses, of which the second is the last to end."""
    client = world.client
    await client.send(client.head(1, GET), client.head(101, [*GET, ("priority", "u=0")]))
    await client.settle()
    await client.settle()
    assert sum(len(answer.body) for answer in client.answers.values()) == 65535
    client.frames.clear()
    del client.answers[1]


async def test_equals_come_one_after_another(autojump_clock: MockClock) -> None:
    async with open_world(BODY, initial_window_size=1 << 20) as world:
        await exhaust(world)
        assert await order(world, {103: None, 105: None, 107: None}) == [101, 103, 105, 107]


async def test_incremental_equals_take_turns(autojump_clock: MockClock) -> None:
    async with open_world(BODY, initial_window_size=1 << 20) as world:
        await exhaust(world)
        seen = await order(world, {103: "i", 105: "i"})
        assert seen[0] == 101
        assert seen.count(103) > 1
        assert seen.count(105) > 1


async def test_update_changes_the_order_of_what_is_under_way(autojump_clock: MockClock) -> None:
    """RFC 9218 §7."""
    async with open_world(BODY, initial_window_size=1 << 20) as world:
        await exhaust(world)
        client = world.client
        await client.send(client.head(103, GET), client.head(105, GET))
        await client.settle()
        await client.send(frame(PRIORITY_UPDATE, 0, 0, number(105) + b"u=0"), frame(PRIORITY_UPDATE, 0, 0, number(101) + b"u=7"))
        assert await read_order(client, 3) == [105, 103, 101]


async def test_update_may_come_before_its_request(autojump_clock: MockClock) -> None:
    async with open_world(BODY, initial_window_size=1 << 20) as world:
        await exhaust(world)
        update = frame(PRIORITY_UPDATE, 0, 0, number(105) + b"u=1")
        assert await order(world, {103: None, 105: "u=6"}, update) == [101, 105, 103]


async def test_origin_may_set_the_priority(autojump_clock: MockClock) -> None:
    """RFC 9218 §8."""
    async with open_world(BODY, initial_window_size=1 << 20) as world:
        await exhaust(world)
        world.origin.serve = saying(b"HTTP/1.1 200 OK\r\nPriority: u=6\r\nContent-Length: %d\r\n\r\n%b" % (SIZE, bytes(SIZE)))
        client = world.client
        await client.send(client.head(103, GET))
        await client.settle()
        world.origin.serve = BODY
        assert await order(world, {105: None}) == [101, 105] or [got.stream for got in client.frames]
        assert (await read_order(client, 3))[-1] == 103


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
        assert END_STREAM
