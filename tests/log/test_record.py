"""A record becomes one line of JSON, whatever is in it."""

from __future__ import annotations

import enum
import json
import math

import attrs
import pytest
from hypothesis import given
from hypothesis import strategies as st

from trio_tsconnect.log import Ended, LogRecord
from trio_tsconnect.log._json import line, line_with, plain_line

_NAMES = [
    "time",
    "session",
    "client_connection",
    "stream",
    "transaction",
    "parent",
    "root",
    "depth",
    "detached",
    "client_address",
    "client_protocol",
    "tag",
    "id",
    "internal",
    "method",
    "url",
    "origin_url",
    "remap_rule",
    "status",
    "origin_status",
    "request_bytes",
    "response_bytes",
    "origin_connection",
    "origin_reused",
    "attempts",
    "milestones",
    "ended",
    "plugin",
    "deadline_left",
    "process",
    "request_head_bytes",
    "response_head_bytes",
]

_anything = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(st.characters()) | st.binary() | st.complex_numbers(),
    lambda inner: st.lists(inner) | st.tuples(inner) | st.dictionaries(st.text() | st.integers() | st.binary() | st.floats(), inner),
    max_leaves=20,
)
_any_text = st.text(st.characters(min_codepoint=0, max_codepoint=0x10FFFF, categories=None)) | st.binary().map(
    lambda raw: raw.decode("latin-1")
)


class Unspeakable:
    def __repr__(self) -> str:
        raise RuntimeError("no")


def line_of(record: LogRecord) -> dict:
    line = record.to_json()
    assert line.isascii()
    assert line.splitlines() == [line]
    return json.loads(line, parse_constant=lambda name: pytest.fail(f"{name} is no JSON"))


def test_the_line_has_the_documented_fields_in_their_order():
    names = [field.name for field in attrs.fields(LogRecord)]
    assert names[: len(_NAMES)] == _NAMES == list(line_of(LogRecord()))
    full = {name: {} if name.endswith("_headers") else "x" for name in names[len(_NAMES) :]}
    assert list(line_of(LogRecord(**full))) == names


_numbers = st.integers() | st.integers(-(10**40), 10**40)
_KINDS = {
    "time": st.floats(),
    "ended": st.builds(Ended, _any_text, _any_text, _any_text),
    "plugin": st.dictionaries(st.text(), _anything, max_size=3),
    "milestones": st.dictionaries(_any_text, st.floats(0, 1e9) | st.floats() | st.integers(0, 10), max_size=4),
    "deadline_left": st.none() | st.dictionaries(_any_text, st.floats(), max_size=4),
    "request_headers": st.none() | st.dictionaries(_any_text, _any_text, max_size=3),
    "response_headers": st.none() | st.dictionaries(_any_text, _any_text, max_size=3),
}


def _values(kind: str, optional: bool) -> st.SearchStrategy:
    plain = {"int": _numbers, "bool": st.booleans(), "str": _any_text}[kind]
    return st.none() | plain if optional else plain


_records = st.builds(
    LogRecord,
    **_KINDS,
    **{
        field.name: _values(str(field.type).removesuffix(" | None"), str(field.type).endswith("None"))
        for field in attrs.fields(LogRecord)
        if field.name not in _KINDS
    },
)


@given(_records)
def test_the_template_and_the_plain_path_make_the_same_line(record: LogRecord) -> None:
    made = line(record)
    assert made == plain_line(record, record.request_headers, record.response_headers)
    assert made.decode("ascii").splitlines(keepends=True) == [made.decode()]
    json.loads(made, parse_constant=lambda name: pytest.fail(f"{name} is no JSON"))


@given(_records, st.none() | st.just({"a": "b"}))
def test_other_heads_take_the_place_of_the_records_own(record: LogRecord, heads: dict | None) -> None:
    made = line_with(record, heads, None)
    assert made == plain_line(record, heads, None)
    assert json.loads(made).get("request_headers") == heads
    assert "response_headers" not in json.loads(made)


def test_seconds_have_six_digits_and_the_line_no_spaces():
    made = line(LogRecord(milestones={"read_request": 0, "remap": 0.000012}, deadline_left={"remap": 1.5}))
    assert b'"milestones":{"read_request":0.000000,"remap":0.000012}' in made
    assert b'"deadline_left":{"remap":1.500000}' in made


def test_a_value_of_another_type_than_its_field_still_makes_a_line():
    record = LogRecord(session="x", url=5, status=[1], milestones=None)  # type: ignore[arg-type]
    record.ended = Ended(1, 2, 3)  # type: ignore[arg-type]
    fields = line_of(record)
    assert (fields["session"], fields["url"], fields["status"], fields["milestones"]) == ("x", 5, [1], None)


def test_what_is_absent_is_null():
    fields = line_of(LogRecord())
    absent = [
        "stream",
        "parent",
        "client_address",
        "tag",
        "method",
        "url",
        "origin_url",
        "remap_rule",
        "status",
        "origin_status",
        "origin_connection",
        "origin_reused",
        "deadline_left",
    ]
    assert [name for name, value in fields.items() if value is None] == absent


def test_the_line_says_what_the_record_says():
    record = LogRecord(
        time=1795380904.123456,
        tag="h2",
        id=-5,
        origin_reused=True,
        milestones={"read_request": 0.0000014, "release": 1.5},
        ended=Ended("origin", "refused", "acquire_origin"),
        plugin={"auth": {"verdict": ("yes", 1)}},
    )
    fields = line_of(record)
    assert fields["time"] == "2026-11-22T20:55:04.123456Z"
    assert (fields["tag"], fields["id"], fields["origin_reused"]) == ("h2", -5, True)
    assert fields["milestones"] == {"read_request": 0.000001, "release": 1.5}
    assert fields["ended"] == {"by": "origin", "why": "refused", "state": "acquire_origin"}
    assert fields["plugin"] == {"auth": {"verdict": ["yes", 1]}}


@given(_any_text, _any_text, _any_text)
def test_any_text_makes_one_line_that_reads_back(url, method, tag):
    fields = line_of(LogRecord(url=url, method=method, tag=tag))
    # A pair of surrogates is one character to JSON; nothing else changes.
    assert [fields[name].encode("utf-16", "surrogatepass") for name in ("url", "method", "tag")] == [
        text.encode("utf-16", "surrogatepass") for text in (url, method, tag)
    ]


@given(st.dictionaries(st.text(), _anything))
def test_anything_a_plugin_adds_makes_one_line(plugin):
    line_of(LogRecord(plugin=plugin))


def test_what_json_cannot_say_is_its_repr():
    colour = enum.Enum("colour", "RED")
    assert line_of(LogRecord(plugin={"p": [b"\n", colour.RED, {1}]}))["plugin"] == {"p": [repr(b"\n"), repr(colour.RED), "{1}"]}


def test_numbers_that_are_not_finite_are_null():
    record = LogRecord(time=math.nan, milestones={"a": math.inf, "b": 0.5}, plugin={"p": [math.nan, -math.inf, 1.5]})
    fields = line_of(record)
    assert fields["time"] is None
    assert fields["milestones"] == {"a": None, "b": 0.5}
    assert fields["plugin"] == {"p": [None, None, 1.5]}


@pytest.mark.parametrize("time", [math.inf, 1e300, -1e300, 1e12])
def test_a_time_outside_the_calendar_is_null(time):
    assert line_of(LogRecord(time=time))["time"] is None


@given(st.floats(min_value=0, max_value=4e9))
def test_the_time_carries_over_from_microseconds_to_seconds(time):
    text = line_of(LogRecord(time=time))["time"]
    assert len(text) == 27
    assert line_of(LogRecord(time=0.9999999))["time"] == "1970-01-01T00:00:01.000000Z"


def test_values_that_defeat_a_plain_encoder_are_described():
    cycle: list = []
    cycle.append(cycle)
    deep: list = []
    for _ in range(100_000):
        deep = [deep]
    plugin = {"cycle": cycle, "deep": deep, "dumb": Unspeakable(), "huge": 10**6000, ("a", 1): "key", Unspeakable(): "dumb key"}
    fields = line_of(LogRecord(plugin=plugin))["plugin"]
    assert fields["dumb"] == "<Unspeakable: repr failed with RuntimeError>"
    assert fields["huge"].startswith("<int")
    assert fields["('a', 1)"] == "key"
    del deep, plugin  # taken apart here, not somewhere in the next test


def test_a_record_shows_its_public_path():
    assert f"{LogRecord.__module__}.{LogRecord.__qualname__}" == "trio_tsconnect.log.LogRecord"
