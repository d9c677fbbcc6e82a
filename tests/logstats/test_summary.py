"""The counts."""

from __future__ import annotations

import json

from trio_tsconnect.log import Ended, LogRecord
from trio_tsconnect.logstats import Spread, read_records, summarize

_COMPLETE = Ended("proxy", "complete", "release")


def h2(transaction: int, connection: int, stream: int, **more) -> LogRecord:
    facts = {"client_protocol": "h2", "tag": "h2", "id": connection, "client_connection": connection, "stream": stream}
    return LogRecord(**{"transaction": transaction, "session": 1000 + transaction, "status": 200, "ended": _COMPLETE} | facts | more)


def h1(transaction: int, connection: int, **more) -> LogRecord:
    facts = {"client_connection": connection, "session": connection, "status": 200, "ended": _COMPLETE}
    return LogRecord(**{"transaction": transaction} | facts | more)


def test_client_connections_are_counted_once_however_many_transactions_they_carry():
    summary = summarize([h2(1, 7, 1), h2(2, 7, 3), h2(3, 8, 1), h1(4, 9), h1(5, 9), h1(6, 10, client_protocol="http/1.0")])
    assert summary.transactions == 6
    assert summary.client_connections == {"h2": 2, "http/1.0": 1, "http/1.1": 1}


def test_streams_are_counted_for_each_http2_connection():
    summary = summarize([h2(1, 7, 1), h2(2, 7, 3), h2(3, 7, 5), h2(4, 8, 1), h1(5, 9)])
    assert summary.streams_per_connection == {7: 3, 8: 1}
    assert summary.streams == Spread(min=1, median=2, max=3)


def test_what_a_plugin_asks_on_a_streams_behalf_is_no_stream_and_no_client_connection():
    child = {"client_connection": 7, "client_protocol": "h2", "parent": 1, "root": 1, "depth": 1, "internal": True}
    children = [LogRecord(transaction=2, session=50, tag="auth", **child), LogRecord(transaction=3, session=51, tag="h2", **child)]
    summary = summarize([h2(1, 7, 1), *children])
    assert summary.streams_per_connection == {7: 1}
    assert summary.client_connections == {"h2": 1, "internal/auth": 1, "internal/h2": 1}


def test_internal_connections_are_told_apart_by_their_session_and_named_by_their_tag():
    internal = [LogRecord(transaction=number, session=session, internal=True) for number, session in [(1, 5), (2, 5), (3, 6)]]
    summary = summarize([*internal, LogRecord(transaction=4, session=7, internal=True, tag="prefetch")])
    assert summary.client_connections == {"internal": 2, "internal/prefetch": 1}


def test_clients_without_a_connection_number_are_told_apart_by_their_session():
    summary = summarize([LogRecord(transaction=n, session=n) for n in (1, 2)])
    assert summary.client_connections == {"http/1.1": 2}


def test_a_log_that_spans_two_runs_of_the_proxy_counts_equal_numbers_twice():
    summary = summarize([h2(1, 7, 1), h2(2, 7, 3), h2(1, 7, 1)])
    assert summary.client_connections == {"h2": 2}
    assert summary.streams_per_connection == {7: 2, "2:7": 1}


def test_transactions_are_counted_by_tag_and_status_class():
    summary = summarize([h2(1, 7, 1), h2(2, 7, 3, status=404), h1(3, 8, status=None), h1(4, 8, status=101), h1(5, 8, status=999)])
    assert summary.statuses == {"-": {"1xx": 1, "9xx": 1, "none": 1}, "h2": {"2xx": 1, "4xx": 1}}


def test_causes_are_counted_the_most_frequent_first():
    gone = Ended("client", "gone", "send_response")
    summary = summarize([h1(1, 1, ended=gone), h1(2, 1), h1(3, 1)])
    assert list(summary.ended.items()) == [("complete", 2), ("gone", 1)]


def test_what_is_missing_is_in_the_summary(tmp_path):
    path = tmp_path / "log"
    gap = '{"dropped":4,"time":null}'
    path.write_text(f"{h1(1, 1).to_json()}\n{gap}\ntorn\n")
    summary = summarize(read_records(path, on_error="skip"))
    assert (summary.transactions, summary.dropped, summary.skipped) == (1, 4, 1)
    assert "not counted above: 4" in summary.to_text()
    assert "not records: 1" in summary.to_text()
    assert summarize([json.loads(gap)]).dropped == 4


def test_an_empty_log_has_a_summary():
    summary = summarize([])
    assert summary.streams is None
    assert summary.as_dict()["http2_streams"] == {
        "connections": 0, "streams": 0, "min": None, "median": None, "max": None, "per_connection": {}, "histogram": []
    }  # fmt: skip
    assert summary.to_text().startswith("transactions: 0")


def test_the_summary_as_json():
    data = json.loads(json.dumps(summarize([h2(1, 7, 1), h2(2, 7, 3), h1(3, 9, milestones={"release": 0.5})]).as_dict()))
    groups, total = data.pop("groups"), data.pop("total")
    figures = {"per_second": None, "errors": 0, "request_bytes": 0, "response_bytes": 0, "error_rate": 0.0}
    assert total == {"name": "all", "transactions": 3} | figures | dict.fromkeys(("p50", "p90", "p99", "max"), 0.5)
    assert groups["tag"][0] == {"name": "h2", "transactions": 2} | figures | dict.fromkeys(("p50", "p90", "p99", "max"))
    assert list(groups) == ["tag", "rule", "origin", "plugin", "cause", "status"]
    streams = {"connections": 1, "streams": 2, "min": 2, "median": 2, "max": 2, "per_connection": {"7": 2}}
    assert data == {
        "transactions": 3,
        "client_connections": {"h2": 1, "http/1.1": 1},
        "http2_streams": streams | {"histogram": [{"low": 2, "high": 3, "connections": 1}]},
        "statuses": {"-": {"2xx": 1}, "h2": {"2xx": 2}},
        "ended": {"complete": 3},
        "dropped": 0,
        "skipped": 0,
        "skipped_at": [],
        "span": ["1970-01-01T00:00:00.000000Z", "1970-01-01T00:00:00.000000Z"],
        "origin_connections": [],
        "internal": {},
    }


def test_the_summary_as_text():
    assert (
        summarize([h2(1, 7, 1), h2(2, 7, 3), h2(3, 8, 1), h1(4, 9, status=None)]).to_text()
        == """\
transactions: 4

client connections
  protocol  connections
  h2                  2
  http/1.1            1

HTTP/2 streams per client connection: 3 on 2 (min 1, median 1.5, max 2)
  connection  streams
  7                 2
  8                 1

transactions by tag and status
  tag  1xx  2xx  3xx  4xx  5xx  none
  -      0    0    0    0    0     1
  h2     0    3    0    0    0     0

transactions by how they ended
  why       transactions
  complete             4

connections by their number of streams
  streams  connections
  1                  1
  2-3                1

transactions by tag, times in ms
  tag  transactions  /s   errors  bytes in  bytes out  p50  p90  p99  max
  h2              3   -    0.0 %         0          0    -    -    -    -
  -               1   -  100.0 %         0          0    -    -    -    -

transactions by rule, times in ms
  rule  transactions  /s  errors  bytes in  bytes out  p50  p90  p99  max
  -                4   -  25.0 %         0          0    -    -    -    -

transactions by origin, times in ms
  origin  transactions  /s  errors  bytes in  bytes out  p50  p90  p99  max
  -                  4   -  25.0 %         0          0    -    -    -    -

connections to origins: none

internal requests by plugin: none"""
    )


def test_many_connections_are_cut_short_in_the_text_and_whole_in_the_data():
    summary = summarize([h2(number, number, 1) for number in range(1, 31)])
    assert "and 10 more connections" in summary.to_text()
    assert len(summary.as_dict()["http2_streams"]["per_connection"]) == 30


def test_a_tag_cannot_steer_the_terminal():
    text = summarize([h1(1, 1, tag="\x1b[2J")]).to_text()
    assert "\x1b" not in text
    assert "\\x1b[2J" in text
