"""Where records go. The law: `Log.write` neither waits nor raises, so a log can never hurt the transaction it tells of."""

from __future__ import annotations

import abc

import trio

from trio_tsconnect._util import public
from trio_tsconnect.log._record import LogRecord


@public("trio_tsconnect.log")
class Log(abc.ABC):
    """Somewhere for records to go. One task runs it; whoever has a record writes it; whoever owns it closes it."""

    written: int = 0
    """Records that have reached their destination."""
    dropped: int = 0
    """Records that never will."""

    @abc.abstractmethod
    def write(self, record: LogRecord) -> None:
        """Take `record`. Never blocks and never raises; to be called from the trio thread."""

    @abc.abstractmethod
    async def run(self) -> None:
        """Carry records to their destination until the log is closed and all are there.

        Cancelling it closes the log, and still writes what was taken before, within a bound.
        """

    @abc.abstractmethod
    def close(self) -> None:
        """Ask `run` to write what it has and return; never blocks, and may be called twice."""

    def reopen(self) -> None:  # noqa: B027 - most logs have nothing to reopen
        """Let go of a file that was renamed, and go on in a new one of the old name; nothing to do for a log without one."""


@public("trio_tsconnect.log")
class MemoryLog(Log):
    """A log for tests: the records themselves, in the order in which their transactions ended."""

    def __init__(self) -> None:
        self.written: int = 0
        self.records: list[LogRecord] = []
        self._closed = trio.Event()

    def write(self, record: LogRecord) -> None:
        """Keep `record`, also when the log is closed."""
        self.records.append(record)
        self.written += 1

    async def run(self) -> None:
        """Wait to be closed."""
        await self._closed.wait()

    def close(self) -> None:
        """End `run`; what was kept stays."""
        self._closed.set()

    def clear(self) -> None:
        """Forget the records kept so far; the counts stay."""
        self.records.clear()

    def __repr__(self) -> str:
        return f"<MemoryLog of {len(self.records)} records>"
