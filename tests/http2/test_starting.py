"""RFC 9113 §3: how a connection begins."""

from __future__ import annotations

import struct

import pytest
import trio
from trio.testing import MockClock

from trio_tsconnect import HttpConfig, open_virtual_connection_pair
from trio_tsconnect.http2 import Http2Limits

from . import _raw as raw
from ._raw import (
    ACK,
    FLOW_CONTROL_ERROR,
    GET,
    GOAWAY,
    HEADERS,
    PREFACE,
    PROTOCOL_ERROR,
    SETTINGS,
    WINDOW_UPDATE,
    frame,
    number,
    open_world,
    settings,
)


async def test_server_begins_with_its_settings_and_opens_the_connection_window(autojump_clock: MockClock) -> None:
    async with open_world(greet=False, limits=Http2Limits(max_concurrent_streams=7, buffer_index=5)) as world:
        first = await world.client.next_frame()
        assert first is not None
        assert (first.kind, first.flags, first.stream) == (SETTINGS, 0, 0)
        pairs = {
            int.from_bytes(first.payload[at : at + 2], "big"): int.from_bytes(first.payload[at + 2 : at + 6], "big")
            for at in range(0, len(first.payload), 6)
        }
        assert pairs == {3: 7, 4: 128 << 5, 6: 32768, 8: 1, 9: 1}
        window = await world.client.until(WINDOW_UPDATE, 0)
        assert 65535 + window.number == Http2Limits().connection_window


async def test_settings_are_acknowledged(autojump_clock: MockClock) -> None:
    async with open_world() as world:
        assert (await world.client.until(SETTINGS, 0, ACK)).payload == b""


async def test_preface_may_come_byte_by_byte(autojump_clock: MockClock) -> None:
    async with open_world(greet=False) as world:
        client = world.client
        for byte in PREFACE + settings() + client.head(1, raw.GET):
            await client.send(bytes((byte,)))
        assert (await client.answer(1)).status == "200"


@pytest.mark.parametrize("wrong", [b"GET / HTTP/1.1\r\n\r\n", PREFACE[:-2] + b"\n\n", PREFACE.replace(b"2.0", b"2.1"), b"X"])
async def test_wrong_preface_ends_the_connection(autojump_clock: MockClock, wrong: bytes) -> None:
    async with open_world(greet=False) as world:
        await world.client.send(wrong)
        assert (await world.client.goaway()).number == PROTOCOL_ERROR


@pytest.mark.parametrize(
    "first",
    [
        frame(raw.PING, 0, 0, bytes(8)),
        frame(SETTINGS, ACK, 0),
        raw.RawClient(open_virtual_connection_pair()[0]).head(1, raw.GET),
    ],
    ids=["PING", "SETTINGS ACK", "HEADERS"],
)
async def test_preface_ends_with_settings(autojump_clock: MockClock, first: bytes) -> None:
    """RFC 9113 §3.4."""
    async with open_world(greet=False) as world:
        await world.client.send(PREFACE, first)
        assert (await world.client.goaway()).number == PROTOCOL_ERROR
        assert world.log.records == []


async def test_client_that_never_begins_is_closed_in_time(autojump_clock: MockClock) -> None:
    async with open_world(greet=False, http=HttpConfig(header_timeout=3)) as world:
        await world.client.send(PREFACE[:10])
        begun = trio.current_time()
        assert (await world.client.goaway()).number == raw.SETTINGS_TIMEOUT
        assert trio.current_time() - begun == pytest.approx(3)


async def test_idle_connection_is_closed_gracefully(autojump_clock: MockClock) -> None:
    async with open_world(http=HttpConfig(keep_alive_timeout=5)) as world:
        assert (await world.client.get()).status == "200"
        begun = trio.current_time()
        gone = await world.client.goaway()
        assert (gone.number, gone.last_stream) == (raw.NO_ERROR, 1)
        assert trio.current_time() - begun == pytest.approx(5)


async def test_pings_do_not_keep_an_idle_connection(autojump_clock: MockClock) -> None:
    async with open_world(http=HttpConfig(keep_alive_timeout=5)) as world:
        begun = trio.current_time()
        for _ in range(3):
            await world.client.ping()
            await trio.sleep(2)
        assert (await world.client.goaway()).kind == GOAWAY
        assert trio.current_time() - begun == pytest.approx(6)


async def test_end_of_input_ends_the_connection(autojump_clock: MockClock) -> None:
    async with open_world() as world:
        await world.client.ping()
        await world.client.stream.send_eof()  # type: ignore[attr-defined]
        while await world.client.next_frame() is not None:
            pass
        assert world.proxy.statistics().sessions == 0


def setting_pairs(*pairs: tuple[int, int]) -> bytes:
    return frame(SETTINGS, 0, 0, b"".join([struct.pack(">HL", *pair) for pair in pairs]))


@pytest.mark.parametrize(
    ("wrong", "right", "code"),
    [
        ((2, 2), (2, 0), PROTOCOL_ERROR),
        ((4, 1 << 31), (4, 65535), FLOW_CONTROL_ERROR),
        ((5, 1), (5, 16384), PROTOCOL_ERROR),
        ((5, 1 << 24), (5, 16384), PROTOCOL_ERROR),
        ((8, 2), (8, 1), PROTOCOL_ERROR),
        ((9, 2), (9, 1), PROTOCOL_ERROR),
    ],
)
async def test_wrong_value_is_not_made_good_by_a_later_one(
    autojump_clock: MockClock, wrong: tuple[int, int], right: tuple[int, int], code: int
) -> None:
    """RFC 9113 §6.5.3: values are processed in the order in which they appear."""
    async with open_world() as world:
        await world.client.send(setting_pairs(wrong, right))
        assert (await world.client.goaway()).number == code


async def test_table_that_is_emptied_and_opened_again_in_one_frame_is_told_so(autojump_clock: MockClock) -> None:
    """RFC 7541 §4.2."""
    async with open_world() as world:
        client = world.client
        await client.get(1)
        await client.send(setting_pairs((1, 0), (1, 4096)), client.head(3, GET))
        await client.answer(3)
        (*_, head) = (got for got in client.frames if got.kind == HEADERS)
        assert head.payload.startswith(b"\x20\x3f\xe1\x1f")


async def test_windows_of_streams_that_are_closed_do_not_overflow(autojump_clock: MockClock) -> None:
    """RFC 9113 §6.9.2 is about streams that there are."""
    async with open_world() as world:
        client = world.client
        await client.send(client.head(1, GET), frame(WINDOW_UPDATE, 0, 1, number((1 << 31) - 1 - 65535)))
        assert (await client.answer(1)).ended
        await client.send(settings(initial_window_size=80000))
        assert (await client.get(3)).status == "200"
