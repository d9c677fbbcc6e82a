"""RFC 9110 §15.5 and §15.6: what the proxy itself answers when something goes wrong, and on which page."""

from __future__ import annotations

import pytest
import trio

from tests.rfc._rig import OK, Transport, Wire, get, how, on_mock_clock, open_rig, post
from trio_tsconnect import RemapRule

pytestmark = pytest.mark.trio(run=on_mock_clock)


async def silent(wire: Wire) -> None:
    await wire.rest()


@pytest.mark.parametrize("request_", [get(), post(b"hello")], ids=["GET", "POST"])
async def test_an_origin_that_says_nothing_is_504(request_: bytes, transport: Transport) -> None:
    async with open_rig(transport, serve=silent, origin={"response_timeout": 5}) as rig:
        client = await rig.connect()
        answer = await client.ask(request_)
        assert (answer.status, answer.get(b"connection")) == (504, None)
        assert how(await rig.record()) == ("origin", "origin_response_timeout")


async def test_an_origin_that_refuses_is_502(transport: Transport) -> None:
    with trio.socket.socket() as closed:
        await closed.bind(("127.0.0.1", 0))
        port = closed.getsockname()[1]
        rules = (RemapRule("//site.test/", f"http://127.0.0.1:{port}/"),)
        async with open_rig(transport, rules=lambda _: rules) as rig:
            client = await rig.connect()
            assert (await client.ask(get())).status == 502
            assert (await client.ask(get())).status == 502  # the client's connection has nothing to do with it
            first, _ = await rig.records_of(2)
            assert how(first) == ("origin", "origin_refused")


async def test_an_origin_whose_connections_are_all_taken_is_503(transport: Transport) -> None:
    async with open_rig(transport, serve=silent, origin={"max_connections": 1, "wait_timeout": 1}) as rig:
        one, two = await rig.connect(), await rig.connect()
        await one.send(get())
        await trio.sleep(0.1)
        assert (await two.ask(get())).status == 503
        assert how((await rig.records_of(1))[0]) == ("proxy", "origin_busy")


async def test_a_whole_transaction_that_takes_too_long_is_504(transport: Transport) -> None:
    async with open_rig(transport, serve=silent, http={"transaction_timeout": 3}) as rig:
        client = await rig.connect()
        assert (await client.ask(get())).status == 504
        assert how(await rig.record()) == ("proxy", "transaction_timeout")


async def test_an_origin_that_stops_midway_is_cut(transport: Transport) -> None:
    async def serve(wire: Wire) -> None:
        await wire.request()
        await wire.send(OK[:-1])
        await wire.rest()

    async with open_rig(transport, serve=serve, http={"inactivity_timeout": 5}) as rig:
        client = await rig.connect()
        await client.send(get())
        assert await client.rest() == OK[:-1]
        assert how(await rig.record()) == ("origin", "origin_inactivity")


async def test_nobody_serves_that_name(transport: Transport) -> None:
    async with open_rig(transport) as rig:
        client = await rig.connect()
        assert (await client.ask(get().replace(b"site.test", b"other.test"))).status == 404
        assert (await client.ask(get())).raw == OK
        first, _ = await rig.records_of(2)
        assert how(first) == ("proxy", "no_remap_rule")


async def test_a_failure_told_to_head_has_no_body(transport: Transport) -> None:
    async with open_rig(transport) as rig:
        client = await rig.connect()
        head = b"HEAD" + get().replace(b"site.test", b"other.test")[3:]
        assert (await client.ask(head)).status == 404
        assert (await client.ask(get())).raw == OK


async def test_a_page_says_what_was_wrong_and_escapes_what_it_quotes(transport: Transport) -> None:
    async with open_rig(transport, http={"via": "me"}) as rig:
        client = await rig.connect()
        answer = await client.ask(b"GET <script>alert(1)</script> HTTP/1.1\r\nHost: site.test\r\n\r\n")
        assert answer.status == 400
        assert answer.content.startswith(b"400 Bad Request\n\n")
        assert b"script" in answer.content
        assert b"<" not in answer.content
        assert len(answer.content) < 500
        for secret in (b"127.0.0.1", b"trio", b"tsconnect", b"h11"):
            assert secret not in answer.raw.lower()
        assert answer.get(b"server") is None
        assert answer.get(b"date") is not None


@pytest.mark.parametrize("long", [b"GET /%b HTTP/1.1\r\nHost: a b\r\n\r\n" % (b"a" * 4000), get(fields=b"X@%b: 1\r\n" % (b"a" * 4000))])
async def test_a_page_is_short_whatever_it_quotes(long: bytes, transport: Transport) -> None:
    async with open_rig(transport) as rig:
        client = await rig.connect()
        assert len((await client.ask(long)).content) < 500
