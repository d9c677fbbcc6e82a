"""Count connections, streams and statuses in a log. Invariant: requests of plugins are never counted as requests of a client."""

from __future__ import annotations

import statistics
from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import attrs

from trio_tsconnect._util import public
from trio_tsconnect.logstats._read import AnyRecord, Records, is_gap, of_each_run

_CLASSES = ("1xx", "2xx", "3xx", "4xx", "5xx", "none")
_MOST_CONNECTIONS_SHOWN = 20


@public("trio_tsconnect.logstats")
@attrs.frozen(kw_only=True)
class Spread:
    """The minimum, median and maximum of some counts."""

    min: int
    """The minimum."""
    median: float
    """The median."""
    max: int
    """The maximum."""


@public("trio_tsconnect.logstats")
@attrs.frozen(kw_only=True)
class Summary:
    """The counts of a log."""

    transactions: int
    """The number of records."""
    client_connections: Mapping[str, int]
    """Connections by client protocol. Those of the process itself are ``internal``, or ``internal/TAG`` if their opener set a tag."""
    streams_per_connection: Mapping[int | str, int]
    """HTTP/2 streams by client connection. From the second run of the proxy in one log on, the key is ``"RUN:CONNECTION"``."""
    statuses: Mapping[str, Mapping[str, int]]
    """Transactions by tag (``-`` without one) and by class of the status sent (``none`` without one)."""
    ended: Mapping[str, int]
    """Transactions by the reason why they ended, most frequent first."""
    dropped: int
    """The number of records that the log dropped, as it states itself."""
    skipped: int
    """The number of lines that are not records."""

    @property
    def streams(self) -> Spread | None:
        """The spread of HTTP/2 streams per client connection; None if there are no streams."""
        counts = list(self.streams_per_connection.values())
        return Spread(min=min(counts), median=statistics.median(counts), max=max(counts)) if counts else None

    def as_dict(self) -> dict[str, Any]:
        """Return the summary as a JSON-serializable dict."""
        spread = self.streams
        return {
            "transactions": self.transactions,
            "client_connections": dict(self.client_connections),
            "http2_streams": {
                "connections": len(self.streams_per_connection),
                "streams": sum(self.streams_per_connection.values()),
                "min": spread and spread.min,
                "median": spread and spread.median,
                "max": spread and spread.max,
                "per_connection": {str(connection): count for connection, count in self.streams_per_connection.items()},
            },
            "statuses": {tag: dict(counts) for tag, counts in self.statuses.items()},
            "ended": dict(self.ended),
            "dropped": self.dropped,
            "skipped": self.skipped,
        }

    def to_text(self) -> str:
        """Return the summary as aligned tables for a terminal. Unprintable characters are escaped."""
        parts = [
            f"transactions: {self.transactions}",
            _table("client connections", ("protocol", "connections"), self.client_connections.items()),
            self._streams_table(),
            _table("transactions by tag and status", ("tag", *self._classes()), self._status_rows()),
            _table("transactions by how they ended", ("why", "transactions"), self.ended.items()),
        ]
        if self.dropped:
            parts.append(f"records dropped by the log, not counted above: {self.dropped}")
        if self.skipped:
            parts.append(f"lines that are not records: {self.skipped}")
        return "\n\n".join(parts)

    def _streams_table(self) -> str:
        spread = self.streams
        if spread is None:
            return "HTTP/2 streams per client connection: none"
        counts = self.streams_per_connection
        title = (
            f"HTTP/2 streams per client connection: {sum(counts.values())} on {len(counts)}"
            f" (min {spread.min}, median {spread.median:g}, max {spread.max})"
        )
        busiest = sorted(counts.items(), key=lambda item: -item[1])[:_MOST_CONNECTIONS_SHOWN]
        text = _table(title, ("connection", "streams"), busiest)
        hidden = len(counts) - len(busiest)
        return text + f"\n  and {hidden} more connections, with fewer or as many streams" if hidden else text

    def _classes(self) -> list[str]:
        return [*_CLASSES, *sorted({name for counts in self.statuses.values() for name in counts if name not in _CLASSES})]

    def _status_rows(self) -> list[Sequence[object]]:
        return [(tag, *(counts.get(name, 0) for name in self._classes())) for tag, counts in self.statuses.items()]


@public("trio_tsconnect.logstats")
def summarize(records: Iterable[AnyRecord]) -> Summary:
    """Count `records` and return the counts. `records` are the result of `read_records`, dicts of one line each, or `LogRecord` values.

    An HTTP/2 stream is a root transaction with the tag ``h2``. A request that a plugin makes on behalf of a stream is a child, and is not
    counted as a stream of that client.
    """
    transactions = gaps = 0
    connections: defaultdict[str, set[object]] = defaultdict(set)
    streams: defaultdict[int | str, set[object]] = defaultdict(set)
    statuses: defaultdict[str, Counter[str]] = defaultdict(Counter)
    ended: Counter[str] = Counter()
    for run, record in of_each_run(records):
        if is_gap(record):
            gaps += record["dropped"]
            continue
        transactions += 1
        label, connection = _client_connection(record)
        connections[label].add((run, connection))
        if record.get("tag") == "h2" and record.get("parent") is None:
            carrier = record.get("client_connection") or record.get("id") or 0
            streams[f"{run + 1}:{carrier}" if run else carrier].add(record.get("stream") or ("transaction", transactions))
        statuses[record.get("tag") or "-"][_status_class(record.get("status"))] += 1
        ended[_why(record)] += 1
    return Summary(
        transactions=transactions,
        client_connections={label: len(ids) for label, ids in sorted(connections.items())},
        streams_per_connection={connection: len(ids) for connection, ids in streams.items()},
        statuses={tag: dict(sorted(counts.items())) for tag, counts in sorted(statuses.items())},
        ended=dict(ended.most_common()),
        dropped=gaps + (records.dropped if isinstance(records, Records) else 0),
        skipped=records.skipped if isinstance(records, Records) else 0,
    )


def _client_connection(record: Mapping[str, Any]) -> tuple[str, object]:
    """Return the label under which a record's connection is counted, and its identity among the connections with that label."""
    session = ("session", record.get("session"))
    if record.get("internal"):  # not by client_connection: if set, that belongs to the transaction on whose behalf this one runs
        tag = record.get("tag")
        return (f"internal/{tag}" if tag else "internal"), session
    return str(record.get("client_protocol") or "-"), record.get("client_connection") or session


def _status_class(status: object) -> str:
    return f"{status // 100}xx" if isinstance(status, int) and status else "none"


def _why(record: Mapping[str, Any]) -> str:
    ended = record.get("ended")
    return str(ended.get("why") or "-") if isinstance(ended, Mapping) else "-"


def _table(title: str, header: Sequence[str], rows: Iterable[Sequence[object]]) -> str:
    cells = [[_printable(str(cell)) for cell in row] for row in (header, *rows)]
    if len(cells) == 1:
        return f"{title}: none"
    widths = [max(map(len, column)) for column in zip(*cells, strict=True)]
    lines = ["  ".join([row[0].ljust(widths[0]), *map(str.rjust, row[1:], widths[1:])]) for row in cells]
    return "\n".join([title, *(f"  {line}".rstrip() for line in lines)])


def _printable(text: str) -> str:
    """Escape unprintable characters. A log contains text from clients, which must not send control sequences to the reader's terminal."""
    return "".join(char if char.isprintable() else ascii(char)[1:-1] for char in text)
