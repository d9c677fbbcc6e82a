"""`Guard`: base class of plugins that decide whether a request is allowed.

Invariant: `judge` runs at most once for a transaction, at the first hook in which the guard is asked.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar

from trio_tsconnect._util import public
from trio_tsconnect.hooks._plugin import HookMethod, Plugin

if TYPE_CHECKING:
    from trio_tsconnect.hooks._transaction import Transaction


@public("trio_tsconnect")
class Guard(Plugin):
    """Base class of plugins that decide whether a request is allowed. Derive from it and override `judge`.

    A guard refuses with `txn.respond(...)` and a status of 300 or more. The refusal stands: it replaces an answer that another plugin has
    given before, and nothing that another plugin does later makes it a success. Several guards judge in the order of the plugins; after one
    has refused, the others are not asked. The guards of a remap rule judge every request that matches the rule, also one that a plugin has
    answered before remap.
    """

    _is_guard = True
    _COROUTINES: ClassVar[frozenset[str]] = frozenset({"run", "judge"})

    async def judge(self, txn: Transaction) -> None:
        """Refuse the request with `txn.respond(...)`, or return.

        Runs once for each transaction: in `read_request` for a plugin of the proxy, in `post_remap` for a plugin of a remap rule. Access
        rules of the proxy are applied later, those of a remap rule before.
        """

    async def read_request(self, txn: Transaction) -> None:
        """Run `judge`."""
        await self._judge_once(txn)

    async def post_remap(self, txn: Transaction) -> None:
        """Run `judge`, unless it ran in `read_request`."""
        await self._judge_once(txn)

    async def _judge_once(self, txn: Transaction) -> None:
        asked = ("guard", id(self))  # not the guard itself: it may not be hashable
        if asked not in txn.data:
            txn.data[asked] = True
            await self.judge(txn)


@public("trio_tsconnect.hooks")
def is_guard(method: HookMethod) -> bool:
    """Return True if a bound hook method belongs to a `Guard`."""
    guard: bool = method.__self__._is_guard  # type: ignore[attr-defined]
    return guard
