"""Decisions of the engine that no other test tells from their opposites."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import Any

import pytest
import trio
import trio.testing

from tests.engine._world import GET, OK, Wire, how, listening, open_world, silent
from tests.engine.test_hooks import make_plugin
from trio_tsconnect import (
    AccessRule,
    ClientInfo,
    ConnectOptions,
    ConnectRefused,
    Guard,
    MemoryLog,
    Plugin,
    ProxyConfig,
    RemapRule,
    Request,
    Transaction,
    open_proxy,
)
from trio_tsconnect.message import Failure, TransactionFailure

Clock = trio.testing.MockClock
NO_HOST = b"GET /path HTTP/1.1\r\n\r\n"


# ------------------------------------------------------------------------------------------------------------------------ connections


@pytest.mark.parametrize(
    ("options", "local", "remote", "internal"),
    [
        ({}, ("virtual", 0), ("virtual", 0), True),
        ({"client": ClientInfo(address=("192.0.2.9", 1234))}, ("192.0.2.9", 1234), ("virtual", 0), False),
        ({"client": ClientInfo(address="192.0.2.9")}, ("192.0.2.9", 0), ("virtual", 0), False),
        ({"client": ClientInfo(address="192.0.2.9"), "internal": True}, ("192.0.2.9", 0), ("virtual", 0), True),
        ({"target": ("origin.test", 81), "internal": False}, ("virtual", 0), ("origin.test", 81), False),
    ],
)
async def test_connection_knows_who_is_at_its_ends(
    options: dict[str, Any], local: tuple[str, int], remote: tuple[str, int], internal: bool
) -> None:
    async with open_proxy() as proxy:
        connection = proxy.connect(ConnectOptions(tag="tag", id=3, **options))
        assert (connection.local_address, connection.remote_address) == (local, remote)
        assert (connection.internal, connection.client_info) == (internal, options.get("client"))
        connection.close()


async def test_proxy_that_has_served_nobody_has_nothing_to_wait_for(autojump_clock: Clock) -> None:
    async with open_proxy() as proxy:
        began = trio.current_time()
        assert await proxy.drain(100)
    assert trio.current_time() == began


# --------------------------------------------------------------------------------------------------------- requests without a valid URL


class Refusing(Guard):
    async def judge(self, txn: Transaction) -> None:
        txn.respond(403)


GUARDED = (RemapRule("/path", "http://origin.test/", plugins=(Refusing(),)),)


async def test_plugin_may_answer_a_request_that_has_no_url_although_a_rule_is_guarded() -> None:
    async def act(_hook: str, txn: Any) -> None:
        txn.respond(204)

    async with open_world(plugins=[make_plugin("Answering", act, "read_request")], remap=GUARDED) as world:
        assert (await world.connect().ask(NO_HOST)).status == 204  # no rule can match it
        assert (await world.connect().ask()).status == 403
    assert [record.remap_rule for record in world.records] == [None, "/path"]


async def test_bad_request_that_a_plugin_makes_of_a_good_one_is_its_failure() -> None:
    """A request without a URL is the client's fault wherever it is found; a hook that raises the same of another request has failed."""

    async def act(_hook: str, txn: Any) -> None:
        Request("GET", "/", {}).url  # noqa: B018 - it has no Host

    async with open_world(plugins=[make_plugin("Confused", act, "read_request")]) as world:
        assert (await world.connect().ask(NO_HOST)).status == 400
        assert (await world.connect().ask()).status == 500
    assert [how(record) for record in world.records] == [("client", "no_host"), ("plugin", "plugin")]


# ------------------------------------------------------------------------------------------------------------- what goes to the origin


async def test_twin_of_the_deadline_field_does_not_come_back_with_a_head_that_a_plugin_has_kept() -> None:
    seen: list[dict[str, str]] = []

    async def origin(wire: Wire) -> None:
        _, headers = await wire.head()
        seen.append(headers)
        await wire.send(OK)

    async def act(hook: str, txn: Any) -> None:
        if hook == "read_request":
            txn.data["head"] = txn.request.headers.copy()
        else:
            txn.request.headers = txn.data["head"]

    plugins = [make_plugin("Keeping", act, "read_request", "send_request")]
    async with open_world(origin, plugins=plugins, http={"deadline_header": "X-Deadline"}) as world:
        ask = GET.replace(b"\r\n\r\n", b"\r\nX_Deadline: 999999\r\nX_Other: 1\r\n\r\n")
        assert (await world.connect().ask(ask)).status == 200
    assert ("x_deadline" in seen[0], "x_other" in seen[0]) == (False, True)


@pytest.mark.parametrize(("retries", "statuses", "attempts"), [(0, [200, 502], 1), (1, [200, 200], 2)])
async def test_request_is_sent_again_as_often_as_configured(retries: int, statuses: list[int], attempts: int) -> None:
    """The first request of a connection is answered; the second one finds that the origin has closed it meanwhile."""
    connections = 0

    async def origin(wire: Wire) -> None:
        nonlocal connections
        connections += 1
        await wire.head()
        await wire.send(OK)
        await wire.head()

    async with open_world(origin, origin={"retries": retries}) as world:
        wire = world.connect()
        assert [(await wire.ask()).status for _ in range(2)] == statuses
    assert (connections, world.records[1].attempts) == (attempts, attempts)


@pytest.mark.parametrize(("limit", "status"), [(4, 413), (5, 200), (None, 200)])
@pytest.mark.parametrize("framing", [b"Content-Length: 5\r\n\r\nhello", b"Transfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n0\r\n\r\n"])
@pytest.mark.parametrize("reads", [False, True])
async def test_body_may_be_as_large_as_the_limit_says(limit: int | None, status: int, framing: bytes, reads: bool) -> None:
    async def act(_hook: str, txn: Any) -> None:
        if reads:
            await txn.read_request_body(5)

    async with open_world(plugins=[make_plugin("Reading", act, "pre_remap")], http={"max_request_body": limit}) as world:
        assert (await world.connect().ask(b"POST / HTTP/1.1\r\nHost: a\r\n" + framing)).status == status
    assert how(world.records[0]) == (("proxy", "complete") if status == 200 else ("client", "request_too_large"))


@pytest.mark.parametrize(("limit", "status"), [(4, 413), (5, 200)])
@pytest.mark.parametrize("first", [5, 100])
async def test_plugin_that_reads_a_body_has_the_limit_that_it_gives(limit: int, status: int, first: int) -> None:
    """Also if another plugin, with another limit, has read it before."""

    async def act(hook: str, txn: Any) -> None:
        await txn.read_request_body(first if hook == "read_request" else limit)

    async with open_world(plugins=[make_plugin("Reading", act, "read_request", "pre_remap")]) as world:
        assert (await world.connect().ask(b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 5\r\n\r\nhello")).status == status


# ------------------------------------------------------------------------------------------------------------------------- failures


async def test_failed_origin_is_let_go_before_the_client_is_told(autojump_clock: Clock) -> None:
    """A client that reads its error slowly holds no place at the origin."""
    taken: list[int] = []

    async def act(_hook: str, txn: Any) -> None:
        taken.append(txn.proxy.statistics().origin_taken)

    async with open_world(silent, plugins=[make_plugin("Looking", act, "send_response")], origin={"response_timeout": 5}) as world:
        assert (await world.connect().ask()).status == 504
    assert taken == [0]


@pytest.mark.parametrize(
    ("request_", "status", "kept"),
    [
        (GET, 404, True),  # no rule: nothing is wrong with the connection
        (b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 5\r\n\r\nhello", 404, True),
        (NO_HOST, 400, False),
        (b"TRACE / HTTP/1.1\r\nHost: a\r\nMax-Forwards: x\r\n\r\n", 400, False),
    ],
)
async def test_connection_goes_on_after_a_failure_that_is_not_the_clients(request_: bytes, status: int, kept: bool) -> None:
    async with open_world() as world:
        wire = world.connect(target=None)
        await wire.send(request_)
        answer = await wire.answer()
        assert (answer.status, "connection" not in answer.headers) == (status, kept)


@pytest.mark.parametrize(("left", "status", "seen"), [("0", 200, None), ("1", 200, "0"), ("7", 200, "6")])
@pytest.mark.parametrize("method", [b"TRACE", b"OPTIONS"])
async def test_max_forwards_counts_down_and_ends_here_at_0(method: bytes, left: str, status: int, seen: str | None) -> None:
    heads: list[dict[str, str]] = []

    async def origin(wire: Wire) -> None:
        _, headers = await wire.head()
        heads.append(headers)
        await wire.send(OK)

    async with open_world(origin) as world:
        ask = b"%b /path HTTP/1.1\r\nHost: a\r\nMax-Forwards: %b\r\nCookie: secret\r\n\r\n" % (method, left.encode())
        answer = await world.connect().ask(ask)
    assert answer.status == status
    assert [head["max-forwards"] for head in heads] == ([] if seen is None else [seen])
    if seen is None:
        assert ("allow" in answer.headers) is (method == b"OPTIONS")
        assert answer.body.startswith(b"TRACE /path HTTP/1.1\r\n") is (method == b"TRACE")
        assert b"secret" not in answer.body
    assert how(world.records[0]) == (("proxy", "responded") if seen is None else ("proxy", "complete"))


@pytest.mark.parametrize("method", [b"GET", b"POST"])
async def test_max_forwards_of_other_methods_is_left_as_it_is(method: bytes) -> None:
    heads: list[dict[str, str]] = []

    async def origin(wire: Wire) -> None:
        _, headers = await wire.head()
        heads.append(headers)
        await wire.send(OK)

    async with open_world(origin) as world:
        assert (await world.connect().ask(method + b" / HTTP/1.1\r\nHost: a\r\nMax-Forwards: 0\r\n\r\n")).status == 200
    assert heads[0]["max-forwards"] == "0"


# ------------------------------------------------------------------------------------------------------------------ budgets and access


@pytest.mark.parametrize("denied", [False, True])
async def test_front_end_is_refused_by_the_address_of_its_client(denied: bool) -> None:
    """Without a client nobody is judged yet: each connection will be."""
    config = ProxyConfig(access=(AccessRule(action="deny", clients=["192.0.2.0/24"]),))
    async with open_proxy(config) as proxy:
        client = ClientInfo(address="192.0.2.9" if denied else "198.51.100.1")
        for who in (None, client):
            if denied and who is not None:
                with pytest.raises(ConnectRefused, match="denied"), proxy.front_end(drain=list, end=list, client=who):
                    pass
            else:
                with proxy.front_end(drain=list, end=list, client=who) as front_end:
                    front_end.connect(ConnectOptions(), client=ClientInfo(address="198.51.100.1")).close()
                    with pytest.raises(ConnectRefused, match="denied"):
                        front_end.connect(ConnectOptions(), client=ClientInfo(address="192.0.2.9"))


@pytest.mark.parametrize(("timeout", "deadline", "left"), [(None, None, None), (10.0, None, 10.0), (None, 5.0, 5.0), (10.0, 10.0, 10.0)])
async def test_record_tells_what_was_left_in_each_state(
    timeout: float | None, deadline: float | None, left: float | None, autojump_clock: Clock
) -> None:
    async with open_world(http={"transaction_timeout": timeout}) as world:
        options = {} if deadline is None else {"deadline": trio.current_time() + deadline}
        assert (await world.connect(**options).ask()).status == 200
    (record,) = world.records
    if left is None:
        assert record.deadline_left is None
    else:
        assert record.deadline_left is not None
        assert record.deadline_left["send_request"] == pytest.approx(left)
        assert record.deadline_left.keys() >= {"remap", "acquire_origin", "send_request", "read_response", "send_response", "release"}


async def test_child_may_be_opened_at_the_greatest_depth_and_no_deeper() -> None:
    refused: list[tuple[int, str]] = []

    async def act(_hook: str, txn: Any) -> None:
        try:
            await Wire(txn.connect()).ask()
        except ConnectRefused as exc:
            refused.append((txn.depth, exc.reason))
        txn.respond(204)

    async with open_world(plugins=[make_plugin("Recursing", act, "read_request")], http={"max_depth": 3}) as world:
        assert (await world.connect().ask()).status == 204
    assert refused == [(3, "depth")]
    assert [record.depth for record in world.records] == [3, 2, 1, 0]


# ---------------------------------------------------------------------------------------------------------------------------- answers


@pytest.mark.parametrize(
    ("body", "fields", "content_type"),
    [
        ("text", {}, "text/plain; charset=utf-8"),
        ("text", {"Content-Type": "text/html"}, "text/html"),
        (b"bytes", {}, None),
    ],
)
async def test_answer_that_is_text_says_so(body: str | bytes, fields: dict[str, str], content_type: str | None) -> None:
    async def act(_hook: str, txn: Any) -> None:
        txn.respond(200, body, headers=fields)

    async with open_world(plugins=[make_plugin("Answering", act, "read_request")]) as world:
        assert (await world.connect().ask()).headers.get("content-type") == content_type


async def test_plugin_that_has_answered_is_not_asked_before_remap() -> None:
    """Traffic Server goes from the first answer to the response."""
    hooks: list[str] = []

    async def act(hook: str, txn: Any) -> None:
        hooks.append(hook)
        if hook == "read_request":
            txn.respond(204)

    plugins = [make_plugin("Answering", act, "read_request", "pre_remap", "post_remap", "send_response")]
    async with open_world(plugins=plugins) as world:
        assert (await world.connect().ask()).status == 204
    assert hooks == ["read_request", "send_response"]
    assert "remap" not in world.records[0].milestones


# --------------------------------------------------------------------------------------------------------------------------- children


async def test_child_that_does_not_end_with_its_parent_is_overdue(autojump_clock: Clock, caplog: pytest.LogCaptureFixture) -> None:
    """The parent does not wait for it longer than `close_timeout`, and neither does whoever reads from it; the others were in time."""
    waited: list[float] = []
    children: list[Wire] = []

    async def act(hook: str, txn: Any) -> None:
        if hook == "transaction_close":
            waited.append(trio.current_time() - began)
        elif txn.depth == 0:
            for path in (b"/shielded", b"/obedient"):
                children.append(Wire(txn.connect()))
                await children[-1].send(GET.replace(b"/path", path))
            await trio.testing.wait_all_tasks_blocked()
            txn.respond(204)
        else:
            with trio.CancelScope(shield=txn.request.target == "/shielded"):
                await trio.sleep(10)

    async with open_world(plugins=[make_plugin("Busy", act, "read_request", "transaction_close")], http={"close_timeout": 3}) as world:
        began = trio.current_time()
        assert (await world.connect().ask()).status == 204
        await trio.sleep(4)
        assert await children[0].rest() == b""
        assert children[0].broken
        assert trio.current_time() == began + 4
    by_url = {record.url.rpartition("/")[2]: record for record in world.records if record.url}
    assert waited == [pytest.approx(each) for each in (0, 3, 10)]
    assert "overdue" in by_url["shielded"].plugin["Busy"]
    assert "overdue" not in str(by_url["obedient"].plugin)
    assert [by_url[name].ended.why for name in ("path", "obedient")] == ["responded", "parent_ended"]
    (message,) = caplog.messages
    assert message.endswith("did not end within http.close_timeout after its parent (plugin Busy)")


# ------------------------------------------------------------------------------------------------------------------------ and others


async def test_stream_of_a_client_that_is_denied_is_closed() -> None:
    config = ProxyConfig(access=(AccessRule(action="deny", clients=["192.0.2.0/24"]),))
    async with open_proxy(config) as proxy:
        near, far = trio.testing.memory_stream_pair()
        await proxy.serve_stream(far, client=ClientInfo(address="192.0.2.9"))
        assert await near.receive_some() == b""
        assert proxy.statistics().sessions == 0


async def test_each_network_client_has_a_share_of_its_own(autojump_clock: Clock) -> None:
    """A client without a number of its own connection is known by its session, so two of them are not one."""

    async def origin(wire: Wire) -> None:
        _, headers = await wire.head()
        if "x-slow" in headers:
            await wire.rest()
        await wire.send(OK)

    async with (
        open_world(origin, origin={"max_connections": 2, "max_share": 0.5}, http={"remap_required": False}) as world,
        trio.open_nursery() as nursery,
    ):
        slow, quick = (trio.testing.memory_stream_pair() for _ in range(2))
        for number, (_, far) in enumerate((slow, quick)):
            nursery.start_soon(partial(world.proxy.serve_stream, far, client=ClientInfo(address=f"192.0.2.{number}")))
        await slow[0].send_all(GET.replace(b"\r\n\r\n", b"\r\nX-Slow: 1\r\n\r\n"))
        await trio.testing.wait_all_tasks_blocked()
        began = trio.current_time()
        assert (await Wire(quick[0]).ask()).status == 200
        assert trio.current_time() == began
        await slow[0].aclose()
        await quick[0].aclose()


@pytest.mark.parametrize(("fields", "length"), [({}, "4"), ({"Content-Length": "100"}, "100")])
async def test_length_that_a_plugin_gives_a_head_response_is_kept(fields: dict[str, str], length: str) -> None:
    async def act(_hook: str, txn: Any) -> None:
        txn.respond(200, "text", headers=fields)

    async with open_world(plugins=[make_plugin("Answering", act, "read_request")]) as world:
        wire = world.connect()
        for _ in range(2):
            assert (await wire.ask(GET.replace(b"GET", b"HEAD"))).headers["content-length"] == length


@pytest.mark.parametrize("status", [204, 304])
async def test_response_without_content_is_given_no_length(status: int) -> None:
    async def act(_hook: str, txn: Any) -> None:
        txn.respond(status, b"text")

    async with open_world(plugins=[make_plugin("Answering", act, "read_request")]) as world:
        wire = world.connect()
        for method in (b"GET", b"HEAD"):
            await wire.send(GET.replace(b"GET", method))
            answer = await wire.answer()
            assert (answer.status, answer.headers.get("content-length")) == (status, None)


@pytest.mark.parametrize("request_", [GET, GET.replace(b"GET", b"POST").replace(b"\r\n\r\n", b"\r\nContent-Length: 5\r\n\r\nhello")])
async def test_request_that_no_origin_has_seen_may_be_sent_to_another(request_: bytes) -> None:
    """Whatever its method is, and although its body has not been read."""
    seen: list[tuple[str, bool]] = []

    class Elsewhere(Plugin):
        async def origin_failed(self, txn: Transaction) -> None:
            seen.append((txn.failure.cause, txn.failure.repeatable))
            if len(seen) == 1:
                txn.retry("http://second.test/")

    async def body(wire: Wire) -> None:
        _, headers = await wire.head()
        await wire.send(b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\n" + (await wire.body(headers) or b"empty"))

    async with open_world(body, plugins=[Elsewhere()]) as world:
        pool = world.proxy.core.pool  # type: ignore[attr-defined]
        acquire = pool.acquire

        async def refuse_once(*args: Any, **options: Any) -> Any:
            if not seen:
                raise TransactionFailure(Failure.ORIGIN_REFUSED, "no")
            return await acquire(*args, **options)

        pool.acquire = refuse_once
        answer = await world.connect().ask(request_)
    assert (answer.status, answer.body) == (200, b"hello" if b"hello" in request_ else b"empty")
    assert seen == [("origin_refused", True)]


async def test_body_that_a_plugin_has_read_and_another_transforms_is_sent() -> None:
    got: list[bytes] = []

    async def origin(wire: Wire) -> None:
        for _ in range(2):
            _, headers = await wire.head()
            got.append(await wire.body(headers))
            await wire.send(OK)

    class Upper:
        def feed(self, piece: bytes) -> bytes:
            return piece.upper()

        def finish(self) -> bytes:
            return b"!"

    async def act(_hook: str, txn: Any) -> None:
        await txn.read_request_body(10)
        txn.transform_request(Upper())

    async with open_world(origin, plugins=[make_plugin("Reading", act, "read_request")]) as world:
        wire = world.connect()
        for content in (b"hello", b""):
            assert (await wire.ask(b"POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n" + chunked(content))).status == 200
    assert got == [b"HELLO!", b""]


def chunked(content: bytes) -> bytes:
    return b"%x\r\n%b\r\n0\r\n\r\n" % (len(content), content) if content else b"0\r\n\r\n"


@pytest.mark.parametrize(("cause", "status", "seen"), [("denied", 200, 403), ("missing", 200, 200)])
async def test_error_may_become_a_success_unless_it_is_a_refusal(cause: str, status: int, seen: int) -> None:
    async def act(_hook: str, txn: Any) -> None:
        txn.respond(status, "all is well")

    access = (AccessRule(action="deny", methods=["GET"]),) if cause == "denied" else ()
    async with open_proxy(ProxyConfig(access=access), plugins=[make_plugin("Smoothing", act, "send_response")]) as proxy:
        assert (await Wire(proxy.connect()).ask()).status == seen


@pytest.mark.parametrize(("cause", "seen"), [("denied", 403), ("missing", 500)])
async def test_refusal_is_sent_as_it_is_if_a_plugin_fails_over_it(cause: str, seen: int) -> None:
    async def act(_hook: str, txn: Any) -> None:
        raise RuntimeError

    access = (AccessRule(action="deny", methods=["GET"]),) if cause == "denied" else ()
    async with open_proxy(ProxyConfig(access=access), plugins=[make_plugin("Failing", act, "send_response")]) as proxy:
        assert (await Wire(proxy.connect()).ask()).status == seen


async def test_authorities_that_cannot_be_loaded_are_named_as_the_cause(tmp_path: Path) -> None:
    """The origin is there, and is not spoken to."""
    got: list[bytes] = []

    async def listen(stream: trio.abc.Stream) -> None:
        got.append(bytes(await stream.receive_some()))

    async with listening(listen) as port:
        rule = RemapRule("/", f"https://127.0.0.1:{port}/", ca_file=str(tmp_path / "missing.pem"))
        log = MemoryLog()
        async with open_proxy(ProxyConfig(remap=(rule,)), log=log) as proxy:
            answer = await Wire(proxy.connect()).ask()
        with trio.fail_after(5):
            while not got:
                await trio.testing.wait_all_tasks_blocked(0.01)
    assert (answer.status, how(log.records[0])) == (502, ("origin", "origin_tls"))
    assert b"cannot be loaded: No such file" in answer.body
    assert got == [b""]
