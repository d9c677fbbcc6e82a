"""`tsconnect serve`: serve a configuration file until a signal, then drain.

Four nested parts end in the order of a drain. First the listeners: they are closed at the first signal, so new clients are refused at
once. Then the proxy, and those that it has replaced, after at most `http.drain_timeout`. Then the tasks of clients, which `open_proxy` has
ended by then. Last the log, which all proxies share. A second signal cancels the first three.

Invariant: after a signal the process ends in bounded time, whatever its code does. A cancellation cannot end a hook that blocks the loop,
an application that catches and ignores it, or a thread that never returns. So each signal also sets the time at which a thread ends the
process (`_Ending`).
"""

from __future__ import annotations

import logging
import math
import os
import resource
import select
import signal
import sys
import threading
import time
from collections.abc import AsyncIterable, AsyncIterator, Callable
from contextlib import asynccontextmanager
from functools import partial

import attrs
import trio

from trio_tsconnect import Log, LogConfig, Proxy, ProxyConfig
from trio_tsconnect._command._generations import Generations
from trio_tsconnect._command._listen import Door, Protocols, close_doors, find_protocols, open_doors, shake_hands
from trio_tsconnect._command._reload import Reloader
from trio_tsconnect._command._say import CommandError, say, why
from trio_tsconnect.config import open_log, warnings

logger = logging.getLogger("trio_tsconnect")
_HANDLED = 128  # added to the number of a signal whose Python handler has run
_AT_ONCE = 0.5  # seconds after a second signal for an orderly end, in which every record is written


def serve(file: str, *, reload_plugins: bool = False) -> int:
    """Serve the listeners of a configuration file until a signal.

    The first SIGTERM or SIGINT drains: new connections are refused, and transactions in progress are finished, for at most
    `http.drain_timeout` seconds. A second one ends at once. SIGHUP reopens the log, after its file was renamed. SIGUSR1 prints the
    transactions that are alive.
    """
    logging.basicConfig(format="%(levelname)s %(name)s: %(message)s")
    ours, began = frozenset(sys.modules), time.time()
    config = ProxyConfig.from_toml(file)
    reloader = Reloader(file, config, ignored=ours, since=began) if reload_plugins else None
    _allow_many_connections()
    return trio.run(partial(_Server(config, reloader).run, file))


def _allow_many_connections() -> None:
    """Raise the soft limit of open files to the hard limit. Each client may need two descriptors, and the usual soft limit is 1024."""
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    try:
        resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    except (OSError, ValueError):
        pass  # keep the soft limit


@attrs.define(eq=False)
class _Server:
    config: ProxyConfig
    reloader: Reloader | None = None
    stopping: trio.Event = attrs.Factory(trio.Event)
    everything: trio.CancelScope = attrs.Factory(trio.CancelScope)
    proxies: Generations | None = None
    status: int = 0

    async def run(self, file: str) -> int:
        speak = find_protocols()
        ending = _Ending(self._stop, self._end_at_once, longest=self._longest)
        with trio.open_signal_receiver(signal.SIGHUP, signal.SIGUSR1) as signals, ending:
            doors = await open_doors(self.config, speak, file)
            try:
                log = _open_log(self.config.log or (LogConfig(),), file)
                async with _written(log, self.config.http.close_timeout):
                    with self.everything:
                        async with trio.open_nursery() as nursery:
                            nursery.start_soon(self._heed, signals, log)
                            await self._serve(doors, speak, log)
                            nursery.cancel_scope.cancel()
            finally:
                await close_doors(doors)
        return self.status

    def _longest(self) -> float:
        """Return the seconds that a drain may take. Called in another thread."""
        return max(config.http.drain_timeout + config.http.close_timeout for config in self._configs())

    def _configs(self) -> list[ProxyConfig]:
        """Return the configurations of the proxies that are alive; before the first, the one that it will have."""
        return [proxy.config for proxy in self._living()] or [self.config]

    def _living(self) -> tuple[Proxy, ...]:
        return self.proxies.living if self.proxies else ()

    async def _heed(self, signals: AsyncIterable[int], log: Log) -> None:
        async for number in signals:
            if number == signal.SIGHUP:
                _reopen(log)
            else:
                self._show_what_is_alive()

    def _stop(self) -> None:
        """Start to drain, at the first signal."""
        seconds = max(config.http.drain_timeout for config in self._configs())
        say(f"draining for at most {seconds:g} s; a second signal ends at once")
        self.stopping.set()

    def _end_at_once(self, status: int) -> None:
        """Cancel everything, at the second signal."""
        self.status = status
        self.everything.cancel()

    def _show_what_is_alive(self) -> None:
        roots = [root for proxy in self._living() for root in proxy.tree()]
        say("\n".join(["transactions alive:", *(root.to_text() for root in roots)]) if roots else "transactions alive: none")

    async def _serve(self, doors: list[Door], speak: Protocols, log: Log) -> None:
        # The clients' nursery is the outer one: the proxies must drain and log their transactions before their tasks are cancelled.
        async with trio.open_nursery() as clients:
            async with trio.open_nursery() as nursery:
                self.proxies = Generations(nursery, log)
                await self.proxies.replace(self.config)
                await self._welcome(doors, speak, self.proxies, clients)
                self.proxies.end()
            clients.cancel_scope.cancel()

    async def _welcome(self, doors: list[Door], speak: Protocols, proxies: Generations, clients: trio.Nursery) -> None:
        """Accept clients until the first signal. All listeners are closed when this returns."""

        async def handle(stream: trio.abc.Stream) -> None:
            try:
                if self.reloader is None or await shake_hands(stream, proxies.current.config.http.header_timeout):
                    await speak.serve(proxies.current, stream)
            except Exception:  # an exception of one connection must not cancel the others
                logger.exception("a connection failed with an unexpected exception")
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
            if self.reloader is not None:
                accepting.start_soon(self.reloader.run, proxies)
            await self.stopping.wait()
            accepting.cancel_scope.cancel()


class _Ending:
    """SIGINT and SIGTERM while the command serves. The first drains, the second ends at once, a third has the system's default action.

    Two ways lead to the thread that ends the process when its time is over, and each signal may take both. The system writes the number of a
    signal to the pipe (`signal.set_wakeup_fd`) in whichever thread it interrupts. It may interrupt another thread than the main thread; if the
    main thread is blocked, it then never runs the Python handler. The handler writes to the pipe too, for signals after trio has ended. A
    handler may interrupt any line of Python, so it must not take a lock: it starts no thread and sets no `threading.Event`.
    """

    def __init__(self, stop: Callable[[], None], end_at_once: Callable[[int], None], *, longest: Callable[[], float]) -> None:
        self._stop = stop
        self._end_at_once = end_at_once
        self._longest = longest  # returns the seconds from the first signal to the end
        self._token = trio.lowlevel.current_trio_token()
        self._count = 0

    def __enter__(self) -> None:
        read_end, self._write_end = os.pipe()
        os.set_blocking(self._write_end, False)
        self._trios = signal.set_wakeup_fd(self._write_end, warn_on_full_buffer=False)
        threading.Thread(target=self._end_in_time, args=[read_end], name="end in time", daemon=True).start()
        self._before = {number: signal.signal(number, self._handle) for number in (signal.SIGINT, signal.SIGTERM)}

    def __exit__(self, *exc_info: object) -> None:
        signal.set_wakeup_fd(self._trios, warn_on_full_buffer=False)
        if not self._count:  # after a signal keep the handlers: the process is about to end, and a late signal must not change its status
            for number, handler in self._before.items():
                signal.signal(number, handler)
            os.close(self._write_end)

    def _handle(self, number: int, _frame: object) -> None:
        self._count += 1
        os.write(self._write_end, bytes([_HANDLED + number]))
        if self._count > 1:
            for each in self._before:
                signal.signal(each, signal.SIG_DFL)
        try:
            if self._count == 1:
                self._token.run_sync_soon(self._stop)
            else:
                self._token.run_sync_soon(self._end_at_once, 128 + number)
        except trio.RunFinishedError:
            pass  # the trio run has ended already

    def _end_in_time(self, read_end: int) -> None:
        """Wait for a signal, then for a second one or until the time is over, and end the process. Runs in its own thread."""
        seen = {0: 0, _HANDLED: 0}  # signals by the way on which they came
        due = math.inf
        while max(seen.values()) < 2:
            if not select.select([read_end], [], [], None if due == math.inf else max(0.0, due - time.monotonic()))[0]:
                _say_if_heard("some tasks or threads did not end in time: the process exits without them")
                os._exit(0)
            came = os.read(read_end, 1)
            if not came:
                os.close(read_end)
                return
            way, number = came[0] & _HANDLED, came[0] & ~_HANDLED
            if not way:
                self._wake_trio()
            if number in (signal.SIGINT, signal.SIGTERM):
                seen[way] += 1
                due = min(due, time.monotonic() + self._longest())
        time.sleep(_AT_ONCE)
        os._exit(128 + number)

    def _wake_trio(self) -> None:
        """Do what the system would have done without this class: wake the loop, which then runs the handlers of its own signals."""
        try:
            os.write(self._trios, b"\0")
        except OSError:
            pass  # it has enough to wake for, or has ended


def _say_if_heard(text: str) -> None:
    """Write a line to standard error if that does not block. A reader that has stopped reading must not delay the end of the process."""
    if select.select([], [2], [], 0)[1]:
        os.write(2, f"{text}\n".encode())


@asynccontextmanager
async def _written(log: Log, seconds: float) -> AsyncIterator[None]:
    """Run a log for the length of a `with` block, and give it `seconds` for its last records. The block must be what is cancelled."""
    async with trio.open_nursery() as nursery:
        scope = trio.CancelScope(shield=True)
        nursery.start_soon(_run_log, log, scope, name="log")
        try:
            yield
        finally:
            log.close()
            scope.deadline = trio.current_time() + seconds


async def _run_log(log: Log, scope: trio.CancelScope) -> None:
    with scope:
        await log.run()


def _open_log(configs: tuple[LogConfig, ...], file: str) -> Log:
    try:
        return open_log(configs)
    except OSError as exc:
        path = exc.filename or configs[0].path
        raise CommandError(f"{file}: log.path: cannot be opened ({why(exc)}): {path}, expected a file to append to") from exc


def _reopen(log: Log) -> None:
    try:
        log.reopen()
    except OSError as exc:
        say(f"the log cannot be reopened ({why(exc)}): records are still written to the old file")
    else:
        say("the log was reopened")
