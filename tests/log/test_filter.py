"""Filters: what they mean, the same for records and for lines that were read, and what a wrong one says."""

from __future__ import annotations

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from trio_tsconnect.log import FIELDS, Ended, FilterError, LogRecord, parse_filter

RECORD = LogRecord(
    time=784111777.25,
    status=502,
    tag="h2",
    url="http://site.test/admin",
    depth=1,
    detached=True,
    milestones={"remap": 0.5, "release": 2.0},
    ended=Ended("origin", "origin_timeout", "read_response"),
    plugin={"auth": {"user": "ann", "tries": 3, "list": [1]}},
    request_headers={"x-a.b": "1"},
)


@pytest.mark.parametrize(
    ("text", "result"),
    [
        ("status >= 500", True),
        ("status>=500 and tag='h2'", True),
        ('status = 502 and not tag = "h2"', False),
        ("status < 500 or depth = 1", True),
        ("status = 1 and status = 2 or depth = 1", True),
        ("status = 1 and (status = 2 or depth = 1)", False),
        ("not not detached", True),
        ("stream", False),
        ("stream = null", True),
        ("stream > 0", False),
        ("not stream > 0", True),
        ("stream != 1", True),
        ("500 <= status", True),
        ("status in (200, 502)", True),
        ("status not in (200, 502)", False),
        ('tag in ("a", "h2")', True),
        ('"admin" in url', True),
        ('"admin" not in url', False),
        ('"x" in user_agent', False),
        ("duration > 1.5", True),
        ("milestones.release - 1 = 1", None),
        ("milestones.release = 2", True),
        ("milestones.tunnel > 0", False),
        ("milestones.remap < milestones.release", True),
        ('ended.why = "origin_timeout"', True),
        ("internal = false", True),
        ("plugin.auth.tries > 2", True),
        ("plugin.auth.user > 2", False),
        ("plugin.auth.user", True),
        ("plugin.auth.list.x", False),
        ("plugin.none.user", False),
        ("request_headers.X-A.b = '1'", True),
        ('time >= "1994-11-06T08:49:37Z" and time < "1994-11-06T08:49:38+00:00"', True),
        ("id = -0 and id > -1e3", True),
        (r'tag = "h\"2"', False),
        ("true", True),
    ],
)
def test_a_filter_means_the_same_for_a_record_and_for_its_line(text: str, result: bool | None) -> None:
    if result is None:
        with pytest.raises(FilterError):
            parse_filter(text)
        return
    matches = parse_filter(text)
    assert matches(RECORD) is result
    assert matches(json.loads(RECORD.to_json())) is result


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("statsu = 1", 'position 1: there is no field statsu; did you mean "status"?'),
        ('ended.wy = "x"', 'position 1: there is no field ended.wy; did you mean "ended.why"?'),
        ("milestones.remp > 1", 'position 1: there is no field milestones.remp; did you mean "milestones.remap"?'),
        ("tag.x", "position 1: there is no field tag.x"),
        ('status >= "h2"', "position 11: this is text, expected a number"),
        ("tag = 2", "position 7: this is a number, expected text"),
        ("status in (1, 'x')", "position 15: this is text, expected a number"),
        ("detached < true", "position 10: < does not compare true with false, expected = or !="),
        ('ended = "x"', "position 1: a table has no value of its own, expected one of its members, such as ended.why"),
        ("5 in status", "position 1: in looks for text in text, or for a value in a list such as (200, 304)"),
        ('time > "never"', 'position 8: "never" is not a time, expected such as "2026-11-22T20:55:04Z"'),
        ("status = ", "position 9: the expression ends here, expected a field, text in quotes, or a number"),
        ("(status = 1", "position 12: the expression ends here, expected )"),
        ("status = 1)", "position 11: ) is not expected here, expected and, or, or the end"),
        ("status not = 1", "position 12: = is not expected here, expected in"),
        ("status in (1 2)", "position 14: 2 is not expected here, expected , or )"),
        ("status = $", "position 10: '$' is not expected here, expected a field, a value or an operator"),
        ('tag = "x', "position 7: '\"' is not expected here, expected a field, a value or an operator"),
        ("", "position 1: the expression ends here, expected a field, text in quotes, or a number"),
        ("and", "position 1: and is not expected here, expected a field, text in quotes, or a number"),
        ("(" * 60, "position 51: more than 50 levels of parentheses and not, expected fewer"),
    ],
)
def test_a_wrong_filter_names_the_place_and_what_is_near(text: str, message: str) -> None:
    with pytest.raises(FilterError) as caught:
        parse_filter(text)
    assert str(caught.value).startswith(message)
    assert message.startswith(f"position {caught.value.position}: ")


@given(
    st.text()
    | st.lists(
        st.sampled_from(
            ["status", "tag", '"x"', "5", "and", "or", "not", "in", "(", ")", ",", "=", ">=", "true", "null", "ended.why", "plugin.a"]
        )
    ).map(" ".join)
)
def test_any_text_is_a_filter_that_never_raises_or_an_error_with_a_place(text: str) -> None:
    position = 1
    try:
        matches = parse_filter(text)
    except FilterError as error:
        position = error.position
    else:
        assert {matches(record) for record in (RECORD, LogRecord(), RECORD.as_dict(), {})} <= {True, False}
    assert 1 <= position <= len(text) + 1


_atoms = st.sampled_from(["status >= 500", 'tag = "h2"', "depth = 0", "detached", "stream = null"])
_trees = st.recursive(
    _atoms, lambda inner: st.tuples(st.sampled_from(["and", "or"]), inner, inner) | st.tuples(st.just("not"), inner), max_leaves=8
)


def text_of(tree) -> str:
    if isinstance(tree, str):
        return tree
    return f"not ({text_of(tree[1])})" if tree[0] == "not" else f"({text_of(tree[1])}) {tree[0]} ({text_of(tree[2])})"


def truth_of(tree, record: LogRecord) -> bool:
    if isinstance(tree, str):
        return parse_filter(tree)(record)
    values = [truth_of(each, record) for each in tree[1:]]
    return {"and": all, "or": any, "not": lambda each: not each[0]}[tree[0]](values)


@given(_trees, st.none() | st.integers(100, 599), st.sampled_from([None, "h2"]), st.integers(0, 1), st.booleans())
def test_and_or_and_not_are_those_of_logic(tree, status, tag, depth: int, detached: bool) -> None:
    record = LogRecord(status=status, tag=tag, depth=depth, detached=detached)
    assert parse_filter(text_of(tree))(record) is truth_of(tree, record)


def test_every_field_that_is_no_table_can_be_compared() -> None:
    literal = {"text": "'x'", "time": "5", "whole number": "5", "number": "5.0", "true or false": "true"}
    for field in FIELDS:
        if field.kind != "table":
            assert parse_filter(f"{field.name} = {literal[field.kind]}")(LogRecord()) in (True, False)
