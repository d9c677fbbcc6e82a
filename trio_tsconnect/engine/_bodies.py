"""Reading request bodies: for the origin, piece by piece, and for plugins, as a whole.

Invariant: a body is buffered as a whole only if a plugin asks for it, with a limit (`Transaction.read_request_body`).
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import trio

from trio_tsconnect.engine._watch import Pace
from trio_tsconnect.message import NO_BODY, Failure, MessageError, Response, TransactionFailure, expects_continue
from trio_tsconnect.stream import IncompleteMessage

if TYPE_CHECKING:
    from trio_tsconnect.engine._transaction import EngineTransaction


def next_request_piece(txn: EngineTransaction) -> bytes | bytearray | None:
    """Return the next buffered piece of the request body for the origin, if it has no transforms.

    `b""` means the end, also in later calls. None means that more must be read from the client first. Does not wait. Raise
    `TransactionFailure` if the body is malformed or too large.
    """
    if txn.request_body_sent:
        return b""
    if txn.request_body is not None:  # a plugin has read it; a retry sends it again
        txn.request_body_sent = True
        return txn.request_body
    try:
        piece = txn.session.http.body_piece()
    except MessageError as exc:
        raise TransactionFailure(exc) from None
    if piece:
        count_request(txn, len(piece))
    elif piece is not None:
        txn.request_body_sent = True
    return piece


def count_request(txn: EngineTransaction, size: int, limit: int | None = None) -> None:
    """Count `size` more bytes of request body. Raise `TransactionFailure` above `http.max_request_body`, or `limit` if that is lower."""
    txn.request_bytes += size
    most = txn.config.max_request_body
    limit = most if limit is None or (most is not None and most < limit) else limit
    if limit is not None and txn.request_bytes > limit:
        raise TransactionFailure(Failure.REQUEST_TOO_LARGE, f"The request body is larger than {limit} bytes.")


async def read_request_body(txn: EngineTransaction, limit: int) -> bytes:
    """Read and return the whole request body for a plugin. It is kept and later sent to the origin from memory.

    Raise `TransactionFailure` if the body is larger than `limit` bytes, malformed or late, or if the client is gone. After a cancellation
    a second call continues; without one the transaction fails, because only a part of the body was kept.
    """
    if txn.request_body is not None:
        if len(txn.request_body) > limit:
            raise TransactionFailure(Failure.REQUEST_TOO_LARGE, f"The request body is larger than {limit} bytes.")
        return txn.request_body
    http = txn.session.http
    if expects_continue(txn.request):
        await answer_expectation(txn)
    if txn.request_parts is None:
        txn.request_parts = []
    parts = txn.request_parts  # a second call continues where a cancelled one stopped
    txn.request_body_lost = True  # until all of it was read: a part must not be forwarded
    try:
        with trio.CancelScope() as scope:
            while True:
                scope.deadline = trio.current_time() + begin_to_wait_for_body(txn)
                piece = await http.receive_body()
                end_to_wait_for_body(txn)
                if not piece:
                    break
                parts.append(piece)
                count_request(txn, len(piece), limit)
        if scope.cancelled_caught:
            raise TransactionFailure(Failure.REQUEST_BODY_TIMEOUT)
    except MessageError as exc:
        raise TransactionFailure(exc) from None
    except (IncompleteMessage, trio.BrokenResourceError, trio.ClosedResourceError):
        raise TransactionFailure(Failure.CLIENT_GONE, "The client ended its input within a request body.") from None
    txn.request_body = b"".join(parts)
    txn.request_parts = None
    txn.request_body_lost = False
    return txn.request_body


def begin_to_wait_for_body(txn: EngineTransaction) -> float:
    """Begin a wait for request body. Return the seconds that it may take: `http.inactivity_timeout`, or less for `http.min_rate`.

    Also notes that the client stalls the origin connection, if its origin has a limit (`origin.stall_timeout`).
    """
    most, rate = txn.config.inactivity_timeout, txn.config.min_rate
    if txn.origin is not None and txn.origin.holder:
        txn.origin.stalled_since = trio.current_time()
    if rate is None:
        return most
    if txn.request_pace is None:
        txn.request_pace = Pace(rate, txn.config.header_timeout)
    return txn.request_pace.begin(txn.request_bytes, most)


def end_to_wait_for_body(txn: EngineTransaction) -> None:
    """End the wait that `begin_to_wait_for_body` has begun."""
    if txn.origin is not None:
        txn.origin.stalled_since = math.inf
    if txn.request_pace is not None:
        txn.request_pace.end()


async def answer_expectation(txn: EngineTransaction) -> None:
    """Answer `Expect: 100-continue` with 100 and remove the field from the request (RFC 9110 §10.1.1).

    No 100 is sent if the client has begun to send the body already.
    """
    http = txn.session.http
    if not http.body_complete and not http.buffered:
        http.queue_response(Response(100), NO_BODY)
        txn.watch.arm(Failure.CLIENT_TIMEOUT, txn.config.inactivity_timeout)
        await http.drain()
        txn.watch.disarm()
    txn.expectation_met = True
    del txn.request.headers["expect"]
