"""The data of a report."""

from __future__ import annotations

import json
from pathlib import Path
from tempfile import TemporaryDirectory

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.logstats._logs import BAD, GAP, RECORDS, costly, write
from trio_tsconnect.log import Ended, LogRecord
from trio_tsconnect.logstats import open_table, report_data

pytestmark = pytest.mark.needs("duckdb")


def test_data_of_a_small_log(tmp_path: Path) -> None:
    done = Ended("proxy", "complete", "release")
    h2 = {"client_protocol": "h2", "tag": "h2", "client_connection": 7, "method": "GET", "ended": done}
    records = [
        LogRecord(transaction=1, root=1, stream=1, time=1000.0, url="/a", status=200, milestones={"remap": 0.1, "release": 0.5}, **h2),
        LogRecord(transaction=2, root=2, stream=3, time=1060.0, url="/b", status=503, milestones={"remap": 0.1, "release": 1.5}, **h2),
        LogRecord(
            transaction=3, root=2, parent=2, time=1060.2, status=204, internal=True, ended=done, milestones={"remap": 0.0, "release": 1.0}
        ),
    ]
    data = report_data(write(tmp_path / "log", list(records)), slowest=2)
    assert json.loads(json.dumps(data)) == data
    assert data.pop("generated").endswith("Z")
    root = {"transaction": 2, "label": "GET /b", "start": 0.0, "seconds": 1.5, "critical": True}
    child = {"transaction": 3, "label": "- -", "start": 0.2, "seconds": 1.0, "critical": True, "children": []}
    slow = {"method": "GET", "tag": "h2"}
    assert data == {
        "title": "log",
        "span": ["1970-01-01T00:16:40.000000Z", "1970-01-01T00:17:40.200000Z"],
        "totals": {"transactions": 3, "roots": 2, "internal": 1, "errors": 1, "request_bytes": 0, "response_bytes": 0},
        "connections": [
            {"protocol": "h2", "connections": 1, "transactions": 2},
            {"protocol": "internal", "connections": 1, "transactions": 1},
        ],
        "streams_histogram": [{"low": 2, "high": 3, "connections": 1}],
        "latency_by_tag": [
            {"tag": "h2", "count": 2, "p50": 0.5, "p90": 1.5, "p99": 1.5, "max": 1.5},
            {"tag": "-", "count": 1, "p50": 1.0, "p90": 1.0, "p99": 1.0, "max": 1.0},
        ],
        "over_time": [
            {"start": "1970-01-01T00:16:40Z", "transactions": 1, "errors": 0, "p50": 0.5, "p99": 0.5},
            {"start": "1970-01-01T00:17:40Z", "transactions": 2, "errors": 1, "p50": 1.0, "p99": 1.5},
        ],
        "statuses": [{"status": "200", "count": 1}, {"status": "204", "count": 1}, {"status": "503", "count": 1}],
        "causes": [{"by": "proxy", "why": "complete", "count": 3}],
        "slowest": [
            {"transaction": 2, "root": 2, "url": "/b", "status": 503, "seconds": 1.5} | slow,
            {"transaction": 3, "root": 2, "url": "-", "status": 204, "seconds": 1.0, "method": "-", "tag": None},
        ],
        "tree": root
        | {
            "states": [{"name": "remap", "start": 0.1, "seconds": 1.4}],
            "children": [child | {"states": [{"name": "remap", "start": 0.2, "seconds": 1.0}]}],
        },
    }


def test_data_of_a_table_and_of_nothing(tmp_path: Path) -> None:
    with open_table(write(tmp_path / "log", [])) as table:
        data = report_data(table, title="mine")
        assert (data["title"], data["tree"], data["slowest"], data["over_time"], data["span"]) == ("mine", None, [], [], ["", ""])
        with pytest.raises(TypeError, match="files, or one table"):
            report_data(table, table)


@costly
@given(st.lists(RECORDS | st.sampled_from([*BAD, GAP]), max_size=20))
def test_data_of_any_log_are_json_with_the_same_keys(lines: list[LogRecord | str]) -> None:
    with TemporaryDirectory() as folder:
        data = report_data(write(Path(folder, "log"), lines))
    assert list(data) == (
        [
            "title",
            "generated",
            "span",
            "totals",
            "connections",
            "streams_histogram",
            "latency_by_tag",
            "over_time",
            "statuses",
            "causes",
            "slowest",
            "tree",
        ]
    )
    assert len(data["over_time"]) <= 65
    json.dumps(data, allow_nan=False)
