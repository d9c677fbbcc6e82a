from __future__ import annotations

import json
import sys
from functools import partial

import attrs
import pytest
import trio

from trio_tsconnect.__main__ import main
from trio_tsconnect._command._demo_result import HTTP1, STREAMS, VIRTUAL, Result, Sent
from trio_tsconnect.logstats import Summary

from ._process import COMMAND, LIMIT


async def test_log_equals_what_was_sent() -> None:
    with trio.fail_after(LIMIT):
        done = await partial(trio.run_process, [*COMMAND, "demo", "--json"], capture_stdout=True, capture_stderr=True, stdin=b"")()
    result = json.loads(done.stdout)
    assert result["equal"] is True
    assert result["logged"] == result["sent"]
    assert result["sent"]["connections"] == {"h2": len(STREAMS), "http/1.1": len(HTTP1), "internal/demo-plugin": len(VIRTUAL)}
    assert sorted(result["summary"]["http2_streams"]["per_connection"].values()) == sorted(STREAMS)
    assert result["virtual_to_loopback"] > 0
    total = sum(STREAMS) + sum(HTTP1) + sum(VIRTUAL)
    assert f"{total}/{total} answers\n" in done.stderr.decode()


GOOD = Result(
    sent=Sent(h2=list(STREAMS), http1=list(HTTP1), virtual=list(VIRTUAL)),
    logged=Summary(
        transactions=sum(STREAMS) + sum(HTTP1) + sum(VIRTUAL),
        client_connections={"h2": len(STREAMS), "http/1.1": len(HTTP1), "internal/demo-plugin": len(VIRTUAL)},
        streams_per_connection=dict(enumerate(STREAMS)),
        statuses={"-": {"2xx": sum(HTTP1)}, "demo-plugin": {"2xx": sum(VIRTUAL)}, "h2": {"2xx": sum(STREAMS)}},
        ended={},
        dropped=0,
        skipped=0,
    ),
    virtual_rate=3000.0,
    loopback_rate=2000.0,
    ratio=1.5,
    seconds=1.0,
)


def test_result_is_good_when_all_counts_are_those_of_the_clients() -> None:
    assert GOOD.equal
    assert (
        "This equals what was sent: 440 requests on 10 connections.\nvirtual / loopback = 1.50 (median over rounds of pairs; 3,000 requests/s"
        in GOOD.to_text()
    )


@pytest.mark.parametrize(
    "change",
    [
        {"sent": attrs.evolve(GOOD.sent, h2=[20, 40, 60, 80, 99])},
        {"logged": attrs.evolve(GOOD.logged, transactions=1)},
        {"logged": attrs.evolve(GOOD.logged, client_connections={"h2": 5})},
        {"logged": attrs.evolve(GOOD.logged, streams_per_connection={1: 300})},
        {"logged": attrs.evolve(GOOD.logged, statuses={"h2": {"2xx": 299, "5xx": 1}})},
    ],
    ids=lambda change: next(iter(change)),
)
def test_one_count_that_differs_is_said_and_exits_1(
    change: dict[str, object], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("trio_tsconnect._command._demo_run.run", lambda: attrs.evolve(GOOD, **change))
    assert main(["demo"]) == 1
    assert "This does NOT equal what was sent" in capsys.readouterr().out


def test_without_what_it_needs_the_demo_says_what_to_install(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setitem(sys.modules, "trustme", None)
    assert main(["demo"]) == 2
    assert capsys.readouterr().err == "tsconnect: the demo needs the package trustme: pip install 'trio-tsconnect[server,testing]'\n"
