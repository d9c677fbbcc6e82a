"""The fields of a log, by name and kind. Invariant: the fields are those of `LogRecord`, and no list of them is kept here."""

from __future__ import annotations

import difflib
import enum
from collections.abc import Iterable

import attrs

from trio_tsconnect.hooks import State
from trio_tsconnect.log import Ended, LogRecord


class Kind(enum.Enum):
    """What the values of a field are. The values of this enum are the names for users."""

    INT = "a number"
    """A whole number."""
    FLOAT = "a number with a fraction"
    """A number with a fraction, such as seconds."""
    TEXT = "text"
    """Text."""
    BOOL = "true or false"
    """A truth value."""
    TIME = "a time"
    """A moment, as ISO 8601 text."""
    ANY = "any value"
    """Whatever a plugin wrote."""


STATES = tuple(state.value for state in State)
"""The names of the milestones."""

_BY_TYPE = {"int": Kind.INT, "float": Kind.FLOAT, "str": Kind.TEXT, "bool": Kind.BOOL}
_TYPES = {field.name: str(field.type).removesuffix(" | None") for field in attrs.fields(LogRecord)}

FIELDS: tuple[str, ...] = tuple(_TYPES)
"""The names of all fields, in the order of the line."""

KINDS: dict[str, Kind] = {name: _BY_TYPE[of] for name, of in _TYPES.items() if of in _BY_TYPE} | {"time": Kind.TIME}
"""The kind of each field that has one value."""

_INNER: dict[str, tuple[Kind, tuple[str, ...] | None]] = {
    "dict[str, float]": (Kind.FLOAT, STATES),
    "dict[str, str]": (Kind.TEXT, None),
    "Ended": (Kind.TEXT, tuple(field.name for field in attrs.fields(Ended))),
}

GROUPS: dict[str, tuple[Kind, tuple[str, ...] | None]] = {
    name: _INNER.get(of, (Kind.ANY, None)) for name, of in _TYPES.items() if name not in KINDS
}
"""The fields that have fields of their own: their kind, and their names if these are fixed."""


class UnknownField(ValueError):
    """A name is not that of a field."""


def kind_of(path: tuple[str, ...]) -> Kind:
    """Return the kind of the field with this dotted name. Raises `UnknownField`, which names the nearest names."""
    first, *rest = path
    if first in KINDS and not rest:
        return KINDS[first]
    if first in GROUPS:
        kind, names = GROUPS[first]
        if names is None and len(rest) >= 1 and (kind is Kind.ANY or len(rest) == 1):
            return kind
        if names is not None and len(rest) == 1 and rest[0] in names:
            return kind
    raise UnknownField(f"no field {'.'.join(path)!r}{nearest('.'.join(path), _all_names())}")


def nearest(name: str, names: Iterable[str]) -> str:
    """Return the names that resemble `name`, as the end of an error message; empty if there are none."""
    found = difflib.get_close_matches(name, list(names), n=3, cutoff=0.5)
    if not found:
        return ""
    return f"; the nearest is {found[0]}" if len(found) == 1 else f"; the nearest are {', '.join(found)}"


def _all_names() -> list[str]:
    inner = [f"{group}.{name}" for group, (_, names) in GROUPS.items() for name in names or ("NAME",)]
    return [*KINDS, *inner]
