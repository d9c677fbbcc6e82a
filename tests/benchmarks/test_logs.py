"""The benchmark of the statistics: its log is one, and it prints its figures."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from benchmarks._logs import lines, write
from trio_tsconnect.logstats import read_records, summarize

ROOT = Path(__file__).parents[2]


def test_its_log_is_one_and_the_same_for_a_seed(tmp_path: Path) -> None:
    log = tmp_path / "log"
    with log.open("w") as file:
        write(file, 3000)
    summary = summarize(read_records(log))
    assert summary.transactions == 3000
    assert {"h2", "http/1.1", "internal/job", "internal/auth_request"} <= set(summary.client_connections)
    assert set(summary.internal) == {"-", "AuthRequest", "Aggregate"}
    assert {"complete", "client_gone", "origin_response_timeout"} <= set(summary.ended)
    assert list(lines(50)) == list(lines(50)) != list(lines(50, seed=2))
    record = json.loads(next(lines(1)))
    assert 0 < record["milestones"]["read_response"] < record["milestones"]["send_response"] < record["milestones"]["release"]


@pytest.mark.needs("duckdb")
def test_command_prints_time_memory_and_rates() -> None:
    command = [sys.executable, "-m", "benchmarks._logs", "--records", "2000"]
    done = subprocess.run(command, capture_output=True, text=True, cwd=ROOT, timeout=60, check=True)
    first, second, third = done.stdout.splitlines()
    assert first.startswith("2000 records, ")
    assert second.endswith(" MiB of memory")
    assert third.endswith("measured on 2000 records")
