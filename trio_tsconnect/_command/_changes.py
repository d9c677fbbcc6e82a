"""Which of a set of files have changed since they were last looked at.

Invariant: no change is lost. What is written while the files are being loaded counts as changed at the next look.

A file is looked at by its path each time, so a file that an editor replaces by renaming another one counts as changed. A missing file does
not count: it is about to be replaced, or whoever imports it is about to be changed.
"""

from __future__ import annotations

import os
from collections.abc import Iterable
from pathlib import Path

_COARSE = 0.02
"""Seconds by which the times of files may lag behind the clock: systems stamp them with the time of the last tick."""

Stamp = tuple[int, int, int]
"""What tells two states of a file apart: time of its last change, size, and the number of the file in its file system."""


class Watched:
    """Files, and the state in which each was last seen."""

    def __init__(self) -> None:
        self._seen: dict[Path, Stamp | None] = {}

    def follow(self, files: Iterable[Path], since: float) -> None:
        """Watch these files and no others. A file that is new here counts as changed if it was written or moved after the time `since`."""
        self._seen = {file: self._seen[file] if file in self._seen else _stamp_until(file, since) for file in files}

    def changed(self) -> list[Path]:
        """Return the files that have changed since the last call."""
        now = {file: _stamp(file) for file in self._seen}
        changed = [file for file, stamp in now.items() if stamp is not None and stamp != self._seen[file]]
        self._seen.update((file, now[file]) for file in changed)
        return changed


def _stamp(file: Path) -> Stamp | None:
    try:
        facts = os.stat(file)
    except OSError:
        return None
    return facts.st_mtime_ns, facts.st_size, facts.st_ino


def _stamp_until(file: Path, since: float) -> Stamp | None:
    try:
        facts = os.stat(file)
    except OSError:
        return None
    return None if max(facts.st_mtime, facts.st_ctime) > since - _COARSE else _stamp(file)
