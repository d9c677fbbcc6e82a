"""What a transaction opens: the budgets, what a child inherits, and what plugins do to the bodies that pass through it."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import trio
import trio.testing

from tests.engine._world import OK, Wire, how, open_world, replying
from tests.http2 import _raw as raw
from trio_tsconnect import ClientInfo, ConnectOptions, ConnectRefused, Plugin, Request, Transaction, VirtualConnection
from trio_tsconnect.logstats import summarize
from trio_tsconnect.plugins import AuthRequest

TARGET = ("origin.test", 80)
CLIENT = ClientInfo(address=("192.0.2.7", 4321))
POST = b"POST /path HTTP/1.1\r\nHost: origin.test\r\nContent-Length: 3\r\n\r\nabc"
GET_CHILD = b"GET /child HTTP/1.1\r\nHost: origin.test\r\n\r\n"


class Parent(Plugin):
    """Does something in a hook of a root, and notes every transaction there is."""

    def __init__(self, act: Callable[[Transaction], None]) -> None:
        self.seen: list[Transaction] = []
        self.opened: list[VirtualConnection] = []
        self.refused: list[str] = []
        self._act = act

    async def read_request(self, txn: Transaction) -> None:
        self.seen.append(txn)
        self._act(txn)

    def open(self, txn: Transaction, times: int = 1, **more: Any) -> None:
        """Open so many children at once, without a checkpoint, and note why one was refused."""
        for _ in range(times):
            try:
                self.opened.append(txn.connect(ConnectOptions(target=TARGET), **more))
            except ConnectRefused as refused:
                self.refused.append(refused.reason)


# ---------------------------------------------------------------------------------------------------------------------------- budgets


async def test_a_child_past_the_depth_is_refused(autojump_clock: trio.testing.MockClock) -> None:
    reasons: list[str] = []

    class Deeper(Plugin):
        async def read_request(self, txn: Transaction) -> None:
            try:
                async with txn.fetch(Request("GET", "/", {"Host": "origin.test"}), options=ConnectOptions(target=TARGET)) as response:
                    await response.body.read()
            except ConnectRefused as refused:
                reasons.append(f"{refused.reason} at {txn.depth}")

    async with open_world(plugins=[Deeper()], http={"max_depth": 2}) as world:
        assert (await world.connect().ask()).status == 200
        await trio.testing.wait_all_tasks_blocked()
        assert sorted(record.depth for record in world.records) == [0, 1, 2]
    assert reasons == ["depth at 2"]


@pytest.mark.parametrize(("http", "reason"), [({"max_descendants": 2}, "descendants"), ({"max_concurrent_internal": 2}, "concurrency")])
async def test_a_child_past_a_budget_is_refused_at_once(http: dict[str, Any], reason: str, autojump_clock: trio.testing.MockClock) -> None:
    plugin = Parent(lambda txn: plugin.open(txn, 3))
    async with open_world(plugins=[plugin], http=http) as world:
        assert (await world.connect(client=CLIENT).ask()).status == 200
        assert len(plugin.opened) == 2
        assert plugin.refused == [reason]


async def test_descendants_count_over_the_whole_life_and_places_only_while_they_are_taken(autojump_clock: trio.testing.MockClock) -> None:
    reasons: list[str] = []

    class OneByOne(Plugin):
        async def post_remap(self, txn: Transaction) -> None:
            for _ in range(3 if txn.depth == 0 else 0):
                try:
                    async with txn.fetch(Request("GET", "/", {"Host": "origin.test"}), options=ConnectOptions(target=TARGET)) as response:
                        await response.body.read()
                except ConnectRefused as refused:
                    reasons.append(refused.reason)
                await trio.testing.wait_all_tasks_blocked()

    for http, expected in (({"max_descendants": 2}, ["descendants"]), ({"max_concurrent_internal": 1}, [])):
        async with open_world(plugins=[OneByOne()], http=http) as world:
            assert (await world.connect(client=CLIENT).ask()).status == 200
        assert reasons == expected
        reasons.clear()


async def test_a_transaction_that_has_ended_opens_nothing(autojump_clock: trio.testing.MockClock) -> None:
    plugin = Parent(lambda txn: None)
    async with open_world(plugins=[plugin]) as world:
        wire = world.connect()
        assert (await wire.ask()).status == 200
        await world.record()
        for detach in (False, True):
            plugin.open(plugin.seen[0], detach=detach)
    assert plugin.refused == ["closed", "closed"]


# ------------------------------------------------------------------------------------------------------------------------ inheritance


@pytest.mark.parametrize("detach", [False, True])
async def test_a_child_inherits_the_client_and_unless_detached_the_deadline_but_no_tag_and_no_id(
    detach: bool, autojump_clock: trio.testing.MockClock
) -> None:
    gates = {"/parent": trio.Event(), "/child": trio.Event()}

    async def serve(wire: Wire) -> None:
        first, _ = await wire.head()
        await gates["/child" if "/child" in first else "/parent"].wait()
        await wire.send(OK)

    plugin = Parent(lambda txn: plugin.open(txn, detach=detach) if txn.depth == 0 else None)
    async with open_world(serve, plugins=[plugin]) as world:
        deadline = trio.current_time() + 5
        wire = world.connect(client=CLIENT, tag="front", id=7, deadline=deadline)
        await wire.send(b"GET /parent HTTP/1.1\r\nHost: origin.test\r\n\r\n")
        await trio.testing.wait_all_tasks_blocked()
        child = Wire(plugin.opened[0])
        await child.send(GET_CHILD)
        await trio.testing.wait_all_tasks_blocked()
        below = plugin.seen[1]
        assert below.client == CLIENT
        assert (below.tag, below.id, below.internal) == (None, 0, True)
        assert (below.watch.end <= deadline) is not detach
        for path in ("/parent", "/child") if detach else ("/child", "/parent"):  # a detached child may outlive its parent
            gates[path].set()
            assert (await (child if path == "/child" else wire).answer()).status == 200
            await trio.testing.wait_all_tasks_blocked()
        assert [record.depth for record in world.records] == ([0, 1] if detach else [1, 0])
    by_depth = {record.depth: record for record in world.records}
    root, record = by_depth[0], by_depth[1]
    assert (record.parent, record.root, record.detached) == (root.transaction, root.transaction, detach)
    assert (root.parent, root.root, root.detached) == (None, root.transaction, False)
    assert (root.tag, root.id, root.internal) == ("front", 7, False)
    assert (record.tag, record.id, record.internal, record.client_address) == (None, 0, True, "192.0.2.7")


async def test_what_a_stream_fetches_is_no_stream_of_its_client(autojump_clock: trio.testing.MockClock) -> None:
    class Asks(Plugin):
        async def post_remap(self, txn: Transaction) -> None:
            if txn.depth == 0:
                for options in (ConnectOptions(), ConnectOptions(tag="h2", client=ClientInfo(address=("203.0.113.9", 1)))):
                    async with txn.fetch(Request("GET", "/", {"Host": "origin.test"}), options=options) as response:
                        assert await response.body.read() == b"hello"

    async with raw.open_world(raw.saying(OK), plugins=[Asks()]) as world:
        assert (await world.client.get(1)).status == "200"
        assert (await world.client.get(3)).status == "200"
        records = await world.records(6)
    summary = summarize(records)
    assert list(summary.streams_per_connection.values()) == [2]
    assert summary.client_connections == {"h2": 1, "http/1.1": 2, "internal": 2}


async def test_with_an_auth_subrequest_the_streams_of_a_client_are_still_counted_right(autojump_clock: trio.testing.MockClock) -> None:
    auth = AuthRequest(AuthRequest.Options(url="http://origin.test/check"))
    async with raw.open_world(raw.saying(OK), plugins=[auth]) as world:
        for stream in (1, 3, 5):
            assert (await world.client.get(stream)).status == "200"
        records = await world.records(6)
    summary = summarize(records)
    assert list(summary.streams_per_connection.values()) == [3]
    assert summary.client_connections["h2"] == 1
    assert sorted(record.depth for record in records) == [0, 0, 0, 1, 1, 1]


# ------------------------------------------------------------------------------------------------------------------------- transforms


class Wrap:
    """Puts marks around every piece and at the end."""

    def __init__(self, mark: bytes) -> None:
        self._mark = mark

    def feed(self, data: bytes) -> bytes:
        if b"bad" in data:
            raise ValueError("bad piece")
        return self._mark + data + self._mark

    def finish(self) -> bytes:
        return self._mark.upper()


class Transforming(Plugin):
    def __init__(self, *marks: bytes, request: bool = False) -> None:
        self._marks = marks
        self._request = request

    async def send_request(self, txn: Transaction) -> None:
        if self._request:
            for mark in self._marks:
                txn.transform_request(Wrap(mark))

    async def read_response(self, txn: Transaction) -> None:
        if not self._request:
            for mark in self._marks:
                txn.transform_response(Wrap(mark))


async def test_a_transformed_response_is_chunked_and_transforms_run_in_order() -> None:
    async with open_world(plugins=[Transforming(b"a", b"b")]) as world:
        wire = world.connect()
        for _ in range(2):  # and the connection goes on
            answer = await wire.ask()
            assert answer.whole
            assert answer.body == b"bahelloabbAbB"
            assert answer.headers["transfer-encoding"] == "chunked"
            assert "content-length" not in answer.headers
        old = await world.connect().ask(b"GET /path HTTP/1.0\r\nHost: origin.test\r\n\r\n")
        assert old.body == answer.body
        assert not {"transfer-encoding", "content-length"} & set(old.headers)


async def test_a_transformed_request_is_chunked_and_transforms_run_in_order() -> None:
    got: list[tuple[dict[str, str], bytes]] = []

    async def serve(wire: Wire) -> None:
        _, headers = await wire.head()
        got.append((headers, await wire.body(headers)))
        await wire.send(OK)

    async with open_world(serve, plugins=[Transforming(b"x", b"y", request=True)]) as world:
        assert (await world.connect().ask(POST)).status == 200
    ((headers, body),) = got
    assert body == b"yxabcxyyXyY"
    assert headers["transfer-encoding"] == "chunked"
    assert "content-length" not in headers


async def test_a_transform_of_a_request_that_fails_is_a_500_with_its_plugins_name() -> None:
    async with open_world(plugins=[Transforming(b"x", request=True)]) as world:
        assert (await world.connect().ask(POST.replace(b"abc", b"bad"))).status == 500
        record = await world.record()
        assert how(record) == ("plugin", "plugin")
        failed = record.plugin["Transforming"]["failed"]
        assert (failed["hook"], failed["exception"]) == ("transform", "ValueError: bad piece")
        assert failed["at"].endswith(" in Wrap.feed")


async def test_a_transform_of_a_response_that_fails_within_it_cuts_it_visibly() -> None:
    gate = trio.Event()

    async def serve(wire: Wire) -> None:
        await wire.head()
        await wire.send(b"HTTP/1.1 200 OK\r\nContent-Length: 8\r\n\r\ngood ")
        await gate.wait()
        await wire.send(b"bad")

    async with open_world(serve, plugins=[Transforming(b"a")]) as world:
        wire = world.connect()
        await wire.send(b"GET /path HTTP/1.1\r\nHost: origin.test\r\n\r\n")
        assert (await wire.head())[0] == "HTTP/1.1 200 OK"
        assert await wire.until(b"good a\r\n") == b"7\r\nagood a\r\n"
        gate.set()
        assert b"0\r\n\r\n" not in await wire.rest()
        record = await world.record()
        assert how(record) == ("plugin", "plugin")
        assert record.plugin["Transforming"]["failed"]["hook"] == "transform"


async def test_what_has_no_body_is_given_none() -> None:
    async with open_world(replying(b"HTTP/1.1 204 No Content\r\n\r\n"), plugins=[Transforming(b"a")]) as world:
        wire = world.connect()
        for _ in range(2):  # and the connection goes on
            answer = await wire.ask()
            assert answer.status == 204
            assert "transfer-encoding" not in answer.headers
