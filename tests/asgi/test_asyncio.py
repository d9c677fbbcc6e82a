"""An application on an asyncio loop in a thread: what passes between the two loops. Time is real here, and short."""

from __future__ import annotations

import asyncio
import threading
from typing import Any

import pytest
import trio
import trio.testing

from tests.asgi._stand import GET, body, no_lifespan, read_until, serving, start
from trio_tsconnect.testing import exchange


def loop_threads() -> list[str]:
    return [thread.name for thread in threading.enumerate() if "asyncio" in thread.name]


async def test_application_runs_on_an_asyncio_loop_that_ends_with_the_origin() -> None:
    async def app(scope: Any, receive: Any, send: Any) -> None:
        await no_lifespan(scope)
        received = b""
        while (message := await receive())["more_body"]:
            received += message["body"]
        await asyncio.sleep(0.001)
        await start(send)
        await body(send, received + message["body"], more=True)
        await body(send, b"!")

    async with serving(app, loop="asyncio") as connect:
        client = connect()
        for _ in range(2):
            reply = await exchange(
                client, b"POST / HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n3\r\none\r\n3\r\ntwo\r\n0\r\n\r\n"
            )
            assert reply.body == b"onetwo!"
        assert len(loop_threads()) == 1
    # a thread of trio's goes back to a cache, where it is known by no name of ours
    assert not [name for name in loop_threads() if "ASGI" in name]


async def test_sending_waits_for_the_client_across_the_loops() -> None:
    sent = 0

    async def app(scope: Any, receive: Any, send: Any) -> None:
        nonlocal sent
        await no_lifespan(scope)
        await start(send)
        for _ in range(100):
            await body(send, b"x" * 1000, more=True)
            sent += 1
        await body(send, b"")

    async with serving(app, loop="asyncio", buffer_index=6) as connect:
        client = connect()
        await client.send_all(GET)
        await trio.sleep(0.05)
        assert 5 < sent < 10
        await read_until(client, b"0\r\n\r\n")


async def test_message_that_comes_while_a_receive_was_cancelled_is_kept() -> None:
    asked = threading.Event()

    async def app(scope: Any, receive: Any, send: Any) -> None:
        await no_lifespan(scope)
        first = await receive()
        try:
            async with asyncio.timeout(0.01):
                await receive()
        except TimeoutError:
            pass
        asked.set()
        second = await receive()
        await start(send)
        await body(send, first["body"] + second["body"])

    async with serving(app, loop="asyncio") as connect:
        client = connect()
        await client.send_all(b"POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 6\r\n\r\none")
        await trio.to_thread.run_sync(asked.wait)
        await client.send_all(b"two")
        assert b"onetwo" in await read_until(client, b"onetwo")


async def test_application_is_told_when_the_client_goes_and_may_ask() -> None:
    told, heard = threading.Event(), []

    async def app(scope: Any, receive: Any, send: Any) -> None:
        await no_lifespan(scope)
        await receive()
        heard.append((await receive())["type"])
        task = asyncio.ensure_future(receive())
        await asyncio.sleep(0)
        task.cancel()  # it has answered without waiting
        heard.append((await task)["type"])
        told.set()

    async with serving(app, loop="asyncio") as connect:
        client = connect()
        await client.send_all(GET)
        await trio.sleep(0.01)
        assert not heard
        await client.aclose()
        await trio.to_thread.run_sync(told.wait)
    assert heard == ["http.disconnect"] * 2


async def test_application_that_streams_to_a_client_that_has_gone_is_cancelled() -> None:
    ended = threading.Event()

    async def app(scope: Any, receive: Any, send: Any) -> None:
        await no_lifespan(scope)
        await start(send)
        try:
            while True:
                await body(send, b"tick", more=True)
                await asyncio.sleep(0.001)
        except asyncio.CancelledError:
            ended.set()
            raise

    async with serving(app, loop="asyncio") as connect:
        client = connect()
        await client.send_all(GET)
        await read_until(client, b"tick")
        await client.aclose()
        await trio.to_thread.run_sync(ended.wait)


async def test_what_send_raises_is_raised_in_the_application() -> None:
    async def app(scope: Any, receive: Any, send: Any) -> None:
        await no_lifespan(scope)
        try:
            await body(send, b"too early")
        except RuntimeError as exc:
            await start(send)
            await body(send, str(exc).encode())

    async with serving(app, loop="asyncio") as connect:
        assert b"has no place" in (await exchange(connect(), GET)).body


async def test_application_that_fails_is_a_500(caplog: pytest.LogCaptureFixture) -> None:
    async def app(scope: Any, receive: Any, send: Any) -> None:
        await no_lifespan(scope)
        raise KeyError("broken")

    async with serving(app, loop="asyncio") as connect:
        assert (await exchange(connect(), GET)).status == 500
    assert "KeyError: 'broken'" in caplog.text


async def test_calls_that_do_not_end_are_cancelled_when_the_origin_does() -> None:
    seen: list[str] = []
    strays: list[Any] = []

    async def app(scope: Any, receive: Any, send: Any) -> None:
        await no_lifespan(scope)
        strays.append(asyncio.ensure_future(receive()))  # nobody waits for it
        await start(send)
        await body(send, b"")
        try:
            await asyncio.sleep(1000)
        finally:
            seen.append("ended")

    async with serving(app, loop="asyncio", grace=0.01) as connect:
        await exchange(connect(), GET)
    assert seen == ["ended"]
