"""Run the two directions of one stream concurrently.

Invariant: an expected error of `main` is raised as it is, never wrapped in an exception group.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable

import trio

from trio_tsconnect.http2._exchange import BrokenOff


async def run_beside(helper: Callable[[], Awaitable[None]], main: Awaitable[None], *, until_both: bool = False) -> None:
    """Await `main` while `helper` runs in a task beside it.

    When `main` ends, `helper` is cancelled; with `until_both`, a `main` that succeeds waits for `helper` to return. `helper` must not
    raise. Re-raises trio's `BrokenResourceError` and `ClosedResourceError`, and `BrokenOff`, from `main` without an exception group.
    """
    failure: Exception | None = None
    async with trio.open_nursery() as nursery:
        nursery.start_soon(helper)
        try:
            await main
        except (trio.BrokenResourceError, trio.ClosedResourceError, BrokenOff) as exc:
            failure = exc  # raised after the nursery has closed: inside it, the nursery would wrap it in a group
        if failure is not None or not until_both:
            nursery.cancel_scope.cancel()
    if failure is not None:
        raise failure
