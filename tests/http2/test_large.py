"""Many large bodies at once, on several connections: what is held of them is what the limits say, and not what they are long.

`make fuzz` moves 800 MiB each way, in 200 streams on each of four connections; the suite 20 MiB.
"""

from __future__ import annotations

import os
import tracemalloc
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager

import pytest
import trio
from trio.testing import MockClock, wait_all_tasks_blocked

from trio_tsconnect import Plugin, Transaction
from trio_tsconnect.http2 import Http2Limits

from ._raw import (
    CANCEL,
    DATA,
    FLOW_CONTROL_ERROR,
    GET,
    POST,
    RST_STREAM,
    SETTINGS,
    WINDOW_UPDATE,
    Fields,
    Frame,
    RawClient,
    Serve,
    World,
    frame,
    number,
    open_world,
    read_head,
)

pytestmark = pytest.mark.long

CONNECTIONS = 4
STREAMS, SIZE, INDEX = (200, 1 << 20, 8) if os.environ.get("HYPOTHESIS_PROFILE") == "long" else (20, 1 << 18, 6)
NUMBERS = range(1, 2 * STREAMS, 2)
PIECE = 4096
CLIENT_INDEX = 9
"""The buffer of the client's own connection, 64 KiB."""

LIMITS = Http2Limits(max_concurrent_streams=STREAMS, buffer_index=INDEX)
WINDOW = 128 << INDEX

HELD_BY_ORIGIN = 32768 + 2 * PIECE
"""The connection of a plugin that plays the origin has a buffer of 32 KiB; and the plugin has a piece in its hands, bare and framed."""
HELD_BY_ENGINE = 65536
"""The engine reads no more than it passed on: at most the origin's 32 KiB on the way down, which it copies once out of its own buffer."""
HELD_BY_STREAM = 4 * WINDOW
"""Down: the virtual connection's buffer, one read of it, and an outbox that is filled by reads of that size while it is less than half full.
Up: the buffer, and a window that opens no sooner than the buffer has taken what came; that is copied to be framed, and framed."""
HELD_BY_ALL = CONNECTIONS * STREAMS * (HELD_BY_ORIGIN + HELD_BY_ENGINE + HELD_BY_STREAM)
MOVING = CONNECTIONS * 10 * (128 << CLIENT_INDEX)
"""While bytes move, on each connection: one batch of frames (64 KiB), in h2, in the writer, in the client's buffer and in the client's hands."""


def content_of(stream: int, size: int = PIECE) -> bytes:
    """A fresh piece of the body of that stream: all of one byte, which its neighbours have not, and no frame of a chunk has."""
    return bytes((128 + stream // 2 % 128,)) * size


def number_of(head: bytes) -> int:
    return int(head.split()[1].rpartition(b"/")[2])


def at(fields: Fields, stream: int) -> Fields:
    return [(name, f"/{stream}" if name == ":path" else value) for name, value in fields]


def is_chunked(stream: int) -> bool:
    """Every other body says how long it is."""
    return stream % 4 == 1


class Traced:
    """Memory that was allocated since."""

    def __init__(self) -> None:
        self._base = 0
        self.rebase()

    def rebase(self) -> None:
        self._base = tracemalloc.get_traced_memory()[0]
        tracemalloc.reset_peak()

    @property
    def now(self) -> int:
        return tracemalloc.get_traced_memory()[0] - self._base

    @property
    def peak(self) -> int:
        return tracemalloc.get_traced_memory()[1] - self._base


@contextmanager
def tracing() -> Iterator[Traced]:
    tracemalloc.start()
    try:
        yield Traced()
    finally:
        tracemalloc.stop()


class Counting(RawClient):
    """Keeps of what it is sent no more than how much it was, and sends as much as it may."""

    def __init__(self, stream: trio.abc.Stream) -> None:
        super().__init__(stream)
        self.window = 65535
        self.windows: dict[int, int] = {}
        self.initial = 65535
        self.sent = dict.fromkeys(NUMBERS, 0)
        self.came = dict.fromkeys(NUMBERS, 0)
        self._news = trio.Event()

    def _note(self, got: Frame) -> None:
        self.frames.clear()
        if got.kind == DATA:
            assert not got.payload.strip(content_of(got.stream, 1)), "this belongs to another stream"
            self.came[got.stream] += len(got.payload)
            got = Frame(DATA, got.flags, got.stream, b"")
        elif got.kind == WINDOW_UPDATE and not got.stream:
            self.window += got.number
        elif got.kind == WINDOW_UPDATE:
            self.windows[got.stream] += got.number
        elif got.kind == SETTINGS:
            for start in range(0, len(got.payload), 6):
                if got.payload[start : start + 2] == b"\x00\x04":
                    self.initial = int.from_bytes(got.payload[start + 2 : start + 6], "big")
        super()._note(got)
        self._news.set()

    async def read_all(self) -> None:
        """Read until all streams have ended."""
        for each in NUMBERS:
            await self.answer(each)

    async def ask_to_send(self) -> None:
        """Send the heads of requests, all of which have bodies."""
        for each in NUMBERS:
            length = [] if is_chunked(each) else [("content-length", str(SIZE))]
            await self.send(self.head(each, [*at(POST, each), *length], end=False))

    async def send_bodies(self) -> None:
        """Send all bodies, a frame of each stream in turn, as the windows allow."""
        self.windows |= dict.fromkeys(NUMBERS, self.initial)
        left = dict.fromkeys(NUMBERS, SIZE)
        while left:
            moved = False
            for each in list(left):
                size = min(left[each], self.windows[each], self.window, 16384)
                if not size:
                    continue
                moved = True
                left[each] -= size
                self.windows[each] -= size
                self.window -= size
                self.sent[each] += size
                await self.send(self.data(each, content_of(each, size), end=not left[each]))
                if not left[each]:
                    del left[each]
            if not moved:
                self._news = trio.Event()
                await self._news.wait()


async def open_clients(world: World, **values: int) -> list[Counting]:
    clients = [Counting(world.open_client().stream) for _ in range(CONNECTIONS)]
    for client in clients:
        await client.greet(**values)
        await client.ping()
    return clients


async def assert_all_complete(world: World) -> None:
    records = await world.records(CONNECTIONS * STREAMS)
    assert {(record.status, record.ended.why) for record in records} == {(200, "complete")}
    assert len({record.client_connection for record in records}) == CONNECTIONS


async def test_large_responses_are_held_by_their_buffers_alone(autojump_clock: MockClock) -> None:
    begin = trio.Event()

    async def serve(stream: trio.abc.HalfCloseableStream) -> None:
        each = number_of((await read_head(stream))[0])
        framing = b"Transfer-Encoding: chunked" if is_chunked(each) else b"Content-Length: %d" % SIZE
        await stream.send_all(b"HTTP/1.1 200 OK\r\n%b\r\n\r\n" % framing)
        await begin.wait()
        for _ in range(SIZE // PIECE):
            piece = content_of(each)
            await stream.send_all(b"%x\r\n%b\r\n" % (PIECE, piece) if is_chunked(each) else piece)
        if is_chunked(each):
            await stream.send_all(b"0\r\n\r\n")

    async with open_world(serve, limits=LIMITS, buffer_index=CLIENT_INDEX) as world:
        clients = await open_clients(world, initial_window_size=0)
        with tracing() as traced:
            for client in clients:
                await client.send(*(client.head(each, at(GET, each)) for each in NUMBERS))
            await wait_all_tasks_blocked()

            # nobody may send a byte of a body: every buffer on the way fills, and there it stops
            traced.rebase()
            begin.set()
            await wait_all_tasks_blocked()
            assert CONNECTIONS * STREAMS * 32768 < traced.now < HELD_BY_ALL

            async with trio.open_nursery() as nursery:
                for client in clients:
                    nursery.start_soon(client.read_all)
                    await client.send(*(frame(WINDOW_UPDATE, 0, each, number(1 << 30)) for each in (0, *NUMBERS)))
            assert traced.peak < HELD_BY_ALL + MOVING
        assert all(size == SIZE for client in clients for size in client.came.values())
        await assert_all_complete(world)


def dropping(begin: trio.Event) -> Serve:
    """An origin that once it may begin reads a whole request, counts what is right of it, and answers with one byte of it."""

    async def serve(stream: trio.abc.HalfCloseableStream) -> None:
        head, data = await read_head(stream)
        each = number_of(head)
        await begin.wait()
        right, size, end = content_of(each, 1), 0, b""
        while True:
            size += data.count(right)
            end = end[-8:] + data
            if size == SIZE and (not is_chunked(each) or end.endswith(b"\r\n0\r\n\r\n")):
                break
            data = bytes(await stream.receive_some(65536))
            assert data
        await stream.send_all(b"HTTP/1.1 200 OK\r\nContent-Length: 1\r\n\r\n" + right)

    return serve


async def test_large_requests_are_held_by_their_buffers_alone(autojump_clock: MockClock) -> None:
    begin = trio.Event()
    async with open_world(dropping(begin), limits=LIMITS, buffer_index=CLIENT_INDEX) as world:
        clients = await open_clients(world)
        with tracing() as traced:
            for client in clients:
                await client.ask_to_send()
            await wait_all_tasks_blocked()

            traced.rebase()
            async with trio.open_nursery() as nursery:
                for client in clients:
                    nursery.start_soon(client.read_all)
                    nursery.start_soon(client.send_bodies)
                await wait_all_tasks_blocked()
                assert CONNECTIONS * STREAMS * 32768 < traced.now < HELD_BY_ALL
                begin.set()
            assert traced.peak < HELD_BY_ALL + MOVING
        await assert_all_complete(world)


class Slow(Plugin):
    """Lets the engine read heads, and no body before it may."""

    def __init__(self) -> None:
        self.begin = trio.Event()

    async def read_request(self, txn: Transaction) -> None:
        await self.begin.wait()


@asynccontextmanager
async def stalled_uploads(max_buffered: int) -> AsyncIterator[tuple[list[Counting], Http2Limits]]:
    """Clients which have sent as much as they may while nobody reads; after the block all of it is read, and all must be complete."""
    slow = Slow()
    limits = Http2Limits(max_concurrent_streams=STREAMS, connection_window=65535, max_buffered=max_buffered)
    async with open_world(dropping(slow.begin), limits=limits, plugins=[slow], buffer_index=CLIENT_INDEX) as world:
        clients = await open_clients(world)
        async with trio.open_nursery() as nursery:
            for client in clients:
                await client.ask_to_send()
                nursery.start_soon(client.read_all)
                nursery.start_soon(client.send_bodies)
            await wait_all_tasks_blocked()
            yield clients, limits
            slow.begin.set()
        await assert_all_complete(world)


async def test_requests_that_nobody_reads_close_their_own_windows_and_not_the_connections(autojump_clock: MockClock) -> None:
    async with stalled_uploads(STREAMS * 32768) as (clients, limits):
        for client in clients:
            assert set(client.windows.values()) == {0}
            assert client.window > limits.connection_window // 2


async def test_by_default_the_last_stream_is_served_when_all_others_are_stalled(autojump_clock: MockClock) -> None:
    class Picky(Plugin):
        async def read_request(self, txn: Transaction) -> None:
            if txn.request.target.endswith("/stalled"):
                await trio.sleep_forever()
            if len(await txn.read_request_body(SIZE)) == SIZE:
                txn.respond(200, content_of(last))

    limits = Http2Limits()
    last = 2 * limits.max_concurrent_streams - 1
    stalled = range(1, last, 2)
    async with open_world(limits=limits, plugins=[Picky()], buffer_index=CLIENT_INDEX) as world:
        client = Counting(world.open_client().stream)
        await client.greet()
        await client.ping()
        client.windows = dict.fromkeys((*stalled, last), client.initial)
        client.came[last] = 0

        async def read() -> None:
            while not client.came[last]:
                await client.next_frame()

        async def send_some(each: int, most: int) -> int:
            size = min(most, client.windows[each], client.window, 16384)
            client.windows[each] -= size
            client.window -= size
            await client.send(client.data(each, bytes(size), end=size == most))
            await wait_all_tasks_blocked()
            return size

        async with trio.open_nursery() as nursery:
            nursery.start_soon(read)
            for each in stalled:
                await client.send(client.head(each, [(name, "/stalled" if name == ":path" else value) for name, value in POST], end=False))
                while client.windows[each]:
                    assert await send_some(each, SIZE)
            await client.send(client.head(last, POST, end=False))
            left = SIZE
            while left:
                sent = await send_some(last, left)
                assert sent, "it is starved"
                left -= sent
        assert client.came[last] == PIECE


async def test_requests_that_nobody_reads_are_held_up_to_one_sum(autojump_clock: MockClock) -> None:
    """`Http2Limits.max_buffered`: the streams' own windows would permit far more."""
    async with stalled_uploads(1 << 17) as (clients, limits):
        # each virtual connection may have its buffer full besides, and one read of it be in the engine
        most = limits.max_buffered + limits.connection_window + STREAMS * 2 * 32768
        for client in clients:
            assert client.window == 0
            assert max(client.windows.values()) == 32768
            assert limits.max_buffered < sum(client.sent.values()) <= most


async def hold_half_a_window(client: RawClient) -> None:
    """Send on stream 1 until its own window is closed, and half of the connection's is owed: the connection may hold nothing."""
    await client.send(client.head(1, [*POST, ("content-length", "100000")], end=False))
    for _ in range(2):
        # the first time its virtual connection takes all of it, and then it is full
        await client.settle()
        await client.send(client.data(1, bytes(16384)), client.data(1, bytes(16384)))
    await client.settle()
    assert [got.number for got in client.frames if got.kind == WINDOW_UPDATE and not got.stream] == [32768]


HOLD_NOTHING = Http2Limits(connection_window=65535, max_buffered=0)


async def test_what_a_stream_held_may_be_sent_by_others_once_it_is_reset(autojump_clock: MockClock) -> None:
    async with open_world(plugins=[Slow()], limits=HOLD_NOTHING) as world:
        client = world.client
        await hold_half_a_window(client)
        await client.send(frame(RST_STREAM, 0, 1, number(CANCEL)))
        assert (await client.until(WINDOW_UPDATE, 0)).number == 32768
        assert trio.current_time() == 0, "it was told with something else, at last"


async def test_fault_of_a_connection_is_told_whatever_its_streams_held(autojump_clock: MockClock) -> None:
    async with open_world(plugins=[Slow()], limits=HOLD_NOTHING) as world:
        client = world.client
        await hold_half_a_window(client)
        await client.send(client.data(1, b"more than the window permits"))
        assert (await client.goaway()).number == FLOW_CONTROL_ERROR
        (record,) = await world.records(1)
        assert (record.ended.by, record.ended.why) == ("client", "protocol_error")
