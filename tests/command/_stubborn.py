"""Applications that do not end: the command that serves them has to."""

from __future__ import annotations

import asyncio
import signal
import sys
import threading
import time
from typing import Any


def tell(what: str) -> None:
    print(what, file=sys.stderr, flush=True)


async def hangs_in_shutdown(scope: Any, receive: Any, send: Any) -> None:
    if scope["type"] == "lifespan":
        await receive()
        await send({"type": "lifespan.startup.complete"})
        await receive()
        tell("shutting down")
        await asyncio.sleep(1000)


async def blocks_in_a_request(scope: Any, receive: Any, send: Any) -> None:
    if scope["type"] == "lifespan":
        raise RuntimeError("only requests")
    tell("blocking")
    time.sleep(1000)  # noqa: ASYNC251 - that is its fault


async def is_interrupted_elsewhere(scope: Any, receive: Any, send: Any) -> None:
    """Blocks the loop; both signals interrupt another thread, as the system may choose, so that the main thread does not notice them."""
    if scope["type"] == "lifespan":
        raise RuntimeError("only requests")

    def interrupt() -> None:
        time.sleep(0.2)  # the main thread is blocked by then
        for number in (signal.SIGINT, signal.SIGTERM):
            signal.pthread_kill(threading.get_ident(), number)

    threading.Thread(target=interrupt, daemon=True).start()
    time.sleep(1000)  # noqa: ASYNC251 - that is its fault


async def blocks_in_startup(scope: Any, receive: Any, send: Any) -> None:
    if scope["type"] == "lifespan":
        await receive()
        tell("blocking")
        time.sleep(1000)  # noqa: ASYNC251 - that is its fault


async def swallows_its_cancellation(scope: Any, receive: Any, send: Any) -> None:
    if scope["type"] == "lifespan":
        raise RuntimeError("only requests")
    tell("swallowing")
    while True:
        try:
            await asyncio.sleep(1000)
        except BaseException:  # noqa: BLE001, S112 - that is its fault
            continue
