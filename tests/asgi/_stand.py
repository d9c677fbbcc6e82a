"""An application on a stand: served over virtual connections, with no proxy before it."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Any

import trio

from trio_tsconnect import VirtualConnection, open_virtual_connection_pair
from trio_tsconnect.asgi import AsgiOrigin

GET = b"GET / HTTP/1.1\r\nHost: site.example\r\n\r\n"
Connect = Callable[[], VirtualConnection]


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


async def read_until(stream: trio.abc.Stream, end: bytes) -> bytes:
    seen = b""
    while end not in seen:
        data = await stream.receive_some()
        assert data, seen
        seen += data
    return seen
