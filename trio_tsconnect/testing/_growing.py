"""A list whose growth a test can wait for, because the engine or an origin appends to it asynchronously."""

from __future__ import annotations

from typing import TypeVar

import trio

from trio_tsconnect._util import public

T = TypeVar("T")


@public("trio_tsconnect.testing")
class Growing(list[T]):
    """A list to which other tasks append, and whose length can be waited for."""

    def __init__(self) -> None:
        super().__init__()
        self._grown = trio.Event()

    def append(self, item: T) -> None:
        """Append an item, and wake the tasks in `wait`."""
        super().append(item)
        self._grown.set()

    async def wait(self, count: int = 1, *, timeout: float = 60) -> Growing[T]:
        """Wait until the list has at least `count` items, and return the list. Raises `AssertionError` after `timeout` trio seconds."""
        with trio.move_on_after(timeout):
            while len(self) < count:
                self._grown = trio.Event()
                await self._grown.wait()
            return self
        raise AssertionError(f"expected {count} items within {timeout:g} s, got {len(self)}: {list(self)!r}")
