"""A plugin as the origin: it is handed the far end of a virtual connection and speaks HTTP on it.

The law: what a plugin serves lives and ends with the transaction that it serves, in its session's nursery.
"""

from __future__ import annotations

from collections.abc import Callable

import attrs
import trio

from trio_tsconnect._contain import sort_out
from trio_tsconnect._util import public
from trio_tsconnect.hooks import Serve
from trio_tsconnect.stream import Identity, close_now, make_pair, window_of


@public("trio_tsconnect.origin")
@attrs.frozen(eq=False)
class InterceptOrigin:
    """The origin that a plugin plays for one transaction. Each is an origin of its own, so its connection serves nobody else."""

    serve: Serve
    plugin: str
    """The plugin's name in the log."""
    identity: Identity
    """What both ends say about themselves."""
    nursery: trio.Nursery
    """Where `serve` runs: that of the transaction's session."""
    failed: Callable[[BaseException], object]
    """Called with an exception that `serve` raises."""
    persistent: bool = False

    @property
    def name(self) -> str:
        """The plugin's."""
        return f"plugin {self.plugin}"

    async def open(self) -> trio.abc.Stream:
        """Start the plugin's `serve` on the other end."""
        ours, theirs = make_pair(self.identity, window_of(8), 0)
        scope = trio.CancelScope()
        theirs.watch_peer(lambda _reason: scope.cancel())

        async def run() -> None:
            try:
                with scope:
                    await self.serve(theirs)
            except (trio.BrokenResourceError, trio.ClosedResourceError):
                theirs.break_off("the plugin's connection broke")
            except BaseException as exc:  # noqa: BLE001 - sorted out
                failure, passing = sort_out(exc)
                if failure is not None:
                    self.failed(failure)
                    theirs.break_off("the plugin failed")
                if passing is not None:
                    raise passing from None
            finally:
                await close_now(theirs)

        self.nursery.start_soon(run, name=f"intercept by {self.plugin}")
        return ours
