"""RFC 9110 §10.1.1 and §15.2: Expect, 100 (Continue), and every other answer before the answer."""

from __future__ import annotations

import pytest
import trio

from tests.rfc._rig import DATE, OK, Serve, Transport, Wire, chunked, get, how, on_mock_clock, open_rig, post, response

pytestmark = pytest.mark.trio(run=on_mock_clock)

CONTINUE = b"HTTP/1.1 100 Continue\r\n\r\n"
HINTS = b"HTTP/1.1 103 Early Hints\r\nLink: </a>\r\n\r\n"
EXPECTING = post(b"hello", fields=b"Expect: 100-continue\r\n")
HEAD, BODY = EXPECTING[:-5], EXPECTING[-5:]


def continuing(received: list[bytes], interim: bytes = CONTINUE) -> Serve:
    """Ask for the body, then answer."""

    async def serve(wire: Wire) -> None:
        received.append(await wire.until(b"\r\n\r\n"))
        await wire.send(interim)
        while len(wire.buffer) < 5 and await wire.more():
            pass
        received.append(wire.buffer)
        await wire.send(OK)
        await wire.rest()

    return serve


def refusing(received: list[bytes]) -> Serve:
    """Answer at once, and want no body."""

    async def serve(wire: Wire) -> None:
        received.append(await wire.until(b"\r\n\r\n"))
        await wire.send(response(b"no", status=b"403 Forbidden"))
        received.append(await wire.rest())

    return serve


async def test_the_origin_is_asked_and_its_continue_comes_back(transport: Transport) -> None:
    received: list[bytes] = []
    async with open_rig(transport, serve=continuing(received)) as rig:
        client = await rig.connect()
        await client.send(HEAD)
        assert (await client.response(b"POST")).raw == CONTINUE
        assert received == [HEAD]
        await client.send(BODY)
        assert (await client.response(b"POST")).raw == OK
        assert how(await rig.record()) == ("proxy", "complete")
    assert received == [HEAD, BODY]


async def test_a_body_that_does_not_wait_is_passed_on_at_once(transport: Transport) -> None:
    received: list[bytes] = []
    async with open_rig(transport, serve=continuing(received)) as rig:
        client = await rig.connect()
        await client.send(EXPECTING)
        assert (await client.response(b"POST")).status == 100
        assert (await client.response(b"POST")).raw == OK


async def test_an_origin_that_wants_no_body_gets_none(transport: Transport) -> None:
    # Nobody knows whether the body will come now, so the connection is closed.
    received: list[bytes] = []
    async with open_rig(transport, serve=refusing(received)) as rig:
        client = await rig.connect()
        await client.send(HEAD)
        answer = await client.response(b"POST")
        assert (answer.status, answer.get(b"connection")) == (403, b"close")
        assert await client.is_closed()
        assert how(await rig.record()) == ("proxy", "complete")
    assert received == [HEAD, b""]


async def test_the_proxy_answers_itself_where_that_is_configured(transport: Transport) -> None:
    async with open_rig(transport, http={"expect": "answer"}) as rig:
        client = await rig.connect()
        await client.send(HEAD)
        assert (await client.response(b"POST")).raw == CONTINUE
        await client.send(BODY)
        assert (await client.response(b"POST")).raw == OK
    assert rig.origin.raw() == [post(b"hello")]


async def test_an_expectation_of_http_1_0_is_none(transport: Transport) -> None:
    async with open_rig(transport) as rig:
        client = await rig.connect()
        await client.send(EXPECTING.replace(b"1.1", b"1.0", 1))
        assert (await client.rest()).startswith(b"HTTP/1.1 200 OK\r\n")
    assert rig.origin.raw() == [post(b"hello")]


async def test_a_continue_that_nobody_asked_for_is_passed_on_too(transport: Transport) -> None:
    # §15.2: a proxy MUST forward 1xx, unless it asked for it itself
    async with open_rig(transport, CONTINUE + OK) as rig:
        client = await rig.connect()
        assert (await client.ask(get())).raw == CONTINUE
        assert (await client.response()).raw == OK


async def test_several_interim_answers_come_in_order_and_at_once(transport: Transport) -> None:
    step = [trio.Event(), trio.Event()]

    async def serve(wire: Wire) -> None:
        await wire.request()
        await wire.send(HINTS)
        await step[0].wait()
        await wire.send(HINTS.replace(b"/a", b"/b"))
        await step[1].wait()
        await wire.send(OK)

    async with open_rig(transport, serve=serve) as rig:
        client = await rig.connect()
        assert (await client.ask(get())).raw == HINTS
        step[0].set()
        assert (await client.response()).raw == HINTS.replace(b"/a", b"/b")
        step[1].set()
        assert (await client.response()).raw == OK
        record = await rig.record()
        assert (record.status, record.origin_status) == (200, 200)


async def test_http_1_0_gets_no_interim_answer(transport: Transport) -> None:
    # §15.2: a server MUST NOT send 1xx to an HTTP/1.0 client
    async with open_rig(transport, HINTS + CONTINUE + OK) as rig:
        client = await rig.connect()
        await client.send(get().replace(b"1.1", b"1.0"))
        assert (await client.rest()).startswith(b"HTTP/1.1 200 OK\r\n")


@pytest.mark.parametrize(
    ("sent", "got"),
    [
        (b"Connection: X\r\nX: 1\r\nY: 2\r\n", b"Y: 2\r\n"),
        (b"Content-Length: 5\r\n", b""),
        (b"Transfer-Encoding: chunked\r\n", b""),
        (b"Keep-Alive: timeout=5\r\nProxy-Connection: close\r\n", b""),
    ],
)
async def test_fields_of_one_hop_are_taken_out_of_interim_answers(sent: bytes, got: bytes, transport: Transport) -> None:
    async with open_rig(transport, b"HTTP/1.1 103 Early Hints\r\n%b\r\n" % sent + OK) as rig:
        client = await rig.connect()
        assert (await client.ask(get())).raw == b"HTTP/1.1 103 Early Hints\r\n%b\r\n" % got
        assert (await client.response()).raw == OK


async def test_a_switch_that_nobody_asked_for_is_a_bad_answer(transport: Transport) -> None:
    async with open_rig(transport, b"HTTP/1.1 101 Switching Protocols\r\nConnection: upgrade\r\nUpgrade: x\r\n\r\n") as rig:
        client = await rig.connect()
        assert (await client.ask(get())).status == 502
        assert how(await rig.record()) == ("origin", "unexpected_switch")


async def test_an_origin_that_only_hints_is_not_waited_for_without_end(transport: Transport) -> None:
    async def serve(wire: Wire) -> None:
        await wire.request()
        while True:
            await wire.send(HINTS)
            await trio.sleep(1)

    async with open_rig(transport, serve=serve, origin={"response_timeout": 5}) as rig:
        client = await rig.connect()
        answer = await client.ask(get())
        hints = 0
        while answer.status == 103:
            hints += 1
            assert hints < 10
            answer = await client.response()
        assert answer.status == 504
        assert how(await rig.record()) == ("origin", "origin_response_timeout")


async def test_chunks_after_a_continue_keep_their_trailers(transport: Transport) -> None:
    async def serve(wire: Wire) -> None:
        await wire.until(b"\r\n\r\n")
        await wire.send(CONTINUE)
        assert await wire.until(b"a\r\n\r\n") == b"5\r\nhello\r\n0\r\nX: a\r\n\r\n"
        await wire.send(b"HTTP/1.1 200 OK\r\n%bTransfer-Encoding: chunked\r\n\r\n2\r\nok\r\n0\r\nY: b\r\n\r\n" % DATE)

    async with open_rig(transport, serve=serve) as rig:
        client = await rig.connect()
        await client.send(chunked(b"", fields=b"Expect: 100-continue\r\n"))
        assert (await client.response(b"POST")).status == 100
        await client.send(b"5\r\nhello\r\n0\r\nX: a\r\n\r\n")
        answer = await client.response(b"POST")
        assert (answer.content, answer.trailers) == (b"ok", ((b"y", b"b"),))
