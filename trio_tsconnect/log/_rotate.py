"""A log file that starts anew when it is large or old, and keeps some of its predecessors.

Invariant: a file is changed only between two lines, so every line is whole in one file.

All of this happens in the worker thread of the log. Compression has a thread of its own, because it may take longer than the log can wait.
A predecessor is named after the time at which it was closed, so no file is renamed twice.
"""

from __future__ import annotations

import contextlib
import gzip
import os
import re
import shutil
import stat
import threading
import time
from pathlib import Path

import attrs

from trio_tsconnect._util import public
from trio_tsconnect.log._sink import Destination, Sink, complain

_packing = threading.Lock()  # one compression at a time: a file and the one opened in its place may have the same predecessors
_CLOSED = re.compile(r"\.\d{8}T\d{6}\.\d{6}Z(?:-\d+)?")


@public("trio_tsconnect.log")
@attrs.frozen(kw_only=True)
class Rotation:
    """When a log file is replaced by a new one, and what is kept. Without `size` and `every` it never is."""

    size: int | None = None
    """Bytes that the file may have. A line that is longer has a file of its own."""
    every: float | None = None
    """Seconds after which the file is replaced, counted from the epoch: with 86400 at midnight UTC."""
    keep: int | None = 7
    """Number of predecessors that are kept. None keeps all."""
    compress: bool = False
    """Whether predecessors are compressed with gzip."""


class RotatingFile(Destination):
    """A file that lines are appended to, with rotation."""

    def __init__(self, path: str | os.PathLike[str], rotation: Rotation) -> None:
        self.name = os.fspath(path)
        self._path = Path(path)
        self._rotation = rotation
        self._packer: threading.Thread | None = None
        self._changing = threading.Lock()
        self._replaced = False
        self._sink = self._opened()

    def _opened(self) -> Sink:
        sink = Sink.open(self._path)
        facts = self._path.stat()
        self._rotates = stat.S_ISREG(facts.st_mode)
        self._size = facts.st_size
        self._period = self._period_of(facts.st_mtime if facts.st_size else time.time())
        self._within_line = False
        return sink

    def _period_of(self, moment: float) -> int:
        return int(moment // self._rotation.every) if self._rotation.every else 0

    def append(self, data: memoryview) -> tuple[int, Exception | None]:
        """Write `data`, and change files before lines that no longer fit or belong to a later period."""
        done = 0
        while done < len(data):
            try:
                part = self._next_part(data[done:])
            except OSError as failure:
                return done, failure
            count, error = self._sink.append(part)
            done += count
            self._size += count
            if count:
                self._within_line = data[done - 1] != 10
            if error is not None:
                return done, error
        return done, None

    def _next_part(self, data: memoryview) -> memoryview:
        """Return what is written to the present file at once. Changes the file first, if that is due."""
        if not self._rotates or self._within_line:
            return data[: _end_of_lines(data, 1)] if self._rotates else data
        if self._size and self._is_due(data):
            self._rotate()
        limit = self._rotation.size
        return data if limit is None else data[: _end_of_lines(data, max(1, limit - self._size))]

    def _is_due(self, data: memoryview) -> bool:
        limit = self._rotation.size
        full = limit is not None and self._size + _end_of_lines(data, 1) > limit
        return full or self._period_of(time.time()) > self._period

    def _rotate(self) -> None:
        """Give the file its final name and open a new one. Raises `OSError` if that cannot be opened; the next call tries again."""
        with self._changing:
            if not self._replaced:  # otherwise the path belongs to the file that was opened in its place
                self._change()

    def _change(self) -> None:
        before = self._sink
        try:
            self._path.rename(self._free_name())
        except FileNotFoundError:
            pass  # another program has moved or removed it
        except OSError as error:
            complain(f"cannot rotate the log {self.name}, which stays in use: {error}")
            self._size, self._period = 0, self._period_of(time.time())  # tried again when the file would be due again
            return
        self._sink = self._opened()
        before.close()
        self._tidy()

    def _free_name(self) -> Path:
        moment = time.time()
        stamp = time.strftime("%Y%m%dT%H%M%S", time.gmtime(moment)) + f".{int(moment % 1 * 1_000_000):06d}Z"
        name, count = self._path.with_name(f"{self._path.name}.{stamp}"), 0
        while name.exists() or name.with_name(f"{name.name}.gz").exists():
            count += 1
            name = self._path.with_name(f"{self._path.name}.{stamp}-{count}")
        return name

    def _tidy(self) -> None:
        """Remove predecessors beyond `keep`, and start to compress the others. A failure is reported; the log goes on."""
        try:
            old = predecessors(self._path)
            if self._rotation.keep is not None:
                for path in old[: max(0, len(old) - self._rotation.keep)]:
                    path.unlink(missing_ok=True)
        except OSError as error:
            complain(f"cannot remove old files of the log {self.name}: {error}")
        if self._rotation.compress and (self._packer is None or not self._packer.is_alive()):
            self._packer = threading.Thread(target=_compress_all, args=[self._path], name="compress log", daemon=True)
            self._packer.start()

    def reopened(self) -> RotatingFile:
        """Return the path opened again. From then on this file is not rotated."""
        with self._changing:
            fresh = RotatingFile(self._path, self._rotation)
            self._replaced = True
        return fresh

    def close(self) -> None:
        """Close the file. A compression that runs goes on; one that is cut off is done again at the next rotation."""
        self._sink.close()


def _end_of_lines(data: memoryview, room: int) -> int:
    """Return the length of the whole lines that fit in `room`; of the first line if none does."""
    if room >= len(data):
        return len(data)
    within = bytes(data[:room]).rfind(b"\n") + 1
    if within:
        return within
    for end in range(room, len(data)):
        if data[end] == 10:
            return end + 1
    return len(data)


def predecessors(path: Path) -> list[Path]:
    """Return the files that a log file was rotated to, the oldest first."""
    start = len(path.name)
    found = [
        each
        for each in path.parent.iterdir()
        if each.name.startswith(path.name) and _CLOSED.fullmatch(each.name.removesuffix(".gz")[start:])
    ]
    return sorted(found, key=lambda each: each.name.removesuffix(".gz"))


def _compress_all(path: Path) -> None:
    with _packing, contextlib.suppress(FileNotFoundError):
        for each in predecessors(path):
            if each.suffix != ".gz":
                _compress(each)


def _compress(path: Path) -> None:
    """Replace a file by its compressed form. The new file has its name only when it is complete."""
    part = path.with_name(f"{path.name}.part")
    try:
        with path.open("rb") as source, gzip.open(part, "wb") as target:
            shutil.copyfileobj(source, target)
        part.rename(path.with_name(f"{path.name}.gz"))
        path.unlink()
    except FileNotFoundError:  # removed in the meantime, because more than `keep` have followed
        part.unlink(missing_ok=True)
    except OSError as error:
        part.unlink(missing_ok=True)
        complain(f"cannot compress {path}: {error}")
