"""`tsconnect logtree`: print transactions and those that they caused, and where their time went."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from typing import Any

from trio_tsconnect._command._say import printable
from trio_tsconnect._command._source import LogFiles, readable, refuse_if_no_log, tell_missing
from trio_tsconnect.logstats import (
    AnyRecord,
    LogTable,
    Node,
    Records,
    critical_path,
    find_trees,
    states,
    text_table,
    tree,
    tree_data,
)

_SHORTEST = 0.00005


def logtree(source: LogFiles, *, selected: str | None, slowest: int | None, as_json: bool) -> int:
    """Print each root transaction and, indented below it, its children.

    With a selection, print only the trees that contain a selected transaction, the time that each transaction spent in each state, and the
    critical path: what the root waited for at each moment. A star marks the transactions on it.
    """
    parts = [part for part in (selected, source.where and f"({source.where})") if part]
    where = " and ".join(parts) or None
    detailed = bool(where or source.since or source.until or slowest is not None)
    with readable():
        roots, found = _trees(source, where, slowest, detailed)
    refuse_if_no_log(source.files, found, roots)
    for root in roots:
        if as_json:
            print(json.dumps(_as_json(root)))
        else:
            _print_tree(root, detailed=detailed)
    tell_missing(found)
    return 0


def _trees(source: LogFiles, where: str | None, slowest: int | None, detailed: bool) -> tuple[list[Node], Records | LogTable]:
    if not detailed:
        records = source.read()
        return tree(records), records
    if source.is_large():
        with source.table(all_of_it=True) as table:
            return table.trees(where=where, since=source.since, until=source.until, slowest=slowest), table
    last: list[Records] = []
    read: Callable[[], Any]
    if "-" in source.files:
        last.append(source.read(all_of_it=True))
        whole: list[tuple[int, AnyRecord]] = [(last[0].run, record) for record in last[0]]
        read = lambda: [record for _, record in whole]
    else:

        def read() -> Records:
            last[:] = [source.read(all_of_it=True)]
            return last[0]

    return find_trees(read, where=where, since=source.since, until=source.until, slowest=slowest), last[0]


def _as_json(root: Node) -> dict[str, Any]:
    path = [
        {"transaction": stretch.transaction, "state": stretch.state, "start": round(stretch.start, 6), "seconds": round(stretch.seconds, 6)}
        for stretch in critical_path(root)
    ]
    return tree_data(root) | {"critical_path": path}


def _print_tree(root: Node, *, detailed: bool) -> None:
    path = critical_path(root) if detailed else []
    on_path = {id(stretch.node) for stretch in path}
    for depth, node in root.walk():
        mark = "" if not detailed else "* " if id(node) in on_path else "- "
        print("  " * depth + mark + describe(node.record))
        if detailed and (times := _times(node)):
            print("  " * depth + "    " + times)
    if path:
        rows = [
            (f"#{stretch.transaction} {stretch.state}", f"{1000 * stretch.start:.1f}", f"{1000 * stretch.seconds:.1f}")
            for stretch in path
            if stretch.seconds >= _SHORTEST
        ]
        print(text_table("critical path, in ms", ("transaction and state", "from", "time"), rows))


def _times(node: Node) -> str:
    return printable(", ".join(f"{state.name} {1000 * state.seconds:.1f} ms" for state in states(node.record) if state.seconds))


def describe(record: Mapping[str, Any]) -> str:
    """Return a transaction as one line: number, request, status, duration, tag and id, and why it ended if it is not complete."""
    parts = [f"#{record.get('transaction')}", record.get("method") or "-", record.get("url") or "-", record.get("status") or "-"]
    milestones = record.get("milestones")
    if isinstance(milestones, Mapping) and milestones:
        parts.append(f"{1000 * max(milestones.values()):.1f} ms")
    if record.get("tag") or record.get("id"):
        parts.append(f"[{record.get('tag') or '-'} {record.get('id') or 0}]")
    if record.get("detached"):
        parts.append("detached")
    ended = record.get("ended")
    if isinstance(ended, Mapping) and ended.get("why") != "complete":
        parts.append(f"({ended.get('by')}: {ended.get('why')} in {ended.get('state')})")
    return printable(" ".join(map(str, parts)))
