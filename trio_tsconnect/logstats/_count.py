"""Count records as they come. Invariant: memory grows with connections and with distinct names, not with records."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping
from typing import Any, TypeVar

from trio_tsconnect._util import public
from trio_tsconnect.logstats._group import KEYS, Group, Reuse, Sums, host_of, is_error, seconds_of, status_class
from trio_tsconnect.logstats._read import AnyRecord, Records, is_gap, of_each_run
from trio_tsconnect.logstats._summary import Summary
from trio_tsconnect.logstats._where import as_moment

T = TypeVar("T")


@public("trio_tsconnect.logstats")
def summarize(records: Iterable[AnyRecord]) -> Summary:
    """Count `records` and return the counts. `records` are the result of `read_records`, dicts of one line each, or `LogRecord` values.

    An HTTP/2 stream is a root transaction with the tag ``h2``. A request that a plugin makes on behalf of a stream is a child, and is not
    counted as a stream of that client. Percentiles of more than 1000 transactions are at most 1 % off.
    """
    counts = Counts()
    for run, record in of_each_run(records):
        if is_gap(record):
            counts.gaps += record["dropped"]
        else:
            counts.add(run, record)
    return counts.summary(records if isinstance(records, Records) else None)


@public("trio_tsconnect.logstats")
class Counts:
    """The counts of the records so far. `summarize` is made of it."""

    def __init__(self) -> None:
        self.gaps = 0
        """The number of records that the log dropped, by lines among the records."""
        self._total = Sums()
        self._connections: defaultdict[str, set[object]] = defaultdict(set)
        self._streams: defaultdict[tuple[int, int], set[object]] = defaultdict(set)
        self._statuses: defaultdict[str, Counter[str]] = defaultdict(Counter)
        self._groups: dict[str, defaultdict[str, Sums]] = {by: defaultdict(Sums) for by in KEYS}
        self._origins: defaultdict[str, set[object]] = defaultdict(set)
        self._uses: defaultdict[str, Counter[bool]] = defaultdict(Counter)
        self._internal: Counter[str] = Counter()
        self._first: str | None = None
        self._last: str | None = None

    def add(self, run: int, record: Mapping[str, Any]) -> None:
        """Count a record of the run with this number."""
        label, connection = client_connection(record)
        self._connections[label].add((run, connection))
        if record.get("tag") == "h2" and record.get("parent") is None:
            carrier = record.get("client_connection") or record.get("id") or 0
            self._streams[run, carrier].add(record.get("stream") or ("transaction", self._total.transactions))
        self._statuses[record.get("tag") or "-"][status_class(record.get("status"))] += 1
        self._add_figures(record)
        self._add_origin(run, record)
        if record.get("internal"):
            self._internal[KEYS["plugin"](record)] += 1
        if at := record.get("time"):
            self._first = at if self._first is None or at < self._first else self._first
            self._last = at if self._last is None or at > self._last else self._last

    def _add_figures(self, record: Mapping[str, Any]) -> None:
        error, seconds = is_error(record), seconds_of(record)
        self._total.add(record, error, seconds)
        for by, key in KEYS.items():
            self._groups[by][key(record)].add(record, error, seconds)

    def _add_origin(self, run: int, record: Mapping[str, Any]) -> None:
        if (connection := record.get("origin_connection")) is not None:
            origin = host_of(record.get("origin_url"))
            self._origins[origin].add((run, connection))
            self._uses[origin][bool(record.get("origin_reused"))] += 1

    def summary(self, source: Records | None = None) -> Summary:
        """Return the counts. `source` says what is missing."""
        span = (self._first, self._last) if self._first is not None and self._last is not None else None
        seconds = seconds_between(span)
        reuse = [
            Reuse(origin=origin, connections=len(ids), transactions=self._uses[origin].total(), reused=self._uses[origin][True])
            for origin, ids in self._origins.items()
        ]
        return Summary(
            transactions=self._total.transactions,
            client_connections={label: len(ids) for label, ids in sorted(self._connections.items())},
            streams_per_connection={stream_key(*key): len(ids) for key, ids in sorted(self._streams.items())},
            statuses={tag: dict(sorted(counts.items())) for tag, counts in sorted(self._statuses.items())},
            ended=_largest_first({group.name: group.transactions for group in self._sorted("cause", seconds)}),
            dropped=self.gaps + (source.dropped if source else 0),
            skipped=source.skipped if source else 0,
            skipped_at=tuple(source.skipped_at) if source else (),
            span=span,
            total=self._total.as_group("all", seconds) if self._total.transactions else None,
            groups={by: self._sorted(by, seconds) for by in KEYS},
            reuse=sorted(reuse, key=lambda each: (-each.transactions, each.origin)),
            internal=_largest_first(self._internal),
        )

    def _sorted(self, by: str, span: float | None) -> list[Group]:
        groups = [sums.as_group(name, span) for name, sums in self._groups[by].items()]
        return sorted(groups, key=lambda group: (-group.transactions, group.name))


def client_connection(record: Mapping[str, Any]) -> tuple[str, object]:
    """Return the label under which a record's connection is counted, and its identity among the connections with that label."""
    session = ("session", record.get("session") or 0)
    if record.get("internal"):  # not by client_connection: if set, that belongs to the transaction on whose behalf this one runs
        tag = record.get("tag")
        return (f"internal/{tag}" if tag else "internal"), session
    return str(record.get("client_protocol") or "-"), record.get("client_connection") or session


def stream_key(run: int, connection: int) -> int | str:
    """Return the name of a client connection in `Summary.streams_per_connection`."""
    return f"{run + 1}:{connection}" if run else connection


def seconds_between(span: tuple[str, str] | None) -> float | None:
    """Return the length of a span of ISO times; None if it is not known or has no length."""
    first, last = map(as_moment, span or ("", ""))
    return (last - first).total_seconds() or None if first and last else None


def _largest_first(counts: Mapping[str, int]) -> dict[str, int]:
    return dict(sorted(counts.items(), key=lambda item: (-item[1], item[0])))
