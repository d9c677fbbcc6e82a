"""One party is cancelled, killed or made to fail at the Nth task step, for every N: nothing is left over, nothing is told twice.

The suite plays each scenario with a few N; `make fuzz` plays all of them.
"""

from __future__ import annotations

import os
from zlib import crc32

import pytest
import trio

from tests.engine._world import Wire
from tests.steps._stage import BODY, Play, Stage, h2_connect, h2_get, run

pytestmark = pytest.mark.long
ALL = os.environ.get("HYPOTHESIS_PROFILE") == "long"
ACTIONS = [
    ("client", "cancel"),
    ("client", "close"),
    ("client", "kill"),
    ("origin", "cancel"),
    ("origin", "close"),
    ("origin", "kill"),
    ("plugin", "raise"),
    ("proxy", "cancel"),
]


def asking(*requests: tuple[str, str, bytes]) -> Play:
    """Requests one after another on one connection."""

    async def play(stage: Stage, nursery: trio.Nursery) -> None:
        if stage.client == "h2":
            for _, target, body in requests:
                await h2_get(stage, nursery, target, body=body)
            return
        async with stage.dial(nursery) as stream:
            wire = Wire(stream)
            for method, target, body in requests:
                length = f"Content-Length: {len(body)}\r\n" if method == "POST" else ""
                await wire.send(f"{method} /{target} HTTP/1.1\r\nHost: a\r\n{length}\r\n".encode() + body)
                await wire.answer(method)

    return play


async def pipelined(stage: Stage, nursery: trio.Nursery) -> None:
    if stage.client == "h2":
        await h2_get(stage, nursery, "small", "large", "children")
        return
    async with stage.dial(nursery) as stream:
        wire = Wire(stream)
        await wire.send(b"".join(f"GET /{target} HTTP/1.1\r\nHost: a\r\n\r\n".encode() for target in ("small", "children", "small")))
        for _ in range(3):
            await wire.answer()


async def upgrade(stage: Stage, nursery: trio.Nursery) -> None:
    async with stage.dial(nursery) as stream:
        wire = Wire(stream)
        await wire.send(b"GET /upgrade HTTP/1.1\r\nHost: a\r\nConnection: Upgrade\r\nUpgrade: echo\r\n\r\n")
        await wire.answer()
        for _ in range(3):
            await wire.send(b"words")
            await wire.exactly(5)


async def connect(stage: Stage, nursery: trio.Nursery) -> None:
    async with stage.dial(nursery) as stream:
        wire = Wire(stream)
        port = stage.connect_port
        await wire.send(f"CONNECT 127.0.0.1:{port} HTTP/1.1\r\nHost: 127.0.0.1:{port}\r\n\r\n".encode())
        await wire.until(b"\r\n\r\n")
        for _ in range(3):
            await wire.send(b"words")
            await wire.exactly(5)


async def expects(stage: Stage, nursery: trio.Nursery) -> None:
    async with stage.dial(nursery) as stream:
        wire = Wire(stream)
        await wire.send(b"POST /body HTTP/1.1\r\nHost: a\r\nExpect: 100-continue\r\nContent-Length: 5\r\n\r\n")
        await wire.answer()
        await wire.send(b"hello")
        await wire.answer()


GET = asking(("GET", "small", b""), ("GET", "small", b""))
UPLOAD = asking(("POST", "small", BODY))
LARGE = asking(("GET", "large", b""))
CLIENTS, ORIGINS = ("virtual", "tcp", "tls", "h2"), ("intercept", "tcp", "tls", "asgitrio", "asgiasyncio")
SCENARIOS: list[tuple[str, Play, str, str]] = [
    *[("get", GET, client, origin) for client in CLIENTS for origin in ORIGINS],
    *[("upload", UPLOAD, client, origin) for client, origin in zip(CLIENTS, ORIGINS, strict=False)],
    *[("large", LARGE, client, origin) for client, origin in zip(CLIENTS, ORIGINS[1:], strict=False)],
    ("children", asking(("GET", "children", b"")), "virtual", "tcp"),
    ("children", asking(("GET", "children", b"")), "tcp", "intercept"),
    ("children", asking(("GET", "children", b"")), "h2", "intercept"),
    ("detached", asking(("GET", "detached", b"")), "virtual", "tcp"),
    ("retry", asking(("GET", "busy", b"")), "tcp", "tcp"),
    ("retry", asking(("GET", "busy", b"")), "virtual", "intercept"),
    ("early answer", asking(("POST", "early", BODY)), "tcp", "tcp"),
    ("early answer", asking(("POST", "early", BODY)), "virtual", "intercept"),
    ("early answer", asking(("POST", "early", BODY)), "h2", "tcp"),
    ("expectation", expects, "virtual", "intercept"),
    ("pipelined", pipelined, "virtual", "tcp"),
    ("pipelined", pipelined, "h2", "intercept"),
    ("upgrade", upgrade, "virtual", "intercept"),
    ("upgrade", upgrade, "tcp", "tcp"),
    ("upgrade", upgrade, "tls", "tls"),
    ("connect", connect, "virtual", "tcp"),
    ("connect", connect, "tcp", "tcp"),
    ("connect", h2_connect, "h2", "tcp"),
]


@pytest.mark.parametrize(("scenario", "play", "client", "origin"), SCENARIOS, ids=[f"{s}-{c}-{o}" for s, _, c, o in SCENARIOS])
def test_nothing_is_left_whatever_happens_at_whichever_step(scenario: str, play: Play, client: str, origin: str) -> None:
    steps = run(scenario, play, client, origin, "nobody", "nothing", 0)
    for party, action in ACTIONS:
        # In the suite a few steps of each scenario, other ones in each.
        for at in range(1, steps + 1) if ALL else few(f"{scenario}{client}{origin}{party}{action}", steps):
            run(scenario, play, client, origin, party, action, at)


def few(what: str, steps: int) -> list[int]:
    """None or one of the steps, by the name of what is played."""
    number = crc32(what.encode())
    return [1 + number // 5 % steps] if number % 5 < 2 else []
