"""Internal requests: the children of a transaction, and the limits on them.

Invariant: the session of a child runs in the session nursery of its parent. Its deadline is not later than the parent's was when it was
opened. The parent's record is written after its children have ended, or after `http.close_timeout`. Detached children are exempt.

Theory of operation
-------------------

*Budgets.* A plugin that fetches from its own proxy can recurse without end. A header that counts hops does not stop it: a plugin can omit
it, and a client can forge it. So depth and descendants are counted in the transaction objects. All limits are checked synchronously, before
anything is counted or sent; a request over the limit is refused at once, never queued. Descendants are counted by request: `open_child`
counts the first request of a connection, `_serve` each further one.

*Deadlocks.* A parent waits for its child, so the child must not wait for something that the parent holds. There are two such limits:

- `http.max_concurrent_internal`: a child of an internal transaction does not count again (`Engine.open_session`). Otherwise a parent with
  the last place could have no children.
- `origin.max_connections`: if an ancestor holds an origin connection, to any origin, the child does not wait in line (`_flow._held_above`).
  A check of the same origin only is not enough: two trees could each hold the connection that the other one waits for.

*Cancellation.* A cancelled session cancels its nursery, and so all children. But a transaction can end while its session goes on, so
`end_children` cancels them one by one. The wait is shielded, so that the order of the records holds under cancellation, and bounded,
because a plugin can shield itself. After the bound the child's stream is broken and the child is logged as overdue; its task stays in the
nursery.
"""

from __future__ import annotations

import logging

import attrs
import trio

from trio_tsconnect.engine._session import EngineSession
from trio_tsconnect.engine._transaction import EngineTransaction
from trio_tsconnect.hooks import ConnectOptions, ConnectRefused, State
from trio_tsconnect.stream import VirtualConnection, reset

logger = logging.getLogger("trio_tsconnect")


def open_child(parent: EngineTransaction, options: ConnectOptions, *, detach: bool) -> VirtualConnection:
    """Open a virtual connection whose transactions are children of `parent`. Synchronous.

    `detach`: the child may outlive `parent` and inherits no deadline. Raise `ConnectRefused` if `parent` has ended or a limit is reached,
    `RuntimeError` outside the trio run of the proxy.
    """
    parent.core.check_run("connect()")
    http = parent.core.config.http
    if parent.children_refused or parent.state in (State.RELEASE, State.CLOSED) or parent.session.nursery is None:
        raise ConnectRefused("closed")
    if detach and parent.core.draining:
        raise ConnectRefused("draining")
    if parent.depth + 1 > http.max_depth:
        raise ConnectRefused("depth")
    if parent.root.descendants >= http.max_descendants:
        raise ConnectRefused("descendants")
    deadline = min((d for d in (options.deadline, None if detach else parent.watch.end) if d is not None), default=None)
    options = attrs.evolve(options, client=options.client or parent.client, internal=options.is_internal, deadline=deadline)
    session: EngineSession
    ours, session = parent.core.open_session(options, parent, nursery=None if detach else parent.session.nursery, detached=detach)
    session.opened_by = _opener(parent)
    parent.root.descendants += 1  # not before: `open_session` may refuse
    if not detach:
        session.done = trio.Event()
        parent.children += (session,)
        if len(parent.children) > 8:  # forget those that have ended, so that a long transaction does not collect them
            parent.children = tuple([child for child in parent.children if child.done is not None and not child.done.is_set()])
    return ours


def _opener(parent: EngineTransaction) -> str | None:
    """Return the plugin and hook that opens a child now; for a plugin that acts as the origin, its name and `intercept`."""
    if parent.plugin_name:
        return f"{parent.plugin_name}.{parent.hook_name}"
    return f"{parent.answered_by}.intercept" if parent.intercept_origin is not None else None


async def end_children(txn: EngineTransaction) -> None:
    """Cancel the remaining children of `txn` and wait for them, for `http.close_timeout` seconds at most.

    Shielded from cancellation. The caller must set `txn.children_refused` first, because children opened later are not seen.
    """
    alive = [child for child in txn.children if child.done is not None and not child.done.is_set()]
    if not alive:
        return
    for child in alive:
        child.cancel("proxy", "parent_ended")
    with trio.CancelScope(shield=True, deadline=trio.current_time() + txn.config.close_timeout) as scope:
        for child in alive:
            assert child.done is not None
            await child.done.wait()
    if scope.cancelled_caught:
        for child in alive:
            _give_up(child)


def _give_up(child: EngineSession) -> None:
    """Break the stream of a child that has not ended in time, and log it as overdue. Without effect on one that has ended."""
    reset(child.stream, "overdue")
    txn = child.transaction
    if txn is not None:
        name = txn.plugin_name or "-"
        txn.plugin_log.setdefault(name, {})["overdue"] = True
        logger.error("transaction %d did not end within http.close_timeout after its parent (plugin %s)", txn.number, name)
