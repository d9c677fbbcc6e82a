"""`Plugin`, with eleven hooks in the life of a transaction and a background task.

Invariant: a hook that no plugin overrides costs nothing at runtime. `Hooks` is built once for a set of plugins. For each hook it has the
bound methods of the plugins that override it, which is an empty tuple if none does.
"""

from __future__ import annotations

import inspect
import itertools
from collections.abc import Awaitable, Callable, Iterable
from typing import TYPE_CHECKING, Any, ClassVar, Final

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
    "origin_failed": "",
    "send_response": "TS_HTTP_SEND_RESPONSE_HDR_HOOK",
    "transaction_close": "TS_HTTP_TXN_CLOSE_HOOK",
}
"""Every hook, with its name in Traffic Server; empty if that has no such hook. The order has no meaning."""


@public("trio_tsconnect")
class Plugin(PluginBase):
    """Base class of plugins. Derive from it and override any of its methods. All of them are async and return None.

    A hook acts through its argument. It changes `txn.request` and `txn.response`, answers with `txn.respond(...)`, or adds to `txn.log`.
    The hooks of several plugins run in the order of the plugins, for requests and for responses, as in Traffic Server. A hook may await;
    only its own transaction waits. An exception in a hook ends that transaction with 500, or truncates the response if it has begun. The
    log names the plugin. Other transactions are not affected. A hook may be cancelled at any await: when the client disconnects, or when a
    limit is exceeded.

    A subclass with a public coroutine method that is neither a hook nor `run` raises `TypeError` when the class is defined. It is most
    likely a misspelt hook. A hook that is not an async method raises `TypeError` too.
    """

    _is_guard: ClassVar[bool] = False
    _COROUTINES: ClassVar[frozenset[str]] = frozenset({"run"})
    """Coroutine methods that are no hooks."""

    def __init_subclass__(cls, **kwargs: Any) -> None:
        super().__init_subclass__(**kwargs)
        for name, value in vars(cls).items():
            if name.startswith("_"):
                continue
            if inspect.iscoroutinefunction(value) and name not in HOOKS and name not in cls._COROUTINES:
                raise TypeError(f"{cls.__qualname__}.{name} is not a hook; the hooks are {', '.join(HOOKS)} (others: start with _)")
            if name in HOOKS and not inspect.iscoroutinefunction(value):
                raise TypeError(f"{cls.__qualname__}.{name} is a hook and must be an async method")

    async def run(self, proxy: Proxy) -> None:
        """Run a background task. It starts with the proxy and is cancelled when the proxy closes. An exception ends only this task."""

    async def session_start(self, session: Session) -> None:
        """Runs when the first byte of the first request on a client connection is received. Source: TS_HTTP_SSN_START_HOOK."""

    async def session_close(self, session: Session) -> None:
        """Runs after a client connection that had a `session_start` was closed. Shielded from cancellation, for at most
        `http.close_timeout` seconds.

        Source: TS_HTTP_SSN_CLOSE_HOOK.
        """

    async def transaction_start(self, txn: Transaction) -> None:
        """Runs when a request starts to arrive. There is no `txn.request` yet. Source: TS_HTTP_TXN_START_HOOK."""

    async def read_request(self, txn: Transaction) -> None:
        """Runs after the request head was received and validated. Source: TS_HTTP_READ_REQUEST_HDR_HOOK."""

    async def pre_remap(self, txn: Transaction) -> None:
        """Runs before access rules and remap rules are applied: the last hook that can change the target URI for them.

        Source: TS_HTTP_PRE_REMAP_HOOK.
        """

    async def post_remap(self, txn: Transaction) -> None:
        """Runs after remapping: `txn.request.url` is the URL at the origin. The last hook in which `intercept` is legal.

        Source: TS_HTTP_POST_REMAP_HOOK.
        """

    async def send_request(self, txn: Transaction) -> None:
        """Runs before the request is sent on an origin connection, once per attempt. `txn.request` is what will be sent. Not run for
        CONNECT.

        Source: TS_HTTP_SEND_REQUEST_HDR_HOOK.
        """

    async def read_response(self, txn: Transaction) -> None:
        """Runs after a response head was received from the origin, also for each interim (1xx) response. Not run for CONNECT.

        Source: TS_HTTP_READ_RESPONSE_HDR_HOOK.
        """

    async def origin_failed(self, txn: Transaction) -> None:
        """Runs after an attempt at an origin failed before a response head was received. `txn.failure` says how.

        `txn.retry(...)` makes another attempt, `txn.respond(...)` answers. Otherwise the client gets the error response. Not run when the
        proxy repeats the attempt by itself (`origin.retries`), and not for CONNECT.
        """

    async def send_response(self, txn: Transaction) -> None:
        """Runs before `txn.response` is sent: the final response of the origin, the answer of a plugin, or an error.

        Source: TS_HTTP_SEND_RESPONSE_HDR_HOOK.
        """

    async def transaction_close(self, txn: Transaction) -> None:
        """Runs after the transaction has ended, before its record is logged: what it adds to `txn.log` is in the record.

        Shielded from cancellation, for at most `http.close_timeout` seconds. Source: TS_HTTP_TXN_CLOSE_HOOK.
        """


HookMethod = Callable[[Any], Awaitable[None]]


@public("trio_tsconnect.hooks")
class Hooks:
    """For each hook, the methods of a list of plugins that override it, in the order of the plugins."""

    __slots__ = (*HOOKS, "plugins")

    session_start: tuple[HookMethod, ...]
    session_close: tuple[HookMethod, ...]
    transaction_start: tuple[HookMethod, ...]
    read_request: tuple[HookMethod, ...]
    pre_remap: tuple[HookMethod, ...]
    post_remap: tuple[HookMethod, ...]
    send_request: tuple[HookMethod, ...]
    read_response: tuple[HookMethod, ...]
    origin_failed: tuple[HookMethod, ...]
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
    hint = f"; pass an instance: {plugin.__name__}()" if isinstance(plugin, type) and issubclass(plugin, Plugin) else ""
    raise TypeError(f"{plugin!r} is not a Plugin{hint}")


@public("trio_tsconnect.hooks")
def plugin_name(method: HookMethod) -> str:
    """Return the log name of the plugin that a bound hook method belongs to."""
    return method.__self__.log_name  # type: ignore[attr-defined,no-any-return]


@public("trio_tsconnect.hooks")
def name_plugins(plugins: Iterable[Plugin]) -> None:
    """Set a unique `log_name` on each plugin that has none: its class name, with `#2`, `#3` and so on if it is taken."""
    plugins = list(plugins)
    taken = {plugin.log_name for plugin in plugins}
    for plugin in plugins:
        if not plugin.log_name:
            base = type(plugin).__name__
            numbered = (base if number == 1 else f"{base}#{number}" for number in itertools.count(1))
            plugin.log_name = next(name for name in numbered if name not in taken)
            taken.add(plugin.log_name)
