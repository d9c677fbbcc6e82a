"""Two directions of one stream at once.

The law: what one of them raises comes out as it is, in no group.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable

import trio

from trio_tsconnect.http2._exchange import BrokenOff


async def run_beside(helper: Callable[[], Awaitable[None]], main: Awaitable[None], *, until_both: bool = False) -> None:
    """Run a helper, which never raises, for as long as `main` takes; what `main` raises comes out as it is, in no group."""
    failure: Exception | None = None
    async with trio.open_nursery() as nursery:
        nursery.start_soon(helper)
        try:
            await main
        except (trio.BrokenResourceError, trio.ClosedResourceError, BrokenOff) as exc:
            failure = exc
        if failure is not None or not until_both:
            nursery.cancel_scope.cancel()
    if failure is not None:
        raise failure
