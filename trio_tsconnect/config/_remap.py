"""Remap rules: find the rule that matches a target URI, and compute the URI at the origin.

Invariant: a request never reaches a path outside the prefix of its rule.

Prefixes are compared with the path as received. Nothing is decoded, merged or resolved: otherwise the origin would get another path than
the one that was checked. A path with dot segments, plain or percent-encoded, that lead above the prefix of its rule matches no rule.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from types import MappingProxyType
from typing import Any
from urllib.parse import unquote

import attrs
from attrs import field

from trio_tsconnect._util import did_you_mean, public
from trio_tsconnect.config._access import AccessRule, as_rules
from trio_tsconnect.config._checks import ConfigError, as_tuple, each, file_name, flag, optional_flag, shown
from trio_tsconnect.config._options import HttpConfig, OriginConfig
from trio_tsconnect.config._played import check_origin, is_origin_scheme
from trio_tsconnect.config._plugin_base import PluginBase, as_plugins
from trio_tsconnect.message import DEFAULT_PORTS, URL, parse_authority

_HTTP_OVERRIDES = frozenset(
    {
        "inactivity_timeout",
        "min_rate",
        "transaction_timeout",
        "max_request_body",
        "drain_body",
        "via",
        "forwarded",
        "trust_forwarded",
        "expect",
        "unknown_expect",
    }
)
_ORIGIN_OVERRIDES = frozenset({"connect_timeout", "response_timeout", "wait_timeout", "retries"})

_SCHEMES = {"http": "http", "https": "https", "ws": "http", "wss": "https"}  # a WebSocket starts as an HTTP request (RFC 6455 §4.1)
_PATH = re.compile(r"/(?:[A-Za-z0-9\-._~!$&'()*+,;=:@/]|%[0-9A-Fa-f]{2})*")  # RFC 3986 §3.3
_TWO_DOTS = re.compile(r"(?:\.|%2e){2}", re.IGNORECASE)
# Anything by which origins may read a path differently; other paths need no second lookup in `RemapTable.match`.
_ODD = re.compile(r"%|//|/\.|;|\\")
_SEPARATORS = re.compile(r"[/\\]")

_FROM_FORMS = '"http://host/path", "//host/path" (any scheme) or "/path" (any host)'
_TO_FORMS = '"http://host/path", "https://host/path", "unix:/socket" (with ":/path" after it for a base path) or "asgi:package.module:app"'


def _freeze_overrides(config: Mapping[str, object] | None) -> Mapping[str, object] | None:
    return MappingProxyType(dict(config)) if isinstance(config, Mapping) else config


def _check_overrides(_instance: Any, attribute: Any, value: Any) -> None:
    if value is None:
        return
    if not isinstance(value, Mapping):
        raise ConfigError(f"must be a table of options, got {shown(value)}", key=attribute.name)
    overridable = _HTTP_OVERRIDES | _ORIGIN_OVERRIDES
    for name, override in value.items():
        key = f"{attribute.name}.{name}"
        if name not in overridable:
            raise ConfigError(f"cannot be set for one rule{did_you_mean(str(name), sorted(overridable))}", key=key)
        try:
            (HttpConfig if name in _HTTP_OVERRIDES else OriginConfig)(**{name: override})
        except ConfigError as exc:
            raise ConfigError(exc.problem, key=key) from None


@public("trio_tsconnect")
@attrs.resolve_types
@attrs.frozen
class RemapRule:
    """A remap rule: requests that match `from_` are sent to `to`.

    `from_` is `http://host[:port]/path` (that scheme and port; `ws` counts as `http`, `wss` as `https`), `//host/path` (any scheme and
    port), `//host:port/path` (any scheme) or `/path` (any host). A path that ends in `/` matches everything below it. Any other path
    matches itself and everything below it, but not a longer name: `/v1` matches `/v1`, `/v1?q` and `/v1/x`, but not `/v1x`.

    `to` is `http://host[:port]/path`, `https://...`, `unix:/socket[:/path]` or `asgi:package.module:app`. Its path replaces the prefix, the
    rest of the request path is appended with exactly one slash in between, and the query is kept. Any other form raises `ConfigError`, a
    `ValueError`.
    """

    from_: str
    """Requests that the rule matches: `http://host/path`, `//host/path` (any scheme and port) or `/path` (any host)."""
    to: str
    """Origin that they are sent to: `http://host/path`, `https://host/path`, `unix:/socket` or `asgi:package.module:app`."""
    preserve_host: bool = field(default=False, kw_only=True, validator=flag)
    """Forward the client's Host field, and use it for SNI. False sends the origin's host, and the client's in X-Forwarded-Host."""
    ca_file: str | None = field(default=None, kw_only=True, validator=file_name(optional=True), metadata={"path": True})
    """PEM file of the certificate authorities to trust for this origin; implies `verify`. None: `origin.ca_file`."""
    verify: bool | None = field(default=None, kw_only=True, validator=optional_flag)
    """Verify the certificate and name of this origin. None: `origin.verify`."""
    plugins: tuple[PluginBase, ...] = field(default=(), kw_only=True, converter=as_plugins, validator=each(PluginBase, name="Plugin"))
    """Plugins for the transactions of this rule, run after those of the proxy. In a file: names, or tables with `use` and `options`."""
    access: tuple[AccessRule, ...] = field(default=(), kw_only=True, converter=as_rules, validator=each(AccessRule))
    """Access rules for this rule. A request must be allowed by them and by those of the proxy."""
    config: Mapping[str, object] | None = field(
        default=None, kw_only=True, converter=_freeze_overrides, validator=_check_overrides, hash=False
    )
    """Options by name that replace those of the proxy for the transactions of this rule. Only some options of `HttpConfig` and
    `OriginConfig` are allowed."""

    scheme: str | None = field(init=False, eq=False, repr=False)
    """`http` or `https`; None matches both."""
    host: str | None = field(init=False, eq=False, repr=False)
    """Host in lower case and without brackets; None matches any."""
    port: int | None = field(init=False, eq=False, repr=False)
    """Port; None matches any."""
    prefix: str = field(init=False, eq=False, repr=False)
    """Path prefix; starts with `/`."""
    target: URL = field(init=False, eq=False, repr=False)
    """`to` as a URI. For a Unix socket, and for an origin in this process, the host is `localhost`."""
    unix: str | None = field(init=False, eq=False, repr=False)
    """Path of the Unix socket to connect to; None if the origin is not a Unix socket."""
    played: str | None = field(init=False, eq=False, repr=False)
    """`to`, if the origin is served inside this process; otherwise None."""

    def __attrs_post_init__(self) -> None:
        scheme, host, port, prefix = _parse_from(self.from_)
        target, unix = _parse_to(self.to)
        played = self.to if is_origin_scheme(self.to.partition(":")[0]) else None
        derived = {"scheme": scheme, "host": host, "port": port, "prefix": prefix, "target": target, "unix": unix, "played": played}
        if played:  # an application has no host name: it gets the client's Host
            derived["preserve_host"] = True
        for name, value in derived.items():
            object.__setattr__(self, name, value)
        if self.verify is False and self.ca_file is not None:
            raise ConfigError("has no effect while verify is false, expected only one of the two", key="ca_file")

    def http_config(self, base: HttpConfig) -> HttpConfig:
        """Return the proxy's `HttpConfig` with the overrides of this rule; `base` itself if there are none."""
        changes: dict[str, Any] = {k: v for k, v in self.config.items() if k in _HTTP_OVERRIDES} if self.config else {}
        return attrs.evolve(base, **changes) if changes else base

    def origin_config(self, base: OriginConfig) -> OriginConfig:
        """Return the proxy's `OriginConfig` with the overrides of this rule; `base` itself if there are none."""
        changes: dict[str, Any] = {k: v for k, v in self.config.items() if k in _ORIGIN_OVERRIDES} if self.config else {}
        if self.verify is not None:
            changes["verify"] = self.verify
            if not self.verify:
                changes["ca_file"] = None
        if self.ca_file is not None:
            changes |= {"ca_file": self.ca_file, "verify": True}
        return attrs.evolve(base, **changes) if changes else base


def _parse_from(text: object) -> tuple[str | None, str | None, int | None, str]:
    if not isinstance(text, str) or not text:
        raise ConfigError(f"must be {_FROM_FORMS}, got {shown(text)}", key="from_")
    if text.startswith("/") and not text.startswith("//"):
        return None, None, None, _parse_path(text, "from_")
    scheme, slashes, rest = text.partition("//")
    if not slashes or (scheme and not scheme.endswith(":")):
        raise ConfigError(f"must be {_FROM_FORMS}, got {shown(text)}", key="from_")
    host, port, prefix = _parse_place(rest, text, "from_")
    if not scheme:
        return None, host, port, prefix
    known = _SCHEMES.get(scheme[:-1].lower())
    if known is None:
        raise ConfigError(f"unknown scheme {shown(scheme[:-1])}, expected http, https, ws or wss", key="from_")
    return known, host, DEFAULT_PORTS[known] if port is None else port, prefix


def _parse_to(text: object) -> tuple[URL, str | None]:
    if not isinstance(text, str):
        raise ConfigError(f"must be {_TO_FORMS}, got {shown(text)}", key="to")
    scheme, colon, rest = text.partition(":")
    match scheme.lower():
        case ("http" | "https") as known if rest.startswith("//"):
            host, port, path = _parse_place(rest[2:], text, "to")
            return URL(scheme=known, host=host, port=DEFAULT_PORTS[known] if port is None else port, path=path), None
        case "unix" if colon:
            socket, base, path = rest.partition(":/")
            if not socket.startswith("/") or "\0" in socket:
                raise ConfigError(f'must be "unix:" and an absolute path, got {shown(text)}', key="to")
            return URL(scheme="http", host="localhost", port=80, path=_parse_path(base[1:] + path or "/", "to")), socket
        case known if colon and is_origin_scheme(known):
            check_origin(text)
            return URL(scheme="http", host="localhost", port=80, path="/"), None
        case _:
            raise ConfigError(f"must be {_TO_FORMS}, got {shown(text)}", key="to")


def _parse_place(rest: str, text: str, key: str) -> tuple[str, int | None, str]:
    """Parse `host[:port][/path]` into host, port and path. A missing path is `/`."""
    authority, slash, path = rest.partition("/")
    try:
        host, port = parse_authority(authority)
    except ValueError:
        host, port = "", None
    if not host or port == 0:
        raise ConfigError(f"{shown(authority)} in {shown(text)} is not a host, expected host, host:port or [v6]:port", key=key)
    if "*" in host:
        raise ConfigError(f"{shown(authority)} has a wildcard, expected one host, or /path alone for any host", key=key)
    return host, port, _parse_path(slash + path or "/", key)


def _parse_path(path: str, key: str) -> str:
    if not _PATH.fullmatch(path):
        expected = "expected one that starts with / and has no query, fragment, space or stray %"
        raise ConfigError(f"{shown(path)} is not a path, {expected}", key=key)
    if any(segment in (".", "..") for segment in unquote(path).split("/")):
        raise ConfigError(f"{shown(path)} has dot segments, expected a path without them", key=key)
    return path


def as_remap(value: Iterable[RemapRule] | RemapRule) -> tuple[RemapRule, ...]:
    """Convert remap rules, or a single one, to a tuple."""
    converted: tuple[RemapRule, ...] = as_tuple(value)
    return converted


@public("trio_tsconnect.config")
@attrs.resolve_types
@attrs.frozen
class Match:
    """The result of a lookup in a remap table: the rule that matches a target URI, and the URI at the origin."""

    rule: RemapRule
    """Rule that matches."""
    target: URL
    """URI at the origin."""


class _Bucket:
    """The rules of one scheme, host and port: a dict by prefix. A lookup tries each existing prefix length, the longest first."""

    __slots__ = ("lengths", "rules")

    def __init__(self, rules: Iterable[RemapRule]) -> None:
        self.rules: dict[str, RemapRule] = {}
        for rule in rules:
            self.rules.setdefault(rule.prefix, rule)  # of two rules with the same prefix, the first is used
        self.lengths = sorted({len(prefix) for prefix in self.rules}, reverse=True)

    def find(self, path: str) -> RemapRule | None:
        for length in self.lengths:
            rule = self.rules.get(path[:length]) if length <= len(path) else None
            if rule is not None and (path[length - 1] == "/" or len(path) == length or path[length] == "/"):
                return rule
        return None


@public("trio_tsconnect.config")
class RemapTable:
    """All remap rules of a proxy, indexed for lookup.

    If several rules match a URI, the order of preference is: a rule with scheme, host and port; a rule with host and port; a rule with host
    only; a rule for any host. Among rules of the same form the longest path is used, and for equal paths the rule that was given first.
    """

    def __init__(self, rules: Iterable[RemapRule] = ()) -> None:
        self.rules: tuple[RemapRule, ...] = tuple(rules)
        """All rules, in the order given."""
        places: dict[tuple[str | None, str | None, int | None], list[RemapRule]] = {}
        for rule in self.rules:
            places.setdefault((rule.scheme, rule.host, rule.port), []).append(rule)
        self._buckets = {place: _Bucket(there) for place, there in places.items()}

    def __repr__(self) -> str:
        return f"<RemapTable: {len(self.rules)} rules>"

    def match(self, uri: URL) -> Match | None:
        """Return the rule that matches a target URI, and the URI at the origin.

        Return None if no rule matches, if dot segments lead above the prefix of the rule, or if the path as an origin may interpret it
        (decoded, dot segments resolved, slashes merged) matches another rule: `/%61dmin` must not bypass a rule for `/admin`.
        """
        path = uri.path
        # `OPTIONS *` and CONNECT have no path: they match as `/` does, and keep their target.
        rule = self._find(uri, path if path.startswith("/") else "/")
        # Security: an origin that decodes or resolves the path must not reach what another rule, with its own access rules, covers.
        if rule is None or (_ODD.search(path) and self._find(uri, plainly(path)) not in (rule, None)):
            return None
        base = rule.target
        if not path.startswith("/"):
            return Match(rule, attrs.evolve(base, path=path, query=uri.query))
        rest = path[len(rule.prefix) :].removeprefix("" if rule.prefix.endswith("/") else "/")
        if len(path) == len(rule.prefix):
            new_path = base.path
        elif climbs(rest):
            return None
        else:
            new_path = f"{base.path.removesuffix('/')}/{rest}"
        return Match(rule, URL(scheme=base.scheme, host=base.host, port=base.port, path=new_path, query=uri.query))

    def _find(self, uri: URL, path: str) -> RemapRule | None:
        scheme = _SCHEMES.get(uri.scheme, uri.scheme)
        for key in ((scheme, uri.host, uri.port), (None, uri.host, uri.port), (None, uri.host, None), (None, None, None)):
            bucket = self._buckets.get(key)
            if bucket is not None:
                rule = bucket.find(path)
                if rule is not None:
                    return rule
        return None


def plainly(path: str) -> str:
    """Return the path as an origin may interpret it: decoded, dot segments resolved, slashes merged, segment parameters removed."""
    plain: list[str] = []
    name = ""
    for segment in _SEPARATORS.split(unquote(path)):
        name = segment.partition(";")[0]
        if name == "..":
            if plain:
                plain.pop()
        elif name not in ("", "."):
            plain.append(name)
    return "/" + "/".join(plain) + ("/" if plain and name in ("", ".", "..") else "")


def climbs(rest: str) -> bool:
    """Return True if dot segments in `rest`, the path after a prefix, lead above that prefix in the interpretation of any origin.

    Origins differ: some decode `%2f`, treat `\\` as `/`, merge `//`, or end a segment at `;`. So the worst interpretation is assumed. A
    segment that is `..` for any origin counts as one level up. A segment counts as one level down only if it is a name for all origins.
    """
    if not _TWO_DOTS.search(rest):
        return False
    depth = 0
    for segment in rest.split("/"):
        text = unquote(segment)
        ups = [part.partition(";")[0] for part in _SEPARATORS.split(text)].count("..")
        depth += -ups if ups else any(part not in ("", ".") for part in _SEPARATORS.split(text.partition(";")[0]))
        if depth < 0:
            return True
    return False
