"""RFC 9113 §8.5 (CONNECT) and RFC 8441 (extended CONNECT)."""

from __future__ import annotations

import socket
import struct
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager

import pytest
import trio
from trio.testing import MockClock

from trio_tsconnect import HttpConfig, Plugin, Transaction, VirtualConnection
from trio_tsconnect.http2 import Http2Limits

from . import _raw as raw
from ._raw import CANCEL, CONNECT_ERROR, DATA, PROTOCOL_ERROR, RST_STREAM, Fields, echo, frame, number, open_world, read_head, saying

PLAIN: Fields = [(":method", "CONNECT"), (":authority", "site.example:443")]
WEBSOCKET: Fields = [
    (":method", "CONNECT"),
    (":protocol", "websocket"),
    (":scheme", "http"),
    (":path", "/chat"),
    (":authority", "site.example"),
    ("sec-websocket-version", "13"),
]
PERMITTED = HttpConfig(connect=("*:*",), remap_required=False)


async def open_tunnel(client: raw.RawClient, stream: int = 1) -> raw.Answer:
    """Ask for a WebSocket's tunnel, and wait for the head of the answer."""
    await client.send(client.head(stream, WEBSOCKET, end=False))
    await client.until(raw.HEADERS, stream)
    return client.answers[stream]


async def agree(stream: trio.abc.HalfCloseableStream, words: bytes = b"") -> None:
    """An origin's part: read a request for a tunnel and agree to it; the words come with that."""
    head, _ = await read_head(stream)
    await stream.send_all(
        b"HTTP/1.1 101 Switching\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n" + raw.websocket_accept(head) + b"\r\n" + words
    )


async def test_connect_is_refused_unless_permitted(autojump_clock: MockClock) -> None:
    async with open_world() as world:
        client = world.client
        world.origin.answers = False
        await client.send(client.head(1, PLAIN, end=False))
        answer = await client.answer(1)
        assert (answer.status, answer.reset) == ("403", None)
        (record,) = await world.records(1)
        assert (record.method, record.ended.why) == ("CONNECT", "connect_denied")


async def test_extended_connect_carries_bytes_both_ways(autojump_clock: MockClock) -> None:
    async with open_world(echo) as world:
        client = world.client
        answer = await open_tunnel(client)
        assert answer.status == "200"
        assert not set(answer.fields) & {"connection", "upgrade", "sec-websocket-accept", "transfer-encoding"}
        for part in (b"one", b"two"):
            await client.send(client.data(1, part))
            assert (await client.until(DATA, 1)).payload == part
        method, target, headers = world.origin.heads[0]
        assert (method, target) == ("GET", "http://site.example/chat")
        assert headers["upgrade"] == "websocket"
        assert headers["sec-websocket-version"] == "13"
        await client.send(client.data(1, b"bye", end=True))
        assert (await client.answer(1)).body == b"onetwobye"
        assert answer.reset is None
        (record,) = await world.records(1)
        assert record.status == 101


async def test_more_than_the_buffers_goes_through_a_tunnel(autojump_clock: MockClock) -> None:
    async with open_world(echo) as world:
        client = world.client
        await client.ping()
        await open_tunnel(client)
        sent, window = 0, 32768
        while len(client.answers[1].body) < 300_000:
            while sent < 300_000 and window >= 10_000:
                await client.send(client.data(1, bytes(10_000)))
                sent += 10_000
                window -= 10_000
            got = await client.next_frame()
            assert got is not None
            if got.kind == raw.WINDOW_UPDATE and got.stream == 1:
                window += got.number
            elif got.kind == DATA:
                await client.send(
                    frame(raw.WINDOW_UPDATE, 0, 1, number(len(got.payload))), frame(raw.WINDOW_UPDATE, 0, 0, number(len(got.payload)))
                )
        await client.send(client.data(1, b"", end=True))
        assert len((await client.answer(1)).body) == 300_000


async def test_origin_may_end_a_tunnel_first(autojump_clock: MockClock) -> None:
    async def serve(stream: trio.abc.HalfCloseableStream) -> None:
        await agree(stream, b"server's last")
        await stream.send_eof()
        assert await stream.receive_some() == b"client's last"

    async with open_world(serve) as world:
        client = world.client
        await client.send(client.head(1, WEBSOCKET, end=False))
        assert (await client.answer(1)).body == b"server's last"
        await client.send(client.data(1, b"client's last", end=True))
        await client.settle()
        assert client.answers[1].reset is None
        assert len(await world.records(1)) == 1


async def test_reset_of_a_tunnel_reaches_the_origin(autojump_clock: MockClock) -> None:
    ended = trio.Event()

    async def serve(stream: trio.abc.HalfCloseableStream) -> None:
        try:
            await echo(stream)
        finally:
            ended.set()

    async with open_world(serve) as world:
        client = world.client
        await open_tunnel(client)
        await client.send(frame(RST_STREAM, 0, 1, number(CANCEL)))
        await ended.wait()
        assert len(await world.records(1)) == 1


async def switch(stream: trio.abc.HalfCloseableStream) -> None:
    """Agree to a tunnel, and read one thing from it."""
    await agree(stream)
    assert await stream.receive_some() == b"x"


async def answer_after_x(client: raw.RawClient, stream: int = 1) -> raw.Answer:
    """Open a tunnel to an origin that switches, say what it reads, and wait for the end."""
    await open_tunnel(client, stream)
    await client.send(client.data(stream, b"x"))
    return await client.answer(stream)


async def raises(stream: trio.abc.HalfCloseableStream) -> None:
    await switch(stream)
    raise ValueError("the origin fails")


async def aborts(stream: trio.abc.HalfCloseableStream) -> None:
    await switch(stream)
    assert isinstance(stream, VirtualConnection)
    stream.abort("enough")


async def say_and_abort(stream: trio.abc.HalfCloseableStream, words: bytes) -> None:
    await stream.send_all(words)
    assert isinstance(stream, VirtualConnection)
    while stream.statistics().sending.unread:  # until the tunnel has them
        await trio.lowlevel.checkpoint()
    stream.abort("enough")


@pytest.mark.parametrize("serve", [raises, aborts])
async def test_origin_that_breaks_a_tunnel_resets_the_stream(autojump_clock: MockClock, serve: raw.Serve) -> None:
    """RFC 8441 §5: what a RST is to TCP is RST_STREAM with CANCEL."""
    async with open_world(serve) as world:
        answer = await answer_after_x(world.client)
        assert (answer.ended, answer.reset) == (False, CANCEL)
        (record,) = await world.records(1)
        assert (record.status, record.ended.by, record.ended.why) == (101, "origin", "origin_truncated")
        assert trio.current_time() == 0


async def test_last_words_of_an_origin_arrive_before_the_reset(autojump_clock: MockClock) -> None:
    words = bytes(60_000)

    async def serve(stream: trio.abc.HalfCloseableStream) -> None:
        await switch(stream)
        await say_and_abort(stream, words)

    async with open_world(serve) as world:
        answer = await answer_after_x(world.client)
        assert (len(answer.body), answer.ended, answer.reset) == (60_000, False, CANCEL)


async def test_client_that_does_not_read_the_last_words_is_not_waited_for(autojump_clock: MockClock) -> None:
    async def serve(stream: trio.abc.HalfCloseableStream) -> None:
        await switch(stream)
        await say_and_abort(stream, b"last words")

    async with open_world(serve, initial_window_size=0, http=HttpConfig(linger_timeout=2)) as world:
        answer = await answer_after_x(world.client)
        assert (answer.body, answer.ended, answer.reset) == (b"", False, CANCEL)
        assert trio.current_time() == pytest.approx(2)


async def test_origin_that_has_ended_and_left_takes_nothing_more(autojump_clock: MockClock) -> None:
    """Its end is an end; but who still sends is told, and the stream does not stay for ever."""

    async def serve(stream: trio.abc.HalfCloseableStream) -> None:
        await switch(stream)
        await stream.send_all(b"bye")

    async with open_world(serve, http=HttpConfig(tunnel_timeout=20)) as world:
        client = world.client
        for stream, late in ((1, True), (3, False)):
            answer = await answer_after_x(client, stream)
            assert (answer.body, answer.ended, answer.reset) == (b"bye", True, None)
            begun = trio.current_time()
            if late:
                await client.send(client.data(stream, b"too late"))
            with trio.fail_after(60):
                assert (await client.until(RST_STREAM, stream)).number == CANCEL
            assert trio.current_time() - begun == pytest.approx(0 if late else 20)


@pytest.mark.parametrize("limit", ["tunnel_timeout", "transaction_timeout"])
async def test_tunnel_that_is_cut_does_not_look_whole(autojump_clock: MockClock, limit: str) -> None:
    async with open_world(echo, http=HttpConfig(**{limit: 20.0})) as world:
        client = world.client
        await client.send(client.head(1, WEBSOCKET, end=False))
        answer = await client.answer(1)
        assert (answer.ended, answer.reset) == (False, CANCEL)
        assert trio.current_time() == pytest.approx(20)
        (record,) = await world.records(1)
        assert (record.ended.by, record.ended.why) == ("proxy", {"tunnel_timeout": "tunnel_idle"}.get(limit, limit))


async def test_refusal_of_an_upgrade_is_an_ordinary_response(autojump_clock: MockClock) -> None:
    async with open_world(saying(b"HTTP/1.1 403 Forbidden\r\nContent-Length: 2\r\n\r\nno")) as world:
        client = world.client
        await client.send(client.head(1, WEBSOCKET, end=False))
        answer = await client.answer(1)
        assert (answer.status, answer.body) == ("403", b"no")


async def test_whoever_has_not_read_the_key_gets_no_tunnel(autojump_clock: MockClock) -> None:
    origin = saying(b"HTTP/1.1 101 Switching\r\nConnection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Accept: d3Jvbmc=\r\n\r\n")
    async with open_world(origin) as world:
        client = world.client
        await client.send(client.head(1, WEBSOCKET, end=False))
        assert (await client.answer(1)).reset == raw.INTERNAL_ERROR
        (record,) = await world.records(1)
        assert (record.ended.by, record.ended.why) == ("origin", "broken_off")


async def test_tunnel_has_no_trailers(autojump_clock: MockClock) -> None:
    async with open_world(echo) as world:
        client = world.client
        await open_tunnel(client)
        await client.send(client.head(1, [("x", "1")]))
        assert (await client.answer(1)).reset == PROTOCOL_ERROR


@asynccontextmanager
async def connected(far_end: Callable[[trio.SocketStream], Awaitable[object]]) -> AsyncIterator[raw.World]:
    """A stream, 1, that is connected to what `far_end` serves over TCP."""
    (listener,) = await trio.open_tcp_listeners(0, host="127.0.0.1")
    port = listener.socket.getsockname()[1]
    async with open_world(http=PERMITTED) as world:
        world.nursery.start_soon(trio.serve_listeners, far_end, [listener])
        world.origin.answers = False
        client = world.client
        await client.send(client.head(1, [(":method", "CONNECT"), (":authority", f"127.0.0.1:{port}")], end=False))
        await client.until(raw.HEADERS, 1)
        assert client.answers[1].status == "200"
        yield world


async def test_plain_connect_reaches_its_target() -> None:
    async def far_end(stream: trio.SocketStream) -> None:
        async with stream:
            while data := await stream.receive_some():
                await stream.send_all(data.upper())

    async with connected(far_end) as world:
        client = world.client
        await client.send(client.data(1, b"hello", end=True))
        assert (await client.answer(1)).body == b"HELLO"


async def test_target_that_resets_its_connection_is_a_connect_error() -> None:
    """RFC 9113 §8.5."""

    async def far_end(stream: trio.SocketStream) -> None:
        await stream.receive_some()
        stream.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        await stream.aclose()

    async with connected(far_end) as world:
        client = world.client
        await client.send(client.data(1, b"hello"))
        answer = await client.answer(1)
        assert (answer.ended, answer.reset) == (False, CONNECT_ERROR)
        (record,) = await world.records(1)
        assert (record.status, record.ended.by, record.ended.why) == (200, "origin", "origin_truncated")


@pytest.mark.parametrize("way", ["stream", "connection"])
async def test_reset_by_the_client_is_one_for_the_target(way: str) -> None:
    """RFC 9113 §8.5: an error of the stream, or of the connection, becomes a RST of TCP."""
    ends: list[object] = []
    done = trio.Event()

    async def far_end(stream: trio.SocketStream) -> None:
        async with stream:
            try:
                while data := await stream.receive_some():
                    ends.append(data)
                ends.append("end")
            except trio.BrokenResourceError as exc:
                ends.append(type(exc.__cause__))
            done.set()

    async with connected(far_end) as world:
        client = world.client
        if way == "stream":
            await client.send(frame(RST_STREAM, 0, 1, number(CANCEL)))
        else:
            await client.stream.aclose()
        with trio.fail_after(10):
            await done.wait()
        assert ends == [ConnectionResetError]
        (record,) = await world.records(1)
        assert (record.ended.by, record.ended.why) == ("client", "client_gone")


async def test_what_a_client_said_to_an_origin_that_has_gone_is_held_no_longer(autojump_clock: MockClock) -> None:
    gone: dict[str, trio.Event] = {}

    async def serve(stream: trio.abc.HalfCloseableStream) -> None:
        await agree(stream)
        await stream.send_eof()
        gone["now"] = trio.Event()
        await gone["now"].wait()

    async with open_world(serve, limits=Http2Limits(connection_window=200_000, max_buffered=20_000)) as world:
        client = world.client
        for stream in (1, 3, 5):
            await client.send(client.head(stream, WEBSOCKET, end=False))
            await client.settle()
            sent = 32768
            await client.send(client.data(stream, bytes(16384)), client.data(stream, bytes(16384)))
            await client.settle()
            while (
                room := sum(each.number for each in client.frames if (each.kind, each.stream) == (raw.WINDOW_UPDATE, stream)) + 32768 - sent
            ):
                await client.send(client.data(stream, bytes(min(room, 16384))))
                sent += min(room, 16384)
                await client.settle()
            await client.send(client.data(stream, b"", end=True))
            await client.settle()
            gone["now"].set()
            await client.settle()
        given = 200_000 + sum(each.number for each in client.frames if (each.kind, each.stream) == (raw.WINDOW_UPDATE, 0))
        assert given > 3 * sent  # the connection's window has been opened for all of it


@pytest.mark.parametrize("status", [200, 201, 204, 299])
async def test_extended_connect_is_opened_by_a_switch_and_nothing_else(status: int, autojump_clock: MockClock) -> None:
    """To an HTTP/2 client any 2xx would open the tunnel (RFC 8441 §5); an origin that sends a page has not switched."""
    page = b"" if status == 204 else b"Content-Length: 4\r\n\r\npage"
    async with open_world(saying(b"HTTP/1.1 %d Fine\r\n" % status + (page or b"\r\n"))) as world:
        client = world.client
        await client.send(client.head(1, WEBSOCKET, end=False))
        answer = await client.answer(1)
        assert (answer.status, b"switch" in answer.body) == ("502", True)
        (record,) = await world.records(1)
        assert (record.status, record.origin_status, record.ended.by, record.ended.why) == (502, status, "origin", "origin_bad_response")


@pytest.mark.parametrize("status", [302, 401, 403, 503])
async def test_refusal_of_an_extended_connect_is_passed_on(status: int, autojump_clock: MockClock) -> None:
    async with open_world(saying(b"HTTP/1.1 %d No\r\nContent-Length: 4\r\n\r\npage" % status)) as world:
        client = world.client
        await client.send(client.head(1, WEBSOCKET, end=False))
        answer = await client.answer(1)
        assert (answer.status, answer.body) == (str(status), b"page")


async def test_two_proofs_of_a_switch_prove_nothing(autojump_clock: MockClock) -> None:
    async def doubled(stream: trio.abc.HalfCloseableStream) -> None:
        head, _ = await read_head(stream)
        lines = b"Sec-WebSocket-Accept: bogus\r\n" + raw.websocket_accept(head)
        await stream.send_all(b"HTTP/1.1 101 Switching\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n" + lines + b"\r\n")

    async with open_world(doubled) as world:
        client = world.client
        await client.send(client.head(1, WEBSOCKET, end=False))
        assert (await client.answer(1)).status == "502"


async def test_plugin_that_answers_an_extended_connect_opens_nothing(autojump_clock: MockClock) -> None:
    class Answers(Plugin):
        async def read_request(self, txn: Transaction) -> None:
            txn.respond(200, "come in")

    async with open_world(plugins=[Answers()]) as world:
        client = world.client
        await client.send(client.head(1, WEBSOCKET, end=False))
        assert (await client.answer(1)).status == "500"
        (record,) = await world.records(1)
        assert (record.status, record.ended.by, record.ended.why) == (500, "plugin", "plugin")
