"""What is alive now, as a tree: for a person who wonders what a proxy is doing."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import attrs
import trio

from trio_tsconnect._util import public
from trio_tsconnect.stream import VirtualConnection

if TYPE_CHECKING:
    from trio_tsconnect.engine._proxy import Proxy
    from trio_tsconnect.engine._session import Session
    from trio_tsconnect.engine._transaction import Transaction


@public("trio_tsconnect")
@attrs.frozen(kw_only=True)
class TreeNode:
    """One transaction that is alive."""

    transaction: int
    """Its number."""
    session: int
    """That of its session."""
    state: str
    """Where it stands."""
    method: str | None
    """The method, once it is known."""
    url: str | None
    """The target, once it is known."""
    client: str
    """On whose behalf it is."""
    tag: str | None
    """The opener's tag."""
    id: int
    """The opener's number."""
    age: float
    """Seconds since it began."""
    deadline_left: float | None
    """Seconds until the end of the whole; None without one."""
    buffered: int
    """Bytes that wait in the session and in its virtual connection."""
    children: tuple[TreeNode, ...]
    """The transactions it has opened."""

    def to_text(self, depth: int = 0) -> str:
        """One line for each transaction, indented by depth."""
        left = "" if self.deadline_left is None else f", {self.deadline_left:.1f} s left"
        tag = f" tag={self.tag} id={self.id}" if self.tag or self.id else ""
        line = f"{'  ' * depth}#{self.transaction} {self.method or '-'} {self.url or '-'} [{self.state}]{tag} {self.age:.1f} s{left}, {self.buffered} B"
        return "\n".join([line, *(child.to_text(depth + 1) for child in self.children)])


def live_tree(proxy: Proxy) -> tuple[TreeNode, ...]:
    """The roots of what is alive. A detached child whose parent has ended is a root here."""
    alive = [session for session in proxy.sessions if session.transaction is not None]
    numbers = {session.transaction.number for session in alive if session.transaction is not None}
    below: dict[int, list[Session]] = {}
    roots: list[Session] = []
    for session in alive:
        if session.parent is not None and session.parent.number in numbers:
            below.setdefault(session.parent.number, []).append(session)
        else:
            roots.append(session)
    return tuple(_node(session, below) for session in sorted(roots, key=_number))


def _number(session: Session) -> int:
    return session.transaction.number if session.transaction is not None else 0


def _node(session: Session, below: dict[int, list[Session]]) -> TreeNode:
    txn = session.transaction
    assert txn is not None
    now = trio.current_time()
    return TreeNode(
        transaction=txn.number,
        session=session.number,
        state=txn.state.milestone,
        method=txn.method,
        url=txn.url,
        client=session.client.host,
        tag=session.tag,
        id=session.id,
        age=now - txn.started,
        deadline_left=None if txn.watch.end == math.inf else txn.watch.end - now,
        buffered=_buffered(session, txn),
        children=tuple(_node(child, below) for child in sorted(below.get(txn.number, ()), key=_number)),
    )


def _buffered(session: Session, txn: Transaction) -> int:
    size = session.http.buffered + session.http.queued
    if txn.origin is not None:
        size += txn.origin.http.buffered + txn.origin.http.queued
    if isinstance(session.stream, VirtualConnection):
        statistics = session.stream.statistics()
        size += statistics.receiving.unread + statistics.sending.unread
    return size
