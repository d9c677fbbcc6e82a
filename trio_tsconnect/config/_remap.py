"""Remap: which rule a target URI falls under, and where that sends it. One law: a request never leaves the path that its rule opened.

Prefixes are compared with the path as it was received: nothing is decoded, merged or resolved, for the origin would see something
else than was judged. A path whose dot segments, plain or percent-encoded, would climb above the prefix of its rule has no rule at all.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from types import MappingProxyType
from typing import Any
from urllib.parse import unquote

import attrs
from attrs import field

from trio_tsconnect._util import public
from trio_tsconnect.config._access import AccessRule
from trio_tsconnect.config._checks import ConfigError, as_tuple, did_you_mean, each, file_name, flag, optional_flag, shown
from trio_tsconnect.config._options import HttpConfig, OriginConfig
from trio_tsconnect.config._played import check_origin, is_origin_scheme
from trio_tsconnect.config._plugin_base import PluginBase
from trio_tsconnect.message import DEFAULT_PORTS, TargetURI, parse_authority

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

_SCHEMES = {"http": "http", "https": "https", "ws": "http", "wss": "https"}  # a WebSocket begins as an HTTP request (RFC 6455 §4.1)
_PATH = re.compile(r"/(?:[A-Za-z0-9\-._~!$&'()*+,;=:@/]|%[0-9A-Fa-f]{2})*")  # RFC 3986 §3.3
_TWO_DOTS = re.compile(r"(?:\.|%2e){2}", re.IGNORECASE)
_ODD = re.compile(r"%|//|/\.|;|\\")
_SEPARATORS = re.compile(r"[/\\]")

_FROM_FORMS = '"http://host/path", "//host/path" (any scheme) or "/path" (any host)'
_TO_FORMS = '"http://host/path", "https://host/path", "unix:/socket" (with ":/path" after it for a base path) or "asgi:package.module:app"'


def _freeze_overrides(config: Any) -> Any:
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
    """One rule: requests for what is under `from_` go to `to`.

    `from_` is `http://host[:port]/path` (that scheme and port; `ws` counts as `http`, `wss` as `https`), `//host/path` (any scheme and
    port), `//host:port/path` (any scheme) or `/path` (any host). A path that ends in `/` covers everything below it; one that does not
    covers itself and everything below it, but no longer name: `/v1` covers `/v1`, `/v1?q` and `/v1/x`, and not `/v1x`.

    `to` is `http://host[:port]/path`, `https://...` or `unix:/socket[:/path]`; its path takes the place of the prefix, what follows the
    prefix is appended with exactly one slash between, and the query stays. Anything else raises `ConfigError`, a `ValueError`.
    """

    from_: str
    """What the rule covers: `http://host/path`, `//host/path` (any scheme and port) or `/path` (any host)."""
    to: str
    """Where it sends what it covers: `http://host/path`, `https://host/path`, `unix:/socket` or `asgi:package.module:app`."""
    preserve_host: bool = field(default=False, kw_only=True, validator=flag)
    """Leave the client's Host and use it as SNI; false sends the origin's, and the client's in X-Forwarded-Host."""
    ca_file: str | None = field(default=None, kw_only=True, validator=file_name(optional=True), metadata={"path": True})
    """PEM file of the authorities to trust for this origin, which is then verified; None takes `origin.ca_file`."""
    verify: bool | None = field(default=None, kw_only=True, validator=optional_flag)
    """Check this origin's certificate and name; None takes `origin.verify`."""
    plugins: tuple[PluginBase, ...] = field(default=(), kw_only=True, converter=as_tuple, validator=each(PluginBase))
    """Plugins for the transactions of this rule, after those of the proxy; in a file, names, or tables of `use` and `options`."""
    access: tuple[AccessRule, ...] = field(default=(), kw_only=True, converter=as_tuple, validator=each(AccessRule))
    """Who may use this rule; a request must get past these and past those of the proxy."""
    config: Mapping[str, object] | None = field(
        default=None, kw_only=True, converter=_freeze_overrides, validator=_check_overrides, hash=False
    )
    """Options that this rule's transactions see instead of the proxy's, by name; not all of `HttpConfig` and `OriginConfig` may be set so."""

    scheme: str | None = field(init=False, eq=False, repr=False)
    """`http` or `https`, None for both."""
    host: str | None = field(init=False, eq=False, repr=False)
    """The host in lower case and without brackets, None for any."""
    port: int | None = field(init=False, eq=False, repr=False)
    """The port, None for any."""
    prefix: str = field(init=False, eq=False, repr=False)
    """The path prefix; begins with `/`."""
    target: TargetURI = field(init=False, eq=False, repr=False)
    """`to` as a URI; for a Unix socket its host is `localhost`."""
    unix: str | None = field(init=False, eq=False, repr=False)
    """The path of the Unix socket to connect to, None when the target's host and port are."""
    played: str | None = field(init=False, eq=False, repr=False)
    """`to`, when something in this process plays the origin; else None."""

    def __attrs_post_init__(self) -> None:
        scheme, host, port, prefix = _parse_from(self.from_)
        target, unix = _parse_to(self.to)
        played = self.to if is_origin_scheme(self.to.partition(":")[0]) else None
        derived = {"scheme": scheme, "host": host, "port": port, "prefix": prefix, "target": target, "unix": unix, "played": played}
        if played:  # an application has no name of its own: it sees the client's Host
            derived["preserve_host"] = True
        for name, value in derived.items():
            object.__setattr__(self, name, value)
        if self.verify is False and self.ca_file is not None:
            raise ConfigError("is of no use while verify is false, expected one or the other", key="ca_file")

    def http_config(self, base: HttpConfig) -> HttpConfig:
        """The proxy's `HttpConfig` as this rule's transactions see it; `base` itself when the rule overrides nothing of it."""
        changes: dict[str, Any] = {k: v for k, v in self.config.items() if k in _HTTP_OVERRIDES} if self.config else {}
        return attrs.evolve(base, **changes) if changes else base

    def origin_config(self, base: OriginConfig) -> OriginConfig:
        """The proxy's `OriginConfig` as this rule's transactions see it; `base` itself when the rule changes nothing of it."""
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


def _parse_to(text: object) -> tuple[TargetURI, str | None]:
    if not isinstance(text, str):
        raise ConfigError(f"must be {_TO_FORMS}, got {shown(text)}", key="to")
    scheme, colon, rest = text.partition(":")
    match scheme.lower():
        case ("http" | "https") as known if rest.startswith("//"):
            host, port, path = _parse_place(rest[2:], text, "to")
            return TargetURI(scheme=known, host=host, port=DEFAULT_PORTS[known] if port is None else port, path=path), None
        case "unix" if colon:
            socket, base, path = rest.partition(":/")
            if not socket.startswith("/") or "\0" in socket:
                raise ConfigError(f'must be "unix:" and an absolute path, got {shown(text)}', key="to")
            return TargetURI(scheme="http", host="localhost", port=80, path=_parse_path(base[1:] + path or "/", "to")), socket
        case known if colon and is_origin_scheme(known):
            check_origin(text)
            return TargetURI(scheme="http", host="localhost", port=80, path="/"), None
        case _:
            raise ConfigError(f"must be {_TO_FORMS}, got {shown(text)}", key="to")


def _parse_place(rest: str, text: str, key: str) -> tuple[str, int | None, str]:
    """`host[:port][/path]` as host, port and path; a missing path is `/`."""
    authority, slash, path = rest.partition("/")
    try:
        host, port = parse_authority(authority)
    except ValueError:
        host, port = "", None
    if not host or port == 0:
        raise ConfigError(f"{shown(authority)} in {shown(text)} is no host, expected host, host:port or [v6]:port", key=key)
    if "*" in host:
        raise ConfigError(f"{shown(authority)} has a wildcard, expected one host, or /path alone for any", key=key)
    return host, port, _parse_path(slash + path or "/", key)


def _parse_path(path: str, key: str) -> str:
    if not _PATH.fullmatch(path):
        expected = "expected one that begins with / and has no query, fragment, space or stray %"
        raise ConfigError(f"{shown(path)} is no path, {expected}", key=key)
    if any(segment in (".", "..") for segment in unquote(path).split("/")):
        raise ConfigError(f"{shown(path)} has dot segments, expected the path that they stand for", key=key)
    return path


@public("trio_tsconnect.config")
@attrs.resolve_types
@attrs.frozen
class Match:
    """The answer of a remap table: the rule that a target URI falls under, and the URI that it becomes."""

    rule: RemapRule
    """The rule."""
    target: TargetURI
    """Where the request goes."""


class _Bucket:
    """The rules of one scheme, host and port: a dict by prefix, tried from the longest prefix on, once for each length there is."""

    __slots__ = ("lengths", "rules")

    def __init__(self, rules: Iterable[RemapRule]) -> None:
        self.rules: dict[str, RemapRule] = {}
        for rule in rules:
            self.rules.setdefault(rule.prefix, rule)  # of two equal ones the first counts
        self.lengths = sorted({len(prefix) for prefix in self.rules}, reverse=True)

    def find(self, path: str) -> RemapRule | None:
        for length in self.lengths:
            rule = self.rules.get(path[:length]) if length <= len(path) else None
            if rule is not None and (path[length - 1] == "/" or len(path) == length or path[length] == "/"):
                return rule
        return None


@public("trio_tsconnect.config")
class RemapTable:
    """All remap rules of a proxy, ready to be asked.

    Of the rules that cover a URI the one that names the host comes first, then the one that names scheme and port, then the one that
    names the port, then the one with the longest path, then the one that was given first.
    """

    def __init__(self, rules: Iterable[RemapRule] = ()) -> None:
        self.rules: tuple[RemapRule, ...] = tuple(rules)
        """The rules, in the order given."""
        places: dict[tuple[str | None, str | None, int | None], list[RemapRule]] = {}
        for rule in self.rules:
            places.setdefault((rule.scheme, rule.host, rule.port), []).append(rule)
        self._buckets = {place: _Bucket(there) for place, there in places.items()}

    def __repr__(self) -> str:
        return f"<RemapTable: {len(self.rules)} rules>"

    def match(self, uri: TargetURI) -> Match | None:
        """The rule for a target URI and where it sends it.

        None when no rule covers it, when its path climbs out of the rule that does, and when the path, read as an origin may read it (decoded,
        dot segments resolved, slashes merged), falls under another rule: `/%61dmin` must not walk around a rule for `/admin`.
        """
        path, question, query = uri.path.partition("?")
        # `OPTIONS *` and CONNECT have no path: they belong to the rule of their host's root, and keep what they have.
        rule = self._find(uri, path if path.startswith("/") else "/")
        if rule is None or (_ODD.search(path) and self._find(uri, plainly(path)) not in (rule, None)):
            return None
        base = rule.target
        if not path.startswith("/"):
            return Match(rule, attrs.evolve(base, path=uri.path))
        rest = path[len(rule.prefix) :].removeprefix("" if rule.prefix.endswith("/") else "/")
        if len(path) == len(rule.prefix):
            new_path = base.path
        elif climbs(rest):
            return None
        else:
            new_path = f"{base.path.removesuffix('/')}/{rest}"
        return Match(rule, TargetURI(scheme=base.scheme, host=base.host, port=base.port, path=new_path + question + query))

    def _find(self, uri: TargetURI, path: str) -> RemapRule | None:
        scheme = _SCHEMES.get(uri.scheme, uri.scheme)
        for key in ((scheme, uri.host, uri.port), (None, uri.host, uri.port), (None, uri.host, None), (None, None, None)):
            bucket = self._buckets.get(key)
            if bucket is not None:
                rule = bucket.find(path)
                if rule is not None:
                    return rule
        return None


def plainly(path: str) -> str:
    """The path as an origin may come to read it: decoded, dot segments resolved, slashes merged, parameters of segments cut off."""
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
    """True when the dot segments of what follows a prefix lead above it, by the reading of any origin that may be behind.

    Origins differ in whether they decode `%2f`, take `\\` for `/`, merge `//`, or cut a segment at `;`. So of every reading the worst is
    taken: whatever one of them calls a `..` counts as a step up, and only what all of them call a name counts as a step down.
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
