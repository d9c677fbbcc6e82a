"""The slowest transactions and the busiest clients. Invariant: memory grows with what is shown and with clients, not with records."""

from __future__ import annotations

import heapq
from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping
from typing import Any, ClassVar

import attrs

from trio_tsconnect._util import public
from trio_tsconnect.logstats._fields import STATES, nearest
from trio_tsconnect.logstats._group import is_error, seconds_of
from trio_tsconnect.logstats._read import AnyRecord, is_gap, of_each_run

ORIGIN = "origin"
TOTAL = "total"

Measure = Callable[[Mapping[str, Any]], float | None]


class UnknownMeasure(ValueError):
    """A text does not say what to measure."""


@attrs.frozen
class Interval:
    """The time between two milestones of a transaction."""

    begin: str | None
    """The state that starts it; None for the start of the transaction."""
    end: str
    """The state that ends it; the end of the transaction if it was not entered and `or_end`."""
    or_end: bool = False
    """Whether the end of the transaction counts, if the state was not entered."""

    def of(self, record: Mapping[str, Any]) -> float | None:
        """Return the seconds; None if the transaction does not have them."""
        milestones = record.get("milestones")
        if not isinstance(milestones, Mapping):
            return None
        low = 0.0 if self.begin is None else milestones.get(self.begin)
        high = milestones.get(self.end)
        if high is None and self.or_end:
            high = milestones.get("release")
        return high - low if low is not None and high is not None and high >= low else None

    def as_sql(self) -> str:
        """Return the same in SQL."""
        high = f'milestones."{self.end}"'
        high = f'coalesce({high}, milestones."release")' if self.or_end else high
        low = "0.0" if self.begin is None else f'milestones."{self.begin}"'
        return f"CASE WHEN {high} >= {low} THEN {high} - {low} END"


def interval(text: str) -> Interval:
    """Return what ``total``, ``origin`` or ``STATE..STATE`` measures. Raises `UnknownMeasure`.

    The time at the origin is from the state send_request to send_response, or to the end.
    """
    if text == TOTAL:
        return Interval(None, "release")
    if text == ORIGIN:
        return Interval("send_request", "send_response", or_end=True)
    begin, dots, end = text.partition("..")
    for name in (begin, end) if dots else (text,):
        if name not in STATES:
            raise UnknownMeasure(
                f"cannot measure {text!r}{nearest(name, STATES)}, expected total, origin or two states such as acquire_origin..send_request"
            )
    if not dots:
        raise UnknownMeasure(f"{text!r} is one state, expected two, such as {text}..{_next(text)}")
    return Interval(begin, end)


def _next(state: str) -> str:
    return STATES[min(STATES.index(state) + 1, len(STATES) - 1)]


@public("trio_tsconnect.logstats")
@attrs.frozen(kw_only=True)
class Slow:
    """A transaction and the time that it took."""

    seconds: float
    """The time that was measured."""
    run: int
    """The run of the proxy that wrote the record."""
    record: Mapping[str, Any]
    """The record, by its JSON names."""


@public("trio_tsconnect.logstats")
def slowest(records: Iterable[AnyRecord], n: int = 10, *, by: str = TOTAL) -> list[Slow]:
    """Return the `n` transactions that took the longest, the slowest first.

    `by` is ``total``, ``origin`` (from sending the request to the response), or two states such as ``acquire_origin..send_request``.
    """
    best = Slowest(n, by=by)
    for run, record in of_each_run(records):
        if not is_gap(record):
            best.add(run, record)
    return best.sorted()


@public("trio_tsconnect.logstats")
class Slowest:
    """The slowest transactions so far. `slowest` says what `by` is."""

    def __init__(self, n: int = 10, *, by: str = TOTAL) -> None:
        self._n = n
        self._measure = interval(by)
        self._heap: list[tuple[float, int, int, int, Slow]] = []
        self._count = 0

    def add(self, run: int, record: Mapping[str, Any]) -> None:
        """Take a transaction into account."""
        seconds = self._measure.of(record)
        if seconds is None or self._n < 1:
            return
        self._count += 1  # a record may occur twice, and records have no order
        entry = (seconds, -run, -(record.get("transaction") or 0), -self._count, Slow(seconds=seconds, run=run, record=record))
        if len(self._heap) < self._n:
            heapq.heappush(self._heap, entry)
        else:
            heapq.heappushpop(self._heap, entry)

    def sorted(self) -> list[Slow]:
        """Return them, the slowest first."""
        return [entry[-1] for entry in sorted(self._heap, reverse=True)]


@public("trio_tsconnect.logstats")
@attrs.frozen(kw_only=True)
class Talker:
    """The figures of a client address."""

    COUNTS: ClassVar[tuple[str, ...]] = ("transactions", "errors", "request_bytes", "response_bytes")
    """The names of the fields that count."""
    client: str
    """The address; ``-`` if it is unknown."""
    transactions: int
    """Transactions, without internal ones."""
    errors: int
    """Those with no status, with a status of 500 or more, or with a response that was not sent completely."""
    request_bytes: int
    """Bytes of request bodies."""
    response_bytes: int
    """Bytes of response bodies."""
    seconds: float
    """The time of all its transactions together."""


@public("trio_tsconnect.logstats")
class Talkers:
    """The figures of all client addresses so far."""

    def __init__(self) -> None:
        self._sums: defaultdict[str, list[float]] = defaultdict(lambda: [0, 0, 0, 0, 0.0])

    def add(self, record: Mapping[str, Any]) -> None:
        """Count a transaction."""
        if record.get("internal"):
            return
        sums = self._sums[record.get("client_address") or "-"]
        values = (1, is_error(record), record.get("request_bytes") or 0, record.get("response_bytes") or 0, seconds_of(record) or 0.0)
        for place, value in enumerate(values):
            sums[place] += value

    def sorted(self, n: int) -> list[Talker]:
        """Return the `n` addresses with most transactions, most first."""
        first = sorted(self._sums.items(), key=lambda item: (-item[1][0], item[0]))[: max(0, n)]
        return [_talker(client, sums) for client, sums in first]


def _talker(client: str, sums: list[float]) -> Talker:
    transactions, errors, received, sent, seconds = sums
    return Talker(
        client=client,
        transactions=int(transactions),
        errors=int(errors),
        request_bytes=int(received),
        response_bytes=int(sent),
        seconds=seconds,
    )


@public("trio_tsconnect.logstats")
def talkers(records: Iterable[AnyRecord], n: int = 10) -> list[Talker]:
    """Return the `n` client addresses with most transactions of their own, most first."""
    found = Talkers()
    for _, record in of_each_run(records):
        if not is_gap(record):
            found.add(record)
    return found.sorted(n)
