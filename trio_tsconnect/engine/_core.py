"""State that all sessions and transactions of one engine share.

Invariant: sessions, transactions and everything below them reach the engine only through `Core` and the public class `Proxy`. Imports
therefore point in one direction: from the engine to its sessions, and from the sessions to `Core`.
"""

from __future__ import annotations

import itertools
import os
import time
from typing import Any, Protocol

import trio

from trio_tsconnect.config import ProxyConfig, RemapRule, RemapTable
from trio_tsconnect.engine._timer import Timer
from trio_tsconnect.hooks import ConnectOptions, Guard, Hooks, Proxy
from trio_tsconnect.log import Log, LogRecord
from trio_tsconnect.origin import Pool
from trio_tsconnect.stream import HeadLimits, VirtualConnection

_ids = itertools.count(1)


def next_id() -> int:
    """Return a positive number that is unique in this process."""
    return next(_ids)


class OpenSession(Protocol):
    """Signature of `Engine.open_session`, for callers that must not import the engine."""

    def __call__(
        self, options: ConnectOptions, parent: Any, *, nursery: trio.Nursery | None, detached: bool
    ) -> tuple[VirtualConnection, Any]:
        """Open a virtual connection and start its session in `nursery`; None means the engine's nursery.

        Return the opener's end and the session. Raise `ConnectRefused` if the connection is not allowed.
        """
        ...


class Activity:
    """Counter of transactions in progress whose client is not a virtual connection.

    Only one task may call `wait` at a time.
    """

    def __init__(self) -> None:
        self._count = 0
        self._work = trio.Event()

    def begin(self) -> None:
        """Count one more transaction; wake the task in `wait`."""
        self._count += 1
        if self._count == 1:
            self._work.set()

    def end(self) -> None:
        """Count one transaction less."""
        self._count -= 1

    async def wait(self) -> None:
        """Wait until at least one transaction is in progress. A checkpoint only if there is none now."""
        if not self._count:
            # A new event, because the old one stays set. It would be lost to a second waiter; the sweep is the only one.
            self._work = trio.Event()
            await self._work.wait()


class Core:
    """Shared state of one engine: configuration, hooks, log, origin pool, timer, and the flags for draining and closed."""

    def __init__(
        self, config: ProxyConfig, hooks: Hooks, rule_hooks: dict[int, Hooks], log: Log, proxy: Proxy, open_session: OpenSession
    ) -> None:
        self.config = config
        self.hooks = hooks
        self._rule_hooks = rule_hooks
        self.log = log
        # False means that no record needs to be built.
        self.logs: bool = not isinstance(log, Nowhere)
        self.selected: tuple[frozenset[bytes], frozenset[bytes]] = (_as_bytes(log.request_headers), _as_bytes(log.response_headers))
        """Names of the fields of the request and of the response that the log has selected, in lower case."""
        self.noted: frozenset[bytes] = frozenset({b"host", b"user-agent", b"referer"}) if self.logs else frozenset()
        """Names of the request fields that every record has, in lower case."""
        self.process: int = os.getpid()
        self.proxy = proxy
        self.open_session = open_session
        self.remap: RemapTable = RemapTable(config.remap)
        self.head_limits: HeadLimits = HeadLimits(
            request_line=config.http.max_request_line, head=config.http.max_head, fields=config.http.max_fields
        )
        self.pool: Pool = Pool(next_id, self.head_limits, config.http.parser)
        self.timer: Timer = Timer()
        self.activity: Activity = Activity()
        self.draining: bool = False
        self.closed: bool = False
        self._guarded = {id(rule) for rule in config.remap if rule.access or any(isinstance(plugin, Guard) for plugin in rule.plugins)}
        self.guarded: bool = bool(self._guarded)
        """True if some remap rule has access rules or guards of its own."""
        self.recovers: bool = any(each.origin_failed for each in self.all_hooks())
        """True if some plugin has the hook `origin_failed`."""
        self._token = trio.lowlevel.current_trio_token()

    def has_guards(self, rule: RemapRule) -> bool:
        """Return True if `rule` has access rules or guards of its own."""
        return id(rule) in self._guarded

    def hooks_of(self, rule: RemapRule) -> Hooks:
        """Return the hooks for transactions that match `rule`: the proxy's plugins, then the plugins of the rule."""
        return self._rule_hooks.get(id(rule), self.hooks)

    def all_hooks(self) -> tuple[Hooks, ...]:
        """Return the hooks of the proxy, then the hooks of each rule that has plugins of its own."""
        return (self.hooks, *self._rule_hooks.values())

    def wall_time(self) -> float:
        """Return the time of day in Unix seconds."""
        return time.time()

    def check_run(self, what: str) -> None:
        """Raise `RuntimeError` unless the caller is in the trio run that opened the proxy. `what` names the call in the message.

        Without this check, a call from another thread or run would count a session that no task of this run serves.
        """
        try:
            token = trio.lowlevel.current_trio_token()
        except RuntimeError:
            token = None
        if token is not self._token:
            raise RuntimeError(f"{what} must be called in the trio run, and so in the thread, that opened the proxy") from None


def _as_bytes(names: frozenset[str]) -> frozenset[bytes]:
    return frozenset(name.encode() for name in names)


class Nowhere(Log):
    """Log that discards all records; used when no log is configured."""

    def __init__(self) -> None:
        self._closed = trio.Event()

    def write(self, record: LogRecord) -> None:
        """Discard `record`."""

    async def run(self) -> None:
        """Wait until `close` is called."""
        await self._closed.wait()

    def close(self) -> None:
        """Let `run` return."""
        self._closed.set()
