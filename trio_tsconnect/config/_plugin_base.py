"""What a configuration knows of a plugin.

A configuration holds plugins, and a plugin is given transactions that show their configuration. This base class breaks that circle:
`config/` knows it, and `hooks/`, which knows `config/`, derives `Plugin` from it.
"""

from __future__ import annotations

from trio_tsconnect._util import public


@public("trio_tsconnect.config")
class PluginBase:
    """The base of `trio_tsconnect.Plugin`, which is the class to derive from."""

    log_name: str = ""
    """The name by which the log knows the plugin: "" takes the name of its class, with `#2` and so on for further ones in one proxy."""
