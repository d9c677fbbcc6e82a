"""RFC 9112 §9: connections that persist, pipelining, closing; and what becomes of a request when one side does not keep to it."""

from __future__ import annotations

import pytest
import trio
import trio.testing

from tests.rfc._rig import OK, Origin, Rig, Transport, Wire, chunked, get, how, on_mock_clock, open_rig, post, response
from tests.rfc._tables import Relayed, check_relayed, table

pytestmark = pytest.mark.trio(run=on_mock_clock)

HOST = b"Host: site.test\r\n"
BIG = 1 << 20


def plain(fields: bytes = b"", *, version: bytes = b"1.1") -> bytes:
    return b"GET / HTTP/%b\r\n%b%b\r\n" % (version, HOST, fields)


CLOSING = response(fields=b"").replace(b"Content-Length: 5\r\n", b"Content-Length: 5\r\nConnection: close\r\n")
KEEPING = CLOSING.replace(b"close", b"keep-alive")

PERSISTENCE = [
    Relayed("§9.3 HTTP/1.1 goes on", plain(), get()),
    Relayed("§9.3 HTTP/1.1 goes on when it says so", plain(b"Connection: keep-alive\r\n"), get()),
    Relayed("§9.6 close", plain(b"Connection: close\r\n"), get(), OK, CLOSING, goes_on=False),
    Relayed("§9.6 close in other letters", plain(b"Connection: Close\r\n"), get(), OK, CLOSING, goes_on=False),
    Relayed("§9.6 close among others", plain(b"Connection: x, close\r\n"), get(), OK, CLOSING, goes_on=False),
    Relayed(
        "§9.3 close wins over keep-alive", plain(b"Connection: keep-alive\r\nConnection: close\r\n"), get(), OK, CLOSING, goes_on=False
    ),
    Relayed("§9.3 HTTP/1.0 does not go on", plain(version=b"1.0"), get(), OK, CLOSING, goes_on=False),
    Relayed("§9.3 HTTP/1.0 goes on when it says so", plain(b"Connection: keep-alive\r\n", version=b"1.0"), get(), OK, KEEPING),
    Relayed(
        "§9.3 HTTP/1.0 goes on after a body",
        post(b"hello", fields=b"Connection: keep-alive\r\n").replace(b"1.1", b"1.0"),
        post(b"hello"),
        OK,
        KEEPING,
    ),
    Relayed("§9.6 close of the origin is about its own connection", get(), get(), CLOSING, OK, closing=True),
    Relayed("§9.3 an origin of HTTP/1.0", get(), get(), OK.replace(b"1.1", b"1.0", 1), OK, closing=True),
]


@table(PERSISTENCE)
async def test_whether_a_connection_goes_on(row: Relayed, transport: Transport) -> None:
    await check_relayed(row, transport)


@pytest.mark.parametrize(
    ("reply", "connections"),
    [
        pytest.param(OK, 1, id="counted"),
        pytest.param(
            response(fields=b"Transfer-Encoding: chunked\r\n").replace(b"Content-Length: 5\r\n", b"").replace(b"hello", b"0\r\n\r\n"),
            1,
            id="chunked",
        ),
        pytest.param(CLOSING, 2, id="close"),
        pytest.param(OK.replace(b"1.1", b"1.0", 1), 2, id="HTTP/1.0"),
        pytest.param(KEEPING.replace(b"1.1", b"1.0", 1), 1, id="HTTP/1.0 that goes on"),
    ],
)
async def test_a_connection_to_the_origin_is_used_again_where_both_sides_let_it(
    reply: bytes, connections: int, transport: Transport
) -> None:
    async with open_rig(transport, reply) as rig:
        client = await rig.connect()
        await client.ask(get())
        await client.ask(get())
    assert rig.origin.connections == connections


async def test_pipelined_requests_are_answered_in_order(transport: Transport) -> None:
    # §9.3.2
    async def serve(wire: Wire) -> None:
        while True:
            request = await wire.request()
            rig.origin.received.append(request)
            await trio.sleep(5 if request.first[1] == b"/0" else 0)
            await wire.send(response(request.first[1] + request.content))

    async with open_rig(transport, serve=serve, http={"half_close": "finish"}) as rig:
        client = await rig.connect()
        await client.send(b"".join([get(b"/%d" % n) + post(b"hello") + chunked(b"1\r\nx\r\n0\r\n\r\n") for n in range(8)]))
        wanted = [body for n in range(8) for body in (b"/%d" % n, b"/hello", b"/x")]
        assert [(await client.response()).content for _ in wanted] == wanted
        await client.send_eof()
        assert await client.is_closed()
    assert len(rig.origin.received) == len(rig.records) == 24


async def test_the_last_request_of_a_connection_is_told_so(transport: Transport) -> None:
    async with open_rig(transport, http={"max_requests_per_connection": 2}) as rig:
        client = await rig.connect()
        await client.send(get() * 3)
        assert (await client.response()).get(b"connection") is None
        assert (await client.response()).get(b"connection") == b"close"
        assert await client.is_closed()
    assert len(rig.origin.received) == 2


@pytest.mark.parametrize("sent", [b"", b"\r\n", OK[:0] + get()], ids=["nothing", "an empty line", "one request"])
async def test_an_idle_connection_is_closed_without_a_word(sent: bytes, transport: Transport) -> None:
    # §9.8: a server SHOULD close after it has been idle for long enough
    async with open_rig(transport) as rig:
        client = await rig.connect()
        began = trio.current_time()
        await client.send(sent)
        if len(sent) > 2:
            await client.response()
        assert await client.is_closed()
        assert 59 < trio.current_time() - began < 65
    assert len(rig.records) == (1 if len(sent) > 2 else 0)


@pytest.mark.parametrize("sent", [b"G", b"GET / HTTP/1.1\r\n", get()[:-2], get()[:-1]], ids=repr)
async def test_a_head_that_does_not_end_in_time_is_answered_with_408(sent: bytes, transport: Transport) -> None:
    # 9110 §15.5.9
    async with open_rig(transport) as rig:
        client = await rig.connect()
        began = trio.current_time()
        await client.send(sent)
        answer = await client.response()
        assert (answer.status, answer.get(b"connection")) == (408, b"close")
        assert await client.is_closed()
        assert 9.9 < trio.current_time() - began < 15
        assert how(await rig.record()) == ("client", "header_timeout")


async def test_a_head_that_trickles_in_is_not_waited_for(transport: Transport) -> None:
    # Each byte is in time, the head is not.
    async with open_rig(transport) as rig:
        client = await rig.connect()
        async with trio.open_nursery() as nursery:

            async def trickle() -> None:
                for byte in get(fields=b"X: " + b"a" * 100 + b"\r\n"):
                    await client.send(bytes([byte]))
                    await trio.sleep(1)

            nursery.start_soon(trickle)
            assert (await client.response()).status == 408
            nursery.cancel_scope.cancel()


@pytest.mark.parametrize(
    "sent", [post(b"hello")[:-1], chunked(b"5\r\nhel"), chunked(b"5\r\nhello\r\n")], ids=["counted", "in a chunk", "between"]
)
async def test_a_body_that_stops_is_answered_with_408(sent: bytes, transport: Transport) -> None:
    async with open_rig(transport, http={"inactivity_timeout": 5}) as rig:
        client = await rig.connect()
        await client.send(sent)
        answer = await client.response(b"POST")
        assert (answer.status, answer.get(b"connection")) == (408, b"close")
        assert await client.is_closed()
        assert how(await rig.record()) == ("client", "request_body_timeout")
    assert rig.origin.received == []


# ------------------------------------------------------------------------------------------------------------------ early answers


def early(reply: bytes, *, close: bool = False) -> object:
    """An origin that answers as soon as it has the head."""

    async def serve(wire: Wire) -> None:
        await wire.until(b"\r\n\r\n")
        await wire.send(reply)
        if not close:
            await wire.rest()

    return serve


@pytest.mark.parametrize("close", [False, True], ids=["and goes on reading", "and closes"])
@pytest.mark.parametrize("framing", ["counted", "chunked"])
async def test_an_answer_before_the_body_has_ended_is_passed_on(framing: str, close: bool, transport: Transport) -> None:
    # §9.5: a client that sees it may stop; a proxy passes it on at once
    reply = response(b"no", status=b"413 Content Too Large")
    sent = post(b"a" * BIG)[: -BIG // 2] if framing == "counted" else chunked(b"%x\r\n%b\r\n" % (BIG // 2, b"a" * (BIG // 2)))
    async with open_rig(transport, serve=early(reply, close=close)) as rig:  # type: ignore[arg-type]
        client = await rig.connect()
        async with trio.open_nursery() as nursery:
            nursery.start_soon(send_until_closed, client, sent)
            answer = await client.response(b"POST")
            assert (answer.status, answer.content) == (413, b"no")
        await client.aclose()
        record = await rig.record()
        assert record.status == 413


async def send_until_closed(wire: Wire, data: bytes) -> None:
    try:
        await wire.send(data)
    except trio.BrokenResourceError:
        pass


async def test_a_short_rest_of_a_body_is_dropped_and_the_connection_goes_on(transport: Transport) -> None:
    async with open_rig(transport, serve=early(response(b"no", status=b"403 Forbidden"))) as rig:  # type: ignore[arg-type]
        client = await rig.connect()
        body = post(b"a" * 1000)
        await client.send(body[:-500])
        assert (await client.response(b"POST")).status == 403
        await client.send(body[-500:] + post(b"again"))
        assert (await client.response(b"POST")).status == 403
        await rig.records_of(2)


@pytest.mark.parametrize(
    ("sent", "goes_on"),
    [(post(b"hello"), True), (post(b"hello")[:-1], True), (post(b"a" * BIG)[:-BIG], False), (chunked(b"5\r\nhello\r\n"), False)],
    ids=["whole", "a short one", "a long one", "one without an end"],
)
async def test_an_answer_of_the_proxys_own_goes_on_if_the_body_can_be_dropped(sent: bytes, goes_on: bool, transport: Transport) -> None:
    async with open_rig(transport) as rig:
        client = await rig.connect()
        await client.send(sent.replace(b"site.test", b"other.test"))
        answer = await client.response(b"POST")
        assert (answer.status, answer.get(b"connection")) == (404, None if goes_on else b"close")
        if not goes_on:
            assert await client.is_closed()
        assert how(await rig.record()) == ("proxy", "no_remap_rule")


async def test_a_client_that_is_still_sending_gets_the_refusal(transport: Transport) -> None:
    # §9.6: closing at once would reset the connection, and the answer would be lost with it
    async with open_rig(transport, http={"max_request_body": 10}) as rig:
        client = await rig.connect()
        await client.send(b"POST / HTTP/1.1\r\n%bContent-Length: %d\r\n\r\n" % (HOST, BIG))
        async with trio.open_nursery() as nursery:
            nursery.start_soon(send_until_closed, client, b"a" * (BIG // 2))
            await trio.testing.wait_all_tasks_blocked(0.01)
            assert (await client.response(b"POST")).status == 413
            await client.aclose()
        assert how(await rig.record()) == ("client", "request_too_large")


# ------------------------------------------------------------------------------------------------------------ an origin that goes away


def dying(origin_of: list[Rig], *, at: int) -> object:
    """An origin whose first connection closes when it gets its request number `at`."""

    async def serve(wire: Wire) -> None:
        origin: Origin = origin_of[0].origin
        first, served = origin.connections == 1, 0
        while True:
            origin.received.append(await wire.request())
            served += 1
            if first and served == at:
                return
            await wire.send(OK)

    return serve


@pytest.mark.parametrize("method", [b"GET", b"HEAD", b"OPTIONS", b"PUT", b"DELETE", b"TRACE"])
async def test_an_idempotent_request_is_sent_again_when_a_kept_connection_was_dead(method: bytes, transport: Transport) -> None:
    # 9110 §9.2.2, 9112 §9.3.1
    rigs: list[Rig] = []
    async with open_rig(transport, serve=dying(rigs, at=2)) as rig:  # type: ignore[arg-type]
        rigs.append(rig)
        client = await rig.connect()
        await client.ask(get())
        request = get().replace(b"GET", method, 1)
        await client.send(request)
        head = await client.until(b"\r\n\r\n")
        assert head.startswith(b"HTTP/1.1 200 OK\r\n")
        await client.aclose()
        first, second = await rig.records_of(2)
    assert (first.attempts, second.attempts) == (1, 2)
    assert rig.origin.connections == 2


@pytest.mark.parametrize(
    "request_",
    [
        get().replace(b"GET", b"POST"),
        get().replace(b"GET", b"PATCH"),
        get().replace(b"GET", b"BREW"),
        post(b"hello").replace(b"POST", b"PUT"),
    ],
    ids=["POST", "PATCH", "a method nobody knows", "PUT with a body"],
)
async def test_no_other_request_is_sent_twice(request_: bytes, transport: Transport) -> None:
    rigs: list[Rig] = []
    async with open_rig(transport, serve=dying(rigs, at=2)) as rig:  # type: ignore[arg-type]
        rigs.append(rig)
        client = await rig.connect()
        await client.ask(get())
        assert (await client.ask(request_)).status == 502
        _, second = await rig.records_of(2)
    assert (second.attempts, *how(second)) == (1, "origin", "origin_closed")
    assert len(rig.origin.received) == 2


async def test_a_fresh_connection_that_dies_is_not_tried_again(transport: Transport) -> None:
    rigs: list[Rig] = []
    async with open_rig(transport, serve=dying(rigs, at=1)) as rig:  # type: ignore[arg-type]
        rigs.append(rig)
        client = await rig.connect()
        assert (await client.ask(get())).status == 502
        assert (await client.ask(get())).status == 200
        first, _ = await rig.records_of(2)
    assert (first.attempts, *how(first)) == (1, "origin", "origin_closed")


async def test_a_request_is_sent_again_only_once(transport: Transport) -> None:
    async def serve(wire: Wire) -> None:
        rig.origin.received.append(await wire.request())
        if rig.origin.connections == 1:
            await wire.send(OK)
            rig.origin.received.append(await wire.request())

    async with open_rig(transport, serve=serve) as rig:
        client = await rig.connect()
        await client.ask(get())
        assert (await client.ask(get())).status == 502
        _, second = await rig.records_of(2)
    assert (second.attempts, rig.origin.connections) == (2, 2)


@pytest.mark.parametrize("said", [b"H", b"HTTP/1.1 200 OK\r\n", OK[:40]], ids=repr)
async def test_an_origin_that_dies_within_its_head_is_not_asked_again(said: bytes, transport: Transport) -> None:
    async def serve(wire: Wire) -> None:
        rig.origin.received.append(await wire.request())
        if rig.origin.connections == 1:
            await wire.send(OK)
            rig.origin.received.append(await wire.request())
            await wire.send(said)

    async with open_rig(transport, serve=serve) as rig:
        client = await rig.connect()
        await client.ask(get())
        assert (await client.ask(get())).status == 502
        _, second = await rig.records_of(2)
    assert (second.attempts, *how(second)) == (1, "origin", "origin_bad_response")


# --------------------------------------------------------------------------------------------------------------------- limits


async def test_a_connection_too_many_is_closed_before_it_is_read() -> None:
    async with open_rig("tcp", http={"max_connections": 1}) as rig:
        first = await rig.connect()
        await first.ask(get())
        second = await rig.connect()
        assert await second.is_closed()
        assert (await first.ask(get())).raw == OK
