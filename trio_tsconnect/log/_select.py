"""Which records a log keeps. Invariant: whether a record is in the sample depends on its tree alone, so a tree is kept or left out whole.

Records of failures are kept in any case.
"""

from __future__ import annotations

from collections.abc import Callable

from trio_tsconnect._util import public
from trio_tsconnect.log._fields import COMPLETE
from trio_tsconnect.log._filter import parse_filter
from trio_tsconnect.log._record import LogRecord

_SPAN = 0x1_0000_0000_0000_0000
_GOLDEN = 0x9E3779B97F4A7C15  # 2**64 divided by the golden ratio: the multiples of it are spread evenly over the whole range


@public("trio_tsconnect.log")
def selection(text: str | None, sample: float | None) -> Callable[[LogRecord], bool] | None:
    """Return what tells whether a log keeps a record; None if it keeps all. Raises `FilterError`.

    `text` is a filter, and `sample` the share of the trees that is kept.
    """
    matches = None if text is None else parse_filter(text)
    if sample is None or sample >= 1:
        return matches
    limit = int(sample * _SPAN)

    def sampled(record: LogRecord) -> bool:
        return is_failure(record) or spread(record.root, record.process) < limit

    if matches is None:
        return sampled
    return lambda record: matches(record) and sampled(record)


def is_failure(record: LogRecord) -> bool:
    """Return True for a status of 400 or more, for no status, and for a transaction that something ended early."""
    return record.status is None or record.status >= 400 or record.ended.why not in COMPLETE


def spread(root: int, process: int) -> int:
    """Return a number of 64 bits for a tree. Numbers in sequence are spread evenly."""
    return (root * _GOLDEN + (process * _GOLDEN >> 7)) % _SPAN
