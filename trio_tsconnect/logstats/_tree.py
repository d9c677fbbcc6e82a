"""Which transaction caused which. The law: every record is in the tree exactly once, whatever is missing from the log."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from typing import Any

import attrs

from trio_tsconnect._util import public
from trio_tsconnect.logstats._read import AnyRecord, is_gap, of_each_run


@public("trio_tsconnect.logstats")
@attrs.define(eq=False)
class Node:
    """A transaction, and those that it caused."""

    record: Mapping[str, Any]
    """The record, by its JSON names."""
    children: list[Node] = attrs.Factory(list)
    """What it caused, in the order in which it began, detached transactions included."""

    def walk(self) -> Iterator[tuple[int, Node]]:
        """This node and all below it, each before its children, with how far below it is."""
        waiting = [(0, self)]
        while waiting:
            depth, node = waiting.pop()
            yield depth, node
            waiting.extend((depth + 1, child) for child in reversed(node.children))


@public("trio_tsconnect.logstats")
def tree(records: Iterable[AnyRecord]) -> list[Node]:
    """The roots of the transactions in `records`, in the order in which they began.

    A transaction whose parent is not in the log (still alive, dropped, or rotated away) stands as a root.
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
    """ISO times of one format sort as text; a transaction's number settles what began in the same microsecond."""
    return str(node.record.get("time") or ""), node.record.get("transaction") or 0


def _descends(node: Node, ancestor: Node, parents: Mapping[Node, Node]) -> bool:
    """No proxy writes a log in which this is true; but anyone may have edited one."""
    above: Node | None = node
    while above is not None:
        if above is ancestor:
            return True
        above = parents.get(above)
    return False
