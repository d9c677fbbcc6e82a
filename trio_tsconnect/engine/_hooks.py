"""Running hooks: in order, one after the other, and with each failure on its plugin's account."""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING

import trio

from trio_tsconnect._contain import describe, sort_out
from trio_tsconnect.engine._changes import check_changes
from trio_tsconnect.hooks import HookMethod, plugin_name
from trio_tsconnect.message import Failure, TransactionFailure

if TYPE_CHECKING:
    from trio_tsconnect.engine._session import EngineSession
    from trio_tsconnect.engine._transaction import EngineTransaction

logger = logging.getLogger("trio_tsconnect")


async def fire(txn: EngineTransaction, methods: tuple[HookMethod, ...]) -> None:
    """Run the hooks of one kind on a transaction. An exception in one becomes a `TransactionFailure` that names its plugin."""
    for method in methods:
        txn.plugin_name = plugin_name(method)
        request, response = txn._request, txn._response
        target = None if request is None else request.target
        status = 0 if response is None else response.status
        fired, config = txn.watch.fired, txn.config
        try:
            await method(txn)
            check_changes(txn, target, status)
            if txn.config is not config:  # it may have another `transaction_timeout`
                txn.set_bounds()
        except TransactionFailure:
            raise
        except BaseException as exc:
            failure, passing = sort_out(exc)
            failed = None if failure is None else _only_of_the_engine(failure) or blame(txn, method, failure)
            if passing is not None:
                raise passing from None
            assert failed is not None
            raise failed from exc
        finally:
            if txn.watch.fired is not fired:  # also where the hook has swallowed the cancellation
                txn.plugin_log.setdefault(txn.plugin_name, {})["cut_short"] = getattr(method, "__name__", "hook")
            txn.plugin_name = ""


def _only_of_the_engine(failure: BaseException) -> TransactionFailure | None:
    """What the engine itself has raised (`read_request_body`, say) within a nursery of the hook."""
    while isinstance(failure, BaseExceptionGroup) and len(failure.exceptions) == 1:
        failure = failure.exceptions[0]
    return failure if isinstance(failure, TransactionFailure) else None


def blame(txn: EngineTransaction, method: HookMethod, exc: BaseException) -> TransactionFailure:
    """Put an exception on its plugin's account, in the record and in the process's log."""
    return _blame(txn, plugin_name(method), getattr(method, "__name__", "hook"), exc)


def blame_transform(txn: EngineTransaction, name: str, exc: BaseException) -> TransactionFailure:
    """The same for an exception in a transform of a body."""
    return _blame(txn, name, "transform", exc)


def blame_intercept(txn: EngineTransaction, name: str, exc: BaseException) -> None:
    """The same for a plugin that plays the origin; what the client gets is decided by what it has sent."""
    _blame(txn, name, "intercept", exc)


def _blame(txn: EngineTransaction, name: str, hook: str, exc: BaseException) -> TransactionFailure:
    txn.plugin_log.setdefault(name, {})["failed"] = {"hook": hook, "exception": describe(exc)}
    logger.error("plugin %s failed in %s (transaction %d)", name, hook, txn.number, exc_info=exc)
    return TransactionFailure(Failure.PLUGIN, "A plugin failed.", plugin=name)


async def fire_closing(subject: EngineSession | EngineTransaction, methods: tuple[HookMethod, ...], seconds: float) -> None:
    """Run the hooks that end something: shielded, bounded, and whatever they raise is only logged."""
    if not methods:
        return
    with trio.CancelScope(shield=True, deadline=trio.current_time() + seconds) as scope:
        for method in methods:
            try:
                await method(subject)
            except BaseException as exc:
                failure, passing = sort_out(exc)
                if failure is not None:
                    logger.error("plugin %s failed in %s", plugin_name(method), getattr(method, "__name__", "hook"), exc_info=failure)
                if passing is not None:
                    raise passing from None
    if scope.cancelled_caught:
        logger.error("closing hooks of %r took longer than %g s and were cut short", subject, seconds)
