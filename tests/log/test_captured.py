"""What the proxy captures for a log: selected fields of the request as received and of the response as sent; and several logs of a file."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import trio

from trio_tsconnect import LogConfig, MemoryLog, Plugin, ProxyConfig, Request, Transaction, open_proxy


class Answer(Plugin):
    async def read_request(self, txn: Transaction) -> None:
        txn.request.headers["X-A"] = "changed"
        txn.respond(200, b"x", headers=[("X-B", "made"), ("X-C", "other")])

    async def send_response(self, txn: Transaction) -> None:
        txn.response.headers["X-B"] = "sent"


async def run(log, *, headers=()) -> None:
    async with open_proxy(ProxyConfig(log=log), plugins=[Answer()]) as proxy:
        request = Request("GET", "/a?secret=1", [("Host", "site.test"), *headers])
        async with proxy.fetch(request) as response:
            assert await response.body.read() == b"x"


async def test_a_log_has_the_fields_that_it_selects(tmp_path: Path) -> None:
    one = LogConfig(str(tmp_path / "one"), request_headers=["X-A", "Cookie", "X-None"], response_headers=["x-b"])
    two = LogConfig(str(tmp_path / "two"), format='"%<{x-a}cqh>" %<{X-C}psh> %<cquuc>')
    three = LogConfig(str(tmp_path / "three"), filter="status >= 500")
    four = LogConfig(str(tmp_path / "four"), sample=0)
    await run([one, two, three, four], headers=[("X-A", "1"), ("X-A", "2"), ("Cookie", "secret")])
    record = json.loads((tmp_path / "one").read_text())
    assert record["request_headers"] == {"cookie": "[redacted]", "x-a": "1, 2"}
    assert record["response_headers"] == {"x-b": "sent"}
    assert (tmp_path / "two").read_text() == '"1, 2" other http://site.test/a\n'
    assert (tmp_path / "three").read_text() == (tmp_path / "four").read_text() == ""


async def test_nothing_is_captured_for_a_log_that_selects_nothing() -> None:
    log = MemoryLog()
    async with (
        open_proxy(ProxyConfig(), plugins=[Answer()], log=log) as proxy,
        proxy.fetch(Request("GET", "/", {"Host": "site.test"})) as response,
    ):
        await response.body.read()
    assert (log.records[0].request_headers, log.records[0].response_headers) == (None, None)


async def test_a_transaction_without_a_response_has_no_fields_of_one(tmp_path: Path) -> None:
    log = LogConfig(str(tmp_path / "log"), request_headers=["X-A"], response_headers=["X-B"])
    async with open_proxy(ProxyConfig(log=log)) as proxy:
        stream = proxy.connect()
        await stream.send_all(b"GET /")
        await trio.aclose_forcefully(stream)
    record = json.loads((tmp_path / "log").read_text())
    assert record["status"] is None
    assert not {"request_headers", "response_headers"} & record.keys()


async def test_a_log_that_cannot_be_opened_leaves_none_open(tmp_path: Path) -> None:
    configs = [LogConfig(str(tmp_path / "a")), LogConfig(str(tmp_path / "no" / "b"))]
    with pytest.raises(FileNotFoundError, match="no/b"):
        async with open_proxy(ProxyConfig(log=configs)):
            pass
