"""`ProxyConfig`, the complete configuration of a proxy as one frozen value, and the warnings about valid but risky settings."""

from __future__ import annotations

import ipaddress
import os
from collections.abc import Iterable
from typing import Any

import attrs
from attrs import field

from trio_tsconnect._util import public
from trio_tsconnect.config._access import AccessRule, as_rules
from trio_tsconnect.config._checks import ConfigError, as_tuple, each, instance_of
from trio_tsconnect.config._http2 import Http2Limits
from trio_tsconnect.config._log import LogConfig, as_logs
from trio_tsconnect.config._options import HttpConfig, ListenConfig, OriginConfig, split_connect_pattern
from trio_tsconnect.config._plugin_base import PluginBase, as_plugins
from trio_tsconnect.config._remap import RemapRule, as_remap


def _as_listeners(value: Iterable[ListenConfig] | ListenConfig) -> tuple[ListenConfig, ...]:
    converted: tuple[ListenConfig, ...] = as_tuple(value)
    return converted


def _check_listen(_instance: Any, attribute: Any, value: tuple[ListenConfig, ...]) -> None:
    taken: dict[tuple[str, int], int] = {}
    for index, listen in enumerate(value):
        place = (listen.host, listen.port)
        if listen.port and place in taken:
            problem = f'"{listen.address}" is already the address of {attribute.name}[{taken[place]}], expected a different one'
            raise ConfigError(problem, key=f"{attribute.name}[{index}].address")
        taken[place] = index


@public("trio_tsconnect")
@attrs.resolve_types
@attrs.frozen(kw_only=True)
class ProxyConfig:
    """The complete configuration of a proxy. Creating it with an invalid value raises `ConfigError`, a `ValueError`."""

    remap: tuple[RemapRule, ...] = field(default=(), converter=as_remap, validator=each(RemapRule))
    """Remap rules: which requests go to which origin. The most specific matching rule is used, in whatever order they are listed."""
    http: HttpConfig = field(factory=HttpConfig, validator=instance_of(HttpConfig, expected="an HttpConfig"))
    """Limits, timeouts and protocol behaviour towards clients."""
    http2: Http2Limits = field(factory=Http2Limits, validator=instance_of(Http2Limits, expected="an Http2Limits"))
    """Limits of one HTTP/2 connection, unless `serve_http2` is called with other limits."""
    origin: OriginConfig = field(factory=OriginConfig, validator=instance_of(OriginConfig, expected="an OriginConfig"))
    """TLS trust, timeouts and connection pool towards origins."""
    log: tuple[LogConfig, ...] = field(default=(), converter=as_logs, validator=each(LogConfig))
    """Logs of the transactions. Each has every record that it keeps. One `LogConfig` or None is accepted too. None or empty: records are
    discarded. A configuration file without `[log]` logs to standard error; `[[log]]` makes several."""
    access: tuple[AccessRule, ...] = field(default=(), converter=as_rules, validator=each(AccessRule))
    """Access rules. The first rule that matches a request decides; a request that matches no rule is allowed."""
    listen: tuple[ListenConfig, ...] = field(default=(), converter=_as_listeners, validator=[each(ListenConfig), _check_listen])
    """Addresses that `tsconnect serve` listens on. Code that embeds a proxy opens its own listeners."""
    plugins: tuple[PluginBase, ...] = field(
        default=(), converter=as_plugins, validator=each(PluginBase, name="Plugin"), metadata={"key": "plugin"}
    )
    """Plugins for every transaction, run before those passed to `open_proxy`. In a file: `[[plugin]]` tables with `use` and `options`."""

    @classmethod
    def from_toml(cls, path: str | os.PathLike[str]) -> ProxyConfig:
        """Load a TOML file. Requires the `server` extra.

        Relative paths in the file are relative to the directory of the file. Certificates, keys and the log directory are checked; no file
        stays open. Raises `ConfigError` with a one-line message that names the file, the key, and what is expected.
        """
        from trio_tsconnect.config._toml import load

        return load(path)


def is_loopback(host: str) -> bool:
    """Return True if only this machine can reach a listener on this host."""
    try:
        return host == "localhost" or ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


@public("trio_tsconnect.config")
def warnings(config: ProxyConfig) -> list[str]:
    """Return one line for each setting that is valid but probably a mistake, such as an open proxy."""
    found: list[str] = []
    exposed = [f"listen[{i}] ({listen.address})" for i, listen in enumerate(config.listen) if not is_loopback(listen.host)]
    if exposed:
        found += _exposures(config.http, ", ".join(exposed))
    if config.listen and config.http.remap_required and not config.remap:
        found.append("remap: there is no rule and http.remap_required is true: every request will be answered 404")
    if not config.origin.verify:
        found.append("origin.verify: is false: an attacker on the network path can impersonate any https origin")
    found += _idle_rules("access", config.access)
    seen: dict[tuple[object, ...], int] = {}
    for index, rule in enumerate(config.remap):
        if rule.verify is False:
            found.append(f"remap[{index}].verify: is false: an attacker on the network path can impersonate {rule.target.host}")
        first = seen.setdefault((rule.scheme, rule.host, rule.port, rule.prefix), index)
        if first != index:
            found.append(f"remap[{index}].from: is never used: remap[{first}] matches the same requests")
        found += _idle_rules(f"remap[{index}].access", rule.access)
    return found


def _idle_rules(key: str, rules: tuple[AccessRule, ...]) -> list[str]:
    """Return a warning if rules follow a rule without conditions: they are never reached."""
    for index, rule in enumerate(rules[:-1]):
        if rule in (AccessRule(action="allow"), AccessRule(action="deny")):
            return [f"{key}[{index + 1}]: is never used: {key}[{index}] matches every request"]
    return []


def _exposures(http: HttpConfig, where: str) -> list[str]:
    found: list[str] = []
    if not http.remap_required:
        found.append(f"http.remap_required: is false: an open proxy: any client that can reach {where} can reach any origin through it")
    for index, pattern in enumerate(http.connect):
        split = split_connect_pattern(pattern)
        if split is not None and split[0] == "*":
            found.append(f'http.connect[{index}]: "{pattern}" allows every host: any client that can reach {where} can tunnel to any host')
    if http.trust_forwarded:
        found.append(f"http.trust_forwarded: is true: any client that can reach {where} can claim any client address")
    return found
