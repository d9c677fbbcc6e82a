"""Joining the log with a plugin's own. The law: what was not set matches nothing."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any, TypeVar

from trio_tsconnect._util import public
from trio_tsconnect.log import LogRecord
from trio_tsconnect.logstats._read import AnyRecord, is_gap

Row = TypeVar("Row", bound=Mapping[str, Any])


@public("trio_tsconnect.logstats")
def join(records: Iterable[AnyRecord], rows: Iterable[Row], on: Sequence[str] = ("tag", "id")) -> Iterator[tuple[Mapping[str, Any], Row]]:
    """Each record with each row that has the same values in the fields named by `on`, in the order of the records.

    Rows are held in memory, records are not. Values are compared as text, so that the ``"42"`` of a CSV file matches the 42 of a record. A field
    that is absent or None, and an `id` of 0, matches nothing. `ValueError` when a record has no field of such a name.
    """
    if isinstance(on, str) or not on:
        raise ValueError(f"on must be a sequence of field names, not {on!r}")
    by_key: defaultdict[tuple[str, ...], list[Row]] = defaultdict(list)
    for row in rows:
        if (key := _key(row, on)) is not None:
            by_key[key].append(row)
    return _matches(records, by_key, on)


def _matches(
    records: Iterable[AnyRecord], by_key: Mapping[tuple[str, ...], list[Row]], on: Sequence[str]
) -> Iterator[tuple[Mapping[str, Any], Row]]:
    for record in records:
        fields = record.as_dict() if isinstance(record, LogRecord) else record
        if is_gap(fields):
            continue
        for name in on:
            if name not in fields:
                raise ValueError(f"a record has no field {name!r}")
        key = _key(fields, on)
        if key is not None:
            for row in by_key.get(key, ()):
                yield fields, row


def _key(fields: Mapping[str, Any], on: Sequence[str]) -> tuple[str, ...] | None:
    values = []
    for name in on:
        value = fields.get(name)
        if value is None or (name == "id" and str(value) == "0"):
            return None
        values.append(str(value))
    return tuple(values)
