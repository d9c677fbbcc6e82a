"""`DataKey`: typed values that plugins keep with a transaction or a session.

Invariant: two keys never share a value, whatever they are made of, because each key is an object of its own.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Generic, TypeVar, cast

from trio_tsconnect._util import public
from trio_tsconnect.hooks._session import Session
from trio_tsconnect.hooks._transaction import Transaction

T = TypeVar("T")


@public("trio_tsconnect")
class DataKey(Generic[T]):
    """A typed entry of `Transaction.data` or `Session.data`.

    `make()` returns the initial value, when `of` is first called for a transaction or session. With `inherit`, a child transaction gets the
    value of its parent, the same object. Make one key for each purpose, as an attribute of the plugin class or of the module.

    >>> STARTED = DataKey(list[float])
    """

    __slots__ = ("_inherit", "_make")

    def __init__(self, make: Callable[[], T], *, inherit: bool = False) -> None:
        if not callable(make):
            raise TypeError(f"make must be callable and return the initial value, not {make!r}")
        self._make = make
        self._inherit = inherit

    def of(self, owner: Transaction | Session) -> T:
        """Return the value for a transaction or session."""
        if self not in owner.data:
            parent = owner.parent if self._inherit and isinstance(owner, Transaction) else None
            owner.data[self] = self._make() if parent is None else self.of(parent)
        return cast("T", owner.data[self])

    def set(self, owner: Transaction | Session, value: T) -> None:
        """Set the value for a transaction or session."""
        owner.data[self] = value
