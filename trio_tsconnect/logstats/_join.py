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
def join(records: Iterable[AnyRecord], rows: Iterable[Row], on: Sequence[str] = ("tag", "id")) -> Joined[Row]:
    """Each record with each row that has the same values in the fields named by `on`, in the order of the records; counted (`Joined`).

    Rows are held in memory, records are not. Values are compared as text, so that the ``"42"`` of a CSV file matches the 42 of a record. A field
    that is absent or None, and an `id` of 0, matches nothing. `ValueError` when a record has no field of such a name.
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
    """The pairs of `join`, as they are asked for, with the counts that tell why there are few; `to_text` says them in a line."""

    def __init__(
        self, records: Iterable[AnyRecord], by_key: dict[tuple[str, ...], list[Row]], on: Sequence[str], rows: int, without: int
    ) -> None:
        self.rows: int = rows
        """Rows there are."""
        self.rows_without_key: int = without
        """Rows in which a field of the key is absent, None, or an `id` of 0."""
        self.records: int = 0
        """Records read so far."""
        self.records_without_key: int = 0
        """Those in which a field of the key is None, or an `id` of 0."""
        self.matched: int = 0
        """Those that have met a row."""
        self._on = tuple(on)
        self._by_key = by_key
        self._met: set[tuple[str, ...]] = set()
        self._pairs = self._match(records)

    @property
    def rows_unmatched(self) -> int:
        """Rows with a key that has met no record so far."""
        return self.rows - self.rows_without_key - sum(len(self._by_key[key]) for key in self._met)

    def to_text(self) -> str:
        """What met, and what did not."""
        return (
            f"{self.matched} of {self.records} records met a row by {', '.join(self._on)} ({self.records_without_key} have no such key); "
            f"{self.rows_unmatched + self.rows_without_key} of {self.rows} rows met no record ({self.rows_without_key} have no such key)"
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
