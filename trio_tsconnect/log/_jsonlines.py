"""Logs of JSON lines. Invariant: both have the guarantees of `LineLog`."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable
from typing import BinaryIO

from trio_tsconnect._util import public
from trio_tsconnect.log._format import JSON, Format
from trio_tsconnect.log._record import LogRecord
from trio_tsconnect.log._writer import LineLog


@public("trio_tsconnect.log")
class JsonLinesLog(LineLog):
    """A log that appends one line of JSON per record to a file: a `LineLog` for a path or a binary file."""

    def __init__(
        self,
        file: str | os.PathLike[str] | BinaryIO,
        *,
        flush_interval: float = 0.2,
        max_pending: int = 65536,
        close_timeout: float = 5.0,
    ) -> None:
        super().__init__(file, flush_interval=flush_interval, max_pending=max_pending, close_timeout=close_timeout)


@public("trio_tsconnect.log")
class StderrLog(LineLog):
    """A log on standard error, as it is when the log is created. The lines are JSON unless `form` is another format."""

    def __init__(
        self,
        *,
        form: Format = JSON,
        wants: Callable[[LogRecord], bool] | None = None,
        flush_interval: float = 0.2,
        max_pending: int = 65536,
        close_timeout: float = 5.0,
    ) -> None:
        file = getattr(sys.stderr, "buffer", None) or open(2, "wb", buffering=0, closefd=False)  # noqa: SIM115
        super().__init__(file, form=form, wants=wants, flush_interval=flush_interval, max_pending=max_pending, close_timeout=close_timeout)

    def _complain(self, text: str) -> None:
        """Do nothing: messages go to standard error, which is what failed."""
