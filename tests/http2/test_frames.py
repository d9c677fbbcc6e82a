"""RFC 9113 §4 and §6: frames that are malformed, misplaced or unknown."""

from __future__ import annotations

import pytest
import trio
from hypothesis import given
from hypothesis import strategies as st
from trio.testing import MockClock

from trio_tsconnect.http2._errors import ConnectionFault
from trio_tsconnect.http2._frames import FrameReader

from . import _raw as raw
from ._raw import (
    ACK,
    CONTINUATION,
    DATA,
    END_HEADERS,
    FRAME_SIZE_ERROR,
    GET,
    GOAWAY,
    HAS_PRIORITY,
    HEADERS,
    PADDED,
    PING,
    POST,
    PRIORITY,
    PROTOCOL_ERROR,
    PUSH_PROMISE,
    RST_STREAM,
    SETTINGS,
    WINDOW_UPDATE,
    frame,
    number,
    open_world,
    settings,
    swallow,
)

FATAL = {
    # §4.2
    "too large": (frame(DATA, 0, 1, bytes(16385)), FRAME_SIZE_ERROR),
    "too large of unknown type": (frame(0xEE, 0, 0, bytes(16385)), FRAME_SIZE_ERROR),
    # §6.1 to §6.10: on which stream
    "DATA on 0": (frame(DATA, 0, 0, b"x"), PROTOCOL_ERROR),
    "HEADERS on 0": (frame(HEADERS, END_HEADERS, 0, b"\x82"), PROTOCOL_ERROR),
    "PRIORITY on 0": (frame(PRIORITY, 0, 0, bytes(5)), PROTOCOL_ERROR),
    "RST_STREAM on 0": (frame(RST_STREAM, 0, 0, bytes(4)), PROTOCOL_ERROR),
    "SETTINGS on 1": (frame(SETTINGS, 0, 1), PROTOCOL_ERROR),
    "PING on 1": (frame(PING, 0, 1, bytes(8)), PROTOCOL_ERROR),
    "GOAWAY on 1": (frame(GOAWAY, 0, 1, bytes(8)), PROTOCOL_ERROR),
    "CONTINUATION on 0": (frame(CONTINUATION, 0, 0), PROTOCOL_ERROR),
    # lengths
    "RST_STREAM of 3": (frame(RST_STREAM, 0, 1, bytes(3)), FRAME_SIZE_ERROR),
    "SETTINGS of 5": (frame(SETTINGS, 0, 0, bytes(5)), FRAME_SIZE_ERROR),
    "SETTINGS ACK of 6": (frame(SETTINGS, ACK, 0, bytes(6)), FRAME_SIZE_ERROR),
    "PING of 7": (frame(PING, 0, 0, bytes(7)), FRAME_SIZE_ERROR),
    "GOAWAY of 7": (frame(GOAWAY, 0, 0, bytes(7)), FRAME_SIZE_ERROR),
    "WINDOW_UPDATE of 3": (frame(WINDOW_UPDATE, 0, 0, bytes(3)), FRAME_SIZE_ERROR),
    "HEADERS too short for priority": (frame(HEADERS, END_HEADERS | HAS_PRIORITY, 1, bytes(4)), FRAME_SIZE_ERROR),
    "empty padded HEADERS": (frame(HEADERS, END_HEADERS | PADDED, 1), FRAME_SIZE_ERROR),
    # §6.1, §6.2: padding
    "HEADERS all padding": (frame(HEADERS, END_HEADERS | PADDED, 1, b"\x09\x82"), PROTOCOL_ERROR),
    # §6.5.2: values
    "push 2": (settings(enable_push=2), PROTOCOL_ERROR),
    "window": (settings(initial_window_size=1 << 31), raw.FLOW_CONTROL_ERROR),
    "frame size small": (settings(max_frame_size=16383), PROTOCOL_ERROR),
    "frame size large": (settings(max_frame_size=1 << 24), PROTOCOL_ERROR),
    "connect protocol": (settings(s8=2), PROTOCOL_ERROR),
    "rfc 7540 priorities": (settings(s9=2), PROTOCOL_ERROR),
    # §6.6, §8.4: a client cannot push
    "PUSH_PROMISE": (frame(PUSH_PROMISE, END_HEADERS, 1, number(2) + b"\x82"), PROTOCOL_ERROR),
    # §6.9
    "WINDOW_UPDATE of 0": (frame(WINDOW_UPDATE, 0, 0, number(0)), PROTOCOL_ERROR),
    "window too large": (frame(WINDOW_UPDATE, 0, 0, number((1 << 31) - 1)), raw.FLOW_CONTROL_ERROR),
    # §6.10
    "CONTINUATION of nothing": (frame(CONTINUATION, END_HEADERS, 1, b"\x82"), PROTOCOL_ERROR),
    # §4.3
    "bad HPACK index": (frame(HEADERS, END_HEADERS, 1, b"\xff\xff\xff\x0f"), raw.COMPRESSION_ERROR),
    "HPACK table too large": (frame(HEADERS, END_HEADERS, 1, b"\x3f\xe2\x1f\x82"), raw.COMPRESSION_ERROR),
    "bad Huffman": (frame(HEADERS, END_HEADERS, 1, b"\x00\x81\xff\x01a"), raw.COMPRESSION_ERROR),
}


@pytest.mark.parametrize(("frames", "code"), FATAL.values(), ids=FATAL.keys())
async def test_frame_that_cannot_stand_ends_the_connection(autojump_clock: MockClock, frames: bytes, code: int) -> None:
    async with open_world() as world:
        await world.client.send(frames)
        gone = await world.client.goaway()
        assert gone.number == code
        assert gone.last_stream in (0, 1)


async def test_frames_before_the_faulty_one_are_acted_on(autojump_clock: MockClock) -> None:
    """One write holds a request, its acknowledged PING and an error: the PING is answered before the connection ends."""
    async with open_world() as world:
        await world.client.send(world.client.head(1, GET), frame(PING, 0, 0, b"12345678"), frame(DATA, 0, 0, b"x"))
        gone = await world.client.goaway()
        assert (gone.number, gone.last_stream) == (PROTOCOL_ERROR, 1)
        assert any(got.kind == PING and got.payload == b"12345678" for got in world.client.frames)


async def test_error_of_the_connection_is_the_cause_in_the_log(autojump_clock: MockClock) -> None:
    async with open_world(raw.silence) as world:
        await world.client.send(world.client.head(1, GET))
        await world.client.ping()
        await world.records(0)
        await world.client.send(frame(DATA, 0, 0, b"x"))
        await world.client.goaway()
        (record,) = await world.records(1)
        assert (record.ended.by, record.ended.why) == ("client", "protocol_error")


async def test_error_of_one_connection_leaves_others_alone(autojump_clock: MockClock) -> None:
    async with open_world(raw.silence) as world:
        other = world.open_client()
        await other.greet(other.head(1, GET))
        await other.ping()
        await world.client.send(frame(DATA, 0, 0, b"x"))
        await world.client.goaway()
        await other.ping()
        assert 1 not in other.answers


async def test_unknown_frames_flags_and_settings_are_ignored(autojump_clock: MockClock) -> None:
    """RFC 9113 §4.1, §5.5, §6.5.2."""
    async with open_world() as world:
        await world.client.send(frame(0xEE, 0xFF, 0, b"?"), frame(0xEE, 0xFF, 5, b"?"), settings(s240=1), frame(PING, 0xFE, 0, bytes(8)))
        assert (await world.client.get()).status == "200"


async def test_reserved_bits_are_ignored(autojump_clock: MockClock) -> None:
    async with open_world() as world:
        head = bytearray(world.client.head(1, GET))
        head[5] |= 0x80
        await world.client.send(bytes(head), frame(WINDOW_UPDATE, 0, 0, number(0x80000001)))
        assert (await world.client.answer(1)).status == "200"


async def test_head_may_be_continued(autojump_clock: MockClock) -> None:
    """RFC 9113 §6.10."""
    async with open_world() as world:
        whole = world.client.head(1, GET)[9:]
        pieces = [whole[at : at + 3] for at in range(0, len(whole), 3)]
        frames = [frame(HEADERS, raw.END_STREAM, 1, pieces[0])]
        frames += [frame(CONTINUATION, 0, 1, piece) for piece in pieces[1:-1]]
        frames += [frame(CONTINUATION, END_HEADERS, 1, pieces[-1])]
        assert 3 <= len(frames) <= 9
        for each in frames:
            await world.client.send(each)
        assert (await world.client.answer(1)).status == "200"


@pytest.mark.parametrize(
    "between",
    [
        frame(PING, 0, 0, bytes(8)),
        frame(DATA, 0, 1, b"x"),
        frame(0xEE, 0, 0),
        frame(PRIORITY, 0, 1, bytes(5)),
        frame(CONTINUATION, END_HEADERS, 3, b"\x82"),
        frame(HEADERS, END_HEADERS, 1, b"\x82"),
        frame(raw.PRIORITY_UPDATE, 0, 0, number(1) + b"u=1"),
    ],
    ids=["PING", "DATA", "unknown", "PRIORITY", "CONTINUATION of another", "HEADERS", "PRIORITY_UPDATE"],
)
async def test_head_must_not_be_interrupted(autojump_clock: MockClock, between: bytes) -> None:
    async with open_world() as world:
        await world.client.send(world.client.head(1, GET, flags=0), between)
        assert (await world.client.goaway()).number == PROTOCOL_ERROR


async def test_head_of_no_size_is_malformed(autojump_clock: MockClock) -> None:
    async with open_world() as world:
        await world.client.send(frame(HEADERS, END_HEADERS | raw.END_STREAM, 1))
        assert (await world.client.answer(1)).reset == PROTOCOL_ERROR


async def test_padding_is_dropped(autojump_clock: MockClock) -> None:
    async with open_world(swallow) as world:
        block = world.client.head(1, POST, end=False)[9:]
        await world.client.send(
            frame(HEADERS, END_HEADERS | PADDED, 1, b"\x05" + block + bytes(5)),
            frame(DATA, PADDED, 1, b"\x03abc" + bytes(3)),
            frame(DATA, PADDED | raw.END_STREAM, 1, b"\x00def"),
        )
        assert (await world.client.answer(1)).body == b"ok"


async def test_data_that_is_all_padding_is_a_connection_error(autojump_clock: MockClock) -> None:
    async with open_world(raw.silence) as world:
        await world.client.send(world.client.head(1, POST, end=False), frame(DATA, PADDED, 1, b"\x04abc"))
        assert (await world.client.goaway()).number == PROTOCOL_ERROR


async def test_priority_in_headers_is_ignored(autojump_clock: MockClock) -> None:
    """RFC 9113 §5.3.2."""
    async with open_world() as world:
        block = world.client.head(1, GET)[9:]
        flags = END_HEADERS | raw.END_STREAM | HAS_PRIORITY | PADDED
        await world.client.send(frame(HEADERS, flags, 1, b"\x02" + number(0x80000007) + b"\xff" + block + bytes(2)))
        assert (await world.client.answer(1)).status == "200"


async def test_ping_comes_back_with_what_it_held(autojump_clock: MockClock) -> None:
    """RFC 9113 §6.7."""
    async with open_world() as world:
        await world.client.send(frame(PING, 0, 0, b"abcdefgh"), frame(PING, ACK, 0, b"unasked."))
        got = await world.client.until(PING)
        assert (got.flags, got.payload) == (ACK, b"abcdefgh")
        await world.client.ping()
        assert sum(got.kind == PING for got in world.client.frames) == 2


async def test_head_larger_than_a_frame_is_continued(autojump_clock: MockClock) -> None:
    """RFC 9113 §4.3: what we send obeys the same rules."""
    value = b"~" * 15000  # 13 bits each in the code of HPACK

    async def serve(stream: trio.abc.HalfCloseableStream) -> None:
        await raw.read_head(stream)
        await stream.send_all(b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\nX: " + value + b"\r\n\r\n")

    async with open_world(serve) as world:
        client = world.client
        await client.send(client.head(1, GET))
        block = b""
        while True:
            client._note = lambda got: None  # type: ignore[method-assign]
            got = await client.next_frame()
            assert got is not None
            if got.kind in (HEADERS, CONTINUATION):
                assert len(got.payload) <= 16384
                block += got.payload
                if got.flags & END_HEADERS:
                    break
        assert got.kind == CONTINUATION
        assert dict(client.decoder.decode(block, raw=True))[b"x"] == value


@given(st.lists(st.integers(1, 40), max_size=30))
def test_frames_do_not_depend_on_how_bytes_arrive(cuts: list[int]) -> None:
    data = raw.PREFACE + settings(s9=1) + frame(PING, 0, 0, bytes(8)) + frame(DATA, 1, 3, b"hello") + frame(0xEE, 2, 0)
    expected = list(FrameReader().feed(data))
    reader, got, at = FrameReader(), [], 0
    for size in [*cuts, len(data)]:
        got += list(reader.feed(data[at : at + size]))
        at += size
    assert got == expected
    assert len(got) == 4
    assert reader.partial == 0


@given(st.binary(max_size=200))
def test_any_bytes_are_frames_or_a_fault(data: bytes) -> None:
    reader = FrameReader()
    try:
        for kind, flags, stream, whole in reader.feed(raw.PREFACE + data):
            assert whole == frame(kind, flags, int.from_bytes(whole[5:9], "big"), whole[9:])
            assert stream == int.from_bytes(whole[5:9], "big") & 0x7FFFFFFF
    except ConnectionFault:
        pass
    assert reader.partial <= len(data)
