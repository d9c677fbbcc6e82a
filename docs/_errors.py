"""Every error text that a user can meet, read off the code: the table of errors.md."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

import trio_tsconnect

_SOURCES = Path(trio_tsconnect.__path__[0])
_NOT_FOR_USERS = {"AssertionError", "StopAsyncIteration", "StopIteration", "NotImplementedError", "BrokenOff", "Again", "Hung"}
_ENDINGS = ("Error", "Failure", "Refused", "State", "Rejected", "Failed", "Disconnected")
_ROOMS = {"": "trio_tsconnect", "_command": "the command"}


def table() -> str:
    """The texts, room by room, in the order of the alphabet; what the code fills in stands in braces."""
    rows = sorted(set(_rows()), key=lambda row: (row[0], row[2].lower()))
    lines = [f"| {room} | `{kind}` | {text} |" for room, kind, text in rows]
    return "\n".join(["| where | error | text |", "|---|---|---|", *lines])


def _rows() -> Iterator[tuple[str, str, str]]:
    for file in sorted(_SOURCES.rglob("*.py")):
        parts = file.relative_to(_SOURCES).parts
        room = parts[0] if len(parts) > 1 else ""
        for kind, text in _errors_of(ast.parse(file.read_text(encoding="utf-8"))):
            yield _ROOMS.get(room, room), kind, text


def _errors_of(tree: ast.AST) -> Iterator[tuple[str, str]]:
    for node in ast.walk(tree):
        if isinstance(node, ast.ClassDef) and node.name.endswith(_ENDINGS):
            for call in ast.walk(node):  # a class that words its text itself
                if isinstance(call, ast.Call) and ast.unparse(call.func) == "super().__init__":
                    yield from _worded(node.name, call)
        match node:
            case ast.Call(func=ast.Name(id=kind)) if kind.endswith(_ENDINGS) or kind.startswith("Bad"):
                yield from _worded(kind, node)
            case ast.Call(func=ast.Attribute(attr="_error") | ast.Name(id="error")):
                yield from _worded("BadRequest, BadResponse", node)  # whichever side is read


def _worded(kind: str, call: ast.Call) -> Iterator[tuple[str, str]]:
    """The first argument that is a sentence."""
    texts = (_text(argument) for argument in call.args)
    text = next((text for text in texts if text is not None and " " in text), None)
    if text is not None and kind not in _NOT_FOR_USERS:
        yield kind, text.replace("|", "\\|").replace("\n", " ")


def _text(node: ast.expr) -> str | None:
    match node:
        case ast.Constant(value=str(text)):
            return text.replace("{", "\\{")
        case ast.JoinedStr(values=values):
            return "".join(_text(value) or "" for value in values)
        case ast.FormattedValue(value=value):
            return "{" + _name(value) + "}"
        case ast.BinOp(left=left, op=ast.Add(), right=right):
            return f"{_text(left) or ''}{_text(right) or ''}"
        case _:
            return None


def _name(node: ast.expr) -> str:
    """A short name for what is filled in."""
    match node:
        case ast.Name(id=name) | ast.Attribute(attr=name):
            return name.strip("_")
        case ast.Call(func=ast.Name(id=name) | ast.Attribute(attr=name)) if not node.args:
            return name.strip("_")
        case ast.Call(args=[first, *_]):
            return _name(first)
        case ast.Subscript(value=value):
            return _name(value)
        case _:
            return "..."
