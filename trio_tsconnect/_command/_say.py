"""Messages and errors of the command. Invariant: an error is one line on standard error, and the exit status is 2."""

from __future__ import annotations

import contextlib
import sys


class CommandError(Exception):
    """An error that ends the command. The text is one line for the user."""


def say(text: str) -> None:
    """Print a line to standard error and flush it. Errors are ignored."""
    with contextlib.suppress(OSError, ValueError):  # standard error may be closed, or a pipe without a reader
        print(text, file=sys.stderr, flush=True)


def printable(text: object) -> str:
    """Escape unprintable characters. Text from clients must not send control sequences to the terminal or begin a new line."""
    return "".join(char if char.isprintable() else ascii(char)[1:-1] for char in str(text))


def why(error: OSError) -> str:
    """Return the operating system's error message in lower case, without the error number."""
    return (error.strerror or str(error) or type(error).__name__).lower()
