"""The API reference, a page for each room, from the docstrings: what `make docs` adds to the pages that are written by hand."""

from __future__ import annotations

import ast
import importlib
import inspect
import itertools
import re
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from types import FunctionType, ModuleType
from typing import Any

import trio_tsconnect

ROOMS = ("", "http2", "clients", "asgi", "plugins", "log", "logstats", "testing", "hooks", "config", "message", "stream", "origin")
"""The packages that users import from, in the order of the reference; "" is `trio_tsconnect` itself."""
SOURCES = Path(trio_tsconnect.__path__[0])
_DOCTEST = re.compile(r"^>>> .*?(?=\n\n|\Z)", re.MULTILINE | re.DOTALL)


def rooms() -> Iterator[tuple[str, ModuleType]]:
    """Each package that is in the reference, with its name."""
    for room in ROOMS:
        name = f"trio_tsconnect.{room}".rstrip(".")
        yield name, importlib.import_module(name)


def public_names(module: ModuleType) -> dict[str, Any]:
    """What a package shows, without what the top package shows already, in the order of the alphabet, classes and functions first."""
    names = {
        name: value
        for name, value in vars(module).items()
        if not name.startswith("_") and not isinstance(value, ModuleType) and name != "annotations"
    }
    if module is not trio_tsconnect:
        names = {name: value for name, value in names.items() if getattr(trio_tsconnect, name, None) is not value}
    return dict(sorted(names.items(), key=lambda item: (not callable(item[1]), item[0].lower())))


def page(name: str, module: ModuleType) -> str:
    """The page of one package."""
    parts = [f"# {name}", _text(inspect.getdoc(module) or "")]
    for each, value in public_names(module).items():
        parts += list(_entry(each, value))
    return "\n\n".join(part for part in parts if part) + "\n"


def _entry(name: str, value: Any) -> Iterator[str]:
    yield f"## `{name}`"
    if inspect.isclass(value):
        yield from _class(name, value)
    elif inspect.isroutine(value) or hasattr(value, "__wrapped__"):
        yield f"```python\n{_signature(name, value)}\n```"
        yield _text(inspect.getdoc(value) or "")
    else:
        yield _constant(name, value)


def _class(name: str, kind: type) -> Iterator[str]:
    bases = [base.__name__ for base in kind.__bases__ if base not in (object,) and base.__module__ != "typing"]
    if issubclass(kind, BaseException):
        yield f"*Exception*, a `{bases[0]}`."
    elif bases:
        yield f"A `{', '.join(bases)}`." if bases != ["ABC"] else ""
    yield _text(inspect.getdoc(kind) or "")
    attributes = attributes_of(kind)
    if attributes:
        yield "\n".join(["| attribute | |", "|---|---|", *(f"| `{each}` | {text} |" for each, text in attributes.items())])
    for each, member in vars(kind).items():
        if each.startswith("_") or each in attributes:
            continue
        function = member.__func__ if isinstance(member, staticmethod | classmethod) else member
        if isinstance(function, FunctionType) and (text := inspect.getdoc(getattr(kind, each))):
            yield f"### `{name}.{each}`"
            yield f"```python\n{_signature(each, function)}\n```"
            yield _text(text)
        elif inspect.isclass(member) and member.__qualname__.startswith(f"{kind.__name__}."):
            yield from _entry(f"{name}.{each}", member)


def attributes_of(kind: type) -> dict[str, str]:
    """The text of each documented attribute and property of a class, those of its bases in the package included."""
    found: dict[str, str] = {}
    for base in reversed(kind.__mro__):
        if base.__module__.startswith("trio_tsconnect"):
            found |= documented(*base.__qualname__.split("."))
            for name, value in vars(base).items():
                if isinstance(value, property) and not name.startswith("_") and value.__doc__:
                    found[name] = _line(value.__doc__)
    return found


def documented(*path: str) -> dict[str, str]:
    """The text under each attribute of a class, in its body or its `__init__`: attributes have no docstring that could be asked for."""
    body = _class_body(path)
    bodies = [body, *(node.body for node in body if isinstance(node, ast.FunctionDef) and node.name == "__init__")]
    return {name: _line(text) for statements in bodies for name, text in _texts_under_names(statements) if not name.startswith("_")}


def _texts_under_names(statements: list[ast.stmt]) -> Iterator[tuple[str, str]]:
    for node, after in itertools.pairwise(statements):
        match node, after:
            case (
                ast.AnnAssign(target=target) | ast.Assign(targets=[target]),
                ast.Expr(value=ast.Constant(value=str(text))),
            ):
                yield target.id if isinstance(target, ast.Name) else target.attr if isinstance(target, ast.Attribute) else "_", text


@cache
def _modules() -> list[list[ast.stmt]]:
    return [ast.parse(file.read_text(encoding="utf-8")).body for file in sorted(SOURCES.rglob("*.py"))]


def _class_body(path: tuple[str, ...]) -> list[ast.stmt]:
    for body in _modules():
        for name in path:
            body = next((node.body for node in body if isinstance(node, ast.ClassDef) and node.name == name), [])
        if body:
            return body
    return []


def _constant(name: str, value: Any) -> str:
    texts = (text for body in _modules() for each, text in _texts_under_names(body) if each == name)
    return _text(next(texts, f"`{value}`"))


def _signature(name: str, function: Any) -> str:
    try:
        signature = inspect.signature(function)
    except (TypeError, ValueError):
        return f"{name}(...)"
    parameters = [each for each in signature.parameters.values() if each.name != "self"]
    shown = str(signature.replace(parameters=parameters)).replace("'", "")
    prefix = "async " if inspect.iscoroutinefunction(function) else ""
    if len(shown) > 90:
        shown = "(\n    " + ",\n    ".join(str(each).replace("'", "") for each in parameters) + ",\n)" + shown[shown.rindex(")") + 1 :]
    return f"{prefix}def {name}{shown}"


def _text(docstring: str) -> str:
    """A docstring as Markdown: its examples become blocks of code."""
    return _DOCTEST.sub(lambda match: f"```pycon\n{match[0]}\n```", docstring.replace("``", "`"))


def _line(docstring: str) -> str:
    return " ".join(docstring.split()).replace("``", "`").replace("|", "\\|")
