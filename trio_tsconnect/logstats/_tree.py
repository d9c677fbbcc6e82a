"""Trees of transactions and their children. Invariant: every record is in the tree exactly once, even if other records are missing."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from typing import Any

import attrs

from trio_tsconnect._util import public
from trio_tsconnect.logstats._read import AnyRecord, is_gap, of_each_run


@public("trio_tsconnect.logstats")
@attrs.define(eq=False)
class Node:
    """A transaction and its children."""

    record: Mapping[str, Any]
    """The record, by its JSON names."""
    children: list[Node] = attrs.Factory(list)
    """The children, detached ones included, in the order in which they began."""

    def walk(self) -> Iterator[tuple[int, Node]]:
        """Yield this node and all its descendants with their depth, each node before its children. The depth of this node is 0."""
        waiting = [(0, self)]
        while waiting:
            depth, node = waiting.pop()
            yield depth, node
            waiting.extend((depth + 1, child) for child in reversed(node.children))


@public("trio_tsconnect.logstats")
def tree(records: Iterable[AnyRecord]) -> list[Node]:
    """Return the root transactions of `records`, in the order in which they began.

    A transaction whose parent is not in the log (still active, dropped, or rotated away) is a root.
    """
    nodes: list[tuple[int, Node]] = [(run, Node(fields)) for run, fields in of_each_run(records) if not is_gap(fields)]
    by_number = {(run, node.record.get("transaction")): node for run, node in nodes}
    roots: list[Node] = []
    parents: dict[Node, Node] = {}
    for run, node in sorted(nodes, key=lambda item: _began(item[1])):
        parent = by_number.get((run, node.record.get("parent"))) if node.record.get("parent") else None
        if parent is None or _descends(parent, node, parents):
            roots.append(node)
        else:
            parents[node] = parent
            parent.children.append(node)
    return roots


def _began(node: Node) -> tuple[str, int]:
    """Return a sort key. ISO times in one format sort as text; transactions that began in the same microsecond sort by number."""
    return str(node.record.get("time") or ""), node.record.get("transaction") or 0


def _descends(node: Node, ancestor: Node, parents: Mapping[Node, Node]) -> bool:
    """Return True if `node` is `ancestor` or one of its descendants.

    The proxy never writes such a cycle. An edited log may contain one: without this check its records would be in no tree.
    """
    above: Node | None = node
    while above is not None:
        if above is ancestor:
            return True
        above = parents.get(above)
    return False
