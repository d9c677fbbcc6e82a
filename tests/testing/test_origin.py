"""A scripted origin: it says what it was told, remembers what it was asked, and fails as it was told to."""

from __future__ import annotations

import doctest
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from functools import partial
from typing import Any

import pytest
import trio
from trio.testing import wait_all_tasks_blocked

from trio_tsconnect import Request, Response, VirtualConnection, open_virtual_connection_pair, testing
from trio_tsconnect.testing import Answer, ExchangeFailed, OriginRequest, ScriptedOrigin, exchange

GET = "GET {} HTTP/1.1\r\nHost: origin.test\r\n\r\n"


@pytest.fixture
def origin() -> ScriptedOrigin:
    return ScriptedOrigin()


@asynccontextmanager
async def talking_to(origin: ScriptedOrigin) -> AsyncIterator[VirtualConnection]:
    ours, theirs = open_virtual_connection_pair()
    error: Exception | None = None
    async with trio.open_nursery() as nursery:
        nursery.start_soon(origin.serve, theirs)
        try:
            yield ours
        except Exception as exc:  # noqa: BLE001 - it leaves as it is, not in a group
            error = exc
        await ours.aclose()
    assert origin.open_connections == 0
    if error is not None:
        raise error


async def ask(origin: ScriptedOrigin, path: str):
    async with talking_to(origin) as connection:
        return await exchange(connection, GET.format(path))


# --- what it says ------------------------------------------------------------------------------------------------------------------


async def test_answer_is_found_by_path_without_query(origin: ScriptedOrigin) -> None:
    origin.answer("/a", 201, "made", headers={"X-It": "1"})
    reply = await ask(origin, "/a?b=c")
    assert (reply.status, reply.text, reply.headers["x-it"], reply.headers["content-length"]) == (201, "made", "1", "4")


async def test_what_is_not_scripted_is_404_and_says_what_was_asked(origin: ScriptedOrigin) -> None:
    reply = await ask(origin, "/b")
    assert (reply.status, reply.text) == (404, "no answer is scripted for GET /b\n")


async def test_answers_are_given_in_turn_and_the_last_for_ever(origin: ScriptedOrigin) -> None:
    origin.answer("/a", 503)
    origin.answer("/a", 200)
    async with talking_to(origin) as connection:
        replies = await exchange(connection, GET.format("/a") * 3, count=3)
    assert [reply.status for reply in replies] == [503, 200, 200]


async def test_answer_for_a_method_goes_before_one_for_any(origin: ScriptedOrigin) -> None:
    origin.answer("/a", 200)
    origin.answer("/a", 405, method="DELETE")
    async with talking_to(origin) as connection:
        replies = await exchange(connection, GET.format("/a") + GET.format("/a").replace("GET", "DELETE"), count=2)
    assert [reply.status for reply in replies] == [200, 405]


async def test_chunked_answer_has_trailers_and_interim_responses_before_it(origin: ScriptedOrigin) -> None:
    origin.reply("/a", Answer(200, "abc", chunked=True, trailers={"X-Sum": "6"}, interim=[Response(103, {"Link": "</style.css>"})]))
    reply = await ask(origin, "/a")
    assert (reply.body, reply.headers["transfer-encoding"]) == (b"abc", "chunked")
    assert reply.trailers is not None
    assert reply.trailers["x-sum"] == "6"
    assert [(interim.status, interim.headers["link"]) for interim in reply.interim] == [(103, "</style.css>")]


async def test_answer_to_head_has_the_length_and_no_content(origin: ScriptedOrigin) -> None:
    origin.answer("/a", body="abc")
    async with talking_to(origin) as connection:
        replies = await exchange(connection, GET.format("/a").replace("GET", "HEAD") + GET.format("/a"), count=2)
    assert [(reply.headers["content-length"], reply.body) for reply in replies] == [("3", b""), ("3", b"abc")]


async def test_raw_bytes_are_sent_as_they_are(origin: ScriptedOrigin) -> None:
    origin.reply("/a", Answer(raw=b"whatever\n\n"))
    async with talking_to(origin) as connection:
        await connection.send_all(GET.format("/a").encode())
        assert await connection.receive_some() == b"whatever\n\n"
        assert await connection.receive_some() == b""


async def test_connection_close_in_an_answer_closes(origin: ScriptedOrigin) -> None:
    origin.answer("/a", headers={"Connection": "close"})
    async with talking_to(origin) as connection:
        await exchange(connection, GET.format("/a"))
        assert await connection.receive_some() == b""


async def test_serves_network_clients_as_well(origin: ScriptedOrigin) -> None:
    origin.answer("/a", body="abc")
    async with trio.open_nursery() as nursery:
        [listener] = await nursery.start(partial(trio.serve_tcp, host="127.0.0.1"), origin.serve, 0)
        async with await trio.testing.open_stream_to_socket_listener(listener) as stream:
            assert (await exchange(stream, GET.format("/a"))).text == "abc"
        nursery.cancel_scope.cancel()


# --- what it remembers -------------------------------------------------------------------------------------------------------------


async def test_requests_are_recorded_with_their_bodies_and_connections(origin: ScriptedOrigin) -> None:
    async with talking_to(origin) as connection:
        await exchange(connection, "POST /a?b HTTP/1.1\r\nHost: x\r\nContent-Length: 3\r\n\r\nabc")
        await exchange(connection, "PUT /c HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nde\r\n0\r\nX-T: 1\r\n\r\n")
    await ask(origin, "/f")
    first, second, third = origin.requests
    assert (first.method, first.target, first.path, first.body, first.complete) == ("POST", "/a?b", "/a", b"abc", True)
    assert (second.method, second.body) == ("PUT", b"de")
    assert second.trailers is not None
    assert second.trailers["x-t"] == "1"
    assert [request.connection for request in origin.requests] == [1, 1, 2]
    assert repr(third) == "<OriginRequest GET /f, 0 bytes of body>"


async def test_request_can_be_waited_for(origin: ScriptedOrigin, autojump_clock) -> None:
    async def ask_later() -> None:
        await trio.sleep(1)
        await ask(origin, "/late")

    async with trio.open_nursery() as nursery:
        nursery.start_soon(ask_later)
        [request] = await origin.requests.wait(1)
        assert request.path == "/late"
        with pytest.raises(AssertionError, match=r"^expected 2 items within 60 s, got 1: .*GET /late"):
            await origin.requests.wait(2)


# --- handlers ----------------------------------------------------------------------------------------------------------------------


async def test_handler_may_answer_piece_by_piece_as_it_receives(origin: ScriptedOrigin) -> None:
    async def echo(request: OriginRequest) -> Answer:
        async def pieces() -> AsyncIterator[bytes]:
            while piece := await request.receive():
                yield piece.upper()

        return Answer(200, pieces())

    origin.reply("/echo", echo)
    async with talking_to(origin) as connection:
        await connection.send_all(b"POST /echo HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n1\r\na\r\n")
        assert (await connection.receive_some()).startswith(b"HTTP/1.1 200 OK\r\n")
        assert await connection.receive_some() == b"1\r\nA\r\n"
        await connection.send_all(b"1\r\nb\r\n0\r\n\r\n")
        assert await connection.receive_some() == b"1\r\nB\r\n"


async def test_handler_that_receives_says_continue_and_one_that_refuses_does_not(origin: ScriptedOrigin) -> None:
    async def take(request: OriginRequest) -> Answer:
        return Answer(200, await request.read())

    async def refuse(request: OriginRequest) -> Answer:
        return Answer(413)

    origin.reply("/take", take)
    origin.reply("/refuse", refuse)
    head = "POST {} HTTP/1.1\r\nHost: x\r\nExpect: 100-continue\r\nContent-Length: 3\r\n\r\n"
    async with talking_to(origin) as connection:
        await connection.send_all(head.format("/take").encode())
        assert await connection.receive_some() == b"HTTP/1.1 100 Continue\r\n\r\n"
        await connection.send_all(b"a")
        await wait_all_tasks_blocked()
        reply = await exchange(connection, "bc")
        assert (reply.text, reply.interim) == ("abc", ())
        assert (await exchange(connection, head.format("/refuse"))).status == 413
        assert await connection.receive_some() == b""  # what is left of the request cannot be told from another


@pytest.mark.parametrize("when", ["before", "within"])
async def test_exception_in_a_script_breaks_the_connection_and_is_kept(origin: ScriptedOrigin, when: str) -> None:
    async def fail(request: OriginRequest) -> Answer:
        async def pieces() -> AsyncIterator[bytes]:
            yield b"abc"
            raise KeyError("mine")

        if when == "before":
            raise KeyError("mine")
        return Answer(200, pieces())

    origin.reply("/", fail)
    with pytest.raises(ExchangeFailed, match="ended"):
        await ask(origin, "/")
    with pytest.raises(KeyError, match="mine"):
        origin.check()


async def test_handler_that_returns_no_answer_is_told_so(origin: ScriptedOrigin) -> None:
    async def forget(request: OriginRequest) -> Answer:
        return None  # type: ignore[return-value]

    origin.reply("/a", forget)
    with pytest.raises(ExchangeFailed):
        await ask(origin, "/a")
    with pytest.raises(TypeError, match="the handler of /a returned None, expected an Answer"):
        origin.check()


async def test_request_that_is_not_sound_is_refused_and_kept(origin: ScriptedOrigin) -> None:
    async with talking_to(origin) as connection:
        assert (await exchange(connection, "GET / HTTP/1.1\r\nHost: x\r\nA : b\r\n\r\n")).status == 400
    assert len(origin.failures) == 1


# --- what goes wrong ---------------------------------------------------------------------------------------------------------------


async def test_stalled_answer_neither_goes_on_nor_ends(origin: ScriptedOrigin, autojump_clock) -> None:
    origin.answer("/a", body="abcdef", fault="stall", after=2)
    with pytest.raises(ExchangeFailed, match=r"was not complete within 300 s; received: b'HTTP/1.1 200 .*ab'$"):
        await ask(origin, "/a")


async def test_truncated_answer_ends_properly_and_too_early(origin: ScriptedOrigin) -> None:
    origin.answer("/a", body="abcdef", fault="truncate", after=2)
    with pytest.raises(ExchangeFailed, match=r"the input ended within a body; received: b'HTTP/1.1 200 .*Length: 6.*ab'$"):
        await ask(origin, "/a")


async def test_dying_origin_resets_after_what_it_has_sent_was_read(origin: ScriptedOrigin) -> None:
    origin.answer("/a", body="abcdef", fault="die", after=2)
    with pytest.raises(ExchangeFailed, match=r"the connection broke \(.*the scripted origin died\); received: b'HTTP/1.1 200 .*ab'$"):
        await ask(origin, "/a")


@pytest.mark.parametrize(("fault", "seen"), [("truncate", "the input ended within a head"), ("die", "the connection broke")])
async def test_fault_without_a_place_strikes_instead_of_a_response(origin: ScriptedOrigin, fault, seen: str) -> None:
    origin.answer("/a", fault=fault)
    with pytest.raises(ExchangeFailed, match=rf"{seen}.*received: nothing$"):
        await ask(origin, "/a")


async def test_dying_network_origin_resets_the_connection(origin: ScriptedOrigin) -> None:
    origin.answer("/a", fault="die")
    async with trio.open_nursery() as nursery:
        [listener] = await nursery.start(partial(trio.serve_tcp, host="127.0.0.1"), origin.serve, 0)
        async with await trio.testing.open_stream_to_socket_listener(listener) as stream:
            with pytest.raises(ExchangeFailed, match="the connection broke"):
                await exchange(stream, GET.format("/a"))
        nursery.cancel_scope.cancel()


@pytest.mark.parametrize(
    ("fields", "error", "words"),
    [
        ({"fault": "explode"}, ValueError, "fault"),
        ({"after": 3}, ValueError, "after needs a fault"),
        ({"fault": "die", "after": -1}, ValueError, "after must be an int of at least 0, not -1"),
        ({"body": 7}, TypeError, "body must be bytes, str or an async iterable of bytes, not int"),
    ],
)
def test_answer_that_cannot_be_names_its_field(fields, error: type[Exception], words: str) -> None:
    with pytest.raises(error, match=words):
        Answer(**fields)


# --- behind a proxy ----------------------------------------------------------------------------------------------------------------


async def test_plugin_intercepts_its_own_host_alone(ts_client, ts_origin) -> None:
    assert (await ts_client.get("http://origin.test:8080/x")).status_code == 404
    assert [request.headers["host"] for request in ts_origin.requests] == ["origin.test"]


@pytest.mark.parametrize(
    ("fields", "status", "ended"),
    [
        ({"fault": "die"}, 502, ("origin", "origin_closed")),
        ({"fault": "truncate"}, 502, ("origin", "origin_closed")),
        ({"raw": b"garbage\r\n\r\n"}, 502, ("origin", "malformed_head")),
    ],
)
async def test_origin_that_gives_no_response_is_a_502_in_client_and_log(
    ts_client, ts_origin, ts_records, fields, status: int, ended
) -> None:
    ts_origin.reply("/", Answer(**fields))
    assert (await ts_client.get("/")).status_code == status
    [record] = await ts_records.wait()
    assert (record.status, record.ended.by, record.ended.why) == (status, *ended)


def test_examples_in_docstrings_run() -> None:
    assert doctest.testmod(testing, optionflags=doctest.ELLIPSIS) == (0, 3)


async def test_answers_are_found_by_path_and_query(ts_proxy: Any, ts_origin: Any, ts_client: Any) -> None:
    ts_origin.answer("/p", body="any")
    ts_origin.answer("/p?x=1", body="one")
    ts_origin.answer("http://origin.test/q?y=2", body="two")
    for target, body in (("/p?x=1", b"one"), ("/p?x=2", b"any"), ("/p", b"any"), ("/q?y=2", b"two")):
        async with ts_proxy.fetch(Request("GET", target, {"Host": "origin.test"})) as answer:
            assert await answer.body.read() == body


@pytest.mark.parametrize("path", ["p", "", "other.test/p", "http://other.test/p", "http://", "*"])
def test_answer_for_what_is_never_asked_is_refused_at_once(path: str) -> None:
    with pytest.raises(ValueError, match="origin"):
        ScriptedOrigin("origin.test").answer(path)
