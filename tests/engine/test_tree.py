"""The tree of internal requests is the tree of tasks: whatever ends a part of it, ends that part whole, and leaves nothing."""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterator
from typing import Any

import attrs
import pytest
import trio
import trio.testing
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.engine._world import GET, Wire, World, how, listening, open_world, silent
from trio_tsconnect import (
    ConnectOptions,
    ConnectRefused,
    FetchError,
    HttpConfig,
    LogRecord,
    MemoryLog,
    OriginConfig,
    Plugin,
    Proxy,
    ProxyConfig,
    Request,
    Transaction,
    VirtualConnection,
    open_proxy,
    open_virtual_connection_pair,
)
from trio_tsconnect.origin._origin import TCPOrigin

TARGET = ("origin.test", 80)
OPENING = ("read_request", "pre_remap", "post_remap", "send_request", "read_response", "send_response")
TRANSACTION_HOOKS = ("transaction_start", *OPENING, "transaction_close")

# --------------------------------------------------------------------------------------------------------------------- random trees


@attrs.frozen(kw_only=True)
class Node:
    """What becomes of one request."""

    children: tuple[Node, ...] = ()
    opens_in: str = "read_request"
    """The hook in which it opens its children."""
    together: bool = False
    """Whether it opens them all at once, or one after another."""
    kind: str = "read"
    """What its opener does with it: reads the response, abandons it, forgets the connection, or detaches it."""
    patience: float | None = None
    """Its deadline, from when it is opened."""
    crash: str | None = None
    """The hook that raises; or that it raises when it is cancelled."""
    delay: float = 0.0
    """How long its origin thinks."""
    pieces: int = 1
    """How many pieces its response has; a second apart."""
    dies: bool = False
    """Whether its origin dies before the last."""


@attrs.frozen(kw_only=True)
class Fault:
    """What happens to the whole, and when."""

    what: str
    after: float
    steps: int


def nodes(children: st.SearchStrategy[tuple[Node, ...]]) -> st.SearchStrategy[Node]:
    return st.builds(
        Node,
        children=children,
        opens_in=st.sampled_from(OPENING),
        together=st.booleans(),
        kind=st.sampled_from(["read", "read", "abandon", "forget", "detach"]),
        patience=st.sampled_from([None, None, 0.0, 0.5, 2.5]),
        crash=st.sampled_from([*[None] * 24, *TRANSACTION_HOOKS, *["when cancelled"] * 4]),
        delay=st.sampled_from([0.0, 0.0, 0.5, 2.0, math.inf]),
        pieces=st.integers(0, 3),
        dies=st.sampled_from([False, False, False, True]),
    )


TREES = st.recursive(nodes(st.just(())), lambda below: nodes(st.lists(below, max_size=3).map(tuple)), max_leaves=8)
FAULTS = st.builds(
    Fault,
    what=st.sampled_from(["nothing", "client closes", "client aborts", "deadline", "origins die", "drain", "cancel"]),
    after=st.sampled_from([0.0, 0.0, 0.4, 1.0, 2.2]),
    steps=st.integers(0, 40),
)


class Crash(Exception):
    pass


async def fail_when_cancelled() -> None:
    try:
        await trio.sleep_forever()
    finally:
        raise Crash("when cancelled")


def number(tree: Node) -> dict[int, tuple[Node, list[int]]]:
    """Every node by a number, with those of its children; the root is 0."""
    found: dict[int, tuple[Node, list[int]]] = {}
    numbers = itertools.count()

    def walk(node: Node) -> int:
        own = next(numbers)
        found[own] = (node, [])
        found[own][1].extend([walk(child) for child in node.children])
        return own

    walk(tree)
    return found


@attrs.define(eq=False)
class Life:
    """The interval of a transaction, in events counted."""

    txn: Transaction
    begun: int
    deadline: float
    parent_deadline: float
    ended: int | None = None


class Grower(Plugin):
    """Opens the requests of a tree, as it says, and notes when what began."""

    def __init__(self, tree: Node) -> None:
        self.nodes = number(tree)
        self.events = itertools.count()
        self.lives: dict[int, Life] = {}
        self.forgotten: list[VirtualConnection] = []
        self._nursery: trio.Nursery | None = None
        self._closing = False

    async def run(self, proxy: Proxy) -> None:
        async with trio.open_nursery() as self._nursery:
            try:
                await trio.sleep_forever()
            finally:
                self._closing = True

    async def transaction_start(self, txn: Transaction) -> None:
        above = txn.parent.watch.end if txn.parent and not txn.session.detached else math.inf
        self.lives[txn.number] = Life(txn, next(self.events), txn.watch.end, above)

    async def read_request(self, txn: Transaction) -> None:
        await self._act("read_request", txn)

    async def pre_remap(self, txn: Transaction) -> None:
        await self._act("pre_remap", txn)

    async def post_remap(self, txn: Transaction) -> None:
        await self._act("post_remap", txn)

    async def send_request(self, txn: Transaction) -> None:
        await self._act("send_request", txn)

    async def read_response(self, txn: Transaction) -> None:
        await self._act("read_response", txn)

    async def send_response(self, txn: Transaction) -> None:
        await self._act("send_response", txn)

    async def transaction_close(self, txn: Transaction) -> None:
        with pytest.raises(ConnectRefused):
            txn.connect()
        await self._act("transaction_close", txn)

    async def _act(self, hook: str, txn: Transaction) -> None:
        if not txn.has_request:
            return
        node, children = self.nodes[int((txn.url or "").rpartition("/")[2])]
        if node.crash == hook:
            raise Crash(hook)
        if node.opens_in != hook:
            return
        if node.crash == "when cancelled":
            async with trio.open_nursery() as nursery:
                nursery.start_soon(fail_when_cancelled)
                await self._open_all(txn, node, children)
                nursery.cancel_scope.cancel()
        else:
            await self._open_all(txn, node, children)

    async def _open_all(self, txn: Transaction, node: Node, children: list[int]) -> None:
        if node.together:
            async with trio.open_nursery() as nursery:
                for child in children:
                    nursery.start_soon(self._open, txn, child)
        else:
            for child in children:
                await self._open(txn, child)

    async def _open(self, txn: Transaction, child: int) -> None:
        node = self.nodes[child][0]
        options = ConnectOptions(target=TARGET, deadline=None if node.patience is None else trio.current_time() + node.patience)
        request = Request("GET", f"/{child}", {"Host": "origin.test"})
        try:
            if node.kind in ("forget", "detach"):
                connection = txn.connect(options, detach=node.kind == "detach")
                await connection.send_all(b"GET /%d HTTP/1.1\r\nHost: origin.test\r\n\r\n" % child)
                if node.kind == "forget" or self._closing:
                    self.forgotten.append(connection)
                else:
                    assert self._nursery is not None
                    self._nursery.start_soon(self._read_to_the_end, connection)
            else:
                async with txn.fetch(request, options=options) as response:
                    if node.kind == "read":
                        await response.body.read()
        except (ConnectRefused, FetchError, trio.BrokenResourceError):
            pass

    async def _read_to_the_end(self, connection: VirtualConnection) -> None:
        async with connection:
            try:
                await Wire(connection).answer()
            except EOFError:
                pass


class Noting(MemoryLog):
    """A log that tells the grower when a record came."""

    def __init__(self, grower: Grower) -> None:
        super().__init__()
        self._grower = grower

    def write(self, record: LogRecord) -> None:
        super().write(record)
        life = self._grower.lives.get(record.transaction)
        if life is not None:
            life.ended = next(self._grower.events)


@attrs.define(eq=False)
class Origins:
    grower: Grower
    nursery: trio.Nursery
    streams: list[VirtualConnection] = attrs.Factory(list)
    far_ends: list[VirtualConnection] = attrs.Factory(list)

    async def open(self) -> trio.abc.Stream:
        await trio.lowlevel.checkpoint()
        near, far = open_virtual_connection_pair(buffer_index=0)
        self.streams.append(near)
        self.far_ends.append(far)
        self.nursery.start_soon(self._serve, far)
        return near

    async def _serve(self, far: VirtualConnection) -> None:
        try:
            await self._answer(Wire(far))
        except (trio.BrokenResourceError, trio.ClosedResourceError, EOFError):
            pass
        finally:
            far.close()

    async def _answer(self, wire: Wire) -> None:
        """The origin of all of them."""
        while True:
            line, _ = await wire.head()
            node = self.grower.nodes[int(line.split(" ")[1][1:])][0]
            await trio.sleep(node.delay)
            await wire.send(b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n" % node.pieces)
            for left in range(node.pieces, 0, -1):
                if node.dies and left == 1:
                    wire.stream.abort("the origin died")  # type: ignore[attr-defined]  # a virtual connection
                    return
                await wire.send(b"x")
                await trio.sleep(1)

    def die(self) -> None:
        for stream in self.far_ends:
            stream.abort("the origin died")


def tasks() -> Iterator[trio.lowlevel.Task]:
    waiting = [trio.lowlevel.current_root_task()]
    while waiting:
        task = waiting.pop()
        if task is not None:
            yield task
            waiting.extend(child for nursery in task.child_nurseries for child in nursery.child_tasks)


async def play(tree: Node, fault: Fault, limits: dict[str, Any]) -> None:
    grower = Grower(tree)
    log = Noting(grower)
    config = ProxyConfig(
        http=HttpConfig(drain_timeout=1.5, close_timeout=1, transaction_timeout=30, max_concurrent_internal=limits["internal"]),
        origin=OriginConfig(max_connections=limits["connections"], wait_timeout=3),
    )
    before = set(tasks())
    async with trio.open_nursery() as nursery:
        origins = Origins(grower, nursery)
        with trio.CancelScope() as everything, pytest.MonkeyPatch.context() as patch:
            open_at(patch, origins)
            async with open_proxy(config, plugins=[grower], log=log) as proxy:
                await strike(proxy, fault, origins, everything)
        await trio.testing.wait_all_tasks_blocked()
        # nothing is left: no session, no transaction, no connection at either side, no byte in a buffer, no task
        assert proxy.sessions == ()
        statistics = proxy.statistics()
        assert (statistics.origin_idle, statistics.origin_taken, statistics.origin_waiting) == (0, 0, 0)
        assert proxy._internal == proxy._virtual == 0
        for stream in origins.streams:
            assert stream._closed
            assert stream.statistics().receiving.unread == 0
        nursery.cancel_scope.cancel()
    assert set(tasks()) == before
    check_records(grower, log)


async def strike(proxy: Proxy, fault: Fault, origins: Origins, everything: trio.CancelScope) -> None:
    deadline = trio.current_time() + fault.after if fault.what == "deadline" else None
    client = proxy.connect(ConnectOptions(target=TARGET, deadline=deadline))
    await client.send_all(b"GET /0 HTTP/1.1\r\nHost: origin.test\r\nConnection: close\r\n\r\n")
    await trio.sleep(fault.after)
    for _ in range(fault.steps):
        await trio.lowlevel.checkpoint()
    match fault.what:
        case "client closes":
            await client.aclose()
        case "client aborts":
            client.abort("reset_by_client")
        case "origins die":
            origins.die()
        case "drain":
            return
        case "cancel":
            everything.cancel()
    try:
        await Wire(client).rest()
    except trio.ClosedResourceError:
        await trio.sleep(8)  # what was detached may go on
    await client.aclose()


def check_records(grower: Grower, log: Noting) -> None:
    recorded = [record.transaction for record in log.records]
    assert len(recorded) == len(set(recorded))
    assert set(grower.lives) == set(recorded)
    by_number = {record.transaction: record for record in log.records}
    for life in grower.lives.values():
        record, parent = by_number[life.txn.number], life.txn.parent
        assert life.ended is not None
        assert record.status is not None or how(record) != ("proxy", "complete")
        assert record.parent == (parent.number if parent else None)
        assert record.root == life.txn.root.number
        assert record.depth == (by_number[parent.number].depth + 1 if parent else 0)
        if parent is None or life.txn.session.detached:
            continue
        above = grower.lives[parent.number]
        assert above.ended is not None
        assert above.begun < life.begun < life.ended < above.ended
        assert life.deadline <= life.parent_deadline


LIMITS = st.fixed_dictionaries({"connections": st.sampled_from([1, 2, 64]), "internal": st.sampled_from([1, 2, 1000])})


@settings(max_examples=200)
@given(tree=TREES, fault=FAULTS, limits=LIMITS)
def test_whatever_befalls_a_tree_nothing_of_it_is_left(tree: Node, fault: Fault, limits: dict[str, Any]) -> None:
    trio.run(play, tree, fault, limits, clock=trio.testing.MockClock(autojump_threshold=0))


def open_at(patch: pytest.MonkeyPatch, place: Any) -> None:
    """Have what the engine opens by TCP opened in memory instead, at a `place` that has `open`."""

    async def open_in_memory(self: TCPOrigin) -> trio.abc.Stream:
        stream: trio.abc.Stream = await place.open()
        return stream

    patch.setattr(TCPOrigin, "open", open_in_memory)


# ------------------------------------------------------------------------------------------------------- a client that leaves its tree


class FanOut(Plugin):
    """Asks five others in one hook of a request for /."""

    def __init__(self) -> None:
        self.asked = 0

    async def post_remap(self, txn: Transaction) -> None:
        if txn.depth == 0:
            async with trio.open_nursery() as nursery:
                for child in range(5):
                    nursery.start_soon(self._ask, txn, child)

    async def _ask(self, txn: Transaction, child: int) -> None:
        request = Request("GET", f"/{child}", {"Host": "origin.test"})
        async with txn.fetch(request, options=ConnectOptions(target=TARGET)) as response:
            self.asked += 1
            await response.body.read()


class Rounds(trio.abc.Instrument):
    """Counts the rounds of the scheduler."""

    def __init__(self) -> None:
        self.count = 0

    def before_io_wait(self, timeout: float) -> None:
        self.count += 1


def count_ends(world: World, rounds: Rounds) -> list[int]:
    """The round in which each of the origin connections there are ends, noted as it ends."""
    ends: list[int] = []
    for stream in world.origin.streams:
        far = stream._peer
        assert far is not None
        far.watch_peer(lambda _reason: ends.append(rounds.count))
    return ends


@pytest.mark.parametrize("way", ["close", "abort"])
async def test_five_origins_see_their_connections_end_within_one_round_of_the_clients_leaving(
    way: str, autojump_clock: trio.testing.MockClock
) -> None:
    rounds = Rounds()
    async with open_world(silent, plugins=[FanOut()]) as world:
        client = world.connect()
        await client.send(GET)
        await trio.testing.wait_all_tasks_blocked()
        assert len(world.origin.streams) == 5
        ends = count_ends(world, rounds)
        trio.lowlevel.add_instrument(rounds)
        begun = trio.current_time()
        assert isinstance(client.stream, VirtualConnection)
        client.stream.abort() if way == "abort" else client.stream.close()
        await trio.testing.wait_all_tasks_blocked()
        trio.lowlevel.remove_instrument(rounds)
        assert ends == [1] * 5
        assert trio.current_time() == begun
        assert world.proxy.sessions == ()
    assert len(world.records) == 6
    assert [(record.depth, how(record)) for record in world.records] == [
        *[(1, ("proxy", "parent_ended"))] * 5,
        (0, ("client", "client_gone")),
    ]


async def test_hook_that_fails_while_it_is_cancelled_hurts_nothing_but_its_transaction(autojump_clock: trio.testing.MockClock) -> None:
    class Fails(Plugin):
        async def post_remap(self, txn: Transaction) -> None:
            async with trio.open_nursery() as nursery:
                nursery.start_soon(fail_when_cancelled)
                nursery.start_soon(trio.sleep_forever)

    async with open_world(plugins=[Fails()]) as world:
        client = world.connect()
        await client.send(GET)
        await trio.testing.wait_all_tasks_blocked()
        await client.stream.aclose()
        record = await world.record()
        assert how(record) == ("client", "client_gone")
        assert record.plugin["Fails"]["failed"]["hook"] == "post_remap"
        other = world.connect(deadline=trio.current_time() + 1)
        assert (await other.ask()).status == 504
        await other.stream.aclose()


async def test_five_origins_see_their_connections_end_when_a_socket_closes() -> None:
    interval, asked, ended = 0.05, 0, 0
    all_asked, all_ended = trio.Event(), trio.Event()

    async def serve(wire: Wire) -> None:
        nonlocal asked, ended
        asked += 1
        if asked == 5:
            all_asked.set()
        await silent(wire)
        ended += 1
        if ended == 5:
            all_ended.set()

    async with (
        open_world(serve, plugins=[FanOut()], http={"gone_check_interval": interval, "remap_required": False}) as world,
        listening(world.proxy.serve_stream) as port,
    ):
        client = await trio.open_tcp_stream("127.0.0.1", port)
        await client.send_all(GET)
        await all_asked.wait()
        await client.aclose()
        with trio.fail_after(2 * interval + 1):  # it has to have waited for an interval, and is looked at once in an interval
            await all_ended.wait()


async def test_half_closed_socket_is_answered_by_the_whole_tree() -> None:
    async def slow(wire: Wire) -> None:
        await wire.head()
        await trio.sleep(0.2)
        await wire.send(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok")

    plugin = FanOut()
    http = {"gone_check_interval": 0.01, "half_close": "finish", "remap_required": False}
    async with open_world(slow, plugins=[plugin], http=http) as world, listening(world.proxy.serve_stream) as port:
        stream = await trio.open_tcp_stream("127.0.0.1", port)
        await stream.send_all(GET)
        await stream.send_eof()
        assert (await Wire(stream).answer()).status == 200
        await stream.aclose()
    assert plugin.asked == 5


async def test_half_closed_virtual_client_is_answered_by_the_whole_tree(autojump_clock: trio.testing.MockClock) -> None:
    async def slow(wire: Wire) -> None:
        await wire.head()
        await trio.sleep(60)
        await wire.send(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok")

    plugin = FanOut()
    async with open_world(slow, plugins=[plugin]) as world:
        client = world.connect()
        await client.send(GET)
        assert isinstance(client.stream, VirtualConnection)
        await client.stream.send_eof()
        assert (await client.answer()).status == 200
        await client.stream.aclose()
    assert plugin.asked == 5


# -------------------------------------------------------------------------------------------------------------------------- limits


class Chain(Plugin):
    """In one hook, asks the next, down to a depth."""

    def __init__(self, hook: str, depth: int) -> None:
        self.statuses: dict[int, int] = {}
        self.deadlines: dict[int, float] = {}
        self._hook = hook
        self._depth = depth

    async def read_request(self, txn: Transaction) -> None:
        self.deadlines[txn.depth] = txn.watch.end
        await self._next("read_request", txn)

    async def send_request(self, txn: Transaction) -> None:
        await self._next("send_request", txn)

    async def read_response(self, txn: Transaction) -> None:
        await self._next("read_response", txn)

    async def send_response(self, txn: Transaction) -> None:
        await self._next("send_response", txn)

    async def _next(self, hook: str, txn: Transaction) -> None:
        if hook != self._hook or txn.depth >= self._depth:
            return
        later = ConnectOptions(target=TARGET, deadline=trio.current_time() + 1000)
        async with txn.fetch(Request("GET", "/", {"Host": "origin.test"}), options=later) as response:
            await response.body.read()
            self.statuses[txn.depth + 1] = response.status


@pytest.mark.parametrize("hook", ["read_request", "send_request", "read_response", "send_response"])
async def test_limit_that_a_parent_holds_does_not_deadlock_its_child(
    hook: str, autojump_clock: trio.testing.MockClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    plugin = Chain(hook, depth=3)
    limits: dict[str, Any] = {"http": {"max_concurrent_internal": 1}, "origin": {"max_connections": 1}}
    async with open_world(plugins=[plugin], **limits) as world:
        open_at(monkeypatch, world.origin)
        del world.proxy.core.pool.acquire  # type: ignore[misc]  # the pool's own again, which compares origins as they are
        begun = trio.current_time()
        client = world.connect()
        assert (await client.ask()).status == 200
        assert trio.current_time() == begun
        await client.stream.aclose()
    assert plugin.statuses == {1: 200, 2: 200, 3: 200}


async def test_deadline_of_a_child_is_not_later_than_its_parents(autojump_clock: trio.testing.MockClock) -> None:
    plugin = Chain("read_request", depth=3)
    async with open_world(silent, plugins=[plugin]) as world:
        deadline = trio.current_time() + 3
        client = world.connect(deadline=deadline)
        assert (await client.ask()).status == 504
        assert trio.current_time() == deadline
        await client.stream.aclose()
    assert plugin.deadlines == dict.fromkeys(range(4), deadline)
