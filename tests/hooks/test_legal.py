"""What a plugin may do in which hook: a table, and whatever is not in it raises `InvalidState` at the line that tries."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Any

import pytest
import trio

from tests.engine._world import GET, OK, open_world, replying
from tests.engine.test_hooks import make_plugin
from trio_tsconnect import InvalidState

REQUEST_HOOKS = {"read_request", "pre_remap", "post_remap"}
HOOKS = [
    "transaction_start",
    "read_request",
    "pre_remap",
    "post_remap",
    "send_request",
    "read_response",
    "send_response",
    "transaction_close",
]


class Same:
    """A transform that changes nothing."""

    def feed(self, data: bytes) -> bytes:
        return data

    def finish(self) -> bytes:
        return b""


async def serve(stream: trio.abc.HalfCloseableStream) -> None:
    await stream.receive_some()
    await stream.send_all(OK)


def sync(act: Callable[[Any], object]) -> Callable[[Any], Awaitable[None]]:
    async def run(txn: Any) -> None:
        act(txn)

    return run


async def read_body(txn: Any) -> None:
    await txn.read_request_body(100)


ACTIONS: dict[str, tuple[Callable[[Any], Awaitable[None]], set[str]]] = {
    "respond": (sync(lambda txn: txn.respond(200)), REQUEST_HOOKS | {"send_request", "read_response", "send_response"}),
    "intercept": (sync(lambda txn: txn.intercept(serve)), REQUEST_HOOKS),
    "transform_request": (sync(lambda txn: txn.transform_request(Same())), REQUEST_HOOKS | {"send_request"}),
    "read_request_body": (read_body, REQUEST_HOOKS | {"send_request"}),
    "retry": (sync(lambda txn: txn.retry()), {"read_response"}),
    "transform_response": (sync(lambda txn: txn.transform_response(Same())), set(HOOKS) - {"transaction_close"}),
}


@pytest.mark.parametrize("hook", HOOKS)
@pytest.mark.parametrize("name", ACTIONS)
async def test_each_call_is_legal_in_its_hooks_and_in_no_other(name: str, hook: str) -> None:
    act, legal = ACTIONS[name]
    outcome: list[str] = []

    async def call(_hook: str, txn: Any) -> None:
        if outcome:
            return
        try:
            await act(txn)
            outcome.append("legal")
        except InvalidState as exc:
            outcome.append("refused" if txn.state.milestone in str(exc) else f"refused without the state: {exc}")

    async with open_world(replying(OK), plugins=[make_plugin("Calling", call, hook)]) as world:
        assert (await world.connect().ask(GET)).status == 200
    assert outcome == ["legal" if hook in legal else "refused"]
