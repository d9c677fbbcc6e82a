"""The base class of plugins, as far as the configuration needs it.

A configuration contains plugins, and plugins use transactions, which contain their configuration. This class breaks that import cycle:
`config/` uses it, and `hooks/`, which imports `config/`, derives `Plugin` from it.
"""

from __future__ import annotations

from collections.abc import Iterable

from trio_tsconnect._util import public
from trio_tsconnect.config._checks import as_tuple


@public("trio_tsconnect.config")
class PluginBase:
    """The base class of `trio_tsconnect.Plugin`. Derive plugins from `Plugin`, not from this class."""

    log_name: str = ""
    """Name of the plugin in the log. "" means the class name, followed by `#2`, `#3` and so on for further instances in one proxy."""


def as_plugins(value: Iterable[PluginBase] | PluginBase) -> tuple[PluginBase, ...]:
    """Convert plugins, or a single one, to a tuple."""
    converted: tuple[PluginBase, ...] = as_tuple(value)
    return converted
