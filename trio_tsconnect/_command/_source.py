"""The logs that a command reads, and what it selects of them. Invariant: a file that cannot be read is one line and exit status 2."""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from datetime import datetime
from importlib.util import find_spec

import attrs

from trio_tsconnect._command._say import CommandError, printable, say, why
from trio_tsconnect.logstats import LogTable, Records, Unreadable, open_table, read_records

_LARGE = 16 << 20
_LARGE_COMPRESSED = 2 << 20
_WIDTH = 30


@attrs.frozen(kw_only=True)
class LogFiles:
    """Some logs and a selection."""

    files: Sequence[str]
    """The names; ``-`` is standard input."""
    where: str | None = None
    """An expression that selects records."""
    since: datetime | None = None
    """The first moment that is selected."""
    until: datetime | None = None
    """The first moment that is not selected any more."""

    def read(self, *, all_of_it: bool = False) -> Records:
        """Return the selected records, or all. Lines that are not records are counted."""
        progress = Bar(sum(_sizes(self.files))).show if worth_a_bar(self.files) else None
        if all_of_it:
            return read_records(*self.files, on_error="skip", progress=progress)
        return read_records(*self.files, on_error="skip", where=self.where, since=self.since, until=self.until, progress=progress)

    def is_large(self) -> bool:
        """Return True if the logs are worth a database, and there is one. Parquet always needs it."""
        if any(name.endswith(".parquet") for name in self.files):
            return True
        if find_spec("duckdb") is None or "-" in self.files:
            return False
        sizes = list(_sizes(self.files))
        packed = [size for name, size in zip(self.files, sizes, strict=True) if name.endswith(".gz")]
        return sum(packed) > _LARGE_COMPRESSED or sum(sizes) > _LARGE

    @contextmanager
    def table(self, columns: Sequence[str] | None = None, *, all_of_it: bool = False) -> Iterator[LogTable]:
        """Yield the logs as a table, with the selected records or with all."""
        bar = Bar(1_000_000) if worth_a_bar(self.files) else None
        chosen = LogFiles(files=self.files) if all_of_it else self
        with open_table(
            *self.files,
            where=chosen.where,
            since=chosen.since,
            until=chosen.until,
            columns=columns,
            progress=None if bar is None else lambda part: bar.show(int(part * 1_000_000)),
        ) as table:
            if bar is not None:
                bar.clear()
            yield table


@contextmanager
def readable() -> Iterator[None]:
    """Turn what is wrong with a file or an expression into one line."""
    # A log that is being written may end in the middle of a line. So invalid lines are counted and do not raise.
    try:
        yield
    except OSError as exc:
        if isinstance(exc, BrokenPipeError):
            raise
        raise CommandError(f"{exc.filename or 'standard input'}: {why(exc)}, expected a log of JSON lines") from exc
    except (ModuleNotFoundError, Unreadable) as exc:
        raise CommandError(printable(exc)) from exc


def tell_missing(source: Records | LogTable) -> None:
    """Say on standard error what is not in the result."""
    if source.dropped:
        say(f"records dropped by the log, not counted above: {source.dropped}")
    if source.skipped:
        say(f"lines that are not records: {source.skipped}")


def refuse_if_no_log(files: Sequence[str], source: Records | LogTable, found: object) -> None:
    """Raise `CommandError` if no line was a record."""
    if source.skipped and not found and not source.dropped:
        raise CommandError(no_log(files, source.skipped))


def no_log(files: Sequence[str], lines: int) -> str:
    """Return the line that says that these files are no log."""
    return f"{', '.join(files)}: not a log: none of its {lines} lines is a record, expected JSON lines"


def _sizes(files: Sequence[str]) -> Iterator[int]:
    for name in files:
        yield os.path.getsize(name) if name != "-" and os.path.isfile(name) else 0


def worth_a_bar(files: Sequence[str]) -> bool:
    """Return True if reading takes long enough to watch, and somebody does."""
    return sys.stderr is not None and sys.stderr.isatty() and sum(_sizes(files)) > _LARGE


class Bar:
    """A progress bar on standard error, on one line that is cleared at the end."""

    def __init__(self, total: int, *, clock: Callable[[], float] = time.monotonic) -> None:
        self._total = max(1, total)
        self._clock = clock
        self._last = -1.0

    def show(self, done: int) -> None:
        """Show how much is done, not more often than is worth it."""
        now = self._clock()
        part = min(1.0, done / self._total)
        if part >= 1.0:
            self.clear()
        elif now - self._last > 0.1:
            self._last = now
            filled = int(part * _WIDTH)
            self._write(f"\r[{'#' * filled}{' ' * (_WIDTH - filled)}] {100 * part:3.0f} %")

    def clear(self) -> None:
        """Remove it."""
        if self._last >= 0:
            self._write("\r" + " " * (_WIDTH + 8) + "\r")
            self._last = -1.0

    @staticmethod
    def _write(text: str) -> None:
        sys.stderr.write(text)
        sys.stderr.flush()
