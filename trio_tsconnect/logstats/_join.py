"""Join the proxy's log with a plugin's own log. Invariant: a field that was not set matches nothing."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any, TypeVar

from trio_tsconnect._util import public
from trio_tsconnect.log import LogRecord
from trio_tsconnect.logstats._read import AnyRecord, is_gap

Row = TypeVar("Row", bound=Mapping[str, Any])


@public("trio_tsconnect.logstats")
def join(records: Iterable[AnyRecord], rows: Iterable[Row], on: Sequence[str] = ("tag", "id")) -> Joined[Row]:
    """Return an iterator over pairs of a record and a row with the same values in the fields `on`, in the order of the records.

    Rows are held in memory, records are not. Values are compared as text, so the ``"42"`` of a CSV file matches the 42 of a record. A field
    that is absent or None, and an `id` of 0, matches nothing. The iterator counts what matched (`Joined`); it raises `ValueError` if a
    record has no field of such a name.
    """
    if isinstance(on, str) or not on:
        raise ValueError(f"on must be a sequence of field names, not {on!r}")
    by_key: defaultdict[tuple[str, ...], list[Row]] = defaultdict(list)
    total = without = 0
    for row in rows:
        total += 1
        if (key := _key(row, on)) is not None:
            by_key[key].append(row)
        else:
            without += 1
    return Joined(records, by_key, on, total, without)


@public("trio_tsconnect.logstats")
class Joined(Iterator[tuple[Mapping[str, Any], Row]]):
    """An iterator over the pairs of `join`. Its counts show why records or rows did not match; `to_text` returns them as a line."""

    def __init__(
        self, records: Iterable[AnyRecord], by_key: dict[tuple[str, ...], list[Row]], on: Sequence[str], rows: int, without: int
    ) -> None:
        self.rows: int = rows
        """The number of rows."""
        self.rows_without_key: int = without
        """The number of rows in which a field of the key is absent or None, or the `id` is 0."""
        self.records: int = 0
        """The number of records read so far."""
        self.records_without_key: int = 0
        """The number of records in which a field of the key is None, or the `id` is 0."""
        self.matched: int = 0
        """The number of records that matched at least one row."""
        self._on = tuple(on)
        self._by_key = by_key
        self._met: set[tuple[str, ...]] = set()
        self._pairs = self._match(records)

    @property
    def rows_unmatched(self) -> int:
        """The number of rows that have a key and have matched no record so far."""
        return self.rows - self.rows_without_key - sum(len(self._by_key[key]) for key in self._met)

    def to_text(self) -> str:
        """Return the counts of matches and of what did not match, as one line."""
        return (
            f"{self.matched} of {self.records} records matched a row by {', '.join(self._on)} ({self.records_without_key} have no key); "
            f"{self.rows_unmatched + self.rows_without_key} of {self.rows} rows matched no record ({self.rows_without_key} have no key)"
        )

    def __next__(self) -> tuple[Mapping[str, Any], Row]:
        return next(self._pairs)

    def _match(self, records: Iterable[AnyRecord]) -> Iterator[tuple[Mapping[str, Any], Row]]:
        for record in records:
            fields = record.as_dict() if isinstance(record, LogRecord) else record
            if is_gap(fields):
                continue
            for name in self._on:
                if name not in fields:
                    raise ValueError(f"a record has no field {name!r}")
            self.records += 1
            key = _key(fields, self._on)
            if key is None:
                self.records_without_key += 1
            elif found := self._by_key.get(key):
                self.matched += 1
                self._met.add(key)
                for row in found:
                    yield fields, row


def _key(fields: Mapping[str, Any], on: Sequence[str]) -> tuple[str, ...] | None:
    values = []
    for name in on:
        value = fields.get(name)
        if value is None or (name == "id" and str(value) == "0"):
            return None
        values.append(str(value))
    return tuple(values)
