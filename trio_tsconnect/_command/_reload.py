"""`tsconnect serve --reload-plugins`: load the configuration and the user's plugins again when one of their files changes.

Invariant: what cannot be loaded changes nothing. The proxy goes on, and one line says what is wrong, with file and line.

Loading runs in the task of the reloader without a checkpoint, so no hook sees half of the new modules; it holds up the loop for as long as
the imports take. Listeners and the log are opened once for the process: a change of their settings is not applied, and the message says so.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Collection, Iterator
from pathlib import Path

import trio

from trio_tsconnect import ConfigError, ProxyConfig
from trio_tsconnect._command._changes import Watched
from trio_tsconnect._command._generations import Generations
from trio_tsconnect._command._modules import imported_anew, own_files, own_modules, with_importers
from trio_tsconnect._command._say import printable, say
from trio_tsconnect._contain import describe, place
from trio_tsconnect.config import warnings

_INTERVAL = 0.5
"""Seconds between two looks at the files."""
_MOST_NAMES = 8
"""Number of files that a message names."""


class Reloader:
    """Watches the files that a configuration consists of, and replaces the proxy when they change."""

    def __init__(self, file: str, config: ProxyConfig, *, ignored: Collection[str], since: float) -> None:
        """`config` was loaded from `file` after the time `since`. `ignored`: the modules that were imported before."""
        self._file = Path(file).absolute()
        self._name = file
        self._started, self._config = config, config
        self._ignored = ignored
        self._since = since
        self._pending: set[Path] = set()
        """Files that have changed since the code that is running was loaded."""
        self._suspects: set[Path] = set()
        self._watched = Watched()
        self._watched.follow(self._files(), since)

    async def run(self, proxies: Generations) -> None:
        """Look at the files every half second, until cancelled."""
        say(f"reloading when a file changes: {self._names(self._files())}")
        while True:
            await trio.sleep(_INTERVAL)
            self._watched.follow(self._files(), self._since)
            if changed := self._watched.changed():
                await self.reload(changed, proxies)

    async def reload(self, changed: Collection[Path], proxies: Generations) -> None:
        """Load everything anew that the files `changed` concern, and replace the proxy. Say what was done, or what is wrong."""
        began, self._since = time.perf_counter(), time.time()
        self._pending.update(changed)
        own = own_modules(sys.modules, self._ignored)
        stale = with_importers({name for name, file in own.items() if file in self._pending}, own)
        try:
            with imported_anew(stale, self._ignored):
                config = ProxyConfig.from_toml(self._name)
                await proxies.replace(config)
        except (Exception, SystemExit) as exc:  # noqa: BLE001 - the user's code may raise anything
            self._suspects = {self._file.parent, *(file.parent for file in {*own.values(), *own_files(exc)})}
            say(f"{self._names(changed)} changed, but the proxy goes on as before: {_wrong(exc)}")
            return
        changed, self._pending, self._suspects = self._pending, set(), set()
        took = (time.perf_counter() - began) * 1000
        say(f"reloaded in {took:.0f} ms: {self._names(changed)} changed{self._left_out(config)}")
        for warning in warnings(config):
            if warning not in warnings(self._config):
                say(f"warning: {warning}")
        self._config = config

    def _files(self) -> set[Path]:
        """Return the files to watch.

        After a failure these are also the files beside them. The failure may be due to a module that is missing, or is not imported
        because it is broken itself.
        """
        beside = {file for folder in self._suspects for file in folder.glob("*.py")}
        return {self._file, *own_modules(sys.modules, self._ignored).values(), *beside}

    def _left_out(self, config: ProxyConfig) -> str:
        changed = " and ".join(_restarting(self._started, config))
        return f"; {changed} changed too: that needs a restart" if changed else ""

    def _names(self, files: Collection[Path]) -> str:
        folder = self._file.parent
        names = [printable(file.relative_to(folder) if file.is_relative_to(folder) else file) for file in sorted(files)]
        more = f" and {len(names) - _MOST_NAMES} more" if len(names) > _MOST_NAMES else ""
        return ", ".join(names[:_MOST_NAMES]) + more


def _restarting(old: ProxyConfig, new: ProxyConfig) -> Iterator[str]:
    """Return the keys of the settings that differ and are only read at the start of the process."""
    if [(each.host, each.port) for each in old.listen] != [(each.host, each.port) for each in new.listen]:
        yield "listen"
    elif old.listen != new.listen:
        yield "listen.tls"
    if old.log != new.log:
        yield "log"


def _wrong(exc: BaseException) -> str:
    """Return what is wrong in one line."""
    return str(exc) if isinstance(exc, ConfigError) else printable(f"{describe(exc)} ({place(exc, None)})")
