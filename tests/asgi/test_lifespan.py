"""The lifespan of an application, and the life of the origin around it."""

from __future__ import annotations

from typing import Any

import pytest
import trio
import trio.testing

from tests.asgi._stand import GET, body, no_lifespan, serving, start
from trio_tsconnect import MemoryLog, ProxyConfig, RemapRule, open_proxy, open_virtual_connection_pair
from trio_tsconnect.asgi import AsgiOrigin, LifespanFailed
from trio_tsconnect.testing import exchange

LOOPS = pytest.mark.parametrize("loop", ["trio", "asyncio"])


class Recorder:
    """An application that notes what it is told of its life."""

    def __init__(self) -> None:
        self.seen: list[str] = []

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        if scope["type"] == "http":
            self.seen.append(f"request with {scope['state']}")
            scope["state"]["mine"] = True
            await start(send)
            await body(send, b"hello")
            return
        while True:
            message = await receive()
            self.seen.append(message["type"])
            scope["state"]["pool"] = 7
            await send({"type": message["type"] + ".complete"})
            if message["type"] == "lifespan.shutdown":
                return


@LOOPS
async def test_application_starts_up_before_its_first_call_and_shuts_down_after_its_last(loop: Any) -> None:
    app = Recorder()
    async with serving(app, loop=loop) as connect:
        assert app.seen == ["lifespan.startup"]
        await exchange(connect(), GET)
        await exchange(connect(), GET)
    # what one call puts into the state is not another's
    assert app.seen == ["lifespan.startup", "request with {'pool': 7}", "request with {'pool': 7}", "lifespan.shutdown"]


@LOOPS
async def test_application_without_lifespan_is_served(loop: Any) -> None:
    async def app(scope: Any, receive: Any, send: Any) -> None:
        await no_lifespan(scope)
        await start(send)
        await body(send, b"hello")

    async with serving(app, loop=loop) as connect:
        assert (await exchange(connect(), GET)).body == b"hello"


async def fails(scope: Any, receive: Any, send: Any) -> None:
    await receive()
    await send({"type": "lifespan.startup.failed", "message": "no database"})


@LOOPS
async def test_startup_that_fails_ends_the_origin_with_its_reason(loop: Any) -> None:
    origin = AsgiOrigin(fails, loop=loop)
    with pytest.raises(LifespanFailed, match="no database"):
        await origin.run()
    _, far = open_virtual_connection_pair()
    with pytest.raises(RuntimeError, match="it did not start up: no database"):
        await origin.serve(far)
    with pytest.raises(trio.ClosedResourceError):
        await far.receive_some()


async def test_origin_that_does_not_run_says_so() -> None:
    _, far = open_virtual_connection_pair()
    with pytest.raises(RuntimeError, match=r"run\(\) must be running"):
        await AsgiOrigin(Recorder()).serve(far)


async def test_origin_runs_once_at_a_time() -> None:
    origin = AsgiOrigin(Recorder())
    for _ in range(2):  # and again, once it has ended
        async with trio.open_nursery() as nursery:
            await nursery.start(origin.run)
            with pytest.raises(RuntimeError, match="running already"):
                await origin.run()
            nursery.cancel_scope.cancel()


async def test_requests_wait_for_the_startup(autojump_clock: trio.testing.MockClock) -> None:
    async def app(scope: Any, receive: Any, send: Any) -> None:
        if scope["type"] == "lifespan":
            await trio.sleep(3)
            await send({"type": "lifespan.startup.complete"})
            await trio.sleep_forever()
        await start(send)
        await body(send, b"%d" % trio.current_time())

    origin = AsgiOrigin(app)
    async with trio.open_nursery() as nursery:
        begun = int(trio.current_time())
        nursery.start_soon(origin.run)
        near, far = open_virtual_connection_pair()
        await trio.testing.wait_all_tasks_blocked()
        nursery.start_soon(origin.serve, far)
        assert int((await exchange(near, GET)).body) == begun + 3
        nursery.cancel_scope.cancel()


async def test_shutdown_has_its_grace_and_no_more(autojump_clock: trio.testing.MockClock) -> None:
    async def app(scope: Any, receive: Any, send: Any) -> None:
        await receive()
        await send({"type": "lifespan.startup.complete"})
        await receive()
        await trio.sleep_forever()

    begun = trio.current_time()
    async with serving(app, grace=4):
        pass
    assert trio.current_time() == begun + 5  # the last second is for returning


async def test_startup_can_be_cancelled(autojump_clock: trio.testing.MockClock) -> None:
    async def app(scope: Any, receive: Any, send: Any) -> None:
        await trio.sleep_forever()

    with trio.move_on_after(1) as scope:
        await AsgiOrigin(app).run()
    assert scope.cancelled_caught


@LOOPS
async def test_proxy_runs_the_application_as_long_as_it_is_open(loop: Any) -> None:
    app = Recorder()
    rule = RemapRule("//site.example/", "http://app.test/", plugins=(AsgiOrigin(app, loop=loop).plugin(),))
    async with open_proxy(ProxyConfig(remap=(rule,))) as proxy, proxy.connect() as client:
        assert (await exchange(client, GET)).body == b"hello"
    assert app.seen == ["lifespan.startup", "request with {'pool': 7}", "lifespan.shutdown"]


async def test_proxy_answers_502_for_an_application_that_did_not_start_up() -> None:
    log = MemoryLog()
    rule = RemapRule("/", "http://app.test/", plugins=(AsgiOrigin(fails).plugin(),))
    async with open_proxy(ProxyConfig(remap=(rule,)), log=log) as proxy, proxy.connect() as client:
        assert (await exchange(client, GET)).status == 502
    assert "no database" in log.records[0].plugin["AsgiPlugin"]["failed"]["exception"]


async def test_plugin_answers_for_its_host_alone() -> None:
    plugin = AsgiOrigin(Recorder()).plugin("app.test")
    rules = (RemapRule("//one.example/", "http://app.test/"), RemapRule("//two.example/", "http://127.0.0.1:1/"))
    async with open_proxy(ProxyConfig(remap=rules), plugins=[plugin]) as proxy, proxy.connect() as client:
        requests = [b"GET / HTTP/1.1\r\nHost: %s.example\r\n\r\n" % name for name in (b"one", b"two")]
        assert [reply.status for reply in await exchange(client, b"".join(requests), count=2)] == [200, 502]


@pytest.mark.parametrize(
    ("options", "error"),
    [
        ({"application": 3}, TypeError),
        ({"loop": "curio"}, ValueError),
        ({"root_path": "/a/"}, ValueError),
        ({"root_path": "a"}, ValueError),
        ({"grace": -1}, ValueError),
    ],
)
def test_option_out_of_range_is_refused(options: Any, error: type[Exception]) -> None:
    with pytest.raises(error):
        AsgiOrigin(**{"application": Recorder(), **options})
