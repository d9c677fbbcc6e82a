"""Several logs as one. Invariant: each has every record; none waits for another."""

from __future__ import annotations

from collections.abc import Sequence

import trio

from trio_tsconnect._util import public
from trio_tsconnect.log._log import Log
from trio_tsconnect.log._record import LogRecord


@public("trio_tsconnect.log")
class SeveralLogs(Log):
    """A log that passes each record to several others. `written` and `dropped` are sums."""

    def __init__(self, logs: Sequence[Log]) -> None:
        self.logs: tuple[Log, ...] = tuple(logs)
        self.request_headers: frozenset[str] = frozenset().union(*(log.request_headers for log in self.logs))
        self.response_headers: frozenset[str] = frozenset().union(*(log.response_headers for log in self.logs))

    @property
    def written(self) -> int:  # type: ignore[override]  # computed
        """Number of records that reached a destination, over all logs."""
        return sum(log.written for log in self.logs)

    @property
    def dropped(self) -> int:  # type: ignore[override]  # computed
        """Number of records that are lost, over all logs."""
        return sum(log.dropped for log in self.logs)

    def write(self, record: LogRecord) -> None:
        """Pass `record` to each log."""
        for log in self.logs:
            log.write(record)

    async def run(self) -> None:
        """Run all logs until they are closed."""
        async with trio.open_nursery() as nursery:
            for log in self.logs:
                nursery.start_soon(log.run)

    def close(self) -> None:
        """Close each log."""
        for log in self.logs:
            log.close()

    def reopen(self) -> None:
        """Reopen each log. Raises the first `OSError` after all were tried."""
        failure: OSError | None = None
        for log in self.logs:
            try:
                log.reopen()
            except OSError as error:
                failure = failure or error
        if failure is not None:
            raise failure

    def __repr__(self) -> str:
        return f"<SeveralLogs {', '.join(map(repr, self.logs))}>"
