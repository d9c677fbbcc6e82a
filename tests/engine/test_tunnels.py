"""RFC 9110 §9.3.6: how a tunnel ends. An end is passed on as an end, anything else as a reset, whichever side it comes from."""

from __future__ import annotations

import socket
import ssl
import struct
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from functools import partial
from typing import Any

import attrs
import pytest
import trio
import trio.testing
import trustme

from tests.engine._world import TellingLog, Wire, how, listening
from trio_tsconnect import HttpConfig, Plugin, ProxyConfig, Transaction, VirtualConnection, open_proxy

FarEnd = Callable[[trio.SocketStream], Awaitable[object]]
Clock = trio.testing.MockClock


def reset(stream: trio.SocketStream) -> None:
    stream.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    stream.socket.close()


@attrs.define
class FarEndOf:
    """What the origin of a tunnel has seen."""

    got: bytes = b""
    came: trio.Event = attrs.Factory(trio.Event)
    end: str = ""
    done: trio.Event = attrs.Factory(trio.Event)

    async def read(self, stream: trio.SocketStream) -> None:
        """Read until the end, and note of which kind it was."""
        async with stream:
            try:
                while data := await stream.receive_some():
                    self.got += data
                    self.came.set()
                self.end = "end"
            except trio.BrokenResourceError:
                self.end = "reset"
            self.done.set()


@asynccontextmanager
async def tunnelled(
    far_end: FarEnd, *, tls: tuple[ssl.SSLContext, ssl.SSLContext] | None = None, **http: Any
) -> AsyncIterator[tuple[Wire, TellingLog]]:
    """A client's connection, over a socket, that CONNECT has joined to `far_end`."""
    log = TellingLog()
    config = ProxyConfig(http=HttpConfig(connect=("127.0.0.1:*",), **http))
    async with open_proxy(config, log=log) as proxy, listening(far_end) as origin:

        async def serve(stream: trio.abc.Stream) -> None:
            await proxy.serve_stream(trio.SSLStream(stream, tls[0], server_side=True, https_compatible=True) if tls else stream)

        async with listening(serve) as port:
            stream: trio.abc.Stream = await trio.open_tcp_stream("127.0.0.1", port)
            if tls:
                stream = trio.SSLStream(stream, tls[1], server_hostname="localhost", https_compatible=True)
            wire = Wire(stream)
            await wire.send(b"CONNECT 127.0.0.1:%d HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n" % origin)
            assert (await wire.until(b"\r\n\r\n")).startswith(b"HTTP/1.1 200 ")
            with trio.fail_after(10):
                yield wire, log
            await trio.aclose_forcefully(stream)


@pytest.fixture(scope="module")
def contexts() -> tuple[ssl.SSLContext, ssl.SSLContext]:
    authority = trustme.CA()
    server, client = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER), ssl.create_default_context()
    authority.issue_cert("localhost").configure_cert(server)
    authority.configure_trust(client)
    return server, client


async def says_and_resets(stream: trio.SocketStream) -> None:
    assert await stream.receive_some() == b"hello"
    await stream.send_all(b"last words")
    assert await stream.receive_some() == b"heard"
    reset(stream)


@pytest.mark.parametrize("over_tls", [False, True], ids=["plain", "over TLS"])
async def test_origin_that_resets_a_tunnel_resets_the_client(over_tls: bool, contexts: tuple[ssl.SSLContext, ssl.SSLContext]) -> None:
    """A client over TLS is reset below TLS, with no close_notify that would make it an end."""
    async with tunnelled(says_and_resets, tls=contexts if over_tls else None) as (client, log):
        await client.send(b"hello")
        assert await client.exactly(10) == b"last words"
        await client.send(b"heard")
        assert await client.rest() == b""
        assert client.broken
        (record,) = await log.wait()
        assert how(record) == ("origin", "origin_truncated")
        assert (record.status, record.request_bytes, record.response_bytes) == (200, 10, 10)


async def test_client_that_resets_a_tunnel_resets_the_origin() -> None:
    far = FarEndOf()
    async with tunnelled(far.read) as (client, log):
        await client.send(b"hello")
        await far.came.wait()
        assert isinstance(client.stream, trio.SocketStream)
        reset(client.stream)
        await far.done.wait()
        assert (far.got, far.end) == (b"hello", "reset")
        assert how((await log.wait())[0]) == ("client", "client_gone")


async def test_end_of_the_client_is_an_end_for_the_origin() -> None:
    far = FarEndOf()
    async with tunnelled(far.read) as (client, log):
        await client.send(b"hello")
        assert isinstance(client.stream, trio.SocketStream)
        await client.stream.send_eof()
        assert await client.rest() == b""
        assert not client.broken
        assert (far.got, far.end) == (b"hello", "end")
        assert how((await log.wait())[0]) == ("proxy", "complete")


async def test_origin_that_ends_and_then_leaves_has_ended() -> None:
    """Who closes altogether looks, until something is written to it, like one who has only ended its output."""
    left = trio.Event()

    async def far_end(stream: trio.SocketStream) -> None:
        await stream.send_all(b"bye")
        await stream.send_eof()
        await stream.receive_some()
        reset(stream)
        left.set()

    async with tunnelled(far_end) as (client, log):
        assert await client.rest() == b"bye"
        await client.send(b"one")
        await left.wait()
        while not log.records:  # the first write after a reset may still find room
            try:
                await client.send(b"more")
            except trio.BrokenResourceError:
                break
            await trio.lowlevel.checkpoint()
        assert not client.broken
        assert how((await log.wait())[0]) == ("proxy", "complete")


async def test_tunnel_whose_time_is_over_is_reset_for_both(mock_clock: Clock) -> None:
    far = FarEndOf()
    async with tunnelled(far.read, transaction_timeout=3) as (client, log):
        mock_clock.jump(4)
        assert await client.rest() == b""
        assert client.broken
        await far.done.wait()
        assert far.end == "reset"
        assert how((await log.wait())[0]) == ("proxy", "transaction_timeout")


class Plays(Plugin):
    """Is the far end of every tunnel."""

    def __init__(self, far_end: Callable[[VirtualConnection], Awaitable[object]]) -> None:
        self.far_end = far_end

    async def read_request(self, txn: Transaction) -> None:
        txn.intercept(partial(self._serve, txn))

    async def _serve(self, txn: Transaction, stream: trio.abc.HalfCloseableStream) -> None:
        assert isinstance(stream, VirtualConnection)
        wire = Wire(stream)
        await wire.head()
        await wire.send(b"HTTP/1.1 101 Switching Protocols\r\nConnection: upgrade\r\nUpgrade: x\r\n\r\n")
        await self.far_end(stream)


@asynccontextmanager
async def upgraded(far_end: Callable[[VirtualConnection], Awaitable[object]], **options: Any) -> AsyncIterator[tuple[Wire, TellingLog]]:
    log = TellingLog()
    async with open_proxy(plugins=[Plays(far_end)], log=log) as proxy:
        client = Wire(proxy.connect(**options))
        await client.send(b"GET / HTTP/1.1\r\nHost: origin.test\r\nConnection: upgrade\r\nUpgrade: x\r\n\r\n")
        assert (await client.until(b"\r\n\r\n")).startswith(b"HTTP/1.1 101 ")
        yield client, log
        await client.stream.aclose()


async def taken(stream: VirtualConnection) -> None:
    while stream.statistics().sending.unread:
        await trio.lowlevel.checkpoint()


async def says_and_aborts(stream: VirtualConnection) -> None:
    await stream.send_all(b"last words")
    await taken(stream)
    stream.abort("enough")


async def test_what_an_origin_said_before_it_broke_is_delivered_first(autojump_clock: Clock) -> None:
    async with upgraded(says_and_aborts) as (client, log):
        await trio.sleep(0.5)
        assert await client.rest() == b"last words"
        assert client.broken
        assert how((await log.wait())[0]) == ("origin", "origin_truncated")


async def test_what_an_origin_said_is_not_lost_when_it_takes_nothing_more(autojump_clock: Clock) -> None:
    """The write to it fails first, and its words are still to be read."""
    gone = trio.Event()

    async def far_end(stream: VirtualConnection) -> None:
        assert await stream.receive_some() == b"go"
        await stream.send_all(bytes(60_000))  # more than the client's buffer holds, and less than both do
        gone.set()

    async with upgraded(far_end) as (client, log):
        await client.send(b"go")
        await gone.wait()
        await client.send(b"too late")
        await trio.sleep(0.5)
        assert len(await client.rest()) == 60_000
        assert client.broken
        assert how((await log.wait())[0]) == ("origin", "origin_truncated")


async def test_client_that_does_not_take_it_is_not_waited_for_long(autojump_clock: Clock) -> None:
    async with upgraded(says_and_aborts) as (client, log):
        (record,) = await log.wait()
        assert how(record) == ("origin", "origin_truncated")
        assert trio.current_time() < 0.1
        assert await client.stream.receive_some()  # what was said before is still there
        with pytest.raises(trio.BrokenResourceError):
            await client.stream.receive_some()


async def test_what_a_client_said_before_it_broke_reaches_the_origin_first(autojump_clock: Clock) -> None:
    got = b""

    async def far_end(stream: VirtualConnection) -> None:
        nonlocal got
        await trio.sleep(0.5)
        while data := await stream.receive_some():
            got += data

    async with upgraded(far_end) as (client, log):
        await client.send(b"last words")
        assert isinstance(client.stream, VirtualConnection)
        await taken(client.stream)
        client.stream.abort("client_bored")
        (record,) = await log.wait()
        assert how(record) == ("client", "client_bored")
        assert got == b"last words"
