"""Starlette and FastAPI behind the proxy, with httpx before it: what users have, from end to end."""

from __future__ import annotations

import contextlib
import threading
from collections.abc import AsyncIterator, Awaitable, Callable
from functools import partial
from typing import Any

import anyio
import fastapi
import httpx
import pytest
import trio
import trio.testing
from fastapi.responses import StreamingResponse as FastAPIStreamingResponse
from starlette.applications import Starlette
from starlette.background import BackgroundTask
from starlette.middleware import Middleware
from starlette.middleware.base import BaseHTTPMiddleware
from starlette.requests import Request
from starlette.responses import JSONResponse, PlainTextResponse, Response, StreamingResponse
from starlette.routing import Route

from tests.asgi._stand import PATIENCE, Gate, read_until
from trio_tsconnect import ClientInfo, ConnectOptions, MemoryLog, Proxy, ProxyConfig, RemapRule, open_proxy
from trio_tsconnect.asgi import AsgiOrigin
from trio_tsconnect.clients import HttpxTransport
from trio_tsconnect.testing import exchange

Pause = Callable[[], Awaitable[object]]
TICK: Pause = partial(anyio.sleep, 0.1)

ended = threading.Event()


async def ticks(count: float, pause: Pause) -> AsyncIterator[str]:
    number = 0
    try:
        while number < count:
            yield f"data: {number}\n\n"
            number += 1
            await pause()
    finally:
        ended.set()


async def five(request: Request) -> Response:
    return StreamingResponse(ticks(5, request.app.state.pause), media_type="text/event-stream")


async def endless(request: Request) -> Response:
    return StreamingResponse(ticks(float("inf"), request.app.state.pause), media_type="text/event-stream")


async def slow(request: Request) -> Response:
    await request.app.state.pause()
    return PlainTextResponse("at last")


async def about(request: Request) -> Response:
    client = request.client
    return JSONResponse({"url": str(request.url), "client": client and client.host, "body": (await request.body()).decode()})


async def asks(request: Request) -> Response:
    await request.body()
    for _ in range(100):  # (who is never told does not ask for ever)
        if await request.is_disconnected():
            ended.set()
            break
        await request.app.state.pause()
    return PlainTextResponse("to nobody")


async def later(request: Request) -> Response:
    async def work() -> None:
        await request.app.state.pause()
        ended.set()

    return PlainTextResponse("accepted", background=BackgroundTask(work))


class Passing(BaseHTTPMiddleware):
    async def dispatch(self, request: Request, call_next: Any) -> Response:
        response: Response = await call_next(request)
        response.headers["x-passed"] = "yes"
        return response


def starlette(*middleware: Middleware) -> Any:
    routes = [Route(f"/{handler.__name__}", handler, methods=["GET", "POST"]) for handler in (five, endless, slow, about, asks, later)]
    return Starlette(routes=routes, middleware=middleware)


def fast() -> Any:
    app = fastapi.FastAPI()

    @app.get("/five")
    async def _five(request: Request) -> FastAPIStreamingResponse:
        return FastAPIStreamingResponse(ticks(5, request.app.state.pause), media_type="text/event-stream")

    @app.get("/endless")
    async def _endless(request: Request) -> FastAPIStreamingResponse:
        return FastAPIStreamingResponse(ticks(float("inf"), request.app.state.pause), media_type="text/event-stream")

    @app.get("/slow")
    async def _slow(request: Request) -> str:
        await request.app.state.pause()
        return "at last"

    return app


APPLICATIONS = pytest.mark.parametrize(
    "make", [starlette, lambda: starlette(Middleware(Passing)), fast], ids=["starlette", "starlette with middleware", "fastapi"]
)


@contextlib.asynccontextmanager
async def in_front_of(
    app: Any, loop: Any, log: MemoryLog | None = None, *, pause: Pause = TICK
) -> AsyncIterator[tuple[httpx.AsyncClient, Proxy]]:
    """A client, and a proxy with this application behind it, which pauses between what it does for as long as `pause` does."""
    ended.clear()
    app.state.pause = pause
    rule = RemapRule("/", "http://app.test/", preserve_host=True, plugins=(AsgiOrigin(app, loop=loop).plugin(),))
    async with (
        open_proxy(ProxyConfig(remap=(rule,)), log=log) as proxy,
        httpx.AsyncClient(transport=HttpxTransport(proxy), base_url="http://site.example", trust_env=False) as client,
    ):
        yield client, proxy


FIVE = [b"data: %d\n\n" % number for number in range(5)]


@APPLICATIONS
async def test_five_events_over_half_a_second_arrive_as_five(make: Any, autojump_clock: trio.testing.MockClock) -> None:
    async with in_front_of(make(), "trio") as (client, _), client.stream("GET", "/five") as response:
        events = [(piece, trio.current_time()) async for piece in response.aiter_raw()]
    assert [event for event, _ in events] == FIVE
    begun = events[0][1]
    assert [time - begun for _, time in events] == pytest.approx([0, 0.1, 0.2, 0.3, 0.4])


@APPLICATIONS
async def test_five_events_arrive_as_five_from_asyncio(make: Any) -> None:
    """Each is made once the one before has arrived: with one held back anywhere on the way, no other would follow."""
    gates = [Gate() for _ in FIVE]
    next_gate = iter(gates)
    events = []
    with trio.fail_after(PATIENCE):
        async with (
            in_front_of(make(), "asyncio", pause=lambda: next(next_gate).wait()) as (client, _),
            client.stream("GET", "/five") as response,
        ):
            async for piece in response.aiter_raw():
                gates[len(events)].open()
                events.append(piece)
    assert events == FIVE


ENDLESS = b"GET /endless HTTP/1.1\r\nHost: site.example\r\n\r\n"


@APPLICATIONS
async def test_endless_stream_ends_when_the_client_leaves(make: Any, autojump_clock: trio.testing.MockClock) -> None:
    log = MemoryLog()
    async with in_front_of(make(), "trio", log) as (_, proxy):
        async with proxy.connect() as client:
            await client.send_all(ENDLESS)
            await read_until(client, b"data: 3\n\n")
            assert not ended.is_set()
        await trio.sleep(0.15)
        assert ended.is_set()
        assert proxy.statistics().transactions == 0
    assert [record.ended.by for record in log.records] == ["client"]


@APPLICATIONS
async def test_endless_stream_of_asyncio_ends_when_the_client_leaves(make: Any) -> None:
    gate = Gate()
    async with in_front_of(make(), "asyncio", pause=gate.wait) as (_, proxy):
        async with proxy.connect() as client:
            await client.send_all(ENDLESS)
            await read_until(client, b"data: 0\n\n")
            await gate.reached.wait()  # a generator that is in `send` when its client goes is the garbage collector's
            assert not ended.is_set()
        assert await trio.to_thread.run_sync(ended.wait, PATIENCE)


# Starlette's middleware leaves a generator to the garbage collector when its client goes, of which trio warns.
@pytest.mark.parametrize("make", [starlette, fast])
async def test_timeout_of_the_client_is_honoured(make: Any, autojump_clock: trio.testing.MockClock) -> None:
    async with in_front_of(make(), "trio", pause=partial(anyio.sleep, 1)) as (client, _):
        begun = trio.current_time()
        with pytest.raises(httpx.ReadTimeout):
            await client.get("/slow", timeout=0.5)
        assert trio.current_time() == begun + 0.5
        assert "at last" in (await client.get("/slow", timeout=1.5)).text


async def time_out(client: httpx.AsyncClient, path: str, gate: Gate, clock: trio.testing.MockClock) -> None:
    """Ask for what waits at the gate; once it is there, and all wait for it, let the client's time pass, and only then open it."""

    async def let_time_pass() -> None:
        await gate.reached.wait()
        await trio.testing.wait_all_tasks_blocked()
        clock.jump(0.5)
        await trio.testing.wait_all_tasks_blocked()
        gate.open()

    async with trio.open_nursery() as nursery:
        nursery.start_soon(let_time_pass)
        with pytest.raises(httpx.ReadTimeout):
            await client.get(path, timeout=0.5)


@APPLICATIONS
async def test_timeout_of_the_client_is_honoured_with_asyncio(make: Any, mock_clock: trio.testing.MockClock) -> None:
    gate = Gate()
    async with in_front_of(make(), "asyncio", pause=gate.wait) as (client, _):
        begun = trio.current_time()
        await time_out(client, "/slow", gate, mock_clock)
        assert trio.current_time() == begun + 0.5


@pytest.mark.parametrize("loop", ["trio", "asyncio"])
async def test_application_knows_its_url_its_client_and_the_body(loop: Any) -> None:
    async with in_front_of(starlette(), loop) as (_, proxy):
        options = ConnectOptions(client=ClientInfo(address=("192.0.2.7", 4711), scheme="https"))
        async with proxy.connect(options) as client:
            request = b"POST /about?q=1 HTTP/1.1\r\nHost: site.example\r\nContent-Length: 3\r\n\r\nabc"
            assert (await exchange(client, request)).json() == {
                "url": "https://site.example/about?q=1",
                "client": "192.0.2.7",
                "body": "abc",
            }


@pytest.mark.parametrize("loop", ["trio", "asyncio"])
async def test_application_that_asks_finds_its_client_gone(loop: Any, mock_clock: trio.testing.MockClock) -> None:
    gate = Gate()
    async with in_front_of(starlette(), loop, pause=gate.wait) as (client, _):
        await time_out(client, "/asks", gate, mock_clock)
        assert await trio.to_thread.run_sync(ended.wait, PATIENCE)


@pytest.mark.parametrize("loop", ["trio", "asyncio"])
async def test_background_task_outlives_its_transaction(loop: Any) -> None:
    gate = Gate()

    async def open_once_all_wait() -> None:
        await trio.testing.wait_all_tasks_blocked()
        gate.open()

    async with trio.open_nursery() as nursery, in_front_of(starlette(), loop, pause=gate.wait) as (client, _):
        assert (await client.get("/later")).text == "accepted"
        await gate.reached.wait()
        assert not ended.is_set()
        nursery.start_soon(open_once_all_wait)  # among them the proxy, which is closing
    assert ended.is_set()
