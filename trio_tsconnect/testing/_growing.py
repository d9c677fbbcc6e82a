"""A list that a test can wait for: what the engine or an origin appends to it, comes when it comes."""

from __future__ import annotations

from typing import TypeVar

import trio

from trio_tsconnect._util import public

T = TypeVar("T")


@public("trio_tsconnect.testing")
class Growing(list[T]):
    """A list that something else appends to, and that can be waited for."""

    def __init__(self) -> None:
        super().__init__()
        self._grown = trio.Event()

    def append(self, item: T) -> None:
        """Add an item, and wake who waits."""
        super().append(item)
        self._grown.set()

    async def wait(self, count: int = 1, *, timeout: float = 60) -> Growing[T]:
        """Wait until at least `count` items are there, and return the list itself; `AssertionError` after `timeout` trio seconds."""
        with trio.move_on_after(timeout):
            while len(self) < count:
                self._grown = trio.Event()
                await self._grown.wait()
            return self
        raise AssertionError(f"{count} were expected, and within {timeout:g} s there came {len(self)}: {list(self)!r}")
