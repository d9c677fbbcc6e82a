"""Expressions that select records."""

from __future__ import annotations

import contextlib
import json
from pathlib import Path
from tempfile import TemporaryDirectory

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.logstats._logs import RECORDS, costly, write
from trio_tsconnect.log import Ended, LogRecord
from trio_tsconnect.logstats import check_where, open_table, read_records

RECORD = LogRecord(
    time=1_800_000_000.0,
    transaction=1,
    tag="h2",
    status=503,
    milestones={"remap": 0.5},
    ended=Ended("origin", "origin_closed", "read_response"),
    plugin={"Gate": {"verdict": {"n": 3}, "ok": True}},
    request_headers={"x-a": "1"},
)


def selects(tmp_path: Path, text: str) -> bool:
    log = write(tmp_path / "log", [RECORD])
    return bool(list(read_records(log, where=text)))


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ('status >= 500 and tag = "h2"', True),
        ('status >= 500 and tag = "h1"', False),
        ('status < 500 or tag = "h2"', True),
        ("status = 1 or status = 503 and status = 2", False),
        ("(status = 1 or status = 503) and status = 503", True),
        ("not status = 503", False),
        ("not not status = 503", True),
        ("status in (500, 503)", True),
        ("status not in (500, 503)", False),
        ("status = null", False),
        ("stream = null", True),
        ("stream != 5", True),
        ("stream < 5", False),
        ("stream >= 5", False),
        ("milestones.remap = 0.5", True),
        ("milestones.release = null", True),
        ('ended.why = "origin_closed"', True),
        ("plugin.Gate.verdict.n >= 3", True),
        ('plugin.Gate.verdict.n = "3"', False),
        ("plugin.Gate.ok = true", True),
        ("plugin.Gate.ok = 1", False),
        ("plugin.None.ok = null", True),
        ('request_headers.x-a = "1"', True),
        ("internal = false", True),
        ('time >= "2027-01-15T08:00:00Z"', True),
        ('time > "2027-01-15T08:00:00"', False),
        ('time < "2027-01-15T10:00:00+02:00"', False),
        ('tag = "\\u0068\\u0032"', True),
        ("status>=503and status<=503", None),
        ("status>=503 and(status<=503)", True),
    ],
)
def test_an_expression_selects(text: str, expected: bool | None, tmp_path: Path) -> None:
    if expected is None:
        with pytest.raises(ValueError):
            check_where(text)
    else:
        assert selects(tmp_path, text) is expected


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("stauts = 5", "no field 'stauts'; the nearest are status, "),
        ("milestones.remp = 5", "no field 'milestones.remp'; the nearest"),
        ("milestones = 5", "no field 'milestones'"),
        ("plugin = 5", "no field 'plugin'"),
        ("status.x = 5", "no field 'status.x'"),
        ("status", "at the end of 'status'"),
        ("status =", "at the end of 'status ='"),
        ("status = h2", "not 'h2'"),
        ('status = "5"', 'status is a number, and is compared with "5"'),
        ("tag = 5", "tag is text, and is compared with 5"),
        ("internal = 1", "internal is true or false"),
        ("internal < true", "have an order"),
        ("status < null", "have an order"),
        ('time > "yesterday"', "time is a time such as"),
        ("status = 5 tag = 6", "expected and, or, or the end, not 'tag'"),
        ("(status = 5", "expected ')' at the end"),
        ("status in ()", "not ')'"),
        ("status not 5", "expected 'in', not '5'"),
        ("status = 'x'", "cannot read"),
        ("status = 1e999", "1e999 is too large"),
        ("", "at the end of ''"),
        ("and", "not 'and'"),
        ("(" * 200 + "status = 1" + ")" * 200, "more than 100 nested"),
    ],
)
def test_a_mistake_is_one_line_that_says_where(text: str, said: str) -> None:
    with pytest.raises(ValueError) as raised:
        check_where(text)
    assert said in str(raised.value)
    assert "\n" not in str(raised.value)


@given(st.text())
def test_any_text_is_an_expression_or_a_mistake(text: str) -> None:
    with contextlib.suppress(ValueError):
        check_where(text)


NUMBERS = st.sampled_from(["0", "1", "2", "3", "200", "404", "499.5", "-1", "1e3"])
TEXTS = st.sampled_from(["", "h2", "auth", "192.0.2.1", "complete", "a'b", "1", "true"]).map(json.dumps)
ORDERS = st.sampled_from(["=", "!=", "<", "<=", ">", ">="])
EQUALS = st.sampled_from(["=", "!="])
INTS = st.sampled_from(
    ["status", "stream", "transaction", "root", "origin_connection", "process", "milestones.remap", "deadline_left.release"]
)
WORDS = st.sampled_from(["tag", "client_address", "method", "url", "ended.why", "opened_by", "request_headers.x-a"])
ANY = st.sampled_from(["plugin.P.a", "plugin.P.a.b", "plugin.Q#2.b"])
TIMES = st.sampled_from(['"1970-01-01T00:00:00Z"', '"1999-12-31"', '"2100-01-01T00:00:00+05:00"'])
COMPARISONS = st.one_of(
    st.tuples(INTS, ORDERS, NUMBERS).map(" ".join),
    st.tuples(WORDS, ORDERS, TEXTS).map(" ".join),
    st.tuples(ANY, ORDERS, NUMBERS | TEXTS).map(" ".join),
    st.tuples(ANY, EQUALS, st.sampled_from(["true", "false", "null"])).map(" ".join),
    st.tuples(INTS | WORDS | ANY, EQUALS, st.just("null")).map(" ".join),
    st.tuples(st.sampled_from(["internal", "origin_reused", "tls_resumed"]), EQUALS, st.sampled_from(["true", "false", "null"])).map(
        " ".join
    ),
    st.tuples(st.just("time"), ORDERS, TIMES).map(" ".join),
    st.tuples(INTS, st.sampled_from(["in", "not in"]), st.lists(NUMBERS, min_size=1, max_size=3).map(", ".join)).map(
        lambda parts: f"{parts[0]} {parts[1]} ({parts[2]})"
    ),
)
EXPRESSIONS = st.recursive(
    COMPARISONS,
    lambda inner: st.one_of(
        inner.map(lambda text: f"not ({text})"),
        st.tuples(inner, st.sampled_from([" and ", " or "]), inner).map(lambda parts: f"({parts[0]}){parts[1]}{parts[2]}"),
    ),
    max_leaves=5,
)


@pytest.mark.needs("duckdb")
@costly
@given(st.lists(RECORDS, min_size=1, max_size=20), st.lists(EXPRESSIONS, min_size=1, max_size=8))
def test_sql_and_predicate_select_the_same_records(records: list[LogRecord], expressions: list[str]) -> None:
    for number, record in enumerate(records, 1):
        record.transaction = number
    with TemporaryDirectory() as folder:
        log = write(Path(folder, "log"), list(records))
        with open_table(log) as table:
            for text in expressions:
                one = [fields["transaction"] for fields in read_records(log, where=text)]
                assert [row["transaction"] for row in table.rows(f"SELECT transaction FROM records WHERE {sql_of(text)}")] == one, text


def sql_of(text: str) -> str:
    from trio_tsconnect.logstats._where import parse, to_sql

    return to_sql(parse(text))
