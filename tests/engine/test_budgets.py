"""Budgets count what their names say, and calls from elsewhere are refused before anything is counted."""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Any

import pytest
import trio
import trio.testing

from tests.engine._world import GET, OK, Wire, how, open_world, replying
from tests.engine.test_hooks import make_plugin
from trio_tsconnect import ConnectRefused, FetchError, HttpConfig, MemoryLog, Plugin, ProxyConfig, Request, Transaction, open_proxy

CHILD = b"GET /child HTTP/1.1\r\nHost: origin.test\r\n\r\n"


async def test_detached_children_take_a_place_each() -> None:
    """They outlive whoever has opened them, so they cannot ride on its place."""
    refused: list[str] = []
    kept: list[Any] = []

    async def act(_hook: str, txn: Any) -> None:
        if txn.request.target.endswith("/path"):
            for _ in range(10):
                try:
                    kept.append(txn.connect(detach=True))
                except ConnectRefused as exc:
                    refused.append(exc.reason)
            txn.respond(200)

    http = {"max_concurrent_internal": 3, "drain_timeout": 0}
    async with open_world(replying(OK), plugins=[make_plugin("Spawning", act, "read_request")], http=http) as world:
        wire = world.connect()  # one place
        assert (await wire.ask()).status == 200
        assert (len(kept), refused) == (2, ["concurrency"] * 8)
        await wire.stream.aclose()
        kept.pop().close()
        await trio.testing.wait_all_tasks_blocked()
        assert world.proxy._internal == 1
        kept.pop().close()
        await trio.testing.wait_all_tasks_blocked()
        assert world.proxy._internal == 0


@pytest.mark.parametrize("together", [False, True])
async def test_descendants_are_counted_by_request_on_however_many_connections(together: bool) -> None:
    answers: list[Any] = []
    refused: list[str] = []

    async def act(_hook: str, txn: Any) -> None:
        if txn.depth:
            txn.respond(204)
            return
        wire = Wire(txn.connect())
        if together:
            await wire.send(CHILD * 10)
        while not wire.ended:
            try:
                if not together:
                    await wire.send(CHILD)
                answers.append(await wire.answer())
            except (EOFError, trio.BrokenResourceError):
                break
        try:
            txn.connect()
        except ConnectRefused as exc:
            refused.append(exc.reason)
        txn.respond(200)

    async with open_world(plugins=[make_plugin("Asking", act, "read_request")], http={"max_descendants": 3}) as world:
        assert (await world.connect().ask()).status == 200
    assert [answer.headers.get("connection") for answer in answers] == [None, None, "close"]
    assert refused == ["descendants"]
    assert sum(record.depth == 1 for record in world.records) == 3


@pytest.mark.parametrize(("connections", "limit"), [(2, 3), (9, 10), (5, 5)])
async def test_last_places_go_once_to_however_many_connections_are_kept(connections: int, limit: int) -> None:
    """All of them were told that they may go on, and then only some can."""
    answers: list[Any] = []

    async def act(_hook: str, txn: Any) -> None:
        if txn.depth:
            txn.respond(204)
            return
        wires = [Wire(txn.connect()) for _ in range(connections)]
        for wire in wires:
            answers.append(await wire.ask(CHILD))
        for wire in wires:
            if not wire.ended and answers[wires.index(wire)].headers.get("connection") != "close":
                answers.append(await wire.ask(CHILD))
        txn.respond(200)

    async with open_world(plugins=[make_plugin("Asking", act, "read_request")], http={"max_descendants": limit}) as world:
        assert (await world.connect().ask()).status == 200
    assert [answer.status for answer in answers].count(204) == limit
    refused = [record for record in world.records if how(record) == ("proxy", "descendants")]
    assert [record.status for record in refused] == [503] * len(refused)
    late = [answer for answer in answers if answer.status == 503]
    assert [answer.headers["connection"] for answer in late] == ["close"] * len(refused)


@pytest.mark.parametrize("limit", [0, 1, 4])
async def test_retries_have_a_bound_and_then_the_last_response_is_sent(limit: int) -> None:
    async def act(_hook: str, txn: Any) -> None:
        txn.retry()

    busy = b"HTTP/1.1 503 Busy\r\nContent-Length: 4\r\n\r\nbusy"
    async with open_world(replying(busy), plugins=[make_plugin("Retrying", act, "read_response")], origin={"max_retries": limit}) as world:
        answer = await world.connect().ask()
        assert (answer.status, answer.body) == (503, b"busy")
    assert world.records[0].attempts == 1 + limit


def test_deepest_tree_that_may_be_ends_with_its_client() -> None:
    class Nesting(Plugin):
        async def read_request(self, txn: Transaction) -> None:
            if txn.depth >= 64:
                await trio.sleep_forever()
            async with txn.fetch(Request("GET", "/x", {"Host": "a"})) as response:
                txn.respond(response.status)

    log = MemoryLog()

    async def main() -> None:
        config = ProxyConfig(http=HttpConfig(max_depth=64, drain_timeout=0))
        async with open_proxy(config, plugins=[Nesting()], log=log) as proxy:
            client = proxy.connect()
            await client.send_all(GET)
            await trio.testing.wait_all_tasks_blocked()
            assert proxy.statistics().transactions == 65
            client.abort("client_gone")
            await trio.testing.wait_all_tasks_blocked()
            assert proxy.statistics().sessions == 0

    trio.run(main)
    assert len(log.records) == 65


# ----------------------------------------------------------------------------------------------------------------- from elsewhere


async def test_call_from_another_thread_is_refused_before_anything_is_counted() -> None:
    async with open_proxy(ProxyConfig(http=HttpConfig(max_concurrent_internal=1))) as proxy:

        def elsewhere() -> None:
            with pytest.raises(RuntimeError, match=r"connect\(\) must be called in the trio run"):
                proxy.connect()
            with pytest.raises(RuntimeError, match=r"front_end\(\) must be called"), proxy.front_end(drain=print, end=print):
                pass

        for _ in range(3):
            await trio.to_thread.run_sync(elsewhere)
        assert proxy.statistics().sessions == 0
        proxy.connect().close()


async def test_call_from_another_run_is_refused_before_anything_is_counted() -> None:
    async with open_proxy() as proxy:

        async def main() -> None:
            with pytest.raises(RuntimeError, match="must be called in the trio run"):
                proxy.connect()
            with pytest.raises(RuntimeError, match="must be called in the trio run"):
                await proxy.drain(1)
            near, far = trio.testing.memory_stream_pair()
            with pytest.raises(RuntimeError, match=r"serve_stream\(\) must be called"):
                await proxy.serve_stream(far)
            await near.aclose()

        await trio.to_thread.run_sync(trio.run, main)
        await proxy.drain(0)
        with pytest.raises(ConnectRefused, match="draining"):
            proxy.connect()
        await trio.to_thread.run_sync(trio.run, main)  # no other refusal comes first
        proxy.core.draining = False
        assert (proxy.statistics().sessions, proxy.draining) == (0, False)


async def test_child_from_another_thread_is_refused_first_of_all() -> None:
    messages: list[str] = []

    async def act(_hook: str, txn: Any) -> None:
        def elsewhere() -> None:
            with pytest.raises(RuntimeError) as caught:
                txn.connect()
            messages.append(str(caught.value))

        await trio.to_thread.run_sync(elsewhere)
        txn.respond(200)

    async with open_world(plugins=[make_plugin("Spawning", act, "read_request")], http={"max_descendants": 1}) as world:
        assert (await world.connect().ask()).status == 200
    assert messages == ["connect() must be called in the trio run, and so in the thread, that opened the proxy"]


def test_call_after_the_end_of_the_run_is_refused() -> None:
    async def main() -> Any:
        async with open_proxy() as proxy:
            pass
        with pytest.raises(ConnectRefused, match="closed"):
            proxy.connect()
        return proxy

    proxy = trio.run(main)
    with pytest.raises(RuntimeError, match="must be called in the trio run"):
        proxy.connect()


# --------------------------------------------------------------------------------------------------------------------------- fetch


@pytest.mark.parametrize("end", ["early answer", "left", "failure"])
async def test_fetch_closes_the_generator_that_it_reads(end: str, autojump_clock: trio.testing.MockClock) -> None:
    closed = trio.Event()

    async def body() -> AsyncIterator[bytes]:
        try:
            while True:
                yield bytes(50_000)
                if end == "failure":
                    raise ValueError("the body fails")
        finally:
            closed.set()

    async def act(_hook: str, txn: Any) -> None:
        if end == "early answer":
            txn.respond(413, headers=[("Connection", "close")])
        else:
            await trio.sleep_forever()

    async with open_proxy(plugins=[make_plugin("Answering", act, "read_request")]) as proxy:
        with trio.move_on_after(0.05):
            try:
                async with proxy.fetch(Request("POST", "/", {"Host": "a"}), body=body()) as response:
                    await response.body.read()
            except (FetchError, ValueError):
                pass
        assert closed.is_set()


async def test_record_of_a_tree_past_its_budget_says_which_plugin(autojump_clock: trio.testing.MockClock) -> None:
    async def act(_hook: str, txn: Any) -> None:
        txn.connect()
        txn.connect()

    async with open_world(plugins=[make_plugin("Spending", act, "read_request")], http={"max_descendants": 1}) as world:
        assert (await world.connect().ask()).status == 500
    assert how(world.records[-1]) == ("plugin", "plugin")
    assert "descendants" in world.records[-1].plugin["Spending"]["failed"]["exception"]


async def test_retry_of_several_plugins_is_one_attempt() -> None:
    async def act(_hook: str, txn: Any) -> None:
        txn.retry()

    busy = b"HTTP/1.1 503 Busy\r\nContent-Length: 4\r\n\r\nbusy"
    plugins = [make_plugin(name, act, "read_response") for name in ("One", "Two", "Three")]
    async with open_world(replying(busy), plugins=plugins, origin={"max_retries": 4}) as world:
        assert (await world.connect().ask()).status == 503
    assert world.records[0].attempts == 5


async def test_retry_of_a_plugin_leaves_the_one_that_a_dead_connection_has() -> None:
    gate = trio.Event()
    connections: list[Wire] = []
    again: list[Wire] = []

    async def origin(wire: Wire) -> None:
        connections.append(wire)
        await wire.head()
        await gate.wait()  # so that two are needed, and then both are kept
        await wire.send(OK)
        await wire.head()
        again.append(wire)
        if len(again) == 1:
            await wire.send(b"HTTP/1.1 503 Busy\r\nContent-Length: 0\r\n\r\n")  # the other one just ends

    async def act(_hook: str, txn: Any) -> None:
        if txn.response.status == 503:
            txn.retry()

    async with open_world(origin, plugins=[make_plugin("Retrying", act, "read_response")]) as world:
        async with trio.open_nursery() as nursery:
            for _ in range(2):
                nursery.start_soon(world.connect().ask)
            await trio.testing.wait_all_tasks_blocked()
            gate.set()
        assert (await world.connect().ask()).status == 200
    assert (len(connections), world.records[-1].attempts) == (3, 3)
