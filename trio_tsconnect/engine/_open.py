"""`open_proxy`: the nursery that an engine lives in, and everything that lives and ends with it.

Invariant: no nursery is hidden in an object. `open_proxy` owns the nursery; a `Proxy` only knows where to put its tasks while it is open.
"""

from __future__ import annotations

import logging
from collections.abc import AsyncIterator, Iterable
from contextlib import asynccontextmanager

import trio

from trio_tsconnect._contain import sort_out
from trio_tsconnect._util import public
from trio_tsconnect.config import ProxyConfig, load_origin
from trio_tsconnect.engine._core import Nowhere
from trio_tsconnect.engine._proxy import Engine
from trio_tsconnect.hooks import Hooks, Plugin, Proxy, name_plugins
from trio_tsconnect.log import JsonLinesLog, Log, StderrLog

logger = logging.getLogger("trio_tsconnect")


def _rule_hooks(config: ProxyConfig, hooks: Hooks) -> dict[int, Hooks]:
    """The hooks of rules that have plugins of their own, or an origin that one plays; by the identity of the rule."""
    players = {rule.played: load_origin(rule.played) for rule in config.remap if rule.played}
    return {
        id(rule): Hooks((*hooks.plugins, *rule.plugins, *([players[rule.played]] if rule.played else [])))
        for rule in config.remap
        if rule.plugins or rule.played
    }


def _open_log(config: ProxyConfig) -> Log:
    if config.log is None:
        return Nowhere()
    if config.log.path is None:
        return StderrLog(flush_interval=config.log.flush_interval)
    return JsonLinesLog(config.log.path, flush_interval=config.log.flush_interval)


@public("trio_tsconnect")
@asynccontextmanager
async def open_proxy(config: ProxyConfig | None = None, *, plugins: Iterable[Plugin] = (), log: Log | None = None) -> AsyncIterator[Proxy]:
    """Open an engine for the length of a `with` block.

    `plugins` come after those of the configuration. `log`: where records go; None: what `config.log` says, else nowhere. When the body returns
    the proxy drains for `config.http.drain_timeout`, then cancels. When the body raises or is cancelled, it cancels at once; the body's
    exception leaves as it is, not in a group. `ConfigError` and `OSError` (a log that cannot be opened) are raised before anything runs.
    """
    config = config or ProxyConfig()
    hooks = Hooks((*config.plugins, *plugins))
    of_rules = _rule_hooks(config, hooks)
    records = log or _open_log(config)
    error: BaseException | None = None
    try:
        async with trio.open_nursery() as log_nursery:
            log_scope = trio.CancelScope(shield=True)
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
                    except BaseException as exc:  # noqa: BLE001 - raised again, when the other side has ended
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
            del error


def _joined(error: BaseException | None, group: BaseExceptionGroup[BaseException]) -> BaseException:
    """What leaves: the body's exception, and what the engine's own tasks raise; a Ctrl-C that found one of them, most likely."""
    theirs = group.split(trio.Cancelled)[1]  # without a cancellation around `open_proxy`, which goes on by itself
    if error is not None and theirs is None:
        return error
    theirs_alone = _without_groups_of_one(theirs or group)
    if error is None or isinstance(error, trio.Cancelled):
        return theirs_alone
    return BaseExceptionGroup("the body of open_proxy, and the proxy", [error, theirs_alone])


def _without_groups_of_one(exc: BaseException) -> BaseException:
    while isinstance(exc, BaseExceptionGroup) and len(exc.exceptions) == 1:
        exc = exc.exceptions[0]
    return exc


async def _run_log(log: Log, scope: trio.CancelScope) -> None:
    with scope:  # shielded: what a cancellation ends has records still to come; close() ends it, or the deadline that is set then
        await log.run()


async def _run_plugin(plugin: Plugin, proxy: Proxy) -> None:
    try:
        await plugin.run(proxy)
    except BaseException as exc:
        failure, passing = sort_out(exc)
        if failure is not None:
            logger.error("plugin %s ended in run()", type(plugin).__name__, exc_info=failure)
        if passing is not None:
            raise passing from None
