"""A plugin that denies a path denies each of its spellings, over every protocol and in every form of the request target."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import pytest
import trio

from tests.engine._world import OK, Wire, open_world, replying
from tests.http2 import _raw
from tests.message.test_paths import OTHERS, SPELLINGS
from trio_tsconnect import Guard, Transaction, open_virtual_connection_pair


class Private(Guard):
    async def judge(self, txn: Transaction) -> None:
        if txn.request.url.under("/private"):
            txn.respond(403)


@asynccontextmanager
async def open_wire(transport: str) -> AsyncIterator[Wire]:
    """An HTTP/1.1 client: of a virtual connection, of any stream, or of a socket."""
    async with open_world(replying(OK), plugins=[Private()], http={"remap_required": False}) as world, trio.open_nursery() as nursery:
        if transport == "virtual":
            yield world.connect()
        elif transport == "stream":
            ours, theirs = open_virtual_connection_pair()
            nursery.start_soon(world.proxy.serve_stream, theirs)
            yield Wire(ours)
            await ours.aclose()
        else:
            listeners = await trio.open_tcp_listeners(0, host="127.0.0.1")
            nursery.start_soon(trio.serve_listeners, world.proxy.serve_stream, listeners)
            async with await trio.open_tcp_stream("127.0.0.1", listeners[0].socket.getsockname()[1]) as stream:
                yield Wire(stream)
        nursery.cancel_scope.cancel()


@pytest.mark.parametrize("form", ["", "http://origin.test"], ids=["origin-form", "absolute-form"])
@pytest.mark.parametrize("transport", ["virtual", "stream", "tcp"])
async def test_path_guard_holds_over_http1(transport: str, form: str) -> None:
    async with open_wire(transport) as wire:
        for spelling in SPELLINGS:
            answer = await wire.ask(f"GET {form}{spelling} HTTP/1.1\r\nHost: origin.test\r\n\r\n".encode())
            assert answer.status == 403, spelling
        for other in OTHERS:
            if other.startswith("/"):
                answer = await wire.ask(f"GET {form}{other} HTTP/1.1\r\nHost: origin.test\r\n\r\n".encode())
                assert answer.status == 200, other


def fields_of(target: str) -> _raw.Fields:
    return tuple((name, target if name == ":path" else value) for name, value in _raw.GET)


async def test_path_guard_holds_over_http2() -> None:
    async with _raw.open_world(plugins=[Private()]) as world:
        stream = 1
        for target, status in [*((spelling, "403") for spelling in SPELLINGS), *((o, "200") for o in OTHERS if o.startswith("/"))]:
            assert (await world.client.get(stream, fields_of(target))).status == status, target
            stream += 2
