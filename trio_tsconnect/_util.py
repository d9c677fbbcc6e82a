"""What every room may lean on; it knows none of them.

The one law here: nothing in this file knows what HTTP is.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeVar

T = TypeVar("T")


def lacks(extra: str, what: str, missing: ModuleNotFoundError) -> ModuleNotFoundError:
    """The error for a part of the package whose extra is not installed, in place of the one that names a module nobody asked for."""
    return ModuleNotFoundError(f"{what} needs the extra {extra}: pip install 'trio-tsconnect[{extra}]'", name=missing.name)


def public(module: str) -> Callable[[T], T]:
    """Show a class or function under the package that re-exports it, in tracebacks, reprs and the documentation.

    `module` is the package users import the name from. The decorator goes outermost, above `attrs.frozen`, which makes a new class:

        @public("trio_tsconnect")
        class ConnectRefused(Exception): ...

    `typing.get_type_hints` looks names up in the package given here: a class whose annotations name something that package does not
    export (and that is read by cattrs, say) should have had `attrs.resolve_types` called on it first.
    """

    def show(thing: T) -> T:
        thing.__module__ = module
        return thing

    return show
