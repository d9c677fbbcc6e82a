"""What differs between kinds of streams, asked of each kind."""

from __future__ import annotations

import socket
import ssl
import struct
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager, suppress

import pytest
import trio
import trio.testing
import trustme

from trio_tsconnect.stream import close_gently, has_input, open_virtual_connection_pair, reset, watch_peer

Pair = tuple[trio.abc.Stream, trio.abc.Stream]


async def virtual_pair() -> Pair:
    return open_virtual_connection_pair()


async def tcp_pair() -> tuple[trio.SocketStream, trio.SocketStream]:
    (listener,) = await trio.open_tcp_listeners(0, host="127.0.0.1")
    near = await trio.open_tcp_stream(*listener.socket.getsockname())
    far = await listener.accept()
    await listener.aclose()
    return near, far


async def tls_pair() -> Pair:
    authority = trustme.CA()
    server, client = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH), ssl.create_default_context()
    authority.issue_cert("site.test").configure_cert(server)
    authority.configure_trust(client)
    near, far = await tcp_pair()
    one = trio.SSLStream(near, client, server_hostname="site.test", https_compatible=True)
    other = trio.SSLStream(far, server, server_side=True, https_compatible=True)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(one.do_handshake)
        nursery.start_soon(other.do_handshake)
    return one, other


KINDS = pytest.mark.parametrize("make", [virtual_pair, tcp_pair, tls_pair])


@asynccontextmanager
async def opened(make: Callable[[], Awaitable[Pair]]) -> AsyncIterator[Pair]:
    near, far = await make()
    try:
        yield near, far
    finally:
        for stream in (near, far):
            with trio.move_on_after(1, shield=True):
                await trio.aclose_forcefully(stream)


async def arrived(stream: trio.abc.Stream) -> None:
    transport = stream.transport_stream if isinstance(stream, trio.SSLStream) else stream
    if isinstance(transport, trio.SocketStream):
        with trio.fail_after(5):
            await trio.lowlevel.wait_readable(transport.socket)
    assert has_input(stream)


@KINDS
@pytest.mark.parametrize("what", ["bytes", "close"])
async def test_input_is_seen_without_reading_it(make: Callable[[], Awaitable[Pair]], what: str) -> None:
    async with opened(make) as (near, far):
        if make is tls_pair:  # session tickets came with the handshake
            await far.send_all(b"x")
            assert await near.receive_some() == b"x"
        assert not has_input(near)
        if what == "bytes":
            await far.send_all(b"hello")
        else:
            await far.aclose()
        await arrived(near)
        assert await near.receive_some() == (b"hello" if what == "bytes" else b"")


async def test_the_end_of_input_alone_is_input_too() -> None:
    for make in (virtual_pair, tcp_pair):
        async with opened(make) as (near, far):
            assert isinstance(far, trio.abc.HalfCloseableStream)
            await far.send_eof()
            await arrived(near)


@KINDS
async def test_a_closed_stream_has_input_for_it_must_not_be_used(make: Callable[[], Awaitable[Pair]]) -> None:
    async with opened(make) as (near, _):
        await trio.aclose_forcefully(near)
        assert has_input(near)


async def test_a_stream_of_an_unknown_kind_has_no_input() -> None:
    near, far = trio.testing.memory_stream_pair()
    await far.send_all(b"x")
    assert not has_input(near)


@pytest.mark.parametrize("leave", ["close", "abort"])
async def test_the_peer_of_a_virtual_connection_is_watched(leave: str) -> None:
    near, far = open_virtual_connection_pair()
    reasons: list[str] = []
    assert watch_peer(near, reasons.append)
    await far.send_eof()
    assert reasons == []
    if leave == "close":
        await far.aclose()
    else:
        reset(far, "enough")
    assert reasons == ["closed" if leave == "close" else "enough"]


async def test_a_peer_that_has_gone_before_is_told_of_at_once_and_one_nobody_asks_about_is_not() -> None:
    near, far = open_virtual_connection_pair()
    reasons: list[str] = []
    watch_peer(near, reasons.append)
    watch_peer(near, None)
    await far.aclose()
    assert reasons == []
    watch_peer(near, reasons.append)
    assert len(reasons) == 1


async def test_a_socket_cannot_be_watched_without_being_read() -> None:
    async with opened(tcp_pair) as (near, _):
        assert not watch_peer(near, lambda _: None)


async def test_abort_breaks_a_virtual_connection_for_both_sides_and_leaves_other_streams_to_be_closed() -> None:
    near, far = open_virtual_connection_pair()
    reset(near, "enough")
    with pytest.raises(trio.BrokenResourceError, match="enough"):
        await far.receive_some()
    async with opened(tcp_pair) as (one, other):
        reset(one, "enough")
        await one.send_all(b"x")
        assert await other.receive_some() == b"x"


@KINDS
async def test_rfc_9112_9_6_what_was_written_arrives_although_the_peer_has_sent_more_than_was_read(
    make: Callable[[], Awaitable[Pair]],
) -> None:
    async with opened(make) as (near, far):
        await far.send_all(b"unread" * 1000)
        await near.send_all(b"answer")
        received = bytearray()

        async def peer() -> None:
            await far.send_all(b"more, unread")
            try:
                while data := await far.receive_some():
                    received.extend(data)
            finally:
                await trio.aclose_forcefully(far)

        async with trio.open_nursery() as nursery:
            nursery.start_soon(close_gently, near, 5)
            if make is virtual_pair:
                await trio.testing.wait_all_tasks_blocked()
                received += await far.receive_some()
            else:
                nursery.start_soon(peer)
        assert received == b"answer"
        with pytest.raises(trio.ClosedResourceError):
            await near.send_all(b"x")


async def test_a_peer_that_does_not_close_is_waited_for_no_longer_than_was_said(autojump_clock: trio.testing.MockClock) -> None:
    near, far = trio.testing.memory_stream_pair()
    start = trio.current_time()
    await close_gently(near, 3)
    assert trio.current_time() - start == pytest.approx(3)
    assert await far.receive_some() == b""


async def test_a_peer_that_does_not_stop_is_read_up_to_a_bound() -> None:
    near, far = await tcp_pair()
    sent = 0

    async def pour() -> None:
        nonlocal sent
        with suppress(trio.BrokenResourceError):
            while True:
                await far.send_all(bytes(65536))
                sent += 65536

    async with trio.open_nursery() as nursery:
        nursery.start_soon(pour)
        with trio.fail_after(20):
            await close_gently(near, 60)
    await far.aclose()
    assert sent >= 1 << 20


@KINDS
async def test_cancelled_it_is_closed_all_the_same(make: Callable[[], Awaitable[Pair]]) -> None:
    async with opened(make) as (near, _):
        with trio.CancelScope() as scope:
            scope.cancel()
            await close_gently(near, 60)
        with pytest.raises(trio.ClosedResourceError):
            await near.receive_some()


async def test_a_reset_does_not_disturb_a_gentle_close() -> None:
    near, far = await tcp_pair()
    far.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    await far.aclose()
    await close_gently(near, 5)
    with pytest.raises(trio.ClosedResourceError):
        await near.receive_some()
