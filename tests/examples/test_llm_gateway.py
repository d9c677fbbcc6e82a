"""The gateway to slow APIs: minutes for a first byte, another provider for a busy one, tokens in the record, and no secret in it."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from types import ModuleType

import pytest
from trio.testing import MockClock

from trio_tsconnect import Plugin, Transaction, open_proxy
from trio_tsconnect.testing import Answer, ScriptedOrigin, exchange

EXAMPLE = Path(__file__).parents[2] / "examples" / "llm_gateway.py"


@pytest.fixture
def example(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    monkeypatch.syspath_prepend(str(EXAMPLE.parent))
    monkeypatch.delitem(sys.modules, "llm_gateway", raising=False)
    import llm_gateway  # type: ignore[import-not-found, unused-ignore]

    return llm_gateway  # type: ignore[no-any-return, unused-ignore]


@pytest.fixture
def clock() -> MockClock:
    """A clock that jumps when nothing has happened for a moment: long enough for a byte to cross the loopback interface."""
    return MockClock(autojump_threshold=0.02)


def test_it_shows_what_it_says() -> None:
    environment = os.environ | {"PYTHONPATH": str(EXAMPLE.parents[1])}
    done = subprocess.run(
        [sys.executable, "-W", "error", str(EXAMPLE)], env=environment, capture_output=True, check=True, text=True, timeout=30
    )
    assert done.stderr == ""
    assert done.stdout.splitlines()[-2:] == [
        "log: 200 after 1 attempts, from the first: 12 tokens for thinker",
        "log: 200 after 2 attempts, from the second: 7 tokens for thinker",
    ]
    assert done.stdout.count("  'data: ") == 4


async def test_a_first_byte_may_take_minutes(example: ModuleType, clock: MockClock, capsys: pytest.CaptureFixture[str]) -> None:
    first, second = await example.main(think=150)
    assert (first.status, first.attempts, second.status, second.attempts) == (200, 1, 200, 2)
    assert first.milestones["send_response"] < first.milestones["release"]
    assert first.milestones["release"] >= 150
    assert second.milestones["release"] >= 150 + 3 * 15
    assert capsys.readouterr().out.count("  'data: ") == 4


async def test_no_key_is_in_a_record(example: ModuleType, clock: MockClock) -> None:
    first, second = await example.main(think=1)
    told = json.dumps([first.as_dict(), second.as_dict()])
    assert "key-of-" not in told
    assert first.plugin["Gateway"]["caller"] == second.plugin["Gateway"]["caller"] != ""


class Count(Plugin):
    """The gateway's reading along, on its own."""

    def __init__(self, example: ModuleType) -> None:
        self.gateway = example.Gateway("http://second.test", {"origin.test": "key"})

    async def post_remap(self, txn: Transaction) -> None:
        await self.gateway.post_remap(txn)

    async def send_request(self, txn: Transaction) -> None:
        await self.gateway.send_request(txn)

    async def read_response(self, txn: Transaction) -> None:
        await self.gateway.read_response(txn)


@pytest.mark.parametrize(
    ("headers", "body", "noted"),
    [
        ({}, b'data: {"usage": {"total_tokens": 3}}\r\n\r\ndata: {"usage": {"total_tokens": 5}}', {"tokens": 5}),
        ({}, b"nothing of the kind", {}),
        ({"Content-Encoding": "compress"}, b"?", {"not_counted": "compress"}),
    ],
)
async def test_what_can_be_read_is_counted(
    example: ModuleType, headers: dict[str, str], body: bytes, noted: dict[str, object], autojump_clock: MockClock
) -> None:
    from trio_tsconnect import MemoryLog, ProxyConfig, RemapRule

    log, origin = MemoryLog(), ScriptedOrigin("origin.test")
    origin.reply("/", Answer(200, body, headers=headers))
    async with open_proxy(
        ProxyConfig(remap=[RemapRule("/", "http://origin.test/")]), plugins=[Count(example), origin.plugin()], log=log
    ) as proxy:
        async with proxy.connect() as stream:
            reply = await exchange(stream, 'POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 14\r\n\r\n{"model": "m"}')
            assert (reply.status, reply.body) == (200, body)
        async with proxy.connect() as stream:
            assert (await exchange(stream, "POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 2\r\n\r\n{}")).status == 400
    origin.check()
    logged = log.records[0].plugin["Count"]
    assert {name: logged[name] for name in logged if name in ("tokens", "not_counted")} == noted
    assert origin.requests[0].headers["Authorization"] == "Bearer key"
