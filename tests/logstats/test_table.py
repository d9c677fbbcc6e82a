"""DuckDB counts what is counted line by line."""

from __future__ import annotations

import gzip
import io
import sys
import types
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import datetime
from pathlib import Path
from tempfile import TemporaryDirectory

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.logstats._logs import BAD, GAP, RECORDS, costly, write
from trio_tsconnect.log import LogRecord
from trio_tsconnect.logstats import (
    DIALECTS,
    LIGHT_COLUMNS,
    QUESTIONS,
    LogTable,
    Unreadable,
    _table,
    convert,
    find_trees,
    open_table,
    read_records,
    slowest,
    sql,
    summarize,
    talkers,
)

pytestmark = pytest.mark.needs("duckdb")
LINES = st.lists(RECORDS | RECORDS | RECORDS | st.sampled_from([*BAD, GAP, "", "  "]), max_size=30)


@contextmanager
def log_of(lines: list[LogRecord | str]) -> Iterator[Path]:
    with TemporaryDirectory() as folder:
        yield write(Path(folder, "log"), lines)


@costly
@given(LINES)
def test_both_ways_of_counting_agree(lines: list[LogRecord | str]) -> None:
    with log_of(lines) as log, open_table(log, columns=LIGHT_COLUMNS) as table:
        one, other = table.summary(), summarize(read_records(log, on_error="skip"))
        assert one.as_dict() == other.as_dict()
        assert one.to_text() == other.to_text()


@costly
@given(
    LINES,
    st.none() | st.sampled_from(["status >= 404", 'tag = "h2" and not milestones.remap > 1']),
    st.none() | st.just(datetime(1970, 1, 20)),
)
def test_both_ways_agree_on_a_selection(lines: list[LogRecord | str], where: str | None, since: datetime | None) -> None:
    with log_of(lines) as log, open_table(log, where=where, since=since, columns=LIGHT_COLUMNS) as table:
        other = summarize(read_records(log, on_error="skip", where=where, since=since))
        assert table.summary().as_dict() == other.as_dict()


@costly
@given(LINES, st.integers(1, 4), st.sampled_from(["total", "origin", "remap..send_response"]))
def test_both_ways_agree_on_the_slowest_and_the_busiest(lines: list[LogRecord | str], n: int, by: str) -> None:
    with log_of(lines) as log, open_table(log) as table:
        one, other = table.slowest(n, by=by), slowest(read_records(log, on_error="skip"), n, by=by)
        assert [(each.seconds, each.run) for each in one] == [(each.seconds, each.run) for each in other]
        ones, others = table.talkers(n), talkers(read_records(log, on_error="skip"), n)
        assert [each.client for each in ones] == [each.client for each in others]
        assert [each.errors for each in ones] == [each.errors for each in others]
        assert [each.seconds for each in ones] == pytest.approx([each.seconds for each in others])


@costly
@given(LINES, st.none() | st.sampled_from(["transaction = 3", "status >= 404"]), st.none() | st.integers(1, 20))
def test_both_ways_find_the_same_trees(lines: list[LogRecord | str], where: str | None, n: int | None) -> None:
    with log_of(lines) as log, open_table(log) as table:
        one = table.trees(where=where, slowest=n)
        other = find_trees(lambda: read_records(log, on_error="skip"), where=where, slowest=n)
        if n is None or n >= 12:  # of trees that took equally long, either may be shown
            assert sorted(map(numbers, one)) == sorted(map(numbers, other))
        assert len(one) == len(other) or n is not None


def test_slowest_trees_come_first(tmp_path: Path) -> None:
    times = {1: 1.0, 2: 3.0, 3: 2.0, 4: 0.5}
    log = write(tmp_path / "log", [LogRecord(transaction=n, root=n, milestones={"release": time}) for n, time in times.items()])
    with open_table(log) as table:
        assert [root.record["transaction"] for root in table.trees(slowest=3)] == [2, 3, 1]
    assert [root.record["transaction"] for root in find_trees(lambda: read_records(log), slowest=3)] == [2, 3, 1]


def numbers(root):
    return [(depth, node.record["transaction"], node.record["time"]) for depth, node in root.walk()]


@costly
@given(LINES)
def test_parquet_has_what_the_log_has(lines: list[LogRecord | str]) -> None:
    with log_of(lines) as log:
        out = f"{log}.parquet"
        with open_table(log) as table:
            count = convert(table, out)
        records = list(read_records(log, on_error="skip"))
        assert count == len(records)
        assert [without_surrogates(fields) for fields in read_records(out)] == [without_surrogates(fields) for fields in records]
        with open_table(out) as again:
            assert again.summary().groups == summarize(read_records(log, on_error="skip")).groups


def without_surrogates(fields):
    return {name: value for name, value in fields.items() if name not in ("url", "request_headers")} | {"milestones": fields["milestones"]}


def test_percentiles_of_very_many_records_are_near(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(_table, "_EXACT", 100)
    times = [n * n / 1_000_000 for n in range(1, 2001)]
    log = write(tmp_path / "log", [LogRecord(transaction=n, milestones={"release": time}) for n, time in enumerate(times, 1)])
    with open_table(log) as table:
        assert table.approximate
        (group,) = table.summary().groups["tag"]
        asked: list[str] = []
        monkeypatch.setattr(table, "rows", asked.append)
        table.ask("by_tag")
        assert "approx_quantile(milestones.release, 0.99)" in asked[0]
    assert (group.p50, group.p90, group.p99) == (pytest.approx(1.0, 0.05), pytest.approx(3.24, 0.05), pytest.approx(3.92, 0.05))


def test_bad_lines_are_named_with_file_line_and_reason(tmp_path: Path) -> None:
    first = write(tmp_path / "a", [LogRecord(transaction=1), "", "torn", GAP, "[1]"])
    second = tmp_path / "b.gz"
    second.write_bytes(gzip.compress(f"{LogRecord(transaction=2).to_json()}\n\n{{\n".encode()))
    with open_table(first, second) as table:
        assert (table.skipped, table.dropped) == (3, 3)
        assert [place.split(": ")[0] for place in table.skipped_at] == [f"{first}, line 3", f"{first}, line 5", f"{second}, line 3"]
        assert table.skipped_at[1].endswith("not a JSON object")
        assert table.rows("SELECT count(*) AS n FROM records") == [{"n": 2}]


def test_many_bad_lines_are_counted_and_some_are_named(tmp_path: Path) -> None:
    with open_table(write(tmp_path / "a", ["x"] * 50)) as table:
        assert table.skipped == 50
        assert len(table.skipped_at) == 20


def test_files_of_all_kinds_are_one_table(tmp_path: Path) -> None:
    plain = write(tmp_path / "a[1]*?.log", [LogRecord(transaction=1, tag="h2", plugin={"P": {"a": 1}}, milestones={"remap": 0.5})])
    with open_table(plain) as table:
        convert(table, tmp_path / "c.parquet")
    packed = tmp_path / "b.gz"
    packed.write_bytes(gzip.compress((LogRecord(transaction=2).to_json() + "\n").encode()))
    (tmp_path / "a11x.log").write_text("not this one")
    with open_table(plain, packed, tmp_path / "c.parquet") as table:
        assert table.skipped == 0
        assert [(run, fields["transaction"]) for run, fields in table.records()] == [(0, 1), (0, 2), (1, 1)]
    assert [fields["transaction"] for fields in read_records(plain, packed, tmp_path / "c.parquet")] == [1, 2, 1]


def test_questions_may_be_asked_while_records_are_read(tmp_path: Path) -> None:
    with open_table(write(tmp_path / "log", [LogRecord(transaction=n) for n in range(1, 2500)])) as table:
        seen = [fields["transaction"] for _, fields in table.records() if fields["transaction"] % 1000 or table.ask("totals")]
    assert len(seen) == 2499


def test_standard_input_is_a_table(monkeypatch: pytest.MonkeyPatch) -> None:
    content = LogRecord(transaction=1).to_json().encode() + b"\ntorn\n"
    monkeypatch.setattr(sys, "stdin", types.SimpleNamespace(buffer=io.BytesIO(content)))
    with open_table("-") as table:
        assert table.summary().transactions == 1
        assert table.skipped_at[0].startswith("standard input, line 2: ")


def test_a_damaged_compressed_file_is_unreadable(tmp_path: Path) -> None:
    path = tmp_path / "log.gz"
    path.write_bytes(gzip.compress(b"{}" * 1000)[:-20])
    with pytest.raises(Unreadable), open_table(path):
        pass
    with pytest.raises(FileNotFoundError), open_table(tmp_path / "none"):
        pass


def test_a_parquet_file_of_others_may_lack_columns_and_have_other_types(tmp_path: Path) -> None:
    out = tmp_path / "x.parquet"
    with open_table(write(tmp_path / "log", [])) as table:
        table.rows(
            f"COPY (SELECT 7::SMALLINT AS transaction, '2026-01-01T00:00:00Z' AS time, {{'release': 0.5::FLOAT, 'other': 1}} AS milestones,"
            f" {{'P': {{'a': 1}}}} AS plugin) TO '{out}' (FORMAT parquet)"
        )
    (fields,) = read_records(out)
    assert fields["transaction"] == 7
    assert fields["time"] == "2026-01-01T00:00:00.000000Z"
    assert fields["milestones"] == {"release": 0.5}
    assert fields["plugin"] == {"P": {"a": 1}}
    assert fields["tag"] is None


def test_runs_are_told_apart_by_process_and_by_numbers_that_come_again(tmp_path: Path) -> None:
    runs = [(1, 0), (2, 0), (1, 0), (5, 9), (6, 9), (2, 0), (5, 9), (9, 0)]
    log = write(tmp_path / "log", [LogRecord(transaction=number, process=process) for number, process in runs])
    expected = [0, 0, 1, 2, 2, 1, 3, 1]
    reader = read_records(log)
    assert [reader.run for _ in reader] == expected
    with open_table(log) as table:
        rows = table.rows("SELECT transaction, process, run FROM records")
        assert [row["run"] for row in rows] == expected


def test_many_runs_keep_the_order_of_the_log(tmp_path: Path) -> None:
    lines = [LogRecord(transaction=1, id=n, process=n % 3) for n in range(60)]
    with open_table(write(tmp_path / "log", list(lines))) as table:
        assert [(run, fields["id"]) for run, fields in table.records()] == [(n, n) for n in range(60)]


@pytest.mark.needs("sqlglot")
@pytest.mark.parametrize("dialect", DIALECTS)
@pytest.mark.parametrize("question", QUESTIONS)
def test_every_question_is_sql_of_every_dialect(question: str, dialect: str) -> None:
    import sqlglot

    text = sql(question, dialect)
    assert text.startswith("-- ")
    assert "$" not in text
    (statement,) = sqlglot.parse(text, read=dialect)
    assert statement is not None
    assert "quantile_disc" not in text.lower() or dialect == "duckdb"


@pytest.mark.needs("sqlglot")
def test_dialects_have_their_own_percentiles_and_nested_columns() -> None:
    assert "quantile(0.99)(milestones.release)" in sql("by_tag", "clickhouse")
    assert "APPROX_PERCENTILE(milestones.release, 0.99)" in sql("by_tag", "trino")
    assert "APPROX_QUANTILES(milestones.release, 100)[99]" in sql("by_tag", "bigquery")
    assert "APPROX_PERCENTILE(CAST(GET_PATH(milestones, 'release') AS DOUBLE), 0.99)" in sql("by_tag", "snowflake")


@pytest.mark.parametrize("question", QUESTIONS)
def test_every_question_can_be_asked(question: str, tmp_path: Path) -> None:
    with open_table(
        write(tmp_path / "log", [LogRecord(transaction=1, tag="h2", milestones={"send_request": 0.1, "release": 0.5})])
    ) as table:
        rows = table.ask(question)
    assert len(rows) == (0 if question in ("reuse", "internal") else 1)


def test_unknown_questions_and_dialects_are_named() -> None:
    with pytest.raises(ValueError, match="no question 'by_tga'; the nearest are by_tag"):
        sql("by_tga")
    with pytest.raises(ValueError, match="no dialect 'sprak'; the nearest is spark"):
        sql("by_tag", "sprak")


def test_progress_is_told_while_files_are_loaded(tmp_path: Path) -> None:
    seen: list[float] = []
    with open_table(write(tmp_path / "log", [LogRecord(transaction=n) for n in range(1, 2000)]), progress=seen.append) as table:
        assert isinstance(table, LogTable)
    assert all(0.0 <= part <= 1.0 for part in seen)
