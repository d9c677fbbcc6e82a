"""Samples: trees stay whole, failures are always kept, and the share is what was asked for."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from trio_tsconnect.log import Ended, FilterError, LogRecord, selection

FINE = Ended("proxy", "complete", "release")


def record(root: int, transaction: int = 1, *, status: int | None = 200, ended: Ended = FINE, process: int = 1) -> LogRecord:
    return LogRecord(root=root, transaction=transaction, status=status, ended=ended, process=process)


@given(st.floats(0, 0.999), st.integers(0, 1 << 40), st.integers(0, 1 << 22))
def test_a_tree_is_kept_or_left_out_whole(share: float, root: int, process: int) -> None:
    keeps = selection(None, share)
    assert keeps is not None
    assert len({keeps(record(root, root + child, process=process)) for child in range(5)}) == 1


@given(st.integers(0, 1 << 20), st.integers(1, 1 << 30))
def test_a_failure_is_kept_even_by_a_sample_of_nothing(process: int, root: int) -> None:
    keeps = selection(None, 0)
    assert keeps is not None
    assert not keeps(record(root, process=process))
    assert not keeps(record(root, process=process, ended=Ended("plugin", "responded", "send_response")))
    for failure in (record(root, status=404), record(root, status=None), record(root, ended=Ended("client", "client_gone", "remap"))):
        assert keeps(failure)


@pytest.mark.parametrize("share", [0.01, 0.25, 0.9])
@pytest.mark.parametrize("start", [1, 100_000])
def test_the_share_of_the_trees_is_what_was_asked_for(share: float, start: int) -> None:
    keeps = selection(None, share)
    assert keeps is not None
    kept = sum(keeps(record(root)) for root in range(start, start + 10_000))
    assert kept == pytest.approx(share * 10_000, abs=30)


def test_all_records_need_no_question() -> None:
    assert selection(None, 1.0) is None
    assert selection(None, None) is None


def test_a_filter_is_asked_first() -> None:
    keeps = selection("status >= 500", 0)
    assert keeps is not None
    assert keeps(record(1, status=503))
    assert not keeps(record(1, status=404))
    with pytest.raises(FilterError):
        selection("status >", 1)
