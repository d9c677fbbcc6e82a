"""Count connections, streams, statuses and times in a log. Invariant: requests of plugins are never counted as requests of a client."""

from __future__ import annotations

import statistics
from collections.abc import Mapping, Sequence
from typing import Any

import attrs

from trio_tsconnect._util import public
from trio_tsconnect.logstats._group import Bucket, Group, Reuse
from trio_tsconnect.logstats._text import cut, share, text_table, times

_CLASSES = ("1xx", "2xx", "3xx", "4xx", "5xx", "none")
_MOST_SHOWN = 20


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
    skipped_at: Sequence[str] = ()
    """File, line and reason of the first of these lines."""
    span: tuple[str, str] | None = None
    """The first and the last `time`; None if no record has one."""
    total: Group | None = None
    """The figures of all transactions; None if there are none."""
    groups: Mapping[str, Sequence[Group]] = attrs.field(factory=dict)
    """The figures by ``tag``, ``rule``, ``origin``, ``plugin`` (that opened the connection), ``cause`` and ``status``, largest first."""
    reuse: Sequence[Reuse] = ()
    """The use of connections to origins, the origin with most transactions first."""
    internal: Mapping[str, int] = attrs.field(factory=dict)
    """Internal requests by the plugin that made them (``-`` if it was none), most first."""

    @property
    def streams(self) -> Spread | None:
        """The spread of HTTP/2 streams per client connection; None if there are no streams."""
        counts = list(self.streams_per_connection.values())
        return Spread(min=min(counts), median=statistics.median(counts), max=max(counts)) if counts else None

    @property
    def histogram(self) -> list[Bucket]:
        """HTTP/2 client connections by their number of streams, in steps of powers of two; steps without a connection are left out."""
        counts: dict[int, int] = {}
        for streams in self.streams_per_connection.values():
            step = streams.bit_length() - 1
            counts[step] = counts.get(step, 0) + 1
        return [Bucket(low=1 << step, high=(2 << step) - 1, connections=counts[step]) for step in sorted(counts)]

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
                "histogram": [attrs.asdict(bucket) for bucket in self.histogram],
            },
            "statuses": {tag: dict(counts) for tag, counts in self.statuses.items()},
            "ended": dict(self.ended),
            "dropped": self.dropped,
            "skipped": self.skipped,
            "skipped_at": list(self.skipped_at),
            "span": self.span and list(self.span),
            "total": self.total and self.total.as_dict(),
            "groups": {by: [group.as_dict() for group in groups] for by, groups in self.groups.items()},
            "origin_connections": [attrs.asdict(reuse) for reuse in self.reuse],
            "internal": dict(self.internal),
        }

    def to_text(self) -> str:
        """Return the summary as aligned tables for a terminal. Unprintable characters are escaped."""
        parts = [
            f"transactions: {self.transactions}",
            text_table("client connections", ("protocol", "connections"), self.client_connections.items()),
            self._streams_table(),
            text_table("transactions by tag and status", ("tag", *self._classes()), self._status_rows()),
            text_table("transactions by how they ended", ("why", "transactions"), self.ended.items()),
        ]
        if self.transactions:
            parts += self._more_tables()
        if self.dropped:
            parts.append(f"records dropped by the log, not counted above: {self.dropped}")
        if self.skipped:
            parts.append("\n".join([f"lines that are not records: {self.skipped}", *(f"  {cut(place)}" for place in self.skipped_at)]))
        return "\n\n".join(parts)

    def _more_tables(self) -> list[str]:
        histogram = [(f"{bucket.low}-{bucket.high}" if bucket.low < bucket.high else "1", bucket.connections) for bucket in self.histogram]
        parts = [text_table("connections by their number of streams", ("streams", "connections"), histogram)] if len(histogram) > 1 else []
        for by, groups in self.groups.items():
            if by in ("tag", "rule", "origin"):
                parts.append(_group_table(by, groups))
        reused = [(each.origin, each.connections, each.transactions, share(each.reused, each.transactions)) for each in self.reuse]
        header = ("origin", "connections", "transactions", "reused")
        parts.append(text_table("connections to origins", header, reused[:_MOST_SHOWN]) + _hidden(len(reused)))
        parts.append(text_table("internal requests by plugin", ("plugin", "requests"), self.internal.items()))
        return parts

    def _streams_table(self) -> str:
        spread = self.streams
        if spread is None:
            return "HTTP/2 streams per client connection: none"
        counts = self.streams_per_connection
        title = (
            f"HTTP/2 streams per client connection: {sum(counts.values())} on {len(counts)}"
            f" (min {spread.min}, median {spread.median:g}, max {spread.max})"
        )
        busiest = sorted(counts.items(), key=lambda item: -item[1])[:_MOST_SHOWN]
        text = text_table(title, ("connection", "streams"), busiest)
        hidden = len(counts) - len(busiest)
        return text + f"\n  and {hidden} more connections, with fewer or as many streams" if hidden else text

    def _classes(self) -> list[str]:
        return [*_CLASSES, *sorted({name for counts in self.statuses.values() for name in counts if name not in _CLASSES})]

    def _status_rows(self) -> list[Sequence[object]]:
        return [(tag, *(counts.get(name, 0) for name in self._classes())) for tag, counts in self.statuses.items()]


_GROUP_HEADER = ("transactions", "/s", "errors", "bytes in", "bytes out", "p50", "p90", "p99", "max")


def _group_table(by: str, groups: Sequence[Group]) -> str:
    rows = [
        (
            group.name,
            group.transactions,
            "-" if group.per_second is None else f"{group.per_second:.1f}",
            share(group.errors, group.transactions),
            group.request_bytes,
            group.response_bytes,
            *times(group.p50, group.p90, group.p99, group.max),
        )
        for group in groups[:_MOST_SHOWN]
    ]
    return text_table(f"transactions by {by}, times in ms", (by, *_GROUP_HEADER), rows) + _hidden(len(groups))


def _hidden(count: int) -> str:
    return f"\n  and {count - _MOST_SHOWN} more" if count > _MOST_SHOWN else ""
