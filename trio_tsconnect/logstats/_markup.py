"""Elements of HTML and SVG, made from text that may be hostile.

Invariant: a `str` reaches the page escaped. Only `tag` and `join_markup` make `Markup`, so no text becomes an element.
"""

from __future__ import annotations

import html
from collections.abc import Iterable

LONGEST_TEXT = 300
"""Characters of one text that are shown; the middle of a longer one is left out."""

_VOID = frozenset({"meta", "link", "wbr"})
_SHAPES = frozenset({"rect", "line", "circle"})


class Markup(str):
    """Text that is HTML already, and is not escaped again."""

    __slots__ = ()


def text(value: object) -> str:
    """Return a value from a log as one line of printable text of limited length. Unprintable characters are written as escapes.

    Surrogates cannot be encoded, and a character that changes the direction of writing could make a line say something else.
    """
    whole = value if isinstance(value, str) else "–" if value is None else str(value)
    if len(whole) > LONGEST_TEXT:
        whole = f"{whole[: LONGEST_TEXT // 2]} … {whole[-LONGEST_TEXT // 2 :]}"
    return "".join(char if char.isprintable() else ascii(char)[1:-1] for char in whole)


def escape(value: object) -> Markup:
    """Return `value` as HTML text, unless it is `Markup`."""
    return value if isinstance(value, Markup) else Markup(html.escape(text(value), quote=True))


def tag(element: str, *content: object, **attributes: object) -> Markup:
    """Return an element with its content, both escaped.

    The name of an attribute is given without the underscore at its end, and with ``-`` for others: ``class_``, ``aria_label``. An
    attribute that is None is left out.
    """
    words = "".join(
        f' {name.rstrip("_").replace("_", "-")}="{html.escape(text(value), quote=True)}"'
        for name, value in attributes.items()
        if value is not None
    )
    if element in _VOID:
        return Markup(f"<{element}{words}>")
    if element in _SHAPES and not content:
        return Markup(f"<{element}{words}/>")
    return Markup(f"<{element}{words}>{''.join(map(escape, content))}</{element}>")


def join_markup(parts: Iterable[object], between: str = "") -> Markup:
    """Return the parts one after another, each escaped unless it is `Markup`."""
    return Markup(html.escape(between).join(map(escape, parts)))


def breakable(value: object) -> Markup:
    """Return `value` with places after ``_`` and ``/`` at which a line may end."""
    return Markup(str(escape(value)).replace("_", "_<wbr>").replace("/", "/<wbr>"))
