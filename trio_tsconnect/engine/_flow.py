"""The steps of one transaction, in order.

Invariant: every failure is raised as a `TransactionFailure`, and only `run_transaction` sends the response for it. This module contains
only the sequence; the rules of HTTP are in `message/`, reading and writing in `stream/`.
"""

from __future__ import annotations

import logging

import trio

from trio_tsconnect.engine._bodies import answer_expectation
from trio_tsconnect.engine._children import end_children
from trio_tsconnect.engine._exchange import Again, Answered, connect_tunnel, exchange
from trio_tsconnect.engine._hooks import fire, fire_closing
from trio_tsconnect.engine._record import make_record, note
from trio_tsconnect.engine._release import drop_origin, leave_origin
from trio_tsconnect.engine._respond import answer_here, cut_short, send_answer, send_failure, unsay
from trio_tsconnect.engine._route import choose_origin, judge, remap
from trio_tsconnect.engine._transaction import EngineTransaction
from trio_tsconnect.engine._watch import Watch
from trio_tsconnect.hooks import State, is_guard
from trio_tsconnect.message import (
    BadRequest,
    Failure,
    Framing,
    MessageError,
    Request,
    TransactionFailure,
    check_expect,
    drop_underscored,
    expects_continue,
    keep_alive,
    outcome,
    retry_safe,
)
from trio_tsconnect.origin import Holder, Origin
from trio_tsconnect.stream import IncompleteMessage, own_authority

logger = logging.getLogger("trio_tsconnect")
_ATTEMPT = (State.ACQUIRE_ORIGIN, State.SEND_REQUEST, State.READ_RESPONSE)


async def run_transaction(txn: EngineTransaction) -> None:
    """Serve one request. Set `txn.keep_alive` to True if another request may follow on the connection.

    Exactly one log record is written, however the transaction ends. Failures are answered, errors are logged, and neither is raised. A
    cancellation and a Ctrl-C are raised again.
    """
    try:
        try:
            if txn.core.recovers:
                await _attend(txn)
            else:
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


async def _attend(txn: EngineTransaction) -> None:
    """Run the transaction. Each attempt at an origin that fails is offered to the plugins, which may ask for another or answer.

    A timeout ends the block of the watch, so what follows it needs a block of its own.
    """
    step = _transact
    while True:
        try:
            with txn.watch:
                await step(txn)
            txn.watch.check()
            return
        except TransactionFailure as failed:
            if not _may_recover(txn, failed):
                raise
            txn.offered, step = failed, _recover
        txn.watch = Watch(txn.core.timer)
        txn.set_bounds()


def _may_recover(txn: EngineTransaction, failed: TransactionFailure) -> bool:
    """Return True if the hook `origin_failed` is to run: the origin has failed, and no response was received."""
    if not txn.hooks.origin_failed or failed is txn.offered or txn.method == "CONNECT":
        return False
    ours = failed.failure in (Failure.ORIGIN_BUSY, Failure.NO_DESCRIPTORS)
    return txn.state in _ATTEMPT and not txn.head_received and (ours or outcome(failed.failure).by == "origin")


async def _recover(txn: EngineTransaction) -> None:
    """Run the hook `origin_failed`, then do what it asks for. Otherwise raise the failure again."""
    failed = txn.offered
    assert failed is not None
    await drop_origin(txn)
    txn.forget_attempt()
    txn.may_recover = True
    try:
        await fire(txn, txn.hooks.origin_failed)
    finally:
        txn.may_recover = False
    if txn.retry_target is not None:
        await _ask_origin(txn, _retry_at(txn))
    elif txn.answered():
        await send_answer(txn)
    else:
        raise failed


def _note_what_was_seen(txn: EngineTransaction) -> None:
    """Take the request line from the buffer, for the log record of a request whose head was invalid or incomplete."""
    if txn.method is None:
        txn.method, txn.seen_target, txn.version = txn.session.http.seen_request_line()


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
    if txn.answer is None:
        txn.enter(State.REMAP)
        if hooks.pre_remap:
            await fire(txn, hooks.pre_remap)
    if access := txn.core.config.access:
        judge(txn, access)
    if txn.answer is not None:
        if txn.core.guarded:
            await _judge_by_rule(txn)
    elif answer_here(txn):
        txn.response_source = "proxy"
        if txn.core.guarded:
            await _judge_by_rule(txn)
        await send_answer(txn)
        return
    else:
        remap(txn)
        if txn.rule is not None and txn.rule.config:
            txn.set_bounds()
        await fire(txn, txn.hooks.post_remap)
    if txn.answered():
        await send_answer(txn)
        return

    await _check_expectations(txn)
    await _ask_origin(txn, choose_origin(txn))


async def _judge_by_rule(txn: EngineTransaction) -> None:
    """Let the access rules and the guards of the matching remap rule judge a request that a plugin has answered before remap."""
    core = txn.core
    if txn.url is None:
        return
    try:
        match = core.remap.match(txn.request.url)
    except BadRequest as exc:  # the plugin has changed the request into an invalid one
        raise TransactionFailure(exc) from None
    if match is not None and core.has_guards(match.rule):
        txn.rule, txn.hooks, txn.uri = match.rule, core.hooks_of(match.rule), match.target
        judge(txn, match.rule.access)
        txn.request.target = txn.origin_url = str(match.target)  # the guards of a rule always see the URL at the origin
        await fire(txn, tuple(method for method in txn.hooks.post_remap if is_guard(method)))


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
    if txn.core.logs:
        note(txn, request.headers)
    if txn.client.scheme != "http" or request.version == "1.0":  # otherwise what a request assumes is right
        request.sent_over(txn.client.scheme, _own_authority(txn, request))
    txn.request = request
    txn.method, txn.seen_target, txn.version = request.method, request.target, request.version
    try:
        txn.url = request.url
    except BadRequest:
        pass  # `remap` fails, after the hooks that Traffic Server runs for such a request
    txn.wants_keep_alive = keep_alive(request.version, request.headers)


def _own_authority(txn: EngineTransaction, request: Request) -> str | None:
    """Return the address that the client has connected to: an HTTP/1.0 request without a host is for it (RFC 9112 §3.3)."""
    return own_authority(txn.session.stream) if request.version == "1.0" and not request.headers.get(b"host") else None


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


async def _ask_origin(txn: EngineTransaction, origin: Origin) -> None:
    """Forward the request and the response. Try again if a reused connection was closed without a response, or if a plugin asks for it.

    The first needs a request that is safe to repeat (`retry_safe`) and is done `origin.retries` times at most.
    """
    pool = txn.core.pool
    retryable = retry_safe(txn.request, body=txn.session.http.body)
    fresh = txn.method == "CONNECT"
    txn.watch.look()
    await trio.lowlevel.checkpoint_if_cancelled()  # before the pool: an idle connection taken by a cancelled transaction would be closed
    while True:
        txn.enter(State.ACQUIRE_ORIGIN)
        txn.attempts += 1
        txn.asked = origin
        holder = _holder(txn) if txn.origin_config.max_connections is not None else ()
        connection = await pool.acquire(origin, txn.origin_config, fresh=fresh, beyond_limit=_held_above(txn), holder=holder)
        txn.origin = connection
        if holder:
            connection.give_up = lambda: txn.watch.fire(Failure.CLIENT_STALLED)
        txn.origin_id, txn.origin_reused, txn.origin_address = connection.id, connection.reused, connection.address
        try:
            await (connect_tunnel if txn.method == "CONNECT" else exchange)(txn, connection)
            return
        except TransactionFailure as failed:
            again = outcome(failed.failure).retry and connection.reused and retryable and not txn.interim_sent
            if not again or txn.reconnects >= txn.origin_config.retries:
                raise
            txn.reconnects += 1
            txn.forget_attempt()
            fresh = True  # the other idle connections may be closed as well
        except Again:
            origin = _retry_at(txn)
        except Answered:
            await leave_origin(txn)
            await send_answer(txn)
            return
        await drop_origin(txn)


def _retry_at(txn: EngineTransaction) -> Origin:
    """Return the origin for the target that a plugin has passed to `retry`. Also set the request target and Host."""
    target, txn.retry_target = txn.retry_target, None
    assert target is not None
    txn.forget_attempt()
    if not txn.retry_elsewhere and txn.asked is not None and (target == txn.origin_url or target[0] in "/*"):
        return txn.asked
    if txn.retry_elsewhere:
        txn.intercept_origin, txn.elsewhere = None, True
    txn.request.target = target
    origin = choose_origin(txn)
    if txn.uri is not None and txn.prepared:  # otherwise `prepare_request` sets Host, and needs that of the client before
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


async def _close(txn: EngineTransaction) -> None:
    """End the children, close the origin connection, run `transaction_close`, write the log record."""
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
        if txn.ended is None:
            txn.end("proxy", "complete")
        try:
            if txn.hooks.transaction_close:
                await fire_closing(txn, txn.hooks.transaction_close, txn.config.close_timeout)
        finally:
            if txn.core.logs:
                txn.core.log.write(make_record(txn))
            txn.enter(State.CLOSED)
