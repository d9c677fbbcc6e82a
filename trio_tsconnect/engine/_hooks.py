"""Running the hooks of plugins in order. A failure is attributed to its plugin, in the log record and in the log of the process."""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING

import trio

from trio_tsconnect._contain import describe, place, sort_out
from trio_tsconnect.engine._changes import check_changes
from trio_tsconnect.hooks import HookMethod, State, Transaction, is_guard, plugin_name
from trio_tsconnect.message import BadRequest, Failure, TransactionFailure

if TYPE_CHECKING:
    from trio_tsconnect.engine._session import EngineSession
    from trio_tsconnect.engine._transaction import EngineTransaction

logger = logging.getLogger("trio_tsconnect")


async def fire(txn: EngineTransaction, methods: tuple[HookMethod, ...]) -> None:
    """Run the hooks of one kind, one after another. Once a plugin has answered or asked for another attempt, `_is_asked` tells which.

    Raise `TransactionFailure` if a hook raises, or leaves an invalid change. Later hooks are not run then. A cancellation in effect and a
    Ctrl-C are raised again; anything else, such as SystemExit, is a failure of the plugin.
    """
    for method in methods:
        if (txn.answer is not None or txn.retry_target is not None) and not _is_asked(txn, method):
            continue
        plugin = method.__self__  # type: ignore[attr-defined]
        txn.plugin_name, txn.guarding, txn.hook_name = plugin.log_name, plugin._is_guard, method.__name__
        request, response = txn._request, txn._response
        target = None if request is None else request.target
        status = 0 if response is None else response.status
        fired, config = txn.watch.fired, txn.config
        try:
            await method(txn)
            check_changes(txn, target, status)
            if txn.config is not config:  # it may have another `transaction_timeout`
                txn.set_bounds()
        except TransactionFailure:  # raised by the engine in a method that the hook has called
            txn.retry_target = None
            raise
        except BaseException as exc:
            txn.retry_target = None  # what a hook that fails has asked for does not count
            failure, passing = sort_out(exc)
            failed = None if failure is None else _not_the_plugins(txn, failure) or blame(txn, method, failure)
            if passing is not None:
                raise passing from None
            assert failed is not None
            raise failed from exc
        finally:
            if txn.watch.fired is not fired:  # also if the hook has swallowed the cancellation
                txn.plugin_log.setdefault(txn.plugin_name, {})["cut_short"] = getattr(method, "__name__", "hook")
            txn.plugin_name = ""


def _is_asked(txn: EngineTransaction, method: HookMethod) -> bool:
    """Return True if a hook runs although a plugin has called `respond` or `retry`: one for the response that is sent, and that of a guard
    while the request can be refused.
    """
    if txn.state is State.SEND_RESPONSE:
        return True
    return is_guard(method) and txn.refused_by is None and txn.state in (State.READ_REQUEST, State.REMAP)


def _not_the_plugins(txn: EngineTransaction, failure: BaseException) -> TransactionFailure | None:
    """Return the failure to raise if the plugin is not to blame: if the engine has raised it (in `read_request_body`, for example), also
    within a nursery of the hook, or if the hook has read `request.url` of a request that has no valid URL.
    """
    while isinstance(failure, BaseExceptionGroup) and len(failure.exceptions) == 1:
        failure = failure.exceptions[0]
    if isinstance(failure, BadRequest) and txn.url is None:
        return TransactionFailure(failure)
    return failure if isinstance(failure, TransactionFailure) else None


def blame(txn: EngineTransaction, method: HookMethod, exc: BaseException) -> TransactionFailure:
    """Log an exception of a hook as a failure of its plugin. Return the failure to raise instead."""
    return _blame(txn, plugin_name(method), getattr(method, "__name__", "hook"), exc)


def note_failure(method: HookMethod, exc: BaseException) -> dict[str, str]:
    """Return what the log record says about an exception of a hook: the hook, the exception, and where it was raised."""
    return _note(getattr(method, "__name__", "hook"), exc, type(method.__self__).__module__)  # type: ignore[attr-defined]


def blame_transform(txn: EngineTransaction, name: str, exc: BaseException) -> TransactionFailure:
    """Log an exception of a transform as a failure of the plugin `name`. Return the failure to raise instead."""
    return _blame(txn, name, "transform", exc)


def blame_intercept(txn: EngineTransaction, name: str, exc: BaseException) -> None:
    """Log an exception of a plugin that acts as the origin. The response depends on what the plugin has sent before."""
    _blame(txn, name, "intercept", exc)


def _blame(txn: EngineTransaction, name: str, hook: str, exc: BaseException) -> TransactionFailure:
    module = next((type(plugin).__module__ for plugin in txn.hooks.plugins if plugin.log_name == name), None)
    txn.plugin_log.setdefault(name, {})["failed"] = noted = _note(hook, exc, module)
    logger.error("plugin %s failed in %s (transaction %d) at %s", name, hook, txn.number, noted["at"], exc_info=exc)
    return TransactionFailure(Failure.PLUGIN, "A plugin failed.", plugin=name)


def _note(hook: str, exc: BaseException, module: str | None) -> dict[str, str]:
    return {"hook": hook, "exception": describe(exc), "at": place(exc, module)}


async def fire_closing(subject: EngineSession | EngineTransaction, methods: tuple[HookMethod, ...], seconds: float) -> None:
    """Run the closing hooks of a session or transaction, shielded from cancellation, for `seconds` in total at most.

    What they raise is logged, also in the record of a transaction, and the next hook runs.
    """
    if not methods:
        return
    txn = subject if isinstance(subject, Transaction) else None
    with trio.CancelScope(shield=True, deadline=trio.current_time() + seconds) as scope:
        for method in methods:
            if txn is not None:
                txn.plugin_name = plugin_name(method)
            try:
                await method(subject)
            except BaseException as exc:
                failure, passing = sort_out(exc)
                if failure is not None and txn is not None:
                    blame(txn, method, failure)
                elif failure is not None:
                    noted = note_failure(method, failure)
                    logger.error("plugin %s failed in %s at %s", plugin_name(method), noted["hook"], noted["at"], exc_info=failure)
                if passing is not None:
                    raise passing from None
    if txn is not None:
        if scope.cancel_called:
            txn.plugin_log.setdefault(txn.plugin_name, {})["cut_short"] = "transaction_close"
        txn.plugin_name = ""
    if scope.cancelled_caught:
        logger.error("closing hooks of %r were cancelled: they took longer than %g s", subject, seconds)
