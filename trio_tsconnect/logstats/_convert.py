"""Write a log in another form. Invariant: the file under the name is whole, or it is not there."""

from __future__ import annotations

import csv
import json
import os
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager, suppress
from typing import Any, TextIO

from trio_tsconnect._util import public
from trio_tsconnect.log import combined
from trio_tsconnect.logstats._fields import FIELDS, GROUPS
from trio_tsconnect.logstats._read import Path
from trio_tsconnect.logstats._table import LogTable
from trio_tsconnect.logstats._where import literal

FORMS = (".parquet", ".csv", ".combined.log")
"""How the names of files end that can be written."""


@public("trio_tsconnect.logstats")
def convert(source: LogTable | Iterable[Mapping[str, Any]], path: Path) -> int:
    """Write records to a file whose name ends with ``.parquet``, ``.csv`` or ``.combined.log``, and return their number.

    Parquet needs a `LogTable`, and has its columns. CSV has a column for each value, such as ``milestones.remap``; what plugins wrote is
    JSON. Raises `ValueError` for another name.
    """
    name = os.fspath(path)
    if name.endswith(".parquet"):
        if not isinstance(source, LogTable):
            raise ValueError("Parquet is written from a table, see open_table")
        with _whole(name) as part:
            return _write_parquet(source, part)
    records = (fields for _, fields in source.records()) if isinstance(source, LogTable) else source
    if name.endswith(".csv"):
        with _whole(name) as part, open(part, "w", newline="", encoding="utf-8", errors="backslashreplace") as file:
            return _write_csv(records, file)
    if name.endswith(".combined.log"):
        with _whole(name) as part, open(part, "w", encoding="ascii") as file:
            return sum(bool(file.write(combined(record) + "\n")) for record in records)
    raise ValueError(f"{name}: cannot tell the form, expected a name that ends with {', '.join(FORMS)}")


def _write_parquet(table: LogTable, part: str) -> int:
    (count,) = table.rows(f"COPY (SELECT * FROM records) TO {literal(part)} (FORMAT parquet, COMPRESSION zstd)")
    return int(next(iter(count.values())))


def _write_csv(records: Iterable[Mapping[str, Any]], file: TextIO) -> int:
    columns = [(name, inner) for name in FIELDS for inner in (GROUPS[name][1] if name in GROUPS else None) or (None,)]
    writer = csv.writer(file)
    writer.writerow([name if inner is None else f"{name}.{inner}" for name, inner in columns])
    count = 0
    for record in records:
        writer.writerow([_cell(record, name, inner) for name, inner in columns])
        count += 1
    return count


def _cell(record: Mapping[str, Any], name: str, inner: str | None) -> object:
    value = record.get(name)
    if inner is not None:
        return value.get(inner) if isinstance(value, Mapping) else None
    if isinstance(value, bool):
        return str(value).lower()
    return json.dumps(value) if isinstance(value, dict | list) else value


@contextmanager
def _whole(name: str) -> Iterator[str]:
    """Yield the name of a file beside the one to write, which takes its place when it is complete."""
    part = f"{name}.part"
    try:
        yield part
        os.replace(part, name)
    except BaseException:
        with suppress(OSError):
            os.unlink(part)
        raise
