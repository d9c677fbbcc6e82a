"""Applications that do what no application should: they are cancelled while they start, they leave, or they raise what ends a process."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest
import trio

from tests.asgi._stand import GET, body, no_lifespan, serving, start
from trio_tsconnect import FetchError, MemoryLog, ProxyConfig, RemapRule, Request, open_proxy
from trio_tsconnect.asgi import AsgiOrigin, LifespanFailed
from trio_tsconnect.testing import exchange

LOOPS = pytest.mark.parametrize("loop", ["trio", "asyncio"])


async def with_lifespan(scope: Any, receive: Any, send: Any) -> None:
    for kind in ("startup", "shutdown"):
        await receive()
        await send({"type": f"lifespan.{kind}.complete"})


async def without_lifespan(scope: Any, receive: Any, send: Any) -> None:
    raise RuntimeError("only requests")


@LOOPS
@pytest.mark.parametrize("app", [with_lifespan, without_lifespan])
@pytest.mark.parametrize("checkpoints", range(16))
def test_proxy_may_close_at_any_step_of_a_startup(app: Any, loop: Any, checkpoints: int) -> None:
    async def main() -> None:
        async with open_proxy(ProxyConfig(), plugins=[AsgiOrigin(app, loop=loop).plugin()]):
            for _ in range(checkpoints):
                await trio.lowlevel.checkpoint()

    trio.run(main)


@LOOPS
@pytest.mark.parametrize("checkpoints", range(16))
def test_origin_may_be_cancelled_at_any_step_of_its_startup(loop: Any, checkpoints: int) -> None:
    async def main() -> None:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(AsgiOrigin(without_lifespan, loop=loop).run)
            for _ in range(checkpoints):
                await trio.lowlevel.checkpoint()
            nursery.cancel_scope.cancel()

    trio.run(main)


LEAVING = [SystemExit("no DATABASE_URL"), KeyboardInterrupt("its own"), GeneratorExit("its own")]


@LOOPS
@pytest.mark.parametrize("error", LEAVING, ids=repr)
async def test_application_that_leaves_in_its_startup_has_not_started_up(loop: Any, error: BaseException) -> None:
    async def app(scope: Any, receive: Any, send: Any) -> None:
        await receive()
        raise error

    with pytest.raises(LifespanFailed, match=type(error).__name__):
        await AsgiOrigin(app, loop=loop).run()


@LOOPS
@pytest.mark.parametrize("error", [*LEAVING, asyncio.CancelledError(), BaseException("odd")], ids=repr)
async def test_application_that_leaves_in_a_request_ends_that_request_alone(loop: Any, error: BaseException) -> None:
    async def app(scope: Any, receive: Any, send: Any) -> None:
        await no_lifespan(scope)
        if scope["path"] == "/leave":
            raise error
        await start(send)
        await body(send, b"hello")

    async with serving(app, loop=loop) as connect:
        assert (await exchange(connect(), GET.replace(b"/ ", b"/leave ", 1))).status == 500
        assert (await exchange(connect(), GET)).body == b"hello"


@LOOPS
async def test_proxy_outlives_an_application_that_leaves(loop: Any) -> None:
    async def app(scope: Any, receive: Any, send: Any) -> None:
        await receive()
        raise SystemExit(3)

    async def other(scope: Any, receive: Any, send: Any) -> None:
        await no_lifespan(scope)
        await start(send)
        await body(send, b"hello")

    log = MemoryLog()
    rules = [
        RemapRule("/gone/", "http://gone.test/", plugins=[AsgiOrigin(app, loop=loop).plugin()]),
        RemapRule("/", "http://there.test/", plugins=[AsgiOrigin(other, loop=loop).plugin()]),
    ]
    async with open_proxy(ProxyConfig(remap=rules), log=log) as proxy:
        for path, status in (("/gone/", 502), ("/", 200), ("/gone/", 502), ("/", 200)):
            async with proxy.fetch(Request("GET", path, {"Host": "a"}), raise_failures=False) as response:
                assert response.status == status
    assert [record.status for record in log.records] == [502, 200, 502, 200]


async def test_cancelled_that_was_kept_is_no_cancellation() -> None:
    """A `trio.Cancelled` that an application raises when nothing is cancelled is its own failure."""

    async def app(scope: Any, receive: Any, send: Any) -> None:
        await no_lifespan(scope)
        with trio.CancelScope() as cancelled:
            cancelled.cancel()
            try:
                await trio.lowlevel.checkpoint()
            except trio.Cancelled as exc:
                kept = exc
        raise kept

    async with serving(app) as connect:
        for _ in range(2):
            assert (await exchange(connect(), GET)).status == 500


@LOOPS
@pytest.mark.parametrize("error", [ValueError("mine"), SystemExit(1)], ids=repr)
async def test_event_that_was_sent_is_delivered_before_the_failure(loop: Any, error: BaseException) -> None:
    async def app(scope: Any, receive: Any, send: Any) -> None:
        await no_lifespan(scope)
        await start(send)
        await body(send, b"event", more=True)
        raise error

    rules = [RemapRule("/", "http://there.test/", plugins=[AsgiOrigin(app, loop=loop).plugin()])]
    async with open_proxy(ProxyConfig(remap=rules)) as proxy:
        for _ in range(10):
            async with proxy.fetch(Request("GET", "/", {"Host": "a"}), raise_failures=False) as response:
                assert await response.body.receive() == b"event"
                with pytest.raises(FetchError):
                    await response.body.receive()
