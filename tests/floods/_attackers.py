"""What costs a client little and a proxy much, over real sockets: `python -m tests.floods._attackers NAME PORT SECONDS`.

Each attack stays within what one client, or a few, may send; it opens connections again when they are closed.
"""

from __future__ import annotations

import sys
from collections.abc import Awaitable, Callable

import trio
from hpack import Encoder

from tests.http2._raw import (
    ACK,
    CANCEL,
    DATA,
    END_HEADERS,
    GET,
    HEADERS,
    POST,
    PREFACE,
    RST_STREAM,
    SETTINGS,
    WINDOW_UPDATE,
    frame,
    number,
    settings,
)

Dial = Callable[[], Awaitable[trio.SocketStream]]
GREETING = PREFACE + settings() + frame(SETTINGS, ACK, 0)


def heads(fields: object, streams: range, *, end: bool = True) -> list[bytes]:
    encoder = Encoder()
    return [frame(HEADERS, END_HEADERS | end, stream, encoder.encode(list(fields))) for stream in streams]  # type: ignore[call-overload]


async def drain(stream: trio.SocketStream) -> None:
    while await stream.receive_some(65536):
        pass


async def indexed_fields(dial: Dial) -> None:
    """97 kB of references by a byte each to one field of the HPACK table."""
    async with await dial() as stream:
        first = frame(HEADERS, END_HEADERS | 1, 1, b"\x82\x86\x84\x41\x01x" + b"\x40\x01a\x01b")
        rest = [frame(HEADERS, END_HEADERS | 1, each, b"\x82\x86\x84\xbf" + b"\xbe" * (1700 + each % 50)) for each in range(3, 115, 2)]
        await stream.send_all(GREETING + first + b"".join(rest))
        await drain(stream)


async def resets(dial: Dial) -> None:
    """Streams that are opened and reset, below the limit of each connection."""
    async with await dial() as stream:
        opened = heads(GET, range(1, 381, 2))
        await stream.send_all(GREETING + b"".join(each + frame(RST_STREAM, 0, 2 * i + 1, number(CANCEL)) for i, each in enumerate(opened)))
        await drain(stream)


async def hundred_streams(dial: Dial) -> None:
    """A hundred requests at once, again and again."""
    async with await dial() as stream:
        await stream.send_all(GREETING + frame(WINDOW_UPDATE, 0, 0, number(1 << 30)) + b"".join(heads(GET, range(1, 200, 2))))
        await drain(stream)


async def closed_windows(dial: Dial) -> None:
    """A window of 0, and 64 requests for a large body."""
    async with await dial() as stream:
        fields = [(name, "/large" if name == ":path" else value) for name, value in GET]
        await stream.send_all(
            PREFACE + settings(initial_window_size=0) + frame(SETTINGS, ACK, 0) + b"".join(heads(fields, range(1, 129, 2)))
        )
        await drain(stream)


async def bodiless(dial: Dial) -> None:
    """64 requests whose bodies do not come."""
    async with await dial() as stream:
        await stream.send_all(GREETING + b"".join(heads(POST, range(1, 129, 2), end=False)))
        await drain(stream)


async def tiny_data(dial: Dial) -> None:
    """A body a byte at a time."""
    async with await dial() as stream:
        await stream.send_all(GREETING + heads(POST, range(1, 2), end=False)[0] + frame(DATA, 0, 1, b"x") * 15_000)
        await drain(stream)


async def slow_uploads(dial: Dial) -> None:
    """Uploads of a few bytes now and then."""
    async with await dial() as stream:
        await stream.send_all(b"POST /small HTTP/1.1\r\nHost: a\r\nContent-Length: 100000\r\n\r\n")
        while True:
            await trio.sleep(1)
            await stream.send_all(b"xx")


async def slow_heads(dial: Dial) -> None:
    """Heads that do not end."""
    async with await dial() as stream:
        await stream.send_all(b"GET / HTTP/1.1\r\nHost: a\r\n")
        while True:
            await trio.sleep(1)
            await stream.send_all(b"X: y\r\n")


async def pipelined(dial: Dial) -> None:
    """Thousands of requests in one write."""
    async with await dial() as stream, trio.open_nursery() as nursery:
        nursery.start_soon(stream.send_all, b"GET /small HTTP/1.1\r\nHost: a\r\n\r\n" * 3000)
        await drain(stream)


async def tiny_chunks(dial: Dial) -> None:
    """A chunked body of a byte a chunk."""
    async with await dial() as stream, trio.open_nursery() as nursery:
        nursery.start_soon(
            stream.send_all, b"POST /small HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n" + b"1\r\nx\r\n" * 60_000
        )
        await drain(stream)


async def unread(dial: Dial) -> None:
    """Large bodies that nobody reads."""
    async with await dial() as stream:
        await stream.send_all(b"GET /large HTTP/1.1\r\nHost: a\r\n\r\n" * 20)
        await trio.sleep_forever()


ATTACKS: dict[str, tuple[Callable[[Dial], Awaitable[None]], int]] = {
    "indexed_fields": (indexed_fields, 10),
    "resets": (resets, 40),
    "hundred_streams": (hundred_streams, 20),
    "closed_windows": (closed_windows, 1),
    "bodiless": (bodiless, 4),
    "tiny_data": (tiny_data, 10),
    "slow_uploads": (slow_uploads, 200),
    "slow_heads": (slow_heads, 200),
    "pipelined": (pipelined, 10),
    "tiny_chunks": (tiny_chunks, 10),
    "unread": (unread, 64),
}
"""Each with the number of connections that do it at once."""


async def attack(name: str, port: int, seconds: float) -> None:
    """Go on for so long."""
    what, connections = ATTACKS[name]

    async def dial() -> trio.SocketStream:
        return await trio.open_tcp_stream("127.0.0.1", port)

    async def again() -> None:
        while True:
            try:
                await what(dial)
            except* (OSError, trio.BrokenResourceError):
                pass
            await trio.sleep(0.05)

    with trio.move_on_after(seconds):
        async with trio.open_nursery() as nursery:
            for _ in range(connections):
                nursery.start_soon(again)
            print("attacking", flush=True)


if __name__ == "__main__":
    trio.run(attack, sys.argv[1], int(sys.argv[2]), float(sys.argv[3]))
