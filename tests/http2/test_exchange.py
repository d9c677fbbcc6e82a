"""Taking apart what the engine writes: however it arrives, the same comes out."""

from __future__ import annotations

import pytest
import trio
from hypothesis import given
from hypothesis import strategies as st

from trio_tsconnect import VirtualConnection, open_virtual_connection_pair
from trio_tsconnect.http2._exchange import BrokenOff, Exchange, frame_chunk, frame_end

RESPONSES = {
    "length": b"HTTP/1.1 200 OK\r\nContent-Length: 11\r\nX: y\r\n\r\nhello world",
    "chunked": b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\nX: y\r\n\r\n5\r\nhello\r\n6\r\n world\r\n0\r\n\r\n",
    "trailers": b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\nX: y\r\n\r\nb\r\nhello world\r\n0\r\nSum: 1\r\nEnd:\r\n\r\n",
    "closed": b"HTTP/1.1 200 OK\r\nX: y\r\n\r\nhello world",
    "interim": b"HTTP/1.1 103 Hints\r\nLink: a\r\n\r\nHTTP/1.1 200 OK\r\nContent-Length: 11\r\nX: y\r\n\r\nhello world",
}


async def read(pipe: VirtualConnection, method: bytes = b"GET") -> tuple[list[int], bytes, Exchange]:
    exchange = Exchange(pipe, method)
    statuses, body = [], b""
    while True:
        head = await exchange.read_head()
        statuses.append(head.status)
        if head.status >= 200:
            assert (b"x", b"y") in head.fields
            break
    while not exchange.is_complete():
        piece = exchange.next_piece()
        if piece:
            body += piece
        elif not exchange.is_complete() and not await exchange.fill():
            exchange.input_ended()
    return statuses, body, exchange


@pytest.mark.parametrize("name", RESPONSES)
@given(cuts=st.lists(st.integers(1, 60), max_size=40))
def test_response_does_not_depend_on_how_it_arrives(name: str, cuts: list[int]) -> None:
    data = RESPONSES[name]

    async def main() -> None:
        ours, theirs = open_virtual_connection_pair()

        async def write() -> None:
            at = 0
            for size in [*cuts, len(data)]:
                if data[at : at + size]:
                    await theirs.send_all(data[at : at + size])
                    await trio.lowlevel.checkpoint()
                at += size
            await theirs.send_eof()

        async with trio.open_nursery() as nursery:
            nursery.start_soon(write)
            statuses, body, exchange = await read(ours)
        assert (statuses[-1], body) == (200, b"hello world")
        assert exchange.trailers == ([(b"sum", b"1"), (b"end", b"")] if name == "trailers" else None)

    trio.run(main)


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"HTTP/1.1 200 OK\r\n",
        b"HTTP/1.1 OK\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nX: y\r\nContent-Length: 5\r\n\r\nhell",
        b"HTTP/1.1 200 OK\r\nX: y\r\nContent-Length: 5\r\n\r\nhello!",
        b"HTTP/1.1 200 OK\r\nX: y\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n",
        b"HTTP/1.1 200 OK\r\nX: y\r\nTransfer-Encoding: chunked\r\n\r\n4\r\nhello\r\n0\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nX: y\r\nTransfer-Encoding: chunked\r\n\r\nx\r\nhello\r\n0\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nX: y\r\nTransfer-Encoding: chunked\r\n\r\n0\r\nSum: 1\r\n",
    ],
)
async def test_what_is_not_whole_is_broken_off(data: bytes) -> None:
    ours, theirs = open_virtual_connection_pair()
    if data:
        await theirs.send_all(data)
    await theirs.send_eof()
    with pytest.raises(BrokenOff):
        await read(ours)


def test_chunks_are_framed() -> None:
    assert frame_chunk(b"0123456789abcdef!") == b"11\r\n0123456789abcdef!\r\n"
    assert frame_end(None) == b"0\r\n\r\n"
    assert frame_end([(b"a", b"1"), (b"b", b"")]) == b"0\r\na: 1\r\nb: \r\n\r\n"
