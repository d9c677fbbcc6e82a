"""What holds for every exchange: how its bytes are cut into pieces changes nothing, and no bytes at all do harm.

`make fuzz` looks at ten thousand other examples of each.
"""

from __future__ import annotations

from itertools import pairwise

import pytest
import trio
import trio.testing
from hypothesis import given
from hypothesis import strategies as st
from trio.testing import MockClock

from tests.rfc._hostile import HELLO, REPLIES, REQUESTS, SMUGGLED
from tests.rfc._judge import SENTINEL, ask_hostile_origin, check_log, check_request, converse, hostile_rig
from tests.rfc._rig import DATE, PATIENCE, Transport, Wire, chunked, get, open_rig, post, response
from tests.rfc._strict import Message

clocks = st.builds(MockClock, autojump_threshold=st.just(0.005))
"""A new clock for each example: pytest-trio runs it on the one that it is given."""
over_both = pytest.mark.parametrize("transport", ["tcp", "virtual"])

# ------------------------------------------------------------------------------------------------------------------- sound exchanges

contents = st.binary(max_size=40)
trailers = st.sampled_from([b"", b"X: a\r\n", b"X: a\r\nY: b\r\n"])


@st.composite
def chunks(draw: st.DrawFn) -> bytes:
    """A chunked body."""
    pieces = draw(st.lists(st.binary(min_size=1, max_size=20), max_size=4))
    extension = draw(st.sampled_from([b"", b";a", b';a="b"']))
    return b"".join(b"%x%b\r\n%b\r\n" % (len(piece), extension, piece) for piece in pieces) + b"0\r\n" + draw(trailers) + b"\r\n"


fields = st.lists(st.sampled_from([b"X: a\r\n", b"X: b\r\n", b"Y:\r\n", b"Z: \t\xff \r\n", b"Connection: X\r\n"]), max_size=4).map(b"".join)
requests = st.one_of(
    st.builds(lambda f: get(b"/a?b", fields=f), fields),
    st.builds(lambda f: get(fields=f).replace(b"GET", b"HEAD"), fields),
    st.builds(lambda c, f: post(c, fields=f), contents, fields),
    st.builds(lambda c, f: chunked(c, fields=f), chunks(), fields),
)
replies = st.one_of(
    st.builds(lambda c, f: response(c, fields=f), contents, fields),
    st.builds(lambda c, f: b"HTTP/1.1 200 OK\r\n%b%bTransfer-Encoding: chunked\r\n\r\n%b" % (DATE, f, c), chunks(), fields),
    st.just(b"HTTP/1.1 204 No Content\r\n" + DATE + b"\r\n"),
)
answers = st.tuples(st.sampled_from([b"", b"HTTP/1.1 103 Early Hints\r\nX: a\r\n\r\n"]), replies)
cuts = st.lists(st.integers(0, 400), max_size=12)


def pieces(data: bytes, places: list[int]) -> list[bytes]:
    """The data, cut at these places."""
    edges = [0, *sorted({place % (len(data) + 1) for place in places}), len(data)]
    return [data[start:end] for start, end in pairwise(edges) if start < end]


def essence(message: Message) -> tuple[object, ...]:
    """A message without the bounds of its chunks."""
    return message.first, message.fields, message.content, message.trailers


async def send_in_pieces(wire: Wire, data: bytes, places: list[int]) -> None:
    for piece in pieces(data, places):
        await wire.send(piece)
        await trio.testing.wait_all_tasks_blocked()


async def play(
    transport: Transport, sent: list[bytes], said: list[tuple[bytes, bytes]], places: list[int]
) -> tuple[list[object], list[object]]:
    """What the origin and the client got."""

    async def serve(wire: Wire) -> None:
        while True:
            request = await wire.request()
            rig.origin.received.append(request)
            interim, final = said[(len(rig.origin.received) - 1) % len(said)]
            if request.first[0] == b"HEAD":
                final = final[: final.index(b"\r\n\r\n") + 4]
            await send_in_pieces(wire, interim + final, places)

    async with open_rig(transport, serve=serve, http={"half_close": "finish"}) as rig:
        client = await rig.connect()
        async with trio.open_nursery() as nursery:
            nursery.start_soon(send_in_pieces, client, b"".join(sent), places)
            got: list[object] = []
            for request in sent:
                while True:
                    message = await client.response(request.partition(b" ")[0])
                    got.append(essence(message))
                    if message.status >= 200:
                        break
        await client.send_eof()
        assert await client.is_closed()
        records = await rig.records_of(len(sent))
        assert {record.ended.why for record in records} == {"complete"}
    return [essence(message) for message in rig.origin.received], got


@over_both
@given(clock=clocks, sent=st.lists(requests, min_size=1, max_size=3), said=st.lists(answers, min_size=1, max_size=3), places=cuts)
async def test_how_an_exchange_is_cut_changes_nothing(
    transport: Transport, clock: MockClock, sent: list[bytes], said: list[tuple[bytes, bytes]], places: list[int]
) -> None:
    whole = await play(transport, sent, said, [])
    assert await play(transport, sent, said, places) == whole


# ----------------------------------------------------------------------------------------------------------------------- random bytes

LINES = [b"GET / HTTP/1.1\r\n", b"POST http://site.test/ HTTP/1.0\r\n", b"HTTP/1.1 200 OK\r\n", b"HTTP/1.1 100 \r\n", b"HTTP/1.0 304 x\r\n"]
FIELDS = [
    b"Host: site.test\r\n",
    b"Content-Length: 5\r\n",
    b"Transfer-Encoding: chunked\r\n",
    b"Connection: close\r\n",
    b"X: a\r\n",
    b"Expect: 100-continue\r\n",
]
SCRAPS = [
    b"\r\n",
    b"\r\n\r\n",
    b"\n",
    b"\r",
    b"\0",
    b" ",
    b":",
    b"0\r\n\r\n",
    b"5\r\nhello\r\n",
    b"hello",
    b'5;a="',
    b",",
    b"gzip",
    b"HTTP/",
    b"1.1",
]

noise = st.binary(max_size=200)
collage = st.lists(st.sampled_from(LINES + FIELDS + SCRAPS + [SMUGGLED, HELLO]) | st.binary(max_size=3), max_size=15).map(b"".join)


def altered(messages: list[bytes]) -> st.SearchStrategy[bytes]:
    """Messages in which a few bytes were exchanged, removed or added."""

    def alter(data: bytes, changes: list[tuple[int, int, bytes]]) -> bytes:
        for place, size, new in changes:
            place %= len(data) + 1
            data = data[:place] + new + data[place + size :]
        return data

    scraps = st.sampled_from(FIELDS + SCRAPS) | st.binary(max_size=3)
    changes = st.lists(st.tuples(st.integers(0, 400), st.integers(0, 3), scraps), min_size=1, max_size=4)
    return st.builds(alter, st.sampled_from(messages), changes)


SHORT = {"header_timeout": 1, "keep_alive_timeout": 1, "inactivity_timeout": 1, "linger_timeout": 1, "gone_check_interval": 10}


@over_both
@given(clock=clocks, data=noise | collage | altered(list(REQUESTS.values())))
async def test_no_bytes_of_a_client_do_harm(transport: Transport, clock: MockClock, data: bytes) -> None:
    async with open_rig(transport) as rig:
        raw, _ = await converse(rig, data + SENTINEL)
        check_request(raw, rig.origin.received, rig.records)
        check_log(rig.records)


@over_both
@given(clock=clocks, data=noise | collage | altered(list(REQUESTS.values())), places=cuts)
async def test_a_client_that_stops_anywhere_is_not_waited_for_without_end(
    transport: Transport, clock: MockClock, data: bytes, places: list[int]
) -> None:
    async with open_rig(transport, http=SHORT) as rig:
        client = await rig.connect()
        try:
            await send_in_pieces(client, data, places)
        except trio.BrokenResourceError:
            pass  # it has been refused already
        with trio.fail_after(PATIENCE / 2):
            await client.rest()
        await client.aclose()
        await rig.settled()


@over_both
@given(
    clock=clocks,
    says=noise | collage | altered(list(REPLIES.values())),
    way=st.sampled_from([(b"GET", b"1.1"), (b"HEAD", b"1.1"), (b"GET", b"1.0")]),
)
async def test_no_bytes_of_an_origin_do_harm(transport: Transport, clock: MockClock, says: bytes, way: tuple[bytes, bytes]) -> None:
    async with hostile_rig(transport) as (rig, origin):
        await ask_hostile_origin(rig, origin, says, *way)
        check_log(rig.records)
