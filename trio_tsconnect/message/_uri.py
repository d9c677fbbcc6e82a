"""Target URIs: what a request is for, whichever of the four forms its target has (RFC 9112 §3.2 and §3.3).

The one law: no host that leaves this module is an address in disguise. Letters are lower case, IPv6 addresses are canonical, one that only wraps
an IPv4 address is that address, and numbers that a resolver would take for an IPv4 address although they are not written as one (`127.1`,
`0x7f000001`) are refused; so a rule about `127.0.0.1` cannot be walked around.
"""

from __future__ import annotations

import ipaddress
import re
from functools import lru_cache

import attrs

from trio_tsconnect._util import public
from trio_tsconnect.message._errors import BadRequest
from trio_tsconnect.message._message import Request

DEFAULT_PORTS = {"http": 80, "https": 443, "ws": 80, "wss": 443}

# RFC 3986 §3.2.2: reg-name = *( unreserved / pct-encoded / sub-delims ), but for the comma, which is how two Host fields look when joined, and
# for pct-encoded, whose sign resolvers read as the beginning of a zone. RFC 1035 §2.3.4: no label is empty or longer than 63.
_REG_NAME = re.compile(r"[a-z0-9\-_~!$&'()*+;=]{1,63}(?:\.[a-z0-9\-_~!$&'()*+;=]{1,63})*\.?")
_MAX_NAME = 255
_PORT = re.compile(r"[0-9]{0,5}")  # RFC 3986 §3.2.3: port = *DIGIT
_NUMERIC_LABEL = re.compile(r"[0-9]+|0x[0-9a-f]*")
_ABSOLUTE = re.compile(r"([A-Za-z][A-Za-z0-9+.\-]*)://([^/?#]*)([^#]*)")
_PATH = re.compile(r"/[!-\"$-~]*|\*")  # visible ASCII without "#"


@public("trio_tsconnect.message")
@lru_cache(maxsize=1024)
def parse_authority(text: str) -> tuple[str, int | None]:
    """Split `uri-host [ ":" port ]` (RFC 3986 §3.2) into the host, in lower case and without brackets, and the port.

    Strict: no user information (RFC 9110 §4.2.4), no white space, a port of 0..65535 (an empty one is None), IPv6 in brackets and without a
    zone. `ValueError` says what is wrong.
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
    # The ASCII test first: lower() turns a few other letters (the Kelvin sign) into ASCII ones.
    lower = host.lower()
    if not host.isascii() or len(host) > _MAX_NAME or _REG_NAME.fullmatch(lower) is None:
        raise ValueError(f"{host[:80]!r} is not a host name (RFC 3986 §3.2.2)")
    last = lower.rstrip(".").rpartition(".")[2]
    if _NUMERIC_LABEL.fullmatch(last):
        try:
            ipaddress.IPv4Address(lower)
        except ValueError:
            raise ValueError(f"{host[:80]!r} ends in a number but is not an IPv4 address") from None
    # The same name in the DNS, and so the same host to every rule: the dot that ends an absolute one is dropped.
    return lower.removesuffix(".") or lower


@lru_cache(maxsize=1024)
def _is_host(host: str) -> bool:
    try:
        return (_ipv6(host) if ":" in host else _reg_name(host)) == host
    except ValueError:
        return False


def _parts(text: str) -> tuple[str, str, int, str]:
    match = _ABSOLUTE.fullmatch(text)
    if match is None:
        raise ValueError(f"{text[:80]!r} is not scheme://host[:port][/path][?query], without a fragment")
    scheme = match[1].lower()
    if scheme not in DEFAULT_PORTS:
        raise ValueError(f"scheme {match[1][:40]!r} is not one of {', '.join(DEFAULT_PORTS)}")
    host, port = parse_authority(match[2])
    path = match[3] if match[3].startswith("/") else "/" + match[3]
    return scheme, host, DEFAULT_PORTS[scheme] if port is None else port, path


def check_absolute(text: str) -> None:
    """`ValueError` for what `TargetURI.parse` would not take."""
    _check_path(_parts(text)[3])


def _check_path(path: str) -> None:
    if _PATH.fullmatch(path) is None:
        raise ValueError(f"path {path[:80]!r} is not visible ASCII that begins with '/', or '*'")


@public("trio_tsconnect.message")
@attrs.frozen
class TargetURI:
    """What a request is for. `str()` gives it as a URI; checked when made: `ValueError`.

    >>> TargetURI.parse("HTTP://Site.Example:8080?q=1")
    TargetURI(scheme='http', host='site.example', port=8080, path='/?q=1')
    """

    scheme: str
    """`http`, `https`, `ws` or `wss`."""
    host: str
    """Host name or address in lower case; IPv6 without brackets."""
    port: int
    """0..65535, the scheme's own where none was given."""
    path: str = "/"
    """Path and query, beginning with "/"; or "*" (RFC 9112 §3.2.4)."""

    def __attrs_post_init__(self) -> None:
        if self.scheme not in DEFAULT_PORTS:
            raise ValueError(f"scheme {self.scheme[:40]!r} is not one of {', '.join(DEFAULT_PORTS)}")
        if not _is_host(self.host):
            raise ValueError(f"host {self.host[:80]!r} is not a lower-case host name or an address")
        if not 0 <= self.port <= 65535:
            raise ValueError(f"port {self.port} is not within 0..65535")
        _check_path(self.path)

    @classmethod
    def parse(cls, text: str) -> TargetURI:
        """Parse `scheme://authority[path][?query]`; `ValueError` says what is wrong."""
        return cls(*_parts(text))

    @property
    def authority(self) -> str:
        """Host and port as in a Host field: IPv6 in brackets, the port left out where it is the scheme's own."""
        host = f"[{self.host}]" if ":" in self.host else self.host
        return host if self.port == DEFAULT_PORTS[self.scheme] else f"{host}:{self.port}"

    def __str__(self) -> str:
        # RFC 9112 §3.3: the target URI of an asterisk form has no path.
        return f"{self.scheme}://{self.authority}{'' if self.path == '*' else self.path}"


def is_absolute_form(target: str) -> bool:
    """Whether a request target is in absolute form (RFC 9112 §3.2.2), going by what can be no other form."""
    return "://" in target and target[0] not in "/*"


@public("trio_tsconnect.message")
def target_uri(request: Request, *, scheme: str = "http", default_authority: str | None = None) -> TargetURI:
    """Reconstruct the target URI of a request (RFC 9112 §3.3), with `scheme` for the forms that name none.

    A target in absolute form wins over the Host field (RFC 9112 §3.2.2). Without either, an HTTP/1.0 request gets `default_authority`, and is
    refused where there is none: `BadRequest` "no_host". So is every HTTP/1.1 request without Host, whatever its target says (RFC 9112 §3.2). For
    CONNECT host and port are those of the target, the path is "/".
    """
    target = request.target
    if request.version != "1.0" and b"host" not in request.headers:
        raise BadRequest("no_host", "The request has no Host field, which HTTP/1.1 demands (RFC 9112 section 3.2).")
    try:
        if request.method == "CONNECT":
            return _connect_uri(target, scheme)
        if is_absolute_form(target):
            return _absolute_uri(request.method, target)
    except ValueError as error:
        raise BadRequest("bad_target", f"The request target is not acceptable: {error}.") from error
    if target[0] != "/" and not (target == "*" and request.method == "OPTIONS"):
        raise BadRequest("bad_target", f"The request target {target[:80]!r} is in none of the four forms of RFC 9112 §3.2.")
    host, port = _authority(request, default_authority)
    try:
        return TargetURI(scheme, host, DEFAULT_PORTS[scheme] if port is None else port, target)
    except ValueError as error:
        raise BadRequest("bad_target", f"The request target is not acceptable: {error}.") from error


def _authority(request: Request, default: str | None) -> tuple[str, int | None]:
    # RFC 9110 §4.2.1: an "http" URI with an empty host is invalid, so an empty Host is as good as none.
    host = request.headers.get("host") or (default if request.version == "1.0" else None)
    if not host:
        raise BadRequest("no_host", "The request names no host, neither in its target nor in a Host field.")
    try:
        return parse_authority(host)
    except ValueError as error:
        raise BadRequest("bad_host", f"The Host field is not acceptable: {error}.") from error


def _connect_uri(target: str, scheme: str) -> TargetURI:
    # RFC 9112 §3.2.3: authority-form = uri-host ":" port; RFC 9110 §9.3.6: there is no default port.
    host, port = parse_authority(target)
    if port is None:
        raise ValueError(f"{target[:80]!r} has no port")
    return TargetURI(scheme, host, port, "/")


def _absolute_uri(method: str, target: str) -> TargetURI:
    uri = TargetURI.parse(target)
    if method == "OPTIONS" and uri.path == "/" and not target.endswith("/"):
        # RFC 9112 §3.2.4: an absolute form with an empty path and no query becomes "*" at the last proxy.
        return attrs.evolve(uri, path="*")
    return uri
