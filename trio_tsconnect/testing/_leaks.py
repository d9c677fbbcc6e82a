"""Find sessions, transactions and origin connections that a test has left open in a proxy.

Invariant: only what is still open when all tasks are blocked is a leak. No clock is read, so a mocked clock neither hides nor causes a
leak.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator

import trio.testing

from trio_tsconnect import Proxy, Session, TreeNode

_ROUNDS = 50
_CUSHION = 0.01


class LeftOpen(Exception):
    """Something was left open. The text has one line per leak."""


async def find_leaks(proxy: Proxy) -> str:
    """Return what is still open in a proxy when all tasks are blocked, one line each; "" if nothing is.

    Waits up to half a second of real time, because bytes may still be on their way through the operating system.
    """
    for _ in range(_ROUNDS):
        if not _busy(proxy):
            return ""
        await trio.testing.wait_all_tasks_blocked(_CUSHION)
    return _busy(proxy)


def _busy(proxy: Proxy) -> str:
    busy = {node.session: node for node in _nodes(proxy.tree())}
    lines = [_describe(session, busy) for session in proxy.sessions]
    statistics = proxy.statistics()
    for count, what in (
        (statistics.origin_taken, "origin connection(s) in use by a transaction"),
        (statistics.origin_waiting, "transaction(s) waiting for an origin connection"),
    ):
        if count:
            lines.append(f"- {count} {what}")
    return "\n".join(lines)


def _describe(session: Session, busy: dict[int, TreeNode]) -> str:
    if (node := busy.get(session.number)) is not None:
        return f"- {session!r}, busy with <Transaction {node.transaction} {node.method or '-'} {node.url or '-'} ({node.state})>"
    return f"- {session!r}, idle: close the connection"


def _nodes(nodes: Iterable[TreeNode]) -> Iterator[TreeNode]:
    for node in nodes:
        yield node
        yield from _nodes(node.children)
