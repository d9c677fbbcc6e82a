"""Origins inside this process, which the `to` of a remap rule names with a scheme of their own, such as `asgi:package.module:app`.

Invariant: the core does not import an edge package until a rule needs it. An edge package registers its scheme when it is imported, and
provides a plugin that intercepts the transaction and serves it. This module only knows which package to import for a scheme that is
not registered yet.
"""

from __future__ import annotations

import importlib
from collections.abc import Callable

from trio_tsconnect._util import public
from trio_tsconnect.config._checks import ConfigError
from trio_tsconnect.config._plugin_base import PluginBase

Load = Callable[[], PluginBase]
"""Creates the plugin. Raises `ConfigError` if the target cannot be loaded."""
Parse = Callable[[str], Load]
"""Validates the text after `scheme:` without loading anything. Raises `ConfigError` if it is invalid."""

_AT_HOME = {"asgi": "trio_tsconnect.asgi", "asgi+trio": "trio_tsconnect.asgi"}
_registered: dict[str, Parse] = {}


@public("trio_tsconnect.config")
def register_origin_scheme(scheme: str, parse: Parse) -> None:
    """Register a scheme for the `to` of remap rules: `scheme:...` is served by the plugin that `parse("...")()` returns.

    A proxy loads equal `to` values once.
    """
    _registered[scheme.lower()] = parse


def is_origin_scheme(scheme: str) -> bool:
    """Return True if the scheme is registered or can be imported."""
    return scheme.lower() in _registered or scheme.lower() in _AT_HOME


def check_origin(to: str) -> None:
    """Validate a `to` of a registered scheme, without loading its target. Raises `ConfigError` if it is invalid."""
    _parse(to)


@public("trio_tsconnect.config")
def load_origin(to: str) -> PluginBase:
    """Return the plugin that serves as the origin. Raises `ConfigError` if it cannot be loaded."""
    return _parse(to)()


def _parse(to: str) -> Load:
    scheme, _, what = to.partition(":")
    scheme = scheme.lower()
    if scheme not in _registered and scheme in _AT_HOME:
        importlib.import_module(_AT_HOME[scheme])
    try:
        parse = _registered[scheme]
    except KeyError:
        raise ConfigError(f'no origin is registered for the scheme "{scheme}"', key="to") from None
    return parse(what)
