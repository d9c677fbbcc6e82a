"""Hooks: their order, what they may do, and that the failure of one hurts its own transaction and nothing else."""

from __future__ import annotations

import re
from typing import Any

import pytest
import trio
import trio.testing

from tests.engine._world import GET, OK, Serve, how, open_world, replying
from trio_tsconnect import InvalidState, MemoryLog, Plugin, Proxy, ProxyConfig, Request, Response, Session, Transaction, open_proxy
from trio_tsconnect.hooks import HOOKS

ORDER = [
    "session_start",
    "transaction_start",
    "read_request",
    "pre_remap",
    "post_remap",
    "send_request",
    "read_response",
    "send_response",
    "transaction_close",
    "session_close",
]
POST = b"POST /path HTTP/1.1\r\nHost: origin.test\r\nContent-Length: 3\r\n\r\nabc"


def make_plugin(name: str, act: Any, *hooks: str) -> Plugin:
    """A plugin of a class of this name that has these hooks, all of which do `act(hook, subject)`."""

    def method(hook: str) -> Any:
        async def run(self: Plugin, subject: Any) -> None:
            await act(hook, subject)

        run.__name__ = hook
        return run

    plugin: Plugin = type(name, (Plugin,), {hook: method(hook) for hook in hooks})()
    return plugin


def recorder(calls: list[str], *hooks: str, prefix: str = "") -> Plugin:
    async def note(hook: str, _subject: object) -> None:
        calls.append(prefix + hook)

    return make_plugin("Recorder", note, *(hooks or HOOKS))


def raiser(hook: str, times: int = 1_000_000, error: Exception | None = None) -> Plugin:
    left = times

    async def fail(_hook: str, _subject: object) -> None:
        nonlocal left
        left -= 1
        if left >= 0:
            raise error or RuntimeError("the plugin's own fault")

    return make_plugin("Raiser", fail, hook)


async def test_hooks_fire_in_the_order_of_traffic_server() -> None:
    calls: list[str] = []
    async with open_world(plugins=[recorder(calls)]) as world:
        wire = world.connect()
        assert (await wire.ask()).status == 200
        assert (await wire.ask()).status == 200
        await wire.stream.aclose()
        await trio.testing.wait_all_tasks_blocked()
    assert calls == [*ORDER[:-1], *ORDER[1:-1], ORDER[-1]]


async def test_a_connection_on_which_nothing_comes_fires_nothing() -> None:
    calls: list[str] = []
    async with open_world(plugins=[recorder(calls)]) as world:
        wire = world.connect()
        await trio.testing.wait_all_tasks_blocked()
        await wire.stream.aclose()
    assert calls == []


async def test_a_request_that_does_not_parse_skips_read_request_and_what_follows() -> None:
    calls: list[str] = []
    async with open_world(plugins=[recorder(calls)]) as world:
        assert (await world.connect().ask(b"BROKEN\r\n\r\n")).status == 400
    assert calls == ["session_start", "transaction_start", "send_response", "transaction_close", "session_close"]


async def test_a_request_without_a_rule_stops_after_pre_remap() -> None:
    calls: list[str] = []
    async with open_world(plugins=[recorder(calls)]) as world:
        assert (await world.connect(target=None).ask()).status == 404
    assert calls == [
        "session_start",
        "transaction_start",
        "read_request",
        "pre_remap",
        "send_response",
        "transaction_close",
        "session_close",
    ]


async def test_read_response_fires_for_each_interim_response_too() -> None:
    calls: list[str] = []
    reply = b"HTTP/1.1 103 Early Hints\r\nLink: </a>\r\n\r\nHTTP/1.1 103 Early Hints\r\n\r\n" + OK
    async with open_world(replying(reply), plugins=[recorder(calls, "read_response", "send_response")]) as world:
        wire = world.connect()
        await wire.send(GET)
        assert [(await wire.answer()).status for _ in range(3)] == [103, 103, 200]
    assert calls == ["read_response"] * 3 + ["send_response"]


async def test_plugins_run_in_the_order_in_which_they_were_given_in_both_directions() -> None:
    calls: list[str] = []
    plugins = [recorder(calls, "read_request", "send_response", prefix=f"{number} ") for number in (1, 2)]
    async with open_world(plugins=plugins) as world:
        await world.connect().ask()
    assert calls == ["1 read_request", "2 read_request", "1 send_response", "2 send_response"]


@pytest.mark.parametrize("hook", [hook for hook in ORDER if hook not in ("transaction_close", "session_close")])
@pytest.mark.parametrize("request_bytes", [GET, POST])
async def test_an_exception_in_a_hook_is_a_500_with_the_plugins_name_and_hurts_nobody_else(
    hook: str, request_bytes: bytes, caplog: pytest.LogCaptureFixture
) -> None:
    calls: list[str] = []
    async with open_world(plugins=[recorder(calls, "transaction_close", "session_close"), raiser(hook, 1)]) as world:
        bystander, wire = world.connect(), world.connect()
        answer = await wire.ask(request_bytes)
        assert answer.status == 500
        assert b"RuntimeError" not in answer.body  # what went wrong inside is nobody's business outside
        await trio.testing.wait_all_tasks_blocked()
        (record,) = world.records
        assert how(record) == ("plugin", "plugin")
        assert record.status == 500
        failed = dict(record.plugin["Raiser"]["failed"])
        assert re.fullmatch(r"engine/test_hooks\.py:\d+ in raiser\.<locals>\.fail", failed.pop("at"))
        assert failed == {"hook": hook, "exception": "RuntimeError: the plugin's own fault"}
        assert f"plugin Raiser failed in {hook}" in caplog.text
        assert world.taken() == (0, 0)
        assert calls == ["transaction_close", "session_close"][: len(calls)]
        assert (await bystander.ask()).status == 200
        assert (await world.connect().ask()).status == 200


@pytest.mark.parametrize("hook", ["transaction_close", "session_close"])
async def test_an_exception_in_a_closing_hook_is_logged_and_later_plugins_are_asked_all_the_same(
    hook: str, caplog: pytest.LogCaptureFixture
) -> None:
    calls: list[str] = []
    async with open_world(plugins=[raiser(hook), recorder(calls, hook)]) as world:
        wire = world.connect()
        assert (await wire.ask()).status == 200
        assert (await wire.ask()).status == 200
        await wire.stream.aclose()
        await trio.testing.wait_all_tasks_blocked()
        assert [how(record) for record in world.records] == [("proxy", "complete")] * 2
    assert f"plugin Raiser failed in {hook}" in caplog.text
    assert calls == [hook] * (2 if hook == "transaction_close" else 1)


@pytest.mark.parametrize("hook", ["read_request", "send_request", "read_response", "send_response"])
async def test_after_a_hook_that_failed_once_the_same_connection_goes_on(hook: str) -> None:
    async with open_world(plugins=[raiser(hook, 1)]) as world:
        wire = world.connect()
        assert (await wire.ask()).status == 500
        assert (await wire.ask()).status == 200


@pytest.mark.parametrize(
    "error", [trio.BrokenResourceError(), trio.ClosedResourceError(), trio.TooSlowError(), OSError(), ExceptionGroup("two", [OSError()])]
)
async def test_whatever_a_plugin_raises_it_is_the_plugins_fault_and_not_the_clients_or_the_origins(error: Exception) -> None:
    async with open_world(plugins=[raiser("send_request", error=error)]) as world:
        assert (await world.connect().ask()).status == 500
        assert how(await world.record()) == ("plugin", "plugin")


async def test_a_send_response_hook_that_fails_on_an_error_page_too_still_gets_its_client_an_answer() -> None:
    async with open_world(plugins=[raiser("send_response")]) as world:
        wire = world.connect()
        assert (await wire.ask()).status == 500
        assert (await world.connect(target=None).ask()).status == 500


async def test_a_hook_that_fails_after_an_interim_response_is_answered_with_a_500() -> None:
    failing = raiser("send_response")
    async with open_world(replying(b"HTTP/1.1 103 Early Hints\r\n\r\n" + OK), plugins=[failing]) as world:
        wire = world.connect()
        await wire.send(GET)
        assert [(await wire.answer()).status for _ in range(2)] == [103, 500]


@pytest.mark.parametrize("hook", ["read_request", "pre_remap", "post_remap"])
async def test_respond_answers_without_an_origin_up_to_post_remap(hook: str) -> None:
    calls: list[str] = []

    async def answer(_hook: str, txn: Transaction) -> None:
        txn.respond(418, "short and stout", headers={"X-Pot": "tea"})

    async with open_world(plugins=[make_plugin("Pot", answer, hook), recorder(calls)]) as world:
        wire = world.connect()
        reply = await wire.ask(POST)
        assert (reply.status, reply.body, reply.headers["x-pot"]) == (418, b"short and stout", "tea")
        assert (await wire.ask()).status == 418
        assert world.origin.streams == []
        await trio.testing.wait_all_tasks_blocked()
    assert how(world.records[0]) == ("plugin", "responded")
    expected = [*ORDER[: ORDER.index(hook)], "send_response", "transaction_close"]
    assert calls[: len(expected)] == expected


@pytest.mark.parametrize("hook", ["transaction_start", "transaction_close"])
async def test_respond_at_another_time_is_refused_with_the_name_of_the_state(hook: str) -> None:
    seen: list[str] = []

    async def answer(_hook: str, txn: Transaction) -> None:
        with pytest.raises(InvalidState, match=txn.state.value) as caught:
            txn.respond(204)
        seen.append(str(caught.value))

    async with open_world(plugins=[make_plugin("Late", answer, hook)]) as world:
        assert (await world.connect().ask()).status == 200
    assert len(seen) == 1


async def test_a_bad_field_is_refused_at_the_line_that_writes_it() -> None:
    async def write(_hook: str, txn: Transaction) -> None:
        with pytest.raises(ValueError):
            txn.request.headers["X-Bad"] = "a\r\nb: c"
        with pytest.raises(ValueError):
            txn.request.target = "/two words"

    async with open_world(plugins=[make_plugin("Careless", write, "send_request")]) as world:
        assert (await world.connect().ask()).status == 200


async def test_heads_are_changed_in_place_and_may_be_replaced() -> None:
    async def change(hook: str, txn: Transaction) -> None:
        match hook:
            case "send_request":
                txn.request.headers["X-Added"] = "1"
            case "read_response":
                txn.response = Response(201, [("X-New", "2"), *txn.response.headers.items()])
            case _:
                txn.response.headers["X-Last"] = "3"

    heads: list[dict[str, str]] = []
    serve = keeping(heads, OK)
    async with open_world(serve, plugins=[make_plugin("Changer", change, "send_request", "read_response", "send_response")]) as world:
        answer = await world.connect().ask()
    assert heads[0]["x-added"] == "1"
    assert (answer.status, answer.headers["x-new"], answer.headers["x-last"], answer.body) == (201, "2", "3", b"hello")


def keeping(heads: list[dict[str, str]], reply: bytes) -> Serve:
    async def serve(wire: Any) -> None:
        while True:
            _, headers = await wire.head()
            heads.append(headers)
            await wire.send(reply)

    return serve


@pytest.mark.parametrize("status", [204, 205, 304, 404])
async def test_a_status_that_a_plugin_puts_in_place_is_framed_as_it_must_be(status: int) -> None:
    async def change(_hook: str, txn: Transaction) -> None:
        txn.response.status = status

    async with open_world(plugins=[make_plugin("Changer", change, "read_response")]) as world:
        wire = world.connect()
        for _ in range(2):
            answer = await wire.ask()
            assert answer.status == status
            assert answer.body == (b"hello" if status == 404 else b"")
            await trio.testing.wait_all_tasks_blocked()
            assert how(world.records[-1]) == ("proxy", "complete")


async def test_a_final_response_that_a_plugin_makes_interim_is_its_fault() -> None:
    async def change(_hook: str, txn: Transaction) -> None:
        txn.response = Response(103)

    async with open_world(plugins=[make_plugin("Changer", change, "read_response")]) as world:
        assert (await world.connect().ask()).status == 500
        assert how(await world.record())[0] == "plugin"


async def test_a_closing_origin_is_not_kept_whatever_a_plugin_makes_of_its_response() -> None:
    async def change(_hook: str, txn: Transaction) -> None:
        txn.response.headers.remove((b"connection",))

    reply = b"HTTP/1.1 200 OK\r\nConnection: close\r\nContent-Length: 0\r\n\r\n"
    async with open_world(replying(reply), plugins=[make_plugin("Changer", change, "read_response")]) as world:
        assert (await world.connect().ask()).status == 200
        await trio.testing.wait_all_tasks_blocked()
        assert world.proxy.core.pool.statistics().idle == 0


async def test_what_a_plugin_logs_is_in_the_record_under_its_name() -> None:
    async def log(_hook: str, txn: Transaction) -> None:
        txn.log["tokens"] = 12

    async with open_world(plugins=[make_plugin("Counter", log, "read_response")]) as world:
        await world.connect().ask()
        assert (await world.record()).plugin == {"Counter": {"tokens": 12}}


async def test_state_is_kept_on_a_session_between_its_transactions() -> None:
    counts: list[int] = []

    async def count(_hook: str, txn: Transaction) -> None:
        state = txn.session.data
        state["count"] = state.get("count", 0) + 1
        counts.append(state["count"])

    async with open_world(plugins=[make_plugin("Counter", count, "read_request")]) as world:
        wire = world.connect()
        await wire.ask()
        await wire.ask()
        await world.connect().ask()
    assert counts == [1, 2, 1]


async def test_request_and_response_cannot_be_had_before_they_are_there() -> None:
    async def look(hook: str, txn: Transaction) -> None:
        with pytest.raises(InvalidState):
            _ = txn.response
        if hook == "transaction_start":
            with pytest.raises(InvalidState):
                _ = txn.request
        with pytest.raises(TypeError):
            txn.response = "200"  # type: ignore[assignment]
        with pytest.raises(TypeError):
            txn.request = None  # type: ignore[assignment]

    async with open_world(plugins=[make_plugin("Early", look, "transaction_start", "send_request")]) as world:
        assert (await world.connect().ask()).status == 200


def test_a_misspelt_hook_fails_when_the_class_is_made() -> None:
    with pytest.raises(TypeError, match="read_requst is not a hook"):

        class Typo(Plugin):
            async def read_requst(self, txn: Transaction) -> None: ...

    with pytest.raises(TypeError, match="must be an async method"):

        class Sync(Plugin):
            def read_request(self, txn: Transaction) -> None: ...  # type: ignore[override]

    class Fine(Plugin):
        async def _helper(self) -> None: ...

        def helper(self) -> None: ...


@pytest.mark.parametrize("wrong", [Plugin, "plugin", None])
async def test_what_is_no_plugin_is_refused_before_anything_runs(wrong: object) -> None:
    with pytest.raises(TypeError, match="not a Plugin"):
        async with open_proxy(plugins=[wrong]):  # type: ignore[list-item]
            raise AssertionError("not reached")


async def test_run_is_the_plugins_own_task_and_its_failure_is_its_own(caplog: pytest.LogCaptureFixture) -> None:
    seen: list[str] = []

    class Runner(Plugin):
        async def run(self, proxy: Proxy) -> None:
            try:
                stream = proxy.connect()
                await stream.aclose()
                await trio.sleep_forever()
            finally:
                seen.append("cancelled")

    class Failing(Plugin):
        async def run(self, proxy: Proxy) -> None:
            raise RuntimeError("in run")

    async with open_proxy(ProxyConfig(), plugins=[Failing(), Runner()], log=MemoryLog()) as proxy:
        await trio.testing.wait_all_tasks_blocked()
        stream = proxy.connect()
        await stream.send_all(GET)
        assert (await stream.receive_some()).startswith(b"HTTP/1.1 404")
        assert seen == []
    assert seen == ["cancelled"]
    assert "plugin Failing ended in run()" in caplog.text


async def test_a_hook_only_somebody_overrides_is_called() -> None:
    async with open_world(plugins=[Plugin(), recorder([], "read_request")]) as world:
        hooks = world.proxy.core.hooks
        assert len(hooks.read_request) == 1
        assert all(not getattr(hooks, hook) for hook in HOOKS if hook != "read_request")


async def test_session_close_fires_although_the_task_that_serves_is_cancelled() -> None:
    calls: list[str] = []
    async with open_world(plugins=[recorder(calls, "session_start", "transaction_close", "session_close")]) as world:
        near, far = trio.testing.memory_stream_pair()
        async with trio.open_nursery() as nursery:
            nursery.start_soon(world.proxy.serve_stream, far)
            await near.send_all(b"GET / HTTP/1.1\r\n")
            await trio.testing.wait_all_tasks_blocked()
            nursery.cancel_scope.cancel()
        assert calls == ["session_start", "transaction_close", "session_close"]
        assert how(await world.record()) == ("proxy", "cancelled")


async def test_a_hook_is_told_of_what_it_serves() -> None:
    seen: list[Any] = []

    class Looker(Plugin):
        async def session_start(self, session: Session) -> None:
            seen.append((session.tag, session.id, session.internal))

        async def post_remap(self, txn: Transaction) -> None:
            assert isinstance(txn.request, Request)
            seen.append((txn.tag, txn.id, txn.internal, txn.request.target, txn.parent, txn.root is txn, txn.depth))

    async with open_world(plugins=[Looker()]) as world:
        await world.connect(tag="h2", id=7).ask()
    assert seen == [("h2", 7, True), ("h2", 7, True, "http://origin.test/path", None, True, 0)]
