"""The steps of one transaction, in order.

Invariant: every failure is raised as a `TransactionFailure`, and only `run_transaction` sends the response for it. This module contains
only the sequence; the rules of HTTP are in `message/`, reading and writing in `stream/`.
"""

from __future__ import annotations

import logging

import trio

from trio_tsconnect.engine._bodies import answer_expectation
from trio_tsconnect.engine._children import end_children
from trio_tsconnect.engine._exchange import Again, connect_tunnel, exchange
from trio_tsconnect.engine._hooks import fire, fire_closing
from trio_tsconnect.engine._record import make_record
from trio_tsconnect.engine._respond import answer_here, cut_short, send_answer, send_failure, unsay
from trio_tsconnect.engine._route import choose_origin, judge, remap
from trio_tsconnect.engine._transaction import EngineTransaction
from trio_tsconnect.hooks import State
from trio_tsconnect.message import (
    BadRequest,
    Failure,
    Framing,
    MessageError,
    TransactionFailure,
    check_expect,
    drop_underscored,
    expects_continue,
    keep_alive,
    outcome,
    retry_safe,
)
from trio_tsconnect.origin import Holder, Origin
from trio_tsconnect.stream import IncompleteMessage

logger = logging.getLogger("trio_tsconnect")


async def run_transaction(txn: EngineTransaction) -> None:
    """Serve one request. Set `txn.keep_alive` to True if another request may follow on the connection.

    Exactly one log record is written, however the transaction ends. Failures are answered, errors are logged, and neither is raised. A
    cancellation and a Ctrl-C are raised again.
    """
    try:
        try:
            with txn.watch:
                await _transact(txn)
            txn.watch.check()
        except TransactionFailure as failure:
            _note_what_was_seen(txn)
            await send_failure(txn, failure)
        except (trio.BrokenResourceError, trio.ClosedResourceError):  # the client is gone: no error response
            raise
        except Exception:
            logger.exception("transaction %d failed inside the engine", txn.number)
            await send_failure(txn, TransactionFailure(Failure.INTERNAL, "The proxy failed with an internal error."))
    except (trio.BrokenResourceError, trio.ClosedResourceError):
        txn.keep_alive = False
        _note_what_was_seen(txn)
        txn.end(*txn.session.gone_because)
    except (trio.Cancelled, KeyboardInterrupt, GeneratorExit, BaseExceptionGroup):  # a nursery in a hook raises a group of them
        txn.keep_alive = False
        _note_what_was_seen(txn)
        txn.end(*txn.session.cancel_cause)
        cut_short(txn)
        raise
    except Exception:
        logger.exception("transaction %d failed inside the engine", txn.number)
        txn.keep_alive = False
        txn.end("proxy", Failure.INTERNAL.value)
        cut_short(txn)
    finally:
        await _close(txn)


def _note_what_was_seen(txn: EngineTransaction) -> None:
    """Take the request line from the buffer, for the log record of a request whose head was invalid or incomplete."""
    if txn.method is None:
        txn.method, txn.url, txn.version = txn.session.http.seen_request_line()


async def _transact(txn: EngineTransaction) -> None:
    """Run the transaction up to the end of its response. Raise `TransactionFailure` if it fails."""
    hooks = txn.hooks
    txn.set_bounds()
    if hooks.transaction_start:
        await fire(txn, hooks.transaction_start)
    if txn.session.failures:
        for failure in txn.session.failures:
            if failure.plugin is not None:
                txn.plugin_log.setdefault(failure.plugin, {})["failed"] = failure.log
        raise txn.session.failures[0]

    await _read_request(txn)
    await fire(txn, hooks.read_request)
    if txn.answered():
        await send_answer(txn)
        return

    txn.enter(State.REMAP)
    if hooks.pre_remap:
        await fire(txn, hooks.pre_remap)
    if txn.answered():
        await send_answer(txn)
        return
    judge(txn, txn.core.config.access)
    if answer_here(txn):
        await send_answer(txn, by="proxy")
        return
    remap(txn)
    if txn.rule is not None and txn.rule.config:
        txn.set_bounds()
    await fire(txn, txn.hooks.post_remap)
    if txn.answered():
        await send_answer(txn)
        return

    await _check_expectations(txn)
    await _ask_origin(txn)


async def _read_request(txn: EngineTransaction) -> None:
    """Read the request head, within `http.header_timeout` seconds, into `txn.request`."""
    http = txn.session.http
    try:
        request = http.read_request_now()
        if request is None:
            txn.watch.arm(Failure.HEADER_TIMEOUT, txn.config.header_timeout)
            request = await http.read_request()
            txn.watch.disarm()
    except BadRequest as exc:
        raise TransactionFailure(exc) from None
    except IncompleteMessage:
        raise TransactionFailure(Failure.CLIENT_GONE, "The client ended its input within a request head.") from None
    if txn.config.underscores == "drop":
        drop_underscored(request.headers)
    txn.request = request
    txn.method, txn.url, txn.version = request.method, request.target, request.version
    txn.wants_keep_alive = keep_alive(request.version, request.headers)


async def _check_expectations(txn: EngineTransaction) -> None:
    """Reject a body that is too large and, if configured, unknown expectations. Send 100 if `http.expect` is `answer`."""
    body, limit = txn.session.http.body, txn.config.max_request_body
    if limit is not None and body.framing is Framing.LENGTH and body.length > limit:
        raise TransactionFailure(Failure.REQUEST_TOO_LARGE, f"The request body is larger than {limit} bytes.")
    if "expect" in txn.request.headers:
        if txn.version == "1.0":  # RFC 9110 §10.1.1: Expect of an HTTP/1.0 client is ignored
            del txn.request.headers["expect"]
        elif txn.config.unknown_expect == "refuse":
            try:
                check_expect(txn.request)
            except MessageError as exc:
                raise TransactionFailure(exc) from None
    if txn.config.expect == "answer" and expects_continue(txn.request):
        await answer_expectation(txn)


async def _ask_origin(txn: EngineTransaction) -> None:
    """Forward the request and the response. Try again if a reused connection was closed without a response, or if a plugin asks for it.

    The first needs a request that is safe to repeat (`retry_safe`) and is done `origin.retries` times at most.
    """
    origin = choose_origin(txn)
    pool = txn.core.pool
    retryable = retry_safe(txn.request, body=txn.session.http.body)
    fresh = txn.method == "CONNECT"
    txn.watch.look()
    await trio.lowlevel.checkpoint_if_cancelled()  # before the pool: an idle connection taken by a cancelled transaction would be closed
    while True:
        txn.enter(State.ACQUIRE_ORIGIN)
        holder = _holder(txn) if txn.origin_config.max_connections is not None else ()
        connection = await pool.acquire(origin, txn.origin_config, fresh=fresh, beyond_limit=_held_above(txn), holder=holder)
        txn.origin = connection
        if holder:
            connection.give_up = lambda: txn.watch.fire(Failure.CLIENT_STALLED)
        txn.origin_id, txn.origin_reused = connection.id, connection.reused
        txn.attempts += 1
        try:
            await (connect_tunnel if txn.method == "CONNECT" else exchange)(txn, connection)
            return
        except TransactionFailure as failed:
            again = outcome(failed.failure).retry and connection.reused and retryable and not txn.interim_sent
            if not again or txn.reconnects >= txn.origin_config.retries:
                raise
            txn.reconnects += 1
            fresh = True  # the other idle connections may be closed as well
        except Again:
            origin = _retry_at(txn)
        await drop_origin(txn)


def _retry_at(txn: EngineTransaction) -> Origin:
    """Return the origin for the target that a plugin has passed to `retry`. Also set the request target and Host."""
    target, txn.retry_target = txn.retry_target, None
    assert target is not None
    txn.request.target = target
    origin = choose_origin(txn)
    if txn.uri is not None:
        txn.request.headers[b"Host"] = txn.uri.authority
    return origin


def _holder(txn: EngineTransaction) -> Holder:
    """Return the keys that count in `origin.max_share`: client connection and client address. Empty for internal requests."""
    client = txn.client
    return () if txn.internal else (("connection", client.connection or txn.session.number), ("address", client.host))


def _held_above(txn: EngineTransaction) -> bool:
    """Return True if an ancestor holds an origin connection. If so, waiting in line could deadlock until `origin.wait_timeout`."""
    ancestor = txn.parent
    while ancestor is not None:
        if ancestor.origin is not None:
            return True
        ancestor = ancestor.parent
    return False


async def drop_origin(txn: EngineTransaction) -> None:
    """Close the origin connection that the transaction holds, if there is one."""
    if (connection := txn.origin) is not None:
        txn.origin = None
        await txn.core.pool.discard(connection)


async def _close(txn: EngineTransaction) -> None:
    """End the children, close the origin connection, write the log record, run `transaction_close`."""
    txn.children_refused = True  # first: `end_children` does not see children that are opened later
    try:
        if txn.children:
            await end_children(txn)
    finally:
        if txn.origin is not None:
            await drop_origin(txn)
        if txn.state is not State.RELEASE:
            txn.enter(State.RELEASE)
        if txn.status is not None and not txn.session.http.head_sent:
            unsay(txn)  # the head was not written whole: the record must not show a status
        if txn.core.logs:
            txn.core.log.write(make_record(txn))
        txn.enter(State.CLOSED)
        if txn.hooks.transaction_close:
            await fire_closing(txn, txn.hooks.transaction_close, txn.config.close_timeout)
