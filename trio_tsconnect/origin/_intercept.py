"""A plugin as the origin: it gets the other end of a virtual connection and speaks HTTP on it.

Invariant: the task that runs `serve` is started in the nursery of the session, and is cancelled when the transaction closes its end of the
connection.
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
    """An origin served by a plugin, for one transaction. Instances compare by identity, so the pool never shares their connections."""

    serve: Serve
    """Function of the plugin that serves HTTP/1.1 on a stream."""
    plugin: str
    """Name of the plugin in the log."""
    identity: Identity
    """Identity of both ends of the virtual connection."""
    nursery: trio.Nursery
    """Nursery of the session, in which `serve` runs."""
    failed: Callable[[BaseException], object]
    """Callback for an exception that `serve` raises."""
    persistent: bool = False

    @property
    def name(self) -> str:
        """Name for error messages."""
        return f"plugin {self.plugin}"

    async def open(self) -> trio.abc.Stream:
        """Start `serve` on one end of a new virtual connection, and return the other end."""
        ours, theirs = make_pair(self.identity, window_of(8), 0)
        scope = trio.CancelScope()
        theirs.watch_peer(lambda _reason: scope.cancel())

        async def run() -> None:
            try:
                with scope:
                    await self.serve(theirs)
            except (trio.BrokenResourceError, trio.ClosedResourceError):
                theirs.break_off("the plugin's connection broke")
            except BaseException as exc:  # noqa: BLE001 - sort_out separates cancellation and Ctrl-C from failures of the plugin
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
