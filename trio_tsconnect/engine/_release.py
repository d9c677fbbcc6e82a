"""Giving up origin connections before a response was forwarded to its end.

Invariant: after each function the transaction holds no origin connection.
"""

from __future__ import annotations

from trio_tsconnect.engine._transaction import EngineTransaction
from trio_tsconnect.hooks import State
from trio_tsconnect.message import MessageError
from trio_tsconnect.stream import HTTP1Client, holds_input


async def drop_origin(txn: EngineTransaction) -> None:
    """Close the origin connection that the transaction holds, if there is one."""
    if (connection := txn.origin) is not None:
        txn.origin = None
        await txn.core.pool.discard(connection)


async def leave_origin(txn: EngineTransaction) -> None:
    """Give up the exchange with the origin, because a plugin has answered.

    The connection is kept if nothing was sent on it, or if the whole response is in the buffer. Otherwise it is closed: the proxy does not
    wait for a body that nobody reads.
    """
    connection = txn.origin
    if (
        connection is not None
        and (txn.state is State.SEND_REQUEST or _is_over(txn, connection.http))
        and not await holds_input(connection.stream)
        and txn.core.pool.release(connection, txn.origin_config)
    ):
        txn.origin = None
    await drop_origin(txn)


def _is_over(txn: EngineTransaction, http: HTTP1Client) -> bool:
    """Return True if the origin's response ends in the buffer, and another request may follow on the connection."""
    if not txn.origin_persists or txn.origin_status is None or txn.origin_status < 200:
        return False
    try:
        while http.body_piece():
            pass
    except MessageError:
        return False
    return http.reusable
