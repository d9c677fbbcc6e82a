"""`ProxyConfig`, the whole configuration of a proxy as one frozen value, and what is worth a warning in it."""

from __future__ import annotations

import ipaddress
import os
from typing import Any

import attrs
from attrs import field

from trio_tsconnect._util import public
from trio_tsconnect.config._access import AccessRule
from trio_tsconnect.config._checks import ConfigError, as_tuple, each, instance_of
from trio_tsconnect.config._http2 import Http2Limits
from trio_tsconnect.config._options import HttpConfig, ListenConfig, LogConfig, OriginConfig, split_connect_pattern
from trio_tsconnect.config._plugin_base import PluginBase
from trio_tsconnect.config._remap import RemapRule


def _check_listen(_instance: Any, attribute: Any, value: tuple[ListenConfig, ...]) -> None:
    taken: dict[tuple[str, int], int] = {}
    for index, listen in enumerate(value):
        place = (listen.host, listen.port)
        if listen.port and place in taken:
            problem = f'"{listen.address}" is the address of {attribute.name}[{taken[place]}] too, expected one of its own'
            raise ConfigError(problem, key=f"{attribute.name}[{index}].address")
        taken[place] = index


@public("trio_tsconnect")
@attrs.resolve_types
@attrs.frozen(kw_only=True)
class ProxyConfig:
    """The whole configuration of a proxy; whatever is wrong in it raises `ConfigError`, a `ValueError`, when it is made."""

    remap: tuple[RemapRule, ...] = field(default=(), converter=as_tuple, validator=each(RemapRule))
    """Which requests go where; of the rules that cover a request the one that says most wins, wherever it stands."""
    http: HttpConfig = field(factory=HttpConfig, validator=instance_of(HttpConfig, expected="an HttpConfig"))
    """Limits, times and manners towards clients."""
    http2: Http2Limits = field(factory=Http2Limits, validator=instance_of(Http2Limits, expected="an Http2Limits"))
    """What one HTTP/2 connection may cost, where `serve_http2` is not told otherwise."""
    origin: OriginConfig = field(factory=OriginConfig, validator=instance_of(OriginConfig, expected="an OriginConfig"))
    """Trust, times and pool towards origins."""
    log: LogConfig | None = field(default=None, validator=attrs.validators.optional(instance_of(LogConfig, expected="a LogConfig or None")))
    """Where records go, None for nowhere; a configuration file without a `[log]` table logs to standard error."""
    access: tuple[AccessRule, ...] = field(default=(), converter=as_tuple, validator=each(AccessRule))
    """Who may do what; the first rule that matches a request decides, and without one it is allowed."""
    listen: tuple[ListenConfig, ...] = field(default=(), converter=as_tuple, validator=[each(ListenConfig), _check_listen])
    """The addresses that the command serves; code that embeds a proxy opens its own listeners."""
    plugins: tuple[PluginBase, ...] = field(default=(), converter=as_tuple, validator=each(PluginBase), metadata={"key": "plugin"})
    """Plugins of every transaction, before those that `open_proxy` is given; in a file, `[[plugin]]` tables of `use` and `options`."""

    @classmethod
    def from_toml(cls, path: str | os.PathLike[str]) -> ProxyConfig:
        """The configuration in a TOML file; needs the `server` extra.

        Relative paths in the file are relative to it. Certificates, keys and directories that it names are looked at, and nothing is
        opened to stay. Raises `ConfigError`, whose text is one line that names the file, the key, and what was expected.
        """
        from trio_tsconnect.config._toml import load

        return load(path)


def is_loopback(host: str) -> bool:
    """True when only this machine can reach a listener on this host."""
    try:
        return host == "localhost" or ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


@public("trio_tsconnect.config")
def warnings(config: ProxyConfig) -> list[str]:
    """What is legal in a configuration and still likely to be a mistake, a line each: an open proxy first of all."""
    found: list[str] = []
    exposed = [f"listen[{i}] ({listen.address})" for i, listen in enumerate(config.listen) if not is_loopback(listen.host)]
    if exposed:
        found += _exposures(config.http, ", ".join(exposed))
    if config.listen and config.http.remap_required and not config.remap:
        found.append("remap: there is no rule and http.remap_required is true: every request will be answered 404")
    if not config.origin.verify:
        found.append("origin.verify: is false: anyone on the way can pose as an https origin")
    found += _idle_rules("access", config.access)
    seen: dict[tuple[object, ...], int] = {}
    for index, rule in enumerate(config.remap):
        if rule.verify is False:
            found.append(f"remap[{index}].verify: is false: anyone on the way can pose as {rule.target.host}")
        first = seen.setdefault((rule.scheme, rule.host, rule.port, rule.prefix), index)
        if first != index:
            found.append(f"remap[{index}].from: is never used: remap[{first}] covers the same")
        found += _idle_rules(f"remap[{index}].access", rule.access)
    return found


def _idle_rules(key: str, rules: tuple[AccessRule, ...]) -> list[str]:
    """Access rules behind one that matches everything: nobody gets to them."""
    for index, rule in enumerate(rules[:-1]):
        if rule in (AccessRule(action="allow"), AccessRule(action="deny")):
            return [f"{key}[{index + 1}]: is never used: {key}[{index}] matches every request"]
    return []


def _exposures(http: HttpConfig, where: str) -> list[str]:
    found: list[str] = []
    if not http.remap_required:
        found.append(f"http.remap_required: is false: an open proxy: whoever can reach {where} can reach any origin through it")
    for index, pattern in enumerate(http.connect):
        split = split_connect_pattern(pattern)
        if split is not None and split[0] == "*":
            found.append(f'http.connect[{index}]: "{pattern}" names no host: whoever can reach {where} can tunnel to any')
    if http.trust_forwarded:
        found.append(f"http.trust_forwarded: is true: whoever can reach {where} can claim any client address")
    return found
