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


def final(raw: bytes, method: bytes, *, may_close: bool = False, ended: bool = True) -> tuple[Message, bytes]:
    """The first final response in these bytes, judged strictly, and what follows it; `Cut` when there is not all of it.

    `may_close`: its end may be that of the connection, which was an orderly one if `ended`.
    """
    while True:
        message = parse_response(raw, method, ended=ended, may_close=may_close)
        if message is None:
            raise Cut(raw)
        raw = raw[len(message.raw) :]
        if message.status >= 200:
            return message, raw


async def converse(rig: Rig, data: bytes) -> tuple[bytes, bool]:
    """Everything that comes back for these bytes, and whether its end was an orderly one; the session has ended when this returns."""
    client = await rig.connect()
    with trio.fail_after(PATIENCE / 2):
        try:
            await client.send(data)
            await client.send_eof()
        except trio.BrokenResourceError:
            pass  # it has been refused already
        raw = await client.rest()
        await rig.close_clients()
        while rig.proxy.statistics().sessions:
            await trio.testing.wait_all_tasks_blocked()
    return raw, not client.broken


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


def check_request(case: Hostile, raw: bytes, seen: list[Message], records: list[LogRecord]) -> None:
    answers = []
    while raw:
        answer, raw = final(raw, b"GET")
        answers.append(answer)
    # one record for each request, one answer for each record but that of a client that left midway
    assert [answer.status for answer in answers] == [record.status for record in records if record.status is not None]
    assert all(record.status is not None or record.ended.why == "client_gone" for record in records)
    # the origin got just those that were not refused
    assert len(seen) == sum(record.ended.why == "complete" for record in records)
    refused = [record.ended.by == "client" for record in records]
    if any(refused):
        # ... and a refusal is the end: nothing behind it was read as a request
        assert refused.index(True) == len(records) - 1
        assert not answers or records[-1].status is None or (answers[-1].status in REFUSALS and answers[-1].get(b"connection") == b"close")
    elif answers and answers[-1].get(b"connection") != b"close":
        # ... otherwise all was read, as a request or as part of one
        assert b"/sentinel" in seen[-1].raw
    if case.must_refuse:
        assert not seen
        assert len(answers) == 1
        assert answers[0].status in REFUSALS


def check_log(records: list[LogRecord]) -> None:
    """Every record is a line of JSON, and says by whom and why."""
    for record in records:
        line = record.to_json()
        assert "\n" not in line
        assert line.isascii()
        assert json.loads(line)["ended"]["why"] == record.ended.why
        assert record.ended.why not in ("internal", "unknown")


# ---------------------------------------------------------------------------------------------------------------------------- replies


class HostileOrigin:
    """Says what it is told to; a connection on which that was a whole answer stays open, as if all were well."""

    def __init__(self) -> None:
        self.says = b""
        self.stays_open = True
        self.violations: list[Violation] = []

    async def serve(self, wire: Wire) -> None:
        while True:
            request = await wire.request()
            second = request.first[1] == b"/second"
            await wire.send(SECOND if second else self.says)
            if not (second or self.stays_open):
                return


@asynccontextmanager
async def hostile_rig(transport: Transport) -> AsyncIterator[tuple[Rig, HostileOrigin]]:
    origin = HostileOrigin()
    async with open_rig(transport, serve=origin.serve, http={"inactivity_timeout": 5}, origin={"response_timeout": 5}) as rig:
        yield rig, origin


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


def is_whole(data: bytes, method: bytes) -> bool:
    """Whether anybody could take it for a whole answer."""
    try:
        return final(data, method) is not None
    except (Cut, Violation):
        return False


def check_reply(case: Hostile, raw: bytes, method: bytes, records: list[LogRecord], *, may_close: bool, ended: bool) -> bool:
    """Whether it was passed on, whole."""
    first = records[0]
    try:
        answer, rest = final(raw, method, may_close=may_close, ended=ended)
    except Cut:
        assert first.ended.by == "origin"
        assert len(records) == 1
        return False
    if first.ended.by == "origin":
        assert answer.status == first.status == 502 or answer.status == first.status == 504
        assert b"poison" not in answer.raw
    else:
        assert first.ended.why == "complete"
        check_passed_on(case, answer, method)
    # the next answer is the one to the next request, whatever was said before
    if answer.get(b"connection") == b"close":
        assert rest == b""
    else:
        assert rest == SECOND
        assert [record.status for record in records] == [answer.status, 200]
    return first.ended.why == "complete"


def check_passed_on(case: Hostile, answer: Message, method: bytes) -> None:
    """Where the grammar leaves no doubt what was said, just that is passed on."""
    try:
        said, _ = final(case.data, method, may_close=True)
    except (Cut, Violation):
        return
    assert answer.status == said.status
    assert answer.content == (b"" if said.status == 205 else said.content)
