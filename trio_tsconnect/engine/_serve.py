"""The requests of one client stream, one after another, until one side has had enough.

The law: `serve_session` never raises. Whatever ends a session, its stream is closed, its transaction has its record, and it is off the
engine's books.

A session owns a nursery, and everything that its transactions start lives there: children, intercepts, a reader that looks after the
client. So the request tree is the nursery tree, and a transaction that starts nothing pays for no nursery of its own.
"""

from __future__ import annotations

import logging
import math

import trio

from trio_tsconnect._contain import describe, sort_out
from trio_tsconnect.engine._actions import ServedTransaction
from trio_tsconnect.engine._core import next_id
from trio_tsconnect.engine._flow import run_transaction
from trio_tsconnect.engine._hooks import fire_closing
from trio_tsconnect.engine._session import EngineSession
from trio_tsconnect.engine._transaction import EngineTransaction
from trio_tsconnect.hooks import plugin_name
from trio_tsconnect.message import Failure, TransactionFailure
from trio_tsconnect.stream import close_gently, close_now, has_input, watch_peer

logger = logging.getLogger("trio_tsconnect")


async def serve_session(session: EngineSession) -> None:
    """Serve requests until the connection ends; close the stream. An error never leaves, a cancellation from outside does."""
    try:
        async with trio.open_nursery() as nursery:
            session.nursery = nursery
            if session.cancelled:
                nursery.cancel_scope.cancel()
            watch_peer(session.stream, session.client_is_gone)
            try:
                await _serve(session)
            except (trio.BrokenResourceError, trio.ClosedResourceError):
                pass  # between two requests a client may go as it likes
            except Exception:
                logger.exception("session %d failed inside the engine", session.number)
            if nursery.child_tasks:
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
        if session.gone is not None:
            session.cancel(*session.gone)
        try:
            await (run_transaction(txn) if session.virtual else _run_watched(txn))
        finally:
            session.transaction = None
        if session.input_reader is not None:
            await session.input_reader.stop()
        if not txn.keep_alive:
            return


async def _run_watched(txn: EngineTransaction) -> None:
    """A socket does not tell that its peer has gone: the sweep is to look after it."""
    txn.core.activity.begin()
    try:
        await run_transaction(txn)
    finally:
        txn.core.activity.end()


def _count_descendant(session: EngineSession, root: EngineTransaction) -> None:
    """One more request on a kept connection. Several connections may have been open when the last place went, so each asks again."""
    if root.descendants >= session.core.config.http.max_descendants:
        session.failures += (TransactionFailure(Failure.DESCENDANTS),)
    else:
        root.descendants += 1


async def _next_request(session: EngineSession) -> bool:
    if session.http.skip_empty_lines():
        return True  # pipelined: the next request is here already
    if session.core.draining and (session.requests or not session.awaited) and not has_input(session.stream):
        return False  # (what has come already is served, and told that it was the last)
    if not session.requests and session.http.fill_now() and session.http.skip_empty_lines():
        return True  # of a virtual connection: it was written before this task could begin
    session.core.timer.set(session, trio.current_time() + session.core.config.http.keep_alive_timeout)
    session.idling = True
    more = await _wait_for_request(session)
    session.idling = False
    session.deadline = math.inf
    assert session.nursery is not None
    return more and not session.nursery.cancel_scope.cancel_called  # it ended in the tick in which something came


async def _wait_for_request(session: EngineSession) -> bool:
    while await session.http.fill():
        if session.http.skip_empty_lines():
            return True
        if session.core.draining and not has_input(session.stream):
            return False  # nothing but empty lines has come
    return False


async def _start(session: EngineSession) -> None:
    session.started = True
    for method in session.core.hooks.session_start:
        # There is no transaction yet whose limits could count.
        latest = trio.current_time() + session.core.config.http.header_timeout
        deadline = math.inf if session.end is None else session.end
        try:
            with trio.CancelScope(deadline=min(latest, deadline)) as scope:
                await method(session)
            if scope.cancelled_caught:
                if deadline <= latest:
                    session.failures += (TransactionFailure(Failure.DEADLINE),)
                    return
                raise TimeoutError("it took longer than http.header_timeout")
        except BaseException as exc:
            failure, passing = sort_out(exc)
            if failure is not None:
                name = plugin_name(method)
                logger.error("plugin %s failed in session_start (session %d)", name, session.number, exc_info=failure)
                failed = TransactionFailure(Failure.PLUGIN, "A plugin failed.", plugin=name)
                failed.log = {"hook": "session_start", "exception": describe(failure)}
                session.failures += (failed,)
            if passing is not None:
                raise passing from None


async def _close(session: EngineSession) -> None:
    session.core.timer.remove(session)
    watch_peer(session.stream, None)
    try:
        if session.broken or session.cancelled:
            await close_now(session.stream)
        else:
            await close_gently(session.stream, 0.0 if session.http.input_ended else session.core.config.http.linger_timeout)
    except Exception:
        logger.exception("the stream of session %d cannot be closed", session.number)
    finally:
        if session.started and session.core.hooks.session_close:
            await fire_closing(session, session.core.hooks.session_close, session.core.config.http.close_timeout)
