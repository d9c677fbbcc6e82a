"""Where the time of a request went."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.logstats._logs import SECONDS
from trio_tsconnect.log import LogRecord
from trio_tsconnect.logstats import critical_path, states, tree, tree_data

FULL = {"read_request": 0.0, "remap": 0.1, "send_request": 0.2, "send_response": 0.8, "release": 1.0}


def path_of(*records: LogRecord):
    (root,) = tree(records)
    return [(each.transaction, each.state, round(each.start, 6), round(each.seconds, 6)) for each in critical_path(root)]


def test_time_of_a_request_alone_is_that_of_its_states() -> None:
    assert path_of(LogRecord(transaction=1, milestones=FULL)) == [
        (1, "read_request", 0.0, 0.1),
        (1, "remap", 0.1, 0.1),
        (1, "send_request", 0.2, 0.6),
        (1, "send_response", 0.8, 0.2),
    ]
    assert [(each.name, round(each.seconds, 6)) for each in states({"milestones": FULL})][-1] == ("release", 0.0)


def test_time_in_which_a_child_was_waited_for_is_the_childs() -> None:
    child = LogRecord(transaction=2, parent=1, time=100.05, milestones={"read_request": 0.0, "remap": 0.01, "release": 0.1})
    assert path_of(LogRecord(transaction=1, time=100.0, milestones=FULL), child) == [
        (1, "read_request", 0.0, 0.05),
        (2, "read_request", 0.05, 0.01),
        (2, "remap", 0.06, 0.09),
        (1, "remap", 0.15, 0.05),
        (1, "send_request", 0.2, 0.6),
        (1, "send_response", 0.8, 0.2),
    ]


def test_of_children_side_by_side_the_last_to_end_is_on_the_path() -> None:
    root = LogRecord(transaction=1, time=100.0, milestones={"remap": 0.0, "release": 1.0})
    quick = LogRecord(transaction=2, parent=1, time=100.1, milestones={"remap": 0.0, "release": 0.3})
    slow = LogRecord(transaction=3, parent=1, time=100.2, milestones={"remap": 0.0, "release": 0.5})
    assert path_of(root, quick, slow) == [(1, "remap", 0.0, 0.2), (3, "remap", 0.2, 0.5), (1, "remap", 0.7, 0.3)]


def test_detached_children_are_not_waited_for() -> None:
    root = LogRecord(transaction=1, time=100.0, milestones={"remap": 0.0, "release": 1.0})
    child = LogRecord(transaction=2, parent=1, time=100.1, detached=True, milestones={"remap": 0.0, "release": 0.3})
    assert path_of(root, child) == [(1, "remap", 0.0, 1.0)]


def test_child_that_outlives_its_parent_is_not_waited_for_to_its_end() -> None:
    root = LogRecord(transaction=1, time=100.0, milestones={"remap": 0.0, "release": 1.0})
    child = LogRecord(transaction=2, parent=1, time=100.5, milestones={"remap": 0.0, "release": 3.0})
    assert path_of(root, child) == [(1, "remap", 0.0, 1.0)]


MILESTONES = st.dictionaries(st.sampled_from(["read_request", "remap", "release"]), SECONDS, max_size=3)


@given(
    st.lists(
        st.builds(
            LogRecord,
            time=st.integers(0, 5_000_000).map(lambda micros: 1000 + micros / 1_000_000),
            parent=st.integers(1, 6),
            milestones=MILESTONES,
            detached=st.booleans(),
        ),
        max_size=8,
    ),
    MILESTONES,
)
def test_stretches_follow_each_other_from_the_start_to_the_end(children: list[LogRecord], milestones: dict[str, float]) -> None:
    for number, child in enumerate(children, 2):
        child.transaction = number
    roots = tree([LogRecord(transaction=1, time=1002.0, milestones=milestones), *children])
    (root,) = [each for each in roots if each.record["transaction"] == 1]
    end = 0.0
    for stretch in critical_path(root):
        assert stretch.start == pytest.approx(end, abs=1e-6)
        assert stretch.seconds > 0
        end = stretch.start + stretch.seconds
    assert end == pytest.approx(max(milestones.values(), default=0.0), abs=1e-6)


def test_a_chain_deeper_than_the_stack_has_a_path() -> None:
    chain = [
        LogRecord(transaction=number, parent=number - 1 or None, time=100.0, milestones={"remap": 0.0, "release": 1.0})
        for number in range(1, 3000)
    ]
    (root,) = tree(chain)
    assert [each.transaction for each in critical_path(root)] == [2999]


def test_data_of_a_tree_marks_the_path() -> None:
    root = LogRecord(transaction=1, time=100.0, method="GET", url="/", milestones={"remap": 0.0, "release": 1.0})
    quick = LogRecord(transaction=2, parent=1, time=100.1, milestones={"remap": 0.0, "release": 0.3})
    slow = LogRecord(transaction=3, parent=1, time=100.2, milestones={"remap": 0.0, "release": 0.5})
    data = tree_data(tree([root, quick, slow])[0])
    assert data["label"] == "GET /"
    assert [(child["transaction"], child["critical"], child["start"]) for child in data["children"]] == [(2, False, 0.1), (3, True, 0.2)]
    assert data["children"][1]["states"] == [{"name": "remap", "start": 0.2, "seconds": 0.5}]
