"""Requests and responses: what an application is told, and what becomes of what it sends."""

from __future__ import annotations

import functools
import logging
import math
from typing import Any

import pytest
import trio
import trio.testing

from tests.asgi._stand import GET, Connect, Pouring, body, no_lifespan, read_until, serving, start
from trio_tsconnect.asgi import AsgiOrigin
from trio_tsconnect.testing import ExchangeFailed, exchange

CHUNK = b"x" * 1000


async def test_scope_says_what_came() -> None:
    scopes = []

    async def app(scope: Any, receive: Any, send: Any) -> None:
        await no_lifespan(scope)
        scopes.append(scope)
        await start(send)
        await body(send, b"")

    request = b"GET /caf%C3%A9/a%2fb?q=%20&r HTTP/1.1\r\nHost: Site.Example:8080\r\nX-Two: a\r\nX-Two: b\r\n\r\n"
    async with serving(app, root_path="/mount") as connect:
        await exchange(connect(), request)
    (scope,) = scopes
    assert {
        name: scope[name] for name in ("type", "http_version", "method", "scheme", "path", "raw_path", "query_string", "root_path")
    } == {
        "type": "http",
        "http_version": "1.1",
        "method": "GET",
        "scheme": "http",
        "path": "/mount/café/a/b",
        "raw_path": b"/mount/caf%C3%A9/a%2fb",
        "query_string": b"q=%20&r",
        "root_path": "/mount",
    }
    assert scope["headers"] == [(b"host", b"Site.Example:8080"), (b"x-two", b"a"), (b"x-two", b"b")]
    assert scope["server"] == ("site.example", 8080)
    assert scope["client"] is None
    assert scope["asgi"]["version"] == "3.0"


async def test_request_body_comes_as_the_client_sends_it() -> None:
    pieces: list[Any] = []
    came = trio.Event()

    async def app(scope: Any, receive: Any, send: Any) -> None:
        await no_lifespan(scope)
        while True:
            message = await receive()
            pieces.append((message["body"], message["more_body"]))
            came.set()
            if not message["more_body"]:
                break
        await start(send)
        await body(send, b"thanks")

    async with serving(app) as connect:
        client = connect()
        await client.send_all(b"POST / HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n3\r\none\r\n")
        await came.wait()
        assert pieces == [(b"one", True)]
        await client.send_all(b"3\r\ntwo\r\n2\r\n!!\r\n0\r\n\r\n")
        assert b"thanks" in await read_until(client, b"thanks")
    assert pieces == [(b"one", True), (b"two!!", False)]


async def test_every_body_message_is_on_its_way_before_send_returns() -> None:
    go_on = trio.Event()

    async def app(scope: Any, receive: Any, send: Any) -> None:
        await no_lifespan(scope)
        await start(send)
        await body(send, b"first", more=True)
        await go_on.wait()
        await body(send, b"second", more=True)
        await body(send, b"")

    async with serving(app) as connect:
        client = connect()
        await client.send_all(GET)
        assert b"chunked" in await read_until(client, b"first\r\n")
        go_on.set()
        assert await read_until(client, b"0\r\n\r\n") == b"6\r\nsecond\r\n0\r\n\r\n"


@pytest.mark.parametrize(
    ("request_line", "status", "headers", "pieces", "head", "content"),
    [
        ("GET / HTTP/1.1", 200, [], [b"whole"], {"content-length": "5"}, b"whole"),
        ("GET / HTTP/1.1", 200, [(b"content-length", b"4")], [b"ab", b"cd"], {"content-length": "4"}, b"abcd"),
        ("GET / HTTP/1.1", 200, [(b"transfer-encoding", b"gzip")], [b"ab", b"cd"], {"transfer-encoding": "chunked"}, b"abcd"),
        ("HEAD / HTTP/1.1", 200, [(b"content-length", b"4")], [b"abcd"], {"content-length": "4"}, b""),
        ("GET / HTTP/1.1", 204, [], [b""], {}, b""),
        ("GET / HTTP/1.1", 304, [], [b""], {}, b""),
    ],
)
async def test_response_is_framed(
    request_line: str, status: int, headers: Any, pieces: list[bytes], head: dict[str, str], content: bytes
) -> None:
    async def app(scope: Any, receive: Any, send: Any) -> None:
        await no_lifespan(scope)
        await start(send, status, *headers)
        for piece in pieces[:-1]:
            await body(send, piece, more=True)
        await body(send, pieces[-1])

    async with serving(app) as connect:
        reply = await exchange(connect(), f"{request_line}\r\nHost: x\r\n\r\n")
    framing = {"content-length", "transfer-encoding"}
    assert {name.lower(): value for name, value in reply.headers.items() if name.lower() in framing} == head
    assert (reply.status, reply.body) == (status, content)


async def test_connection_serves_requests_one_after_another() -> None:
    async def app(scope: Any, receive: Any, send: Any) -> None:
        await no_lifespan(scope)
        await start(send)
        await body(send, scope["path"].encode())

    async with serving(app) as connect:
        pipelined = b"".join(b"GET /%d HTTP/1.1\r\nHost: x\r\n\r\n" % number for number in range(3))
        replies = await exchange(connect(), pipelined, count=3)
    assert [reply.body for reply in replies] == [b"/0", b"/1", b"/2"]


async def test_background_work_goes_on_while_the_connection_serves_the_next_request() -> None:
    go_on, done = trio.Event(), trio.Event()

    async def app(scope: Any, receive: Any, send: Any) -> None:
        await no_lifespan(scope)
        await start(send)
        await body(send, b"")
        assert (await receive())["type"] == "http.disconnect"
        await go_on.wait()
        done.set()

    async with serving(app) as connect:
        client = connect()
        await exchange(client, GET)
        await exchange(client, GET)
        await client.aclose()
        go_on.set()
        await done.wait()


async def test_sending_waits_for_a_client_that_does_not_read() -> None:
    app = Pouring()
    async with serving(app, buffer_index=6) as connect:
        client = connect()
        await client.send_all(GET)
        await trio.testing.wait_all_tasks_blocked()
        assert 5 < app.sent < 10  # of a window of 8 KiB
        await read_until(client, b"0\r\n\r\n")
    assert app.sent == 100


async def test_client_waits_for_an_application_that_does_not_receive() -> None:
    go_on = trio.Event()

    async def app(scope: Any, receive: Any, send: Any) -> None:
        await no_lifespan(scope)
        await go_on.wait()
        size = 0
        while (message := await receive())["more_body"]:
            size += len(message["body"])
        await start(send)
        await body(send, b"%d" % (size + len(message["body"])))

    written = trio.Event()
    async with serving(app, buffer_index=6) as connect, trio.open_nursery() as nursery:
        client = connect()

        async def upload() -> None:
            await client.send_all(b"POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 100000\r\n\r\n" + CHUNK * 100)
            written.set()

        nursery.start_soon(upload)
        await trio.testing.wait_all_tasks_blocked()
        assert not written.is_set()
        go_on.set()
        assert (await read_until(client, b"100000")).startswith(b"HTTP/1.1 200")


async def test_100_continue_is_said_when_the_application_asks_for_the_body() -> None:
    go_on = trio.Event()

    async def app(scope: Any, receive: Any, send: Any) -> None:
        await no_lifespan(scope)
        await go_on.wait()
        message = await receive()
        await start(send)
        await body(send, message["body"])

    async with serving(app) as connect:
        client = connect()
        await client.send_all(b"POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 2\r\nExpect: 100-continue\r\n\r\n")
        await trio.testing.wait_all_tasks_blocked()
        with trio.move_on_after(0) as nothing:
            await client.receive_some()
        assert nothing.cancelled_caught
        go_on.set()
        assert await read_until(client, b"\r\n\r\n") == b"HTTP/1.1 100 Continue\r\n\r\n"
        await client.send_all(b"ok")
        assert (await read_until(client, b"ok")).startswith(b"HTTP/1.1 200")


async def test_trailers_and_early_hints_go_out() -> None:
    async def app(scope: Any, receive: Any, send: Any) -> None:
        await no_lifespan(scope)
        assert {"http.response.trailers", "http.response.early_hint"} <= scope["extensions"].keys()
        await send({"type": "http.response.early_hint", "links": [b"</style.css>; rel=preload"]})
        await start(send, trailers=True)
        await body(send, b"content")
        await send({"type": "http.response.trailers", "headers": [(b"x-one", b"1")], "more_trailers": True})
        await send({"type": "http.response.trailers", "headers": [(b"x-two", b"2")]})

    async with serving(app) as connect:
        reply = await exchange(connect(), GET)
    assert [(hint.status, hint.headers["link"]) for hint in reply.interim] == [(103, "</style.css>; rel=preload")]
    assert reply.trailers is not None
    assert reply.trailers.items() == [("x-one", "1"), ("x-two", "2")]


async def test_request_that_is_not_acceptable_is_refused() -> None:
    async def app(scope: Any, receive: Any, send: Any) -> None:
        await no_lifespan(scope)
        raise AssertionError("it is not asked")

    async with serving(app) as connect:
        reply = await exchange(connect(), b"GET / HTTP/1.1\r\nHost: a\r\nHost: b\r\n\r\n")
    assert (reply.status, reply.headers["connection"]) == (400, "close")


# ---------------------------------------------------------------------------------------------------------- an application that fails


async def test_application_that_fails_before_its_response_is_a_500(caplog: pytest.LogCaptureFixture) -> None:
    async def app(scope: Any, receive: Any, send: Any) -> None:
        await no_lifespan(scope)
        await start(send)
        raise KeyError("secret")

    async with serving(app) as connect:
        reply = await exchange(connect(), GET)
    assert (reply.status, reply.body, reply.headers["connection"]) == (500, b"Internal Server Error", "close")
    assert "the application failed in /" in caplog.text


async def test_application_that_returns_without_a_response_is_a_500(caplog: pytest.LogCaptureFixture) -> None:
    async def app(scope: Any, receive: Any, send: Any) -> None:
        await no_lifespan(scope)

    async with serving(app) as connect:
        assert (await exchange(connect(), GET)).status == 500
    assert "returned from / before its response was complete" in caplog.text


async def test_application_that_fails_within_its_response_is_cut_off() -> None:
    async def app(scope: Any, receive: Any, send: Any) -> None:
        await no_lifespan(scope)
        await start(send)
        await body(send, b"begun", more=True)
        raise KeyError

    async with serving(app) as connect:
        with pytest.raises(ExchangeFailed, match="broke"):
            await exchange(connect(), GET)


@pytest.mark.parametrize(
    ("messages", "error", "text"),
    [
        ([{"type": "http.response.body"}], RuntimeError, "before http.response.start"),
        ([{"type": "http.response.start", "status": 200}] * 2, RuntimeError, "within the response body"),
        (
            [{"type": "http.response.start", "status": 200}, *[{"type": "http.response.body"}] * 2],
            RuntimeError,
            "after the response is complete",
        ),
        ([{"type": "http.response.start", "status": 101}], ValueError, "200..599"),
        ([{"type": "http.response.start", "status": 200, "headers": [(b"a b", b"")]}], ValueError, "not a token"),
        ([{"type": "http.response.start", "status": 200, "headers": [(b"a", b"b\r\nc: d")]}], ValueError, "control character"),
        ([{"type": "http.response.start", "status": 200, "headers": [(b"content-length", b"1, 2")]}], ValueError, "Content-Length"),
        (
            [{"type": "http.response.start", "status": 200}, {"type": "http.response.body", "body": "text"}],
            TypeError,
            "must be bytes, not str",
        ),
        (
            [
                {"type": "http.response.start", "status": 200, "headers": [(b"content-length", b"2")]},
                {"type": "http.response.body", "body": b"123"},
            ],
            RuntimeError,
            "longer than its Content-Length",
        ),
        (
            [
                {"type": "http.response.start", "status": 200, "headers": [(b"content-length", b"2")]},
                {"type": "http.response.body", "body": b"1"},
            ],
            RuntimeError,
            "shorter than its Content-Length",
        ),
    ],
)
async def test_message_that_is_not_in_order_fails_where_it_is_sent(messages: list[Any], error: type[Exception], text: str) -> None:
    raised: list[Exception] = []

    async def app(scope: Any, receive: Any, send: Any) -> None:
        await no_lifespan(scope)
        try:
            for message in messages:
                await send(message)
        except Exception as exc:  # noqa: BLE001 - of either kind
            raised.append(exc)

    async with serving(app) as connect:
        client = connect()
        await client.send_all(GET)
        await trio.testing.wait_all_tasks_blocked()
    assert type(raised[0]) is error
    assert text in str(raised[0])


# ---------------------------------------------------------------------------------------------------------------- a client that leaves


async def test_application_is_told_when_the_client_goes() -> None:
    told: list[Any] = []

    async def app(scope: Any, receive: Any, send: Any) -> None:
        await no_lifespan(scope)
        assert not (await receive())["more_body"]
        told.append(await receive())
        with trio.CancelScope() as cancelled:  # as Starlette asks is_disconnected()
            cancelled.cancel()
            told.append(await receive())
        await start(send)  # goes nowhere
        await body(send, b"")
        told.append("lived on")

    async with serving(app) as connect:
        client = connect()
        await client.send_all(GET)
        await trio.testing.wait_all_tasks_blocked()
        assert not told
        await client.aclose()
        await trio.testing.wait_all_tasks_blocked()
        assert told == [{"type": "http.disconnect"}, {"type": "http.disconnect"}, "lived on"]


async def test_half_closed_client_is_not_gone(autojump_clock: trio.testing.MockClock) -> None:
    async def app(scope: Any, receive: Any, send: Any) -> None:
        await no_lifespan(scope)
        await receive()
        with trio.move_on_after(1):
            assert await receive() is None
        await start(send)
        await body(send, b"answered")

    async with serving(app) as connect:
        client = connect()
        await client.send_all(GET)
        await client.send_eof()
        assert b"answered" in await read_until(client, b"answered")


async def ask_and_leave(connect: Connect, seconds: float) -> float:
    """Be a client that goes after so long; when that was. Ten seconds later all that follows has happened."""
    client = connect()
    await client.send_all(GET)
    await trio.sleep(seconds)
    await client.aclose()
    gone = trio.current_time()
    await trio.sleep(10)
    return gone


async def test_application_that_streams_to_a_client_that_has_gone_is_cancelled_at_once(autojump_clock: trio.testing.MockClock) -> None:
    ended = math.inf

    async def app(scope: Any, receive: Any, send: Any) -> None:
        nonlocal ended
        await no_lifespan(scope)
        await start(send)
        try:
            while True:
                await body(send, b"tick", more=True)
                await trio.sleep(1)
        finally:
            ended = trio.current_time()

    async with serving(app) as connect:
        assert await ask_and_leave(connect, 2.5) == ended - 0.5


async def test_application_that_waits_in_send_is_freed_when_the_client_goes() -> None:
    ended = trio.Event()

    async def app(scope: Any, receive: Any, send: Any) -> None:
        await no_lifespan(scope)
        await start(send)
        try:
            while True:
                await body(send, CHUNK, more=True)
        finally:
            ended.set()

    async with serving(app) as connect:
        client = connect()
        await client.send_all(GET)
        await trio.testing.wait_all_tasks_blocked()
        assert not ended.is_set()
        await client.aclose()
        await ended.wait()


async def test_application_that_does_not_care_is_cancelled_after_its_grace(autojump_clock: trio.testing.MockClock) -> None:
    ended = math.inf

    async def app(scope: Any, receive: Any, send: Any) -> None:
        nonlocal ended
        await no_lifespan(scope)
        try:
            await trio.sleep_forever()
        finally:
            ended = trio.current_time()

    async with serving(app, grace=3) as connect:
        assert await ask_and_leave(connect, 1) == ended - 3


async def test_application_may_finish_its_work_within_its_grace(
    autojump_clock: trio.testing.MockClock, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.ERROR)
    finished = False

    async def app(scope: Any, receive: Any, send: Any) -> None:
        nonlocal finished
        await no_lifespan(scope)
        await trio.sleep(2)
        finished = True
        await start(send)
        await body(send, b"to nobody")

    async with serving(app, grace=3) as connect:
        await ask_and_leave(connect, 0.5)
    assert finished
    assert not caplog.records


async def test_send_that_was_cancelled_cuts_the_response() -> None:
    sending = trio.CancelScope()

    async def app(scope: Any, receive: Any, send: Any) -> None:
        await no_lifespan(scope)
        await start(send)
        with sending:
            while True:
                await body(send, CHUNK, more=True)
        await body(send, b"the rest")

    async with serving(app, buffer_index=4) as connect:
        client = connect()
        await client.send_all(GET)
        await trio.testing.wait_all_tasks_blocked()
        sending.cancel()
        await trio.testing.wait_all_tasks_blocked()
        with pytest.raises(trio.BrokenResourceError):
            await read_until(client, b"the rest")


async def test_calls_have_their_grace_when_the_origin_ends_and_no_more(autojump_clock: trio.testing.MockClock) -> None:
    ended: dict[str, float] = {}

    async def app(scope: Any, receive: Any, send: Any) -> None:
        await no_lifespan(scope)
        await start(send)
        await body(send, b"")
        try:
            await trio.sleep(float(scope["path"][1:]))
        finally:
            ended[scope["path"]] = trio.current_time()

    async with serving(app, grace=5) as connect:
        for seconds in (2, 20):
            await exchange(connect(), b"GET /%d HTTP/1.1\r\nHost: x\r\n\r\n" % seconds)
        begun = trio.current_time()
    assert ended == {"/2": begun + 2, "/20": begun + 5}


async def test_socket_is_served_and_its_client_seen_to_leave() -> None:
    told = trio.Event()

    async def app(scope: Any, receive: Any, send: Any) -> None:
        await no_lifespan(scope)
        assert scope["client"][0] == "127.0.0.1"
        await receive()
        if scope["path"] == "/wait":
            assert (await receive())["type"] == "http.disconnect"
            told.set()
        else:
            await start(send)
            await body(send, b"hello")

    origin = AsgiOrigin(app)
    async with trio.open_nursery() as nursery:
        await nursery.start(origin.run)
        listeners = await nursery.start(functools.partial(trio.serve_tcp, origin.serve, 0, host="127.0.0.1"))
        client = await trio.testing.open_stream_to_socket_listener(listeners[0])
        assert (await exchange(client, GET)).body == b"hello"
        await client.send_all(b"GET /wait HTTP/1.1\r\nHost: x\r\n\r\n")
        await client.aclose()
        await told.wait()
        nursery.cancel_scope.cancel()


async def test_application_that_was_told_may_go_on_to_its_own_end() -> None:
    ended = False

    async def app(scope: Any, receive: Any, send: Any) -> None:
        nonlocal ended
        await no_lifespan(scope)
        await receive()
        await start(send)
        await body(send, b"begun", more=True)
        assert (await receive())["type"] == "http.disconnect"
        for _ in range(3):
            await body(send, b"to nobody", more=True)
        ended = True

    async with serving(app) as connect:
        client = connect()
        await client.send_all(GET)
        await read_until(client, b"begun")
        await client.aclose()
        await trio.testing.wait_all_tasks_blocked()
        assert ended
