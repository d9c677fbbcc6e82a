"""An application on an asyncio loop in a thread: what passes between the two loops. Nothing here waits for time to pass."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable
from typing import Any

import pytest
import trio
import trio.testing

from tests.asgi._stand import GET, PATIENCE, Gate, Pouring, body, no_lifespan, read_until, serving, start
from trio_tsconnect.testing import exchange


def loop_threads() -> list[str]:
    return [thread.name for thread in threading.enumerate() if "asyncio" in thread.name]


async def pass_through(loop: asyncio.AbstractEventLoop | None) -> None:
    """Wait until an asyncio loop has done what it was told before, and what that led to on it."""
    assert loop is not None
    token, passed = trio.lowlevel.current_trio_token(), trio.Event()

    def again(passes: int) -> None:
        if passes:
            loop.call_soon(again, passes - 1)
        else:
            token.run_sync_soon(passed.set)

    loop.call_soon_threadsafe(again, 10)
    await passed.wait()


async def until_still(loop: asyncio.AbstractEventLoop | None, seen: Callable[[], object]) -> None:
    """Wait until neither loop has anything to do: until what is `seen` is the same after each has answered the other, and been answered."""
    before = object()
    while before != (now := seen()):
        before = now
        for _ in range(3):
            await pass_through(loop)
            await trio.testing.wait_all_tasks_blocked()


async def test_application_runs_on_an_asyncio_loop_that_ends_with_the_origin() -> None:
    async def app(scope: Any, receive: Any, send: Any) -> None:
        await no_lifespan(scope)
        received = b""
        while (message := await receive())["more_body"]:
            received += message["body"]
        await asyncio.create_task(asyncio.sleep(0))  # which trio does not know
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
    pouring, gate = Pouring(), Gate()

    async def app(scope: Any, receive: Any, send: Any) -> None:
        await no_lifespan(scope)
        await gate.wait()
        await pouring(scope, receive, send)

    async with serving(app, loop="asyncio", buffer_index=6) as connect:
        client = connect()
        await client.send_all(GET)
        await gate.reached.wait()
        gate.open()
        await until_still(gate.loop, lambda: pouring.sent)
        assert 5 < pouring.sent < 10  # of a window of 8 KiB
        await read_until(client, b"0\r\n\r\n")
    assert pouring.sent == 100


async def test_message_that_comes_while_a_receive_was_cancelled_is_kept() -> None:
    gate = Gate()

    async def app(scope: Any, receive: Any, send: Any) -> None:
        await no_lifespan(scope)
        first = await receive()
        waiting = asyncio.ensure_future(receive())
        await asyncio.sleep(0)
        waiting.cancel()
        with pytest.raises(asyncio.CancelledError):
            await waiting
        await gate.wait()
        second = await receive()
        await start(send)
        await body(send, first["body"] + second["body"])

    async with serving(app, loop="asyncio") as connect:
        client = connect()
        await client.send_all(b"POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 6\r\n\r\none")
        await gate.reached.wait()
        await client.send_all(b"two")
        await trio.testing.wait_all_tasks_blocked()
        gate.open()
        with trio.fail_after(PATIENCE):
            assert b"onetwo" in await read_until(client, b"onetwo")


async def test_application_is_told_when_the_client_goes_and_may_ask() -> None:
    told, heard, gate = threading.Event(), [], Gate()

    async def app(scope: Any, receive: Any, send: Any) -> None:
        await no_lifespan(scope)
        await receive()
        await gate.wait()
        heard.append((await receive())["type"])
        task = asyncio.ensure_future(receive())
        await asyncio.sleep(0)
        task.cancel()  # it has answered without waiting
        heard.append((await task)["type"])
        told.set()

    async with serving(app, loop="asyncio") as connect:
        client = connect()
        await client.send_all(GET)
        await gate.reached.wait()
        gate.open()
        await until_still(gate.loop, heard.copy)
        assert not heard
        await client.aclose()
        await trio.to_thread.run_sync(told.wait)
    assert heard == ["http.disconnect"] * 2


async def test_application_that_streams_to_a_client_that_has_gone_is_cancelled() -> None:
    ended, gate, cancelled = threading.Event(), Gate(), []

    async def app(scope: Any, receive: Any, send: Any) -> None:
        await no_lifespan(scope)
        await start(send)
        try:
            for _ in range(100):
                await body(send, b"tick", more=True)
                await gate.wait()
        except asyncio.CancelledError:
            cancelled.append(True)
            raise
        finally:
            ended.set()

    async with serving(app, loop="asyncio") as connect:
        client = connect()
        await client.send_all(GET)
        await read_until(client, b"tick")
        await gate.reached.wait()
        await client.aclose()
        gate.open()
        await trio.to_thread.run_sync(ended.wait)
    assert cancelled


async def test_what_send_raises_is_raised_in_the_application() -> None:
    async def app(scope: Any, receive: Any, send: Any) -> None:
        await no_lifespan(scope)
        try:
            await body(send, b"too early")
        except RuntimeError as exc:
            await start(send)
            await body(send, str(exc).encode())

    async with serving(app, loop="asyncio") as connect:
        assert b"unexpected ASGI message" in (await exchange(connect(), GET)).body


async def test_application_that_fails_is_a_500(caplog: pytest.LogCaptureFixture) -> None:
    async def app(scope: Any, receive: Any, send: Any) -> None:
        await no_lifespan(scope)
        raise KeyError("broken")

    async with serving(app, loop="asyncio") as connect:
        assert (await exchange(connect(), GET)).status == 500
    assert "KeyError: 'broken'" in caplog.text


async def test_calls_that_do_not_end_are_cancelled_when_the_origin_does(caplog: pytest.LogCaptureFixture) -> None:
    seen: list[str] = []
    strays: list[Any] = []
    gate = Gate()

    async def app(scope: Any, receive: Any, send: Any) -> None:
        await no_lifespan(scope)
        strays.append(asyncio.ensure_future(receive()))  # nobody waits for it
        await start(send)
        await body(send, b"")
        try:
            await gate.wait()
        finally:
            seen.append("ended")

    async with serving(app, loop="asyncio", grace=0) as connect:
        await exchange(connect(), GET)
        await gate.reached.wait()
    assert seen == ["ended"]
    assert "abandoned" not in caplog.text
