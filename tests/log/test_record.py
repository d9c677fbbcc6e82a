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
