"""Parts of a summary: counts, times and bytes of some transactions. Invariant: a figure that has no value is None, never 0."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import attrs

from trio_tsconnect._util import public
from trio_tsconnect.logstats._spread import Times

GOOD_ENDS = ("complete", "responded")
"""The causes of a transaction in which nothing failed."""


@public("trio_tsconnect.logstats")
@attrs.frozen(kw_only=True)
class Group:
    """The figures of transactions that have something in common. Times are in seconds, from the start to the state `release`."""

    name: str
    """What they have in common; ``-`` if it is missing."""
    transactions: int
    """Their number."""
    per_second: float | None
    """Their number for each second of the whole log; None if it spans no time."""
    errors: int
    """Those with no status, with a status of 500 or more, or with a response that was not sent completely."""
    request_bytes: int
    """Bytes of request bodies."""
    response_bytes: int
    """Bytes of response bodies."""
    p50: float | None
    """The median of the times; None if there are none."""
    p90: float | None
    """The time that 90 % do not exceed."""
    p99: float | None
    """The time that 99 % do not exceed."""
    max: float | None
    """The longest time."""

    @property
    def error_rate(self) -> float:
        """The share of errors, from 0 to 1."""
        return self.errors / self.transactions if self.transactions else 0.0

    def as_dict(self) -> dict[str, Any]:
        """Return the figures as a JSON-serializable dict."""
        fields = attrs.asdict(self)
        return fields | {"error_rate": round(self.error_rate, 6)}


@public("trio_tsconnect.logstats")
@attrs.frozen(kw_only=True)
class Bucket:
    """HTTP/2 client connections with about the same number of streams."""

    low: int
    """The smallest number of streams."""
    high: int
    """The largest number of streams."""
    connections: int
    """The number of connections."""


@public("trio_tsconnect.logstats")
@attrs.frozen(kw_only=True)
class Reuse:
    """How often the connections to an origin were used again."""

    origin: str
    """Host and port of the origin, as in `origin_url`."""
    connections: int
    """The number of connections."""
    transactions: int
    """The number of transactions on them."""
    reused: int
    """Those of the transactions that did not need a new connection."""


class Sums:
    """What a `Group` is made of, as it is counted."""

    def __init__(self) -> None:
        self.transactions = self.errors = self.request_bytes = self.response_bytes = 0
        """The counts of a `Group`."""
        self.times = Times()
        """The times."""

    def add(self, record: Mapping[str, Any], error: bool, seconds: float | None) -> None:
        """Count a record."""
        self.transactions += 1
        self.errors += error
        self.request_bytes += record.get("request_bytes") or 0
        self.response_bytes += record.get("response_bytes") or 0
        if seconds is not None:
            self.times.add(seconds)

    def as_group(self, name: str, span: float | None) -> Group:
        """Return the figures of a log of `span` seconds."""
        return Group(
            name=name,
            transactions=self.transactions,
            per_second=rate(self.transactions, span),
            errors=self.errors,
            request_bytes=self.request_bytes,
            response_bytes=self.response_bytes,
            p50=self.times.percentile(50),
            p90=self.times.percentile(90),
            p99=self.times.percentile(99),
            max=self.times.max,
        )


def rate(count: int, span: float | None) -> float | None:
    """Return the number for each second of `span` seconds; None without a span."""
    return round(count / span, 3) if span else None


def is_error(record: Mapping[str, Any]) -> bool:
    """Return True for a record with no status, with a status of 500 or more, or with a response that was not sent completely."""
    status = record.get("status")
    if not isinstance(status, int) or status >= 500:
        return True
    cause = why(record)
    return status < 400 and cause is not None and cause not in GOOD_ENDS


def why(record: Mapping[str, Any]) -> str | None:
    """Return the cause of the end."""
    ended = record.get("ended")
    found = ended.get("why") if isinstance(ended, Mapping) else None
    return None if found is None else str(found)


def seconds_of(record: Mapping[str, Any]) -> float | None:
    """Return the time from the start of a transaction to its end; None if the record does not have it."""
    milestones = record.get("milestones")
    found = milestones.get("release") if isinstance(milestones, Mapping) else None
    return found if isinstance(found, int | float) else None


def status_class(status: object) -> str:
    """Return for example ``5xx``; ``none`` without a status."""
    return f"{status // 100}xx" if isinstance(status, int) and status else "none"


def host_of(url: str | None) -> str:
    """Return host and port of an absolute URI; ``-`` if there is none."""
    parts = (url or "").split("/", 3)
    return (parts[2] if len(parts) > 2 else "") or "-"


KEYS: dict[str, Callable[[Mapping[str, Any]], str]] = {
    "tag": lambda record: record.get("tag") or "-",
    "rule": lambda record: record.get("remap_rule") or "-",
    "origin": lambda record: host_of(record.get("origin_url")),
    "plugin": lambda record: (record.get("opened_by") or "").split(".")[0] or "-",
    "cause": lambda record: why(record) or "-",
    "status": lambda record: str(record.get("status") or "none"),
}
"""What transactions are grouped by."""
