"""Plugins: ten hooks on the way of a transaction, and the tasks of a plugin itself.

The law: only what a plugin overrides costs anything. `Hooks` is made once for a set of plugins and holds, for each hook, the bound methods
that do something; a hook that nobody overrides is an empty tuple.
"""

from __future__ import annotations

import inspect
import itertools
from collections.abc import Awaitable, Callable, Iterable
from typing import TYPE_CHECKING, Any, Final

from trio_tsconnect._util import public
from trio_tsconnect.config import PluginBase

if TYPE_CHECKING:
    from trio_tsconnect.hooks._proxy import Proxy
    from trio_tsconnect.hooks._session import Session
    from trio_tsconnect.hooks._transaction import Transaction

HOOKS: Final = {
    "session_start": "TS_HTTP_SSN_START_HOOK",
    "session_close": "TS_HTTP_SSN_CLOSE_HOOK",
    "transaction_start": "TS_HTTP_TXN_START_HOOK",
    "read_request": "TS_HTTP_READ_REQUEST_HDR_HOOK",
    "pre_remap": "TS_HTTP_PRE_REMAP_HOOK",
    "post_remap": "TS_HTTP_POST_REMAP_HOOK",
    "send_request": "TS_HTTP_SEND_REQUEST_HDR_HOOK",
    "read_response": "TS_HTTP_READ_RESPONSE_HDR_HOOK",
    "send_response": "TS_HTTP_SEND_RESPONSE_HDR_HOOK",
    "transaction_close": "TS_HTTP_TXN_CLOSE_HOOK",
}
"""Every hook, in no order that matters, with its name in Traffic Server."""


@public("trio_tsconnect")
class Plugin(PluginBase):
    """Something that takes part in transactions. Subclass it and override any of its methods; all are async and return None.

    A hook speaks through its argument: it changes `txn.request` and `txn.response`, answers with `txn.respond(...)`, adds to `txn.log`. Hooks
    of several plugins run in the order in which the plugins were given, in both directions, as in Traffic Server. A hook may await: only its
    own transaction waits. An exception in a hook ends that transaction with a 500, or cuts the response short if it has begun, and names
    the plugin in the log; nothing else is hurt. A hook may be cancelled at any await, when the client leaves or a limit is crossed.

    A public coroutine method that is neither a hook nor `run` is a `TypeError` when the class is made: most likely a misspelt hook.
    """

    def __init_subclass__(cls, **kwargs: Any) -> None:
        super().__init_subclass__(**kwargs)
        for name, value in vars(cls).items():
            if name.startswith("_"):
                continue
            if inspect.iscoroutinefunction(value) and name not in HOOKS and name != "run":
                raise TypeError(f"{cls.__qualname__}.{name} is no hook; the hooks are {', '.join(HOOKS)} (other coroutines: begin with _)")
            if name in HOOKS and not inspect.iscoroutinefunction(value):
                raise TypeError(f"{cls.__qualname__}.{name} is a hook and must be an async method")

    async def run(self, proxy: Proxy) -> None:
        """The plugin's own work, started with the proxy in its nursery and cancelled when it closes. An exception is logged and ends it alone."""

    async def session_start(self, session: Session) -> None:
        """A client connection has sent its first byte. Source: TS_HTTP_SSN_START_HOOK."""

    async def session_close(self, session: Session) -> None:
        """A client connection that had a `session_start` has ended. Source: TS_HTTP_SSN_CLOSE_HOOK."""

    async def transaction_start(self, txn: Transaction) -> None:
        """A request begins to arrive; there is no `txn.request` yet. Source: TS_HTTP_TXN_START_HOOK."""

    async def read_request(self, txn: Transaction) -> None:
        """The request head was read, and is acceptable. Source: TS_HTTP_READ_REQUEST_HDR_HOOK."""

    async def pre_remap(self, txn: Transaction) -> None:
        """Before the remap table is asked; the last place to change what it is asked for. Source: TS_HTTP_PRE_REMAP_HOOK."""

    async def post_remap(self, txn: Transaction) -> None:
        """The target is decided: `txn.request.target` is its URI. The last place for `respond`. Source: TS_HTTP_POST_REMAP_HOOK."""

    async def send_request(self, txn: Transaction) -> None:
        """An origin connection is there, and `txn.request` is what will be sent; once per attempt. Source: TS_HTTP_SEND_REQUEST_HDR_HOOK."""

    async def read_response(self, txn: Transaction) -> None:
        """`txn.response` came from the origin; also for each interim (1xx) response. Source: TS_HTTP_READ_RESPONSE_HDR_HOOK."""

    async def send_response(self, txn: Transaction) -> None:
        """`txn.response` will be sent: the origin's, a plugin's or an error. Source: TS_HTTP_SEND_RESPONSE_HDR_HOOK."""

    async def transaction_close(self, txn: Transaction) -> None:
        """The transaction has ended, its record is written. Shielded, and bounded by `http.close_timeout`. Source: TS_HTTP_TXN_CLOSE_HOOK."""


HookMethod = Callable[[Any], Awaitable[None]]


@public("trio_tsconnect.hooks")
class Hooks:
    """For each hook the overriding methods of a list of plugins, in their order."""

    __slots__ = (*HOOKS, "plugins")

    session_start: tuple[HookMethod, ...]
    session_close: tuple[HookMethod, ...]
    transaction_start: tuple[HookMethod, ...]
    read_request: tuple[HookMethod, ...]
    pre_remap: tuple[HookMethod, ...]
    post_remap: tuple[HookMethod, ...]
    send_request: tuple[HookMethod, ...]
    read_response: tuple[HookMethod, ...]
    send_response: tuple[HookMethod, ...]
    transaction_close: tuple[HookMethod, ...]

    def __init__(self, plugins: Iterable[object]) -> None:
        self.plugins: tuple[Plugin, ...] = tuple(_as_plugin(plugin) for plugin in plugins)
        for name in HOOKS:
            base = getattr(Plugin, name)
            setattr(self, name, tuple(getattr(p, name) for p in self.plugins if getattr(type(p), name) is not base))


def _as_plugin(plugin: object) -> Plugin:
    if isinstance(plugin, Plugin):
        return plugin
    hint = f"; make one: {plugin.__name__}()" if isinstance(plugin, type) and issubclass(plugin, Plugin) else ""
    raise TypeError(f"{plugin!r} is not a Plugin{hint}")


@public("trio_tsconnect.hooks")
def plugin_name(method: HookMethod) -> str:
    """The name by which the log knows the plugin whose bound hook this is."""
    return method.__self__.log_name  # type: ignore[attr-defined,no-any-return]


@public("trio_tsconnect.hooks")
def name_plugins(plugins: Iterable[Plugin]) -> None:
    """Give each plugin without a name for the log one of its own."""
    plugins = list(plugins)
    taken = {plugin.log_name for plugin in plugins}
    for plugin in plugins:
        if not plugin.log_name:
            base = type(plugin).__name__
            numbered = (base if number == 1 else f"{base}#{number}" for number in itertools.count(1))
            plugin.log_name = next(name for name in numbered if name not in taken)
            taken.add(plugin.log_name)
