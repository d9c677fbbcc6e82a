"""Open the log that a destination is written as. Invariant: what starts with none of the words of `SCHEMES` is the path of a file."""

from __future__ import annotations

from collections.abc import Callable

from trio_tsconnect._util import public
from trio_tsconnect.log._elsewhere import Command, PythonLogging
from trio_tsconnect.log._format import JSON, Format
from trio_tsconnect.log._jsonlines import StderrLog
from trio_tsconnect.log._record import LogRecord
from trio_tsconnect.log._rotate import RotatingFile, Rotation
from trio_tsconnect.log._sink import Destination, Sink
from trio_tsconnect.log._syslog import Syslog, split_target
from trio_tsconnect.log._writer import LineLog

SCHEMES = ("syslog:", "|", "logging:")
"""How destinations begin that are no files."""


@public("trio_tsconnect.log")
def is_file(to: str | None) -> bool:
    """Return True if a destination is the path of a file: not standard error, syslog, a command or a logger."""
    return to is not None and to != "-" and not to.startswith(SCHEMES)


@public("trio_tsconnect.log")
def check_destination(to: str) -> None:
    """Raise `ValueError` if a destination is not complete. Opens nothing."""
    if to.startswith("syslog:"):
        split_target(to.removeprefix("syslog:"))
    elif to.startswith("|") and not to[1:].strip():
        raise ValueError('expected a command after "|", such as "|gzip > log.gz"')
    elif to == "logging:":
        raise ValueError('expected the name of a logger, such as "logging:access"')


@public("trio_tsconnect.log")
def open_line_log(
    to: str | None,
    *,
    form: Format = JSON,
    wants: Callable[[LogRecord], bool] | None = None,
    rotation: Rotation | None = None,
    flush_interval: float = 0.2,
    max_pending: int = 65536,
) -> LineLog:
    """Open a log for a destination: a path; "-" or None for standard error; ``syslog:``, ``|command`` or ``logging:NAME``.

    `rotation` is for paths. Raises `OSError` if a file or a command cannot be opened, and `ValueError` if `to` is not complete.
    """
    if to is None or to == "-":
        return StderrLog(form=form, wants=wants, flush_interval=flush_interval, max_pending=max_pending)
    return LineLog(_destination(to, rotation), form=form, wants=wants, flush_interval=flush_interval, max_pending=max_pending)


def _destination(to: str, rotation: Rotation | None) -> Destination:
    check_destination(to)
    if to.startswith("syslog:"):
        return Syslog(to.removeprefix("syslog:"))
    if to.startswith("|"):
        return Command(to[1:])
    if to.startswith("logging:"):
        return PythonLogging(to.removeprefix("logging:"))
    return Sink.open(to) if rotation is None else RotatingFile(to, rotation)
