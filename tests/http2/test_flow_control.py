"""RFC 9113 §5.2 and §6.9: flow control, in both directions."""

from __future__ import annotations

from typing import Any, ClassVar

import pytest
import trio
from trio.testing import MockClock, wait_all_tasks_blocked

from trio_tsconnect import HttpConfig
from trio_tsconnect.http2 import Http2Limits
from trio_tsconnect.http2._flow import ConnectionWindow
from trio_tsconnect.http2._limits import Shared

from . import _raw as raw
from ._raw import (
    DATA,
    FLOW_CONTROL_ERROR,
    GET,
    POST,
    SETTINGS,
    WINDOW_UPDATE,
    frame,
    number,
    open_world,
    saying,
    settings,
    silence,
    swallow,
)


def response(size: int) -> Any:
    return saying(b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n%b" % (size, bytes(size)))


async def test_response_stops_at_the_streams_window(autojump_clock: MockClock) -> None:
    async with open_world(response(50_000), initial_window_size=1000) as world:
        client = world.client
        await client.send(client.head(1, GET))
        await client.settle()
        assert len(client.answers[1].body) == 1000
        await client.send(frame(WINDOW_UPDATE, 0, 1, number(1)))
        await client.settle()
        assert len(client.answers[1].body) == 1001
        await client.send(frame(WINDOW_UPDATE, 0, 1, number(1 << 20)))
        assert len((await client.answer(1)).body) == 50_000


async def test_response_stops_at_the_connections_window(autojump_clock: MockClock) -> None:
    async with open_world(response(100_000), initial_window_size=1 << 20) as world:
        client = world.client
        await client.send(client.head(1, GET))
        await client.settle()
        assert len(client.answers[1].body) == 65535
        await client.send(frame(WINDOW_UPDATE, 0, 0, number(1 << 20)))
        assert len((await client.answer(1)).body) == 100_000


async def test_head_and_end_need_no_window(autojump_clock: MockClock) -> None:
    async with open_world(response(0), initial_window_size=0) as world:
        assert (await world.client.get()).status == "200"
        world.origin.serve = saying(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n0\r\nX-End: 1\r\n\r\n")
        assert (await world.client.get(3)).trailers == {"x-end": "1"}


async def test_change_of_the_initial_window_moves_open_streams(autojump_clock: MockClock) -> None:
    """RFC 9113 §6.9.2; the window may become negative."""
    async with open_world(response(300), initial_window_size=100) as world:
        client = world.client
        await client.send(client.head(1, GET))
        await client.until(DATA, 1)
        await client.send(settings(initial_window_size=50), frame(WINDOW_UPDATE, 0, 1, number(40)))
        await client.settle()
        assert len(client.answers[1].body) == 100
        await client.send(frame(WINDOW_UPDATE, 0, 1, number(20)))
        await client.settle()
        assert len(client.answers[1].body) == 110
        await client.send(settings(initial_window_size=65535))
        assert len((await client.answer(1)).body) == 300


async def test_frames_are_as_large_as_the_client_takes(autojump_clock: MockClock) -> None:
    async with open_world(response(60_000), max_frame_size=1 << 20) as world:
        await world.client.get()
        assert max(len(got.payload) for got in world.client.frames if got.kind == DATA) == 16384


async def test_closed_window_holds_no_more_than_the_buffers_of_its_stream(autojump_clock: MockClock) -> None:
    taken = 0

    async def endless(stream: trio.abc.HalfCloseableStream) -> None:
        nonlocal taken
        await raw.read_head(stream)
        await stream.send_all(b"HTTP/1.1 200 OK\r\nContent-Length: 1000000000\r\n\r\n")
        while True:
            await stream.send_all(bytes(1024))
            taken += 1024

    async with open_world(endless, initial_window_size=0, limits=Http2Limits(buffer_index=3)) as world:
        await world.client.send(world.client.head(1, GET))
        await world.client.ping()
        await wait_all_tasks_blocked()
        # the plugin's own connection has 32 KiB and the proxy reads 64 KiB of it at a time; what the front end adds is two buffers of 1 KiB
        assert taken <= 32768 + 65536 + 2 * 1024 + 1024


@pytest.mark.parametrize("stalled", [1, 51, 99])
async def test_one_stalled_stream_among_a_hundred_starves_no_other(autojump_clock: MockClock, stalled: int) -> None:
    """A request that nobody reads fills its own window, and the others' bodies come through."""

    async def counting(stream: trio.abc.HalfCloseableStream) -> None:
        head, rest = await raw.read_head(stream)
        if b"stalled" in head:
            await trio.sleep_forever()
        size = len(rest)
        while size < 20_000:
            size += len(await stream.receive_some())
        await stream.send_all(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok")

    async with open_world(counting) as world:
        client = world.client
        await client.ping()
        windows: dict[int, int] = {}
        for each in range(1, 201, 2):
            path = "/stalled" if each == stalled else "/"
            fields = [(name, path if name == ":path" else value) for name, value in POST]
            length = 200_000 if each == stalled else 20_000
            await client.send(client.head(each, [*fields, ("content-length", str(length))], end=False))
            windows[each] = 32768
        # the stalled one uses all of its window, and stays there
        await client.send(client.data(stalled, bytes(16384)), client.data(stalled, bytes(16384)))
        for each in range(1, 201, 2):
            if each != stalled:
                await client.send(client.data(each, bytes(16384)), client.data(each, bytes(20_000 - 16384), end=True))
        for each in range(1, 201, 2):
            if each != stalled:
                assert (await client.answer(each)).body == b"ok"
        assert not client.answers.get(stalled, raw.Answer()).ended


async def test_streams_window_opens_as_its_virtual_connection_takes(autojump_clock: MockClock) -> None:
    async with open_world(swallow) as world:
        client = world.client
        await client.ping()
        await client.send(client.head(1, [*POST, ("content-length", "200000")], end=False))
        window = sent = 32768
        await client.send(client.data(1, bytes(16384)), client.data(1, bytes(16384)))
        while sent < 200_000:
            update = await client.until(WINDOW_UPDATE, 1)
            window += update.number
            while sent < 200_000 and window - sent >= min(8192, 200_000 - sent):
                size = min(8192, 200_000 - sent)
                sent += size
                await client.send(client.data(1, bytes(size), end=sent == 200_000))
        assert (await client.answer(1)).body == b"200000"


async def test_window_of_a_stream_that_nobody_reads_stays_closed(autojump_clock: MockClock) -> None:
    async with open_world(silence, limits=Http2Limits(buffer_index=5)) as world:
        client = world.client
        await client.ping()
        # 4 KiB for this window, 4 KiB of its virtual connection, and what the proxy hands on to the origin's 32 KiB and its own 64 KiB
        await client.send(client.head(1, POST, end=False))
        window, sent = 4096, 0
        with trio.move_on_after(1):
            while True:
                while window - sent >= 1024:
                    await client.send(client.data(1, bytes(1024)))
                    sent += 1024
                window += (await client.until(WINDOW_UPDATE, 1)).number
        assert sent <= 4096 * 3 + 32768 + 2 * 65536
        await client.ping()
        assert client.answers[1].reset is None


async def test_client_that_ignores_a_window_is_cut_off(autojump_clock: MockClock) -> None:
    async with open_world(silence, limits=Http2Limits(buffer_index=0)) as world:
        client = world.client
        await client.ping()
        await client.send(client.head(1, POST, end=False), *(client.data(1, bytes(16000)) for _ in range(10)))
        assert (await client.goaway()).number == FLOW_CONTROL_ERROR


async def test_data_sent_before_our_settings_were_known_is_in_order(autojump_clock: MockClock) -> None:
    """RFC 9113 §6.9.2: until the client has acknowledged them its windows are the protocol's own."""
    async with open_world(swallow, greet=False, limits=Http2Limits(buffer_index=0)) as world:
        client = world.client
        await client.send(raw.PREFACE, settings(), client.head(1, [*POST, ("content-length", "65535")], end=False))
        await client.send(*(client.data(1, bytes(13107), end=part == 4) for part in range(5)))
        await client.send(frame(SETTINGS, raw.ACK, 0))
        assert (await client.answer(1)).body == b"65535"


async def test_padding_is_credited_to_both_windows(autojump_clock: MockClock) -> None:
    async with open_world(swallow, limits=Http2Limits(connection_window=65535)) as world:
        client = world.client
        await client.ping()
        await client.send(client.head(1, POST, end=False))
        for _ in range(200):
            await client.send(frame(DATA, raw.PADDED, 1, b"\xffx" + bytes(255)))
        streams = (await client.until(WINDOW_UPDATE, 1)).number
        assert streams >= 16384
        connections = (await client.until(WINDOW_UPDATE, 0)).number
        assert connections >= 32767


def test_request_bodies_held_for_all_streams_have_a_cap() -> None:
    """While streams hold more than that, the connection's window is not opened."""

    class Machine:
        opened: ClassVar[list[int]] = []

        @property
        def h2(self) -> Machine:
            return self

        def increment_flow_control_window(self, size: int) -> None:
            self.opened.append(size)

    machine = Machine()
    limits = Http2Limits(connection_window=65536, max_buffered=40_000)
    window = ConnectionWindow(machine, limits, Shared(limits))  # type: ignore[arg-type]
    window.received(30_000, 30_000)
    assert machine.opened == []
    window.received(30_000, 30_000)
    assert machine.opened == []
    window.released(19_999)
    assert machine.opened == []
    window.released(1)
    assert machine.opened == [60_000]
    window.received(40_000, 0)
    assert machine.opened == [60_000, 40_000]


def test_request_bodies_held_for_all_connections_have_a_cap() -> None:
    """While all hold more than that, no window is opened; when there is room again, every one that waited is."""

    class Machine:
        def __init__(self) -> None:
            self.opened: list[int] = []

        @property
        def h2(self) -> Machine:
            return self

        def increment_flow_control_window(self, size: int) -> None:
            self.opened.append(size)

    limits = Http2Limits(connection_window=65536, max_buffered=1 << 20, max_buffered_by_all=100_000)
    shared, machines = Shared(limits), [Machine() for _ in range(3)]
    windows = [ConnectionWindow(machine, limits, shared) for machine in machines]  # type: ignore[arg-type]
    for window in windows:
        window.received(40_000, 40_000)
    assert [machine.opened for machine in machines] == [[40_000], [40_000], []]
    windows[0].received(40_000, 0)
    windows[1].released(19_999)
    assert [machine.opened for machine in machines] == [[40_000], [40_000], []]
    shared.forget(windows[0])
    windows[1].released(1)
    assert [machine.opened for machine in machines] == [[40_000], [40_000], [40_000]]


async def test_client_that_stops_reading_is_closed_in_time(autojump_clock: MockClock) -> None:
    async with open_world(response(500_000), http=HttpConfig(inactivity_timeout=7), initial_window_size=1 << 20, buffer_index=5) as world:
        client = world.client
        await client.send(frame(WINDOW_UPDATE, 0, 0, number(1 << 20)), client.head(1, GET))
        await trio.sleep(20)
        (record,) = world.log.records
        assert record.ended.by == "client"
        assert 7 <= max(record.milestones.values()) <= 15


async def test_stream_whose_window_stays_closed_is_reset_in_time(autojump_clock: MockClock) -> None:
    async with open_world(response(10_000), http=HttpConfig(inactivity_timeout=7), initial_window_size=10) as world:
        client = world.client
        await client.send(client.head(1, GET))
        answer = await client.answer(1)
        assert answer.reset == raw.CANCEL
        assert len(answer.body) == 10
        assert 7 <= trio.current_time() <= 15


@pytest.mark.parametrize("waited", [5, 115])
async def test_response_that_waits_for_its_window_has_its_whole_time(autojump_clock: MockClock, waited: float) -> None:
    """The time counts from when the window kept it back, not from when the connection, or the stream, began."""
    async with open_world(response(5), http=HttpConfig(inactivity_timeout=60), initial_window_size=0) as world:
        client = world.client
        await client.send(client.head(1, GET), frame(WINDOW_UPDATE, 0, 1, number(5)))
        await client.answer(1)
        for stream in range(3, 200, 2):  # so that the connection is looked after all the time
            await trio.sleep(waited / 20)
            await client.send(client.head(stream, GET))
            await client.settle()
            if trio.current_time() > waited:
                break
        begun = trio.current_time()
        await client.send(client.head(201, GET))
        await client.until(raw.HEADERS, 201)
        assert (await client.answer(201)).reset == raw.CANCEL
        assert 60 <= trio.current_time() - begun <= 120
