"""The life of a proxy: whose children its sessions are, how it ends, and what a connection goes through between its requests."""

from __future__ import annotations

import pytest
import trio
import trio.testing
from trio.abc import Clock

from tests.engine._world import (
    GET,
    OK,
    MemoryOrigin,
    Serve,
    TellingLog,
    Wire,
    World,
    how,
    listening,
    open_world,
    replying,
    silent,
    use_memory,
)
from trio_tsconnect import (
    ConnectOptions,
    ConnectRefused,
    HttpConfig,
    MemoryLog,
    OriginConfig,
    Plugin,
    Proxy,
    ProxyConfig,
    Request,
    Transaction,
    open_proxy,
)

POST = b"POST /path HTTP/1.1\r\nHost: origin.test\r\nContent-Length: 10\r\n\r\n"


def gated() -> tuple[Serve, trio.Event]:
    """An origin that answers once it may."""
    gate = trio.Event()

    async def serve(wire: Wire) -> None:
        while True:
            await wire.head()
            await gate.wait()
            await wire.send(OK)

    return serve, gate


# ------------------------------------------------------------------------------------------------------------- nurseries and the end


async def test_the_session_of_a_virtual_connection_is_a_child_of_the_proxys_nursery() -> None:
    async with open_proxy() as proxy:
        here = trio.lowlevel.current_task()
        stream = proxy.connect()
        await trio.testing.wait_all_tasks_blocked()
        nurseries = [nursery for nursery in here.child_nurseries if any("session" in task.name for task in nursery.child_tasks)]
        assert len(nurseries) == 1
        (task,) = [task for task in nurseries[0].child_tasks if "session" in task.name]
        assert task.parent_nursery is nurseries[0]
        await stream.aclose()
        await trio.testing.wait_all_tasks_blocked()
        assert not [task for task in nurseries[0].child_tasks if "session" in task.name]


async def test_a_stream_that_is_served_is_served_in_the_callers_own_task() -> None:
    async with open_proxy() as proxy:
        near, far = trio.testing.memory_stream_pair()
        async with trio.open_nursery() as nursery:
            nursery.start_soon(proxy.serve_stream, far)
            await near.send_all(GET)
            assert (await near.receive_some()).startswith(b"HTTP/1.1 404")
            nursery.cancel_scope.cancel()
        assert len(proxy.sessions) == 0
        assert await near.receive_some() == b""


async def test_cancelling_the_owner_ends_every_session_and_each_transaction_has_its_record() -> None:
    log = TellingLog()
    wires: list[Wire] = []
    with trio.CancelScope() as scope:
        async with open_proxy(log=log) as proxy, trio.open_nursery() as nursery:
            use_memory(proxy, MemoryOrigin(silent, nursery))
            for _ in range(5):
                wires.append(Wire(proxy.connect(ConnectOptions(target=("origin.test", 80)))))
                await wires[-1].send(GET)
            idle = Wire(proxy.connect())
            await trio.testing.wait_all_tasks_blocked()
            scope.cancel()
            await trio.lowlevel.checkpoint()
    assert scope.cancelled_caught
    assert [how(record)[0] for record in log.records] == ["proxy"] * 5
    for wire in [*wires, idle]:
        assert await wire.rest() == b""
    assert not proxy.sessions


@pytest.mark.parametrize("error", [ValueError("mine"), KeyboardInterrupt(), ExceptionGroup("mine", [ValueError()])])
async def test_what_the_body_raises_leaves_as_it_is(error: BaseException) -> None:
    async def body() -> None:
        async with open_proxy() as proxy:
            proxy.connect()
            raise error

    with pytest.raises(type(error)) as caught:
        await body()
    assert caught.value is error


async def test_when_the_body_raises_nothing_is_waited_for(autojump_clock: trio.testing.MockClock) -> None:
    start, log = trio.current_time(), MemoryLog()

    async def body() -> None:
        async with open_proxy(log=log) as proxy:
            await proxy.connect().send_all(b"GET / HTT")
            await trio.testing.wait_all_tasks_blocked()
            raise ValueError

    with pytest.raises(ValueError):
        await body()
    assert trio.current_time() == start
    assert [how(record)[0] for record in log.records] == ["proxy"]


async def test_the_log_is_closed_after_the_last_record_was_written() -> None:
    class Order(MemoryLog):
        def __init__(self) -> None:
            super().__init__()
            self.closed_after: int | None = None
            self.ran = False

        async def run(self) -> None:
            await super().run()
            self.ran = True

        def close(self) -> None:
            self.closed_after = len(self.records)
            super().close()

    log = Order()
    async with open_proxy(ProxyConfig(http=HttpConfig(drain_timeout=0)), log=log) as proxy:
        wire = Wire(proxy.connect())
        await wire.send(b"GET / HTT")
        await trio.testing.wait_all_tasks_blocked()
        assert not log.records
    assert log.closed_after == len(log.records) == 1
    assert log.ran


async def test_a_closed_proxy_refuses_connections_and_closes_streams() -> None:
    async with open_proxy() as proxy:
        pass
    with pytest.raises(ConnectRefused) as caught:
        proxy.connect()
    assert caught.value.reason == "closed"
    near, far = trio.testing.memory_stream_pair()
    await proxy.serve_stream(far)
    assert await near.receive_some() == b""
    assert "closed" in repr(proxy)


async def test_a_draining_proxy_refuses_new_connections_and_says_why() -> None:
    serve, gate = gated()
    async with open_world(serve) as world:
        wire = world.connect()
        await wire.send(GET)
        await trio.testing.wait_all_tasks_blocked()
        async with trio.open_nursery() as nursery:
            nursery.start_soon(world.proxy.drain, 10)
            await trio.testing.wait_all_tasks_blocked()
            with pytest.raises(ConnectRefused) as caught:
                world.connect()
            assert caught.value.reason == "draining"
            near, far = trio.testing.memory_stream_pair()
            await world.proxy.serve_stream(far)
            assert await near.receive_some() == b""
            gate.set()
            answer = await wire.answer()
            assert (answer.status, answer.headers["connection"]) == (200, "close")
            assert await wire.rest() == b""
        assert not world.proxy.sessions


async def test_draining_ends_idle_sessions_at_once_and_says_whether_all_ended(autojump_clock: trio.testing.MockClock) -> None:
    async with open_world(silent) as world:
        idle, used, busy = world.connect(), world.connect(target=None), world.connect()
        assert (await used.ask()).status == 404
        await busy.send(GET)
        await trio.testing.wait_all_tasks_blocked()
        start = trio.current_time()
        ended: list[bool] = []

        async def drain() -> None:
            ended.append(await world.proxy.drain(10))

        async with trio.open_nursery() as nursery:
            nursery.start_soon(drain)
            assert await used.rest() == b""
            assert trio.current_time() == start
            assert not ended
        assert ended == [False]
        assert trio.current_time() == pytest.approx(start + 10)
        await idle.stream.aclose()


@pytest.mark.parametrize("transport", ["virtual", "tcp"])
async def test_a_request_that_has_come_when_the_drain_begins_is_served_and_told_to_be_the_last(
    transport: str, autojump_clock: trio.testing.MockClock
) -> None:
    """RFC 9112 §9.6: the response before it has not said `Connection: close`."""
    go = trio.Event()

    async def in_two_parts(wire: Wire) -> None:
        for _ in range(2):
            await wire.head()
            await wire.send(OK[:-2])
            await go.wait()
            await wire.send(OK[-2:])

    worlds: list[World] = []

    async def handle(stream: trio.abc.Stream) -> None:
        await worlds[0].proxy.serve_stream(stream)

    async with listening(handle) as port, open_world(in_two_parts, http={"remap_required": False}) as world, trio.open_nursery() as nursery:
        worlds.append(world)
        wire = world.connect() if transport == "virtual" else Wire(await trio.open_tcp_stream("127.0.0.1", port))
        await wire.send(GET)
        await wire.until(b"hel")
        await wire.send(GET)
        nursery.start_soon(world.proxy.drain, 60)
        await trio.testing.wait_all_tasks_blocked()
        go.set()
        await wire.until(b"lo")
        answer = await wire.answer()
        assert (answer.status, answer.body, answer.headers["connection"]) == (200, b"hello", "close")
        assert await wire.rest() == b""
        await wire.stream.aclose()
    assert [how(record) for record in world.records] == [("proxy", "complete")] * 2


async def test_when_the_body_returns_transactions_may_finish(autojump_clock: trio.testing.MockClock) -> None:
    answers = []

    async def slow(wire: Wire) -> None:
        await wire.head()
        await trio.sleep(8)
        await wire.send(OK)

    async with trio.open_nursery() as nursery, open_world(slow) as world:
        wire = world.connect()
        await wire.send(GET)
        await trio.testing.wait_all_tasks_blocked()

        async def read() -> None:
            answers.append(await wire.answer())

        nursery.start_soon(read)
    assert [(answer.status, answer.headers["connection"]) for answer in answers] == [(200, "close")]
    assert how(world.records[0]) == ("proxy", "complete")


async def test_past_the_drain_timeout_what_is_left_is_cancelled(autojump_clock: trio.testing.MockClock) -> None:
    async with open_world(silent, http={"drain_timeout": 10}) as world:
        wire = world.connect()
        await wire.send(GET)
        await trio.testing.wait_all_tasks_blocked()
        start = trio.current_time()
    assert trio.current_time() == pytest.approx(start + 10)
    assert how(world.records[0])[0] == "proxy"
    assert await wire.rest() == b""


async def test_a_plugin_that_holds_on_to_its_cancel_does_not_hold_the_proxy_for_ever(autojump_clock: trio.testing.MockClock) -> None:
    class Stubborn(Plugin):
        async def transaction_close(self, txn: Transaction) -> None:
            await trio.sleep(10**6)

    start = trio.current_time()
    async with open_world(plugins=[Stubborn()], http={"close_timeout": 5}) as world:
        assert (await world.connect().ask()).status == 200
    assert trio.current_time() - start < 30


async def test_ids_are_unique_and_never_zero() -> None:
    async with open_proxy() as one, open_proxy() as other:
        ids = [proxy.next_id() for proxy in (one, other) * 100]
    assert len(set(ids)) == 200
    assert 0 not in ids


async def test_numbers_of_sessions_and_transactions_are_unique_over_all_proxies() -> None:
    async with open_world() as one, open_world() as other:
        for world in (one, other, one, other):
            await world.connect().ask()
        await trio.testing.wait_all_tasks_blocked()
        records = one.records + other.records
    assert len({record.transaction for record in records}) == 4
    assert len({record.session for record in records} | {record.transaction for record in records}) == 8


async def test_a_log_that_cannot_be_opened_is_an_error_before_anything_runs() -> None:
    from trio_tsconnect import LogConfig

    with pytest.raises(OSError):
        async with open_proxy(ProxyConfig(log=LogConfig(path="/dev/null/nowhere"))):
            raise AssertionError("not reached")


async def test_connect_makes_the_session_known_before_it_runs_and_a_connection_closed_at_once_leaves_nothing() -> None:
    async with open_proxy() as proxy:
        stream = proxy.connect()
        assert len(proxy.sessions) == 1
        await stream.aclose()
        await trio.testing.wait_all_tasks_blocked()
        assert not proxy.sessions


async def test_bytes_written_before_a_close_still_make_a_record() -> None:
    async with open_world() as world:
        wire = world.connect()
        await wire.send(GET)
        await wire.stream.aclose()
        record = await world.record()
        assert record.ended.by == "client"


# ------------------------------------------------------------------------------------------------------------- between the requests


async def test_a_connection_is_kept_and_pipelined_requests_are_answered_in_order() -> None:
    async def number(wire: Wire) -> None:
        while True:
            first, _ = await wire.head()
            path = first.split(" ")[1].encode()
            await wire.send(b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n%b" % (len(path), path))

    async with open_world(number) as world:
        wire = world.connect()
        await wire.send(b"".join(GET.replace(b"/path", b"/%d" % n) for n in range(10)))
        assert [(await wire.answer()).body for _ in range(10)] == [b"/%d" % n for n in range(10)]
        await trio.testing.wait_all_tasks_blocked()
        assert len({record.session for record in world.records}) == 1
        assert len(world.origin.streams) == 1


@pytest.mark.parametrize(
    ("version", "connection", "kept"),
    [
        ("1.1", None, True),
        ("1.1", "close", False),
        ("1.1", "keep-alive", True),
        ("1.0", None, False),
        ("1.0", "keep-alive", True),
        ("1.0", "close", False),
    ],
)
async def test_rfc_9112_9_3_whether_a_connection_is_kept(version: str, connection: str | None, kept: bool) -> None:
    fields = f"Host: origin.test\r\n{f'Connection: {connection}' + chr(13) + chr(10) if connection else ''}"
    request = f"GET / HTTP/{version}\r\n{fields}\r\n".encode()
    async with open_world() as world:
        wire = world.connect()
        for _ in range(3 if kept else 1):
            answer = await wire.ask(request)
            assert (answer.status, answer.body) == (200, b"hello")
            assert answer.headers.get("connection") == (None if kept and version == "1.1" else "keep-alive" if kept else "close")
        if not kept:
            assert await wire.rest() == b""


async def test_a_body_that_ends_by_closing_is_chunked_for_1_1_and_ends_by_closing_for_1_0() -> None:
    async def serve(wire: Wire) -> None:
        await wire.head()
        await wire.send(b"HTTP/1.1 200 OK\r\n\r\nhello")

    async with open_world(serve) as world:
        wire = world.connect()
        answer = await wire.ask()
        assert (answer.headers["transfer-encoding"], answer.body, answer.whole) == ("chunked", b"hello", True)
        answer = await wire.ask(GET.replace(b"1.1\r\n", b"1.0\r\nConnection: keep-alive\r\n"))
        assert (answer.headers["connection"], answer.body) == ("close", b"hello")
        assert "transfer-encoding" not in answer.headers
        assert not wire.broken


async def test_the_last_request_that_a_connection_may_bring_is_told_so() -> None:
    async with open_world(http={"max_requests_per_connection": 2}) as world:
        wire = world.connect()
        assert "connection" not in (await wire.ask()).headers
        assert (await wire.ask()).headers["connection"] == "close"
        assert await wire.rest() == b""


async def test_trailers_are_carried_both_ways() -> None:
    seen: list[bytes] = []

    async def serve(wire: Wire) -> None:
        await wire.head()
        seen.append(await wire.until(b"\r\n\r\n"))
        await wire.send(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n0\r\nX-Down: 2\r\n\r\n")

    async with open_world(serve) as world:
        wire = world.connect()
        await wire.send(b"POST / HTTP/1.1\r\nHost: origin.test\r\nTE: trailers\r\nTransfer-Encoding: chunked\r\n\r\n0\r\nX-Up: 1\r\n\r\n")
        await wire.head()
        assert await wire.until(b"\r\n\r\n") == b"0\r\nX-Down: 2\r\n\r\n"
    assert seen == [b"0\r\nX-Up: 1\r\n\r\n"]


@pytest.mark.parametrize("status", [b"204 No Content", b"304 Not Modified", b"205 Reset Content"])
async def test_a_response_without_content_leaves_the_connection_in_step(status: bytes) -> None:
    async with open_world(
        replying(b"HTTP/1.1 %b\r\n%b\r\n" % (status, b"Content-Length: 0\r\n" if status[:3] == b"205" else b""), OK)
    ) as world:
        wire = world.connect()
        assert (await wire.ask()).body == b""
        assert (await wire.ask()).body == b"hello"
        assert len(world.origin.streams) == 1


async def test_a_reset_content_that_has_content_all_the_same_is_sent_without() -> None:
    async with open_world(replying(OK.replace(b"200 OK", b"205 Reset Content"), OK)) as world:
        wire = world.connect()
        answer = await wire.ask()
        assert (answer.status, answer.headers["content-length"], answer.body) == (205, "0", b"")
        assert (await wire.ask()).body == b"hello"


# ------------------------------------------------------------------------------------------------------- early answers and Expect


async def early(wire: Wire) -> None:
    await wire.head()
    await wire.send(b"HTTP/1.1 413 Too Large\r\nContent-Length: 3\r\nConnection: close\r\n\r\nbig")
    await wire.rest()


async def test_an_early_response_is_relayed_and_a_short_rest_is_read_so_that_the_connection_goes_on() -> None:
    async with open_world(early) as world:
        wire = world.connect()
        answer = await wire.ask(POST + b"012")
        assert (answer.status, answer.body) == (413, b"big")
        await wire.send(b"3456789" + GET)
        assert (await wire.answer()).status == 413
        await trio.testing.wait_all_tasks_blocked()
        assert world.records[0].request_bytes == 10


async def test_after_an_early_response_a_rest_that_does_not_come_ends_the_connection(autojump_clock: trio.testing.MockClock) -> None:
    async with open_world(early, http={"linger_timeout": 2}) as world:
        wire = world.connect()
        assert (await wire.ask(POST + b"012")).status == 413
        start = trio.current_time()
        assert await wire.rest() == b""
        assert trio.current_time() == pytest.approx(start + 2)
        assert how(world.records[0]) == ("proxy", "complete")


async def test_after_an_early_response_a_rest_that_is_malformed_ends_the_connection_and_spoils_nothing() -> None:
    async def early_and_persistent(wire: Wire) -> None:
        await wire.head()
        await wire.send(b"HTTP/1.1 413 Content Too Large\r\nContent-Length: 3\r\n\r\nbig")
        await wire.rest()

    async with open_world(early_and_persistent) as world:
        wire = world.connect()
        await wire.send(b"POST / HTTP/1.1\r\nHost: origin.test\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc")
        answer = await wire.answer()
        assert (answer.status, answer.body, answer.whole) == (413, b"big", True)
        assert answer.headers["connection"] == "close"
        assert await wire.rest() == b""
        assert how(await world.record()) == ("proxy", "complete")


@pytest.mark.parametrize("length", [65536, 65537])
async def test_an_early_response_to_a_large_upload_says_whether_the_connection_ends(length: int) -> None:
    """With more to come than `drain_body` it ends, whatever the origin promises and however much has come by then."""

    async def early_and_persistent(wire: Wire) -> None:
        await wire.head()
        await wire.send(b"HTTP/1.1 413 Content Too Large\r\nContent-Length: 3\r\n\r\nbig")
        await wire.rest()

    async with open_world(early_and_persistent) as world:
        wire = world.connect(buffer_index=14)
        await wire.send(b"POST / HTTP/1.1\r\nHost: origin.test\r\nContent-Length: %d\r\n\r\n" % length + bytes(10))
        answer = await wire.answer()
        assert answer.headers.get("connection") == (None if length == 65536 else "close")
        if length == 65536:
            await wire.send(bytes(length - 10))
            assert (await wire.ask()).status == 413


@pytest.mark.parametrize("framing", [b"Content-Length: 1000000", b"Transfer-Encoding: chunked"])
@pytest.mark.parametrize("transport", ["virtual", "tcp"])
async def test_an_early_response_of_an_origin_that_closes_says_that_the_connection_ends(transport: str, framing: bytes) -> None:
    """RFC 9112 §9.6; whichever task comes first, the one that reads the response or the one that sends the rest of the request."""
    worlds: list[World] = []

    async def handle(stream: trio.abc.Stream) -> None:
        await worlds[0].proxy.serve_stream(stream)

    async with listening(handle) as port, open_world(early, http={"remap_required": False}) as world:
        worlds.append(world)
        for _ in range(6):
            wire = world.connect() if transport == "virtual" else Wire(await trio.open_tcp_stream("127.0.0.1", port))
            async with wire.stream:
                await wire.send(b"POST / HTTP/1.1\r\nHost: origin.test\r\n%b\r\n\r\n3\r\nabc" % framing)
                answer = await wire.answer()
                assert (answer.status, answer.body, answer.headers["connection"]) == (413, b"big", "close")


async def test_rfc_9110_10_1_1_the_origins_100_is_relayed_and_the_body_follows() -> None:
    async def serve(wire: Wire) -> None:
        _, headers = await wire.head()
        assert headers["expect"] == "100-continue"
        await wire.send(b"HTTP/1.1 100 Continue\r\n\r\n")
        body = await wire.body(headers)
        await wire.send(b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n%b" % (len(body), body))

    async with open_world(serve) as world:
        wire = world.connect()
        await wire.send(POST.replace(b"\r\n\r\n", b"\r\nExpect: 100-continue\r\n\r\n"))
        assert (await wire.answer()).status == 100
        await wire.send(b"0123456789")
        assert (await wire.answer()).body == b"0123456789"
        assert (await wire.ask(POST.replace(b"Content-Length: 10", b"Expect: 100-continue\r\nContent-Length: 0"))).status == 100


async def test_rfc_9110_10_1_1_a_final_answer_instead_of_100_closes_for_the_body_may_come_or_not() -> None:
    async with open_world(early) as world:
        wire = world.connect()
        answer = await wire.ask(POST.replace(b"\r\n\r\n", b"\r\nExpect: 100-continue\r\n\r\n"))
        assert (answer.status, answer.headers["connection"]) == (413, "close")
        assert await wire.rest() == b""


async def test_an_unknown_expectation_is_a_417() -> None:
    async with open_world() as world:
        answer = await world.connect().ask(GET.replace(b"\r\n\r\n", b"\r\nExpect: miracles\r\n\r\n"))
        assert answer.status == 417
        assert how(await world.record()) == ("client", "unknown_expectation")


# -------------------------------------------------------------------------------------------------------------- refusals and limits


@pytest.mark.parametrize(
    ("request_bytes", "status", "cause"),
    [
        (b"GET /\r\n\r\n", 400, "malformed_head"),
        (b"GET / HTTP/1.1\nHost: a\n\n", 400, "bare_line_end"),
        (b"GET / HTTP/1.1\r\n\r\n", 400, "no_host"),
        (b"GET / HTTP/1.1\r\nHost: a\r\nHost: a\r\n\r\n", 400, "duplicate_host"),
        (b"GET / HTTP/1.1\r\nHost: a\r\n b\r\n\r\n", 400, "folded_line"),
        (b"GET / HTTP/1.1\r\nHost: a\r\nX: \x01\r\n\r\n", 400, "control_character"),
        (b"GET / HTTP/2.0\r\nHost: a\r\n\r\n", 505, "bad_version"),
        (b"GET /" + b"a" * 9000 + b" HTTP/1.1\r\nHost: a\r\n\r\n", 414, "target_too_long"),
        (b"GET / HTTP/1.1\r\nHost: a\r\nX: " + b"a" * 33000 + b"\r\n\r\n", 431, "head_too_large"),
        (b"GET / HTTP/1.1\r\nHost: a\r\n" + b"X: y\r\n" * 101 + b"\r\n", 431, "head_too_large"),
        (b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 1\r\nTransfer-Encoding: chunked\r\n\r\n", 400, "conflicting_framing"),
        (b"POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: gzip\r\n\r\n", 501, None),
        (b"POST / HTTP/1.1\r\nHost: origin.test\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\n", 400, "bad_chunk"),
        (b"CONNECT a:443 HTTP/1.1\r\nHost: a:443\r\n\r\n", 403, "connect_denied"),
        (b"GET / HTTP/1.1\r\nHost: a\r\nVia: 1.1 trio_tsconnect\r\n\r\n", 400, "loop"),
    ],
)
async def test_what_cannot_be_accepted_is_refused_with_its_cause_and_the_engine_lives(
    request_bytes: bytes, status: int, cause: str | None
) -> None:
    async with open_world() as world:
        wire = world.connect()
        await wire.send(request_bytes)
        answer = await wire.answer()
        assert answer.status == status
        record = await world.record()
        assert record.status == status
        assert cause is None or record.ended.why == cause
        if record.ended.by == "client":
            assert answer.headers["connection"] == "close"
            assert await wire.rest() == b""
        assert (await world.connect().ask()).status == 200


@pytest.mark.parametrize("body", [b"Content-Length: 11\r\n\r\n", b"Transfer-Encoding: chunked\r\n\r\nb\r\n01234567890\r\n0\r\n\r\n"])
async def test_a_body_that_is_too_large_is_a_413(body: bytes) -> None:
    async with open_world(silent, http={"max_request_body": 10}) as world:
        wire = world.connect()
        answer = await wire.ask(b"POST / HTTP/1.1\r\nHost: origin.test\r\n" + body)
        assert (answer.status, answer.headers["connection"]) == (413, "close")
        assert how(await world.record()) == ("client", "request_too_large")
        assert world.origin.open_connections == 0


async def test_over_a_socket_it_is_all_the_same() -> None:
    async with open_world(http={"remap_required": False}) as world, listening(world.proxy.serve_stream) as port:
        wire = Wire(await trio.open_tcp_stream("127.0.0.1", port))
        assert (await wire.ask()).body == b"hello"
        assert (await wire.ask(b"BROKEN\r\n\r\n")).status == 400
        assert await wire.rest() == b""
        await wire.stream.aclose()
        first, second = await world.log.wait(2)
    assert (first.client_address, first.internal, first.tag) == ("127.0.0.1", False, None)
    assert first.session == second.session == first.client_connection


async def test_without_a_rule_a_request_is_a_404_that_names_what_was_looked_up_and_the_connection_goes_on() -> None:
    async with open_world() as world:
        wire = world.connect(target=None)
        for _ in range(2):
            answer = await wire.ask()
            assert answer.status == 404
            assert b"origin.test/path" in answer.body
        await trio.testing.wait_all_tasks_blocked()
        assert [how(record) for record in world.records] == [("proxy", "no_remap_rule")] * 2


async def test_repr_tells_what_there_is() -> None:
    async with open_proxy(ProxyConfig(origin=OriginConfig())) as proxy:
        stream = proxy.connect()
        assert repr(proxy) == "<Proxy open, 1 sessions>"
        await stream.aclose()


async def test_a_connection_opened_just_before_the_end_does_not_hold_the_drain(autojump_clock: trio.testing.MockClock) -> None:
    async with open_proxy() as proxy:
        connection = proxy.connect()
    assert trio.current_time() == 0
    await connection.aclose()


@pytest.mark.parametrize("kind", [RuntimeError, SystemExit])
async def test_exception_of_the_body_survives_a_cancellation_around_it(kind: type[BaseException], autojump_clock: Clock) -> None:
    async def body(proxy: Proxy) -> None:
        try:
            await trio.sleep_forever()
        finally:
            raise kind("cleaning up failed")

    with pytest.raises(kind, match="cleaning up failed"), trio.move_on_after(1):
        async with open_proxy() as proxy:
            await body(proxy)


async def test_drain_is_told_to_whoever_waits_for_it_before_the_first_client(autojump_clock: Clock) -> None:
    async with open_proxy() as proxy, trio.open_nursery() as nursery:
        told = trio.Event()

        async def wait() -> None:
            await proxy.wait_until_draining()
            told.set()

        nursery.start_soon(wait)
        await trio.testing.wait_all_tasks_blocked()
        async with proxy.connect():
            await trio.testing.wait_all_tasks_blocked()
            await proxy.drain(0)
            with trio.fail_after(1):
                await told.wait()


async def test_drain_ends_with_what_was_admitted_while_it_went_on(autojump_clock: Clock) -> None:
    class Asks(Plugin):
        async def read_request(self, txn: Transaction) -> None:
            if txn.depth == 0:
                await trio.sleep(1)
                async with txn.fetch(Request("GET", "/", {"Host": "a"})) as answer:
                    await answer.body.read()
            txn.respond(204)

    async with open_proxy(plugins=[Asks()]) as proxy:
        client = proxy.connect()
        await client.send_all(b"GET / HTTP/1.1\r\nHost: a\r\n\r\n")
        await trio.testing.wait_all_tasks_blocked(0)
        began = trio.current_time()
        assert await proxy.drain(60)
        assert trio.current_time() - began < 2
        await client.aclose()
