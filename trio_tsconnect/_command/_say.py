"""What the command says, and how it gives up. The law: one fault is one line on standard error, and exit status 2."""

from __future__ import annotations

import contextlib
import sys


class CommandError(Exception):
    """Something the command cannot go on with; its text is one line for whoever typed it."""


def say(text: str) -> None:
    """A line on standard error, at once; nobody may be there to read it."""
    with contextlib.suppress(OSError, ValueError):
        print(text, file=sys.stderr, flush=True)


def printable(text: object) -> str:
    """Text that strangers sent, made harmless: nothing of it may steer the reader's terminal or begin another line."""
    return "".join(char if char.isprintable() else ascii(char)[1:-1] for char in str(text))


def why(error: OSError) -> str:
    """What the operating system said, in its words, without the number."""
    return (error.strerror or str(error) or type(error).__name__).lower()
