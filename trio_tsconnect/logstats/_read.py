"""Read logs. Invariant: a line that is not a record is either counted or named in an exception. Only empty lines are ignored."""

from __future__ import annotations

import gzip
import io
import json
import os
import sys
import zlib
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import AbstractContextManager, closing, nullcontext
from datetime import datetime
from functools import partial
from types import NoneType
from typing import Any, BinaryIO, Literal

from trio_tsconnect._util import public
from trio_tsconnect.log import LogRecord
from trio_tsconnect.logstats._columns import parquet_records
from trio_tsconnect.logstats._fields import GROUPS, KINDS, Kind
from trio_tsconnect.logstats._runs import Runs
from trio_tsconnect.logstats._where import Predicate, as_moment, parse, to_predicate

Path = str | os.PathLike[str]
AnyRecord = LogRecord | Mapping[str, Any]

MOST_PLACES = 20
"""How many bad lines are named. All are counted."""
_LINES_BETWEEN_REPORTS = 5000


@public("trio_tsconnect.logstats")
class Records(Iterator[dict[str, Any]]):
    """An iterator over the records of some files, which reads them line by line. It counts what is missing in the lines read so far."""

    def __init__(
        self,
        paths: tuple[Path, ...],
        on_error: Literal["raise", "skip"],
        selects: Predicate | None = None,
        progress: Callable[[int], None] | None = None,
    ) -> None:
        self.dropped: int = 0
        """The number of records that the log dropped, as it states itself."""
        self.skipped: int = 0
        """The number of lines that are not records; always 0 if `on_error` is "raise"."""
        self.skipped_at: list[str] = []
        """File, line and reason of the first of these lines."""
        self.run: int = 0
        """The number of the proxy's run that wrote the last record, counted from 0."""
        self._on_error = on_error
        self._selects = selects
        self._progress = progress
        self._runs = Runs()
        self._records = self._read(paths)

    def __next__(self) -> dict[str, Any]:
        return next(self._records)

    def take(self, line: bytes, name: str, number: int) -> Iterator[dict[str, Any]]:
        """Yield the record in a line if there is one that is selected. Count or refuse what is not a record."""
        for fields in self._record(line, name, number):
            self.run = self._runs.of(fields)
            if self._selects is None or self._selects(fields):
                yield fields

    def _read(self, paths: tuple[Path, ...]) -> Iterator[dict[str, Any]]:
        before = 0
        for path in paths:
            name = os.fspath(path)
            if name.endswith(".parquet"):
                yield from self._read_parquet(name)
                continue
            number = 0
            with _open(name) as (file, position):
                try:
                    for number, line in enumerate(file, 1):
                        yield from self.take(line, name, number)
                        if self._progress is not None and not number % _LINES_BETWEEN_REPORTS:
                            self._progress(before + position())
                except (EOFError, gzip.BadGzipFile, zlib.error) as error:
                    self._complain(name, number + 1, f"the compressed file is damaged: {error}")
                before += position()

    def _read_parquet(self, name: str) -> Iterator[dict[str, Any]]:
        for fields in parquet_records(name):
            self.run = self._runs.of(fields)
            if self._selects is None or self._selects(fields):
                yield fields

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
        elif fields.get("transaction") is None:
            self._complain(name, number, "not a log record: it has no field 'transaction'")
        elif odd := odd_field(fields):
            self._complain(name, number, f"not a log record: its field {odd!r} is {type(fields[odd]).__name__}")
        else:
            yield fields

    def _complain(self, name: str, number: int, what: str) -> None:
        complaint = f"{'standard input' if name == '-' else name}, line {number}: {what}"
        if self._on_error == "raise":
            raise ValueError(complaint)
        self.skipped += 1
        if len(self.skipped_at) < MOST_PLACES:
            self.skipped_at.append(complaint)


_TYPES: dict[Kind, tuple[type, ...]] = {
    Kind.INT: (int,),
    Kind.FLOAT: (int, float),
    Kind.TEXT: (str,),
    Kind.TIME: (str,),
    Kind.BOOL: (bool,),
}
_EXPECTED = {name: (*_TYPES[kind], NoneType) for name, kind in KINDS.items()}
_OBJECTS = tuple(GROUPS)


def odd_field(fields: Mapping[str, Any]) -> str | None:
    """Return the name of the first field whose type is wrong; None if all are valid. A field that a log does not have may be anything."""
    for name, value in fields.items():
        if name in _EXPECTED and type(value) not in _EXPECTED[name]:
            return name
    for name in _OBJECTS:
        if not isinstance(fields.get(name), dict | NoneType):
            return name
    milestones = fields.get("milestones")
    if milestones and not all(type(each) in (int, float) for each in milestones.values()):
        return "milestones"
    return None


@public("trio_tsconnect.logstats")
def read_records(
    *paths: Path,
    on_error: Literal["raise", "skip"] = "raise",
    where: str | None = None,
    since: datetime | None = None,
    until: datetime | None = None,
    progress: Callable[[int], None] | None = None,
) -> Records:
    """Return an iterator over the records of JSON-lines logs, one file after another.

    ``-`` is standard input. Files whose names end with ``.gz`` are decompressed. Those that end with ``.parquet`` are read with the extra
    ``logs``. Give rotated files oldest first.

    A line that is not a record raises `ValueError` with file and line; with `on_error="skip"` it is counted in ``.skipped``. A line that
    states how many records the log dropped is not returned: these numbers are added up in ``.dropped``.

    `where` selects records, for example ``status >= 500 and tag = "h2"``; `since` and `until` select by `time`, `until` excluded. Times
    without a zone are UTC. `progress` is called now and then with the number of bytes read, of all files together.
    """
    if on_error not in ("raise", "skip"):
        raise ValueError(f"on_error must be 'raise' or 'skip', not {on_error!r}")
    return Records(paths, on_error, selection(where, since, until), progress)


def selection(where: str | None, since: datetime | None, until: datetime | None) -> Predicate | None:
    """Return a function that says whether a record is selected; None if all are."""
    tests: list[Callable[[Any], bool]] = []
    if since is not None or until is not None:
        tests.append(_within(since, until))
    if where is not None:
        tests.append(to_predicate(parse(where)))
    return None if not tests else lambda record: all(test(record) for test in tests)


def _within(since: datetime | None, until: datetime | None) -> Callable[[Mapping[str, Any]], bool]:
    low, high = (as_moment(each.isoformat()) if each else None for each in (since, until))

    def within(fields: Mapping[str, Any]) -> bool:
        at = as_moment(fields.get("time"))
        return at is not None and (low is None or at >= low) and (high is None or at < high)

    return within


_Opened = tuple[Iterable[bytes], Callable[[], int]]


def _open(name: str) -> AbstractContextManager[_Opened]:
    """Open a file of lines. The second value returns how many bytes of the file have been read."""
    if name == "-":
        return nullcontext((sys.stdin.buffer, lambda: 0))
    raw = open(name, "rb")  # noqa: SIM115 - _Closing closes it
    if not name.endswith(".gz"):
        return _Closing((raw, partial(_position, raw)))
    # Read ahead in larger pieces than gzip does by itself.
    return _Closing((io.BufferedReader(gzip.GzipFile(fileobj=raw)), partial(_position, raw)), raw)


def _position(file: BinaryIO) -> int:
    return file.tell() if file.seekable() else 0


class _Closing(closing[Any]):
    """Closes an opened file and what it reads from."""

    def __init__(self, opened: _Opened, raw: Any = None) -> None:
        super().__init__(opened[0])
        self._opened = opened
        self._raw = raw

    def __enter__(self) -> _Opened:
        return self._opened

    def __exit__(self, *info: object) -> None:
        super().__exit__(*info)
        if self._raw is not None:
            self._raw.close()


def is_gap(fields: Mapping[str, Any]) -> bool:
    """Return True if this line states how many records the log dropped."""
    return "transaction" not in fields and isinstance(fields.get("dropped"), int)


def of_each_run(records: Iterable[AnyRecord]) -> Iterator[tuple[int, Mapping[str, Any]]]:
    """Yield each record as a mapping by JSON names, with the number of the proxy's run to which it belongs, counted from 0.

    `Records` knows the runs itself: it has seen the records that were not selected, too.
    """
    if isinstance(records, Records):
        for fields in records:
            yield records.run, fields
        return
    runs = Runs()
    for record in records:
        fields_of = record.as_dict() if isinstance(record, LogRecord) else record
        yield (0 if is_gap(fields_of) else runs.of(fields_of)), fields_of
