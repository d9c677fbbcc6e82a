"""Which transaction caused which, and which row of another log belongs to it."""

from __future__ import annotations

import csv
import io

import pytest
from hypothesis import given
from hypothesis import strategies as st

from trio_tsconnect.log import LogRecord
from trio_tsconnect.logstats import join, tree


def shape(nodes):
    return [(node.record["transaction"], shape(node.children)) for node in nodes]


def test_children_stand_below_their_parent_in_the_order_in_which_they_began():
    records = [
        LogRecord(transaction=3, parent=1, root=1, depth=1, time=30.0),
        LogRecord(transaction=4, parent=2, root=1, depth=2, time=40.0),
        LogRecord(transaction=2, parent=1, root=1, depth=1, time=20.0),
        LogRecord(transaction=1, root=1, time=10.0),
        LogRecord(transaction=5, root=5, time=5.0),
    ]
    (first, second) = roots = tree(records)
    assert shape(roots) == [(5, []), (1, [(2, [(4, [])]), (3, [])])]
    assert [(depth, node.record["transaction"]) for depth, node in second.walk()] == [(0, 1), (1, 2), (2, 4), (1, 3)]
    assert [depth for depth, _ in first.walk()] == [0]


def test_a_transaction_whose_parent_is_not_in_the_log_is_a_root():
    assert shape(tree([LogRecord(transaction=2, parent=1)])) == [(2, [])]


def test_equal_numbers_of_two_runs_are_not_mixed():
    run = [LogRecord(transaction=1, time=1.0), LogRecord(transaction=2, parent=1, time=2.0)]
    later = [LogRecord(transaction=1, time=3.0), LogRecord(transaction=2, parent=1, time=4.0)]
    assert shape(tree(run + later)) == [(1, [(2, [])]), (1, [(2, [])])]


def test_a_chain_deeper_than_the_stack_is_walked():
    chain = [LogRecord(transaction=number, parent=number - 1 or None) for number in range(1, 3000)]
    assert max(depth for depth, _ in tree(chain)[0].walk()) == 2998


@given(st.lists(st.tuples(st.integers(1, 6), st.none() | st.integers(1, 6)), max_size=12))
def test_every_record_is_in_the_tree_once_whatever_the_log_says(links):
    records = [LogRecord(transaction=number, parent=parent).as_dict() for number, parent in links]
    found = [id(node.record) for root in tree(records) for _, node in root.walk()]
    assert sorted(found) == sorted(map(id, records))


def test_rows_of_a_plugins_own_log_meet_their_records():
    records = [LogRecord(tag="auth", id=1), LogRecord(tag="auth", id=2), LogRecord(tag="h2", id=1)]
    rows = list(csv.DictReader(io.StringIO("tag,id,verdict\nauth,1,yes\nauth,1,again\nauth,3,no\n")))
    assert [(record["id"], row["verdict"]) for record, row in join(records, rows)] == [(1, "yes"), (1, "again")]


def test_what_was_not_set_matches_nothing():
    assert list(join([LogRecord(), LogRecord(tag="a"), LogRecord(id=1)], [{"tag": None, "id": 0}, {"tag": "a", "id": 0}, {"id": 1}])) == []


def test_joins_on_other_fields():
    assert [row["x"] for _, row in join([{"transaction": 5}], [{"transaction": 5, "x": "y"}], on=("transaction",))] == ["y"]


def test_a_field_that_no_record_has_is_named():
    with pytest.raises(ValueError, match="'tga'"):
        list(join([LogRecord()], [], on=("tga",)))
    with pytest.raises(ValueError, match="sequence"):
        join([], [], on="tag")


def test_lines_about_dropped_records_are_no_part_of_a_tree_or_a_join():
    gap = {"dropped": 1, "time": None}
    assert tree([gap]) == []
    assert list(join([gap], [{"tag": "a", "id": 1}])) == []


def test_join_that_meets_few_rows_says_how_many_and_why():
    records = [LogRecord(transaction=1, tag="h2", id=1), LogRecord(transaction=2, tag="h2", id=2), LogRecord(transaction=3)]
    rows = [{"tag": "h2", "id": "1"}, {"tag": "h2", "id": "9"}, {"tag": "h2", "id": "0"}, {"id": 5}]
    joined = join(records, rows)
    assert [row["id"] for _, row in joined] == ["1"]
    assert (joined.records, joined.matched, joined.records_without_key) == (3, 1, 1)
    assert (joined.rows, joined.rows_unmatched, joined.rows_without_key) == (4, 1, 2)
    assert joined.to_text() == ("1 of 3 records matched a row by tag, id (1 have no key); 3 of 4 rows matched no record (2 have no key)")
