"""Reading logs. The law: a line that is no record is never passed over without being counted or named."""

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
    """The records of some files, read as they are asked for, with the counts of what is missing among those read so far."""

    def __init__(self, paths: tuple[Path, ...], on_error: Literal["raise", "skip"]) -> None:
        self.dropped: int = 0
        """Records that the log says it had to drop."""
        self.skipped: int = 0
        """Lines that are no records; always 0 when such lines raise."""
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
    """The first field that is of no kind that a log has, of those that are counted, compared or followed."""
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
    """The records of JSON-lines logs, one file after another; ``-`` is standard input, and names in ``.gz`` are decompressed.

    A line that is no record raises `ValueError` with file and line, or is counted in ``.skipped``. The lines in which a log says how many
    records it dropped are no records: they are added up in ``.dropped``. Give rotated files oldest first.
    """
    if on_error not in ("raise", "skip"):
        raise ValueError(f"on_error must be 'raise' or 'skip', not {on_error!r}")
    return Records(paths, on_error)


def _open(name: str) -> AbstractContextManager[Iterable[bytes]]:
    if name == "-":
        return nullcontext(sys.stdin.buffer)
    return gzip.open(name, "rb") if name.endswith(".gz") else open(name, "rb")


def is_gap(fields: Mapping[str, Any]) -> bool:
    """Whether this is the line that stands for records which the log dropped."""
    return "transaction" not in fields and isinstance(fields.get("dropped"), int)


def of_each_run(records: Iterable[AnyRecord]) -> Iterator[tuple[int, Mapping[str, Any]]]:
    """Each record by its JSON names, with the number of the proxy's run it belongs to.

    Numbers are unique in a process, and a log is appended to when the proxy starts again: a transaction that is there a second time
    belongs to the next run.
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
