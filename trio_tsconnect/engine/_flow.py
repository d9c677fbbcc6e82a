"""The way of one transaction, read from top to bottom.

The law: here is the sequence and nothing else. What HTTP means is asked of `message/`, bytes are left to `stream/`, and every way of
failing leaves through one `TransactionFailure`, so that `run_transaction` is the only place that answers one.
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
    """Serve one request; `txn.keep_alive` says whether another may follow. Whatever happens, one record is written."""
    try:
        try:
            with txn.watch:
                await _transact(txn)
            txn.watch.check()
        except TransactionFailure as failure:
            _note_what_was_seen(txn)
            await send_failure(txn, failure)
        except (trio.BrokenResourceError, trio.ClosedResourceError):
            raise
        except Exception:
            logger.exception("transaction %d failed inside the engine", txn.number)
            await send_failure(txn, TransactionFailure(Failure.INTERNAL, "The proxy itself has failed."))
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
    """For the record of a request whose head was not acceptable, or not complete."""
    if txn.method is None:
        txn.method, txn.url, txn.version = txn.session.http.seen_request_line()


async def _transact(txn: EngineTransaction) -> None:
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
    """What can be refused before an origin is troubled."""
    body, limit = txn.session.http.body, txn.config.max_request_body
    if limit is not None and body.framing is Framing.LENGTH and body.length > limit:
        raise TransactionFailure(Failure.REQUEST_TOO_LARGE, f"The request body is larger than {limit} bytes.")
    if "expect" in txn.request.headers:
        if txn.version == "1.0":  # RFC 9110 §10.1.1: an HTTP/1.0 client cannot expect anything
            del txn.request.headers["expect"]
        elif txn.config.unknown_expect == "refuse":
            try:
                check_expect(txn.request)
            except MessageError as exc:
                raise TransactionFailure(exc) from None
    if txn.config.expect == "answer" and expects_continue(txn.request):
        await answer_expectation(txn)


async def _ask_origin(txn: EngineTransaction) -> None:
    origin = choose_origin(txn)
    pool = txn.core.pool
    retryable = retry_safe(txn.request, body=txn.session.http.body)
    fresh = txn.method == "CONNECT"
    txn.watch.look()
    await trio.lowlevel.checkpoint_if_cancelled()  # an idle connection that was taken in vain would be closed
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
            fresh = True
        except Again:
            origin = _retry_at(txn)
        await drop_origin(txn)


def _retry_at(txn: EngineTransaction) -> Origin:
    target, txn.retry_target = txn.retry_target, None
    assert target is not None
    txn.request.target = target
    origin = choose_origin(txn)
    if txn.uri is not None:
        txn.request.headers[b"Host"] = txn.uri.authority
    return origin


def _holder(txn: EngineTransaction) -> Holder:
    client = txn.client
    return () if txn.internal else (("connection", client.connection or txn.session.number), ("address", client.host))


def _held_above(txn: EngineTransaction) -> bool:
    """Whether an ancestor has an origin connection: to wait in line while holding one is how trees come to wait for each other."""
    ancestor = txn.parent
    while ancestor is not None:
        if ancestor.origin is not None:
            return True
        ancestor = ancestor.parent
    return False


async def drop_origin(txn: EngineTransaction) -> None:
    """Close the origin connection that a transaction still has."""
    if (connection := txn.origin) is not None:
        txn.origin = None
        await txn.core.pool.discard(connection)


async def _close(txn: EngineTransaction) -> None:
    """Stage 8: nothing is held any more, the record is written, the last hook runs."""
    txn.children_refused = True  # from here on `end_children` knows all of them
    try:
        if txn.children:
            await end_children(txn)
    finally:
        if txn.origin is not None:
            await drop_origin(txn)
        if txn.state is not State.RELEASE:
            txn.enter(State.RELEASE)
        if txn.status is not None and not txn.session.http.head_sent:
            unsay(txn)  # the record tells what was sent, not what was meant
        if txn.core.logs:
            txn.core.log.write(make_record(txn))
        txn.enter(State.CLOSED)
        if txn.hooks.transaction_close:
            await fire_closing(txn, txn.hooks.transaction_close, txn.config.close_timeout)
