"""RFC 9110 §6.6, §7.6, §7.8, §10.1: the fields that an intermediary removes, adds, counts or answers."""

from __future__ import annotations

from typing import Any

import attrs
import pytest

from tests.rfc._rig import DATE, OK, Transport, get, how, on_mock_clock, open_rig, post, response
from tests.rfc._tables import table

pytestmark = pytest.mark.trio(run=on_mock_clock)


@attrs.frozen
class Fields:
    """Fields as they were sent, and as the other side gets them."""

    rule: str
    sent: bytes
    got: bytes = b""
    http: dict[str, Any] = attrs.field(factory=dict, kw_only=True)


TO_ORIGINS = [
    Fields("§7.6.1 Connection", b"Connection: keep-alive\r\n"),
    Fields("§7.6.1 what Connection lists", b"Connection: X, y\r\nX: 1\r\nZ: 2\r\nY: 3\r\n", b"Z: 2\r\n"),
    Fields("§7.6.1 what several Connection lines list", b"X: 1\r\nConnection: x\r\nY: 2\r\nConnection: keep-alive, y\r\n"),
    Fields("§7.6.1 what it lists and is not there", b"Connection: a, b,, c\r\n"),
    Fields("§7.6.1 Connection cannot take Host away", b"Connection: host\r\n"),
    Fields("§7.6.1 nor what says who is asking", b"Connection: authorization, cookie\r\nCookie: a\r\n", b"Cookie: a\r\n"),
    Fields("§7.6.1 Keep-Alive and Proxy-Connection", b"Keep-Alive: timeout=5\r\nProxy-Connection: keep-alive\r\n"),
    Fields("§7.8 an upgrade that Connection does not announce", b"Upgrade: websocket\r\n"),
    Fields("§7.8 an upgrade to HTTP/2", b"Connection: Upgrade, HTTP2-Settings\r\nUpgrade: h2c\r\nHTTP2-Settings: AAMAAABk\r\n"),
    Fields("§7.8 another upgrade", b"Connection: upgrade\r\nUpgrade: x\r\n", b"Upgrade: x\r\nConnection: Upgrade\r\n"),
    Fields("§10.1.4 TE without trailers", b"TE: gzip\r\nConnection: TE\r\n"),
    Fields("§10.1.4 TE with trailers is ours to say", b"TE: trailers, gzip\r\nConnection: TE\r\n", b"TE: trailers\r\nConnection: TE\r\n"),
    Fields("§11.7.2 credentials for a proxy that need not be us", b"Proxy-Authorization: a\r\n", b"Proxy-Authorization: a\r\n"),
    Fields("§7.6.2 Max-Forwards means nothing to GET", b"Max-Forwards: 0\r\n", b"Max-Forwards: 0\r\n"),
    Fields("§7.6.3 Via is made", b"", b"Via: 1.1 me\r\n", http={"via": "me"}),
    Fields("§7.6.3 Via is added to", b"Via: 1.0 a, 1.1 b\r\n", b"Via: 1.0 a, 1.1 b, 1.1 me\r\n", http={"via": "me"}),
    Fields("§7.6.3 at its end", b"Via: 1.0 a\r\nVia: 1.1 b\r\n", b"Via: 1.0 a\r\nVia: 1.1 b, 1.1 me\r\n", http={"via": "me"}),
    Fields(
        "§7.6.3 a comment names no proxy", b"Via: 1.1 a (, 1.1 me)\r\n", b"Via: 1.1 a (, 1.1 me)\r\nVia: 1.1 me\r\n", http={"via": "me"}
    ),
    Fields("7239 what a client claims is dropped", b"X-Forwarded-For: 1.2.3.4\r\nForwarded: for=1.2.3.4\r\n"),
    Fields(
        "7239 a trusted claim is kept",
        b"X-Forwarded-For: 1.2.3.4\r\nForwarded: for=1.2.3.4\r\n",
        b"X-Forwarded-For: 1.2.3.4\r\nForwarded: for=1.2.3.4\r\n",
        http={"trust_forwarded": True},
    ),
]


@table(TO_ORIGINS)
async def test_the_origin_gets_these_fields(row: Fields, transport: Transport) -> None:
    async with open_rig(transport, http=row.http) as rig:
        client = await rig.connect()
        await client.send(get(fields=row.sent))
        await client.until(b"\r\n\r\n")
        (seen,) = rig.origin.received
        assert seen.head == get(fields=row.got)


@pytest.mark.parametrize(
    ("style", "got"),
    [
        ("x-forwarded", b"X-Forwarded-For: %(for)b\r\nX-Forwarded-Proto: http\r\nX-Forwarded-Host: site.test\r\n"),
        ("forwarded", b"Forwarded: for=%(for)b;host=site.test;proto=http\r\n"),
        (
            "both",
            (
                b"X-Forwarded-For: %(for)b\r\nX-Forwarded-Proto: http\r\nX-Forwarded-Host: site.test\r\n"
                b"Forwarded: for=%(for)b;host=site.test;proto=http\r\n"
            ),
        ),
    ],
)
async def test_the_origin_is_told_who_the_client_is(style: str, got: bytes, transport: Transport) -> None:
    # RFC 7239; the opener of a virtual connection has no address but its word
    async with open_rig(transport, http={"forwarded": style}) as rig:
        client = await rig.connect()
        await client.ask(get())
        (seen,) = rig.origin.received
        assert seen.head == get(fields=got % {b"for": b"127.0.0.1" if transport == "tcp" else b"unknown"})


@pytest.mark.parametrize("via", [b"1.1 me", b"1.1 a, 1.1 me, 1.1 b", b"1.0 me (again)"])
async def test_a_request_that_was_here_before_is_refused(via: bytes, transport: Transport) -> None:
    # §7.6.3: Via exists to find loops
    async with open_rig(transport, http={"via": "me"}) as rig:
        client = await rig.connect()
        assert (await client.ask(get(fields=b"Via: %b\r\n" % via))).status == 400
        assert how(await rig.record()) == ("proxy", "loop")
    assert rig.origin.received == []


TO_CLIENTS = [
    Fields("§7.6.1 Connection", b"Connection: keep-alive\r\n"),
    Fields("§7.6.1 what Connection lists", b"Connection: X\r\nX: 1\r\nY: 2\r\n", b"Y: 2\r\n"),
    Fields("§7.6.1 Keep-Alive and Proxy-Connection", b"Keep-Alive: timeout=5\r\nProxy-Connection: keep-alive\r\n"),
    Fields("§7.6.1 Connection cannot take the length away", b"Connection: content-length\r\n"),
    Fields("§7.8 an upgrade that nobody asked for", b"Connection: Upgrade\r\nUpgrade: h2c\r\n"),
    Fields("§11.7.1 a challenge of a proxy that need not be us", b"Proxy-Authenticate: Basic\r\n", b"Proxy-Authenticate: Basic\r\n"),
    Fields("6265 §3 lines of Set-Cookie are not joined", b"Set-Cookie: a\r\nSet-Cookie: b\r\n", b"Set-Cookie: a\r\nSet-Cookie: b\r\n"),
    Fields("§7.6.3 Via is added to", b"Via: 1.0 a\r\n", b"Via: 1.0 a, 1.1 me\r\n", http={"via": "me"}),
]


@table(TO_CLIENTS)
async def test_the_client_gets_these_fields(row: Fields, transport: Transport) -> None:
    async with open_rig(transport, response(fields=row.sent), http=row.http) as rig:
        client = await rig.connect()
        assert (await client.ask(get())).raw == response(fields=row.got)


async def test_a_missing_date_is_added(transport: Transport) -> None:
    # §6.6.1: a recipient with a clock that gets a response without Date records it, and appends it when it forwards
    async with open_rig(transport, OK.replace(DATE, b"")) as rig:
        client = await rig.connect()
        dates = (await client.ask(get())).all(b"date")
    assert len(dates) == 1
    assert dates[0].endswith(b" GMT")


@pytest.mark.parametrize("method", [b"OPTIONS", b"TRACE"])
async def test_max_forwards_is_counted_down(method: bytes, transport: Transport) -> None:
    # §7.6.2
    async with open_rig(transport) as rig:
        client = await rig.connect()
        await client.ask(get(fields=b"Max-Forwards: 3\r\n").replace(b"GET", method))
        (seen,) = rig.origin.received
        assert seen.all(b"max-forwards") == [b"2"]


async def test_options_ends_here_when_it_may_go_no_further(transport: Transport) -> None:
    async with open_rig(transport) as rig:
        client = await rig.connect()
        answer = await client.ask(get(fields=b"Max-Forwards: 0\r\n").replace(b"GET", b"OPTIONS"))
        assert (answer.status, answer.content) == (200, b"")
        assert b"GET" in (answer.get(b"allow") or b"")
        assert how(await rig.record()) == ("proxy", "responded")
    assert rig.origin.received == []


async def test_trace_shows_the_request_as_it_came_here_but_for_its_secrets(transport: Transport) -> None:
    # §9.3.8
    async with open_rig(transport) as rig:
        client = await rig.connect()
        sent = get(fields=b"X: 1\r\nMax-Forwards: 0\r\nCookie: secret\r\nAuthorization: secret\r\n").replace(b"GET", b"TRACE")
        answer = await client.ask(sent)
        assert answer.get(b"content-type") == b"message/http"
        assert answer.content == sent.replace(b"Cookie: secret\r\nAuthorization: secret\r\n", b"")
    assert rig.origin.received == []


@pytest.mark.parametrize("value", [b"x", b"-1", b"", b"1, 2", b"9" * 40])
async def test_max_forwards_that_is_no_number_is_refused(value: bytes, transport: Transport) -> None:
    async with open_rig(transport) as rig:
        client = await rig.connect()
        assert (await client.ask(get(fields=b"Max-Forwards: %b\r\n" % value).replace(b"GET", b"TRACE"))).status == 400
        assert how(await rig.record()) == ("client", "bad_max_forwards")
    assert rig.origin.received == []


@pytest.mark.parametrize("value", [b"x", b"100-continue, x", b"x=100-continue"])
async def test_an_expectation_nobody_knows_is_refused(value: bytes, transport: Transport) -> None:
    # §10.1.1
    async with open_rig(transport) as rig:
        client = await rig.connect()
        answer = await client.ask(post(b"hello", fields=b"Expect: %b\r\n" % value))
        assert answer.status == 417
        assert how(await rig.record()) == ("client", "unknown_expectation")
    assert rig.origin.received == []


async def test_or_passed_on_where_that_is_configured(transport: Transport) -> None:
    async with open_rig(transport, http={"unknown_expect": "forward"}) as rig:
        client = await rig.connect()
        sent = post(b"hello", fields=b"Expect: x\r\n")
        assert (await client.ask(sent)).raw == OK
    assert rig.origin.raw() == [sent]
