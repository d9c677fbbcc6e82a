"""Whatever a plugin raises is that plugin's failure and ends one transaction, even what was made to end a process."""

from __future__ import annotations

import asyncio
import os
import signal
from collections.abc import Iterator
from typing import Any

import pytest
import trio
import trio.testing

from tests.engine._world import GET, OK, Wire, how, open_world, replying
from tests.engine.test_hooks import make_plugin
from trio_tsconnect import ConnectOptions, MemoryLog, Plugin, Proxy, ProxyConfig, Transaction, open_proxy
from trio_tsconnect.hooks import HOOKS

ERRORS = [SystemExit(3), KeyboardInterrupt("its own"), GeneratorExit(), asyncio.CancelledError(), BaseException("odd")]
CHUNKED = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n0\r\n\r\n"


@pytest.fixture(autouse=True)
def _unraised() -> None:
    for error in ERRORS:  # else it would still say where another test has raised it
        error.__traceback__ = None


async def stale_cancelled() -> trio.Cancelled:
    """One that was kept when its scope was left."""
    with trio.CancelScope() as scope:
        scope.cancel()
        try:
            await trio.lowlevel.checkpoint()
        except trio.Cancelled as exc:
            return exc
    raise AssertionError


def failing(hook: str, error: BaseException | None) -> Plugin:
    """Fails in this hook of the first transaction that comes to it; None: with a stale `Cancelled`."""
    failed = False

    async def act(_hook: str, _subject: object) -> None:
        nonlocal failed
        if not failed:
            failed = True
            raise error or await stale_cancelled()

    return make_plugin("Failing", act, hook)


@pytest.mark.parametrize("hook", sorted(set(HOOKS) - {"origin_failed"}))
@pytest.mark.parametrize("error", [*ERRORS, None], ids=repr)
async def test_what_ends_a_process_ends_one_transaction(hook: str, error: BaseException | None, caplog: pytest.LogCaptureFixture) -> None:
    async with open_world(replying(OK), plugins=[failing(hook, error)]) as world:
        first = world.connect()
        await first.send(GET)
        status = int((await first.rest() if hook == "session_start" else await first.until(b"\r\n\r\n")).split(b" ")[1])
        await first.stream.aclose()
        assert (await world.connect().ask()).status == 200
    closing = hook.endswith("close")
    assert status == (200 if closing else 500)
    assert how(world.records[0]) == (("proxy", "complete") if closing else ("plugin", "plugin"))
    if hook != "session_close":
        failed = world.records[0].plugin["Failing"]["failed"]
        assert failed["hook"] == hook
        assert failed["at"].startswith("engine/test_")
    assert f"plugin Failing failed in {hook}" in caplog.text
    assert " at engine/test_" in caplog.text


@pytest.mark.parametrize("error", ERRORS, ids=repr)
@pytest.mark.parametrize("step", ["feed", "finish"])
async def test_transform_that_leaves_is_its_plugins_failure(error: BaseException, step: str) -> None:
    class Leaving:
        def feed(self, data: bytes) -> bytes:
            if step == "feed":
                raise error
            return data

        def finish(self) -> bytes:
            raise error

    async def add(_hook: str, txn: Any) -> None:
        if txn.request.headers.get("x-leave"):
            txn.transform_response(Leaving())

    async with open_world(replying(CHUNKED), plugins=[make_plugin("Adding", add, "post_remap")]) as world:
        await world.connect().ask(GET.replace(b"\r\n\r\n", b"\r\nX-Leave: 1\r\n\r\n"))
        assert (await world.connect().ask()).body == b"hello"
    assert how(world.records[0]) == ("plugin", "plugin")
    failed = world.records[0].plugin["Adding"]["failed"]
    assert failed["hook"] == "transform"
    assert failed["at"].startswith("engine/test_contained.py:")
    assert failed["at"].endswith(f".Leaving.{step}")


@pytest.mark.parametrize("error", [*ERRORS, None], ids=repr)
async def test_intercept_that_leaves_is_an_origin_that_failed(error: BaseException | None) -> None:
    async def leave(_stream: trio.abc.Stream) -> None:
        raise error or await stale_cancelled()

    async def intercept(_hook: str, txn: Any) -> None:
        if txn.request.headers.get("x-leave"):
            txn.intercept(leave)

        else:
            txn.respond(200)

    log = MemoryLog()
    async with open_proxy(plugins=[make_plugin("Playing", intercept, "pre_remap")], log=log) as proxy:
        assert (await Wire(proxy.connect()).ask(GET.replace(b"\r\n\r\n", b"\r\nX-Leave: 1\r\n\r\n"))).status == 502
        assert (await Wire(proxy.connect()).ask()).status == 200
    failed = log.records[0].plugin["Playing"]["failed"]
    assert failed["hook"] == "intercept"
    assert failed["at"].startswith("engine/test_contained.py:")


@pytest.mark.parametrize("error", [*ERRORS, None], ids=repr)
async def test_plugin_whose_own_task_leaves_ends_it_alone(error: BaseException | None, caplog: pytest.LogCaptureFixture) -> None:
    class Running(Plugin):
        async def run(self, proxy: Proxy) -> None:
            raise error or await stale_cancelled()

    async with open_world(replying(OK), plugins=[Running()]) as world:
        await trio.testing.wait_all_tasks_blocked()
        assert (await world.connect().ask()).status == 200
    (message,) = [record.getMessage() for record in caplog.records]
    assert message.startswith("plugin Running ended in run() at engine/test_contained.py:")
    assert ("Running.run" if error else "stale_cancelled") in message


async def test_failure_within_a_nursery_of_a_hook_is_named() -> None:
    async def leave() -> None:
        raise SystemExit(3)

    async def act(_hook: str, _txn: object) -> None:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(leave)
            await trio.sleep_forever()

    async with open_world(replying(OK), plugins=[make_plugin("Failing", act, "pre_remap")]) as world:
        assert (await world.connect().ask()).status == 500
    assert how(world.records[0]) == ("plugin", "plugin")


async def test_a_limit_that_ends_a_hook_is_no_failure_of_its_plugin(mock_clock: trio.testing.MockClock) -> None:
    mock_clock.autojump_threshold = 0

    async def act(_hook: str, _txn: object) -> None:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(trio.sleep_forever)

    async with open_world(replying(OK), plugins=[make_plugin("Slow", act, "pre_remap")], http={"transaction_timeout": 3}) as world:
        assert (await world.connect().ask()).status == 504
    assert how(world.records[0]) == ("proxy", "transaction_timeout")
    assert world.records[0].plugin == {"Slow": {"cut_short": "pre_remap"}}


@pytest.fixture
def ctrl_c() -> Iterator[None]:
    """Python's own handler of SIGINT, which a process in the background of a shell does not have."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


@pytest.mark.usefixtures("ctrl_c")
@pytest.mark.parametrize("where", ["hook", "checkpoint", "intercept"])
def test_ctrl_c_ends_the_process_and_leaves_alone(where: str) -> None:
    """A signal is told from a KeyboardInterrupt that a plugin raises by who raised it; it comes out as it is, in no group."""
    log = MemoryLog()

    class Interrupted(Plugin):
        async def read_request(self, txn: Transaction) -> None:
            if where == "intercept":
                txn.intercept(self._serve)
            else:
                self._interrupt()

        async def _serve(self, stream: trio.abc.HalfCloseableStream) -> None:
            await stream.receive_some()
            self._interrupt()

        def _interrupt(self) -> None:
            os.kill(os.getpid(), signal.SIGINT)
            if where != "checkpoint":
                for _ in range(1000):  # the handler runs between two of these
                    pass

    async def main() -> None:
        async with open_proxy(ProxyConfig(), plugins=[Interrupted()], log=log) as proxy, proxy.connect() as client:
            await client.send_all(GET)
            await trio.sleep(5)

    with pytest.raises(KeyboardInterrupt):
        trio.run(main, restrict_keyboard_interrupt_to_checkpoints=where == "checkpoint")
    (record,) = log.records
    assert record.plugin == {}
    if where == "hook":
        assert how(record) == ("proxy", "cancelled")  # it has not come to an answer


async def test_limit_that_is_crossed_within_a_nursery_of_a_hook_is_no_failure_of_its_plugin() -> None:
    async def act(_hook: str, txn: Any) -> None:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(txn.read_request_body, 2)

    async with open_world(replying(OK), plugins=[make_plugin("Reading", act, "read_request")]) as world:
        assert (await world.connect().ask(b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 3\r\n\r\nabc")).status == 413
    assert how(world.records[0]) == ("client", "request_too_large")


@pytest.mark.parametrize("swallows", [False, True])
async def test_record_names_the_hook_in_which_a_limit_was_crossed(swallows: bool, autojump_clock: trio.testing.MockClock) -> None:
    async def act(_hook: str, _txn: Any) -> None:
        try:
            await trio.sleep(100)
        except BaseException:
            if not swallows:
                raise

    slow, idle = make_plugin("Slow", act, "read_request"), make_plugin("Idle", replying_nothing, "send_response", "transaction_close")
    async with open_world(replying(OK), plugins=[slow, idle], http={"transaction_timeout": 1.0}) as world:
        assert (await world.connect().ask()).status == 504
    assert how(world.records[0]) == ("proxy", "transaction_timeout")
    assert world.records[0].plugin == {"Slow": {"cut_short": "read_request"}}


async def replying_nothing(_hook: str, _txn: object) -> None:
    """A hook that changes nothing."""


class Unspeakable(Exception):
    """Its text cannot be had."""

    def __init__(self, worse: BaseException) -> None:
        self.worse = worse

    def __str__(self) -> str:
        raise self.worse


@pytest.mark.parametrize("worse", [RuntimeError("worse"), SystemExit(3), KeyboardInterrupt()], ids=repr)
@pytest.mark.parametrize("where", ["session_start", "read_request", "transaction_close", "transform"])
async def test_exception_whose_text_raises_is_its_plugins_failure_all_the_same(where: str, worse: BaseException) -> None:
    failed: list[str] = []

    class Fails:
        def feed(self, _data: bytes) -> bytes:
            raise Unspeakable(worse)

        finish = feed  # never called

    async def act(hook: str, txn: Any) -> None:
        if failed or hook != (where if "_" in where else "post_remap"):
            return
        failed.append(hook)
        if where == "transform":
            txn.transform_response(Fails())
        else:
            raise Unspeakable(worse)

    plugin = make_plugin("Failing", act, "session_start", "read_request", "post_remap", "transaction_close")
    async with open_world(replying(OK), plugins=[plugin]) as world:
        first = world.connect()
        await first.send(GET)
        status = int((await first.until(b"\r\n\r\n")).split(b" ")[1])
        await first.stream.aclose()
        assert (await world.connect().ask()).status == 200
    assert status == (200 if where == "transaction_close" else 500)
    if where != "transaction_close":
        assert "Unspeakable" in world.records[0].plugin["Failing"]["failed"]["exception"]


@pytest.mark.parametrize("worse", [RuntimeError("worse"), SystemExit(3), KeyboardInterrupt()], ids=repr)
async def test_intercept_whose_exception_has_no_text_is_an_origin_that_failed(worse: BaseException) -> None:
    async def fail(_stream: object) -> None:
        raise Unspeakable(worse)

    async def act(_hook: str, txn: Any) -> None:
        txn.intercept(fail)

    log = MemoryLog()
    async with open_proxy(plugins=[make_plugin("Failing", act, "post_remap")], log=log) as proxy:
        for _ in range(2):
            assert (await Wire(proxy.connect(ConnectOptions(target=("a", 80)))).ask()).status == 502
    assert "Unspeakable" in log.records[0].plugin["Failing"]["failed"]["exception"]


async def test_every_plugin_that_fails_at_the_start_of_a_session_is_in_the_record() -> None:
    plugins = [failing("session_start", ValueError("one")), failing("session_start", ValueError("two"))]
    async with open_world(replying(OK), plugins=plugins) as world:
        assert (await world.connect().ask()).status == 500
    assert {name: entry["failed"]["exception"] for name, entry in world.records[0].plugin.items()} == {
        "Failing": "ValueError: one",
        "Failing#2": "ValueError: two",
    }


@pytest.mark.parametrize("transform", [object(), 3, None])
async def test_transform_that_is_none_is_its_plugins_failure(transform: Any) -> None:
    async def act(_hook: str, txn: Any) -> None:
        txn.transform_response(transform)

    async with open_world(replying(CHUNKED), plugins=[make_plugin("Failing", act, "read_response")]) as world:
        assert (await world.connect().ask()).status == 500
    assert how(world.records[0]) == ("plugin", "plugin")
    assert "TypeError: a transform must be" in world.records[0].plugin["Failing"]["failed"]["exception"]


@pytest.mark.parametrize("target", ["/x", "ftp://a/", "http://", 5])
async def test_target_of_a_retry_is_judged_at_the_line_that_gives_it(target: Any) -> None:
    async def act(_hook: str, txn: Any) -> None:
        txn.retry(target)

    async with open_world(replying(OK), plugins=[make_plugin("Failing", act, "read_response")]) as world:
        assert (await world.connect().ask()).status == 500
    assert how(world.records[0]) == ("plugin", "plugin")


@pytest.mark.parametrize("method", ["CONNECT", "GET"])
async def test_request_cannot_become_connect_or_stop_being_it(method: str) -> None:
    async def act(_hook: str, txn: Any) -> None:
        txn.request.method = "GET" if method == "CONNECT" else "CONNECT"

    hook = "read_request" if method == "CONNECT" else "send_request"
    async with open_world(replying(OK), plugins=[make_plugin("Failing", act, hook)], http={"connect": ("*:*",)}) as world:
        ask = GET if method == "GET" else b"CONNECT origin.test:80 HTTP/1.1\r\nHost: origin.test:80\r\n\r\n"
        assert (await world.connect().ask(ask)).status == 500
    assert "CONNECT" in world.records[0].plugin["Failing"]["failed"]["exception"]
