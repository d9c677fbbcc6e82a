"""What the sessions and transactions of one engine share, and all that they know of it.

Invariant: a session's nursery, a transaction, and everything below them reach the engine through `Core` and the face `Proxy` only. So the parts
of the engine know each other in one direction: from the engine down to its sessions, and from these to the core.
"""

from __future__ import annotations

import itertools
import time
from typing import Any, Protocol

import trio

from trio_tsconnect.config import ProxyConfig, RemapRule, RemapTable
from trio_tsconnect.engine._timer import Timer
from trio_tsconnect.hooks import ConnectOptions, Hooks, Proxy
from trio_tsconnect.log import Log, LogRecord
from trio_tsconnect.origin import Pool
from trio_tsconnect.stream import HeadLimits, VirtualConnection

_ids = itertools.count(1)


def next_id() -> int:
    """A number that is unique in this process and never 0."""
    return next(_ids)


class OpenSession(Protocol):
    """`Engine.open_session`, as what is below the engine calls it."""

    def __call__(
        self, options: ConnectOptions, parent: Any, *, nursery: trio.Nursery | None, detached: bool
    ) -> tuple[VirtualConnection, Any]:
        """Make a virtual connection and start its session in a nursery (None: the engine's)."""
        ...


class Activity:
    """How many transactions of network clients are in progress; `wait` returns while there are some."""

    def __init__(self) -> None:
        self._count = 0
        self._work = trio.Event()

    def begin(self) -> None:
        """One begins."""
        self._count += 1
        if self._count == 1:
            self._work.set()

    def end(self) -> None:
        """One has ended."""
        self._count -= 1

    async def wait(self) -> None:
        """Return at once when there is one, else when the next one begins. Not always a checkpoint."""
        if not self._count:
            self._work = trio.Event()
            await self._work.wait()


class Core:
    """What the sessions and transactions of one engine share."""

    def __init__(
        self, config: ProxyConfig, hooks: Hooks, rule_hooks: dict[int, Hooks], log: Log, proxy: Proxy, open_session: OpenSession
    ) -> None:
        self.config = config
        self.hooks = hooks
        self._rule_hooks = rule_hooks
        self.log = log
        self.logs: bool = not isinstance(log, Nowhere)
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
        self._token = trio.lowlevel.current_trio_token()

    def hooks_of(self, rule: RemapRule) -> Hooks:
        """The hooks of a rule's transactions: the proxy's plugins, then the rule's."""
        return self._rule_hooks.get(id(rule), self.hooks)

    def all_hooks(self) -> tuple[Hooks, ...]:
        """The hooks of all transactions, and those of each rule that has its own."""
        return (self.hooks, *self._rule_hooks.values())

    def wall_time(self) -> float:
        """The time of day in Unix seconds."""
        return time.time()

    def check_run(self, what: str) -> None:
        """Raise `RuntimeError` elsewhere than in the engine's run: such a call would count a session that no task of this run serves."""
        try:
            token = trio.lowlevel.current_trio_token()
        except RuntimeError:
            token = None
        if token is not self._token:
            raise RuntimeError(f"{what} must be called in the trio run, and so in the thread, that opened the proxy") from None


class Nowhere(Log):
    """No log was asked for."""

    def __init__(self) -> None:
        self._closed = trio.Event()

    def write(self, record: LogRecord) -> None:
        """Forget it."""

    async def run(self) -> None:
        """Wait for the end."""
        await self._closed.wait()

    def close(self) -> None:
        """End."""
        self._closed.set()
