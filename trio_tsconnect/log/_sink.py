"""A file that lines are appended to.

Invariant: the number of bytes written is always known, so a failed write continues where it stopped.
"""

from __future__ import annotations

import abc
import contextlib
import errno
import os
import selectors
import stat
import sys
from typing import BinaryIO

from trio_tsconnect._util import public

_LONGEST_WAIT = 1.0
_Selector: type[selectors.BaseSelector] = getattr(
    selectors, "PollSelector", selectors.SelectSelector
)  # select() supports descriptors up to 1023 only


@public("trio_tsconnect.log")
class Destination(abc.ABC):
    """Where a `LineLog` writes its lines. One thread at a time calls it."""

    name: str = ""
    """Name of the destination for messages to people."""
    lost: int = 0
    """Records that it has refused for good since the log last looked. The log counts them as dropped and sets this to 0."""

    @abc.abstractmethod
    def append(self, data: memoryview) -> tuple[int, Exception | None]:
        """Write `data`, which is lines or the rest of lines. Return the bytes written, and what prevented the rest, or None.

        Called in a worker thread, so it may block. The log calls again with the rest.
        """

    @abc.abstractmethod
    def close(self) -> None:
        """Close the destination. Never blocks and never raises."""

    def reopened(self) -> Destination | None:
        """Return a new destination for the same path, or None if there is nothing to reopen. Raises `OSError`."""
        return None


class Sink(Destination):
    """A binary file, unbuffered if possible. `append` blocks, so call it in a worker thread."""

    def __init__(self, file: BinaryIO, name: str, *, ours: bool, path: str | os.PathLike[str] | None = None) -> None:
        with contextlib.suppress(OSError, ValueError):
            file.flush()
        self.name = name
        # Bypass the buffer: with one, the number of bytes written before a failure would be unknown.
        self._file: BinaryIO = getattr(file, "raw", file)
        self._ours = ours
        self._path = path

    @classmethod
    def open(cls, path: str | os.PathLike[str]) -> Sink:
        """Open `path` for appending. Ends an incomplete last line, which a killed process may have left. Raises `OSError`."""
        file = open(path, "ab", buffering=0)  # noqa: SIM115 - it lives as long as the sink
        sink = cls(file, os.fspath(path), ours=True, path=path)
        try:
            if _ends_within_a_line(path, file.fileno()):
                file.write(b"\n")
        except OSError:
            file.close()
            raise
        return sink

    def append(self, data: memoryview) -> tuple[int, Exception | None]:
        """Write `data`. Return the number of bytes written, and the exception that prevented the rest, or None."""
        done = 0
        try:
            while done < len(data):
                count: int | None = self._file.write(data[done:])
                if not count:
                    self._wait_for_room()
                else:
                    done += count
            self._file.flush()
        except Exception as error:  # noqa: BLE001 - the file object of a caller may raise anything, and the log goes on
            return done, error
        return done, None

    def _wait_for_room(self) -> None:
        """Wait until the descriptor is writable: shared terminals and pipes may be non-blocking. Raises `BlockingIOError` after 1 s."""
        with _Selector() as selector:
            selector.register(self._file, selectors.EVENT_WRITE)
            ready = selector.select(_LONGEST_WAIT)
        if not ready:
            raise BlockingIOError(errno.EAGAIN, "the reader of the log reads too slowly")

    def reopened(self) -> Sink | None:
        """Return the path opened again; None for a file of the caller."""
        return None if self._path is None else type(self).open(self._path)

    def close(self) -> None:
        """Close the file, unless it belongs to the caller."""
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
    except OSError:  # the file may be writable but not readable
        return False


def complain(text: str) -> None:
    """Print `text` on standard error, if there is one. Never raises `OSError`."""
    with contextlib.suppress(OSError, ValueError, AttributeError):
        sys.stderr.write(f"trio_tsconnect: {text}\n")
        sys.stderr.flush()
