"""Request bodies on their way to the origin, and what plugins do to bodies.

The law: a body is never held whole unless a plugin asks for it, with a bound (`Transaction.read_request_body`).
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
    """What is at hand of the request body as the origin gets it: bytes, `b""` at the end (again and again), None when more must be read."""
    if txn.request_body is not None:  # buffered for a plugin, or replayed
        if txn.request_body_sent:
            return b""
        txn.request_body_sent = True
        chain = txn.request_chain
        if chain is None:
            return txn.request_body
        return (chain.feed(txn.request_body) if txn.request_body else b"") + chain.finish()
    while True:
        if txn.request_body_sent:
            return b""
        try:
            piece = txn.session.http.body_piece()
        except MessageError as exc:
            raise TransactionFailure(exc) from None
        if piece is None:
            return None
        if not piece:
            txn.request_body_sent = True
            return txn.request_chain.finish() if txn.request_chain is not None else b""
        count_request(txn, len(piece))
        if txn.request_chain is None:
            return piece
        if changed := txn.request_chain.feed(piece):
            return changed


def count_request(txn: EngineTransaction, size: int, limit: int | None = None) -> None:
    """Count bytes of the request body, up to the limit of the configuration, or this one if it is lower."""
    txn.request_bytes += size
    most = txn.config.max_request_body
    limit = most if limit is None or (most is not None and most < limit) else limit
    if limit is not None and txn.request_bytes > limit:
        raise TransactionFailure(Failure.REQUEST_TOO_LARGE, f"The request body is larger than {limit} bytes.")


async def read_request_body(txn: EngineTransaction, limit: int) -> bytes:
    """The whole request body, for a plugin; it is sent on from memory afterwards."""
    if txn.request_body is not None:
        if len(txn.request_body) > limit:
            raise TransactionFailure(Failure.REQUEST_TOO_LARGE, f"The request body is larger than {limit} bytes.")
        return txn.request_body
    http = txn.session.http
    if expects_continue(txn.request):
        await answer_expectation(txn)
    if txn.request_parts is None:
        txn.request_parts = []
    parts = txn.request_parts  # a second call goes on where a first was given up
    txn.request_body_lost = True  # until all of it is here: a part cannot be sent on
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
    """How many seconds the client has for the next bytes of its request body."""
    most, rate = txn.config.inactivity_timeout, txn.config.min_rate
    if txn.origin is not None and txn.origin.holder:
        txn.origin.stalled_since = trio.current_time()
    if rate is None:
        return most
    if txn.request_pace is None:
        txn.request_pace = Pace(rate, txn.config.header_timeout)
    return txn.request_pace.begin(txn.request_bytes, most)


def end_to_wait_for_body(txn: EngineTransaction) -> None:
    """They have come."""
    if txn.origin is not None:
        txn.origin.stalled_since = math.inf
    if txn.request_pace is not None:
        txn.request_pace.end()


async def answer_expectation(txn: EngineTransaction) -> None:
    """Say 100 here, for whoever wants the body has to ask for it; the expectation is met and goes no further (RFC 9110 §10.1.1)."""
    http = txn.session.http
    if not http.body_complete and not http.buffered:
        http.queue_response(Response(100), NO_BODY)
        txn.watch.arm(Failure.CLIENT_TIMEOUT, txn.config.inactivity_timeout)
        await http.drain()
        txn.watch.disarm()
    txn.expectation_met = True
    del txn.request.headers["expect"]
