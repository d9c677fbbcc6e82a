"""Tables for a terminal. Invariant: no unprintable character of a log reaches the terminal."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from trio_tsconnect._util import public

_WIDEST = 160


@public("trio_tsconnect.logstats")
def text_table(title: str, header: Sequence[str], rows: Iterable[Sequence[object]]) -> str:
    """Return rows as aligned lines below a title. The first column is aligned to the left, the others to the right. Unprintable
    characters are escaped.
    """
    cells = [[printable(str(cell)) for cell in row] for row in (header, *rows)]
    if len(cells) == 1:
        return f"{title}: none"
    widths = [max(map(len, column)) for column in zip(*cells, strict=True)]
    lines = ["  ".join([row[0].ljust(widths[0]), *map(str.rjust, row[1:], widths[1:])]) for row in cells]
    return "\n".join([title, *(f"  {line}".rstrip() for line in lines)])


def printable(text: str) -> str:
    """Escape unprintable characters. A log contains text from clients, which must not send control sequences to the reader's terminal."""
    return "".join(char if char.isprintable() else ascii(char)[1:-1] for char in text)


def cut(text: str) -> str:
    """Return printable text of a bounded length."""
    text = printable(text)
    return text if len(text) <= _WIDEST else text[: _WIDEST - 3] + "..."


def share(part: int, whole: int) -> str:
    """Return a part of a whole in per cent."""
    return f"{100 * part / whole:.1f} %" if whole else "-"


def times(*seconds: float | None) -> list[str]:
    """Return times in milliseconds."""
    return ["-" if each is None else f"{1000 * each:.1f}" for each in seconds]
