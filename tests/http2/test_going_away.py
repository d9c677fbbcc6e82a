"""RFC 9113 §6.8: GOAWAY in both directions, and the end of the proxy."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import trio
from trio.testing import MockClock, wait_all_tasks_blocked

from trio_tsconnect import ConnectRefused, HttpConfig, open_virtual_connection_pair
from trio_tsconnect.http2 import Http2Limits, serve_http2

from . import _raw as raw
from ._raw import (
    CANCEL,
    GET,
    GOAWAY,
    NO_ERROR,
    PING,
    POST,
    REFUSED_STREAM,
    RST_STREAM,
    RawClient,
    frame,
    number,
    open_world,
    read_head,
    silence,
)

HIGHEST = (1 << 31) - 1


class Slow:
    """An origin that answers when it is told to."""

    def __init__(self) -> None:
        self.go = trio.Event()

    async def __call__(self, stream: trio.abc.HalfCloseableStream) -> None:
        await read_head(stream)
        await self.go.wait()
        await stream.send_all(b"HTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\nslow")


async def test_draining_says_goodbye_twice_and_finishes_what_was_begun(autojump_clock: MockClock) -> None:
    slow = Slow()
    async with open_world(slow) as world:
        client = world.client
        await client.send(client.head(1, GET))
        await client.settle()
        world.nursery.start_soon(world.proxy.drain, 60)
        first = await client.until(GOAWAY)
        assert (first.last_stream, first.number) == (HIGHEST, NO_ERROR)
        ping = await client.until(PING)
        # under way before the client could know: it is served
        await client.send(client.head(3, GET), frame(PING, raw.ACK, 0, ping.payload))
        second = await client.until(GOAWAY)
        assert (second.last_stream, second.number) == (3, NO_ERROR)
        await client.send(client.head(5, GET))
        assert (await client.answer(5)).reset == REFUSED_STREAM
        slow.go.set()
        assert (await client.answer(1)).body == b"slow"
        assert (await client.answer(3)).body == b"slow"
        assert await client.next_frame() is None
        assert {record.stream for record in await world.records(2)} == {1, 3}


async def test_final_goodbye_comes_without_an_answer_to_the_ping(autojump_clock: MockClock) -> None:
    async with open_world(Slow()) as world:
        client = world.client
        await client.send(client.head(1, GET))
        await client.settle()
        world.nursery.start_soon(world.proxy.drain, 60)
        await client.until(GOAWAY)
        begun = trio.current_time()
        assert (await client.until(GOAWAY)).last_stream == 1
        assert trio.current_time() - begun == pytest.approx(1)


async def test_draining_ends_an_idle_connection(autojump_clock: MockClock) -> None:
    async with open_world() as world:
        await world.client.get()
        world.nursery.start_soon(world.proxy.drain, 60)
        assert (await world.client.goaway()).last_stream == 1
        assert trio.current_time() < 2


async def test_connection_that_begins_while_draining_is_closed(autojump_clock: MockClock) -> None:
    async with open_world(Slow()) as world:
        await world.client.send(world.client.head(1, GET))
        await world.client.settle()
        world.nursery.start_soon(world.proxy.drain, 60)
        await wait_all_tasks_blocked()
        with pytest.raises(ConnectRefused):
            world.proxy.connect()
        other = world.open_client()
        await other.greet(other.head(1, GET))
        gone = [got for got in [await other.next_frame() for _ in range(8)] if got is not None and got.kind == GOAWAY]
        assert gone


async def test_end_of_the_proxy_resets_what_is_left(autojump_clock: MockClock) -> None:
    async with open_world(silence, http=HttpConfig(drain_timeout=3)) as world:
        client = world.client
        await client.send(client.head(1, GET))
        await client.settle()
        assert await world.proxy.drain(3) is False
        world.nursery.start_soon(world.proxy._end)
        while await client.next_frame() is not None:
            pass
        (record,) = await world.records(1)
        assert record.ended.by == "proxy"


async def test_client_that_goes_away_is_still_answered(autojump_clock: MockClock) -> None:
    slow = Slow()
    async with open_world(slow) as world:
        client = world.client
        await client.send(client.head(1, GET), frame(GOAWAY, 0, 0, number(0) + number(NO_ERROR)))
        await client.settle()
        slow.go.set()
        assert (await client.answer(1)).body == b"slow"
        assert await client.next_frame() is None


async def test_idle_client_that_goes_away_is_let_go(autojump_clock: MockClock) -> None:
    async with open_world() as world:
        await world.client.get()
        await world.client.send(frame(GOAWAY, 0, 0, number(0) + number(raw.INTERNAL_ERROR) + b"why"))
        while await world.client.next_frame() is not None:
            pass
        assert trio.current_time() == 0


@pytest.mark.parametrize("steps", range(10))
@pytest.mark.parametrize("with_the_proxy", [True, False])
async def test_cancelled_server_cancels_its_transactions(autojump_clock: MockClock, steps: int, with_the_proxy: bool) -> None:
    """And the record says that it was the proxy's doing, as it does of HTTP/1.1, also of a request that has only just come."""
    async with open_world(silence) as world, trio.open_nursery() as clients:
        ours, theirs = open_virtual_connection_pair(buffer_index=14)
        clients.start_soon(serve_http2, world.proxy, theirs)
        client = RawClient(ours)
        await client.greet()
        await client.send(client.head(1, GET), client.head(3, POST, end=False), client.data(3, b"x" * 100))
        await client.settle()
        await client.send(client.head(5, GET), client.head(7, POST, end=False), client.data(7, b"x" * 100))
        for _ in range(steps):
            await trio.lowlevel.checkpoint()
        (world.nursery if with_the_proxy else clients).cancel_scope.cancel()
        await trio.lowlevel.cancel_shielded_checkpoint()
        with trio.CancelScope(shield=True):
            await wait_all_tasks_blocked()
        assert world.proxy.statistics().sessions == 0
        ended = {record.stream: (record.ended.by, record.ended.why) for record in world.log.records}
        assert len(world.log.records) == len(ended)
        assert {1, 3} <= set(ended)
        assert set(ended.values()) == {("proxy", "cancelled")}


def whole(client: RawClient) -> bytes:
    return client.head(1, GET)


def with_a_body(client: RawClient) -> bytes:
    return client.head(1, POST, end=False) + client.data(1, b"x" * 100)


def larger_than_its_buffer(client: RawClient) -> bytes:
    return client.head(1, [*GET, ("x", "y" * 3000)])


def tunnel(client: RawClient) -> bytes:
    return client.head(1, [(":method", "CONNECT"), (":protocol", "websocket"), *GET[1:]], end=False)


def by_reset(client: RawClient) -> bytes:
    return frame(RST_STREAM, 0, 1, number(CANCEL))


def by_fault(client: RawClient) -> bytes:
    return frame(raw.DATA, 0, 0)


@pytest.mark.parametrize(("end", "why"), [(by_reset, "client_gone"), (by_fault, "protocol_error")])
@pytest.mark.parametrize("ask", [whole, with_a_body, larger_than_its_buffer, tunnel])
async def test_request_that_ends_in_the_moment_in_which_it_came_has_its_record(
    autojump_clock: MockClock, ask: Callable[[RawClient], bytes], end: Callable[[RawClient], bytes], why: str
) -> None:
    async with open_world(silence, limits=Http2Limits(buffer_index=3)) as world:
        client = world.client
        await client.send(ask(client) + end(client))
        (record,) = await world.records(1)
        assert (record.stream, record.url, record.ended.by, record.ended.why) == (1, "http://site.example/", "client", why)


@pytest.mark.parametrize("steps", range(8))
@pytest.mark.parametrize("ask", [whole, with_a_body, larger_than_its_buffer])
async def test_request_that_ends_a_moment_later_has_one_record_too(
    autojump_clock: MockClock, ask: Callable[[RawClient], bytes], steps: int
) -> None:
    async with open_world(silence, limits=Http2Limits(buffer_index=3)) as world:
        client = world.client
        await client.send(ask(client))
        for _ in range(steps):
            await trio.lowlevel.checkpoint()
        await client.send(by_reset(client))
        (record,) = await world.records(1)
        assert (record.stream, record.ended.by, record.ended.why) == (1, "client", "client_gone")


@pytest.mark.parametrize("steps", range(6))
@pytest.mark.parametrize("ask", [whole, with_a_body, larger_than_its_buffer, tunnel])
async def test_proxy_may_end_in_the_moment_in_which_a_request_comes(
    autojump_clock: MockClock, caplog: pytest.LogCaptureFixture, ask: Callable[[RawClient], bytes], steps: int
) -> None:
    async with open_world(silence, limits=Http2Limits(buffer_index=3)) as world:
        client = world.client
        await client.settle()
        await client.send(ask(client))
        for _ in range(steps):
            await trio.lowlevel.checkpoint()
        await world.proxy._end()
        assert world.proxy.statistics().sessions == 0
        assert len(world.log.records) <= 1
    assert not caplog.records


async def test_connection_that_begins_while_draining_says_its_settings_first(autojump_clock: MockClock) -> None:
    """RFC 9113 §3.4."""
    async with open_world(greet=False) as world, trio.open_nursery() as nursery:
        busy = world.open_client()
        await busy.greet()
        await busy.ping()
        nursery.start_soon(world.proxy.drain, 60)
        await wait_all_tasks_blocked()
        late = world.open_client()
        await late.greet()
        first = await late.next_frame()
        assert first is not None
        assert first.kind == raw.SETTINGS
        await late.stream.aclose()
        await busy.stream.aclose()


async def test_connection_that_ends_for_a_fault_is_no_matter_to_a_drain(autojump_clock: MockClock) -> None:
    """It is still there while its client does not read the GOAWAY."""
    async with open_world(silence, buffer_index=1) as world, trio.open_nursery() as nursery:
        client = world.client
        await client.settle()
        await client.send(*[frame(PING, 0, 0, b"question")] * 20)
        await client.send(frame(raw.DATA, 0, 0))
        await wait_all_tasks_blocked()
        nursery.start_soon(world.proxy.drain, 60)
        await wait_all_tasks_blocked()
        codes = []
        while (got := await client.next_frame()) is not None:
            if got.kind == GOAWAY:
                codes.append(got.number)
        assert codes == [raw.PROTOCOL_ERROR]
