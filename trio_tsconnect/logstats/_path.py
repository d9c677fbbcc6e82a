"""Where the time of a request went. Invariant: the stretches of a critical path follow each other without a gap, from start to end."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import attrs

from trio_tsconnect._util import public
from trio_tsconnect.logstats._tree import Node
from trio_tsconnect.logstats._where import as_moment

_SHORTEST = 1e-9


@public("trio_tsconnect.logstats")
@attrs.frozen(kw_only=True)
class Stretch:
    """A stretch of the time of a root transaction, and what it was spent in."""

    node: Node
    """The transaction on which the root waited, or the root itself."""
    transaction: int
    """Its number."""
    depth: int
    """How many transactions are between it and the root, plus 1; 0 for the root."""
    state: str
    """The state in which it was."""
    start: float
    """Seconds from the start of the root."""
    seconds: float
    """The length."""


@public("trio_tsconnect.logstats")
@attrs.frozen(kw_only=True)
class StateTime:
    """The time that a transaction spent in a state."""

    name: str
    """The state."""
    start: float
    """Seconds from the start of the transaction."""
    seconds: float
    """The length."""


@public("trio_tsconnect.logstats")
def states(record: Mapping[str, Any]) -> list[StateTime]:
    """Return the states of a transaction in their order. The last has no length: it is the end."""
    entered = sorted(_milestones(record).items(), key=lambda item: item[1])
    ends = [start for _, start in (*entered[1:], *entered[-1:])]
    return [StateTime(name=name, start=start, seconds=end - start) for (name, start), end in zip(entered, ends, strict=True)]


def duration(record: Mapping[str, Any]) -> float:
    """Return the seconds from the start of a transaction to its last milestone."""
    return max(_milestones(record).values(), default=0.0)


def _milestones(record: Mapping[str, Any]) -> Mapping[str, float]:
    found = record.get("milestones")
    return found if isinstance(found, Mapping) else {}


def begin(record: Mapping[str, Any]) -> float | None:
    """Return the start of a transaction in Unix seconds; None if the record does not have it."""
    at = as_moment(record.get("time"))
    return None if at is None else at.timestamp()


@attrs.frozen
class _Span:
    """A piece of a transaction's time that is to be explained."""

    node: Node
    depth: int
    start: float  # of the transaction, in seconds from the start of the root
    low: float
    high: float


@public("trio_tsconnect.logstats")
def critical_path(node: Node) -> list[Stretch]:
    """Return what each stretch of a transaction's time was spent in: a state of its own, or one of a child on which it waited.

    From the end backwards: of the children that ended before a moment, the last to end is what was waited for. Detached children are not
    waited for. A child that runs beside it and ends earlier is not on the path.
    """
    root = begin(node.record)
    found: list[Stretch] = []
    waiting: list[_Span | Stretch] = [_Span(node, 0, 0.0, 0.0, duration(node.record))]
    while waiting:  # a stack, with the latest at the bottom: a chain of children may be deeper than Python's own
        piece = waiting.pop()
        if isinstance(piece, Stretch):
            found.append(piece)
        else:
            waiting += _pieces(piece, root)
    return found


def _pieces(span: _Span, root: float | None) -> Iterator[_Span | Stretch]:
    """Yield what a span consists of, the latest first."""
    end = span.high
    for child, start, stop in _children(span, root):
        if stop <= end + _SHORTEST and max(start, span.low) < min(stop, end):
            yield from _own(span, stop, end)
            end, stop = max(start, span.low), min(stop, end)
            yield _Span(child, span.depth + 1, start, end, stop)
    yield from _own(span, span.low, end)


def _children(span: _Span, root: float | None) -> list[tuple[Node, float, float]]:
    """Return the children on which a transaction can wait, with start and end in seconds from the start of the root, the last first."""
    found = []
    for child in span.node.children:
        at = begin(child.record)
        if root is not None and at is not None and not child.record.get("detached"):
            found.append((child, at - root, at - root + duration(child.record)))
    return sorted(found, key=lambda item: item[2], reverse=True)


def _own(span: _Span, low: float, high: float) -> Iterator[Stretch]:
    """Yield the states of a transaction between two moments, the latest first. The first and the last state reach to any moment."""
    passed = states(span.node.record)
    for number, state in reversed(list(enumerate(passed))):
        start = max(low, span.start + state.start) if number else low
        if high - start > _SHORTEST:
            number_of = span.node.record.get("transaction") or 0
            yield Stretch(node=span.node, transaction=number_of, depth=span.depth, state=state.name, start=start, seconds=high - start)
            high = start
