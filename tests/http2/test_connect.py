"""RFC 9113 §8.5 (CONNECT) and RFC 8441 (extended CONNECT)."""

from __future__ import annotations

import trio
from trio.testing import MockClock

from trio_tsconnect import HttpConfig

from . import _raw as raw
from ._raw import CANCEL, CONNECT_ERROR, DATA, PROTOCOL_ERROR, RST_STREAM, Fields, echo, frame, number, open_world, read_head, saying

PLAIN: Fields = [(":method", "CONNECT"), (":authority", "site.example:443")]
WEBSOCKET: Fields = [
    (":method", "CONNECT"),
    (":protocol", "websocket"),
    (":scheme", "https"),
    (":path", "/chat"),
    (":authority", "site.example"),
    ("sec-websocket-version", "13"),
]
PERMITTED = HttpConfig(connect=("*:*",), remap_required=False)


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
        await client.send(client.head(1, WEBSOCKET, end=False))
        await client.until(raw.HEADERS, 1)
        answer = client.answers[1]
        assert answer.status == "200"
        assert not set(answer.fields) & {"connection", "upgrade", "sec-websocket-accept", "transfer-encoding"}
        for part in (b"one", b"two"):
            await client.send(client.data(1, part))
            assert (await client.until(DATA, 1)).payload == part
        method, target, headers = world.origin.heads[0]
        assert (method, target) == ("GET", "https://site.example/chat")
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
        await client.send(client.head(1, WEBSOCKET, end=False))
        await client.until(raw.HEADERS, 1)
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
        head, _ = await read_head(stream)
        await stream.send_all(
            b"HTTP/1.1 101 Switching\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n" + raw.websocket_accept(head) + b"\r\nserver's last"
        )
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
        await client.send(client.head(1, WEBSOCKET, end=False))
        await client.until(raw.HEADERS, 1)
        await client.send(frame(RST_STREAM, 0, 1, number(CANCEL)))
        await ended.wait()
        assert len(await world.records(1)) == 1


async def test_origin_that_breaks_a_tunnel_ends_the_stream(autojump_clock: MockClock) -> None:
    async def serve(stream: trio.abc.HalfCloseableStream) -> None:
        head, _ = await read_head(stream)
        await stream.send_all(
            b"HTTP/1.1 101 Switching\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n" + raw.websocket_accept(head) + b"\r\n"
        )
        await stream.receive_some()
        raise ValueError("the origin fails")

    async with open_world(serve) as world:
        client = world.client
        await client.send(client.head(1, WEBSOCKET, end=False))
        await client.until(raw.HEADERS, 1)
        await client.send(client.data(1, b"x"))
        answer = await client.answer(1)
        assert answer.ended or answer.reset == CONNECT_ERROR


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


async def test_tunnel_has_no_trailers(autojump_clock: MockClock) -> None:
    async with open_world(echo) as world:
        client = world.client
        await client.send(client.head(1, WEBSOCKET, end=False))
        await client.until(raw.HEADERS, 1)
        await client.send(client.head(1, [("x", "1")]))
        assert (await client.answer(1)).reset == PROTOCOL_ERROR


async def test_plain_connect_reaches_its_target(autojump_clock: MockClock) -> None:
    async def far_end(stream: trio.SocketStream) -> None:
        async with stream:
            while data := await stream.receive_some():
                await stream.send_all(data.upper())

    listeners = await trio.open_tcp_listeners(0, host="127.0.0.1")
    port = listeners[0].socket.getsockname()[1]
    async with open_world(http=PERMITTED) as world:
        world.nursery.start_soon(trio.serve_listeners, far_end, listeners)
        world.origin.answers = False
        client = world.client
        await client.send(client.head(1, [(":method", "CONNECT"), (":authority", f"127.0.0.1:{port}")], end=False))
        await client.until(raw.HEADERS, 1)
        assert client.answers[1].status == "200"
        await client.send(client.data(1, b"hello", end=True))
        assert (await client.answer(1)).body == b"HELLO"
