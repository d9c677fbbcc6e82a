"""Tell the runs of the proxy in one log apart. Invariant: within a run, no transaction number occurs twice."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

_BITS = 10
_MASK = (1 << _BITS) - 1


class Runs:
    """Numbers the runs of the proxy, counted from 0, as their first records come.

    Transaction numbers are unique within a process, and a restarted proxy appends to the same log. So each process has its own runs, and a
    number that occurs a second time in a process starts the next: a restarted container has the same process id. Numbers are kept as bits,
    so that those of ten million transactions take a few megabytes.
    """

    def __init__(self) -> None:
        self._seen: dict[int, dict[int, int]] = {}
        self._run: dict[int, int] = {}
        self._next = 0

    def of(self, fields: Mapping[str, Any]) -> int:
        """Return the number of the run that wrote this record."""
        process = fields.get("process") or 0
        seen = self._seen.get(process)
        if seen is None:
            seen = self._begin(process)
        if number := fields.get("transaction"):
            bit = 1 << (number & _MASK)
            bits = seen.get(number >> _BITS, 0)
            if bits & bit:
                seen, bits = self._begin(process), 0
            seen[number >> _BITS] = bits | bit
        return self._run[process]

    def _begin(self, process: int) -> dict[int, int]:
        seen = self._seen[process] = {}
        self._run[process] = self._next
        self._next += 1
        return seen
