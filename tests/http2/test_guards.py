"""Lines that guard something, each of which was once left out without a test noticing."""

from __future__ import annotations

from typing import Any

import hpack
import pytest
import trio
from trio.testing import MockClock, wait_all_tasks_blocked

from trio_tsconnect import Plugin, Transaction
from trio_tsconnect.http2 import Http2Limits, RateLimit
from trio_tsconnect.http2._exchange import ResponseHead, _known_field
from trio_tsconnect.http2._flow import ConnectionWindow, StreamWindow
from trio_tsconnect.http2._hpack import FieldDecoder, SmallEncoder
from trio_tsconnect.http2._limits import Shared, shared_by

from . import _raw as raw
from ._raw import (
    DATA,
    GET,
    POST,
    RST_STREAM,
    WINDOW_UPDATE,
    frame,
    number,
    open_world,
    silence,
    swallow,
)
from .test_connect import agree, open_tunnel


class Recorded:
    """As much of a `Machine` as the windows need."""

    def __init__(self) -> None:
        self.opened: list[tuple[int, int]] = []

    @property
    def h2(self) -> Recorded:
        return self

    def increment_flow_control_window(self, size: int, stream: int = 0) -> None:
        self.opened.append((stream, size))


# ----------------------------------------------------------------------------------------------------------------- windows of clients


def test_windows_open_as_soon_as_half_of_them_is_due() -> None:
    machine: Any = Recorded()
    limits = Http2Limits(connection_window=65536, buffer_index=4)
    window = ConnectionWindow(machine, limits, Shared(limits))
    window.received(32767, 0)
    assert machine.opened == []
    window.received(1, 0)
    assert machine.opened == [(0, 32768)]
    stream = StreamWindow(machine, limits, 5)
    assert not stream.taken(1023)
    assert stream.taken(1)
    assert machine.opened[1:] == [(5, 1024)]


async def test_requests_that_are_whole_and_wait_for_their_responses_are_not_held(autojump_clock: MockClock) -> None:
    """The engine has them: they do not close the connection's window to others."""
    async with open_world(silence, limits=Http2Limits(connection_window=65535, max_buffered=30_000)) as world:
        client = world.client
        await client.settle()
        for stream in (1, 3, 5):
            await client.send(client.head(stream, POST, end=False), client.data(stream, bytes(16_000), end=True))
            await client.settle()
        assert shared_by(world.proxy).held == 0
        assert sum(each.number for each in client.frames if each.kind == WINDOW_UPDATE and each.stream == 0) >= 32_000


@pytest.mark.parametrize("ending", ["answered", "reset", "lost"])
async def test_what_a_stream_held_is_counted_until_it_is_gone_and_no_longer(ending: str, autojump_clock: MockClock) -> None:
    """One that is counted too often closes the windows of all, one that is not counted often enough opens them too far."""
    async with open_world(swallow if ending == "answered" else silence, limits=Http2Limits(buffer_index=10)) as world:
        client, shared = world.client, shared_by(world.proxy)
        await client.settle()
        await client.send(client.head(1, POST, end=False))
        for _ in range(40):
            await client.send(client.data(1, bytes(16_000)))
            await client.settle()
            if shared.held:
                break
        if ending == "answered":
            assert shared.held == 0
            await client.send(client.data(1, b"", end=True))
            assert (await client.answer(1)).body == b"ok"
        else:
            assert 0 < shared.held <= 131_072  # the buffers between here and the origin are full
            if ending == "reset":
                await client.send(frame(RST_STREAM, 0, 1, number(raw.CANCEL)))
                await client.settle()
            else:
                await client.stream.aclose()
                await wait_all_tasks_blocked()
        assert shared.held == 0


async def test_tunnel_whose_client_takes_nothing_holds_no_more_than_its_buffers(autojump_clock: MockClock) -> None:
    sent = 0

    async def talk(stream: trio.abc.HalfCloseableStream) -> None:
        nonlocal sent
        await agree(stream)
        while True:
            await stream.send_all(bytes(1000))
            sent += 1000

    async with open_world(talk, limits=Http2Limits(buffer_index=8), initial_window_size=0) as world:
        assert (await open_tunnel(world.client)).status == "200"
        await world.client.settle()
        assert 0 < sent < 6 * 32768


# --------------------------------------------------------------------------------------------------------------------------- streams


async def test_stream_of_the_highest_number_is_served(autojump_clock: MockClock) -> None:
    async with open_world() as world:
        answer = await world.client.get((1 << 31) - 1)
        assert (answer.status, answer.body) == ("200", b"hello")


class Reading(Plugin):
    async def read_request(self, txn: Transaction) -> None:
        txn.respond(200, await txn.read_request_body(100))


@pytest.mark.parametrize(("depends_on", "reset"), [(0, None), (3, None), (1, raw.PROTOCOL_ERROR)])
async def test_trailers_do_not_make_a_stream_depend_on_itself(depends_on: int, reset: int | None, autojump_clock: MockClock) -> None:
    async with open_world(silence, plugins=[Reading()]) as world:
        client = world.client
        await client.send(client.head(1, POST, end=False), client.data(1, b"hello"))
        block = number(depends_on) + b"\x10" + client.encoder.encode([(b"x", b"y")])
        await client.send(frame(raw.HEADERS, raw.END_HEADERS | raw.END_STREAM | raw.HAS_PRIORITY, 1, block))
        answer = await client.answer(1)
        assert (answer.status, answer.reset) == ("200" if reset is None else None, reset)


class Waiting(Plugin):
    async def read_request(self, txn: Transaction) -> None:
        await trio.sleep_forever()


async def test_request_without_a_body_costs_no_task_beside_its_transaction(autojump_clock: MockClock) -> None:
    async with open_world(plugins=[Waiting()]) as world:
        client = world.client
        await client.settle()
        before = trio.lowlevel.current_statistics().tasks_living
        for stream in range(1, 21, 2):
            await client.send(client.head(stream, GET))
        await client.settle()
        assert trio.lowlevel.current_statistics().tasks_living - before == 10


async def test_read_within_the_budget_of_a_pass_is_acted_on_at_once(autojump_clock: MockClock, monkeypatch: pytest.MonkeyPatch) -> None:
    waited = 0
    next_pass = Shared.next_pass

    async def counted(shared: Shared) -> None:
        nonlocal waited
        waited += 1
        await next_pass(shared)

    monkeypatch.setattr(Shared, "next_pass", counted)
    async with open_world() as world:
        for _ in range(3):
            await world.client.ping()
        assert waited == 0
        await world.client.send(*[frame(raw.PING, 0, 0, bytes(8))] * 50)
        await world.client.settle()
        assert waited > 0


# ------------------------------------------------------------------------------------------------------------------------- going away


async def test_final_goodbye_follows_the_answer_to_the_ping_at_once(autojump_clock: MockClock) -> None:
    async with open_world(silence) as world:
        client = world.client
        await client.send(client.head(1, GET))
        await client.settle()
        world.nursery.start_soon(world.proxy.drain, 60)
        ping = await client.until(raw.PING)
        begun = trio.current_time()
        await client.send(frame(raw.PING, raw.ACK, 0, ping.payload))
        assert (await client.until(raw.GOAWAY)).last_stream == 1
        assert trio.current_time() == begun


async def test_answer_to_a_ping_that_was_not_sent_ends_nothing(autojump_clock: MockClock) -> None:
    async with open_world() as world:
        await world.client.send(frame(raw.PING, raw.ACK, 0, bytes(8)))
        assert (await world.client.get()).status == "200"
        assert raw.GOAWAY not in {each.kind for each in world.client.frames}


async def test_second_drain_says_nothing_new(autojump_clock: MockClock) -> None:
    """RFC 9113 §6.8: the last stream that a GOAWAY names never grows, for a client may have sent the ones after it elsewhere."""
    async with open_world(silence) as world:
        client = world.client
        await client.send(client.head(1, GET))
        await client.settle()
        for _ in range(2):
            world.nursery.start_soon(world.proxy.drain, 60)
            await client.settle()
        await trio.sleep(2)
        world.nursery.start_soon(world.proxy.drain, 60)
        await client.settle()
        assert [each.last_stream for each in client.frames if each.kind == raw.GOAWAY] == [(1 << 31) - 1, 1]


async def test_log_of_the_process_names_what_ended_a_connection_or_a_stream(
    autojump_clock: MockClock, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("INFO", "trio_tsconnect.http2")
    async with open_world(silence) as world:
        await world.client.send(world.client.head(1, GET), frame(WINDOW_UPDATE, 0, 1, number(0)))
        await world.client.answer(1)
        await world.client.send(frame(RST_STREAM, 0, 5, number(raw.CANCEL)))
        await world.client.goaway()
    assert [message.partition(", ")[2] or message.partition(" closed: ")[2] for message in caplog.messages] == [
        "stream 1 reset: PROTOCOL_ERROR: WINDOW_UPDATE with an increment of 0",
        "PROTOCOL_ERROR: RST_STREAM for an idle stream",
    ]


async def test_log_of_the_process_says_why_a_client_leaves_if_it_does(autojump_clock: MockClock, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level("INFO", "trio_tsconnect.http2")
    for code in (raw.NO_ERROR, raw.INTERNAL_ERROR):
        async with open_world() as world:
            await world.client.send(frame(raw.GOAWAY, 0, 0, number(0) + number(code)))
            assert await world.client.next_frame()
            await wait_all_tasks_blocked()
    assert [message.partition(": ")[2] for message in caplog.messages] == ["the client sent GOAWAY: INTERNAL_ERROR"]


# ------------------------------------------------------------------------------------------------------------------------ rate limits


@pytest.mark.parametrize(("late", "reset", "too_much"), [("data", True, False), ("trailers", True, False), ("data", False, True)])
async def test_frames_for_a_stream_that_is_over_are_counted_unless_they_may_have_crossed_its_reset(
    late: str, reset: bool, too_much: bool, autojump_clock: MockClock
) -> None:
    limits = Http2Limits(oddities=RateLimit(burst=2, rate=1), resets=RateLimit(burst=100, rate=1))
    async with open_world(silence if reset else None, limits=limits) as world:
        client = world.client
        for stream in (1, 3, 5):
            if reset:  # for the content that is too long
                await client.send(client.head(stream, [*POST, ("content-length", "1")], end=False), client.data(stream, b"ab"))
            else:
                await client.send(client.head(stream, GET))
            await client.answer(stream)
            await client.send(client.data(stream, b"late") if late == "data" else client.head(stream, [("x", "y")]))
        assert await is_too_much(client) is too_much


@pytest.mark.parametrize(("digits", "reset"), [(18, None), (19, raw.PROTOCOL_ERROR)])
async def test_length_has_no_more_digits_than_a_number_can_have(digits: int, reset: int | None, autojump_clock: MockClock) -> None:
    async with open_world() as world:
        await world.client.send(world.client.head(1, [*POST, ("content-length", "9" * digits)], end=False))
        await world.client.until(raw.HEADERS if reset is None else RST_STREAM, 1)
        assert world.client.answers[1].reset == reset


@pytest.mark.parametrize("fields", [1, 2, 3])
async def test_priorities_of_streams_to_come_are_bounded(fields: int, autojump_clock: MockClock) -> None:
    """The oldest is forgotten: with the others, its response would have come last."""
    async with open_world(limits=Http2Limits(max_concurrent_streams=2), initial_window_size=0) as world:
        client = world.client
        await client.settle()
        updates = [frame(raw.PRIORITY_UPDATE, 0, 0, number(stream) + b"u=7") for stream in (1, 5, 7)][:fields]
        await client.send(*updates, client.head(1, GET), client.head(3, GET))
        await client.settle()
        await client.send(*[frame(WINDOW_UPDATE, 0, stream, number(100)) for stream in (1, 3)])
        await client.settle()
        assert [each.stream for each in client.frames if each.kind == DATA and each.payload] == ([1, 3] if fields == 3 else [3, 1])


async def test_work_beyond_a_pass_is_paid_back_and_rest_is_not_saved_up() -> None:
    shared = Shared(Http2Limits())
    a_pass = shared.take_turn()
    shared.used(10)
    await shared.next_pass()
    assert shared.take_turn() == a_pass
    shared.used(2 * a_pass + 10)
    await shared.next_pass()
    assert shared.take_turn() == a_pass - 10
    shared.used(3 * a_pass)
    passes = shared._passes
    await shared.next_pass()
    assert (shared._passes - passes, shared.take_turn()) == (3, a_pass - 10)


async def is_too_much(client: raw.RawClient) -> bool:
    """Whether the connection was closed for what was sent, and not for anything else."""
    await wait_all_tasks_blocked()
    with trio.move_on_after(1):
        got = await client.goaway()
        assert got.number == raw.ENHANCE_YOUR_CALM
        return True
    return False


@pytest.mark.parametrize(("size", "frames", "too_much"), [(63, 5, False), (63, 6, True), (64, 6, False)])
async def test_data_frames_below_a_size_are_counted(size: int, frames: int, too_much: bool, autojump_clock: MockClock) -> None:
    async with open_world(silence, limits=Http2Limits(small_data=RateLimit(burst=5, rate=1))) as world:
        client = world.client
        await client.send(client.head(1, POST, end=False), *[client.data(1, bytes(size))] * frames)
        assert await is_too_much(client) is too_much


@pytest.mark.parametrize("padded", [False, True])
@pytest.mark.parametrize(("frames", "end", "too_much"), [(5, False, False), (6, False, True), (6, True, False)])
async def test_data_frames_without_data_are_counted_unless_they_end_something(
    padded: bool, frames: int, end: bool, too_much: bool, autojump_clock: MockClock
) -> None:
    """Also if they consist of padding."""
    async with open_world(silence, limits=Http2Limits(empty_data=RateLimit(burst=5, rate=1))) as world:
        client = world.client
        flags = (raw.PADDED if padded else 0) | (raw.END_STREAM if end else 0)
        for stream in range(1, 2 * frames, 2):
            await client.send(client.head(stream, POST, end=False), frame(DATA, flags, stream, b"\x03" + bytes(3) if padded else b""))
        assert await is_too_much(client) is too_much


@pytest.mark.parametrize("extra", [0, 1])
async def test_window_updates_are_free_for_data_that_was_sent(extra: int, autojump_clock: MockClock) -> None:
    """Two for each DATA frame: one for the stream, one for the connection."""
    async with open_world(limits=Http2Limits(window_updates=RateLimit(burst=1, rate=1))) as world:
        client = world.client
        for stream in (1, 3):
            assert (await client.get(stream)).body == b"hello"
        sent = [each.kind for each in client.frames].count(DATA)
        await client.send(*[frame(WINDOW_UPDATE, 0, 0, number(1))] * (2 * sent + 1 + extra))
        assert await is_too_much(client) is bool(extra)


# ------------------------------------------------------------------------------------------------------------------------- compression


def test_heads_that_repeat_are_encoded_and_decoded_once(monkeypatch: pytest.MonkeyPatch) -> None:
    calls: list[str] = []
    for kind, name in ((hpack.Encoder, "encode"), (hpack.Decoder, "decode")):
        method = getattr(kind, name)

        def counted(self: Any, *args: Any, _method: Any = method, _name: str = name, **options: Any) -> Any:
            calls.append(_name)
            return _method(self, *args, **options)

        monkeypatch.setattr(kind, name, counted)
    encoder, decoder = SmallEncoder(), FieldDecoder(65536)
    head = [(b":status", b"200"), (b"x-one", b"1")]

    def carry() -> list[str]:
        calls.clear()
        decoder.decode(encoder.encode(head))
        assert list(decoder.fields) == head
        return list(calls)

    assert carry() == ["encode", "decode"]  # it enters the tables
    assert carry() == ["encode", "decode"]  # from here on it is the same bytes
    assert carry() == []
    head.append((b"x-two", b"2"))
    assert carry() == ["encode", "decode"]
    assert carry() == ["encode", "decode"]
    assert carry() == []
    encoder.header_table_size = 2048
    assert carry()[:1] == ["encode"]


# -------------------------------------------------------------------------------------------------------------------------- the engine


@pytest.mark.parametrize(("size", "kept"), [(255, 1), (256, 0)])
def test_only_short_field_lines_are_remembered(size: int, kept: int) -> None:
    """Long ones would fill the memory, and come once."""
    _known_field.cache_clear()
    head = ResponseHead(b"HTTP/1.1 200 OK\r\nA: " + bytes(b"x" * (size - 3)))
    assert head.fields[1] == (b"a", b"x" * (size - 3))
    assert _known_field.cache_info().currsize == kept
