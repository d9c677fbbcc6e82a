"""Origins that something in this process plays: what a rule's `to` names by a scheme of its own, as `asgi:package.module:app`.

The law: the engine knows no edge. An edge registers its scheme when it is imported, and a plugin that intercepts plays the origin; all that
is known here is which module to import for a scheme that has not been registered yet.
"""

from __future__ import annotations

import importlib
from collections.abc import Callable

from trio_tsconnect._util import public
from trio_tsconnect.config._checks import ConfigError
from trio_tsconnect.config._plugin_base import PluginBase

Load = Callable[[], PluginBase]
"""Makes the plugin; `ConfigError` when what it is made of is not there."""
Parse = Callable[[str], Load]
"""Judges what follows the scheme and its colon, without loading anything; `ConfigError` when it is not sound."""

_AT_HOME = {"asgi": "trio_tsconnect.asgi", "asgi+trio": "trio_tsconnect.asgi"}
_registered: dict[str, Parse] = {}


@public("trio_tsconnect.config")
def register_origin_scheme(scheme: str, parse: Parse) -> None:
    """Make `to = "scheme:..."` of a remap rule mean the plugin that `parse("...")()` makes. The same `to` is loaded once for a proxy."""
    _registered[scheme.lower()] = parse


def is_origin_scheme(scheme: str) -> bool:
    """Whether something plays origins of this scheme."""
    return scheme.lower() in _registered or scheme.lower() in _AT_HOME


def check_origin(to: str) -> None:
    """`ConfigError` when a `to` of such a scheme is not sound. Nothing of what it names is loaded."""
    _parse(to)


@public("trio_tsconnect.config")
def load_origin(to: str) -> PluginBase:
    """The plugin that plays the origin; `ConfigError` when it cannot be loaded."""
    return _parse(to)()


def _parse(to: str) -> Load:
    scheme, _, what = to.partition(":")
    scheme = scheme.lower()
    if scheme not in _registered and scheme in _AT_HOME:
        importlib.import_module(_AT_HOME[scheme])
    try:
        parse = _registered[scheme]
    except KeyError:
        raise ConfigError(f'nothing plays origins of the scheme "{scheme}"', key="to") from None
    return parse(what)
