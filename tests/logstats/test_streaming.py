"""What is counted line by line, in memory that does not grow with the log."""

from __future__ import annotations

import csv
import gzip
import math
from datetime import UTC, datetime
from pathlib import Path

import attrs
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.logstats._logs import SECONDS, write
from trio_tsconnect.log import Ended, LogRecord
from trio_tsconnect.logstats import (
    Counts,
    Slowest,
    convert,
    find_trees,
    follow,
    moment,
    read_records,
    slowest,
    summarize,
    talkers,
    text_table,
)
from trio_tsconnect.logstats._fields import FIELDS, GROUPS, KINDS
from trio_tsconnect.logstats._runs import Runs
from trio_tsconnect.logstats._spread import EXACT, Times

COMPLETE = Ended("proxy", "complete", "release")


def record(transaction: int, seconds: float = 1.0, **more) -> LogRecord:
    facts = {"status": 200, "ended": COMPLETE, "milestones": {"read_request": 0.0, "release": seconds}}
    return LogRecord(**{"transaction": transaction} | facts | more)


def test_figures_of_a_group() -> None:
    records = [record(n, n / 10, tag="a", time=100.0 + n, request_bytes=2, response_bytes=n) for n in range(1, 11)]
    (group,) = summarize(records).groups["tag"]
    assert (group.name, group.transactions, group.errors, group.request_bytes, group.response_bytes) == ("a", 10, 0, 20, 55)
    assert (group.p50, group.p90, group.p99, group.max) == (0.5, 0.9, 1.0, 1.0)
    assert group.per_second == pytest.approx(10 / 9, abs=1e-3)


@pytest.mark.parametrize(
    ("status", "why", "error"),
    [
        (200, "complete", True),
        (200, "responded", True),
        (200, "origin_truncated", False),
        (404, "no_remap_rule", True),
        (500, "complete", False),
        (None, "client_gone", False),
    ],
)
def test_an_error_is_no_status_or_500_or_a_response_cut_short(status: int | None, why: str, error: bool) -> None:
    (group,) = summarize([record(1, status=status, ended=Ended("proxy", why, "release"))]).groups["tag"]
    assert group.errors == (not error)
    assert group.error_rate == group.errors


def test_groups_by_everything() -> None:
    groups = summarize(
        [
            record(1, tag="h2", remap_rule="//a/", origin_url="http://o.example:81/x", opened_by="Auth.read_request"),
            record(2, status=404, ended=Ended("proxy", "no_remap_rule", "remap")),
            record(3, status=404, ended=Ended("proxy", "no_remap_rule", "remap")),
        ]
    ).groups
    names = {by: [(group.name, group.transactions) for group in found] for by, found in groups.items()}
    assert names == {
        "tag": [("-", 2), ("h2", 1)],
        "rule": [("-", 2), ("//a/", 1)],
        "origin": [("-", 2), ("o.example:81", 1)],
        "plugin": [("-", 2), ("Auth", 1)],
        "cause": [("no_remap_rule", 2), ("complete", 1)],
        "status": [("404", 2), ("200", 1)],
    }


def test_use_of_origin_connections_and_requests_of_plugins() -> None:
    at = {"origin_url": "http://o.example/"}
    summary = summarize(
        [
            record(1, origin_connection=5, origin_reused=False, **at),
            record(2, origin_connection=5, origin_reused=True, internal=True, opened_by="Auth.read_request", **at),
            record(3, origin_connection=6, origin_reused=False, internal=True, opened_by="Auth.read_request", **at),
            record(1, origin_connection=5, origin_reused=False, internal=True, **at),
        ]
    )
    assert [attrs.astuple(each) for each in summary.reuse] == [("o.example", 3, 4, 1)]
    assert summary.internal == {"Auth": 2, "-": 1}
    assert "  o.example            3             4  25.0 %\n" in summary.to_text() + "\n"


def test_histogram_of_streams() -> None:
    streams = {7: 1, 8: 2, 9: 3, 10: 4}
    records = [
        record(100 * connection + stream, tag="h2", client_protocol="h2", client_connection=connection, stream=stream)
        for connection, count in streams.items()
        for stream in range(1, count + 1)
    ]
    assert [attrs.astuple(each) for each in summarize(records).histogram] == [(1, 1, 1), (2, 3, 2), (4, 7, 1)]


@given(st.lists(SECONDS, min_size=1, max_size=60), st.integers(1, 100), st.booleans())
def test_percentiles_are_exact_for_few_and_near_for_many(values: list[float], percent: int, many: bool) -> None:
    values = values * (EXACT // len(values) + 1) if many else values
    times = Times()
    for value in values:
        times.add(value)
    expected = sorted(values)[max(1, math.ceil(len(values) * percent / 100)) - 1]
    found = times.percentile(percent)
    assert found == (pytest.approx(expected, rel=0.0101, abs=1e-6) if many else expected)
    assert times.max == max(values)


@given(st.lists(st.tuples(st.integers(0, 3), st.integers(0, 5000)), max_size=30))
def test_no_number_comes_twice_in_a_run(records: list[tuple[int, int]]) -> None:
    runs = Runs()
    seen = [(runs.of({"process": process, "transaction": number}), process, number) for process, number in records]
    assert len({each for each in seen if each[2]}) == len([each for each in seen if each[2]])
    assert len({(run, process) for run, process, _ in seen}) == len({run for run, _, _ in seen})


def test_a_selection_does_not_change_the_runs(tmp_path: Path) -> None:
    log = write(tmp_path / "log", [record(1), record(2, tag="a"), record(1), record(3, tag="a")])
    reader = read_records(log, where='tag = "a"')
    assert [(reader.run, fields["transaction"]) for fields in reader] == [(0, 2), (1, 3)]


def test_a_selection_by_time(tmp_path: Path) -> None:
    log = write(tmp_path / "log", [record(n, time=100.0 + n) for n in range(5)])
    found = read_records(log, since=datetime(1970, 1, 1, 0, 1, 41), until=datetime(1970, 1, 1, 0, 1, 43, tzinfo=UTC))
    assert [fields["transaction"] for fields in found] == [1, 2]


def test_moments_that_a_user_gives() -> None:
    now = datetime(2026, 1, 1, 12, tzinfo=UTC)
    assert moment("15m", now=now) == datetime(2026, 1, 1, 11, 45, tzinfo=UTC)
    assert moment("1.5h", now=now) == datetime(2026, 1, 1, 10, 30, tzinfo=UTC)
    assert moment("2026-01-01T13:00:00+02:00") == datetime(2026, 1, 1, 11, tzinfo=UTC)
    assert moment(None) is None
    for text in ("soon", "15", "99999999999d"):
        with pytest.raises(ValueError, match="is no time, expected one such as"):
            moment(text)


def test_bad_lines_have_their_place_and_reason(tmp_path: Path) -> None:
    log = tmp_path / "log"
    log.write_text("torn\n" + record(1).to_json() + '\n{"transaction":1,"status":true}\n')
    reader = read_records(log, on_error="skip")
    assert len(list(reader)) == 1
    assert [place.removeprefix(str(log)) for place in reader.skipped_at] == [
        ", line 1: not JSON: Expecting value: line 1 column 1 (char 0)",
        ", line 3: not a log record: its field 'status' is bool",
    ]


def test_bytes_read_are_told(tmp_path: Path) -> None:
    log, packed = tmp_path / "log", tmp_path / "log.gz"
    text = "".join(record(n).to_json() + "\n" for n in range(1, 6001))
    log.write_text(text)
    packed.write_bytes(gzip.compress(text.encode()))
    seen: list[int] = []
    assert sum(1 for _ in read_records(log, packed, progress=seen.append)) == 12000
    assert len(seen) == 2
    assert 0 < seen[0] <= log.stat().st_size < seen[1] <= log.stat().st_size + packed.stat().st_size


def test_slowest_by_what_is_asked() -> None:
    records = [
        LogRecord(transaction=1, milestones={"send_request": 0.1, "send_response": 0.2, "release": 5.0}),
        LogRecord(transaction=2, milestones={"send_request": 0.1, "send_response": 0.9, "release": 1.0}),
        LogRecord(transaction=3, milestones={"send_request": 0.1, "release": 3.0}),
        LogRecord(transaction=4),
    ]

    def found(by: str) -> list[tuple[int, float]]:
        return [(each.record["transaction"], round(each.seconds, 6)) for each in slowest(records, 2, by=by)]

    assert found("total") == [(1, 5.0), (3, 3.0)]
    assert found("origin") == [(3, 2.9), (2, 0.8)]
    assert found("send_response..release") == [(1, 4.8), (2, 0.1)]
    for by, said in {"orign": "cannot measure", "remap..nope": "cannot measure", "remap": "remap..acquire_origin"}.items():
        with pytest.raises(ValueError, match=said):
            Slowest(1, by=by)


def test_busiest_clients_without_internal_requests() -> None:
    records = [
        record(1, client_address="a", response_bytes=5),
        record(2, client_address="b", status=500),
        record(3, client_address="b"),
        record(4, client_address="a", internal=True),
        record(5, client_address="a", internal=True),
    ]
    found = talkers(records, 5)
    assert [(each.client, each.transactions, each.errors, each.response_bytes, each.seconds) for each in found] == [
        ("b", 2, 1, 0, 2.0),
        ("a", 1, 0, 5, 1.0),
    ]
    assert len(talkers(records, 1)) == 1


def test_trees_of_two_runs_are_found_and_not_mixed() -> None:
    records = [
        record(6, root=5, parent=5, time=2.0),
        record(5, root=5, time=1.0),
        record(7, root=5, parent=5, time=12.0),
        record(5, root=5, time=11.0, seconds=9.0),
    ]
    # The number 7 belongs to the second run, which begins with the second 5: nothing shows it earlier, so it is in the first tree.
    roots = find_trees(lambda: records, where="root = 5")
    assert [[node.record["transaction"] for _, node in root.walk()] for root in roots] == [[5, 6, 7], [5]]
    assert [root.record["time"] for root in find_trees(lambda: records, slowest=1)] == ["1970-01-01T00:00:11.000000Z"]
    assert find_trees(lambda: records, where="transaction = 99") == []


def test_a_growing_log_is_followed_through_a_rotation(tmp_path: Path) -> None:
    log = tmp_path / "log"
    log.write_text(record(1).to_json() + "\n" + record(2).to_json()[:20])

    def complete() -> None:
        with log.open("a") as file:
            file.write(record(2).to_json()[20:] + "\n")

    def rotate() -> None:
        with log.open("a") as file:
            file.write(record(3).to_json() + "\n")
        log.rename(tmp_path / "log.1")
        log.write_text(record(4).to_json() + "\n")

    def shorten() -> None:
        log.write_text("")
        log.write_text(record(5).to_json()[:-20] + "\n")

    steps = [complete, rotate, shorten]
    reader = read_records(on_error="skip")
    found = []
    for fields in follow(log, reader, pause=lambda: steps.pop(0)() if steps else None):
        if fields is not None:
            found.append(fields["transaction"])
        elif not steps and reader.skipped:
            break
    assert found == [1, 2, 3, 4]
    assert reader.skipped_at[0].startswith(f"{log}, line 1: not JSON")


def test_counts_so_far_can_be_asked_at_any_time() -> None:
    counts = Counts()
    assert counts.summary().transactions == 0
    counts.add(0, record(1).as_dict())
    assert counts.summary().transactions == 1


def test_csv_has_a_column_for_each_value(tmp_path: Path) -> None:
    out = tmp_path / "out.csv"
    records = [record(1, url='a"b,\n\ud800', internal=True, plugin={"P": {"a": 1}}).as_dict()]
    assert convert(records, out) == 1
    with out.open(newline="") as file:
        (row,) = csv.DictReader(file)
    assert row["url"] == 'a"b,\n\\ud800'
    assert (row["milestones.release"], row["ended.why"], row["internal"], row["plugin"], row["tag"]) == (
        "1.0", "complete", "true", '{"P": {"a": 1}}', "",
    )  # fmt: skip


def test_a_file_that_cannot_be_written_whole_is_not_there(tmp_path: Path) -> None:
    def broken():
        yield record(1).as_dict()
        raise RuntimeError("broken")

    with pytest.raises(RuntimeError):
        convert(broken(), tmp_path / "out.csv")
    with pytest.raises(ValueError, match=r"expected a name that ends with \.parquet, \.csv, \.combined\.log"):
        convert([], tmp_path / "out.xlsx")
    with pytest.raises(ValueError, match="open_table"):
        convert([], tmp_path / "out.parquet")
    assert list(tmp_path.iterdir()) == []


def test_lines_of_web_servers(tmp_path: Path) -> None:
    out = tmp_path / "out.combined.log"
    assert convert([record(1, client_address="192.0.2.1", method="GET", url="/\x1b").as_dict()], out) == 1
    assert out.read_text() == '192.0.2.1 - - [01/Jan/1970:00:00:00 +0000] "GET /\\x1b HTTP/1.1" 200 - "-" "-"\n'


def test_tables_let_no_stranger_steer_the_terminal() -> None:
    assert text_table("t", ("a", "b"), [("\x1b[2J", 5)]) == "t\n  a        b\n  \\x1b[2J  5"
    assert text_table("t", ("a",), []) == "t: none"


def test_every_field_of_a_record_has_a_kind() -> None:
    assert [*LogRecord(tls_resumed=True).as_dict()] == [name for name in FIELDS if name in LogRecord(tls_resumed=True).as_dict()]
    assert set(FIELDS) == set(KINDS) | set(GROUPS)
    assert GROUPS["ended"][1] == ("by", "why", "state")
    assert GROUPS["milestones"][1] is not None
    assert GROUPS["deadline_left"][1] is not None
    assert GROUPS["request_headers"][1] is None
