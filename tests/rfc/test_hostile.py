"""Thousands of hostile messages in a row: what comes out on the other side is always sound, and always from the right request.

`make fuzz` sends all of them over both transports; the suite sends all over virtual connections and every seventh over a socket.
"""

from __future__ import annotations

import itertools
import json
import os
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import pytest
import trio
import trio.testing

from tests.rfc._hostile import Hostile, hostile_replies, hostile_requests
from tests.rfc._rig import PATIENCE, Cut, Rig, Transport, Wire, get, on_mock_clock, open_rig, response
from tests.rfc._strict import Message, Violation, parse_response
from trio_tsconnect import LogRecord

pytestmark = pytest.mark.trio(run=on_mock_clock)

LONG = os.environ.get("HYPOTHESIS_PROFILE") == "long"
SENTINEL = get(b"/sentinel")
SECOND = response(b"second")
REFUSALS = {400, 408, 413, 414, 417, 431, 501, 505}


def chosen(cases: list[Hostile], transport: Transport) -> list[Hostile]:
    return cases if LONG or transport == "virtual" else cases[::7]


# --------------------------------------------------------------------------------------------------------------------------- requests


@pytest.fixture(scope="module")
def requests() -> list[Hostile]:
    return hostile_requests()


async def test_hostile_requests(requests: list[Hostile], transport: Transport) -> None:
    refused = passed = 0
    async with open_rig(transport) as rig:
        for case in chosen(requests, transport):
            seen, records = len(rig.origin.received), len(rig.records)
            raw, _ = await converse(rig, case.data + SENTINEL)
            try:
                check_request(case, raw, rig.origin.received[seen:], rig.records[records:])
                assert not rig.origin.violations, rig.origin.violations
            except Exception as exc:
                raise AssertionError(f"{case.name}: {case.data[:300]!r} gives {raw[:300]!r}") from exc
            refused += any(record.ended.by == "client" for record in rig.records[records:])
            passed += len(rig.origin.received) - seen
    assert refused > len(chosen(requests, transport)) / 3
    assert passed > len(chosen(requests, transport)) / 10
    check_log(rig.records)


# ---------------------------------------------------------------------------------------------------------------------------- replies


@pytest.fixture(scope="module")
def replies() -> list[Hostile]:
    return hostile_replies()


WAYS = [(b"GET", b"1.1"), (b"HEAD", b"1.1"), (b"GET", b"1.0")]


async def test_hostile_replies(replies: list[Hostile], transport: Transport) -> None:
    bad = good = 0
    async with hostile_rig(transport) as (rig, origin):
        for case, (method, version) in zip(chosen(replies, transport), itertools.cycle(WAYS), strict=False):
            records = len(rig.records)
            origin.says, origin.stays_open = case.data, is_whole(case.data, method)
            fields = b"Connection: keep-alive\r\n" if version == b"1.0" else b""
            sent = b"%b / HTTP/%b\r\nHost: site.test\r\n%b\r\n" % (method, version, fields)
            raw, ended = await converse(rig, sent + get(b"/second"))
            try:
                good += check_reply(case, raw, method, rig.records[records:], may_close=version == b"1.0", ended=ended)
                assert not rig.origin.violations, rig.origin.violations
            except Exception as exc:
                raise AssertionError(f"{case.name}, to {method!r} of {version!r}: {case.data[:300]!r} gives {raw[:300]!r}") from exc
            bad += rig.records[records].ended.by == "origin"
    assert bad > len(chosen(replies, transport)) / 4
    assert good > len(chosen(replies, transport)) / 10
    check_log(rig.records)
