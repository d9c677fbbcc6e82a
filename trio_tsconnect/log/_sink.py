"""A file that lines are appended to. The law: what was written is known to the byte, so a failed write is taken up where it stopped."""

from __future__ import annotations

import contextlib
import errno
import os
import selectors
import stat
import sys
from typing import BinaryIO

_LONGEST_WAIT = 1.0
_Selector: type[selectors.BaseSelector] = getattr(
    selectors, "PollSelector", selectors.SelectSelector
)  # select itself ends at descriptor 1023


class Sink:
    """A binary file, unbuffered if it can be; `append` blocks, so it belongs in a worker thread."""

    def __init__(self, file: BinaryIO, name: str, *, ours: bool) -> None:
        with contextlib.suppress(OSError, ValueError):
            file.flush()
        self.name = name
        # Past a buffer, nobody could say how much of a failed write went out.
        self._file: BinaryIO = getattr(file, "raw", file)
        self._ours = ours

    @classmethod
    def open(cls, path: str | os.PathLike[str]) -> Sink:
        """Open `path` for appending, after the line that a killed process may have left unfinished."""
        file = open(path, "ab", buffering=0)  # noqa: SIM115 - it lives as long as the sink
        sink = cls(file, os.fspath(path), ours=True)
        try:
            if _ends_within_a_line(path, file.fileno()):
                file.write(b"\n")
        except OSError:
            file.close()
            raise
        return sink

    def append(self, data: memoryview) -> tuple[int, Exception | None]:
        """Write `data`; how much of it went out, and what stopped the rest."""
        done = 0
        try:
            while done < len(data):
                count: int | None = self._file.write(data[done:])
                if not count:
                    self._wait_for_room()
                else:
                    done += count
            self._file.flush()
        except Exception as error:  # noqa: BLE001 - anyone's file object; the log outlives it
            return done, error
        return done, None

    def _wait_for_room(self) -> None:
        """Nothing went out of a descriptor that someone made non-blocking, as terminals and pipes that are shared can be."""
        with _Selector() as selector:
            selector.register(self._file, selectors.EVENT_WRITE)
            ready = selector.select(_LONGEST_WAIT)
        if not ready:
            raise BlockingIOError(errno.EAGAIN, "the reader does not keep up")

    def close(self) -> None:
        """Close the file, unless it is someone else's."""
        if self._ours:
            with contextlib.suppress(OSError):
                self._file.close()


def _ends_within_a_line(path: str | os.PathLike[str], descriptor: int) -> bool:
    facts = os.fstat(descriptor)
    if not stat.S_ISREG(facts.st_mode) or facts.st_size == 0:
        return False
    try:
        with open(path, "rb") as file:
            file.seek(-1, os.SEEK_END)
            return file.read(1) != b"\n"
    except OSError:  # one may be allowed to append and not to read
        return False


def complain(text: str) -> None:
    """Say `text` on standard error, if there is one."""
    with contextlib.suppress(OSError, ValueError, AttributeError):
        sys.stderr.write(f"trio_tsconnect: {text}\n")
        sys.stderr.flush()
