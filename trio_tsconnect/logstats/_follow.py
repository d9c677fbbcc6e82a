"""Read a log as it grows. Invariant: every line is read once, whole, also if the log is rotated meanwhile."""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Callable, Iterator
from typing import Any, BinaryIO

from trio_tsconnect._util import public
from trio_tsconnect.logstats._read import Path, Records, read_records

_PAUSE = 0.2


@public("trio_tsconnect.logstats")
def follow(path: Path, records: Records | None = None, *, pause: Callable[[], None] | None = None) -> Iterator[dict[str, Any] | None]:
    """Yield the records of a log as they are written, and None whenever it has none for now. It does not end by itself.

    A file under the same name that is another one, or has become shorter, is read from its start. `records` selects and counts, as
    ``read_records(on_error="skip", where=...)`` without a path does. After each None `pause` is called, by default a sleep of 0.2 seconds.
    """
    records = read_records(on_error="skip") if records is None else records
    path, number = os.fspath(path), 0
    file = _open(path)
    rest, gone = b"", False
    try:
        while True:
            rest += file.readline()
            if rest.endswith(b"\n") or (gone and rest):
                number, line, rest = number + 1, rest, b""
                yield from records.take(line, path, number)
            elif gone:  # and what was written between our last reading and the rotation is read
                file.close()
                file, number, gone = _open(path), 0, False
            else:
                yield None
                (pause or _sleep)()
                gone = path != "-" and _replaced(path, file)
    finally:
        if path != "-":
            file.close()


def _sleep() -> None:
    time.sleep(_PAUSE)


def _open(path: str) -> BinaryIO:
    return sys.stdin.buffer if path == "-" else open(path, "rb")


def _replaced(path: str, file: BinaryIO) -> bool:
    try:
        there, here = os.stat(path), os.fstat(file.fileno())
    except FileNotFoundError:  # between rename and create
        return False
    return (there.st_dev, there.st_ino) != (here.st_dev, here.st_ino) or there.st_size < file.tell()
