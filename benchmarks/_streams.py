"""A virtual connection against a bare memory channel and against loopback TCP: small messages to and fro, and many bytes one way."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress

import trio

from benchmarks._ratio import Effort, Figure, race, timed
from trio_tsconnect import open_virtual_connection_pair

MESSAGE = b"m" * 64
CHUNK = b"c" * 16384
CHUNKS_IN_FLIGHT = 2  # as many as the window of a virtual connection has room for


@asynccontextmanager
async def tcp_pair() -> AsyncIterator[tuple[trio.SocketStream, trio.SocketStream]]:
    """Two ends of a connection over the loopback interface."""
    (listener,) = await trio.open_tcp_listeners(0, host="127.0.0.1")
    async with listener:
        near = await trio.open_tcp_stream(*listener.socket.getsockname())
        async with near, await listener.accept() as far:
            yield near, far


async def _echo_stream(stream: trio.abc.Stream) -> None:
    while data := await stream.receive_some(65536):
        await stream.send_all(data)


async def _echo_channel(receive: trio.MemoryReceiveChannel[bytes], send: trio.MemorySendChannel[bytes]) -> None:
    async for data in receive:
        await send.send(data)


async def _ping_pong_stream(stream: trio.abc.Stream, n: int) -> None:
    for _ in range(n):
        await stream.send_all(MESSAGE)
        left = len(MESSAGE)
        while left:
            left -= len(await stream.receive_some(65536))


async def ping_pong(effort: Effort) -> list[Figure]:
    """Round trips of 64 bytes."""
    to_echo, at_echo = trio.open_memory_channel[bytes](1)
    from_echo, here = trio.open_memory_channel[bytes](1)
    ours, theirs = open_virtual_connection_pair()

    async def over_channel(n: int) -> None:
        for _ in range(n):
            await to_echo.send(MESSAGE)
            await here.receive()

    async with tcp_pair() as (near, far), trio.open_nursery() as nursery:
        nursery.start_soon(_echo_stream, theirs)
        nursery.start_soon(_echo_stream, far)
        nursery.start_soon(_echo_channel, at_echo, from_echo)
        contestants = {
            "virtual connection": timed(lambda n: _ping_pong_stream(ours, n)),
            "memory channel": timed(over_channel),
            "loopback TCP": timed(lambda n: _ping_pong_stream(near, n)),
        }
        figures = await race("ping-pong over a virtual connection", contestants, effort)
        nursery.cancel_scope.cancel()
    return figures


async def _bulk_stream(near: trio.abc.Stream, far: trio.abc.Stream, n: int) -> None:
    async def write() -> None:
        for _ in range(n):
            await near.send_all(CHUNK)

    async with trio.open_nursery() as nursery:
        nursery.start_soon(write)
        left = n * len(CHUNK)
        while left:
            left -= len(await far.receive_some(65536))


async def _bulk_channel(n: int) -> None:
    send, receive = trio.open_memory_channel[bytes](CHUNKS_IN_FLIGHT)

    async def write() -> None:
        with send:
            for _ in range(n):
                await send.send(CHUNK)

    async with trio.open_nursery() as nursery:
        nursery.start_soon(write)
        async for _ in receive:
            pass


async def bulk(effort: Effort) -> list[Figure]:
    """Bytes one way, in pieces of 16 KiB, with room for 32 KiB."""
    ours, theirs = open_virtual_connection_pair()
    mebibytes = len(CHUNK) / (1 << 20)
    async with tcp_pair() as (near, far):
        contestants = {
            "virtual connection": timed(lambda n: _bulk_stream(ours, theirs, n), per=mebibytes),
            "memory channel": timed(_bulk_channel, per=mebibytes),
            "loopback TCP": timed(lambda n: _bulk_stream(near, far, n), per=mebibytes),
        }
        figures = await race("bulk over a virtual connection", contestants, effort, unit="MiB/s")
    with suppress(trio.BrokenResourceError):
        await ours.aclose()
        await theirs.aclose()
    return figures
