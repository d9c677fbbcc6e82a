"""URLs: the resource that a request asks for, in any of the four forms of a request target (RFC 9112 §3.2 and §3.3).

Invariant: every host that this module returns is in one canonical form. Letters are lower case. IPv6 addresses are canonical, and an
IPv4-mapped one is returned as the IPv4 address. Numbers that a resolver would accept as an IPv4 address although they are not in
dotted-decimal form (`127.1`, `0x7f000001`) are rejected. So no other spelling of an address can bypass a rule about `127.0.0.1`.
"""

from __future__ import annotations

import ipaddress
import re
from functools import cached_property, lru_cache
from typing import TYPE_CHECKING

import attrs

from trio_tsconnect._util import public
from trio_tsconnect.message._errors import BadRequest
from trio_tsconnect.message._path import excessive, readings

if TYPE_CHECKING:
    from trio_tsconnect.message._message import Request

DEFAULT_PORTS = {"http": 80, "https": 443, "ws": 80, "wss": 443}

# RFC 3986 §3.2.2: reg-name = *( unreserved / pct-encoded / sub-delims ), with two exceptions. The comma is excluded, because two Host
# fields look like that when joined. Percent-encoding is excluded, because resolvers read "%" as the beginning of a zone. RFC 1035 §2.3.4: a
# label has 1 to 63 octets.
_REG_NAME = re.compile(r"[a-z0-9\-_~!$&'()*+;=]{1,63}(?:\.[a-z0-9\-_~!$&'()*+;=]{1,63})*\.?")
_MAX_NAME = 255
_PORT = re.compile(r"[0-9]{0,5}")  # RFC 3986 §3.2.3: port = *DIGIT
_NUMERIC_LABEL = re.compile(r"[0-9]+|0x[0-9a-f]*")
_ABSOLUTE = re.compile(r"([A-Za-z][A-Za-z0-9+.\-]*)://([^/?#]*)([^#]*)")
_PATH = re.compile(r"/[!\"$->@-~]*|\*")  # visible ASCII without "#" and "?"
_QUERY = re.compile(r"[!\"$-~]*")  # visible ASCII without "#"


@public("trio_tsconnect.message")
@lru_cache(maxsize=1024)
def parse_authority(text: str) -> tuple[str, int | None]:
    """Split `uri-host [ ":" port ]` (RFC 3986 §3.2) into the host, in lower case and without brackets, and the port.

    Strict: no user information (RFC 9110 §4.2.4), no white space, a port of 0..65535 (an empty port is returned as None), IPv6 in brackets
    and without a zone. Raise ValueError that names the error.
    """
    host, port_text = _split_port(text)
    if _PORT.fullmatch(port_text) is None or int(port_text or 0) > 65535:
        raise ValueError(f"the port in {text[:80]!r} is not a number within 0..65535")
    return host, int(port_text) if port_text else None


def _split_port(text: str) -> tuple[str, str]:
    if text.startswith("["):
        address, bracket, rest = text[1:].partition("]")
        if not bracket or (rest and not rest.startswith(":")):
            raise ValueError(f"{text[:80]!r} has an unbalanced bracket")
        return _ipv6(address), rest[1:]
    host, _, port_text = text.partition(":")
    return _reg_name(host), port_text


def _ipv6(address: str) -> str:
    try:
        if "%" in address:
            raise ValueError
        parsed = ipaddress.IPv6Address(address)
    except ValueError:
        raise ValueError(f"{address[:80]!r} is not an IPv6 address") from None
    return str(parsed.ipv4_mapped or parsed)


def _reg_name(host: str) -> str:
    # Test `host` for ASCII, not only `lower`: lower() turns a few non-ASCII letters (the Kelvin sign) into ASCII letters.
    lower = host.lower()
    if not host.isascii() or len(host) > _MAX_NAME or _REG_NAME.fullmatch(lower) is None:
        raise ValueError(f"{host[:80]!r} is not a host name (RFC 3986 §3.2.2)")
    last = lower.rstrip(".").rpartition(".")[2]
    if _NUMERIC_LABEL.fullmatch(last):
        try:
            ipaddress.IPv4Address(lower)
        except ValueError:
            raise ValueError(f"{host[:80]!r} ends in a number but is not an IPv4 address") from None
    # The final dot of an absolute name is dropped: it is the same name in the DNS, and must be the same host for every rule.
    return lower.removesuffix(".") or lower


@lru_cache(maxsize=1024)
def _is_host(host: str) -> bool:
    try:
        return (_ipv6(host) if ":" in host else _reg_name(host)) == host
    except ValueError:
        return False


def _parts(text: str) -> tuple[str, str, int, str, str | None]:
    match = _ABSOLUTE.fullmatch(text)
    if match is None:
        raise ValueError(f"{text[:80]!r} is not scheme://host[:port][/path][?query] without a fragment")
    scheme = match[1].lower()
    if scheme not in DEFAULT_PORTS:
        raise ValueError(f"scheme {match[1][:40]!r} is not one of {', '.join(DEFAULT_PORTS)}")
    host, port = parse_authority(match[2])
    return scheme, host, DEFAULT_PORTS[scheme] if port is None else port, *_split(match[3])


def _split(target: str) -> tuple[str, str | None]:
    """Split `path[?query]` into the path, "/" if it is empty, and the query."""
    path, mark, query = target.partition("?")
    return path or "/", query if mark else None


def check_absolute(text: str) -> None:
    """Raise ValueError for text that `URL.parse` rejects."""
    _check_path(*_parts(text)[3:])


def _check_path(path: str, query: str | None) -> None:
    if _PATH.fullmatch(path) is None:
        raise ValueError(f"path {path[:80]!r} is neither '*' nor visible ASCII that begins with '/' and has no '#' and no '?'")
    if query is not None and _QUERY.fullmatch(query) is None:
        raise ValueError(f"query {query[:80]!r} is not visible ASCII without '#'")


@public("trio_tsconnect")
@attrs.frozen
class URL:
    """The URL of a request: what the client asks for (RFC 9110 §7.1), or what the origin is asked for. `str()` returns it as text.

    The attributes are validated on creation: ValueError. To change a part, use `attrs.evolve`. Host names and addresses are in one canonical
    form, so they can be compared with `==`. Compare paths with `under` or `segments`, never as text: origins read `/%61dmin` and
    `/x/../admin` as `/admin`.

    >>> URL.parse("HTTP://Site.Example:8080?q=1")
    URL(scheme='http', host='site.example', port=8080, path='/', query='q=1')
    >>> URL.parse("http://site.example/x/..%2F%61dmin").under("/admin")
    True
    """

    scheme: str
    """`http`, `https`, `ws` or `wss`."""
    host: str
    """Host name or address in lower case; IPv6 without brackets."""
    port: int
    """The port, 0..65535; `parse` uses the default port of the scheme if the text has none."""
    path: str = "/"
    """Path as received, beginning with "/"; or "*" (RFC 9112 §3.2.4)."""
    query: str | None = None
    """Query as received, without the "?"; None if there is no "?"."""

    def __attrs_post_init__(self) -> None:
        if self.scheme not in DEFAULT_PORTS:
            raise ValueError(f"scheme {self.scheme[:40]!r} is not one of {', '.join(DEFAULT_PORTS)}")
        if not _is_host(self.host):
            raise ValueError(f"host {self.host[:80]!r} is not a lower-case host name or an address")
        if not 0 <= self.port <= 65535:
            raise ValueError(f"port {self.port} is not within 0..65535")
        _check_path(self.path, self.query)

    @classmethod
    def parse(cls, text: str) -> URL:
        """Parse `scheme://authority[path][?query]`. Raise ValueError that names the error."""
        return cls(*_parts(text))

    @property
    def authority(self) -> str:
        """Host and port as in a Host field: IPv6 in brackets, without the default port of the scheme."""
        return self.uri_host if self.port == DEFAULT_PORTS[self.scheme] else f"{self.uri_host}:{self.port}"

    @property
    def uri_host(self) -> str:
        """Host as in a URL: IPv6 in brackets (RFC 3986 §3.2.2)."""
        return f"[{self.host}]" if ":" in self.host else self.host

    @property
    def target(self) -> str:
        """Path and query, as in a request line (RFC 9112 §3.2.1)."""
        return self.path if self.query is None else f"{self.path}?{self.query}"

    @property
    def segments(self) -> tuple[str, ...]:
        """Names in the path, decoded: `("a b", "c")` for `/a%20b//x/../c/`.

        Percent-encoding is decoded, also twice; `\\` and encoded slashes separate; dot segments are resolved; empty segments and what follows
        a `;` are dropped. `("*",)` for the path "*".
        """
        return readings(self.path)[0] if self.path != "*" else ("*",)

    def under(self, prefix: str) -> bool:
        """Return True if some origin may read the path as `prefix` or as a path below it. `prefix` begins with "/", else ValueError.

        Origins differ in how they decode, split and resolve a path. All readings are tested, so a plugin that denies `/private` denies each
        of its spellings. A plugin that allows only `/public` must test `ambiguous` too. Letters are compared with their case. An odd path of
        more than 256 segments is under every prefix.

        >>> URL.parse("http://site.example/private/..;/public").under("/private")
        True
        """
        if not prefix.startswith("/"):
            raise ValueError(f"prefix {prefix[:80]!r} does not begin with '/'")
        if self.path == "*" or excessive(self.path):
            return self.path != "*"
        wanted = readings(prefix)[0]
        return any(segments[: len(wanted)] == wanted for segments in readings(self.path))

    @property
    def ambiguous(self) -> bool:
        """True if origins may read the path in different ways, for example `/public/..%2Fprivate`."""
        return self.path != "*" and (excessive(self.path) or len(readings(self.path)) > 1)

    @cached_property
    def _text(self) -> str:
        # RFC 9112 §3.3: the target URI of an asterisk form has no path.
        return f"{self.scheme}://{self.authority}{'' if self.path == '*' else self.target}"

    def __str__(self) -> str:
        return self._text


def is_absolute_form(target: str) -> bool:
    """Return True if a request target is in absolute form (RFC 9112 §3.2.2). Other forms begin with "/" or "*", or contain no "://"."""
    return "://" in target and target[0] not in "/*"


@public("trio_tsconnect.message")
def target_url(request: Request, *, scheme: str = "http", default_authority: str | None = None) -> URL:
    """Reconstruct the target URI of a request (RFC 9112 §3.3). `scheme` is used for the forms that name no scheme.

    A target in absolute form takes precedence over the Host field (RFC 9112 §3.2.2). Without either, an HTTP/1.0 request gets
    `default_authority`; if that is None, raise `BadRequest` "no_host". Raise it also for every HTTP/1.1 request without Host, whatever its
    target (RFC 9112 §3.2). For CONNECT, host and port are those of the target and the path is "/". Raise `BadRequest` "bad_target" or
    "bad_host" for invalid values.
    """
    target, host = request.target, request.headers.raw_value(b"host")
    if host is None and request.version != "1.0":
        raise BadRequest("no_host", "The request has no Host field, which HTTP/1.1 requires (RFC 9112 section 3.2).")
    try:
        if request.method == "CONNECT":
            return _connect_uri(target, scheme)
        if is_absolute_form(target):
            return _absolute_uri(request.method, target)
    except ValueError as error:
        raise BadRequest("bad_target", f"The request target is invalid: {error}.") from error
    if target[0] != "/" and not (target == "*" and request.method == "OPTIONS"):
        raise BadRequest("bad_target", f"The request target {target[:80]!r} is in none of the four forms of RFC 9112 §3.2.")
    # RFC 9110 §4.2.1: an "http" URI with an empty host is invalid, so an empty Host field is treated as a missing one.
    authority = host.decode("latin-1") if host else default_authority if request.version == "1.0" else None
    if not authority:
        raise BadRequest("no_host", "The request names no host, neither in its target nor in a Host field.")
    return origin_form_url(scheme, authority, target)


@lru_cache(maxsize=256)
def origin_form_url(scheme: str, authority: str, target: str) -> URL:
    """Do what `target_url` does for a target that begins with "/", and a Host field that is not empty."""
    try:
        host, port = parse_authority(authority)
    except ValueError as error:
        raise BadRequest("bad_host", f"The Host field is invalid: {error}.") from error
    try:
        return URL(scheme, host, DEFAULT_PORTS[scheme] if port is None else port, *_split(target))
    except ValueError as error:
        raise BadRequest("bad_target", f"The request target is invalid: {error}.") from error


def _connect_uri(target: str, scheme: str) -> URL:
    # RFC 9112 §3.2.3: authority-form = uri-host ":" port; RFC 9110 §9.3.6: there is no default port.
    host, port = parse_authority(target)
    if port is None:
        raise ValueError(f"{target[:80]!r} has no port")
    return URL(scheme, host, port, "/")


def _absolute_uri(method: str, target: str) -> URL:
    uri = URL.parse(target)
    if method == "OPTIONS" and uri.path == "/" and uri.query is None and not target.endswith("/"):
        # RFC 9112 §3.2.4: an absolute form with an empty path and no query becomes "*" at the last proxy.
        return attrs.evolve(uri, path="*")
    return uri
