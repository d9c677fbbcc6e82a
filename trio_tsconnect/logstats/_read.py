"""Read logs. Invariant: a line that is not a record is either counted or named in an exception. Only empty lines are ignored."""

from __future__ import annotations

import gzip
import json
import os
import sys
import zlib
from collections.abc import Iterable, Iterator, Mapping
from contextlib import AbstractContextManager, nullcontext
from types import NoneType
from typing import Any, Literal

from trio_tsconnect._util import public
from trio_tsconnect.log import LogRecord

Path = str | os.PathLike[str]
AnyRecord = LogRecord | Mapping[str, Any]


@public("trio_tsconnect.logstats")
class Records(Iterator[dict[str, Any]]):
    """An iterator over the records of some files, which reads them line by line. It counts what is missing in the lines read so far."""

    def __init__(self, paths: tuple[Path, ...], on_error: Literal["raise", "skip"]) -> None:
        self.dropped: int = 0
        """The number of records that the log dropped, as it states itself."""
        self.skipped: int = 0
        """The number of lines that are not records; always 0 if `on_error` is "raise"."""
        self._on_error = on_error
        self._records = self._read(paths)

    def __next__(self) -> dict[str, Any]:
        return next(self._records)

    def _read(self, paths: tuple[Path, ...]) -> Iterator[dict[str, Any]]:
        for path in paths:
            name = os.fspath(path)
            number = 0
            with _open(name) as file:
                try:
                    for number, line in enumerate(file, 1):
                        yield from self._record(line, name, number)
                except (EOFError, gzip.BadGzipFile, zlib.error) as error:
                    self._complain(name, number + 1, f"the compressed file is damaged: {error}")

    def _record(self, line: bytes, name: str, number: int) -> Iterator[dict[str, Any]]:
        if not line.strip():
            return
        try:
            fields = json.loads(line.decode())
        except (ValueError, RecursionError) as error:
            self._complain(name, number, f"not JSON: {error}")
            return
        if not isinstance(fields, dict):
            self._complain(name, number, "not a JSON object")
        elif is_gap(fields):
            self.dropped += int(fields["dropped"])
        elif "transaction" not in fields:
            self._complain(name, number, "not a log record: it has no field 'transaction'")
        elif odd := _odd_field(fields):
            self._complain(name, number, f"not a log record: its field {odd!r} is {type(fields[odd]).__name__}")
        else:
            yield fields

    def _complain(self, name: str, number: int, what: str) -> None:
        if self._on_error == "raise":
            raise ValueError(f"{'standard input' if name == '-' else name}, line {number}: {what}")
        self.skipped += 1


_NUMBERS = ("session", "client_connection", "transaction", "parent", "root", "depth", "id", "stream", "status")
_TEXTS = ("time", "tag", "method", "url", "client_protocol")


def _odd_field(fields: Mapping[str, Any]) -> str | None:
    """Return the name of the first field whose type is wrong; None if all are valid. Checks only the fields that this package uses."""
    for name in _NUMBERS:
        if type(fields.get(name)) not in (int, NoneType):
            return name
    for name in _TEXTS:
        if type(fields.get(name)) not in (str, NoneType):
            return name
    milestones, ended = fields.get("milestones"), fields.get("ended")
    if milestones is not None and not (isinstance(milestones, dict) and all(type(each) in (int, float) for each in milestones.values())):
        return "milestones"
    return None if ended is None or isinstance(ended, dict) else "ended"


@public("trio_tsconnect.logstats")
def read_records(*paths: Path, on_error: Literal["raise", "skip"] = "raise") -> Records:
    """Return an iterator over the records of JSON-lines logs, one file after another.

    ``-`` is standard input. Files whose names end with ``.gz`` are decompressed. Give rotated files oldest first.

    A line that is not a record raises `ValueError` with file and line; with `on_error="skip"` it is counted in ``.skipped``. A line that
    states how many records the log dropped is not returned: these numbers are added up in ``.dropped``.
    """
    if on_error not in ("raise", "skip"):
        raise ValueError(f"on_error must be 'raise' or 'skip', not {on_error!r}")
    return Records(paths, on_error)


def _open(name: str) -> AbstractContextManager[Iterable[bytes]]:
    if name == "-":
        return nullcontext(sys.stdin.buffer)
    return gzip.open(name, "rb") if name.endswith(".gz") else open(name, "rb")


def is_gap(fields: Mapping[str, Any]) -> bool:
    """Return True if this line states how many records the log dropped."""
    return "transaction" not in fields and isinstance(fields.get("dropped"), int)


def of_each_run(records: Iterable[AnyRecord]) -> Iterator[tuple[int, Mapping[str, Any]]]:
    """Yield each record as a mapping by JSON names, with the number of the proxy's run to which it belongs, counted from 0.

    Transaction numbers are unique within a process, and a restarted proxy appends to the same log. So a transaction number that occurs a
    second time starts the next run.
    """
    run = 0
    seen: set[int] = set()
    for record in records:
        fields = record.as_dict() if isinstance(record, LogRecord) else record
        if transaction := fields.get("transaction"):
            if transaction in seen:
                run += 1
                seen.clear()
            seen.add(transaction)
        yield run, fields
