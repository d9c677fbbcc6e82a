"""The data of a report. Invariant: they are what `json.dumps` takes, with the same keys for every log."""

from __future__ import annotations

import os
from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Any

from trio_tsconnect._util import public
from trio_tsconnect.logstats._path import begin, critical_path, duration, states
from trio_tsconnect.logstats._read import Path
from trio_tsconnect.logstats._table import LogTable, iso, open_table
from trio_tsconnect.logstats._tree import Node, tree

_BUCKETS = 60
_WIDTHS = (1, 2, 5, 10, 15, 30, 60, 120, 300, 600, 900, 1800, 3600, 7200, 14400, 21600, 43200, 86400)
_MOST = 200


@public("trio_tsconnect.logstats")
def report_data(*logs: Path | LogTable, title: str | None = None, slowest: int = 10) -> dict[str, Any]:
    """Return what a report of logs shows, as a JSON-serializable dict. `logs` are files, or one table of `open_table`. Needs the extra
    ``logs``.
    """
    if len(logs) == 1 and isinstance(logs[0], LogTable):
        return _report(logs[0], title or "log", slowest)
    paths = [log for log in logs if not isinstance(log, LogTable)]
    if len(paths) != len(logs):
        raise TypeError("report_data takes files, or one table")
    with open_table(*paths) as table:
        return _report(table, title or ", ".join(os.path.basename(os.fspath(path)) for path in paths), slowest)


def _report(table: LogTable, title: str, slowest: int) -> dict[str, Any]:
    (totals,) = table.ask("totals")
    overall = next(iter(table.ask("by_all")), {"errors": 0, "request_bytes": 0, "response_bytes": 0})
    first, last = totals["first"], totals["last"]
    slow = _slowest(table, slowest)
    return {
        "title": title,
        "generated": f"{datetime.now(UTC):%Y-%m-%dT%H:%M:%SZ}",
        "span": ["", ""] if first is None else [iso(first), iso(last)],
        "totals": {
            **{name: int(totals[name] or 0) for name in ("transactions", "roots", "internal")},
            **{name: int(overall[name]) for name in ("errors", "request_bytes", "response_bytes")},
        },
        "connections": _integers(table.ask("connections")),
        "streams_histogram": _integers(table.ask("streams_histogram")),
        "latency_by_tag": [
            {"tag": row["name"], "count": row["transactions"]}
            | {name: row[name] for name in ("p50", "p90", "p99")}
            | {"max": row["longest"]}
            for row in table.ask("by_tag")[:_MOST]
            if row["p50"] is not None
        ],
        "over_time": _over_time(table, first, last),
        "statuses": [{"status": row["name"], "count": row["transactions"]} for row in table.ask("by_status")[:_MOST]],
        "causes": [{"by": row["party"], "why": row["why"], "count": row["transactions"]} for row in table.ask("causes")[:_MOST]],
        "slowest": [row for _, row in slow],
        "tree": _slowest_tree(table, slow),
    }


def _integers(rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    return [{name: value if isinstance(value, str) else int(value) for name, value in row.items()} for row in rows]


def _over_time(table: LogTable, first: datetime | None, last: datetime | None) -> list[dict[str, Any]]:
    if first is None or last is None:
        return []
    wanted = (last - first).total_seconds() / _BUCKETS
    width = next((width for width in _WIDTHS if width >= wanted), int(wanted) + 1)
    return [
        {
            "start": f"{datetime.fromtimestamp(row['moment'], UTC):%Y-%m-%dT%H:%M:%SZ}",
            "transactions": row["transactions"],
            "errors": int(row["errors"]),
            "p50": row["p50"] or 0.0,
            "p99": row["p99"] or 0.0,
        }
        for row in table.ask("over_time", width=width)
    ]


def _slowest(table: LogTable, n: int) -> list[tuple[int, dict[str, Any]]]:
    rows = table.rows(
        "SELECT run, transaction, root, method, url, status, tag, milestones.release AS seconds FROM records"
        f" WHERE milestones.release IS NOT NULL ORDER BY seconds DESC, run, transaction LIMIT {int(n)}"
    )
    found = []
    for row in rows:
        run, seconds = row.pop("run"), row.pop("seconds")
        row["root"] = row["root"] or row["transaction"]
        row["method"], row["url"] = row["method"] or "-", row["url"] or "-"
        found.append((run, row | {"seconds": seconds}))
    return found


def _slowest_tree(table: LogTable, slow: list[tuple[int, dict[str, Any]]]) -> dict[str, Any] | None:
    """Return the tree of the slowest transaction, from its root."""
    if not slow:
        return None
    run, row = slow[0]
    records = [fields for _, fields in table.records(f"run = {int(run)} AND coalesce(nullif(root, 0), transaction) = {int(row['root'])}")]
    roots = tree(records)
    holding = [root for root in roots if any(node.record.get("transaction") == row["transaction"] for _, node in root.walk())]
    return tree_data(holding[0]) if holding else None


@public("trio_tsconnect.logstats")
def tree_data(root: Node) -> dict[str, Any]:
    """Return a tree with the times of its states, in seconds from the start of the root, and with the critical path marked."""
    on_path = {id(stretch.node) for stretch in critical_path(root)}
    origin = begin(root.record)
    made: dict[int, dict[str, Any]] = {}
    for _, node in root.walk():
        made[id(node)] = _node_data(node, origin, id(node) in on_path)
    for _, node in root.walk():
        made[id(node)]["children"] = [made[id(child)] for child in node.children]
    return made[id(root)]


def _node_data(node: Node, origin: float | None, critical: bool) -> dict[str, Any]:
    record: Mapping[str, Any] = node.record
    at = begin(record)
    start = at - origin if at is not None and origin is not None else 0.0
    return {
        "transaction": record.get("transaction") or 0,
        "label": f"{record.get('method') or '-'} {record.get('url') or '-'}",
        "start": round(start, 6),
        "seconds": duration(record),
        "states": [
            {"name": state.name, "start": round(start + state.start, 6), "seconds": round(state.seconds, 6)}
            for state in states(record)
            if state.seconds
        ],
        "critical": critical,
        "children": [],
    }
