"""The transactions in progress as a tree, for diagnosis."""

from __future__ import annotations

import math
from collections.abc import Iterable

import trio

from trio_tsconnect.engine._session import EngineSession
from trio_tsconnect.engine._transaction import EngineTransaction
from trio_tsconnect.hooks import TreeNode
from trio_tsconnect.stream import VirtualConnection


def live_tree(sessions: Iterable[EngineSession]) -> tuple[TreeNode, ...]:
    """Return the roots of the transactions in progress, in the order of their numbers, each with its children.

    A detached child whose parent has ended is a root here.
    """
    alive = [session for session in sessions if session.transaction is not None]
    numbers = {session.transaction.number for session in alive if session.transaction is not None}
    below: dict[int, list[EngineSession]] = {}
    roots: list[EngineSession] = []
    for session in alive:
        if session.parent is not None and session.parent.number in numbers:
            below.setdefault(session.parent.number, []).append(session)
        else:
            roots.append(session)
    return tuple(_node(session, below) for session in sorted(roots, key=_number))


def _number(session: EngineSession) -> int:
    return session.transaction.number if session.transaction is not None else 0


def _node(session: EngineSession, below: dict[int, list[EngineSession]]) -> TreeNode:
    txn = session.transaction
    assert txn is not None
    now = trio.current_time()
    return TreeNode(
        transaction=txn.number,
        session=session.number,
        state=txn.state.milestone,
        method=txn.method,
        url=str(txn.url) if txn.url is not None else txn.seen_target,
        client=session.client.host,
        tag=session.tag,
        id=session.id,
        age=now - txn.started,
        deadline_left=None if txn.watch.end == math.inf else txn.watch.end - now,
        buffered=_buffered(session, txn),
        children=tuple(_node(child, below) for child in sorted(below.get(txn.number, ()), key=_number)),
    )


def _buffered(session: EngineSession, txn: EngineTransaction) -> int:
    """Return the bytes in the buffers of a transaction: HTTP/1 on both sides, and the client's virtual connection if it has one."""
    size = session.http.buffered + session.http.queued
    if txn.origin is not None:
        size += txn.origin.http.buffered + txn.origin.http.queued
    if isinstance(session.stream, VirtualConnection):
        statistics = session.stream.statistics()
        size += statistics.receiving.unread + statistics.sending.unread
    return size
