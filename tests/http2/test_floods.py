"""RFC 9113 §10.5: what costs a client nothing and us much. Each flood ends its own connection, holds little memory, and hurts nobody else."""

from __future__ import annotations

import struct
import tracemalloc
from collections.abc import Callable, Iterator
from functools import partial
from typing import Any

import pytest
import trio
from trio.testing import MockClock, wait_all_tasks_blocked

from trio_tsconnect import HttpConfig, Plugin, ProxyConfig, Transaction, open_proxy, open_virtual_connection_pair
from trio_tsconnect.http2 import Http2Limits, RateLimit, serve_auto
from trio_tsconnect.http2._errors import ConnectionFault
from trio_tsconnect.http2._frontend import Connection
from trio_tsconnect.http2._limits import Meter, Shared
from trio_tsconnect.http2._receive import Receiver

from . import _raw as raw
from ._raw import (
    ACK,
    CANCEL,
    CONTINUATION,
    DATA,
    END_HEADERS,
    ENHANCE_YOUR_CALM,
    GET,
    HEADERS,
    PADDED,
    PING,
    POST,
    PRIORITY,
    REFUSED_STREAM,
    RST_STREAM,
    WINDOW_UPDATE,
    RawClient,
    frame,
    number,
    open_world,
    settings,
    silence,
)

MIB = 1 << 20


def rapid_resets(client: RawClient) -> Iterator[bytes]:
    """CVE-2023-44487."""
    for stream in range(1, 20_000, 2):
        yield client.head(stream, GET) + frame(RST_STREAM, 0, stream, number(CANCEL))


def made_you_reset(client: RawClient) -> Iterator[bytes]:
    """CVE-2025-8671: requests that are in order, and then something that makes the server reset them."""
    for stream in range(1, 20_000, 2):
        yield client.head(stream, GET) + frame(WINDOW_UPDATE, 0, stream, number(0))


def made_you_reset_by_priority(client: RawClient) -> Iterator[bytes]:
    for stream in range(1, 20_000, 2):
        yield client.head(stream, GET) + frame(PRIORITY, 0, stream, number(stream) + b"\x00")


def made_you_reset_by_length(client: RawClient) -> Iterator[bytes]:
    for stream in range(1, 20_000, 2):
        yield client.head(stream, [*POST, ("content-length", "5")], end=False) + client.data(stream, b"x", end=True)


def made_you_reset_by_trailers(client: RawClient) -> Iterator[bytes]:
    for stream in range(1, 20_000, 2):
        yield client.head(stream, POST, end=False) + client.head(stream, [(":path", "/")])


def made_you_reset_by_data(client: RawClient) -> Iterator[bytes]:
    for stream in range(1, 20_000, 2):
        yield client.head(stream, GET) + frame(DATA, 0, stream, b"x")


def made_you_reset_by_window(client: RawClient) -> Iterator[bytes]:
    for stream in range(1, 20_000, 2):
        yield client.head(stream, GET) + frame(WINDOW_UPDATE, 0, stream, number((1 << 31) - 1))


def malformed(client: RawClient) -> Iterator[bytes]:
    for stream in range(1, 20_000, 2):
        yield client.head(stream, [*GET, ("connection", "close")])


def refused(client: RawClient) -> Iterator[bytes]:
    """Streams beyond the limit, without end."""
    for stream in range(1, 20_000, 2):
        yield client.head(stream, GET)


def endless_head(client: RawClient) -> Iterator[bytes]:
    """CVE-2024-27316."""
    yield frame(HEADERS, 0, 1, b"\x82")
    for _ in range(1000):
        yield frame(CONTINUATION, 0, 1, b"\x00\x01a\x01b" * 100)


def empty_continuations(client: RawClient) -> Iterator[bytes]:
    yield frame(HEADERS, 0, 1, b"\x82")
    for _ in range(10_000):
        yield frame(CONTINUATION, 0, 1)


def large_head(client: RawClient) -> Iterator[bytes]:
    yield frame(HEADERS, 0, 1, b"\x82")
    for _ in range(8):
        yield frame(CONTINUATION, 0, 1, (b"\x00\x01a\x7f\xff\x7d" + bytes(16000)))


def hpack_bomb(client: RawClient) -> Iterator[bytes]:
    """One entry of 4 KiB, referred to by a byte at a time."""
    yield frame(HEADERS, END_HEADERS | 1, 1, b"\x82\x86\x84\x41\x01x" + b"\x40\x01a\x7f\xa1\x1e" + b"b" * 4000 + b"\xbe" * 16000 * 0)
    yield frame(HEADERS, END_HEADERS | 1, 3, b"\x82\x86\x84" + b"\xbe" * 10_000)


def setting_flood(client: RawClient) -> Iterator[bytes]:
    """CVE-2019-9515."""
    for _ in range(10_000):
        yield settings(initial_window_size=65535)


def setting_acknowledgements(client: RawClient) -> Iterator[bytes]:
    for _ in range(10_000):
        yield frame(raw.SETTINGS, ACK, 0)


def ping_flood(client: RawClient) -> Iterator[bytes]:
    """CVE-2019-9512."""
    for _ in range(10_000):
        yield frame(PING, 0, 0, bytes(8))


def empty_data(client: RawClient) -> Iterator[bytes]:
    """CVE-2019-9518."""
    yield client.head(1, POST, end=False)
    for _ in range(10_000):
        yield frame(DATA, 0, 1)


def padding_only(client: RawClient) -> Iterator[bytes]:
    yield client.head(1, POST, end=False)
    for _ in range(10_000):
        yield frame(DATA, PADDED, 1, b"\x00")


def priorities(client: RawClient) -> Iterator[bytes]:
    """CVE-2019-9513, and 48 kB that are the end of some servers."""
    for stream in range(1, 20_000, 2):
        yield frame(PRIORITY, 0, stream, number(0) + b"\x0f")


def priority_updates(client: RawClient) -> Iterator[bytes]:
    for stream in range(1, 20_000, 2):
        yield frame(raw.PRIORITY_UPDATE, 0, 0, number(stream) + b"u=1")


def window_updates(client: RawClient) -> Iterator[bytes]:
    for _ in range(10_000):
        yield frame(WINDOW_UPDATE, 0, 0, number(1))


def unknown_frames(client: RawClient) -> Iterator[bytes]:
    for _ in range(10_000):
        yield frame(0xEE, 0, 0)


def data_of_closed_streams(client: RawClient) -> Iterator[bytes]:
    yield client.head(1, GET) + frame(RST_STREAM, 0, 1, number(CANCEL))
    for _ in range(10_000):
        yield frame(DATA, 0, 1, bytes(64))


def heads_of_a_stream_it_has_reset(client: RawClient) -> Iterator[bytes]:
    yield client.head(1, GET) + frame(RST_STREAM, 0, 1, number(CANCEL))
    for _ in range(10_000):
        yield frame(HEADERS, END_HEADERS | raw.END_STREAM, 1, b"\x82")


def heads_of_a_stream_we_have_reset(client: RawClient) -> Iterator[bytes]:
    yield client.head(1, [("a", "b")])
    for _ in range(10_000):
        yield frame(HEADERS, END_HEADERS | raw.END_STREAM, 1, b"\x82")


def goaways(client: RawClient) -> Iterator[bytes]:
    yield client.head(1, GET)
    for _ in range(10_000):
        yield frame(raw.GOAWAY, 0, 0, bytes(8))


FLOODS: list[Callable[[RawClient], Iterator[bytes]]] = [
    rapid_resets,
    made_you_reset,
    made_you_reset_by_priority,
    made_you_reset_by_data,
    made_you_reset_by_length,
    made_you_reset_by_trailers,
    made_you_reset_by_window,
    malformed,
    refused,
    endless_head,
    empty_continuations,
    large_head,
    hpack_bomb,
    setting_flood,
    setting_acknowledgements,
    ping_flood,
    empty_data,
    padding_only,
    priorities,
    priority_updates,
    window_updates,
    unknown_frames,
    data_of_closed_streams,
    heads_of_a_stream_it_has_reset,
    heads_of_a_stream_we_have_reset,
    goaways,
]


async def send_all_of(client: RawClient, frames: Iterator[bytes]) -> int:
    """Send until the server has had enough; how many pieces it took."""
    sent = 0
    for piece in frames:
        try:
            await client.stream.send_all(piece)
        except trio.BrokenResourceError:
            break
        sent += 1
    return sent


@pytest.mark.parametrize("flood", FLOODS, ids=lambda flood: flood.__name__)
async def test_flood_ends_its_connection_and_no_other(autojump_clock: MockClock, flood: Callable[[RawClient], Iterator[bytes]]) -> None:
    async with open_world(silence) as world:
        other = world.open_client()
        await other.greet()
        await other.ping()
        tracemalloc.start()
        try:
            world.nursery.start_soon(partial(send_all_of, world.client, flood(world.client)))
            gone = await world.client.goaway()
            await wait_all_tasks_blocked()
            grown = tracemalloc.get_traced_memory()[1]
        finally:
            tracemalloc.stop()
        assert gone.number == ENHANCE_YOUR_CALM
        assert trio.current_time() == 0, "it was a limit, not the time"
        assert grown < 8 * MIB
        assert len(world.origin.requests) <= 2 * 233, "more was begun than the rate of resets permits"
        assert world.proxy.statistics().transactions == 0
        world.origin.serve = None
        assert (await other.get()).status == "200"


async def test_cause_of_the_end_is_in_the_log_of_what_was_under_way(autojump_clock: MockClock) -> None:
    async with open_world(silence) as world:
        await world.client.send(world.client.head(1, GET))
        await world.client.settle()
        await send_all_of(world.client, ping_flood(world.client))
        (record,) = await world.records(1)
        assert (record.ended.by, record.ended.why) == ("client", "enhance_your_calm")


class SlowToClose(Plugin):
    """Holds on to each transaction when it has ended, for as long as it is let."""

    def __init__(self) -> None:
        self.held = 0
        self.go = trio.Event()

    async def transaction_close(self, txn: Transaction) -> None:
        self.held += 1
        await self.go.wait()
        self.held -= 1


def reset_at_once(client: RawClient, stream: int) -> list[bytes]:
    return [client.head(stream, GET) + frame(RST_STREAM, 0, stream, number(CANCEL))]


def reset_later(client: RawClient, stream: int) -> list[bytes]:
    return [client.head(stream, GET), frame(RST_STREAM, 0, stream, number(CANCEL))]


def reset_by_us(client: RawClient, stream: int) -> list[bytes]:
    return [client.head(stream, GET), frame(WINDOW_UPDATE, 0, stream, number(0))]


def rejected(client: RawClient, stream: int) -> list[bytes]:
    return [client.head(stream, [*GET, ("connection", "close")])]


@pytest.mark.parametrize("ask", [reset_at_once, reset_later, reset_by_us, rejected])
async def test_streams_that_were_reset_count_until_their_transactions_have_ended(
    autojump_clock: MockClock, ask: Callable[[RawClient, int], list[bytes]]
) -> None:
    """CVE-2023-44487: a stream that is reset is over for the client at once, and for a plugin's closing hook when that has run."""
    slow = SlowToClose()
    limits = Http2Limits(max_concurrent_streams=2, max_unwinding=3)
    async with open_world(silence, limits=limits, http=HttpConfig(close_timeout=1000), plugins=[slow]) as world:
        client = world.client
        for stream in range(1, 10, 2):
            for piece in ask(client, stream):
                await client.send(piece)
                await client.settle()
            assert client.answers.get(stream, raw.Answer()).reset != REFUSED_STREAM
        assert slow.held == 5
        assert (await client.get(11)).reset == REFUSED_STREAM
        assert slow.held == 5
        slow.go.set()
        await client.settle()
        assert slow.held == 0
        world.origin.serve = None
        assert (await client.get(13)).status == "200"
        assert trio.current_time() == 0


async def test_as_many_may_unwind_as_may_be_open(autojump_clock: MockClock) -> None:
    """So a client may give up all that it has asked for, and ask for as much anew, in one breath."""
    slow = SlowToClose()
    limits = Http2Limits(max_concurrent_streams=10)
    async with open_world(silence, limits=limits, http=HttpConfig(close_timeout=1000), plugins=[slow]) as world:
        client = world.client
        first, then = range(1, 20, 2), range(21, 40, 2)
        await client.send(*(client.head(stream, GET) for stream in first))
        await client.settle()
        await client.send(
            *(frame(RST_STREAM, 0, stream, number(CANCEL)) for stream in first), *(client.head(stream, GET) for stream in then)
        )
        await client.settle()
        assert slow.held == 10
        assert not [stream for stream, answer in client.answers.items() if answer.reset is not None]
        await client.send(frame(RST_STREAM, 0, 21, number(CANCEL)))
        assert (await client.get(41)).reset == REFUSED_STREAM


async def test_answers_that_are_not_read_are_bounded(autojump_clock: MockClock) -> None:
    """A client that asks and does not read is cut off, whatever the rates are."""
    never = RateLimit(1 << 30, 0)
    async with open_world(limits=Http2Limits(pings=never), buffer_index=6) as world:
        tracemalloc.start()
        try:
            sent = await send_all_of(world.client, (frame(PING, 0, 0, bytes(8)) for _ in range(100_000)))
            grown = tracemalloc.get_traced_memory()[1]
        finally:
            tracemalloc.stop()
        assert sent < 30_000
        assert grown < 2 * MIB


async def test_honest_client_is_not_taken_for_a_flood(autojump_clock: MockClock) -> None:
    """Six hundred requests, a PING and an update of the window now and then, a reset once in a while."""
    async with open_world() as world:
        client = world.client
        for turn in range(600):
            stream = 2 * turn + 1
            await client.send(client.head(stream, GET), frame(WINDOW_UPDATE, 0, 0, number(5)))
            if turn % 10 == 0:
                await client.ping()
            if turn % 20 == 0:
                await client.send(frame(RST_STREAM, 0, stream, number(CANCEL)))
            else:
                assert (await client.answer(stream)).status == "200"
            await trio.sleep(0.05)


async def test_settings_that_are_not_known_are_not_kept(autojump_clock: MockClock) -> None:
    async with open_world() as world:
        await world.client.ping()
        tracemalloc.start()
        try:
            for first in range(0x100, 0x100 + 20 * 2700, 2700):
                many = b"".join([struct.pack(">HL", first + each, 1) for each in range(2700)])
                await world.client.send(frame(raw.SETTINGS, 0, 0, many))
            await world.client.settle()
            assert tracemalloc.get_traced_memory()[0] < MIB
        finally:
            tracemalloc.stop()
        assert (await world.client.get()).status == "200"


async def test_others_have_their_turn_while_small_frames_are_read(autojump_clock: MockClock) -> None:
    """One read has room for thousands of frames."""
    async with open_world(silence) as world:
        client = world.client
        await client.send(client.head(1, POST, end=False))
        await client.ping()
        turns = 0

        async def count() -> None:
            nonlocal turns
            while True:
                await trio.lowlevel.checkpoint()
                turns += 1

        async with trio.open_nursery() as nursery:
            nursery.start_soon(count)
            await client.send(frame(DATA, 0, 1, b"x") * 6400)
            before = turns
            await client.ping()
            assert turns - before >= 6400 // 128
            nursery.cancel_scope.cancel()


async def test_small_pieces_of_a_body_are_in_order(autojump_clock: MockClock) -> None:
    async with open_world(raw.swallow) as world:
        client = world.client
        await client.send(client.head(1, [*POST, ("content-length", "3000")], end=False))
        for part in range(3000):
            await client.send(client.data(1, b"x", end=part == 2999))
        assert (await client.answer(1)).body == b"3000"


async def test_head_that_does_not_end_is_cut_off_in_time(autojump_clock: MockClock) -> None:
    async with open_world(http=HttpConfig(header_timeout=4)) as world:
        await world.client.send(world.client.head(1, GET, flags=0))
        begun = trio.current_time()
        assert (await world.client.goaway()).number == ENHANCE_YOUR_CALM
        assert trio.current_time() - begun == pytest.approx(4)


async def test_head_may_have_so_many_continuations_and_no_more(autojump_clock: MockClock) -> None:
    async with open_world(limits=Http2Limits(max_continuations=3)) as world:
        block = world.client.head(1, GET)[9:]
        more = [frame(CONTINUATION, 0, 1)] * 2
        await world.client.send(frame(HEADERS, raw.END_STREAM, 1, block), *more, frame(CONTINUATION, END_HEADERS, 1))
        assert (await world.client.answer(1)).status == "200"
        await world.client.send(frame(HEADERS, raw.END_STREAM, 3, block), *([frame(CONTINUATION, 0, 3)] * 4))
        gone = await world.client.goaway()
        assert (gone.number, gone.last_stream) == (ENHANCE_YOUR_CALM, 1)
        assert trio.current_time() == 0, "it was the limit, not the time"


def test_meter_allows_a_burst_and_a_rate() -> None:
    meter = Meter(RateLimit(3, 2), "things", 100.0)
    for _ in range(3):
        meter.count(100.0)
    with pytest.raises(ConnectionFault, match="ENHANCE_YOUR_CALM: too many things"):
        meter.count(100.0)
    for half in range(1000):
        meter.count(110.0 + half / 2)
    meter = Meter(RateLimit(3, 0), "things", 100.0)
    with pytest.raises(ConnectionFault):
        meter.count(100.0, cost=4)


def many_fields(client: RawClient) -> bytes:
    """Heads of 1,800 bytes, each of which stands for a field: 97 kB of them would hold the loop for a quarter of a second."""
    first = frame(HEADERS, END_HEADERS | 1, 1, b"\x82\x86\x84\x41\x01x" + b"\x40\x01a\x01b")
    heads = [frame(HEADERS, END_HEADERS | 1, stream, b"\x82\x86\x84\xbf" + b"\xbe" * (1700 + stream % 50)) for stream in range(3, 100, 2)]
    return first + b"".join(heads)


def many_streams(client: RawClient) -> bytes:
    return b"".join(client.head(stream, GET) for stream in range(1, 200, 2))


class Steps(trio.abc.Instrument):
    """How many streams were opened in each task step."""

    def __init__(self) -> None:
        self.counts = [0]

    def before_task_step(self, task: trio.lowlevel.Task) -> None:
        self.counts.append(0)

    def count(self) -> None:
        self.counts[-1] += 1


@pytest.mark.parametrize(("flood", "most"), [(many_fields, 3), (many_streams, 13)])
async def test_turn_is_bounded_by_the_work_that_is_done_in_it(
    flood: Callable[[RawClient], bytes], most: int, autojump_clock: MockClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    """However many heads come at once, others have their turn after each few of them."""
    steps = Steps()
    open_stream = Connection.open_stream

    def counting(self: Connection, *args: Any, **more: Any) -> None:
        steps.count()
        open_stream(self, *args, **more)

    monkeypatch.setattr(Connection, "open_stream", counting)
    async with open_world(silence) as world:
        trio.lowlevel.add_instrument(steps)
        await world.client.send(flood(world.client))
        await world.client.settle()
        trio.lowlevel.remove_instrument(steps)
    assert sum(steps.counts) >= 50
    assert max(steps.counts) <= most


async def test_resets_of_one_address_are_counted_over_all_its_connections(autojump_clock: MockClock) -> None:
    """Each connection stays below its own limit; the address does not, and another address is served."""
    limits = Http2Limits(resets=RateLimit(50, 0), resets_by_address=RateLimit(100, 0))
    shared = Shared(limits)
    for connection in range(100):
        shared.count_reset("192.0.2.1", float(connection))
    with pytest.raises(ConnectionFault):
        shared.count_reset("192.0.2.1", 100.0)
    shared.count_reset("192.0.2.2", 100.0)


async def test_addresses_that_are_counted_are_bounded() -> None:
    shared = Shared(Http2Limits())
    for number_ in range(20_000):
        shared.count_reset(f"192.0.2.{number_}", 0.0)
    assert len(shared._addresses) == 10_000


async def test_stream_that_is_refused_at_the_limit_has_its_record(autojump_clock: MockClock) -> None:
    async with open_world(silence, limits=Http2Limits(max_concurrent_streams=1)) as world:
        client = world.client
        await client.send(client.head(1, GET), client.head(3, GET))
        await client.settle()
        assert client.answers[3].reset == REFUSED_STREAM
        (record,) = await world.records(1)
        assert (record.stream, record.method, record.status, record.ended.why) == (3, "GET", None, "too_many_streams")


async def test_connection_that_the_proxy_ends_is_told_what_becomes_of_each_stream(autojump_clock: MockClock) -> None:
    async with open_world(silence) as world:
        client = world.client
        await client.send(client.head(1, GET), client.head(3, GET))
        await client.settle()
        await world.proxy.drain(0)
        await world.proxy._end()
        while await client.next_frame() is not None:
            pass
        assert {client.answers[1].reset, client.answers[3].reset} == {CANCEL}
        assert [each.kind for each in client.frames].count(raw.GOAWAY) >= 1


@pytest.mark.parametrize("begun", [b"PRI", raw.PREFACE])
async def test_preface_that_does_not_go_on_ends_after_one_header_timeout(begun: bytes, autojump_clock: MockClock) -> None:
    async with open_proxy(ProxyConfig(http=HttpConfig(header_timeout=10, linger_timeout=0))) as proxy, trio.open_nursery() as nursery:
        near, far = open_virtual_connection_pair()
        nursery.start_soon(serve_auto, proxy, far)
        start = trio.current_time()
        await trio.sleep(3)
        await near.send_all(begun)
        while await near.receive_some():
            pass
        assert trio.current_time() - start == pytest.approx(13)


async def test_via_names_the_version_that_was_received(autojump_clock: MockClock) -> None:
    heads: list[bytes] = []

    async def serve(stream: trio.abc.HalfCloseableStream) -> None:
        heads.append((await raw.read_head(stream))[0])
        await stream.send_all(b"HTTP/1.1 204 No Content\r\n\r\n")

    async with open_world(serve) as world:
        await world.client.get(1)
    assert heads[0].endswith(b"\r\nVia: 2.0 trio_tsconnect")


async def test_pass_of_the_loop_is_bounded_over_all_connections(autojump_clock: MockClock, monkeypatch: pytest.MonkeyPatch) -> None:
    """Of ten connections with a hundred requests each, one pass starts no more than of one; and all are served."""
    passes = [0]

    class Passes(trio.abc.Instrument):
        def before_io_wait(self, timeout: float) -> None:
            passes.append(0)

    open_stream = Connection.open_stream

    def counting(self: Connection, *args: Any, **more: Any) -> None:
        passes[-1] += 1
        open_stream(self, *args, **more)

    monkeypatch.setattr(Connection, "open_stream", counting)
    async with open_world() as world:
        clients = [world.client, *[world.open_client() for _ in range(9)]]
        for client in clients[1:]:
            await client.greet()
        await wait_all_tasks_blocked()
        trio.lowlevel.add_instrument(counter := Passes())
        async with trio.open_nursery() as nursery:
            for client in clients:
                nursery.start_soon(client.send, many_streams(client))
        await wait_all_tasks_blocked()
        trio.lowlevel.remove_instrument(counter)
        for client in clients:
            assert (await client.answer(199)).status == "200"
            await client.stream.aclose()
    assert sum(passes) == 1000
    assert max(passes) <= 26


async def test_no_connection_is_left_waiting_for_its_turn() -> None:
    """However little those do that come before."""
    shared = Shared(Http2Limits())
    shared.used(1000)
    done = 0

    async def wait() -> None:
        nonlocal done
        await shared.next_pass()
        shared.used(40)
        done += 1

    with trio.fail_after(5):
        async with trio.open_nursery() as nursery:
            for _ in range(50):
                nursery.start_soon(wait)
    assert done == 50


async def test_streams_that_were_reset_are_remembered_up_to_a_bound() -> None:
    receiver = Receiver(None, None, Http2Limits())  # type: ignore[arg-type]
    for stream in range(1, 4001, 2):
        receiver.remember_reset(stream)
    assert list(receiver.reset_here) == list(range(2001, 4001, 2))
