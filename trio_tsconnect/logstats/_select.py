"""The trees of some transactions of a log. Invariant: a tree that is returned is whole, whatever selected it."""

from __future__ import annotations

import heapq
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping
from datetime import datetime
from typing import Any

from trio_tsconnect._util import public
from trio_tsconnect.logstats._path import duration
from trio_tsconnect.logstats._read import AnyRecord, is_gap, of_each_run, selection
from trio_tsconnect.logstats._tree import Node, tree
from trio_tsconnect.logstats._where import Predicate

_Key = tuple[int, int]


@public("trio_tsconnect.logstats")
def find_trees(
    read: Callable[[], Iterable[AnyRecord]],
    *,
    where: str | None = None,
    since: datetime | None = None,
    until: datetime | None = None,
    slowest: int | None = None,
) -> list[Node]:
    """Return the trees that contain a selected transaction, in the order in which they began. `read_records` says what is selected.

    With `slowest` only those are returned whose roots took the longest, the slowest first. `read` is called twice, and must return the
    records of the whole log both times; only the records of the trees are kept.
    """
    keys = _keys(read(), selection(where, since, until), slowest)
    parts: defaultdict[_Key, list[Mapping[str, Any]]] = defaultdict(list)
    for key, record in _keyed(read()):
        if key in keys:
            parts[key].append(record)
    return in_order([tree(parts[key]) for key in keys], slowest)


def in_order(trees: Iterable[list[Node]], slowest: int | None) -> list[Node]:
    """Return the roots of trees, in their order if that is the slowest first, or in the order in which they began."""
    roots = [root for part in trees for root in part]
    if slowest is not None:
        return roots
    return sorted(roots, key=lambda root: str(root.record.get("time") or ""))


def _keys(records: Iterable[AnyRecord], selects: Predicate | None, slowest: int | None) -> Mapping[_Key, float]:
    """Return which trees to return; with `slowest`, those that have a root in the log."""
    keys: dict[_Key, float] = {}
    roots: dict[_Key, float] = {}
    for key, record in _keyed(records):
        if selects is None or selects(record):
            keys[key] = 0.0
        if slowest is not None and record.get("parent") is None:
            roots[key] = duration(record)
        if slowest is not None and selects is None:
            keys.clear()
            if len(roots) > 2 * slowest + 1000:
                roots = _longest(roots, slowest)
    if slowest is None:
        return keys
    return _longest(roots if selects is None else {key: roots[key] for key in keys if key in roots}, slowest)


def _longest(roots: Mapping[_Key, float], n: int) -> dict[_Key, float]:
    return dict(heapq.nlargest(n, roots.items(), key=lambda item: item[1]))


def _keyed(records: Iterable[AnyRecord]) -> Iterator[tuple[_Key, Mapping[str, Any]]]:
    """Yield each record with its run and its root."""
    for run, record in of_each_run(records):
        if not is_gap(record):
            yield (run, record.get("root") or record.get("transaction") or 0), record
