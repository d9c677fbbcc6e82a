"""An application on a stand: served over virtual connections, with no proxy before it."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from concurrent.futures import Future
from contextlib import asynccontextmanager
from typing import Any

import trio

from trio_tsconnect import VirtualConnection, open_virtual_connection_pair
from trio_tsconnect.asgi import AsgiOrigin

GET = b"GET / HTTP/1.1\r\nHost: site.example\r\n\r\n"
Connect = Callable[[], VirtualConnection]
PATIENCE = 60
"""Seconds of real time after which what should have happened will not."""


@asynccontextmanager
async def serving(application: Any, *, buffer_index: int = 8, **options: Any) -> AsyncIterator[Connect]:
    """Run an application for the length of a block; every call of what it yields is another connection to it."""
    origin = AsgiOrigin(application, **options)
    error: BaseException | None = None
    async with trio.open_nursery() as nursery:
        await nursery.start(origin.run)

        def connect() -> VirtualConnection:
            near, far = open_virtual_connection_pair(buffer_index=buffer_index)
            nursery.start_soon(origin.serve, far)
            return near

        try:
            yield connect
        except BaseException as exc:  # noqa: BLE001 - so that it leaves as it is
            error = exc
        nursery.cancel_scope.cancel()
    if error is not None:
        raise error


async def no_lifespan(scope: Any) -> None:
    """For applications that only know requests."""
    if scope["type"] == "lifespan":
        raise NotImplementedError


async def start(send: Any, status: int = 200, *headers: tuple[bytes, bytes], **more: Any) -> None:
    await send({"type": "http.response.start", "status": status, "headers": headers, **more})


async def body(send: Any, data: bytes, *, more: bool = False) -> None:
    await send({"type": "http.response.body", "body": data, "more_body": more})


class Pouring:
    """An application that sends a hundred pieces of 1000 bytes, and counts those whose `send` has returned."""

    def __init__(self) -> None:
        self.sent = 0

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        await no_lifespan(scope)
        await start(send)
        for _ in range(100):
            await body(send, b"x" * 1000, more=True)
            self.sent += 1
        await body(send, b"")


class Gate:
    """Where an application waits, on either loop, until the test opens it; the test is told that it is there."""

    def __init__(self) -> None:
        self.reached = trio.Event()
        self.loop: asyncio.AbstractEventLoop | None = None
        """The asyncio loop of whoever has reached it, if that is where it runs."""
        self._token = trio.lowlevel.current_trio_token()
        self._opened: Future[None] = Future()

    async def wait(self) -> None:
        """The application's part."""
        try:
            self.loop = asyncio.get_running_loop()
        except RuntimeError:  # it is on trio
            opened = trio.Event()
            self._opened.add_done_callback(lambda _: opened.set())
            self.reached.set()
            await opened.wait()
        else:
            self._token.run_sync_soon(self.reached.set)
            await asyncio.shield(asyncio.wrap_future(self._opened))  # whoever is cancelled here does not take the gate away

    def open(self) -> None:
        """The test's part."""
        self._opened.set_result(None)


async def read_until(stream: trio.abc.Stream, end: bytes) -> bytes:
    seen = b""
    while end not in seen:
        data = await stream.receive_some()
        assert data, seen
        seen += data
    return seen
