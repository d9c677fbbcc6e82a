"""RFC 9112 §9.6 and what follows from streaming: clients that leave, both directions at once, and back-pressure from end to end."""

from __future__ import annotations

import pytest
import trio
import trio.testing

from tests.rfc._rig import DATE, OK, Transport, Wire, chunked, get, how, on_mock_clock, open_rig

pytestmark = pytest.mark.trio(run=on_mock_clock)

HOST = b"Host: site.test\r\n"
BIG = 1 << 20


async def test_a_client_that_has_said_all_it_has_to_say_is_answered(transport: Transport) -> None:
    # §9.6: a half-closed client has made its last request
    async with open_rig(transport) as rig:
        client = await rig.connect()
        await client.send(get())
        await client.send_eof()
        assert await client.rest() == OK
        assert how(await rig.record()) == ("proxy", "complete")


async def test_a_half_closed_client_is_waited_for_where_it_is_configured(transport: Transport) -> None:
    async def serve(wire: Wire) -> None:
        await wire.request()
        await trio.sleep(5)
        await wire.send(OK)

    async with open_rig(transport, serve=serve, http={"half_close": "finish"}) as rig:
        client = await rig.connect()
        await client.send(get())
        await client.send_eof()
        assert await client.rest() == OK


async def test_a_client_that_is_gone_takes_its_request_from_the_origin(transport: Transport) -> None:
    left = trio.Event()

    async def serve(wire: Wire) -> None:
        await wire.request()
        await wire.rest()
        left.set()

    async with open_rig(transport, serve=serve) as rig:
        client = await rig.connect()
        await client.send(get())
        await trio.testing.wait_all_tasks_blocked(0.01)
        began = trio.current_time()
        await client.aclose()
        await left.wait()
        assert trio.current_time() - began < 2
        assert how(await rig.record()) == ("client", "client_gone")


async def test_a_client_that_is_gone_midway_stops_the_answer(transport: Transport) -> None:
    stopped = trio.Event()

    async def serve(wire: Wire) -> None:
        await wire.request()
        await wire.send(b"HTTP/1.1 200 OK\r\n%bTransfer-Encoding: chunked\r\n\r\n" % DATE)
        try:
            while True:
                await wire.send(b"400\r\n%b\r\n" % (b"a" * 1024))
                await trio.sleep(0.01)
        except trio.BrokenResourceError:
            stopped.set()

    async with open_rig(transport, serve=serve) as rig:
        client = await rig.connect()
        await client.send(get())
        await client.until(b"a" * 1024)
        await client.aclose()
        await stopped.wait()
        assert how(await rig.record()) == ("client", "client_gone")


async def test_a_client_that_does_not_read_stops_the_origin(transport: Transport) -> None:
    sent = 0

    async def serve(wire: Wire) -> None:
        nonlocal sent
        await wire.request()
        await wire.send(b"HTTP/1.1 200 OK\r\n%bContent-Length: %d\r\n\r\n" % (DATE, 64 * BIG))
        for _ in range(64 * 16):
            await wire.send(b"a" * (BIG // 16))
            sent += BIG // 16

    async with open_rig(transport, serve=serve, http={"inactivity_timeout": 10}) as rig:
        client = await rig.connect()
        await client.send(get())
        await trio.testing.wait_all_tasks_blocked(0.02)
        assert sent < 32 * BIG
        await trio.sleep(20)  # it goes on only if it reads, and the time for that is over
        assert len(await client.rest()) < 64 * BIG
        assert how(await rig.record()) == ("client", "client_timeout")


async def test_an_origin_that_does_not_read_stops_the_client(transport: Transport) -> None:
    sent = 0
    release = trio.Event()

    async def serve(wire: Wire) -> None:
        await wire.until(b"\r\n\r\n")
        await release.wait()
        size = len(wire.buffer)
        while size < 64 * BIG:
            wire.buffer = b""
            await wire.more()
            size += len(wire.buffer)
        await wire.send(OK)

    async with open_rig(transport, serve=serve) as rig, trio.open_nursery() as nursery:

        async def upload() -> None:
            nonlocal sent
            await client.send(b"PUT / HTTP/1.1\r\n%bContent-Length: %d\r\n\r\n" % (HOST, 64 * BIG))
            for _ in range(64 * 16):
                await client.send(b"a" * (BIG // 16))
                sent += BIG // 16

        client = await rig.connect()
        nursery.start_soon(upload)
        await trio.testing.wait_all_tasks_blocked(0.02)
        assert sent < 32 * BIG
        release.set()
        assert (await client.response(b"PUT")).raw == OK
        record = await rig.record()
        assert (record.request_bytes, *how(record)) == (64 * BIG, "proxy", "complete")


async def test_bodies_stream_both_ways_at_once(transport: Transport) -> None:
    async def serve(wire: Wire) -> None:
        await wire.until(b"\r\n\r\n")
        await wire.send(b"HTTP/1.1 200 OK\r\n%bTransfer-Encoding: chunked\r\n\r\n" % DATE)
        while (line := await wire.until(b"\r\n")) != b"0\r\n":
            await wire.send(line + await wire.until(b"\r\n"))
        await wire.send(b"0\r\n\r\n")

    async with open_rig(transport, serve=serve) as rig:
        client = await rig.connect()
        await client.send(chunked(b""))
        await client.until(b"\r\n\r\n")
        for word in (b"one", b"two", b"three"):  # each is answered before the next is said
            piece = b"%x\r\n%b\r\n" % (len(word), word)
            await client.send(piece)
            assert await client.until(word + b"\r\n") == piece
        await client.send(b"0\r\n\r\n")
        assert await client.until(b"0\r\n\r\n") == b"0\r\n\r\n"
        assert how(await rig.record()) == ("proxy", "complete")
