"""What plugins may see and change, and what the log shows."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import trio
import trio.testing

from tests.engine._world import GET, OK, Wire, how, open_world, replying
from tests.engine.test_hooks import make_plugin
from trio_tsconnect import (
    ClientInfo,
    ConnectOptions,
    LogConfig,
    MemoryLog,
    ProxyConfig,
    RemapRule,
    Request,
    open_proxy,
)

Clock = trio.testing.MockClock
NO_HOST = b"GET /path HTTP/1.1\r\n\r\n"


# ------------------------------------------------------------------------------------------------------------ what plugins may change


@pytest.mark.parametrize(
    ("request_", "target", "status", "by"),
    [(NO_HOST, "/other", 400, "client"), (GET, "/other", 200, "proxy"), (GET, "other", 500, "plugin")],
)
async def test_target_that_a_plugin_sets_is_its_own_fault_and_a_missing_host_is_not(
    request_: bytes, target: str, status: int, by: str
) -> None:
    async def act(_hook: str, txn: Any) -> None:
        txn.request.target = target

    async with open_world(plugins=[make_plugin("Setting", act, "read_request")]) as world:
        assert (await world.connect().ask(request_)).status == status
    assert world.records[0].ended.by == by


@pytest.mark.parametrize(
    ("hook", "target", "status"),
    [
        ("post_remap", "/other", 500),
        ("post_remap", "http://other.test/", 200),
        ("send_request", "/other", 200),
        ("send_request", "*", 200),
        ("send_request", "other", 500),
    ],
)
async def test_target_has_the_form_that_its_hook_asks_for(hook: str, target: str, status: int) -> None:
    async def act(_hook: str, txn: Any) -> None:
        txn.request.target = target

    async with open_world(plugins=[make_plugin("Setting", act, hook)]) as world:
        assert (await world.connect().ask()).status == status


async def test_switch_of_protocols_stays_one() -> None:
    async def act(_hook: str, txn: Any) -> None:
        if txn.response.status == 101:
            txn.response.status = 200

    switch = b"HTTP/1.1 101 Switching\r\nConnection: Upgrade\r\nUpgrade: x\r\n\r\n"
    async with open_world(replying(switch), plugins=[make_plugin("Changing", act, "send_response")]) as world:
        assert (await world.connect().ask(b"GET / HTTP/1.1\r\nHost: a\r\nConnection: Upgrade\r\nUpgrade: x\r\n\r\n")).status == 500
    assert how(world.records[0]) == ("plugin", "plugin")


@pytest.mark.parametrize(("status", "error"), [(199, True), (200, False), (599, False), (600, True), ("200", True), (200.0, True)])
async def test_answer_has_a_final_status(status: Any, error: bool) -> None:
    async def act(_hook: str, txn: Any) -> None:
        txn.respond(status)

    async with open_world(plugins=[make_plugin("Answering", act, "read_request")]) as world:
        assert (await world.connect().ask()).status == (500 if error else status)
    assert ("failed" in world.records[0].plugin.get("Answering", {})) is error


@pytest.mark.parametrize(
    ("host", "preserve", "name"),
    [
        ("a.test", True, "a.test"),
        ("a.test:81", True, "a.test"),
        ("[::1]", True, "[::1]"),
        ("[::1]:81", True, "[::1]"),
        ("a.test:81", False, "origin.test"),
    ],
)
async def test_name_for_tls_is_that_of_the_origin_or_the_one_that_is_preserved(host: str, preserve: bool, name: str) -> None:
    asked: list[Any] = []
    rule = RemapRule("/", "https://origin.test/", preserve_host=preserve)
    async with open_world(remap=(rule,)) as world:
        pool = world.proxy.core.pool  # type: ignore[attr-defined]
        acquire = pool.acquire

        async def recording(origin: Any, *args: Any, **options: Any) -> Any:
            asked.append(origin)
            return await acquire(origin, *args, **options)

        pool.acquire = recording
        assert (await world.connect(target=None).ask(GET.replace(b"origin.test", host.encode()))).status == 200
    assert asked[0].tls.server_name == name


@pytest.mark.parametrize(
    ("request_", "seen"),
    [
        (b"GET /path HTTP/1.1\r\nHost: a.test\r\n\r\n", "a.test"),
        (b"GET /path HTTP/1.0\r\nHost: a.test\r\n\r\n", "a.test"),
        (b"GET /path HTTP/1.0\r\n\r\n", "origin.test"),
        (b"GET /path HTTP/1.0\r\nHost:\r\n\r\n", "origin.test"),
        (b"GET http://b.test/path HTTP/1.1\r\nHost: a.test\r\n\r\n", "b.test"),
    ],
)
async def test_origin_of_a_connection_with_a_target_sees_the_host_that_was_asked_for(request_: bytes, seen: str) -> None:
    """`target` says where to go; it replaces no name, except if there is none."""
    heads: list[dict[str, str]] = []

    async def origin(wire: Wire) -> None:
        _, headers = await wire.head()
        heads.append(headers)
        await wire.send(OK)

    async with open_world(origin) as world:
        assert (await world.connect().ask(request_)).status == 200
    assert heads[0]["host"] == seen


# ---------------------------------------------------------------------------------------------------------------------------- records


async def test_record_says_who_has_asked_for_what(autojump_clock: Clock) -> None:
    async def act(_hook: str, txn: Any) -> None:
        if txn.depth == 0 and txn.client.connection == 77:
            assert (await Wire(txn.connect(ConnectOptions(tag="child", id=5, target=("origin.test", 80)))).ask()).status == 200

    rule = RemapRule("//ruled.test/", "http://origin.test/base/")
    async with open_world(plugins=[make_plugin("Asking", act, "read_request")], remap=(rule,)) as world:
        who = ClientInfo(address=("192.0.2.7", 5), connection=77)
        assert (await world.connect(client=who).ask(GET.replace(b"origin.test", b"ruled.test"))).status == 200
        assert (await world.connect().ask(GET.replace(b"1.1", b"1.0"))).status == 200
        assert (await world.connect(client=ClientInfo(address="unknown", protocol="x")).ask(NO_HOST)).status == 400
    child, first, second, third = world.records
    assert (first.client_address, first.client_connection, first.client_protocol) == ("192.0.2.7", 77, "http/1.1")
    assert (first.remap_rule, first.url, first.origin_url) == (rule.from_, "http://ruled.test/path", "http://origin.test/base/path")
    assert (first.parent, first.root, first.depth, first.internal, first.detached) == (None, first.transaction, 0, False, False)
    assert (child.parent, child.root, child.depth, child.internal) == (first.transaction, first.transaction, 1, True)
    assert (child.tag, child.id, child.client_address, child.client_connection) == ("child", 5, "192.0.2.7", 77)
    assert (second.client_address, second.client_connection, second.client_protocol) == (None, second.session, "http/1.0")
    assert (second.remap_rule, second.internal) == (None, True)
    assert (third.client_address, third.client_protocol, third.url) == (None, "x", "/path")


@pytest.mark.parametrize("where", ["file", "stderr", "nowhere", "given"])
async def test_records_go_where_the_configuration_says_unless_a_log_is_given(
    where: str, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "log.jsonl"
    config = {"file": LogConfig(path=str(path)), "stderr": LogConfig(), "nowhere": None, "given": LogConfig(path=str(path))}[where]
    given = MemoryLog()
    async with open_proxy(ProxyConfig(log=config), log=given if where == "given" else None) as proxy:
        assert (await Wire(proxy.connect()).ask()).status == 404
    written = path.read_text() if path.exists() else ""
    assert ("no_remap_rule" in written) is (where == "file")
    assert ("no_remap_rule" in capfd.readouterr().err) is (where == "stderr")
    assert len(given.records) == (where == "given")


async def test_plugin_that_fails_over_the_answer_of_another_is_to_blame() -> None:
    async def answer(_hook: str, txn: Any) -> None:
        txn.respond(204)

    async def fail(_hook: str, _txn: Any) -> None:
        raise RuntimeError

    plugins = [make_plugin("Answering", answer, "read_request"), make_plugin("Failing", fail, "send_response")]
    async with open_world(plugins=plugins) as world:
        assert (await world.connect().ask()).status == 500
    assert how(world.records[0]) == ("plugin", "plugin")


# ------------------------------------------------------------------------------------------------------------- what plugins can see


@pytest.mark.parametrize(
    ("case", "request_", "source"),
    [
        ("nothing", GET, "origin"),
        ("answer", GET, "plugin"),
        ("replace", GET, "plugin"),
        ("nothing", GET.replace(b"GET", b"TRACE").replace(b"\r\n\r\n", b"\r\nMax-Forwards: 0\r\n\r\n"), "proxy"),
        ("nothing", NO_HOST, "proxy"),
    ],
)
async def test_plugin_sees_who_has_made_the_response(case: str, request_: bytes, source: str) -> None:
    seen: list[str] = []

    async def act(hook: str, txn: Any) -> None:
        if hook == "send_response":
            seen.append(txn.response_source)
        elif case == ("answer" if hook == "read_request" else "replace"):
            txn.respond(204)

    async with open_world(plugins=[make_plugin("Looking", act, "read_request", "read_response", "send_response")]) as world:
        await world.connect().ask(request_)
    assert seen == [source]


@pytest.mark.parametrize(
    ("target", "required", "host", "routed"),
    [
        (None, True, b"ruled.test", True),
        (None, True, b"other.test", False),
        (None, False, b"other.test", True),
        (("origin.test", 80), True, b"other.test", True),
    ],
)
async def test_plugin_sees_if_a_request_has_somewhere_to_go(target: Any, required: bool, host: bytes, routed: bool) -> None:
    seen: list[bool] = []

    async def act(_hook: str, txn: Any) -> None:
        seen.append(txn.has_route)

    rule = RemapRule("//ruled.test/", "http://origin.test/")
    plugins = [make_plugin("Looking", act, "read_request")]
    async with open_world(plugins=plugins, remap=(rule,), http={"remap_required": required}) as world:
        answer = await world.connect(target=target).ask(GET.replace(b"origin.test", host))
    assert (seen, answer.status) == ([routed], 200 if routed else 404)


async def test_url_of_a_request_is_that_of_its_origin_after_remap() -> None:
    seen: list[str] = []

    async def act(hook: str, txn: Any) -> None:
        if hook == "send_request":
            txn.request.target = "/elsewhere"
        seen.append(str(txn.request.url))

    rule = RemapRule("/", "https://origin.test/base/")
    async with open_world(plugins=[make_plugin("Looking", act, "pre_remap", "post_remap", "send_request")], remap=(rule,)) as world:
        assert (await world.connect(target=None).ask()).status == 200
    assert seen == ["http://origin.test/path", "https://origin.test/base/path", "https://origin.test/elsewhere"]


@pytest.mark.parametrize("begun", [True, False])
async def test_client_that_sends_its_body_at_once_needs_no_100(begun: bool) -> None:
    async with open_world(http={"expect": "answer"}) as world:
        wire = world.connect()
        await wire.send(b"POST / HTTP/1.1\r\nHost: a\r\nExpect: 100-continue\r\nContent-Length: 5\r\n\r\n" + (b"hello" if begun else b""))
        if not begun:
            assert (await wire.answer()).status == 100
            await wire.send(b"hello")
        answer = await wire.answer()
        assert (answer.status, "connection" in answer.headers) == (200, False)


@pytest.mark.parametrize("aborts", [True, False])
async def test_record_shows_a_status_only_if_its_head_was_written_whole(aborts: bool) -> None:
    async def act(_hook: str, txn: Any) -> None:
        txn.respond(200, headers={"X": "x" * 1000})

    async with open_world(plugins=[make_plugin("Answering", act, "read_request")]) as world:
        wire = world.connect(buffer_index=0)
        await wire.send(GET)
        await trio.testing.wait_all_tasks_blocked()
        if aborts:
            wire.stream.abort("client_gone")  # type: ignore[attr-defined]
        else:
            assert (await wire.answer()).status == 200
        record = await world.record()
    assert record.status == (None if aborts else 200)


@pytest.mark.parametrize(
    ("request_", "source", "cause"),
    [
        (Request("GET", "/", {"Host": "a"}), "plugin", None),
        (Request("TRACE", "/", {"Host": "a", "Max-Forwards": "0"}), "proxy", None),
        (Request("TRACE", "/", {"Host": "a"}), "proxy", "no_remap_rule"),
    ],
)
async def test_fetched_response_says_who_has_made_it(request_: Request, source: str, cause: str | None) -> None:
    async def act(_hook: str, txn: Any) -> None:
        if txn.request.method == "GET":
            txn.respond(204)

    async with (
        open_proxy(plugins=[make_plugin("Answering", act, "read_request")]) as proxy,
        proxy.fetch(request_, raise_failures=False) as response,
    ):
        assert (response.source, response.cause) == (source, cause)


async def test_answer_205_has_no_content() -> None:
    async def act(_hook: str, txn: Any) -> None:
        txn.respond(205, "text")

    async with open_world(plugins=[make_plugin("Answering", act, "read_request")]) as world:
        wire = world.connect()
        for _ in range(2):
            answer = await wire.ask()
            assert (answer.status, answer.headers["content-length"], answer.body) == (205, "0", b"")


async def test_closing_hooks_that_end_in_time_are_not_mentioned(caplog: pytest.LogCaptureFixture) -> None:
    async def act(_hook: str, _subject: Any) -> None:
        await trio.lowlevel.checkpoint()

    async with open_world(plugins=[make_plugin("Closing", act, "transaction_close", "session_close")]) as world:
        assert (await world.connect().ask()).status == 200
    assert (world.records[0].plugin, caplog.messages) == ({}, [])
