"""What a test has left behind in a proxy.

The law: only what stays when everything has come to rest is a leak. No clock is asked, so time that is mocked neither hides one nor makes one.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator

import trio.testing

from trio_tsconnect import Proxy, Session, TreeNode

_ROUNDS = 50
_CUSHION = 0.01


class LeftOpen(Exception):
    """Something was left open; the text has a line for each."""


async def find_leaks(proxy: Proxy) -> str:
    """What is still going on in a proxy once all tasks have come to rest, a line each; "" for nothing.

    What is on its way through the operating system may take half a second to end.
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
        (statistics.origin_taken, "origin connection(s) that a transaction has"),
        (statistics.origin_waiting, "transaction(s) in line for an origin connection"),
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
