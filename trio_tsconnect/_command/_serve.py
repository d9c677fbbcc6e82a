"""`tsconnect serve`: from a configuration file to the last log record, through two signals.

Three nested lives, and the order in which they end is the order of a drain: the doors (closed at the first signal, so that new clients are
refused at once), the clients that are in already (at most `http.drain_timeout` more), and the proxy with its log. A second signal ends all
three together. The task that listens for signals lives outside of them.
"""

from __future__ import annotations

import logging
import math
import resource
import signal
from collections.abc import AsyncIterable
from functools import partial

import attrs
import trio

from trio_tsconnect import JsonLinesLog, Log, LogConfig, Proxy, ProxyConfig, open_proxy
from trio_tsconnect._command._listen import Door, Protocols, close_doors, find_protocols, open_doors
from trio_tsconnect._command._say import CommandError, say, why
from trio_tsconnect.engine import warnings
from trio_tsconnect.log import StderrLog

logger = logging.getLogger("trio_tsconnect")


def serve(file: str) -> int:
    """Serve the listeners of a configuration file until a signal.

    The first SIGTERM or SIGINT drains: new connections are refused, what is in progress is finished, for `http.drain_timeout` at most. A
    second ends at once. SIGHUP reopens the log, for whoever has renamed its file. SIGUSR1 prints the transactions that are alive.
    """
    logging.basicConfig(format="%(levelname)s %(name)s: %(message)s")
    config = ProxyConfig.from_toml(file)
    _allow_many_connections()
    return trio.run(partial(_Server(config).run, file))


def _allow_many_connections() -> None:
    """Two descriptors a client soon exceed the customary soft limit of 1024; whatever is allowed may be used."""
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    try:
        resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    except (OSError, ValueError):
        pass  # then the customary limit it is


@attrs.define(eq=False)
class _Server:
    config: ProxyConfig
    stopping: trio.Event = attrs.Factory(trio.Event)
    everything: trio.CancelScope = attrs.Factory(trio.CancelScope)
    proxy: Proxy | None = None
    status: int = 0

    async def run(self, file: str) -> int:
        speak = find_protocols()
        with trio.open_signal_receiver(signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGUSR1) as signals:
            doors = await open_doors(self.config, speak, file)
            try:
                log = _open_log(self.config.log or LogConfig(), file)
                with self.everything:
                    async with trio.open_nursery() as nursery:
                        nursery.start_soon(self._heed, signals, log)
                        await self._serve(doors, speak, log)
                        nursery.cancel_scope.cancel()
            finally:
                await close_doors(doors)
        return self.status

    async def _heed(self, signals: AsyncIterable[int], log: Log) -> None:
        async for number in signals:
            if number == signal.SIGHUP:
                _reopen(log)
            elif number == signal.SIGUSR1:
                self._show_what_is_alive()
            elif not self.stopping.is_set():
                say(f"draining for at most {self.config.http.drain_timeout:g} s; a second signal ends at once")
                self.stopping.set()
            else:
                self.status = 128 + number
                self.everything.cancel()
                return

    def _show_what_is_alive(self) -> None:
        roots = self.proxy.tree() if self.proxy else ()
        say("\n".join(["transactions alive:", *(root.to_text() for root in roots)]) if roots else "transactions alive: none")

    async def _serve(self, doors: list[Door], speak: Protocols, log: Log) -> None:
        async with open_proxy(self.config, log=log) as self.proxy:
            proxy, over = self.proxy, math.inf
            async with trio.open_nursery() as clients:
                await self._welcome(doors, speak, proxy, clients)
                over = clients.cancel_scope.deadline = trio.current_time() + self.config.http.drain_timeout
                await proxy.drain(self.config.http.drain_timeout)
            if trio.current_time() >= over:
                self.everything.cancel()  # the time has been had: the proxy must not begin a drain of its own

    async def _welcome(self, doors: list[Door], speak: Protocols, proxy: Proxy, clients: trio.Nursery) -> None:
        """Let clients in until the first signal; no door is open when this returns."""

        async def handle(stream: trio.abc.Stream) -> None:
            try:
                await speak.serve(proxy, stream)
            except Exception:  # one client's trouble is no other's
                logger.exception("a connection failed in the front end")
                await trio.aclose_forcefully(stream)

        async with trio.open_nursery() as accepting:
            for door in doors:
                accepting.start_soon(partial(trio.serve_listeners, handle, [door.listener], handler_nursery=clients))
            for warning in warnings(self.config):
                say(f"warning: {warning}")
            if "h2" not in speak.names:
                say("serving HTTP/1.1 only: HTTP/2 needs the package h2: pip install 'trio-tsconnect[h2]'")
            for door in doors:
                say(f"listening {door.url} ({speak.names})")
            await self.stopping.wait()
            accepting.cancel_scope.cancel()


def _open_log(config: LogConfig, file: str) -> Log:
    if config.path is None:
        return StderrLog(flush_interval=config.flush_interval)
    try:
        return JsonLinesLog(config.path, flush_interval=config.flush_interval)
    except OSError as exc:
        raise CommandError(f"{file}: log.path: cannot be opened ({why(exc)}): {config.path}, expected a file to append to") from exc


def _reopen(log: Log) -> None:
    try:
        log.reopen()
    except OSError as exc:
        say(f"the log cannot be reopened ({why(exc)}) and goes on in its old file")
    else:
        say("the log was reopened")
