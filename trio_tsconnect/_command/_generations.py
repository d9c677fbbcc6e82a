"""The proxy that serves new clients, and the proxies before it, which drain.

Invariant: there is a current proxy from the first `replace` on. A client that was accepted is served by one proxy until its connection ends.

`replace` is the one place that knows how a new configuration takes effect: a second proxy is opened beside the first. An engine that can
change its configuration while it runs would replace the inside of `replace` and nothing else.
"""

from __future__ import annotations

import attrs
import trio

from trio_tsconnect import Log, LogRecord, Proxy, ProxyConfig, open_proxy

_GRACE = 0.5
"""Seconds for which a replaced proxy still takes the first request of clients that it was given: a drain closes clients that wait."""


@attrs.define(eq=False)
class _Generation:
    proxy: Proxy
    serving: trio.CancelScope = attrs.Factory(trio.CancelScope)
    """Its end is the beginning of the drain."""


class Generations:
    """The proxies of one process, in one nursery and with one log.

    One log, because two writers of one file would each write a part of a line at times. It is the caller's to run and to close.
    """

    def __init__(self, nursery: trio.Nursery, log: Log) -> None:
        self._nursery = nursery
        self._log = log
        self._living: list[_Generation] = []
        self._current: _Generation | None = None

    @property
    def current(self) -> Proxy:
        """The proxy for new clients."""
        assert self._current is not None
        return self._current.proxy

    @property
    def living(self) -> tuple[Proxy, ...]:
        """All proxies that have not ended, the oldest first. May be read from another thread."""
        return tuple(each.proxy for each in self._living)

    async def replace(self, config: ProxyConfig) -> None:
        """Open a proxy for new clients, and then let the one before it drain. If it cannot be opened, nothing changes."""
        old, self._current = self._current, await self._nursery.start(self._live, config)
        if old is not None:
            old.serving.deadline = trio.current_time() + _GRACE

    def end(self) -> None:
        """Let every proxy drain now. The tasks in the nursery end when they have."""
        for each in self._living:
            each.serving.cancel()

    async def _live(self, config: ProxyConfig, *, task_status: trio.TaskStatus[_Generation]) -> None:
        generation: _Generation | None = None
        try:
            async with open_proxy(config, log=_Share(self._log)) as proxy:
                generation = _Generation(proxy)
                self._living = [*self._living, generation]
                task_status.started(generation)
                with generation.serving:
                    await trio.sleep_forever()
        finally:
            self._living = [each for each in self._living if each is not generation]


class _Share(Log):
    """The part of a log that one proxy has: it ends with the proxy, and the log goes on."""

    def __init__(self, log: Log) -> None:
        self._log = log
        self.request_headers: frozenset[str] = log.request_headers
        self.response_headers: frozenset[str] = log.response_headers
        self._closed = trio.Event()

    def write(self, record: LogRecord) -> None:
        self._log.write(record)

    async def run(self) -> None:
        await self._closed.wait()

    def close(self) -> None:
        self._closed.set()
