"""Thousands of hostile messages in a row: what comes out on the other side is always sound, and always from the right request.

`make fuzz` sends all of them over both transports; the suite sends all over virtual connections and every seventh over a socket.
"""

from __future__ import annotations

import os
from itertools import cycle

import pytest

from tests.rfc._hostile import Hostile, hostile_replies, hostile_requests
from tests.rfc._judge import REFUSALS, SENTINEL, ask_hostile_origin, check_log, check_request, converse, hostile_rig
from tests.rfc._rig import Transport, on_mock_clock, open_rig

pytestmark = [pytest.mark.trio(run=on_mock_clock), pytest.mark.long]

LONG = os.environ.get("HYPOTHESIS_PROFILE") == "long"


def chosen(cases: list[Hostile], transport: Transport) -> list[Hostile]:
    return cases if LONG or transport == "virtual" else cases[::7]


async def test_hostile_requests(transport: Transport) -> None:
    cases = chosen(hostile_requests(), transport)
    refused = passed = 0
    async with open_rig(transport) as rig:
        for case in cases:
            seen, records = len(rig.origin.received), len(rig.records)
            raw, _ = await converse(rig, case.data + SENTINEL)
            try:
                answers = check_request(raw, rig.origin.received[seen:], rig.records[records:])
                if case.must_refuse:
                    assert len(rig.origin.received) == seen
                    assert [answer.status in REFUSALS for answer in answers] == [True]
                assert not rig.origin.violations, rig.origin.violations
            except Exception as exc:
                raise AssertionError(f"{case.name}: {case.data[:300]!r} gives {raw[:300]!r}") from exc
            refused += any(record.ended.by == "client" for record in rig.records[records:])
            passed += len(rig.origin.received) - seen
    assert refused > len(cases) / 3
    assert passed > len(cases) / 10
    check_log(rig.records)


async def test_hostile_replies(transport: Transport) -> None:
    cases = chosen(hostile_replies(), transport)
    bad = good = 0
    async with hostile_rig(transport) as (rig, origin):
        for case, way in zip(cases, cycle([(b"GET", b"1.1"), (b"HEAD", b"1.1"), (b"GET", b"1.0")]), strict=False):
            records = len(rig.records)
            try:
                good += await ask_hostile_origin(rig, origin, case.data, *way)
                assert not rig.origin.violations, rig.origin.violations
            except Exception as exc:
                raise AssertionError(f"{case.name}, to {way}: {case.data[:300]!r}") from exc
            bad += rig.records[records].ended.by == "origin"
    assert bad > len(cases) / 4
    assert good > len(cases) / 10
    check_log(rig.records)
