"""`open_proxy`: start an engine with its log and plugins, and stop it at the end of a `with` block.

Invariant: the nurseries belong to the context manager `open_proxy`, not to an object. A `Proxy` only starts tasks in one while it is open.
"""

from __future__ import annotations

import logging
from collections.abc import AsyncIterator, Iterable
from contextlib import asynccontextmanager

import trio

from trio_tsconnect._contain import place, sort_out
from trio_tsconnect._util import public
from trio_tsconnect.config import ProxyConfig, load_origin, open_log
from trio_tsconnect.engine._core import Nowhere
from trio_tsconnect.engine._proxy import Engine
from trio_tsconnect.hooks import Hooks, Plugin, Proxy, name_plugins
from trio_tsconnect.log import Log

logger = logging.getLogger("trio_tsconnect")


def _rule_hooks(config: ProxyConfig, hooks: Hooks) -> dict[int, Hooks]:
    """Return the hooks of each rule that has plugins of its own, or a plugin as its origin. The keys are `id(rule)`.

    Raise `ConfigError` if a plugin that acts as an origin cannot be loaded.
    """
    players = {rule.played: load_origin(rule.played) for rule in config.remap if rule.played}
    return {
        id(rule): Hooks((*hooks.plugins, *rule.plugins, *([players[rule.played]] if rule.played else [])))
        for rule in config.remap
        if rule.plugins or rule.played
    }


def _open_log(config: ProxyConfig) -> Log:
    return open_log(config.log) if config.log else Nowhere()


@public("trio_tsconnect")
@asynccontextmanager
async def open_proxy(config: ProxyConfig | None = None, *, plugins: Iterable[Plugin] = (), log: Log | None = None) -> AsyncIterator[Proxy]:
    """Open a proxy for the duration of a `with` block.

    `plugins` are called after those of the configuration. `log` is the destination for log records. It defaults to `config.log`; if that is
    also unset, records are discarded.

    When the body returns, the proxy drains for `config.http.drain_timeout` seconds at most, then cancels the remaining sessions. When the
    body raises or is cancelled, it cancels them at once. The body's exception is raised as it is, not in a group, unless a task of the
    proxy raises as well. `ConfigError`, and `OSError` if the log cannot be opened, are raised before any task starts.
    """
    config = config or ProxyConfig()
    hooks = Hooks((*config.plugins, *plugins))
    of_rules = _rule_hooks(config, hooks)
    records = log or _open_log(config)
    error: BaseException | None = None
    try:
        async with trio.open_nursery() as log_nursery:
            log_scope = trio.CancelScope(shield=True)  # see `_run_log`
            log_nursery.start_soon(_run_log, records, log_scope, name="log")
            try:
                async with trio.open_nursery() as nursery:
                    proxy = Engine(config, hooks, of_rules, records, nursery)
                    name_plugins(proxy.plugins())
                    proxy.start(nursery)
                    for plugin in proxy.plugins():
                        if type(plugin).run is not Plugin.run:
                            nursery.start_soon(_run_plugin, plugin, proxy, name=f"plugin {type(plugin).__name__}")
                    try:
                        yield proxy
                        await proxy.drain(config.http.drain_timeout)
                    except BaseException as exc:  # noqa: BLE001 - raised again, after the engine has ended
                        error = exc
                    try:
                        await proxy._end()
                    finally:
                        nursery.cancel_scope.cancel()
            finally:
                records.close()
                log_scope.deadline = trio.current_time() + config.http.close_timeout
    except BaseExceptionGroup as group:
        error = _joined(error, group)
    if error is not None:
        try:
            raise error
        finally:
            del error  # breaks the cycle of exception, traceback and this frame


def _joined(error: BaseException | None, group: BaseExceptionGroup[BaseException]) -> BaseException:
    """Return the exception to raise: that of the body, that of the engine's tasks (usually a Ctrl-C), or a group of both."""
    theirs = group.split(trio.Cancelled)[1]  # a cancellation from outside is delivered again at the next checkpoint
    if error is not None and theirs is None:
        return error
    theirs_alone = _without_groups_of_one(theirs or group)
    if error is None or isinstance(error, trio.Cancelled):
        return theirs_alone
    return BaseExceptionGroup("the body of open_proxy raised, and so did a task of the proxy", [error, theirs_alone])


def _without_groups_of_one(exc: BaseException) -> BaseException:
    while isinstance(exc, BaseExceptionGroup) and len(exc.exceptions) == 1:
        exc = exc.exceptions[0]
    return exc


async def _run_log(log: Log, scope: trio.CancelScope) -> None:
    # The scope is shielded, because cancelled transactions still write records. `close()` ends the log, or the deadline set after it.
    with scope:
        await log.run()


async def _run_plugin(plugin: Plugin, proxy: Proxy) -> None:
    """Run the task of a plugin. An exception in it is logged; the proxy and the hooks of the plugin go on."""
    try:
        await plugin.run(proxy)
    except BaseException as exc:
        failure, passing = sort_out(exc)
        if failure is not None:
            kind = type(plugin)
            logger.error("plugin %s ended in run() at %s", kind.__name__, place(failure, kind.__module__), exc_info=failure)
        if passing is not None:
            raise passing from None
