"""RFC 9110 §7.8 and §9.3.6: upgrades and CONNECT, after which bytes mean nothing to a proxy."""

from __future__ import annotations

import pytest
import trio

from tests.rfc._rig import OK, Rig, Serve, Transport, Wire, get, how, on_mock_clock, open_rig
from trio_tsconnect import MemoryLog, Plugin, Transaction, open_proxy

pytestmark = pytest.mark.trio(run=on_mock_clock)

ASKING = get(fields=b"Upgrade: websocket, x\r\nConnection: Upgrade\r\n")
SWITCHING = b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\r\n"


async def echo(wire: Wire) -> None:
    """Send back what comes, in capital letters; at its end say goodbye."""
    while wire.buffer or await wire.more():
        await wire.send(wire.take(len(wire.buffer)).upper())
    await wire.send(b"BYE")


def upgrading(then: Serve = echo, reply: bytes = SWITCHING) -> Serve:
    async def serve(wire: Wire) -> None:
        await wire.request()
        await wire.send(reply)
        await then(wire)

    return serve


async def connect_to(rig: Rig, *, more: bytes = b"") -> Wire:
    client = await rig.connect()
    await client.send(b"CONNECT 127.0.0.1:%d HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n%b" % (rig.origin.port, more))
    head = await client.until(b"\r\n\r\n")
    assert head == b"HTTP/1.1 200 Connection Established\r\n\r\n"
    return client


ANYWHERE = {"connect": ("127.0.0.1:*",)}


async def test_an_upgrade_becomes_a_tunnel(transport: Transport) -> None:
    async with open_rig(transport, serve=upgrading()) as rig:
        client = await rig.connect()
        await client.send(ASKING)
        assert (await client.response()).raw == SWITCHING
        await client.send(b"hello")
        assert await client.until(b"HELLO") == b"HELLO"
        await client.send(b"GET / HTTP/1.1\n\n\0")  # no HTTP any more
        assert await client.until(b"\0") == b"GET / HTTP/1.1\n\n\0"
        await client.send_eof()
        assert await client.rest() == b"BYE"
        record = await rig.record()
        assert (record.status, record.request_bytes, record.response_bytes) == (101, 22, 25)
        assert how(record) == ("proxy", "complete")


async def test_bytes_that_come_with_the_heads_are_not_lost(transport: Transport) -> None:
    async with open_rig(transport, serve=upgrading(reply=SWITCHING + b"early ")) as rig:
        client = await rig.connect()
        await client.send(ASKING + b"bird")
        await client.response()
        await client.send_eof()
        assert await client.rest() == b"early BIRDBYE"


async def test_the_origin_may_end_first(transport: Transport) -> None:
    got = []

    async def then(wire: Wire) -> None:
        await wire.send_eof()
        got.append(await wire.rest())

    async with open_rig(transport, serve=upgrading(then)) as rig:
        client = await rig.connect()
        await client.send(ASKING)
        await client.response()
        assert await client.rest() == b""
        await client.send(b"still here")
        await client.send_eof()
        assert how(await rig.record()) == ("proxy", "complete")
    assert got == [b"still here"]


async def test_an_upgrade_that_the_origin_does_not_want_is_an_ordinary_request(transport: Transport) -> None:
    async with open_rig(transport) as rig:
        client = await rig.connect()
        assert (await client.ask(ASKING)).raw == OK
        assert (await client.ask(get())).raw == OK


@pytest.mark.parametrize("reply", [SWITCHING.replace(b"websocket", b"h2c"), SWITCHING.replace(b"Upgrade: websocket\r\n", b"")])
async def test_a_switch_to_what_was_not_offered_is_a_bad_answer(reply: bytes, transport: Transport) -> None:
    async with open_rig(transport, reply) as rig:
        client = await rig.connect()
        assert (await client.ask(ASKING)).status == 502
        assert how(await rig.record()) == ("origin", "bad_switch")


async def test_http_1_0_cannot_upgrade(transport: Transport) -> None:
    # §7.8: a server MUST ignore an Upgrade in an HTTP/1.0 request
    async with open_rig(transport) as rig:
        client = await rig.connect()
        await client.send(ASKING.replace(b"1.1", b"1.0", 1))
        await client.rest()
    assert rig.origin.raw() == [get()]


async def test_an_upgrade_with_a_body_waits_for_its_end(transport: Transport) -> None:
    async def then(wire: Wire) -> None:
        await echo(wire)

    async with open_rig(transport, serve=upgrading(then)) as rig:
        client = await rig.connect()
        await client.send(ASKING.replace(b"\r\n\r\n", b"\r\nContent-Length: 5\r\n\r\nhello") + b"after")
        await client.response()
        await client.send_eof()
        assert await client.rest() == b"AFTERBYE"


async def test_a_tunnel_in_which_nothing_moves_is_closed(transport: Transport) -> None:
    async with open_rig(transport, serve=upgrading(), http={"tunnel_timeout": 20, "gone_check_interval": 10}) as rig:
        client = await rig.connect()
        await client.send(ASKING)
        await client.response()
        for _ in range(3):
            await trio.sleep(15)
            await client.send(b"x")
            await client.until(b"X")
        began = trio.current_time()
        assert await client.is_closed()
        assert 19 < trio.current_time() - began < 25
        assert how(await rig.record()) == ("proxy", "tunnel_idle")


async def test_connect_is_a_tunnel_where_it_is_permitted(transport: Transport) -> None:
    async with open_rig(transport, serve=echo, http=ANYWHERE) as rig:
        client = await connect_to(rig, more=b"early ")
        await client.send(b"bird")
        assert await client.until(b"BIRD") == b"EARLY BIRD"
        await client.send_eof()
        assert await client.rest() == b"BYE"
        record = await rig.record()
        assert (record.method, record.status, *how(record)) == ("CONNECT", 200, "proxy", "complete")


@pytest.mark.parametrize("patterns", [(), ("127.0.0.1:1",), ("other.test:*",), ("*.test:*",)])
async def test_and_nowhere_else(patterns: tuple[str, ...], transport: Transport) -> None:
    async with open_rig(transport, http={"connect": patterns}) as rig:
        client = await rig.connect()
        await client.send(b"CONNECT 127.0.0.1:%d HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n" % rig.origin.port)
        assert (await client.response(b"CONNECT")).status == 403
        assert how(await rig.record()) == ("proxy", "connect_denied")
    assert rig.origin.connections == 0


async def test_connect_to_nobody_is_502(transport: Transport) -> None:
    with trio.socket.socket() as closed:
        await closed.bind(("127.0.0.1", 0))
        async with open_rig(transport, http=ANYWHERE) as rig:
            client = await rig.connect()
            await client.send(b"CONNECT 127.0.0.1:%d HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n" % closed.getsockname()[1])
            assert (await client.response(b"GET")).status == 502
            assert how(await rig.record()) == ("origin", "origin_refused")


async def test_a_client_that_breaks_a_tunnel_breaks_it_for_the_origin(transport: Transport) -> None:
    ended = trio.Event()

    async def then(wire: Wire) -> None:
        await wire.rest()
        ended.set()

    async with open_rig(transport, serve=upgrading(then)) as rig:
        client = await rig.connect()
        await client.send(ASKING)
        await client.response()
        await client.aclose()
        await ended.wait()


@pytest.mark.parametrize(
    "head",
    [
        b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\n\r\n",
        b"HTTP/1.1 101 Switching Protocols\r\n\r\n",
        b"HTTP/1.0 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\r\n",
        (
            b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
            b"Sec-WebSocket-Accept: x\r\nSec-WebSocket-Accept: y\r\n\r\n"
        ),
    ],
)
async def test_a_switch_that_does_not_say_so_properly_is_a_bad_answer(head: bytes, transport: Transport) -> None:
    # §7.8, §15.2.2: the 101 names the protocol in Upgrade, and Connection announces that
    async with open_rig(transport, head) as rig:
        client = await rig.connect()
        assert (await client.ask(ASKING)).status == 502
        assert how(await rig.record()) == ("origin", "bad_switch")


async def test_a_plugin_may_be_the_far_end_of_a_connect() -> None:
    class Far(Plugin):
        async def read_request(self, txn: Transaction) -> None:
            txn.intercept(self._echo)

        async def _echo(self, stream: trio.abc.HalfCloseableStream) -> None:
            while data := await stream.receive_some():
                await stream.send_all(data.upper())

    log = MemoryLog()
    async with open_proxy(plugins=[Far()], log=log) as proxy, proxy.connect() as stream:
        await stream.send_all(b"CONNECT a.test:1 HTTP/1.1\r\nHost: a.test:1\r\n\r\n")
        assert bytes(await stream.receive_some()).startswith(b"HTTP/1.1 200 ")
        await stream.send_all(b"words")
        assert bytes(await stream.receive_some()) == b"WORDS"
        await stream.send_eof()
        assert not await stream.receive_some()
    assert (log.records[0].status, log.records[0].request_bytes, log.records[0].response_bytes) == (200, 5, 5)
