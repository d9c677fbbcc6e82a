"""The four kinds of rows that the tables of this directory are made of, and what each row claims."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import attrs
import pytest

from tests.rfc._rig import OK, Cut, Rig, Transport, get, how, open_rig

NEXT = get(b"/next")
"""Sent behind whatever is tried: it must be served exactly when the connection may go on."""


@attrs.frozen
class Refused:
    """A request that nobody may pass on: answered here, closed, and what follows it on the connection is not read."""

    rule: str
    sent: bytes
    status: int = 400
    why: str = ""
    http: dict[str, Any] = attrs.field(factory=dict, kw_only=True)


@attrs.frozen
class Relayed:
    """A request that is passed on, as these bytes, and an answer that is passed back, as those."""

    rule: str
    sent: bytes
    at_origin: bytes
    reply: bytes = OK
    back: bytes | None = None
    """What the client gets; None: the reply as it is."""
    goes_on: bool = attrs.field(default=True, kw_only=True)
    """Whether the next request on the connection is served."""
    closing: bool = attrs.field(default=False, kw_only=True)
    """Whether the origin closes after its reply."""
    http: dict[str, Any] = attrs.field(factory=dict, kw_only=True)


@attrs.frozen
class BadReply:
    """An answer of an origin that nobody may pass on: the client gets 502, and its connection goes on."""

    rule: str
    reply: bytes
    why: str = ""
    method: bytes = attrs.field(default=b"GET", kw_only=True)


@attrs.frozen
class CutReply:
    """An answer that goes wrong after it has begun: the client sees these bytes, and then that it is cut."""

    rule: str
    reply: bytes
    back: bytes
    why: str
    sent: bytes = attrs.field(default=get(), kw_only=True)


def table(rows: Iterable[Any]) -> pytest.MarkDecorator:
    """One test per row, named by its rule."""
    rows = list(rows)
    assert len({row.rule for row in rows}) == len(rows)
    return pytest.mark.parametrize("row", rows, ids=lambda row: row.rule)


async def check_refused(row: Refused, transport: Transport) -> None:
    """The status and the reason are given, the origin hears nothing, and the connection is closed."""
    async with open_rig(transport, http=row.http) as rig:
        client = await rig.connect()
        await client.send(row.sent + NEXT)
        answer = await client.response(row.sent.partition(b" ")[0])
        assert await client.is_closed(), client.buffer
        assert answer.status == row.status
        assert answer.get(b"connection") == b"close"
        assert answer.get(b"content-type") == b"text/plain; charset=utf-8"
        assert len(answer.content) > len(b"400 Bad Request\n\n")
        record = await rig.record()
    assert (record.status, record.ended.by, record.ended.why) == (row.status, "client", row.why)
    assert rig.origin.received == []


async def check_relayed(row: Relayed, transport: Transport) -> None:
    """Both sides get exactly these bytes, and the next request is served or not, as it should be."""
    async with open_rig(transport, row.reply, OK, close=row.closing, http=row.http) as rig:
        client = await rig.connect()
        await client.send(row.sent + NEXT)
        back = row.reply if row.back is None else row.back
        if row.goes_on:
            following = await _expect(client, back + OK)
        else:
            following = await client.rest()
        assert following == (back + OK if row.goes_on else back)
        await rig.records_of(2 if row.goes_on else 1)
    assert rig.origin.raw() == [row.at_origin, *([NEXT] if row.goes_on else [])]
    assert {how(record) for record in rig.records} == {("proxy", "complete")}
    assert len(rig.records) == (2 if row.goes_on else 1)


async def _expect(client: Any, wanted: bytes) -> bytes:
    while len(client.buffer) < len(wanted) and await client.more():
        pass
    return bytes(client.buffer)


async def check_bad_reply(row: BadReply, transport: Transport) -> None:
    """The client gets 502 and may go on, on a fresh connection to the origin."""
    async with open_rig(transport, row.reply, OK) as rig:
        client = await rig.connect()
        answer = await client.ask(get().replace(b"GET", row.method, 1))
        assert answer.status == 502
        assert answer.get(b"connection") is None
        assert (await client.ask(NEXT)).raw == OK
        first, second = await rig.records_of(2)
    assert (first.status, *how(first)) == (502, "origin", row.why)
    assert (second.status, *how(second)) == (200, "proxy", "complete")
    assert rig.origin.connections == 2


async def check_cut_reply(row: CutReply, transport: Transport) -> None:
    """What was sent cannot be taken for a whole response."""
    async with open_rig(transport, row.reply, close=True) as rig:
        client = await rig.connect()
        await client.send(row.sent)
        got = await client.rest()
        assert got == row.back
        record = await rig.record()
    assert (record.ended.by, record.ended.why) == ("origin", row.why)
    client.buffer = got
    with pytest.raises(Cut):
        await client.response(row.sent.partition(b" ")[0], may_close=b"HTTP/1.0" in row.sent)


async def ask_all(rig: Rig, *requests: bytes) -> list[bytes]:
    """Each request on a connection of its own: what came back until the proxy closed or the answer was whole."""
    answers = []
    for request in requests:
        client = await rig.connect()
        answers.append((await client.ask(request)).raw)
    return answers
