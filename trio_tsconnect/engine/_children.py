"""Internal requests: children of a transaction, and the budgets that bound them.

The law: a child's session runs in its parent's session nursery, its deadline is never later than its parent's, and the parent's record is
not written before its children have ended. Budgets refuse at once, before a byte is sent and without looking at any header.

A limit that a parent holds must not deadlock its child: a transaction below an internal one rides on that one's place in
`max_concurrent_internal`, and the origin pool lets a child pass a limit that its own ancestors fill.
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
    """A virtual connection whose transactions are children of `parent`."""
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
    parent.root.descendants += 1
    if not detach:
        session.done = trio.Event()
        parent.children += (session,)
        if len(parent.children) > 8:
            parent.children = tuple([child for child in parent.children if child.done is not None and not child.done.is_set()])
    return ours


async def end_children(txn: EngineTransaction) -> None:
    """Cancel and await what is left of a transaction's children, for `http.close_timeout` at most. Also when cancelled."""
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
            if child.done is not None and not child.done.is_set():
                _give_up(child)


def _give_up(child: EngineSession) -> None:
    reset(child.stream, "overdue")
    txn = child.transaction
    if txn is not None:
        name = txn.plugin_name or "-"
        txn.plugin_log.setdefault(name, {})["overdue"] = True
        logger.error("transaction %d has not ended with its parent (plugin %s)", txn.number, name)
