"""RFC 9113 §5.1, §5.4 and §6.4: states of streams, their numbers, and what an error of one does."""

from __future__ import annotations

from functools import partial

import pytest
import trio
from trio.testing import MockClock, wait_all_tasks_blocked

from trio_tsconnect import HttpConfig, Plugin, Transaction, open_virtual_connection_pair
from trio_tsconnect.http2 import Http2Limits, serve_http2

from . import _raw as raw
from ._raw import (
    CANCEL,
    DATA,
    END_STREAM,
    GET,
    INTERNAL_ERROR,
    POST,
    PROTOCOL_ERROR,
    REFUSED_STREAM,
    RST_STREAM,
    STREAM_CLOSED,
    WINDOW_UPDATE,
    frame,
    number,
    open_world,
    saying,
    silence,
    swallow,
)


@pytest.mark.parametrize(
    "frames",
    [
        frame(DATA, END_STREAM, 1, b"x"),
        frame(RST_STREAM, 0, 1, number(CANCEL)),
        frame(WINDOW_UPDATE, 0, 1, number(5)),
        frame(RST_STREAM, 0, 2, number(0)),
    ],
    ids=["DATA", "RST_STREAM", "WINDOW_UPDATE", "RST_STREAM of ours"],
)
async def test_frame_on_an_idle_stream_ends_the_connection(autojump_clock: MockClock, frames: bytes) -> None:
    """RFC 9113 §5.1, idle."""
    async with open_world() as world:
        await world.client.send(frames)
        assert (await world.client.goaway()).number == PROTOCOL_ERROR


@pytest.mark.parametrize(("given", "refused"), [(None, 3), (Http2Limits(max_concurrent_streams=2), 5)])
async def test_limits_are_the_configurations_unless_others_are_given(
    autojump_clock: MockClock, given: Http2Limits | None, refused: int
) -> None:
    async with open_world(silence, limits=Http2Limits(max_concurrent_streams=1)) as world:
        ours, theirs = open_virtual_connection_pair(buffer_index=14)
        world.nursery.start_soon(partial(serve_http2, world.proxy, theirs, limits=given))
        client = raw.RawClient(ours)
        await client.greet()
        await client.send(*(client.head(each, GET) for each in (1, 3, 5)))
        await client.settle()
        assert client.answers[refused].reset == REFUSED_STREAM
        assert refused - 2 not in client.answers
        await ours.aclose()


async def test_data_after_the_end_is_a_fault_of_its_stream(autojump_clock: MockClock) -> None:
    """RFC 9113 §5.1, half-closed (remote)."""
    async with open_world(silence) as world:
        client = world.client
        await client.send(client.head(1, GET), client.head(3, GET))
        await client.ping()
        await client.send(client.data(1, b"more"))
        assert (await client.answer(1)).reset == STREAM_CLOSED
        await client.ping()
        assert 3 not in client.answers
        assert [record.stream for record in await world.records(1)] == [1]


async def test_second_request_on_a_stream_is_a_fault(autojump_clock: MockClock) -> None:
    async with open_world(silence) as world:
        client = world.client
        await client.send(client.head(1, GET))
        await client.ping()
        await client.send(client.head(1, GET))
        while (got := await client.next_frame()) is not None and got.kind not in (RST_STREAM, raw.GOAWAY):
            pass
        assert got is not None
        assert got.number == STREAM_CLOSED


async def test_request_on_a_closed_stream_ends_the_connection(autojump_clock: MockClock) -> None:
    async with open_world() as world:
        await world.client.get(1)
        await world.client.send(world.client.head(1, GET))
        assert (await world.client.goaway()).number == STREAM_CLOSED


async def test_update_of_a_closed_streams_window_is_ignored(autojump_clock: MockClock) -> None:
    """RFC 9113 §5.1, closed."""
    async with open_world() as world:
        await world.client.get(1)
        await world.client.send(
            frame(WINDOW_UPDATE, 0, 1, number(5)), frame(raw.PRIORITY, 0, 1, bytes(5)), frame(RST_STREAM, 0, 1, number(0))
        )
        assert (await world.client.get(3)).status == "200"


async def test_numbers_must_be_odd_and_grow(autojump_clock: MockClock) -> None:
    """RFC 9113 §5.1.1."""
    async with open_world() as world:
        await world.client.send(world.client.head(2, GET))
        assert (await world.client.goaway()).number == PROTOCOL_ERROR
        other = world.open_client()
        await other.greet()
        await other.get(5)
        await other.send(other.head(3, GET))
        assert (await other.goaway()).number == PROTOCOL_ERROR


async def test_one_stream_too_many_is_refused_and_hurts_no_other(autojump_clock: MockClock) -> None:
    """RFC 9113 §5.1.2."""
    async with open_world(silence, limits=Http2Limits(max_concurrent_streams=2)) as world:
        client = world.client
        await client.send(*(client.head(stream, GET) for stream in (1, 3, 5)))
        assert (await client.answer(5)).reset == REFUSED_STREAM
        assert client.answers.get(1, raw.Answer()).reset is None
        await client.settle()
        await client.send(frame(RST_STREAM, 0, 1, number(CANCEL)), client.head(7, GET))
        await client.settle()
        assert client.answers.get(7, raw.Answer()).reset is None
        assert len(world.origin.requests) == 3


async def test_table_stays_in_step_when_a_stream_is_refused(autojump_clock: MockClock) -> None:
    """RFC 9113 §4.3: a head is decoded whatever becomes of its stream."""
    async with open_world(silence, limits=Http2Limits(max_concurrent_streams=1)) as world:
        client = world.client
        named = [*GET, ("x-name", "a-value-that-is-not-in-any-table")]
        await client.send(client.head(1, GET), client.head(3, named), frame(RST_STREAM, 0, 1, number(CANCEL)), client.head(5, named))
        await client.settle()
        assert "a-value-that-is-not-in-any-table" in [head[2].get("x-name") for head in world.origin.heads]


async def test_malformed_request_resets_its_stream_alone(autojump_clock: MockClock) -> None:
    """RFC 9113 §8.1.1, §5.4.2."""
    async with open_world() as world:
        client = world.client
        await client.send(client.head(1, [*GET, ("connection", "close")]), client.head(3, GET))
        assert (await client.answer(1)).reset == PROTOCOL_ERROR
        assert (await client.answer(3)).status == "200"
        records = {record.stream: record for record in await world.records(2)}
        assert records[1].ended.by == "client"
        assert records[1].status is None
        assert [head[0] for head in world.origin.heads] == ["GET"]


async def test_stream_that_depends_on_itself_is_reset(autojump_clock: MockClock) -> None:
    async with open_world() as world:
        block = world.client.head(1, GET)[9:]
        flags = raw.END_HEADERS | END_STREAM | raw.HAS_PRIORITY
        await world.client.send(frame(raw.HEADERS, flags, 1, number(1) + b"\x0f" + block))
        assert (await world.client.answer(1)).reset == PROTOCOL_ERROR
        assert (await world.client.get(3)).status == "200"


@pytest.mark.parametrize(
    ("bad", "code"),
    [
        (frame(raw.PRIORITY, 0, 1, bytes(4)), raw.FRAME_SIZE_ERROR),
        (frame(raw.PRIORITY, 0, 1, number(1) + b"\x00"), PROTOCOL_ERROR),
        (frame(WINDOW_UPDATE, 0, 1, number(0)), PROTOCOL_ERROR),
        (frame(WINDOW_UPDATE, 0, 1, number((1 << 31) - 1)), raw.FLOW_CONTROL_ERROR),
    ],
    ids=["short PRIORITY", "depends on itself", "update by nothing", "window too large"],
)
async def test_fault_of_one_stream_leaves_the_others(autojump_clock: MockClock, bad: bytes, code: int) -> None:
    """RFC 9113 §6.3, §6.9."""
    async with open_world(silence) as world:
        client = world.client
        await client.send(client.head(1, GET), client.head(3, GET))
        await client.ping()
        await client.send(bad)
        assert (await client.answer(1)).reset == code
        await client.ping()
        assert 3 not in client.answers
        assert [record.stream for record in await world.records(1)] == [1]


async def test_priority_of_the_wrong_size_for_a_stream_that_is_over_ends_the_connection(autojump_clock: MockClock) -> None:
    """RFC 9113 §6.3: what is a fault must not depend on whether the response was quicker; such a stream cannot be reset any more (§5.1)."""
    async with open_world() as world:
        client = world.client
        await client.get(1)
        await client.send(frame(raw.PRIORITY, 0, 1, number(1) + b"\x0f"))  # depends on itself: ignored like all of it
        assert (await client.get(3)).status == "200"
        await client.send(frame(raw.PRIORITY, 0, 1, bytes(4)))
        assert (await client.goaway()).number == raw.FRAME_SIZE_ERROR


async def test_priority_of_an_idle_stream_is_ignored(autojump_clock: MockClock) -> None:
    async with open_world() as world:
        await world.client.send(frame(raw.PRIORITY, 0, 9, number(7) + b"\x0f"))
        assert (await world.client.get()).status == "200"


async def test_reset_by_the_client_cancels_the_transaction_and_its_origin(autojump_clock: MockClock) -> None:
    ended = trio.Event()

    async def serve(stream: trio.abc.HalfCloseableStream) -> None:
        await raw.read_head(stream)
        try:
            await trio.sleep_forever()
        finally:
            ended.set()

    async with open_world(serve) as world:
        client = world.client
        await client.send(client.head(1, GET))
        await client.ping()
        await wait_all_tasks_blocked()
        assert not ended.is_set()
        await client.send(frame(RST_STREAM, 0, 1, number(CANCEL)))
        await ended.wait()
        (record,) = await world.records(1)
        assert (record.ended.by, record.ended.why, record.stream) == ("client", "client_gone", 1)
        assert world.proxy.statistics().sessions == 0
        assert (await client.next_frame() or None) is not None


async def test_client_that_leaves_cancels_all_its_streams(autojump_clock: MockClock) -> None:
    async with open_world(silence) as world:
        await world.client.send(*(world.client.head(stream, GET) for stream in (1, 3, 5)))
        await world.client.ping()
        await wait_all_tasks_blocked()
        await world.client.stream.aclose()
        records = await world.records(3)
        assert {(record.ended.by, record.ended.why) for record in records} == {("client", "client_gone")}


async def test_response_that_breaks_off_resets_its_stream(autojump_clock: MockClock) -> None:
    """RFC 9113 §8.1: a truncated response must not look complete."""
    async with open_world(saying(b"HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\nhalf")) as world:
        answer = await world.client.get()
        assert (answer.status, answer.body, answer.ended, answer.reset) == ("200", b"half", False, INTERNAL_ERROR)
        assert (await world.records(1))[0].ended.why == "origin_truncated"


async def test_faults_of_streams_are_not_answered_twice(autojump_clock: MockClock) -> None:
    """RFC 9113 §5.4.2: what is under way for a stream that was reset draws no more RST_STREAM (the client asserts it)."""
    async with open_world(swallow) as world:
        client = world.client
        await client.send(client.head(1, [*POST, ("te", "gzip")], end=False), *(client.data(1, b"x" * 100) for _ in range(5)))
        assert (await client.answer(1)).reset == PROTOCOL_ERROR
        await client.send(client.data(1, b"x", end=True))
        await client.ping()


async def test_data_for_a_reset_stream_opens_the_connection_window_again(autojump_clock: MockClock) -> None:
    """RFC 9113 §6.9: it counts, and is credited."""
    async with open_world(swallow, limits=Http2Limits(connection_window=65535)) as world:
        client = world.client
        await client.send(client.head(1, [*POST, ("te", "gzip")], end=False))
        await client.answer(1)
        await client.send(*(client.data(1, bytes(8000)) for _ in range(8)))
        assert (await client.until(WINDOW_UPDATE, 0)).number >= 32000
        assert (await client.get(3, [*POST[:1], *GET[1:]])).status == "200"


async def test_requests_per_connection_are_bounded(autojump_clock: MockClock) -> None:
    async with open_world(http=HttpConfig(max_requests_per_connection=2)) as world:
        assert (await world.client.get(1)).status == "200"
        assert (await world.client.get(3)).status == "200"
        gone = await world.client.until(raw.GOAWAY)
        assert gone.number == raw.NO_ERROR


async def test_trailers_that_cross_a_reset_get_no_second_one(autojump_clock: MockClock) -> None:
    """RFC 9113 §5.4.2."""
    async with open_world(raw.saying(b"HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\nx")) as world:
        client = world.client
        await client.send(client.head(1, POST, end=False))
        await client.until(RST_STREAM, 1)
        await client.send(client.data(1, b"late"), client.head(1, [("x-trailer", "1")]))
        await client.settle()
        assert sum(got.kind == RST_STREAM for got in client.frames) == 1
        assert (await client.get(3)).status == "200"


async def test_streams_that_are_complete_count_until_their_transactions_have_ended(autojump_clock: MockClock) -> None:
    class Slow(Plugin):
        async def transaction_close(self, txn: Transaction) -> None:
            await trio.sleep(3)

    async with open_world(limits=Http2Limits(max_concurrent_streams=2, max_unwinding=2), plugins=[Slow()]) as world:
        client = world.client
        for stream in (1, 3, 5, 7):
            assert (await client.get(stream)).status == "200"
        assert (await client.get(9)).reset == REFUSED_STREAM
        await trio.sleep(4)
        assert (await client.get(11)).status == "200"
