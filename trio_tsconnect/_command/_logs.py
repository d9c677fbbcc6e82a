"""`tsconnect logstats`: print the counts of a log."""

from __future__ import annotations

import importlib
import json
import sys
import time

from trio_tsconnect import logstats as statistics
from trio_tsconnect._command._say import CommandError
from trio_tsconnect._command._source import LogFiles, no_log, readable, refuse_if_no_log, tell_missing
from trio_tsconnect.logstats import LIGHT_COLUMNS, Counts, Summary, Unreadable, follow, read_records, report_data, summarize

_EVERY = 2.0


def logstats(source: LogFiles, *, as_json: bool, html: str | None = None, live: bool = False) -> int:
    """Print the number of client connections per protocol, of HTTP/2 streams per client connection, of transactions per tag and status
    class, and of transactions per reason why they ended; then times, errors and bytes per tag, rule and origin, the reuse of origin
    connections, and the internal requests of plugins.
    """
    if html is not None:
        return _report(source, html)
    if live:
        return _follow(source, as_json=as_json)
    with readable():
        summary = _summary(source)
    if summary.skipped and not summary.transactions and not summary.dropped:
        raise CommandError(no_log(source.files, summary.skipped))
    _print(summary, as_json=as_json)
    return 0


def _summary(source: LogFiles) -> Summary:
    if source.is_large():
        try:
            with source.table(LIGHT_COLUMNS) as table:
                return table.summary()
        except Unreadable:
            if any(name.endswith(".parquet") for name in source.files):
                raise
    return summarize(source.read())


def _print(summary: Summary, *, as_json: bool) -> None:
    print(json.dumps(summary.as_dict(), indent=2) if as_json else summary.to_text(), flush=True)


def _follow(source: LogFiles, *, as_json: bool) -> int:
    """Print the counts again while the log grows."""
    if len(source.files) != 1:
        raise CommandError(f"--follow reads one log, not {len(source.files)}")
    records = read_records(on_error="skip", where=source.where, since=source.since, until=source.until)
    counts, shown, new = Counts(), time.monotonic(), False
    with readable():
        for record in follow(source.files[0], records):
            if record is not None:
                counts.add(records.run, record)
                new = True
            elif new and time.monotonic() - shown >= _EVERY:
                clear_screen()
                _print(counts.summary(records), as_json=as_json)
                shown, new = time.monotonic(), False
    return 0


def clear_screen() -> None:
    """Clear the terminal, if there is one; else what follows is one more block."""
    print("\x1b[H\x1b[2J" if sys.stdout.isatty() else "", end="" if sys.stdout.isatty() else "\n")


def _report(source: LogFiles, path: str) -> int:
    try:
        write = importlib.import_module(f"{statistics.__name__}._report").write_report
    except ModuleNotFoundError as missing:
        raise CommandError("--html: this version has no HTML report") from missing
    with readable(), source.table() as table:
        data = report_data(table, title=", ".join(source.files))
        refuse_if_no_log(source.files, table, data["totals"]["transactions"])
        tell_missing(table)
    try:
        write(path, data)
    except OSError as exc:
        raise CommandError(f"{path}: {exc.strerror or exc}, cannot write the report") from exc
    return 0
