"""`tsconnect logstats` and `tsconnect logtree`: print the results of `trio_tsconnect.logstats`."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

from trio_tsconnect._command._say import CommandError, printable, say, why
from trio_tsconnect.logstats import Node, read_records, summarize, tree


def logstats(files: Sequence[str], *, as_json: bool) -> int:
    """Print the number of client connections per protocol, of HTTP/2 streams per client connection, of transactions per tag and status
    class, and of transactions per reason why they ended.
    """
    with _readable():
        summary = summarize(read_records(*files, on_error="skip"))
    if summary.skipped and not summary.transactions:
        raise CommandError(_no_log(files, summary.skipped))
    print(json.dumps(summary.as_dict(), indent=2) if as_json else summary.to_text())
    return 0


def logtree(files: Sequence[str]) -> int:
    """Print each root transaction and, indented below it, its children."""
    records = read_records(*files, on_error="skip")
    with _readable():
        roots = tree(records)
    if records.skipped and not roots:
        raise CommandError(_no_log(files, records.skipped))
    for root in roots:
        for depth, node in root.walk():
            print("  " * depth + _describe(node))
    if records.dropped:
        say(f"records dropped by the log, not counted above: {records.dropped}")
    if records.skipped:
        say(f"lines that are not records: {records.skipped}")
    return 0


@contextmanager
def _readable() -> Iterator[None]:
    # A log that is being written may end in the middle of a line. So invalid lines are counted and do not raise.
    try:
        yield
    except OSError as exc:
        raise CommandError(f"{exc.filename or 'standard input'}: {why(exc)}, expected a log of JSON lines") from exc


def _no_log(files: Sequence[str], lines: int) -> str:
    return f"{', '.join(files)}: not a log: none of its {lines} lines is a record, expected JSON lines"


def _describe(node: Node) -> str:
    """Return a transaction as one line: number, request, status, duration, tag and id, and why it ended if it is not complete."""
    record: Mapping[str, Any] = node.record
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
