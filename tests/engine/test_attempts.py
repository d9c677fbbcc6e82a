"""What one attempt at an origin leaves to the next: the request as it was, and nothing of the response that was dropped."""

from __future__ import annotations

import random
from collections.abc import AsyncIterator
from contextlib import suppress
from typing import Any

import attrs
import pytest
import trio
import trio.testing

from tests.engine._world import GET, OK, Wire, how, open_world, replying
from tests.engine.test_hooks import make_plugin
from trio_tsconnect import AccessRule, ClientInfo, ConnectOptions, Guard, InvalidState, Plugin, RemapRule, Request, Transaction

Clock = trio.testing.MockClock
BUSY = b"HTTP/1.1 503 Busy\r\nContent-Length: 4\r\n\r\nbusy"
CHUNKED = b"POST /path HTTP/1.1\r\nHost: origin.test\r\nTransfer-Encoding: chunked\r\n\r\n"
SLOW = b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 5\r\n\r\n"


class Retries(Plugin):
    """Asks again after a 503, and after a failure."""

    def __init__(self, target: str | None = None) -> None:
        self.target = target

    async def read_response(self, txn: Transaction) -> None:
        if txn.response.status == 503 and txn.can_retry:
            txn.retry(self.target)

    async def origin_failed(self, txn: Transaction) -> None:
        if txn.can_retry:
            txn.retry(self.target)


class Wraps:
    """A transform that shows how often it was applied."""

    def feed(self, data: bytes) -> bytes:
        return b"<" + data + b">"

    def finish(self) -> bytes:
        return b""


def failing_first(reply: bytes | None) -> Any:
    """An origin that reads a head and answers so, or closes (None); from the second request on it echoes the body and its head."""
    heads: list[dict[str, str]] = []

    async def serve(wire: Wire) -> None:
        _, headers = await wire.head()
        heads.append(headers)
        if len(heads) == 1:
            if reply is not None:
                await wire.send(reply)
                await wire.rest()
            return
        body = await wire.body(headers)
        await wire.send(b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n" % len(body) + body)

    serve.heads = heads  # type: ignore[attr-defined]
    return serve


@pytest.mark.parametrize("seed", range(30))
async def test_body_that_arrives_while_a_plugin_retries_is_whole_in_the_next_attempt(seed: int) -> None:
    draw = random.Random(seed)

    async def pause() -> None:
        for _ in range(draw.randint(0, 6)):
            await trio.lowlevel.checkpoint()

    async with open_world(failing_first(BUSY), plugins=[Retries()]) as world:
        wire = world.connect()
        with suppress(trio.BrokenResourceError):  # the 503 may be passed on, and the connection closed, before all is sent
            for piece in (CHUNKED, b"6\r\nAMOUNT\r\n", b"4\r\n=100\r\n0\r\n\r\n"):
                await wire.send(piece)
                await pause()
        answer = await wire.answer()
    assert (answer.status, answer.body) in ((200, b"AMOUNT=100"), (503, b"busy"))


async def test_hook_that_waits_after_retry_loses_nothing_of_the_body(autojump_clock: Clock) -> None:
    async def act(_hook: str, txn: Transaction) -> None:
        if txn.response.status == 503:
            txn.retry()
            await trio.sleep(5)

    async with open_world(failing_first(BUSY), plugins=[make_plugin("Waits", act, "read_response")]) as world:
        wire = world.connect()
        await wire.send(CHUNKED)
        await trio.sleep(1)
        await wire.send(b"6\r\nAMOUNT\r\n4\r\n=100\r\n0\r\n\r\n")
        assert (await wire.answer()).body == b"AMOUNT=100"


@pytest.mark.parametrize("hook", ["read_request", "post_remap", "send_request"])
@pytest.mark.parametrize("reply", [BUSY, None], ids=["busy", "closed"])
async def test_transforms_are_applied_once_however_many_attempts_there_are(hook: str, reply: bytes | None) -> None:
    async def act(_hook: str, txn: Transaction) -> None:
        txn.transform_response(Wraps())

    async with open_world(failing_first(reply), plugins=[make_plugin("Wraps", act, hook), Retries()]) as world:
        wire = world.connect()
        await wire.send(CHUNKED)
        await trio.testing.wait_all_tasks_blocked()
        await wire.send(b"5\r\nhello\r\n0\r\n\r\n")
        assert (await wire.answer()).body == b"<hello>"


async def test_transform_is_not_lost_if_the_first_origin_is_not_even_reached(autojump_clock: Clock) -> None:
    async def act(_hook: str, txn: Transaction) -> None:
        txn.transform_response(Wraps())

    plugins = [make_plugin("Wraps", act, "read_request"), Retries()]
    async with open_world(replying(OK), plugins=plugins, origin={"connect_timeout": 1}) as world:
        world.origin.delay = 5
        wire = world.connect()
        await wire.send(GET)
        await trio.sleep(0.5)
        world.origin.delay = 0
        assert (await wire.answer()).body == b"<hello>"
        await wire.stream.aclose()


async def test_transform_of_a_reconnected_attempt_is_applied_once() -> None:
    replies = iter([OK, b"", OK])

    async def serve(wire: Wire) -> None:
        for reply in replies:
            await wire.head()
            if not reply:
                return
            await wire.send(reply)

    async def act(_hook: str, txn: Transaction) -> None:
        txn.transform_response(Wraps())

    async with open_world(serve, plugins=[make_plugin("Wraps", act, "send_request")]) as world:
        wire = world.connect()
        for _ in range(2):
            assert (await wire.ask()).body == b"<hello>"
    assert world.records[1].attempts == 2


@pytest.mark.parametrize("preserve", [False, True])
@pytest.mark.parametrize("target", [None, "http://other.test:81/x"])
@pytest.mark.parametrize("reply", [BUSY, None], ids=["busy", "closed"])
async def test_host_of_the_next_attempt(preserve: bool, target: str | None, reply: bytes | None) -> None:
    """The same as before; after another origin was chosen, that of the URL."""
    serve = failing_first(reply)
    rule = RemapRule("//site.test/", "http://origin.test/", preserve_host=preserve)
    async with open_world(serve, plugins=[Retries(target)], remap=(rule,)) as world:
        wire = world.connect(target=None)
        await wire.send(b"GET / HTTP/1.1\r\nHost: site.test\r\n\r\n")
        assert (await wire.answer()).status == 200
    hosts = [head["host"] for head in serve.heads]
    first = "site.test" if preserve else "origin.test"
    assert hosts == [first, "other.test:81" if target else first]
    assert {head.get("x-forwarded-host") for head in serve.heads} == {"site.test"}


async def test_forwarded_host_is_that_of_the_client_also_if_no_origin_was_reached_first(autojump_clock: Clock) -> None:
    serve = failing_first(None)
    serve.heads.append({})
    async with open_world(serve, plugins=[Retries("http://other.test/")], origin={"connect_timeout": 1}) as world:
        world.origin.delay = 5
        wire = world.connect(target=("origin.test", 80))
        await wire.send(b"GET / HTTP/1.1\r\nHost: site.test\r\n\r\n")
        await trio.sleep(0.5)
        world.origin.delay = 0
        assert (await wire.answer()).status == 200
        await wire.stream.aclose()
    assert (serve.heads[1]["host"], serve.heads[1]["x-forwarded-host"]) == ("other.test", "site.test")


async def test_request_line_that_a_plugin_has_set_stays_for_the_next_attempt() -> None:
    lines: list[str] = []

    async def serve(wire: Wire) -> None:
        lines.append((await wire.head())[0])
        await wire.send(BUSY if len(lines) == 1 else OK)

    async def act(_hook: str, txn: Transaction) -> None:
        txn.request.target = "/changed"

    async with open_world(serve, plugins=[make_plugin("Changes", act, "send_request"), Retries()]) as world:
        assert (await world.connect().ask()).status == 200
    assert lines == ["GET /changed HTTP/1.1"] * 2


async def test_retry_elsewhere_leaves_the_target_of_the_connection() -> None:
    opened: list[str] = []
    async with open_world(replying(BUSY, OK), plugins=[Retries("http://other.test:81/x")]) as world:
        acquire = world.proxy.core.pool.acquire

        async def spy(origin: Any, *rest: Any, **more: Any) -> Any:
            opened.append(origin.name)
            return await acquire(origin, *rest, **more)

        world.proxy.core.pool.acquire = spy  # type: ignore[method-assign]
        assert (await world.connect().ask()).status == 200
    assert opened == ["origin.test:80", "other.test:81"]


async def test_deadline_that_is_sent_is_what_is_left_at_each_attempt(autojump_clock: Clock) -> None:
    class Waits(Retries):
        async def read_response(self, txn: Transaction) -> None:
            await trio.sleep(3)
            await super().read_response(txn)

    serve = failing_first(BUSY)
    http = {"deadline_header": "X-Deadline", "transaction_timeout": 10}
    async with open_world(serve, plugins=[Waits()], http=http) as world:
        assert (await world.connect().ask()).status == 200
    assert [head["x-deadline"] for head in serve.heads] == ["10000", "7000"]


async def test_new_connection_has_its_own_time(autojump_clock: Clock) -> None:
    """A reused connection closes late: what is left of its time is not that of the next attempt."""
    first = True

    async def serve(wire: Wire) -> None:
        nonlocal first
        await wire.head()
        await wire.send(OK)
        if first:
            first = False
            world.origin.delay = 0.3
            await wire.head()
            await trio.sleep(0.9)
            return
        await wire.rest()

    async with open_world(serve, origin={"response_timeout": 1}) as world:
        wire = world.connect()
        for _ in range(2):
            assert (await wire.ask()).status == 200


@pytest.mark.parametrize("hook", ["read_response", "send_response"])
async def test_hook_after_the_response_was_received_is_not_cut_short_by_the_time_for_it(autojump_clock: Clock, hook: str) -> None:
    """The origin answers before it has the request; the request is complete while the hook waits."""

    async def serve(wire: Wire) -> None:
        await wire.head()
        await wire.send(OK)
        await wire.rest()

    async def wait(_hook: str, txn: Transaction) -> None:
        await trio.sleep(5)

    failed: list[str] = []

    async def note(_hook: str, txn: Transaction) -> None:
        failed.append(txn.failure.cause)

    plugins = [make_plugin("Waits", wait, hook), make_plugin("Notes", note, "origin_failed")]
    async with open_world(serve, plugins=plugins, origin={"response_timeout": 2}) as world:
        wire = world.connect()
        await wire.send(SLOW)
        await trio.sleep(1)
        await wire.send(b"hello")
        assert (await wire.answer()).status == 200
    assert failed == []


async def test_retry_of_a_hook_that_fails_does_not_count() -> None:
    async def act(_hook: str, txn: Transaction) -> None:
        txn.retry()
        raise ValueError("told to")

    async def page(_hook: str, txn: Transaction) -> None:
        txn.respond(500, "a page")

    plugins = [make_plugin("Fails", act, "read_response"), make_plugin("Pages", page, "send_response")]
    async with open_world(replying(OK), plugins=plugins) as world:
        answer = await world.connect().ask()
        assert (answer.status, answer.body) == (500, b"a page")


async def test_retry_outside_of_a_hook_is_refused() -> None:
    async def act(_hook: str, txn: Transaction) -> None:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(trio.lowlevel.checkpoint)
        kept.append(txn)

    kept: list[Transaction] = []

    async def serve(wire: Wire) -> None:
        await wire.head()
        while not kept:
            await trio.lowlevel.checkpoint()
        await trio.testing.wait_all_tasks_blocked(0.01)
        with pytest.raises(InvalidState, match="in a hook only"):
            kept[0].retry()
        await wire.send(OK)

    async with open_world(serve, plugins=[make_plugin("Keeps", act, "send_request")]) as world:
        assert (await world.connect().ask()).status == 200


# ------------------------------------------------------------------------------------------------------------------- whose response it is


async def test_source_of_a_response_is_known_to_the_end() -> None:
    seen: list[str] = []

    async def note(hook: str, txn: Transaction) -> None:
        seen.append(f"{hook}: {txn.response_source}")

    async def act(_hook: str, txn: Transaction) -> None:
        if txn.request.url.path == "/plugin":
            txn.respond(200)

    plugins = [make_plugin("Answers", act, "read_request"), make_plugin("Notes", note, "send_response", "transaction_close")]
    async with open_world(replying(OK), plugins=plugins) as world:
        for path in (b"/", b"/plugin"):
            assert (await world.connect().ask(b"GET " + path + b" HTTP/1.1\r\nHost: a\r\n\r\n")).status == 200
        assert (await world.connect(target=None).ask()).status == 404
        await trio.testing.wait_all_tasks_blocked()
    sources = ["origin", "plugin", "proxy"]
    assert seen == [f"{hook}: {source}" for source in sources for hook in ("send_response", "transaction_close")]


async def test_page_is_sent_for_a_request_that_could_not_be_read(autojump_clock: Clock) -> None:
    async def page(_hook: str, txn: Transaction) -> None:
        txn.respond(txn.response.status, "a page")

    async with open_world(plugins=[make_plugin("Pages", page, "send_response")], http={"header_timeout": 1}) as world:
        for request, status in ((b"NOT HTTP\r\n\r\n", 400), (b"\x16\x03\x01\r\n\r\n", 400), (b"GET / HT", 408)):
            answer = await world.connect().ask(request)
            assert (answer.status, answer.body) == (status, b"a page")
    assert {how(record)[0] for record in world.records} == {"client"}


async def test_switch_of_protocols_may_be_refused_before_it_is_sent() -> None:
    async def refuse(_hook: str, txn: Transaction) -> None:
        txn.respond(403, "no")

    switch = b"HTTP/1.1 101 Switching\r\nConnection: Upgrade\r\nUpgrade: x\r\n\r\n"
    async with open_world(replying(switch), plugins=[make_plugin("Refuses", refuse, "send_response")]) as world:
        wire = world.connect()
        await wire.send(b"GET / HTTP/1.1\r\nHost: a\r\nConnection: Upgrade\r\nUpgrade: x\r\n\r\n")
        assert ((await wire.answer()).status, how(world.records[0]) if world.records else None) in (
            (403, None),
            (403, ("plugin", "responded")),
        )


# ----------------------------------------------------------------------------------------------------------------------------- guards


@pytest.mark.parametrize("method", [b"TRACE", b"OPTIONS"])
@pytest.mark.parametrize("by", ["access", "guard"])
async def test_request_that_the_proxy_answers_itself_is_judged_by_its_rule(method: bytes, by: str) -> None:
    class No(Guard):
        async def judge(self, txn: Transaction) -> None:
            txn.respond(403)

    denied = {"access": (AccessRule(action="deny"),)} if by == "access" else {"plugins": (No(),)}
    rule = RemapRule("/", "http://origin.test/", **denied)
    async with open_world(remap=(rule,)) as world:
        answer = await world.connect().ask(method + b" / HTTP/1.1\r\nHost: a\r\nMax-Forwards: 0\r\n\r\n")
        assert answer.status == 403


async def test_guard_may_be_a_value_that_has_no_hash() -> None:
    @attrs.define(slots=False)
    class Value(Guard):
        status: int = 401

        async def judge(self, txn: Transaction) -> None:
            txn.respond(self.status)

    async with open_world(plugins=[Value()]) as world:
        assert (await world.connect().ask()).status == 401


async def test_direct_child_of_a_client_over_tls_goes_to_the_port_of_its_url() -> None:
    class Asks(Plugin):
        async def read_request(self, txn: Transaction) -> None:
            if txn.parent is None:
                async with txn.fetch(Request("GET", "/x", {"Host": "api.test"}), direct=True) as response:
                    txn.respond(200, await response.body.read())

    client = ClientInfo(address="192.0.2.1", scheme="https")
    async with open_world(replying(OK), plugins=[Asks()]) as world:
        wire = Wire(world.proxy.connect(ConnectOptions(client=client)))
        assert (await wire.ask()).body == b"hello"
    assert world.records[0].origin_url == "http://api.test/x"


# -------------------------------------------------------------------------------------------------------------------------- transforms


async def beats(body: AsyncIterator[bytes]) -> AsyncIterator[bytes]:
    """The idiom of a heartbeat: give up waiting for the next piece from time to time."""
    pieces = aiter(body)
    while True:
        with trio.move_on_after(1) as scope:
            try:
                piece = await anext(pieces)
            except StopAsyncIteration:
                return
        yield b"." if scope.cancelled_caught else piece


async def test_transform_may_give_up_waiting_for_the_next_piece(autojump_clock: Clock) -> None:
    async def act(_hook: str, txn: Transaction) -> None:
        txn.transform_request(beats)
        txn.transform_response(Wraps())
        txn.transform_response(beats)

    async def serve(wire: Wire) -> None:
        _, headers = await wire.head()
        body = await wire.body(headers)
        await wire.send(b"HTTP/1.1 200 OK\r\n\r\n" + body)
        await trio.sleep(2.5)
        await wire.send(b"end")

    async with open_world(serve, plugins=[make_plugin("Beats", act, "post_remap")]) as world:
        wire = world.connect()
        await wire.send(SLOW)
        await trio.sleep(2.5)
        await wire.send(b"hello")
        assert (await wire.answer()).body == b"<..hello>..<end>"
    assert world.records[0].plugin == {}


async def test_transform_that_is_cancelled_within_a_piece_fails_with_a_reason(autojump_clock: Clock) -> None:
    class Slow:
        async def feed(self, data: bytes) -> bytes:
            await trio.sleep(5)
            return data

        def finish(self) -> bytes:
            return b""

    async def act(_hook: str, txn: Transaction) -> None:
        txn.transform_response(Slow())
        txn.transform_response(beats)

    async with open_world(replying(OK), plugins=[make_plugin("Beats", act, "post_remap")]) as world:
        assert not (await world.connect().ask()).whole
    assert how(world.records[0]) == ("plugin", "plugin")
    assert "cancelled while it worked on a piece" in world.records[0].plugin["Beats"]["failed"]["exception"]


@pytest.mark.parametrize("how_", ["wrapped", "group"])
async def test_error_of_the_body_counts_also_if_a_transform_wraps_it(how_: str) -> None:
    async def wrap(body: AsyncIterator[bytes]) -> AsyncIterator[bytes]:
        try:
            async for piece in body:
                yield piece
        except Exception as exc:
            if how_ == "group":
                raise ExceptionGroup("several", [exc]) from None
            raise ValueError("something else") from exc

    async def act(_hook: str, txn: Transaction) -> None:
        txn.transform_response(wrap)

    async def serve(wire: Wire) -> None:
        await wire.head()
        await wire.send(b"HTTP/1.1 200 OK\r\nContent-Length: 50\r\n\r\nhello")

    async with open_world(serve, plugins=[make_plugin("Wraps", act, "read_response")]) as world:
        assert not (await world.connect().ask()).whole
    assert how(world.records[0]) == ("origin", "origin_truncated")


async def test_clean_up_of_a_transform_that_fails_does_not_hide_that_the_client_is_gone(autojump_clock: Clock) -> None:
    async def untidy(body: AsyncIterator[bytes]) -> AsyncIterator[bytes]:
        try:
            async for piece in body:
                yield piece
        finally:
            raise ValueError("untidy")

    async def act(_hook: str, txn: Transaction) -> None:
        txn.transform_response(untidy)

    async def endless(wire: Wire) -> None:
        await wire.head()
        await wire.send(b"HTTP/1.1 200 OK\r\n\r\n")
        while True:
            await wire.send(bytes(1000))

    async with open_world(endless, plugins=[make_plugin("Untidy", act, "read_response")]) as world:
        wire = world.connect()
        await wire.send(GET)
        await wire.until(b"\r\n\r\n")
        await wire.stream.aclose()
        await world.log.wait()
    assert how(world.records[0]) == ("client", "client_gone")
    assert world.records[0].plugin["Untidy"]["failed"]["exception"] == "ValueError: untidy"


@pytest.mark.parametrize("transform", [lambda body: body, make_plugin, 3, Wraps])
async def test_what_is_no_transform_is_refused_or_fails_with_its_plugin(transform: Any) -> None:
    async def act(_hook: str, txn: Transaction) -> None:
        txn.transform_response(transform)

    async with open_world(replying(OK), plugins=[make_plugin("Odd", act, "read_response")]) as world:
        await world.connect().ask()
    assert world.records[0].ended.by in ("plugin", "proxy")


@pytest.mark.parametrize("body", [5, None, ["a"]])
async def test_body_of_an_answer_that_is_no_body_is_refused(body: Any) -> None:
    async def act(_hook: str, txn: Transaction) -> None:
        txn.respond(200, body)

    async with open_world(plugins=[make_plugin("Odd", act, "read_request")]) as world:
        assert (await world.connect().ask()).status == 500
    assert "TypeError: body must be bytes or str" in world.records[0].plugin["Odd"]["failed"]["exception"]
