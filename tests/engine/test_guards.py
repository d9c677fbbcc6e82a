"""Lines that guard something, each of which was once left out without a test noticing."""

from __future__ import annotations

import os
import socket
from collections.abc import AsyncIterator
from contextlib import suppress
from typing import Any

import pytest
import trio
import trio.testing

from tests.engine._world import GET, OK, Wire, how, open_world, replying
from tests.engine.test_hooks import make_plugin
from tests.engine.test_pool import FakeOrigin, held, running_pool
from trio_tsconnect import (
    ConnectRefused,
    HttpConfig,
    MemoryLog,
    OriginConfig,
    ProxyConfig,
    RemapRule,
    Request,
    VirtualConnection,
    open_proxy,
)
from trio_tsconnect.engine import _gone
from trio_tsconnect.stream import has_hung_up, reset, unsent

TIMEOUT = 5


# ---------------------------------------------------------------------------------------------------------------------------- the pool


async def test_connection_with_unread_input_is_not_handed_to_one_who_waits() -> None:
    """The origin has said something that nobody asked for: the next request would take it for its response."""
    config = OriginConfig(max_connections=1)
    origin = FakeOrigin()
    async with running_pool() as pool, trio.open_nursery() as nursery:
        first = await pool.acquire(origin, config)
        got: list[Any] = []

        async def wait() -> None:
            got.append(await pool.acquire(origin, config))

        nursery.start_soon(wait)
        await trio.testing.wait_all_tasks_blocked()
        await origin.far[0].send_all(b"HTTP/1.1 408 Nobody asked\r\n\r\n")
        assert not pool.release(first, config)
        await pool.discard(first)
        await trio.testing.wait_all_tasks_blocked()
        assert got[0].stream is origin.near[1]
        await pool.discard(got[0])


async def test_connection_of_an_origin_that_serves_one_request_is_not_kept() -> None:
    origin = FakeOrigin(persistent=False)
    async with running_pool() as pool:
        connection = await pool.acquire(origin, OriginConfig())
        assert not pool.release(connection, OriginConfig())
        await pool.discard(connection)
        assert held(pool) == (0, 0, 0)


async def test_connection_beyond_the_limit_is_not_kept() -> None:
    """`max_connections` counts idle connections too. One more is made only for a request that its own ancestors would keep waiting."""
    origin, config = FakeOrigin(), OriginConfig(max_connections=1)
    async with running_pool() as pool:
        first, beyond = await pool.acquire(origin, config), await pool.acquire(origin, config, beyond_limit=True)
        assert not pool.release(beyond, config)
        await pool.discard(beyond)
        assert pool.release(first, config)
        assert (held(pool), origin.open_connections) == ((1, 0, 0), 1)


async def test_clients_that_have_left_are_not_remembered() -> None:
    """The connections stay, and any number of clients may have used them."""
    origin, config = FakeOrigin(), OriginConfig(max_connections=4)
    async with running_pool() as pool:
        for number in range(100):
            assert pool.release(await pool.acquire(origin, config, holder=(("connection", number),)), config)
        (place,) = pool._places.values()
        assert (held(pool), len(place.held), len(place.with_clients)) == ((1, 0, 0), 0, 0)


async def test_one_who_leaves_the_line_leaves_the_others_where_they_are() -> None:
    origin, config = FakeOrigin(), OriginConfig(max_connections=1)
    async with running_pool() as pool, trio.open_nursery() as nursery:
        first = await pool.acquire(origin, config)
        got: list[str] = []

        async def wait(name: str, scope: trio.CancelScope) -> None:
            with scope:
                connection = await pool.acquire(origin, config)
                got.append(name)
                await pool.discard(connection)

        scopes = {name: trio.CancelScope() for name in ("second", "third", "fourth")}
        for name, scope in scopes.items():
            nursery.start_soon(wait, name, scope)
            await trio.testing.wait_all_tasks_blocked()
        scopes["third"].cancel()
        await trio.testing.wait_all_tasks_blocked()
        assert (got, held(pool), origin.open_connections) == ([], (0, 1, 2), 1)
        await pool.discard(first)
        await trio.testing.wait_all_tasks_blocked()
        assert (got, held(pool), origin.open_connections) == (["second", "fourth"], (0, 0, 0), 0)


async def test_fresh_connection_leaves_those_that_rest_alone() -> None:
    """A second attempt wants a connection that was not used before; others may still want the ones that were."""
    origin, config = FakeOrigin(), OriginConfig()
    async with running_pool() as pool:
        assert pool.release(await pool.acquire(origin, config), config)
        fresh = await pool.acquire(origin, config, fresh=True)
        assert (held(pool), fresh.stream) == ((1, 1, 0), origin.near[1])
        await pool.discard(fresh)


async def test_pool_keeps_nothing_of_an_origin_that_it_has_no_connection_to(autojump_clock: trio.testing.MockClock) -> None:
    """A proxy that forwards freely meets any number of origins."""
    config = OriginConfig(keep_alive_timeout=5)
    async with running_pool() as pool:
        for number in range(20):
            origin = FakeOrigin(name=str(number))
            assert pool.release(await pool.acquire(origin, config), config)
        assert held(pool) == (20, 0, 0)
        await trio.sleep(6)
        assert held(pool) == (0, 0, 0)
        assert not pool._places


# ------------------------------------------------------------------------------------------------------------------------ responses


async def test_switch_in_the_middle_of_the_request_is_a_bad_answer(autojump_clock: trio.testing.MockClock) -> None:
    async def origin(wire: Wire) -> None:
        await wire.head()
        await wire.send(b"HTTP/1.1 101 Switching\r\nConnection: Upgrade\r\nUpgrade: x\r\n\r\n")
        await wire.rest()

    async with open_world(origin) as world:
        wire = world.connect()
        await wire.send(b"POST / HTTP/1.1\r\nHost: a\r\nConnection: Upgrade\r\nUpgrade: x\r\nContent-Length: 5\r\n\r\n")
        assert (await wire.answer()).status == 502
    assert how(world.records[0]) == ("origin", "origin_bad_response")


@pytest.mark.parametrize("field", [b"Content-Length: 5", b"Transfer-Encoding: chunked", b"Keep-Alive: 5"])
async def test_interim_responses_are_not_framed(field: bytes) -> None:
    """RFC 9110 §8.6, RFC 9112 §6.1: a client that believed such a field would wait for content, or take the final response for it. What
    describes a connection describes that of the origin.
    """
    name, _, value = field.decode().partition(": ")

    async def act(_hook: str, txn: Any) -> None:
        if txn.response.status == 103:
            txn.response.headers[name] = value

    reply = b"HTTP/1.1 103 Early\r\n" + field + b"\r\nLink: x\r\n\r\n" + OK
    async with open_world(replying(reply), plugins=[make_plugin("Framing", act, "read_response")]) as world:
        wire = world.connect()
        await wire.send(GET)
        _, headers = await wire.head()
        assert headers == {"link": "x"}
        assert (await wire.answer()).status == 200


async def test_request_is_not_sent_again_after_an_interim_response() -> None:
    """The client would see the interim responses of two attempts."""
    gate = trio.Event()
    connections = 0

    async def origin(wire: Wire) -> None:
        nonlocal connections
        connections += 1
        await wire.head()
        await wire.send(OK)
        await wire.head()
        await wire.send(b"HTTP/1.1 103 Early\r\n\r\n")
        gate.set()

    async with open_world(origin) as world:
        wire = world.connect()
        assert (await wire.ask()).status == 200
        await wire.send(GET)
        assert (await wire.answer()).status == 103
        assert (await wire.answer()).status == 502
    assert (connections, world.records[1].attempts) == (1, 1)


async def test_retry_elsewhere_names_the_other_host() -> None:
    hosts: list[str] = []

    async def origin(wire: Wire) -> None:
        _, headers = await wire.head()
        hosts.append(headers["host"])
        await wire.send(b"HTTP/1.1 503 Busy\r\nContent-Length: 0\r\n\r\n" if len(hosts) == 1 else OK)

    async def act(_hook: str, txn: Any) -> None:
        if txn.response.status == 503:
            txn.retry("http://other.test:81/path")

    async with open_world(origin, plugins=[make_plugin("Retrying", act, "read_response")]) as world:
        assert (await world.connect().ask()).status == 200
    assert hosts == ["origin.test", "other.test:81"]


async def test_what_is_read_of_an_unwanted_body_has_a_bound() -> None:
    async def act(_hook: str, txn: Any) -> None:
        txn.respond(200)

    http = {"drain_body": 1000, "max_request_body": None}
    async with open_world(plugins=[make_plugin("Answering", act, "read_request")], http=http) as world:
        wire = world.connect()
        await wire.send(b"POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n" + b"400\r\n%b\r\n" % bytes(1024) * 4)
        assert (await wire.answer()).headers.get("connection") == "close"
        wire = world.connect()
        await wire.send(b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 1000\r\n\r\n")
        assert "connection" not in (await wire.answer()).headers
        with trio.fail_after(TIMEOUT):
            await wire.send(bytes(1000) + GET)
            assert (await wire.answer()).status == 200
    assert [record.request_bytes for record in world.records][1:] == [1000, 0]


async def test_refused_connect_ends_the_connection() -> None:
    """What follows may be meant for the tunnel: a client may send it before it has the answer."""
    async with open_world() as world:
        wire = world.connect()
        await wire.send(b"CONNECT a.test:1 HTTP/1.1\r\nHost: a.test:1\r\n\r\n" + GET)
        answer = await wire.answer()
        assert (answer.status, answer.headers["connection"]) == (403, "close")
        assert await wire.rest() == b""
    assert len(world.records) == 1


# ------------------------------------------------------------------------------------------------------------------------- children


async def test_children_are_refused_while_their_parent_ends_what_it_has() -> None:
    """`end_children` waits for those that it knows; one more would outlive the record."""
    refused: list[str] = []

    async def act(_hook: str, txn: Any) -> None:
        if txn.depth:
            try:
                await trio.sleep_forever()
            finally:
                try:
                    txn.parent.connect()
                except ConnectRefused as exc:
                    refused.append(exc.reason)
        txn.connect().send_nowait(GET)
        await trio.testing.wait_all_tasks_blocked()
        txn.respond(200)

    async with open_world(plugins=[make_plugin("Spawning", act, "read_request")]) as world:
        assert (await world.connect().ask()).status == 200
    assert refused == ["closed"]


async def test_children_that_have_ended_are_forgotten() -> None:
    most = 0

    async def act(_hook: str, txn: Any) -> None:
        nonlocal most
        if txn.depth == 0:
            for _ in range(50):
                await Wire(txn.connect()).ask(GET.replace(b"\r\n\r\n", b"\r\nConnection: close\r\n\r\n"))
                most = max(most, len(txn.children))
        txn.respond(200)

    async with open_world(plugins=[make_plugin("Spawning", act, "read_request")]) as world:
        assert (await world.connect().ask()).status == 200
    assert most <= 9


async def test_task_of_an_intercept_ends_when_its_transaction_lets_go(autojump_clock: trio.testing.MockClock) -> None:
    ended: list[float] = []

    async def serve(stream: trio.abc.HalfCloseableStream) -> None:
        try:
            await stream.send_all(b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n")
            await trio.sleep(1000)  # it neither reads nor writes any more
        finally:
            ended.append(trio.current_time())

    async def act(_hook: str, txn: Any) -> None:
        txn.intercept(serve)

    async with open_proxy(plugins=[make_plugin("Serving", act, "read_request")]) as proxy:
        wire = Wire(proxy.connect())
        began = trio.current_time()
        assert (await wire.ask()).status == 200
        await trio.testing.wait_all_tasks_blocked()
        assert ended
        assert ended[0] - began < 1
        await wire.stream.aclose()


# ------------------------------------------------------------------------------------------------------------------------ the client


async def test_what_is_read_ahead_of_a_client_has_a_bound(monkeypatch: pytest.MonkeyPatch, autojump_clock: trio.testing.MockClock) -> None:
    monkeypatch.setattr(_gone, "_MOST_AHEAD", 1000)
    gate = trio.Event()
    most = 0

    async def act(_hook: str, txn: Any) -> None:
        await gate.wait()
        txn.respond(200, headers={"Connection": "close"})

    async with open_proxy(
        ProxyConfig(http=HttpConfig(gone_check_interval=0.1)), plugins=[make_plugin("Waiting", act, "read_request")]
    ) as proxy:
        near, far = trio.testing.memory_stream_pair()
        async with trio.open_nursery() as nursery:
            nursery.start_soon(proxy.serve_stream, far)
            await near.send_all(GET)
            for _ in range(50):
                await trio.sleep(0.1)
                await near.send_all(bytes(500))
                (session,) = proxy.sessions
                most = max(most, session.http.buffered)  # type: ignore[attr-defined]
            gate.set()
            await near.aclose()
    assert 1000 <= most <= 2000


async def test_virtual_sessions_take_no_place_of_network_clients() -> None:
    config = ProxyConfig(http=HttpConfig(max_connections=1), remap=[RemapRule("/", "http://origin.test/")])

    async def act(_hook: str, txn: Any) -> None:
        txn.respond(204)

    async with open_proxy(config, plugins=[make_plugin("Answering", act, "read_request")]) as proxy, trio.open_nursery() as nursery:
        virtual: list[VirtualConnection] = [proxy.connect() for _ in range(3)]
        near, far = trio.testing.memory_stream_pair()
        nursery.start_soon(proxy.serve_stream, far)
        await near.send_all(GET)
        assert bytes(await near.receive_some()).startswith(b"HTTP/1.1 204 ")
        second, other = trio.testing.memory_stream_pair()
        await proxy.serve_stream(other)
        assert await second.receive_some() == b""
        await near.aclose()
        for each in virtual:
            each.close()


# ------------------------------------------------------------------------------------------------------------------ ends of sockets


async def socket_pair() -> tuple[trio.SocketStream, trio.SocketStream]:
    (listener,) = await trio.open_tcp_listeners(0, host="127.0.0.1")
    async with listener:
        near = await trio.open_tcp_stream("127.0.0.1", listener.socket.getsockname()[1])
        return near, await listener.accept()


async def test_end_of_input_is_told_from_a_reset() -> None:
    near, far = await socket_pair()
    async with near, far:
        assert not has_hung_up(near)
        await far.send_eof()
        await near.wait_send_all_might_not_block()
        assert await near.receive_some() == b""
        assert has_hung_up(near)
        assert not has_hung_up(near, half_close=False)
        reset(far, "now")
        await trio.aclose_forcefully(far)
        assert has_hung_up(near, half_close=False)
    assert not has_hung_up(near)


@pytest.mark.parametrize(("choice", "counts"), [("finish", False), ("abort", True)])
async def test_end_of_input_of_a_client_that_pipelines_much_counts_as_configured(
    choice: Any, counts: bool, monkeypatch: pytest.MonkeyPatch, autojump_clock: trio.testing.MockClock
) -> None:
    asked: list[bool] = []
    gate = trio.Event()

    def look(_stream: object, *, half_close: bool) -> bool:
        asked.append(half_close)
        gate.set()
        return False

    monkeypatch.setattr(_gone, "has_hung_up", look)
    monkeypatch.setattr(_gone, "_MOST_AHEAD", 100)

    async def act(_hook: str, txn: Any) -> None:
        await gate.wait()
        txn.respond(204)

    config = ProxyConfig(http=HttpConfig(half_close=choice))
    async with open_proxy(config, plugins=[make_plugin("Waiting", act, "read_request")]) as proxy, trio.open_nursery() as nursery:
        near, far = trio.testing.memory_stream_pair()
        nursery.start_soon(proxy.serve_stream, far)
        await near.send_all(GET * 10)
        await gate.wait()
        nursery.cancel_scope.cancel()
    assert asked[0] is counts


async def test_what_a_socket_has_not_sent_is_known() -> None:
    near, far = await socket_pair()
    async with near, far:
        assert unsent(near) == 0
        with suppress(BlockingIOError):
            while os.write(near.socket.fileno(), bytes(65536)):
                pass
        assert unsent(near) > 0
    assert unsent(near) == 0


async def send_until_it_breaks(client: VirtualConnection) -> None:
    with pytest.raises((trio.BrokenResourceError, trio.ClosedResourceError)):
        await client.send_all(bytes(100_000_000))


async def test_bytes_of_a_tunnel_whose_client_is_gone_arrive_before_the_reset() -> None:
    """RFC 9110 §9.3.6: what came from a side that is gone is still to be delivered."""
    got = bytearray()
    done, begin = trio.Event(), trio.Event()

    async def slow(stream: trio.SocketStream) -> None:
        await begin.wait()
        try:
            while data := await stream.receive_some(65536):
                got.extend(data)
        except trio.BrokenResourceError:
            pass
        done.set()

    log = MemoryLog()
    async with trio.open_nursery() as nursery:
        (origin,) = await trio.open_tcp_listeners(0, host="127.0.0.1")
        origin.socket.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        port = origin.socket.getsockname()[1]
        nursery.start_soon(trio.serve_listeners, slow, [origin])
        async with open_proxy(ProxyConfig(http=HttpConfig(connect=("*:*",))), log=log) as proxy:
            client = proxy.connect()
            await client.send_all(f"CONNECT 127.0.0.1:{port} HTTP/1.1\r\nHost: 127.0.0.1:{port}\r\n\r\n".encode())
            await client.receive_some()
            nursery.start_soon(send_until_it_breaks, client)
            await trio.testing.wait_all_tasks_blocked(0.02)
            client.abort("client_gone")
            await trio.testing.wait_all_tasks_blocked(0.02)
            begin.set()
            with trio.fail_after(TIMEOUT):
                await done.wait()
        nursery.cancel_scope.cancel()
    assert len(got) >= log.records[0].request_bytes > 10_000


async def test_connections_of_other_protocols_count_as_well() -> None:
    """`http.max_connections` bounds client connections, whatever they speak."""
    async with open_proxy(ProxyConfig(http=HttpConfig(max_connections=1))) as proxy:
        with proxy.front_end(drain=lambda: None, end=lambda: None):
            with pytest.raises(ConnectRefused, match="concurrency"), proxy.front_end(drain=lambda: None, end=lambda: None):
                pass
            near, far = trio.testing.memory_stream_pair()
            await proxy.serve_stream(far)
            assert await near.receive_some() == b""
        with proxy.front_end(drain=lambda: None, end=lambda: None):
            pass


@pytest.mark.parametrize(("target", "verified"), [(None, False), ("https://other.test/", True)])
async def test_trust_of_a_rule_is_no_trust_in_another_origin(target: str | None, verified: bool) -> None:
    """`verify = false` is said of the rule's origin, and a retry elsewhere is checked like any other."""
    asked: list[Any] = []

    async def act(_hook: str, txn: Any) -> None:
        if txn.response.status == 503:
            txn.retry(target)

    rule = RemapRule("/", "https://origin.test/", verify=False)
    busy = b"HTTP/1.1 503 Busy\r\nContent-Length: 0\r\n\r\n"
    async with open_world(replying(busy, OK), plugins=[make_plugin("Retrying", act, "read_response")], remap=(rule,)) as world:
        pool = world.proxy.core.pool  # type: ignore[attr-defined]
        acquire = pool.acquire

        async def recording(origin: Any, *args: Any, **options: Any) -> Any:
            asked.append(origin)
            return await acquire(origin, *args, **options)

        pool.acquire = recording
        assert (await world.connect().ask()).status == 200
    assert [origin.tls.verify for origin in asked] == [False, verified]


@pytest.mark.parametrize("empty", [True, False])
async def test_empty_body_that_a_plugin_has_read_is_still_a_body(empty: bool) -> None:
    """RFC 9110 §8.6: a POST without content says so, or an origin may ask for a length (411)."""
    heads: list[dict[str, str]] = []

    async def origin(wire: Wire) -> None:
        _, headers = await wire.head()
        heads.append(headers)
        await wire.send(OK)

    async def act(_hook: str, txn: Any) -> None:
        assert await txn.read_request_body(100) == b""

    async with open_world(origin, plugins=[make_plugin("Reading", act, "read_request")]) as world:
        ask = b"POST / HTTP/1.1\r\nHost: origin.test\r\nContent-Length: 0\r\n\r\n"
        assert (await world.connect().ask(ask if empty else GET)).status == 200
    assert heads[0].get("content-length") == ("0" if empty else None)


async def test_fetch_ends_the_body_that_it_streams() -> None:
    async def act(_hook: str, txn: Any) -> None:
        txn.respond(200, await txn.read_request_body(1000))

    async def body() -> AsyncIterator[bytes]:
        yield b"one "
        yield b"two"

    async with open_proxy(plugins=[make_plugin("Echoing", act, "read_request")]) as proxy:
        with trio.fail_after(TIMEOUT):
            async with proxy.fetch(Request("POST", "/", {"Host": "a"}), body=body()) as response:
                assert await response.body.read() == b"one two"
