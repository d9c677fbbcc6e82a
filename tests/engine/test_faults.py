"""Clients that vanish and origins that die, at each step: nothing is left over, one record says whose doing it was, and the next one is served."""

from __future__ import annotations

import itertools
import math
import socket
import struct
from contextlib import suppress
from typing import Any

import pytest
import trio
import trio.testing
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tests.engine._world import GET, OK, Answer, Serve, Wire, World, echo, how, listening, open_world, replying, silent, stopping_after
from trio_tsconnect import Plugin, Transaction
from trio_tsconnect.message import Headers, Request, check_request

POST = b"POST /path HTTP/1.1\r\nHost: origin.test\r\nContent-Length: 10\r\n\r\n"
CHUNKED = b"POST /path HTTP/1.1\r\nHost: origin.test\r\nTransfer-Encoding: chunked\r\n\r\n"


def dying(reply: bytes, *, abort: bool = False, read_head: bool = True) -> Serve:
    """Give this much of an answer, and be gone."""

    async def serve(wire: Wire) -> None:
        if read_head:
            await wire.head()
        if reply:
            await wire.send(reply)
        if abort:
            await trio.testing.wait_all_tasks_blocked()
            wire.stream.abort("the origin died")  # type: ignore[attr-defined]

    return serve


async def pouring(wire: Wire) -> None:
    await wire.head()
    await wire.send(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n")
    while True:
        await wire.send(b"4000\r\n" + bytes(0x4000) + b"\r\n")


class Thinking(Plugin):
    """Tells when a transaction begins; thinks for ever about what says so."""

    def __init__(self) -> None:
        self.begun = trio.Event()

    async def transaction_start(self, txn: Transaction) -> None:
        if txn.session.tag != "blocker":
            self.begun.set()

    async def read_request(self, txn: Transaction) -> None:
        if "x-think" in txn.request.headers:
            await trio.sleep_forever()


STEPS: dict[str, tuple[bytes, Serve]] = {
    "within the head": (b"GET /path HTTP/1.1\r\nHost: or", silent),
    "within the body": (POST + b"abc", silent),
    "within a chunk": (CHUNKED + b"a\r\nabc", silent),
    "in a hook": (b"GET / HTTP/1.1\r\nHost: origin.test\r\nX-Think: 1\r\n\r\n", silent),
    "in the line for a connection": (GET, silent),
    "while the origin is connected to": (GET, silent),
    "before the response": (GET, silent),
    "waiting for 100": (b"POST / HTTP/1.1\r\nHost: origin.test\r\nExpect: 100-continue\r\nContent-Length: 9\r\n\r\n", silent),
    "within the response": (GET, stopping_after(b"HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\nhello")),
    "while the response pours": (GET, pouring),
}


async def prepare(world: World, step: str) -> None:
    if step == "in the line for a connection":
        blocker = world.connect(tag="blocker")
        await blocker.send(GET)
        await trio.testing.wait_all_tasks_blocked()
    elif step == "while the origin is connected to":
        world.origin.delay = math.inf


async def check_gone(world: World, step: str) -> None:
    (record,) = await world.log.wait()
    assert how(record) == ("client", "client_gone")
    assert world.taken() == ((1, 0) if step == "in the line for a connection" else (0, 0))
    await trio.testing.wait_all_tasks_blocked()
    assert len(world.records) == 1
    for session in list(world.proxy.sessions):
        session.cancel("proxy", "the test is over")


@pytest.mark.parametrize("step", STEPS)
@pytest.mark.parametrize("leave", ["close", "abort"])
async def test_a_virtual_client_that_vanishes_leaves_nothing_but_its_record(step: str, leave: str) -> None:
    request, serve = STEPS[step]
    async with open_world(serve, plugins=[Thinking()], origin={"max_connections": 1}) as world:
        await prepare(world, step)
        wire = world.connect(tag="test", id=5)
        await wire.send(request)
        await trio.testing.wait_all_tasks_blocked()
        assert world.records == []
        if leave == "close":
            await wire.stream.aclose()
        else:
            wire.stream.abort("the client has had enough")  # type: ignore[attr-defined]
        await trio.testing.wait_all_tasks_blocked()
        assert len(world.proxy.sessions) == (step == "in the line for a connection")
        await check_gone(world, step)


@pytest.mark.parametrize("step", STEPS)
@pytest.mark.parametrize("leave", ["close", "reset"])
async def test_a_network_client_that_vanishes_leaves_nothing_but_its_record(step: str, leave: str) -> None:
    request, serve = STEPS[step]
    config = {"gone_check_interval": 0.01, "remap_required": False}
    plugin = Thinking()
    async with open_world(serve, plugins=[plugin], origin={"max_connections": 1}, http=config) as world:
        await prepare(world, step)
        async with listening(world.proxy.serve_stream) as port:
            stream = await trio.open_tcp_stream("127.0.0.1", port)
            await stream.send_all(request)
            if "response" in step and step != "before the response":
                await stream.receive_some(100)
            await plugin.begun.wait()
            await trio.testing.wait_all_tasks_blocked()
            if leave == "reset":
                stream.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            await stream.aclose()
            await check_gone(world, step)


@pytest.mark.parametrize("leave", ["close", "abort"])
@pytest.mark.parametrize("before", [b"", b"\r\n", GET])
async def test_a_client_that_leaves_between_requests_makes_no_record(leave: str, before: bytes) -> None:
    async with open_world() as world:
        wire = world.connect()
        await wire.send(before)
        if before == GET:
            await wire.answer()
        await trio.testing.wait_all_tasks_blocked()
        if leave == "close":
            await wire.stream.aclose()
        else:
            wire.stream.abort("bye")  # type: ignore[attr-defined]
        await trio.testing.wait_all_tasks_blocked()
        assert not world.proxy.sessions
        assert [how(record) for record in world.records] == [("proxy", "complete")] * (before == GET)


async def test_a_client_that_has_its_response_may_leave_at_once() -> None:
    async with open_world(replying(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n0\r\n\r\n")) as world:
        wire = world.connect()
        assert (await wire.ask()).body == b"hello"
        await wire.stream.aclose()
        assert how(await world.record()) == ("proxy", "complete")
        assert world.proxy.core.pool.statistics().idle == 1


@pytest.mark.parametrize("serve", [replying(OK), echo])
async def test_a_half_closed_client_is_answered(serve: Serve) -> None:
    async with open_world(serve) as world:
        wire = world.connect()
        await wire.send(POST + b"0123456789")
        await wire.stream.send_eof()  # type: ignore[attr-defined]
        answer = await wire.answer()
        assert answer.body == (b"hello" if serve is not echo else b"0123456789")
        assert await wire.rest() == b""
        assert how(await world.record()) == ("proxy", "complete")


BEFORE = {
    "at once": (b"", False),
    "after the request": (b"", True),
    "within the status line": (b"HTTP/1.1 20", True),
    "within the fields": (b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\nX-", True),
    "after an interim response": (b"HTTP/1.1 102 Processing\r\n\r\n", True),
}


@pytest.mark.parametrize("step", BEFORE)
@pytest.mark.parametrize("abort", [False, True])
@pytest.mark.parametrize("request_bytes", [GET, POST + b"0123456789", POST + b"012"])
async def test_an_origin_that_dies_before_its_response_is_a_502(
    step: str, abort: bool, request_bytes: bytes, autojump_clock: trio.testing.MockClock
) -> None:
    reply, read_head = BEFORE[step]
    async with open_world(dying(reply, abort=abort, read_head=read_head)) as world:
        wire = world.connect()
        await wire.send(request_bytes)
        while (answer := await wire.answer()).status == 102:
            pass
        assert answer.status == 502
        (record,) = await world.log.wait()
        assert how(record) in (("origin", "origin_closed"), ("origin", "origin_bad_response"))
        assert record.attempts == 1
        assert world.taken() == (0, 0)
        assert world.origin.open_connections == 0
        await wire.stream.aclose()


WITHIN = {
    "within a known length": b"HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\nhello",
    "before the body": b"HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\n",
    "within a chunk": b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\nff\r\nhello",
    "between chunks": b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n",
    "within a trailer": b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n0\r\nX-Sum: 1",
}


@pytest.mark.parametrize("step", WITHIN)
@pytest.mark.parametrize("abort", [False, True])
@pytest.mark.parametrize("version", [b"1.0", b"1.1"])
async def test_an_origin_that_dies_within_its_response_leaves_it_visibly_cut(step: str, abort: bool, version: bytes) -> None:
    async with open_world(dying(WITHIN[step], abort=abort)) as world:
        wire = world.connect()
        await wire.send(GET.replace(b"1.1", version))
        received = await wire.rest()
        assert received.startswith(b"HTTP/1.1 200 OK\r\n") or wire.broken
        assert not received.endswith(b"0\r\n\r\n")
        if version == b"1.0" and "length" not in step and step != "before the body":
            assert wire.broken
        assert how(await world.record()) == ("origin", "origin_truncated")
        assert world.taken() == (0, 0)
        assert world.origin.open_connections == 0


@pytest.mark.parametrize(
    "reply",
    [
        b"garbage\r\n\r\n",
        b"HTTP/1.1 200 OK\nContent-Length: 0\n\n",
        b"HTTP/1.1 200 OK\r\nContent-Length: 1\r\nContent-Length: 2\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: gzip, chunked\r\n\r\n0\r\n\r\n",
        b"HTTP/1.0 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nA: b\r\n folded\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nA: \x00\r\n\r\n",
        b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: x\r\nConnection: upgrade\r\n\r\n",
        b"HTTP/2.0 200 OK\r\n\r\n",
        b"HTTP/1.1 999 What\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nA: " + b"b" * 40000 + b"\r\n\r\n",
        b"HTTP/1.1 200 OK\r\n" + b"A: b\r\n" * 200 + b"\r\n",
    ],
)
async def test_an_answer_that_is_no_acceptable_message_is_a_502_and_its_connection_is_not_kept(reply: bytes) -> None:
    async with open_world(replying(reply)) as world:
        wire = world.connect()
        assert (await wire.ask()).status == 502
        assert (await world.record()).ended.by == "origin"
        assert world.origin.open_connections == 0
        assert (await wire.ask()).status == 502


@pytest.mark.parametrize("surplus", [b"x", OK])
async def test_an_origin_that_says_more_than_it_was_asked_is_not_asked_again(surplus: bytes) -> None:
    async with open_world(replying(OK + surplus)) as world:
        wire = world.connect()
        for count in (1, 2):
            answer = await wire.ask()
            assert (answer.status, answer.body) == (200, b"hello")
            assert len(world.origin.streams) == count


def dying_when_used_again(kill: str) -> Serve:
    async def serve(wire: Wire) -> None:
        await wire.head()
        await wire.send(OK)
        await wire.head()
        if kill == "abort":
            wire.stream.abort("died")  # type: ignore[attr-defined]
        elif kill == "partial":
            await wire.send(b"HTTP/1.1 2")

    return serve


@pytest.mark.parametrize("kill", ["close", "abort"])
@pytest.mark.parametrize("method", [b"GET", b"HEAD", b"PUT", b"DELETE", b"OPTIONS"])
async def test_rfc_9110_9_2_2_an_idempotent_request_is_tried_once_more_when_a_kept_connection_died(kill: str, method: bytes) -> None:
    async with open_world(dying_when_used_again(kill)) as world:
        wire = world.connect()
        assert (await wire.ask()).status == 200
        assert (await wire.ask(GET.replace(b"GET", method))).status == 200
        await trio.testing.wait_all_tasks_blocked()
        assert [record.attempts for record in world.records] == [1, 2]
        assert not world.records[1].origin_reused


@pytest.mark.parametrize("request_bytes", [POST + b"0123456789", GET.replace(b"GET", b"POST"), GET.replace(b"GET", b"PATCH")])
async def test_no_other_request_is_ever_sent_twice(request_bytes: bytes) -> None:
    async with open_world(dying_when_used_again("close")) as world:
        wire = world.connect()
        assert (await wire.ask()).status == 200
        assert (await wire.ask(request_bytes)).status == 502
        assert len(world.origin.streams) == 1


async def test_once_a_response_has_begun_nothing_is_tried_again() -> None:
    async with open_world(dying_when_used_again("partial")) as world:
        wire = world.connect()
        assert (await wire.ask()).status == 200
        assert (await wire.ask()).status == 502
        assert len(world.origin.streams) == 1


async def test_a_retry_is_the_last_one() -> None:
    async def serve(wire: Wire) -> None:
        await wire.head()
        if len(world.origin.streams) == 1:
            await wire.send(OK)
            await wire.head()

    async with open_world(serve) as world:
        wire = world.connect()
        assert (await wire.ask()).status == 200
        assert (await wire.ask()).status == 502
        assert len(world.origin.streams) == 2


async def test_an_origin_that_refuses_does_not_exist_or_cannot_be_trusted_is_a_502() -> None:
    import ssl

    import trustme

    from trio_tsconnect import MemoryLog, OriginConfig, ProxyConfig, open_proxy
    from trio_tsconnect.hooks import ConnectOptions

    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    trustme.CA().issue_cert("localhost").configure_cert(context)
    with socket.socket() as closed:
        closed.bind(("127.0.0.1", 0))
        refused = closed.getsockname()[1]
        listener, *_ = await trio.open_tcp_listeners(0, host="127.0.0.1")
        untrusted = listener.socket.getsockname()[1]

        async def handshake(stream: trio.SSLStream[trio.SocketStream]) -> None:
            with suppress(trio.BrokenResourceError):
                await stream.do_handshake()
                await stream.receive_some()
            await trio.aclose_forcefully(stream)

        log = MemoryLog()
        async with trio.open_nursery() as nursery:
            nursery.start_soon(trio.serve_listeners, handshake, [trio.SSLListener(listener, context)])
            async with open_proxy(ProxyConfig(origin=OriginConfig()), log=log) as proxy:
                for target, url in (
                    (("127.0.0.1", refused), "http://localhost"),
                    (("nosuchhost.invalid", 80), "http://localhost"),
                    (("127.0.0.1", untrusted), "https://localhost"),
                ):
                    wire = Wire(proxy.connect(ConnectOptions(target=target)))
                    answer = await wire.ask(b"GET %b/ HTTP/1.1\r\nHost: localhost\r\n\r\n" % url.encode())
                    assert answer.status == 502
                    await wire.stream.aclose()
            nursery.cancel_scope.cancel()
    assert [how(record) for record in log.records] == [
        ("origin", "origin_refused"),
        ("origin", "origin_name_not_found"),
        ("origin", "origin_tls"),
    ]


# ---------------------------------------------------------------------------------------------------------- any bytes, in any pieces


async def collecting(wire: Wire, heads: list[bytes]) -> None:
    while True:
        heads.append(await wire.until(b"\r\n\r\n"))
        headers = dict(line.partition(": ")[::2] for line in heads[-1].decode("latin-1").lower().split("\r\n")[1:-2])
        await wire.body(headers)
        await wire.send(OK)


def judge(head: bytes) -> None:
    """What reaches an origin is what the strict rules let pass."""
    assert head.count(b"\n") == head.count(b"\r\n") == head.count(b"\r")
    line, *fields = head[:-4].split(b"\r\n")
    method, target, version = line.decode("latin-1").split(" ")
    pairs = [tuple(field.split(b": ", 1)) for field in fields]
    check_request(Request(method, target, Headers(pairs), version.removeprefix("HTTP/")))  # type: ignore[arg-type]


PARTS = [
    *(b"GET ", b"POST ", b"/", b"*", b"http://origin.test/", b" HTTP/1.1", b" HTTP/1.0", b"\r\n", b"\n", b"\r", b" ", b"\t", b":", b"\x00"),
    *(
        b"Host: origin.test\r\n",
        b"Content-Length: 5\r\n",
        b"Content-Length: 0\r\n",
        b"Transfer-Encoding: chunked\r\n",
        b"Expect: 100-continue\r\n",
    ),
    *(
        b"Connection: close\r\n",
        b"Connection: host\r\n",
        b"X: y\r\n",
        b" folded\r\n",
        b"hello",
        b"5\r\nhello\r\n",
        b"0\r\n\r\n",
        b"\r\n\r\n",
        GET,
    ),
    *(
        b"GET / HTTP/1.1\r\nHost: origin.test\r\n",
        b"POST / HTTP/1.1\r\nHost: origin.test\r\n",
        b"TE: trailers\r\n",
        b"Upgrade: websocket\r\n",
    ),
]


async def feed(data: bytes, cuts: list[int], serve: Serve) -> tuple[bytes, list[Any]]:
    """What comes back when these bytes arrive in these pieces and then the input ends; and how each transaction ended."""
    async with open_world(serve, http={"header_timeout": 5, "keep_alive_timeout": 5, "inactivity_timeout": 5, "via": ""}) as world:
        wire = world.connect()
        edges = [0, *sorted({cut % (len(data) + 1) for cut in cuts}), len(data)]
        with trio.fail_after(100):
            try:
                for start, end in itertools.pairwise(edges):
                    if data[start:end]:
                        await wire.send(data[start:end])
                        await trio.testing.wait_all_tasks_blocked()
                await wire.stream.send_eof()  # type: ignore[attr-defined]
            except trio.BrokenResourceError:
                pass
            received = await wire.rest()
        await wire.stream.aclose()
    return received, [(record.status, how(record)) for record in world.records]


def run(data: bytes, cuts: list[int], serve: Serve) -> tuple[bytes, list[Any]]:
    async def main() -> tuple[bytes, list[Any]]:
        return await feed(data, cuts, serve)

    return trio.run(main, clock=trio.testing.MockClock(autojump_threshold=0))


@settings(suppress_health_check=[HealthCheck.too_slow])
@given(
    st.one_of(st.lists(st.sampled_from(PARTS), max_size=14).map(b"".join), st.binary(max_size=100)),
    st.lists(st.integers(0, 400), max_size=3),
)
def test_whatever_bytes_come_as_a_request_it_ends_and_nothing_malformed_is_forwarded(data: bytes, cuts: list[int]) -> None:
    heads: list[bytes] = []

    async def serve(wire: Wire) -> None:
        await collecting(wire, heads)

    received, ends = run(data, cuts, serve)
    for head in heads:
        judge(head)
    assert ("proxy", "internal") not in [end for _, end in ends]
    assert received.count(b"HTTP/1.1 ") >= sum(status is not None for status, _ in ends)


@settings(suppress_health_check=[HealthCheck.too_slow])
@given(
    st.one_of(
        st.lists(st.sampled_from([*PARTS, b"HTTP/1.1 200 OK\r\n", b"HTTP/1.1 103 E\r\n\r\n", b"HTTP/1.0 204 \r\n", OK]), max_size=10).map(
            b"".join
        ),
        st.binary(max_size=60),
    )
)
def test_whatever_bytes_come_as_a_response_it_ends_with_an_answer_or_a_cut(data: bytes) -> None:
    received, ends = run(GET, [], dying(data))
    assert received.startswith(b"HTTP/1.1 ") or ends[0][1] == ("origin", "origin_truncated")
    assert len(ends) == 1
    assert ends[0][1] != ("proxy", "internal")


VALID = [
    GET,
    GET.replace(b"1.1\r\n", b"1.0\r\nConnection: keep-alive\r\n"),
    POST + b"0123456789",
    CHUNKED + b"3\r\nabc\r\n7;x=y\r\ndefghij\r\n0\r\nX-Sum: 1\r\n\r\n",
    b"HEAD / HTTP/1.1\r\nHost: origin.test\r\n\r\n",
    b"\r\n" + GET,
]


@settings(suppress_health_check=[HealthCheck.too_slow])
@given(st.lists(st.sampled_from(VALID), min_size=1, max_size=4), st.lists(st.integers(0, 600), max_size=6))
def test_any_split_of_valid_requests_gives_the_same_answers(requests: list[bytes], cuts: list[int]) -> None:
    async def serve(wire: Wire) -> None:
        while True:
            first, headers = await wire.head()
            body = await wire.body(headers)
            reply = b"HTTP/1.1 200 OK\r\nDate: now\r\nContent-Length: %d\r\n\r\n" % len(body)
            await wire.send(reply if first.startswith("HEAD") else reply + body)

    data = b"".join(requests)
    whole, ends = run(data, [], serve)
    assert len(ends) == len(requests)
    assert {end for _, end in ends} == {("proxy", "complete")}
    assert run(data, cuts, serve) == (whole, ends)


# ---------------------------------------------------------------------------------------------------------------------- the bodies


async def test_both_bodies_stream_at_once_however_small_the_buffers() -> None:
    size = 1 << 20
    async with open_world(echo) as world:
        world.origin.buffer_index = 0
        wire = world.connect(buffer_index=0)
        received: list[Answer] = []

        async def read() -> None:
            received.append(await wire.answer("POST"))

        async with trio.open_nursery() as nursery:
            nursery.start_soon(read)
            await wire.send(b"POST / HTTP/1.1\r\nHost: origin.test\r\nContent-Length: %d\r\n\r\n" % size)
            await wire.send(bytes(size))
        assert received[0].whole
        assert len(received[0].body) == size
        record = await world.record()
        assert (record.request_bytes, record.response_bytes) == (size, size)
        # the response began with more to come than would be read and dropped, so it could not promise another request
        assert received[0].headers["connection"] == "close"
        assert await wire.rest() == b""


@pytest.mark.parametrize("size", [65435, 65436, 65437, 65536, 131072, 131073])
@pytest.mark.parametrize("chunked", [False, True])
async def test_a_body_that_ends_with_a_full_read_is_not_waited_for_any_longer(size: int, chunked: bool) -> None:
    async with open_world(replying(OK)) as world:
        wire = world.connect(buffer_index=14)
        await wire.send(CHUNKED if chunked else POST.replace(b"10", b"%d" % size))
        await trio.testing.wait_all_tasks_blocked()
        data = bytes(size)
        await wire.send(b"%x\r\n" % size + data + b"\r\n0\r\n\r\n" if chunked else data)
        with trio.fail_after(5):
            assert (await wire.answer()).status == 200
            assert (await wire.ask()).status == 200
        await trio.testing.wait_all_tasks_blocked()
        assert world.records[0].request_bytes == size
        assert len(world.origin.streams) == 1


async def test_a_client_that_does_not_read_stops_the_origin() -> None:
    sent = 0

    async def pour(wire: Wire) -> None:
        nonlocal sent
        await wire.head()
        await wire.send(b"HTTP/1.1 200 OK\r\n\r\n")
        while True:
            await wire.send(bytes(1000))
            sent += 1000

    async with open_world(pour) as world:
        wire = world.connect()
        await wire.send(GET)
        await trio.testing.wait_all_tasks_blocked()
        stopped = sent
        assert stopped < 400_000
        await trio.testing.wait_all_tasks_blocked()
        assert sent == stopped
        for _ in range(10):
            await wire.more()
        await trio.testing.wait_all_tasks_blocked()
        assert sent > stopped
        await wire.stream.aclose()


async def test_an_origin_that_does_not_read_stops_the_client() -> None:
    async def deaf(wire: Wire) -> None:
        await trio.sleep_forever()

    async with open_world(deaf) as world:
        wire = world.connect()
        sent = 0

        async def upload() -> None:
            nonlocal sent
            with suppress(trio.BrokenResourceError, trio.ClosedResourceError):
                while True:
                    await wire.send(b"400\r\n" + bytes(0x400) + b"\r\n")
                    sent += 0x400

        async with trio.open_nursery() as nursery:
            await wire.send(CHUNKED)
            nursery.start_soon(upload)
            await trio.testing.wait_all_tasks_blocked()
            stopped = sent
            assert 0 < stopped < 400_000
            await trio.testing.wait_all_tasks_blocked()
            assert sent == stopped
            await wire.stream.aclose()


@pytest.mark.parametrize("mark", [0, 1, 1000, 32768])
async def test_a_water_mark_withholds_nothing_that_matters(mark: int) -> None:
    interim = b"HTTP/1.1 103 Early Hints\r\n\r\n"
    more = trio.Event()

    async def serve(wire: Wire) -> None:
        await wire.head()
        await wire.send(interim)
        await more.wait()
        await wire.send(OK[:-3])
        await trio.sleep_forever()

    async with open_world(serve) as world:
        wire = world.connect(buffer_water_mark=mark)
        with trio.fail_after(5):
            await wire.send(GET)
            assert (await wire.answer()).status == 103
            more.set()
            first, _ = await wire.head()
            assert first == "HTTP/1.1 200 OK"
            assert await wire.exactly(2) == b"he"  # what has come, although more is to come
        await wire.stream.aclose()
