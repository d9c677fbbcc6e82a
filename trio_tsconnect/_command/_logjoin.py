"""`tsconnect logjoin`, `logconvert` and `logsql`: join a log with another, write it in another form, print questions as SQL."""

from __future__ import annotations

import csv
import gzip
import io
import json
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any, TextIO

from trio_tsconnect._command._logtree import describe
from trio_tsconnect._command._say import CommandError, printable, say, why
from trio_tsconnect._command._source import LogFiles, readable, refuse_if_no_log, tell_missing
from trio_tsconnect.logstats import DIALECTS, QUESTIONS, Records, convert, join, sql


def logjoin(source: LogFiles, rows: str, *, on: str, as_json: bool) -> int:
    """Print each record together with each row of another log that has the same values in some fields: JSON lines, or CSV with a header.

    The last line, on standard error, says how many rows met a record, and why the others did not. The exit status is 1 if none did.
    """
    if rows == "-" and "-" in source.files:
        raise CommandError("only one of the logs can be standard input")
    records = source.read()
    with readable():
        try:
            joined = join(records, _rows(rows), [name.strip() for name in on.split(",")])
            for record, row in joined:
                print(json.dumps({"record": record, "row": row}) if as_json else f"{describe(record)} {_compact(row)}")
        except ValueError as error:
            raise CommandError(printable(f"--on {on}: {error}")) from error
    refuse_if_no_log(source.files, records, joined.records)
    tell_missing(records)
    say(joined.to_text())
    return 0 if joined.matched else 1


def _compact(row: Mapping[str, Any]) -> str:
    return json.dumps(row, separators=(",", ":"))


def _rows(name: str) -> Iterator[dict[str, Any]]:
    """Yield the rows of a plugin's log."""
    with _text(name) as file:
        if name.removesuffix(".gz").endswith(".csv"):
            yield from csv.DictReader(file)
            return
        for number, line in enumerate(file, 1):
            if not line.strip():
                continue
            try:
                row = json.loads(line)
            except (ValueError, RecursionError):
                row = None
            if not isinstance(row, dict):
                raise CommandError(f"{name}, line {number}: not a row, expected JSON lines, or a name that ends with .csv")
            yield row


@contextmanager
def _text(name: str) -> Iterator[TextIO]:
    if name == "-":
        yield io.TextIOWrapper(sys.stdin.buffer, encoding="utf-8", errors="replace", newline="")
    elif name.endswith(".gz"):
        with gzip.open(name, "rt", encoding="utf-8", errors="replace", newline="") as packed:
            yield packed
    else:
        with open(name, encoding="utf-8", errors="replace", newline="") as file:
            yield file


def logconvert(source: LogFiles, out: str) -> int:
    """Write the records of a log to a file in the form that the end of its name says: .parquet, .csv or .combined.log."""
    try:
        with readable():
            if out.endswith(".parquet"):
                with source.table() as table:
                    (found,) = table.rows("SELECT count(*) AS records FROM records")
                    refuse_if_no_log(source.files, table, found["records"])
                    count = convert(table, out)
                    tell_missing(table)
            else:
                records = source.read()
                count = convert(_of_a_log(records, source), out)
                tell_missing(records)
    except PermissionError as exc:
        raise CommandError(f"{out}: {why(exc)}") from exc
    except ValueError as error:
        raise CommandError(printable(error)) from error
    say(f"{out}: {count} records")
    return 0


def _of_a_log(records: Records, source: LogFiles) -> Iterator[dict[str, Any]]:
    """Yield the records. Raise at the end if there was no log to read, before the file takes its name."""
    found = False
    for record in records:
        found = True
        yield record
    refuse_if_no_log(source.files, records, found)


def logsql(question: str | None, *, dialect: str) -> int:
    """Print a question as SQL, in a dialect, or the names of all questions. It asks a table records that has the columns of the log, and
    run, which tells the runs of the proxy in one log apart: what logconvert writes as Parquet.
    """
    if question is None:
        print("\n".join(f"{name}: {sql(name).splitlines()[0].removeprefix('-- ')}" for name in QUESTIONS))
        return 0
    try:
        print(sql(question, dialect), end="")
    except (ValueError, ModuleNotFoundError) as error:
        raise CommandError(printable(error)) from error
    return 0


DIALECT_NAMES = DIALECTS
"""The dialects of `logsql`."""
