"""`Proxy.tree`: the transactions in progress, for diagnosis."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable
from typing import Any

import pytest
import trio
import trio.testing

from tests.engine._world import GET, OK, Wire, open_world, replying
from tests.engine.test_hooks import make_plugin
from trio_tsconnect import ConnectOptions, TreeNode

Clock = trio.testing.MockClock


def get(path: str) -> bytes:
    return GET.replace(b"path", path.encode())


def paths(nodes: tuple[TreeNode, ...]) -> list[Any]:
    """The last part of each URL; after it a list of those below it, if there are any."""
    return [part for node in nodes for part in ((node.url or "").rpartition("/")[2], *([paths(node.children)] if node.children else []))]


async def test_children_are_below_their_parents_and_all_are_in_order() -> None:
    """Children that have ended are not there, and neither are connections without a request."""
    wires: list[Wire] = []
    numbers: dict[str, int] = {}
    began: defaultdict[str, trio.Event] = defaultdict(trio.Event)

    async def ask(wire: Wire, path: str) -> None:
        wires.append(wire)
        await wire.send(get(path))
        await began[path].wait()

    async def act(_hook: str, txn: Any) -> None:
        path = txn.request.target[1:]
        if txn.depth == 0:
            for name in "bcdef":
                await ask(Wire(txn.connect(ConnectOptions(tag=name, id=7))), f"{path}-{name}")
            await ask(Wire(txn.connect()), f"{path}-ended")
            assert (await wires[-1].answer()).status == 204
            wires.append(Wire(txn.connect()))
        numbers[path] = txn.number
        began[path].set()
        if path.endswith("ended"):
            txn.respond(204)
        else:
            await trio.sleep_forever()

    roots = ["one", "two", "three", "four", "five"]
    async with open_world(plugins=[make_plugin("Spawning", act, "read_request")]) as world:
        for root in roots:
            await ask(world.connect(), root)
        tree = world.proxy.tree()
        assert paths(tree) == [part for root in roots for part in (root, [f"{root}-{name}" for name in "bcdef"])]
        child = tree[0].children[1]
        assert (child.transaction, child.tag, child.id) == (numbers["one-c"], "c", 7)
        assert (child.method, child.state, child.client) == ("GET", "read_request", world.proxy.sessions[0].client.host)
        for wire in wires:
            await wire.stream.aclose()


async def test_detached_child_is_below_its_parent_as_long_as_there_is_one() -> None:
    seen: list[list[Any]] = []
    began, gate = trio.Event(), trio.Event()
    wires: list[Wire] = []

    async def act(_hook: str, txn: Any) -> None:
        if txn.depth == 0:
            wires.append(Wire(txn.connect(detach=True)))
            await wires[0].send(get("child"))
            await began.wait()
            seen.append(paths(world.proxy.tree()))
        else:
            began.set()
            await gate.wait()
        txn.respond(204)

    async with open_world(plugins=[make_plugin("Spawning", act, "read_request")]) as world:
        assert (await world.connect().ask(get("parent"))).status == 204
        await trio.testing.wait_all_tasks_blocked()
        seen.append(paths(world.proxy.tree()))
        gate.set()
        assert (await wires[0].answer()).status == 204
        await trio.testing.wait_all_tasks_blocked()
        seen.append(paths(world.proxy.tree()))
    assert seen == [["parent", ["child"]], ["child"], []]


@pytest.mark.parametrize(("deadline", "left"), [(None, None), (30.0, 20.0)])
async def test_time_that_is_left_and_the_age_are_told(deadline: float | None, left: float | None, autojump_clock: Clock) -> None:
    async def act(_hook: str, txn: Any) -> None:
        await trio.sleep(10)
        (node,) = world.proxy.tree()
        assert node.age == pytest.approx(10)
        assert node.deadline_left == (None if left is None else pytest.approx(left))
        txn.respond(204)

    async with open_world(plugins=[make_plugin("Slow", act, "read_request")], http={"transaction_timeout": deadline}) as world:
        assert (await world.connect().ask()).status == 204


async def test_target_is_told_as_it_came_if_it_is_no_url() -> None:
    async def act(_hook: str, txn: Any) -> None:
        (node,) = world.proxy.tree()
        assert node.url == "/nowhere"
        txn.respond(204)

    async with open_world(plugins=[make_plugin("Looking", act, "read_request")]) as world:
        assert (await world.connect().ask(b"GET /nowhere HTTP/1.1\r\n\r\n")).status == 204


class Looking:
    """A transform that changes nothing."""

    def __init__(self, look: Callable[[], None]) -> None:
        self.look = look

    def feed(self, piece: bytes) -> bytes:
        self.look()
        return piece

    def finish(self) -> bytes:
        return b""


async def test_bytes_in_all_buffers_are_counted() -> None:
    """What came of the next request, what the origin has sent, what the client has not read, and a head that waits for its body."""
    seen: list[int] = []
    unread = 0

    def look() -> None:
        (node,) = world.proxy.tree()
        seen.append(node.buffered)

    async def act(hook: str, txn: Any) -> None:
        nonlocal unread
        if txn.request.method == "HEAD":
            return
        if hook == "read_request":
            unread = client.statistics().receiving.unread  # of the response before
            look()
            client.send_nowait(b"GET ")
        else:
            txn.transform_response(Looking(look))
        look()

    async with open_world(replying(OK), plugins=[make_plugin("Counting", act, "read_request", "read_response")]) as world:
        client = world.proxy.connect(ConnectOptions(target=("origin.test", 80)))
        wire = Wire(client)
        await wire.send(GET.replace(b"GET", b"HEAD") + GET + b"GET /next")
        await trio.testing.wait_all_tasks_blocked()
        assert (await wire.answer("HEAD")).status == 200
        head = await wire.until(b"\r\n\r\n")
        await wire.stream.aclose()
    assert unread > 0
    assert [size - unread for size in seen] == [9, 9 + 4, 9 + 4 + 5, 9 + 4 + len(head)]
