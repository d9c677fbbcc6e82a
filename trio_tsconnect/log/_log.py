"""`Log`, the destination for log records.

Invariant: `Log.write` neither blocks nor raises, so a log cannot delay or fail a transaction.
"""

from __future__ import annotations

import abc

import trio

from trio_tsconnect._util import public
from trio_tsconnect.log._record import LogRecord


@public("trio_tsconnect.log")
class Log(abc.ABC):
    """A destination for log records. One task calls `run`, any task of the same trio run calls `write`, and the owner calls `close`."""

    written: int = 0
    """Number of records that reached the destination."""
    dropped: int = 0
    """Number of records that are lost."""
    request_headers: frozenset[str] = frozenset()
    """Names of the request fields that the log needs in `LogRecord.request_headers`, in lower case."""
    response_headers: frozenset[str] = frozenset()
    """Names of the response fields that the log needs in `LogRecord.response_headers`, in lower case."""

    @abc.abstractmethod
    def write(self, record: LogRecord) -> None:
        """Accept `record`. Never blocks and never raises. Must be called in the trio thread."""

    @abc.abstractmethod
    async def run(self) -> None:
        """Write records to the destination until the log is closed and all accepted records are written.

        Cancellation closes the log. Records accepted before are still written, within a time limit.
        """

    @abc.abstractmethod
    def close(self) -> None:
        """Tell `run` to write the accepted records and to return. Never blocks. May be called more than once."""

    def reopen(self) -> None:  # noqa: B027 - most logs have nothing to reopen
        """Reopen the log file by its path, after it was renamed by log rotation. Does nothing for a log without a file."""


@public("trio_tsconnect.log")
class MemoryLog(Log):
    """A log for tests. `records` has the records in the order in which their transactions ended."""

    def __init__(self) -> None:
        self.written: int = 0
        self.records: list[LogRecord] = []
        self._closed = trio.Event()

    def write(self, record: LogRecord) -> None:
        """Append `record` to `records`, also after the log was closed."""
        self.records.append(record)
        self.written += 1

    async def run(self) -> None:
        """Wait until the log is closed."""
        await self._closed.wait()

    def close(self) -> None:
        """End `run`. The records are kept."""
        self._closed.set()

    def clear(self) -> None:
        """Remove all records. The counts do not change."""
        self.records.clear()

    def __repr__(self) -> str:
        return f"<MemoryLog of {len(self.records)} records>"
