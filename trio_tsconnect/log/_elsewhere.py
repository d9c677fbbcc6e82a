"""Lines for another program, and for Python's `logging`. Invariant: a program that has ended or does not read costs records, not the log."""

from __future__ import annotations

import logging
import os
import subprocess
import threading

from trio_tsconnect.log._sink import Destination, Sink, complain


class Command(Destination):
    """A program that the shell runs, which reads the lines from its standard input. It is started again if it has ended."""

    def __init__(self, command: str) -> None:
        self.name = f"|{command}"
        self._command = command
        self._process, self._sink = self._start()
        self._begun = b""

    def _start(self) -> tuple[subprocess.Popen[bytes], Sink]:
        # A session of its own: a Ctrl-C in the terminal must not end the program before the log has written its last records.
        process = subprocess.Popen(["/bin/sh", "-c", self._command], stdin=subprocess.PIPE, bufsize=0, start_new_session=True)
        assert process.stdin is not None
        os.set_blocking(process.stdin.fileno(), False)
        return process, Sink(process.stdin, self.name, ours=True)  # type: ignore[arg-type]  # it is binary

    def append(self, data: memoryview) -> tuple[int, Exception | None]:
        """Write `data`. A new program gets a line that was interrupted from its start."""
        begun = b""
        if self._process.poll() is not None:
            complain(f"the command of the log has ended with {self._process.returncode} and is started again: {self._command}")
            self._sink.close()
            try:
                self._process, self._sink = self._start()
            except OSError as error:
                return 0, error
            begun = self._begun
        count, failure = self._sink.append(memoryview(begun + bytes(data)) if begun else data)
        count = max(0, count - len(begun))
        self._begun = (self._begun + bytes(data[:count])).rpartition(b"\n")[2]
        return count, failure

    def close(self) -> None:
        """Close the standard input of the program, which then ends by itself."""
        self._sink.close()
        threading.Thread(target=self._process.wait, name="wait for log command", daemon=True).start()


class PythonLogging(Destination):
    """A logger of `logging`. Each line is one message of level INFO, logged in a worker thread."""

    def __init__(self, name: str) -> None:
        self.name = f"logging:{name}"
        self._logger = logging.getLogger(name)

    def append(self, data: memoryview) -> tuple[int, Exception | None]:
        """Log each line. What a handler raises is for `logging` to report; a filter or a handler that raises costs its record."""
        for line in bytes(data).decode("utf-8", "replace").split("\n")[:-1]:
            try:
                self._logger.info("%s", line)
            except Exception:  # noqa: BLE001 - a filter of the program
                self.lost += 1
        return len(data), None

    def close(self) -> None:
        """Do nothing: loggers belong to the program."""
