"""Answers of plugins: the first one stands, a response may be replaced until it is begun, and a failed attempt is a hook."""

from __future__ import annotations

import socket
from collections.abc import AsyncIterator
from typing import Any

import pytest
import trio
import trio.testing

from tests.engine._world import GET, OK, Wire, how, open_world, replying
from tests.engine.test_hooks import make_plugin
from trio_tsconnect import (
    URL,
    ConnectOptions,
    DataKey,
    FetchError,
    Guard,
    HttpConfig,
    InvalidState,
    MemoryLog,
    OriginConfig,
    Plugin,
    ProxyConfig,
    RemapRule,
    Request,
    Session,
    Transaction,
    open_proxy,
)

Clock = trio.testing.MockClock
POST = b"POST /path HTTP/1.1\r\nHost: origin.test\r\nContent-Length: 5\r\n\r\nhello"
BODILESS = b"HTTP/1.1 204 No Content\r\n\r\n"


async def page(_hook: str, txn: Transaction) -> None:
    txn.respond(503, "a page", headers={"Retry-After": "5"})


async def closing(wire: Wire) -> None:
    """An origin that reads a request and leaves."""
    await wire.head()


# ----------------------------------------------------------------------------------------------------------------- the first answer stands


@pytest.mark.parametrize("hook", ["read_request", "pre_remap", "post_remap"])
async def test_second_answer_is_refused_and_names_the_first(hook: str) -> None:
    """Also one of the same plugin: a forgotten `return` is an error, not another answer."""

    async def twice(_hook: str, txn: Transaction) -> None:
        txn.respond(200, "one")
        txn.respond(201, "two")

    async with open_world(plugins=[make_plugin("Twice", twice, hook)]) as world:
        assert (await world.connect().ask()).status == 500
    assert world.records[0].plugin["Twice"]["failed"]["exception"] == "InvalidState: respond(): Twice has answered this request already"


async def test_second_intercept_is_refused_and_names_the_first() -> None:
    async def serve(stream: trio.abc.HalfCloseableStream) -> None:
        await stream.receive_some()
        await stream.send_all(OK)

    async def intercept(_hook: str, txn: Transaction) -> None:
        txn.intercept(serve)

    plugins = [make_plugin("First", intercept, "pre_remap"), make_plugin("Second", intercept, "post_remap")]
    async with open_world(plugins=plugins) as world:
        assert (await world.connect().ask()).status == 500
    assert world.records[0].plugin["Second"]["failed"]["exception"] == "InvalidState: intercept(): First has answered this request already"


async def test_plugin_that_blocks_a_path_is_asked_although_an_origin_was_chosen() -> None:
    """An intercept is an origin, so a plugin of one's own that blocks a path comes before it, in whatever order they are."""

    async def intercept(_hook: str, txn: Transaction) -> None:
        txn.intercept(lambda stream: stream.send_all(OK))

    async with open_world(plugins=[make_plugin("App", intercept, "read_request"), make_plugin("Block", page, "post_remap")]) as world:
        assert (await world.connect().ask()).status == 503
    assert how(world.records[0]) == ("plugin", "responded")


async def test_answer_outside_of_a_hook_is_refused() -> None:
    seen: list[str] = []

    async def keep(_hook: str, txn: Transaction) -> None:
        kept.append(txn)

    async def late(_hook: str, _session: Session) -> None:
        for answer in (lambda: kept[0].respond(200), lambda: kept[0].retry()):
            with pytest.raises(InvalidState) as caught:
                answer()
            seen.append(str(caught.value))

    kept: list[Transaction] = []
    async with open_world(plugins=[make_plugin("Keeps", keep, "read_request"), make_plugin("Late", late, "session_close")]) as world:
        assert (await world.connect().ask()).status == 200
    assert "a task outside of a hook" in seen[0]


# ------------------------------------------------------------------------------------------------------------------ replacing a response


@pytest.mark.parametrize("hook", ["send_request", "read_response", "send_response"])
@pytest.mark.parametrize("request_", [GET, POST], ids=["get", "post"])
async def test_response_is_replaced_and_the_connection_goes_on(hook: str, request_: bytes) -> None:
    async with open_world(replying(OK), plugins=[make_plugin("Pages", page, hook)]) as world:
        wire = world.connect()
        for _ in range(2):
            answer = await wire.ask(request_)
            assert (answer.status, answer.body, answer.headers["retry-after"]) == (503, b"a page", "5")
        assert len(world.origin.streams) == 1  # it was kept, for the small body was there already
    assert [how(record) for record in world.records] == [("plugin", "responded")] * 2
    assert [record.origin_status for record in world.records] == [None if hook == "send_request" else 200] * 2


async def test_large_body_of_a_replaced_response_is_not_waited_for() -> None:
    async def endless(wire: Wire) -> None:
        await wire.head()
        await wire.send(b"HTTP/1.1 200 OK\r\nContent-Length: 1000000\r\n\r\n" + bytes(100))
        await wire.rest()  # until the connection is closed

    async with open_world(endless, plugins=[make_plugin("Pages", page, "read_response")]) as world:
        assert (await world.connect().ask()).body == b"a page"
        assert world.origin.open_connections == 0


@pytest.mark.parametrize(
    "first", [b"HTTP/1.1 103 Early Hints\r\n\r\n", b"HTTP/1.1 101 Switching\r\nConnection: Upgrade\r\nUpgrade: x\r\n\r\n"]
)
async def test_interim_response_and_switch_are_replaced_too(first: bytes) -> None:
    async with open_world(replying(first + OK), plugins=[make_plugin("Pages", page, "read_response")]) as world:
        wire = world.connect()
        await wire.send(b"GET / HTTP/1.1\r\nHost: a\r\nConnection: Upgrade\r\nUpgrade: x\r\n\r\n")
        assert (await wire.answer()).body == b"a page"


async def test_response_after_an_interim_one_is_replaced() -> None:
    async with open_world(
        replying(b"HTTP/1.1 103 Early Hints\r\n\r\n" + OK), plugins=[make_plugin("Pages", page, "send_response")]
    ) as world:
        wire = world.connect()
        await wire.send(GET)
        assert [(await wire.answer()).status for _ in range(2)] == [103, 503]


async def test_tunnel_is_not_opened_if_its_response_is_replaced() -> None:
    async with open_world(plugins=[make_plugin("Pages", page, "send_response")], http={"connect": ("*:*",)}) as world:
        wire = world.connect()
        await wire.send(b"CONNECT origin.test:443 HTTP/1.1\r\nHost: origin.test:443\r\n\r\n")
        assert (await wire.answer()).status == 503
    assert world.records[0].status == 503


async def test_page_for_a_dead_origin(autojump_clock: Clock) -> None:
    """The record still says why: the origin."""

    async def pages(_hook: str, txn: Transaction) -> None:
        if txn.response.status == 502:
            txn.respond(502, "we are sorry", headers=txn.response.headers)

    async with open_world(closing, plugins=[make_plugin("Pages", pages, "send_response")]) as world:
        answer = await world.connect().ask()
        assert (answer.status, answer.body) == (502, b"we are sorry")
    assert how(world.records[0]) == ("origin", "origin_closed")


async def test_two_plugins_may_not_replace_the_same_response() -> None:
    plugins = [make_plugin("First", page, "send_response"), make_plugin("Second", page, "send_response")]
    async with open_world(replying(OK), plugins=plugins) as world:
        assert (await world.connect().ask()).status == 500
    assert world.records[0].plugin["Second"]["failed"]["exception"] == "InvalidState: respond(): First has answered already"


async def test_retry_and_answer_exclude_each_other() -> None:
    async def both(_hook: str, txn: Transaction) -> None:
        if txn.attempts == 1:
            txn.retry()
            with pytest.raises(InvalidState, match="after retry"):
                txn.respond(200)

    async def other(_hook: str, txn: Transaction) -> None:
        txn.respond(200)
        with pytest.raises(InvalidState, match="after respond"):
            txn.retry()

    for act in (both, other):
        async with open_world(replying(OK), plugins=[make_plugin("Both", act, "read_response")], origin={"max_retries": 1}) as world:
            assert (await world.connect().ask()).status == 200


async def test_answer_that_was_not_sent_is_forgotten_when_a_later_plugin_fails() -> None:
    async def fail(_hook: str, txn: Transaction) -> None:
        if txn.response.status == 503:
            raise ValueError("told to")

    async with open_world(plugins=[make_plugin("Pages", page, "read_request"), make_plugin("Fails", fail, "send_response")]) as world:
        answer = await world.connect().ask()
        assert (answer.status, b"a page" in answer.body) == (500, False)


@pytest.mark.parametrize("hook", ["read_request", "send_response"])
async def test_head_of_a_replaced_response_says_how_long_it_is(hook: str) -> None:
    async with open_world(replying(OK), plugins=[make_plugin("Pages", page, hook)]) as world:
        answer = await world.connect().ask(b"HEAD / HTTP/1.1\r\nHost: origin.test\r\n\r\n")
        assert (answer.status, answer.headers["content-length"]) == (503, "6")


# -------------------------------------------------------------------------------------------------------------------- a failed attempt


def closed_port() -> int:
    """A port on which nothing listens."""
    with socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))
        return int(unused.getsockname()[1])


class Failover(Plugin):
    """Goes to another origin after a failure, and writes down what it was told."""

    def __init__(self, target: str | None) -> None:
        self.target = target
        self.seen: list[tuple[str, int, bool]] = []

    async def origin_failed(self, txn: Transaction) -> None:
        failure = txn.failure
        self.seen.append((failure.cause, failure.attempt, failure.repeatable))
        if failure.repeatable:
            txn.retry(self.target)


async def serving(wire: Wire) -> None:
    _, headers = await wire.head()
    body = await wire.body(headers)
    await wire.send(b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n" % len(body) + body)


@pytest.mark.parametrize("body", [b"", b"hello"])
async def test_request_goes_elsewhere_if_the_origin_is_dead(body: bytes) -> None:
    """Also one with a streamed body: nothing of it was read yet."""
    listeners = await trio.open_tcp_listeners(0, host="127.0.0.1")
    alive = f"http://127.0.0.1:{listeners[0].socket.getsockname()[1]}/other"
    failover, log = Failover(alive), MemoryLog()

    async def serve(stream: trio.SocketStream) -> None:
        async with stream:
            wire = Wire(stream)
            first, headers = await wire.head()
            assert (first, headers["host"]) == ("POST /other HTTP/1.1", alive[7:-6])
            await wire.send(b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\n" + (await wire.body(headers)).rjust(5))

    rule = RemapRule("/", f"http://127.0.0.1:{closed_port()}/")
    async with trio.open_nursery() as nursery:
        nursery.start_soon(trio.serve_listeners, serve, listeners)
        async with open_proxy(ProxyConfig(remap=[rule]), plugins=[failover], log=log) as proxy:
            wire = Wire(proxy.connect())
            await wire.send(b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: %d\r\n\r\n" % len(body))
            await trio.testing.wait_all_tasks_blocked()
            await wire.send(body)
            assert (await wire.answer()).body == body.rjust(5)
        nursery.cancel_scope.cancel()
    assert failover.seen == [("origin_refused", 1, True)]
    assert (log.records[0].attempts, how(log.records[0])) == (2, ("proxy", "complete"))
    assert log.records[0].origin_url == alive


@pytest.mark.parametrize("stage", ["unreachable", "closed", "slow", "silent"])
async def test_every_failure_before_a_response_is_offered(autojump_clock: Clock, stage: str) -> None:
    """Timeouts too, which end the block in which the attempt runs."""
    attempts = 0

    async def origin(wire: Wire) -> None:
        nonlocal attempts
        attempts += 1
        await wire.head()
        if attempts > 1 or stage == "unreachable":
            await wire.send(OK)
        elif stage == "slow":
            await trio.sleep_forever()
        elif stage == "silent":
            await wire.send(b"HTTP/1.1 2")
            await trio.sleep_forever()

    failover = Failover(None)
    async with open_world(origin, plugins=[failover], origin={"response_timeout": 3, "connect_timeout": 2}) as world:
        if stage == "unreachable":
            world.origin.delay = 5
        wire = world.connect()
        await wire.send(GET)
        if stage == "unreachable":
            await trio.sleep(1)
            world.origin.delay = 0
        assert (await wire.answer()).body == b"hello"
        await wire.stream.aclose()
    causes = {
        "unreachable": "origin_connect_timeout",
        "closed": "origin_closed",
        "slow": "origin_response_timeout",
        "silent": "origin_response_timeout",
    }
    assert failover.seen == [(causes[stage], 1, True)]
    assert (world.records[0].attempts, how(world.records[0])) == (2, ("proxy", "complete"))


async def test_attempts_are_bounded(autojump_clock: Clock) -> None:
    failover = Failover(None)
    async with open_world(closing, plugins=[failover], origin={"max_retries": 3, "retries": 0}) as world:
        assert (await world.connect().ask()).status == 502
    assert [attempt for _, attempt, _ in failover.seen] == [1, 2, 3, 4]
    assert (world.records[0].attempts, how(world.records[0])) == (4, ("origin", "origin_closed"))


async def test_body_that_was_sent_is_not_repeatable(autojump_clock: Clock) -> None:
    async def origin(wire: Wire) -> None:
        _, headers = await wire.head()
        await wire.body(headers)

    failover = Failover(None)
    refused: list[str] = []

    class Insists(Plugin):
        async def origin_failed(self, txn: Transaction) -> None:
            try:
                txn.retry()
            except InvalidState as exc:
                refused.append(str(exc))

    async with open_world(origin, plugins=[failover, Insists()]) as world:
        assert (await world.connect().ask(POST)).status == 502
    assert failover.seen == [("origin_closed", 1, False)]
    assert "request body that can be sent again" in refused[0]


async def test_post_whose_origin_may_have_done_it_is_not_repeatable_but_may_be_repeated(autojump_clock: Clock) -> None:
    class Insists(Plugin):
        async def read_request(self, txn: Transaction) -> None:
            await txn.read_request_body(100)

        async def origin_failed(self, txn: Transaction) -> None:
            assert not txn.failure.repeatable
            txn.retry()

    async with open_world(closing, plugins=[Insists()], origin={"max_retries": 2}) as world:
        assert (await world.connect().ask(POST)).status == 502
    assert world.records[0].attempts == 3


async def test_plugin_answers_a_failed_attempt(autojump_clock: Clock) -> None:
    async with open_world(closing, plugins=[make_plugin("Pages", page, "origin_failed")]) as world:
        wire = world.connect()
        for _ in range(2):
            assert (await wire.ask()).body == b"a page"
    assert [how(record) for record in world.records] == [("plugin", "responded")] * 2


async def test_failure_is_there_in_its_hook_alone(autojump_clock: Clock) -> None:
    seen: list[str] = []

    async def look(hook: str, txn: Transaction) -> None:
        try:
            seen.append(f"{hook}: {txn.failure.cause} at {txn.failure.origin}")
        except InvalidState:
            seen.append(f"{hook}: none")

    async with open_world(closing, plugins=[make_plugin("Looks", look, "post_remap", "origin_failed", "send_response")]) as world:
        assert (await world.connect().ask()).status == 502
    assert seen == ["post_remap: none", "origin_failed: origin_closed at origin.test:80", "send_response: none"]


async def test_plugin_that_fails_in_origin_failed_is_blamed(autojump_clock: Clock) -> None:
    async def fail(_hook: str, txn: Transaction) -> None:
        raise ValueError("told to")

    async with open_world(closing, plugins=[make_plugin("Failing", fail, "origin_failed")]) as world:
        assert (await world.connect().ask()).status == 500
    assert world.records[0].plugin["Failing"]["failed"]["hook"] == "origin_failed"


async def test_whole_transaction_ends_in_time_however_often_it_fails(autojump_clock: Clock) -> None:
    async def origin(wire: Wire) -> None:
        await trio.sleep_forever()

    failover = Failover(None)
    bounds = {"response_timeout": 3, "max_retries": 100}
    async with open_world(origin, plugins=[failover], origin=bounds, http={"transaction_timeout": 10}) as world:
        start = trio.current_time()
        assert (await world.connect().ask()).status == 504
        assert trio.current_time() - start == pytest.approx(10)
    assert [attempt for _, attempt, _ in failover.seen] == [1, 2, 3]
    assert how(world.records[0]) == ("proxy", "transaction_timeout")


async def test_client_that_leaves_while_a_plugin_thinks_about_a_failure_ends_the_transaction(autojump_clock: Clock) -> None:
    async def think(_hook: str, txn: Transaction) -> None:
        await trio.sleep_forever()

    async with open_world(closing, plugins=[make_plugin("Thinks", think, "origin_failed")]) as world:
        wire = world.connect()
        await wire.send(GET)
        await trio.testing.wait_all_tasks_blocked()
        await wire.stream.aclose()
        await world.log.wait()
    assert how(world.records[0])[0] == "client"


async def test_retry_to_a_target_leaves_the_plugin_that_has_intercepted() -> None:
    async def serve(stream: trio.abc.HalfCloseableStream) -> None:
        await stream.receive_some()

    class App(Plugin):
        async def pre_remap(self, txn: Transaction) -> None:
            txn.intercept(serve)

    async with open_world(replying(OK), plugins=[App(), Failover("http://other.test/")]) as world:
        assert (await world.connect().ask()).body == b"hello"


async def test_what_was_added_for_a_response_is_gone_with_it() -> None:
    """A transform that was added in `read_response` is for that response, one that was added before is for every response."""

    class Shouts(Plugin):
        async def post_remap(self, txn: Transaction) -> None:
            txn.transform_response(exclaim)

        async def read_response(self, txn: Transaction) -> None:
            txn.transform_response(shout)

    class Second(Plugin):
        async def read_response(self, txn: Transaction) -> None:
            if txn.response.status == 503:
                txn.retry()

    async def exclaim(body: AsyncIterator[bytes]) -> AsyncIterator[bytes]:
        async for piece in body:
            yield piece + b"?"

    busy = b"HTTP/1.1 503 Busy\r\nContent-Length: 4\r\n\r\nbusy"
    async with open_world(replying(busy, OK), plugins=[Shouts(), Second()]) as world:
        assert (await world.connect().ask()).body == b"HELLO?!"
    async with open_world(replying(OK), plugins=[Shouts(), make_plugin("Pages", page, "send_response")]) as world:
        assert (await world.connect().ask()).body == b"a page?"


@pytest.mark.parametrize("act", ["respond", "retry"])
@pytest.mark.parametrize("hook", ["send_request", "read_response", "origin_failed"])
async def test_other_plugins_do_not_see_what_a_plugin_has_dropped(autojump_clock: Clock, hook: str, act: str) -> None:
    seen: list[str] = []

    async def first(_hook: str, txn: Transaction) -> None:
        if act == "respond":
            txn.respond(503, "a page")
        elif txn.can_retry and txn.attempts == 1:
            txn.retry()

    async def second(_hook: str, txn: Transaction) -> None:
        seen.append(f"{_hook} {txn.attempts}")

    serve = closing if hook == "origin_failed" else replying(OK)
    async with open_world(serve, plugins=[make_plugin("First", first, hook), make_plugin("Second", second, hook)]) as world:
        answer = await world.connect().ask()
    if act == "respond":
        assert (answer.status, seen) == (503, [])
    else:
        assert seen == [f"{hook} {1 if hook == 'send_request' else 2}"]


async def test_origin_that_is_chosen_cannot_be_changed_by_the_url() -> None:
    async def act(_hook: str, txn: Transaction) -> None:
        txn.request.url = "http://elsewhere.test/x"  # type: ignore[assignment]

    async with open_world(replying(OK), plugins=[make_plugin("Late", act, "send_request")]) as world:
        assert (await world.connect().ask()).status == 500
    assert "the origin origin.test is chosen already" in world.records[0].plugin["Late"]["failed"]["exception"]


async def test_path_and_query_can_be_changed_until_the_request_is_sent() -> None:
    async def act(_hook: str, txn: Transaction) -> None:
        txn.request.url = "http://origin.test/other?q"  # type: ignore[assignment]

    async def origin(wire: Wire) -> None:
        first, _ = await wire.head()
        assert first == "GET /other?q HTTP/1.1"
        await wire.send(OK)

    async with open_world(origin, plugins=[make_plugin("Late", act, "send_request")]) as world:
        assert (await world.connect().ask()).status == 200


@pytest.mark.parametrize("answered", [False, True])
async def test_guard_of_a_rule_sees_the_url_at_the_origin(answered: bool) -> None:
    seen: list[str] = []

    class Looks(Guard):
        async def judge(self, txn: Transaction) -> None:
            seen.append(f"{txn.url} {txn.request.url}")

    rule = RemapRule("//origin.test/", "http://real.test/v1/", plugins=[Looks()])
    plugins = [make_plugin("Pages", page, "read_request")] if answered else []
    async with open_world(replying(OK), plugins=plugins, remap=(rule,)) as world:
        assert (await world.connect(target=None).ask()).status == (503 if answered else 200)
    assert seen == ["http://origin.test/path http://real.test/v1/path"]


@pytest.mark.parametrize("guarded", [False, True])
async def test_request_without_a_valid_url_may_be_answered(guarded: bool) -> None:
    rule = RemapRule("/", "http://real.test/", plugins=[Private()] if guarded else [])
    async with open_world(plugins=[make_plugin("Pages", page, "read_request")], remap=(rule,)) as world:
        assert (await world.connect(target=None).ask(b"GET / HTTP/1.1\r\nHost:\r\n\r\n")).status == 503


# ------------------------------------------------------------------------------------------------------------------------------- the end


async def test_what_a_plugin_logs_at_the_end_is_in_the_record() -> None:
    async def note(_hook: str, txn: Transaction) -> None:
        assert txn.ended is not None
        txn.log.update(why=txn.ended.why, states=len(txn.milestones))

    async with open_world(replying(OK), plugins=[make_plugin("Notes", note, "transaction_close")]) as world:
        assert (await world.connect().ask()).status == 200
        record = await world.record()
    assert record.plugin["Notes"] == {"why": "complete", "states": 7}


async def test_plugin_that_hangs_or_fails_at_the_end_costs_no_record(autojump_clock: Clock) -> None:
    async def fail(_hook: str, txn: Transaction) -> None:
        raise ValueError("told to")

    async def hang(_hook: str, txn: Transaction) -> None:
        await trio.sleep_forever()

    plugins = [make_plugin("Fails", fail, "transaction_close"), make_plugin("Hangs", hang, "transaction_close")]
    async with open_world(replying(OK), plugins=plugins, http={"close_timeout": 3}) as world:
        start = trio.current_time()
        assert (await world.connect().ask()).status == 200
        (record,) = await world.log.wait()
        assert trio.current_time() - start == pytest.approx(3)
    failed = record.plugin["Fails"]["failed"]
    assert (failed["hook"], failed["exception"]) == ("transaction_close", "ValueError: told to")
    assert record.plugin["Hangs"] == {"cut_short": "transaction_close"}


# ------------------------------------------------------------------------------------------------------------------------------ children


async def test_fetch_tells_whose_response_it_is(autojump_clock: Clock) -> None:
    async def answer(_hook: str, txn: Transaction) -> None:
        if txn.request.url.under("/plugin"):
            txn.respond(418)

    async with open_world(replying(OK), plugins=[make_plugin("Pot", answer, "read_request")]) as world:
        seen = {}
        for path in ("/origin", "/plugin", "/nowhere"):
            direct = path != "/nowhere"
            async with world.proxy.fetch(f"http://origin.test{path}", direct=direct, raise_failures=False) as response:
                await response.body.read()
                seen[path] = (response.status, response.source, response.cause)
    assert seen == {"/origin": (200, "origin", None), "/plugin": (418, "plugin", None), "/nowhere": (404, "proxy", "no_remap_rule")}


async def test_fetch_raises_if_the_proxy_itself_has_failed(autojump_clock: Clock) -> None:
    pages = make_plugin("Pages", page, "send_response")
    for plugins in ([], [pages]):  # a page of one's own is still the page of a failure
        async with open_world(closing, plugins=plugins) as world:
            with pytest.raises(FetchError, match="origin_closed") as caught:
                async with world.proxy.fetch("http://origin.test/", direct=True):
                    pass
            assert caught.value.cause == "origin_closed"


async def test_fetch_takes_a_url_a_text_or_a_request() -> None:
    async with open_world(replying(OK)) as world:
        for what in ("http://origin.test/x?y", URL.parse("http://origin.test/x?y"), Request("GET", "/x?y", {"Host": "origin.test"})):
            async with world.proxy.fetch(what, direct=True) as response:
                assert await response.body.read() == b"hello"
    assert {(record.method, record.url) for record in world.records} == {("GET", "http://origin.test/x?y")}


async def test_fetch_refuses_what_is_no_url_at_the_call() -> None:
    async with open_world() as world:
        with pytest.raises(ValueError, match="is not scheme://host"):
            world.proxy.fetch("/only/a/path")
        with pytest.raises(ValueError, match="direct=True takes the target"):
            world.proxy.fetch("http://a.test/", direct=True, options=ConnectOptions(target=("b.test", 80)))


# ----------------------------------------------------------------------------------------------------------------------- typed values


async def test_typed_values_belong_to_one_transaction_and_children_inherit_where_asked() -> None:
    names, mine = DataKey(list[str], inherit=True), DataKey(list[int])
    seen: list[tuple[list[str], list[int]]] = []

    class Keeps(Plugin):
        async def read_request(self, txn: Transaction) -> None:
            names.of(txn).append("root" if txn.parent is None else "child")
            mine.of(txn).append(txn.depth)
            mine.of(txn.session).append(7)
            if txn.parent is None:
                async with txn.fetch("http://origin.test/", direct=True) as response:
                    await response.body.read()
            seen.append((names.of(txn), mine.of(txn)))
            assert mine.of(txn.session) == [7]

    async with open_world(replying(OK), plugins=[Keeps()]) as world:
        assert (await world.connect().ask()).status == 200
    (child_names, child_mine), (root_names, root_mine) = seen
    assert child_names is root_names
    assert root_names == ["root", "child"]
    assert (root_mine, child_mine) == ([0], [1])


def test_key_without_a_factory_is_refused() -> None:
    with pytest.raises(TypeError, match="must be callable"):
        DataKey(5)  # type: ignore[arg-type]


# ---------------------------------------------------------------------------------------------------------------------------- transforms


async def shout(body: AsyncIterator[bytes]) -> AsyncIterator[bytes]:
    async for piece in body:
        yield piece.upper()
    yield b"!"


class Slowly:
    """A transform that waits."""

    async def feed(self, data: bytes) -> bytes:
        await trio.sleep(1)
        return data.upper()

    async def finish(self) -> bytes:
        await trio.sleep(1)
        return b"!"


@pytest.mark.parametrize("transform", [shout, Slowly()], ids=["generator", "async"])
@pytest.mark.parametrize("answered", [False, True], ids=["origin", "respond"])
async def test_response_passes_through(autojump_clock: Clock, transform: Any, answered: bool) -> None:
    async def act(_hook: str, txn: Transaction) -> None:
        txn.transform_response(transform)
        if answered:
            txn.respond(200, b"hello")

    async with open_world(replying(OK), plugins=[make_plugin("Shouts", act, "post_remap")]) as world:
        wire = world.connect()
        assert (await wire.ask()).body == b"HELLO!"
        assert (await wire.ask(b"HEAD / HTTP/1.1\r\nHost: origin.test\r\n\r\n")).body == b""
        assert (await wire.ask()).body == b"HELLO!"


@pytest.mark.parametrize("transform", [shout, Slowly()], ids=["generator", "async"])
@pytest.mark.parametrize("read", [False, True], ids=["streamed", "read"])
async def test_request_passes_through(autojump_clock: Clock, transform: Any, read: bool) -> None:
    async def act(_hook: str, txn: Transaction) -> None:
        txn.transform_request(transform)
        if read:
            await txn.read_request_body(100)

    async with open_world(serving, plugins=[make_plugin("Shouts", act, "post_remap")]) as world:
        assert (await world.connect().ask(POST)).body == b"HELLO!"


async def test_truncated_body_does_not_pass_for_a_complete_one_whatever_the_transform_does() -> None:
    async def swallow(body: AsyncIterator[bytes]) -> AsyncIterator[bytes]:
        try:
            async for piece in body:
                yield piece
        except Exception:  # noqa: BLE001
            yield b" and so on"

    async def act(_hook: str, txn: Transaction) -> None:
        txn.transform_response(swallow)

    async def origin(wire: Wire) -> None:
        await wire.head()
        await wire.send(b"HTTP/1.1 200 OK\r\nContent-Length: 50\r\n\r\nhello")

    async with open_world(origin, plugins=[make_plugin("Swallows", act, "read_response")]) as world:
        assert not (await world.connect().ask()).whole
    assert how(world.records[0]) == ("origin", "origin_truncated")


@pytest.mark.parametrize("where", ["first", "later", "end", "cleanup"])
async def test_generator_that_fails_is_its_plugins_failure(where: str) -> None:
    async def fail(body: AsyncIterator[bytes]) -> AsyncIterator[bytes]:
        if where == "first":
            raise ValueError("told to")
        try:
            async for piece in body:
                yield piece
                if where == "later":
                    raise ValueError("told to")
        finally:
            if where == "cleanup":
                raise ValueError("told to")
        if where == "end":
            raise ValueError("told to")

    async def act(_hook: str, txn: Transaction) -> None:
        txn.transform_response(fail)

    async with open_world(replying(OK), plugins=[make_plugin("Fails", act, "read_response")]) as world:
        await world.connect().ask()
    assert how(world.records[0]) == ("plugin", "plugin")
    assert world.records[0].plugin["Fails"]["failed"]["exception"] == "ValueError: told to"


async def test_generators_are_closed_when_the_client_leaves(autojump_clock: Clock) -> None:
    closed: list[str] = []

    async def watch(body: AsyncIterator[bytes]) -> AsyncIterator[bytes]:
        try:
            async for piece in body:
                yield piece
        finally:
            closed.append("closed")

    async def act(_hook: str, txn: Transaction) -> None:
        txn.transform_response(watch)
        txn.transform_response(shout)
        txn.transform_response(watch)

    async def endless(wire: Wire) -> None:
        await wire.head()
        await wire.send(b"HTTP/1.1 200 OK\r\n\r\n")
        while True:
            await wire.send(bytes(1000))

    async with open_world(endless, plugins=[make_plugin("Watches", act, "read_response")]) as world:
        wire = world.connect()
        await wire.send(GET)
        await wire.until(b"\r\n\r\n")
        await wire.stream.aclose()
        await world.log.wait()
        assert closed == ["closed", "closed"]


async def test_generator_may_stop_before_the_body_ends() -> None:
    async def first(body: AsyncIterator[bytes]) -> AsyncIterator[bytes]:
        async for piece in body:
            yield piece[:2]
            return

    async def act(_hook: str, txn: Transaction) -> None:
        txn.transform_response(first)

    large = b"HTTP/1.1 200 OK\r\nContent-Length: 300000\r\n\r\n" + b"x" * 300000
    async with open_world(replying(large), plugins=[make_plugin("First", act, "read_response")]) as world:
        wire = world.connect()
        for _ in range(2):
            assert (await wire.ask()).body == b"xx"


# ---------------------------------------------------------------------------------------------------------- the path guard, everywhere


class Private(Guard):
    async def judge(self, txn: Transaction) -> None:
        if txn.request.url.under("/private"):
            txn.respond(403)


@pytest.mark.parametrize(
    "target", ["/private/x", "http://origin.test/private", "http://OTHER.test//private", "/x/..%2f%70rivate", "/;/private"]
)
async def test_path_guard_holds_in_every_form(target: str) -> None:
    async with open_world(replying(OK), plugins=[Private()]) as world:
        wire = world.connect()
        assert (await wire.ask(f"GET {target} HTTP/1.1\r\nHost: origin.test\r\n\r\n".encode())).status == 403
        assert (await wire.ask()).status == 200


async def test_request_without_a_valid_url_is_the_clients_fault_also_if_a_plugin_looks() -> None:
    config = ProxyConfig(http=HttpConfig(), origin=OriginConfig())
    async with open_proxy(config, plugins=[Private()], log=(log := MemoryLog())) as proxy:
        answer = await Wire(proxy.connect()).ask(b"GET /x HTTP/1.1\r\nHost:\r\n\r\n")
        assert answer.status == 400
    assert how(log.records[0])[0] == "client"


async def test_url_of_the_client_stays_while_that_of_the_request_changes() -> None:
    seen: list[str] = []

    async def act(hook: str, txn: Transaction) -> None:
        seen.append(f"{hook} {txn.url} {txn.request.url}")
        if hook == "pre_remap":
            txn.request.url = "http://b.test/new"  # type: ignore[assignment]

    rule = RemapRule("//b.test/", "http://origin.test/base/")
    plugin = make_plugin("Looks", act, "read_request", "pre_remap", "post_remap", "send_request")
    async with open_world(replying(OK), plugins=[plugin], remap=(rule,)) as world:
        assert (await world.connect(target=None).ask(b"GET /old?q HTTP/1.1\r\nHost: A.test\r\n\r\n")).status == 200
    client = "http://a.test/old?q"
    assert seen == [
        f"read_request {client} {client}",
        f"pre_remap {client} {client}",
        f"post_remap {client} http://origin.test/base/new",
        f"send_request {client} http://origin.test/base/new",
    ]
    assert (world.records[0].url, world.records[0].origin_url) == (client, "http://origin.test/base/new")
