"""What must hold whatever a client or an origin says: one judgement for the hostile messages that were thought of, and for random ones."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import trio
from apachelogs import COMBINED, LogParser

from tests.rfc._rig import PATIENCE, Cut, Rig, Transport, Wire, get, open_rig, response
from tests.rfc._strict import Message, Violation, parse_response
from trio_tsconnect import LogRecord
from trio_tsconnect.log import combined

SENTINEL = get(b"/sentinel")
SECOND = response(b"second")
REFUSALS = {400, 408, 413, 414, 417, 421, 431, 501, 505}
_COMBINED = LogParser(COMBINED)


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
        await rig.settled()
    return raw, not client.broken


def check_request(raw: bytes, seen: list[Message], records: list[LogRecord]) -> list[Message]:
    """What must hold for all that a client may send, followed by the sentinel; the answers."""
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
        # ... otherwise all was read, as a request or as part of one, which may be one that went nowhere
        last = records[-1]
        assert b"/sentinel" in seen[-1].raw if last.ended.why == "complete" else last.request_bytes
    return answers


def check_log(records: list[LogRecord]) -> None:
    """Every record is a line of JSON, and one of the Combined Log Format, and says why."""
    for record in records:
        line = record.to_json()
        assert "\n" not in line
        assert line.isascii()
        assert json.loads(line)["ended"]["why"] == record.ended.why
        assert _COMBINED.parse(combined(record)).final_status == record.status
        assert record.ended.why not in ("internal", "unknown")


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


def is_whole(data: bytes, method: bytes) -> bool:
    """Whether anybody could take it for a whole answer."""
    try:
        return final(data, method) is not None
    except (Cut, Violation):
        return False


def check_reply(said: bytes, raw: bytes, method: bytes, records: list[LogRecord], *, may_close: bool, ended: bool) -> bool:
    """What must hold for all that an origin may say; whether it was passed on, whole."""
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
        check_passed_on(said, answer, method)
    # the next answer is the one to the next request, whatever was said before
    if answer.get(b"connection") == b"close":
        assert rest == b""
    else:
        assert rest == SECOND
        assert [record.status for record in records] == [answer.status, 200]
    return first.ended.why == "complete"


def check_passed_on(data: bytes, answer: Message, method: bytes) -> None:
    """Where the grammar leaves no doubt what was said, just that is passed on."""
    try:
        said, _ = final(data, method, may_close=True)
    except (Cut, Violation):
        return
    assert answer.status == said.status
    assert answer.content == (b"" if said.status == 205 else said.content)


async def ask_hostile_origin(rig: Rig, origin: HostileOrigin, says: bytes, method: bytes, version: bytes) -> bool:
    """Have the origin say this in answer to one request, and send another behind it; whether it was passed on, whole."""
    records = len(rig.records)
    origin.says, origin.stays_open = says, is_whole(says, method)
    fields = b"Connection: keep-alive\r\n" if version == b"1.0" else b""
    sent = b"%b / HTTP/%b\r\nHost: site.test\r\n%b\r\n" % (method, version, fields)
    raw, ended = await converse(rig, sent + get(b"/second"))
    try:
        return check_reply(says, raw, method, rig.records[records:], may_close=version == b"1.0", ended=ended)
    except Exception as exc:
        raise AssertionError(f"gives {raw[:300]!r}") from exc
