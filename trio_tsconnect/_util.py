"""Helpers for all packages of `trio_tsconnect`. This module imports none of them.

Invariant: nothing in this module depends on HTTP.
"""

from __future__ import annotations

import difflib
from collections.abc import Callable, Iterable
from typing import TypeVar

T = TypeVar("T")


def lacks(extra: str, what: str, missing: ModuleNotFoundError) -> ModuleNotFoundError:
    """Return an error that names the missing extra, to raise in place of `missing`, which names only an imported module."""
    return ModuleNotFoundError(f"{what} needs the extra {extra}: pip install 'trio-tsconnect[{extra}]'", name=missing.name)


def did_you_mean(name: str, known: Iterable[str]) -> str:
    """Return `; did you mean "x"?` if a known name is similar to `name`; otherwise a list of the known names."""
    names = list(known)
    near = difflib.get_close_matches(name, names, n=1, cutoff=0.65)
    return f'; did you mean "{near[0]}"?' if near else f", expected one of {', '.join(names)}"


def public(module: str) -> Callable[[T], T]:
    """Return a decorator that sets `__module__` of a class or function to the package that re-exports it, for tracebacks, reprs and
    documentation.

    `module` is the package from which users import the name. Apply the decorator outermost, above `attrs.frozen`, which makes a new class:

        @public("trio_tsconnect")
        class ConnectRefused(Exception): ...

    `typing.get_type_hints` resolves names in that package. If the annotations of a class use a name that the package does not export (and,
    for example, cattrs reads them), call `attrs.resolve_types` on the class first.
    """

    def show(thing: T) -> T:
        thing.__module__ = module
        return thing

    return show
