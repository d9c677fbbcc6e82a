"""`tsconnect logtop`: print the slowest transactions, or the busiest clients."""

from __future__ import annotations

import json
import time
from collections.abc import Iterable, Sequence

import attrs

from trio_tsconnect._command._logs import clear_screen
from trio_tsconnect._command._say import CommandError
from trio_tsconnect._command._source import LogFiles, readable, refuse_if_no_log, tell_missing
from trio_tsconnect.logstats import Slow, Slowest, Talker, Talkers, follow, read_records, slowest, talkers, text_table

_EVERY = 1.0
_CLIENT = "client"
_FIELDS = ("transaction", "root", "status", "method", "url", "tag", "id", "time", "client_address", "origin_url")
_COLUMNS = (*_FIELDS, "milestones", "internal", "request_bytes", "response_bytes", "ended", "process")


def logtop(source: LogFiles, *, by: str, n: int, as_json: bool, live: bool) -> int:
    """Print the slowest transactions by their total time, by their time at the origin, or by the time between two milestones; or the
    client addresses with most transactions.
    """
    if n < 1:
        raise CommandError(f"-n {n}: expected at least 1")
    _check(by)
    if live:
        return _follow(source, by, n, as_json=as_json)
    with readable():
        if source.is_large():
            with source.table(_COLUMNS) as table:
                found: Sequence[Slow] | Sequence[Talker] = table.talkers(n) if by == _CLIENT else table.slowest(n, by=by)
                refuse_if_no_log(source.files, table, found)
                _print(found, by, as_json=as_json)
                tell_missing(table)
                return 0
        records = source.read()
        found = talkers(records, n) if by == _CLIENT else slowest(records, n, by=by)
    refuse_if_no_log(source.files, records, found)
    _print(found, by, as_json=as_json)
    tell_missing(records)
    return 0


def _check(by: str) -> None:
    if by != _CLIENT:
        try:
            Slowest(1, by=by)
        except ValueError as error:
            raise CommandError(f"--by: {error}, or client") from error


def _follow(source: LogFiles, by: str, n: int, *, as_json: bool) -> int:
    """Print them again while the log grows."""
    if len(source.files) != 1:
        raise CommandError(f"--follow reads one log, not {len(source.files)}")
    records = read_records(on_error="skip", where=source.where, since=source.since, until=source.until)
    clients, slow = Talkers(), Slowest(n, by="total" if by == _CLIENT else by)
    shown, new = 0.0, False
    with readable():
        for record in follow(source.files[0], records):
            if record is not None:
                clients.add(record) if by == _CLIENT else slow.add(records.run, record)
                new = True
            elif new and time.monotonic() - shown >= _EVERY:
                clear_screen()
                _print(clients.sorted(n) if by == _CLIENT else slow.sorted(), by, as_json=as_json)
                shown, new = time.monotonic(), False
    return 0


def _print(found: Iterable[Slow] | Iterable[Talker], by: str, *, as_json: bool) -> None:
    if as_json:
        print(json.dumps([_as_dict(each) for each in found], indent=2), flush=True)
        return
    rows = [_row(each) for each in found]
    if by == _CLIENT:
        print(
            text_table("clients by transactions", ("client", "transactions", "errors", "bytes in", "bytes out", "seconds"), rows),
            flush=True,
        )
    else:
        print(text_table(f"slowest by {by}, in ms", ("request", "ms", "status", "transaction", "root", "tag"), rows), flush=True)


def _as_dict(each: Slow | Talker) -> dict[str, object]:
    if isinstance(each, Talker):
        return attrs.asdict(each)
    return {"seconds": round(each.seconds, 6), "run": each.run, **{name: each.record.get(name) for name in _FIELDS}}


def _row(each: Slow | Talker) -> Sequence[object]:
    if isinstance(each, Talker):
        return (each.client, each.transactions, each.errors, each.request_bytes, each.response_bytes, f"{each.seconds:.1f}")
    record = each.record
    request = f"{record.get('method') or '-'} {record.get('url') or '-'}"
    return (
        request if len(request) <= 100 else request[:97] + "...",
        f"{1000 * each.seconds:.1f}",
        record.get("status") or "-",
        record.get("transaction"),
        record.get("root") or "-",
        record.get("tag") or "-",
    )
