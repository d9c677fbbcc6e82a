"""Serving the requests of one client stream, one after another, until the connection ends.

Invariant: `serve_session` raises no error; only a cancellation and a Ctrl-C pass through. However a session ends, its stream is closed,
its transaction is logged, and the engine forgets it.

Each session owns a nursery. Everything that its transactions start runs there: children, intercepts, the sender of a request body, the
reader that detects a client that is gone. So the tree of requests is the tree of nurseries, and a transaction needs no nursery of its own.
"""

from __future__ import annotations

import logging
import math

import trio

from trio_tsconnect._contain import sort_out
from trio_tsconnect.engine._actions import ServedTransaction
from trio_tsconnect.engine._core import next_id
from trio_tsconnect.engine._flow import run_transaction
from trio_tsconnect.engine._hooks import fire_closing, note_failure
from trio_tsconnect.engine._session import EngineSession
from trio_tsconnect.engine._transaction import EngineTransaction
from trio_tsconnect.hooks import plugin_name
from trio_tsconnect.message import Failure, TransactionFailure
from trio_tsconnect.stream import close_gently, close_now, has_input, watch_peer

logger = logging.getLogger("trio_tsconnect")


async def serve_session(session: EngineSession) -> None:
    """Serve requests until the connection ends, then close the stream.

    Errors are logged, not raised. A cancellation from outside is raised again, after the stream was closed and the session was forgotten.
    """
    try:
        async with trio.open_nursery() as nursery:
            session.nursery = nursery
            if session.cancelled:  # `cancel` was called before there was a nursery to cancel
                nursery.cancel_scope.cancel()
            watch_peer(session.stream, session.client_is_gone)
            try:
                await _serve(session)
            except (trio.BrokenResourceError, trio.ClosedResourceError):
                pass  # a client may disconnect between two requests; that is no error
            except Exception:
                logger.exception("session %d failed inside the engine", session.number)
            if nursery.child_tasks:  # the session does not wait for what its transactions left running
                nursery.cancel_scope.cancel()
    finally:
        try:
            await _close(session)
        finally:
            session.ended(session)
            if session.done is not None:
                session.done.set()


async def _serve(session: EngineSession) -> None:
    while await _next_request(session):
        if not session.started:
            await _start(session)
        session.requests += 1
        if session.parent is not None and session.requests > 1:  # the connection has counted as its first request
            _count_descendant(session, session.parent.root)
        session.transaction = txn = ServedTransaction(session, next_id())
        if session.gone is not None:  # after the transaction was made, so that the request is logged
            session.cancel(*session.gone)
        try:
            await (run_transaction(txn) if session.virtual else _run_watched(txn))
        finally:
            session.transaction = None
        if session.input_reader is not None:  # before the session reads: only one task may read a stream
            await session.input_reader.stop()
        if not txn.keep_alive:
            return


async def _run_watched(txn: EngineTransaction) -> None:
    """Run a transaction and count it as activity, so that the sweep looks for a client that is gone.

    Only for streams that are not virtual connections: these report by themselves that the peer is gone.
    """
    txn.core.activity.begin()
    try:
        await run_transaction(txn)
    finally:
        txn.core.activity.end()


def _count_descendant(session: EngineSession, root: EngineTransaction) -> None:
    """Count one more request of a child's connection against `http.max_descendants` of `root`.

    If the limit is reached, the request fails with 503. Other connections may have used the last of it since the previous response.
    """
    if root.descendants >= session.core.config.http.max_descendants:
        session.failures += (TransactionFailure(Failure.DESCENDANTS),)
    else:
        root.descendants += 1


async def _next_request(session: EngineSession) -> bool:
    """Wait until a request has begun to arrive. Return False if the session must end instead."""
    if session.http.skip_empty_lines():
        return True  # pipelined: the next request was received already
    if session.core.draining and (session.requests or not session.awaited) and not has_input(session.stream):
        return False  # requests already received are served; the response says `Connection: close`
    if not session.requests and session.http.fill_now() and session.http.skip_empty_lines():
        return True  # a virtual connection: the request was written before this task started
    session.core.timer.set(session, trio.current_time() + session.core.config.http.keep_alive_timeout)
    session.idling = True
    more = await _wait_for_request(session)
    session.idling = False
    session.deadline = math.inf
    assert session.nursery is not None
    return more and not session.nursery.cancel_scope.cancel_called  # cancelled in the same tick in which the input arrived


async def _wait_for_request(session: EngineSession) -> bool:
    """Read until a request has begun. Return False at the end of input, or if the proxy drains and only empty lines were received."""
    while await session.http.fill():
        if session.http.skip_empty_lines():
            return True
        if session.core.draining and not has_input(session.stream):
            return False  # only empty lines were received
    return False


async def _start(session: EngineSession) -> None:
    """Run the `session_start` hooks. Failures are kept in `session.failures`, for the first transaction to report."""
    session.started = True
    for method in session.core.hooks.session_start:
        # There is no transaction yet, and so no watch with its limits.
        latest = trio.current_time() + session.core.config.http.header_timeout
        deadline = math.inf if session.end is None else session.end
        try:
            with trio.CancelScope(deadline=min(latest, deadline)) as scope:
                await method(session)
            if scope.cancelled_caught:
                if deadline <= latest:
                    session.failures += (TransactionFailure(Failure.DEADLINE),)
                    return
                raise TimeoutError("session_start took longer than http.header_timeout")
        except BaseException as exc:
            failure, passing = sort_out(exc)
            if failure is not None:
                name = plugin_name(method)
                failed = TransactionFailure(Failure.PLUGIN, "A plugin failed.", plugin=name)
                failed.log = noted = note_failure(method, failure)
                logger.error("plugin %s failed in session_start (session %d) at %s", name, session.number, noted["at"], exc_info=failure)
                session.failures += (failed,)
            if passing is not None:
                raise passing from None


async def _close(session: EngineSession) -> None:
    """Close the stream, then run the `session_close` hooks if `session_start` ran. Errors are logged."""
    session.core.timer.remove(session)
    watch_peer(session.stream, None)  # the callback must not cancel a session that has ended
    try:
        if session.broken or session.cancelled:
            await close_now(session.stream)
        else:
            await close_gently(session.stream, 0.0 if session.http.input_ended else session.core.config.http.linger_timeout)
    except Exception:
        logger.exception("closing the stream of session %d failed", session.number)
    finally:
        if session.started and session.core.hooks.session_close:
            await fire_closing(session, session.core.hooks.session_close, session.core.config.http.close_timeout)
