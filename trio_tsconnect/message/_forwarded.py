"""Tell the origin who the client is: Forwarded (RFC 7239), and the X-Forwarded-* fields that most origins read.

Invariant: fields in which an untrusted client describes itself are removed, never forwarded next to those of the proxy.
"""

from __future__ import annotations

import ipaddress
import re
from functools import lru_cache
from typing import Literal, TypeAlias, assert_never

from trio_tsconnect._util import public
from trio_tsconnect.message._headers import Headers, is_token

ForwardedStyle: TypeAlias = Literal["x-forwarded", "forwarded", "both", "off"]

_CLAIMS = frozenset({b"forwarded", b"x-real-ip"})
_OBFUSCATED = re.compile(r"_[A-Za-z0-9._\-]+")  # RFC 7239 §6.3: obfnode = "_" 1*( ALPHA / DIGIT / "." / "_" / "-" )


def is_claim(name: bytes) -> bool:
    """Return True for the name, in lower case, of a field that describes the client: Forwarded, X-Real-IP and every X-Forwarded-*."""
    return name.startswith(b"x-forwarded-") or name in _CLAIMS


@public("trio_tsconnect.message")
def add_forwarded(
    headers: Headers,
    *,
    address: str | None,
    scheme: str,
    host: str | None,
    by: str | None = None,
    trust: bool,
    style: ForwardedStyle,
) -> None:
    """Add the client's address, scheme and Host to a request to an origin.

    `address` is an IP address without port, or an RFC 7239 §6.3 name like `_plugin`; any other value is sent as "unknown". `host` is the
    Host that the client sent. `by` is the address or name of this proxy. `trust=False` first removes all such fields that the client sent,
    in every style. `trust=True` extends the lists, and keeps -Proto and -Host of the first proxy. Style "off" adds nothing.
    """
    if not trust:
        headers.fields = [field for field in headers.fields if not is_claim(field[1])]
    match style:
        case "off":
            pass
        case "x-forwarded":
            _add_x_forwarded(headers, address, scheme, host)
        case "forwarded":
            _add_forwarded(headers, address, scheme, host, by)
        case "both":
            _add_x_forwarded(headers, address, scheme, host)
            _add_forwarded(headers, address, scheme, host, by)
        case _:
            assert_never(style)


def _add_x_forwarded(headers: Headers, address: str | None, scheme: str, host: str | None) -> None:
    present = {field[1] for field in headers.fields}
    _append(headers, "X-Forwarded-For", _plain_node(address))
    if b"x-forwarded-proto" not in present:
        headers.add("X-Forwarded-Proto", scheme)
    if host and b"x-forwarded-host" not in present:
        headers.add("X-Forwarded-Host", host)


def _add_forwarded(headers: Headers, address: str | None, scheme: str, host: str | None, by: str | None) -> None:
    # RFC 7239 §4: forwarded-element = [ forwarded-pair ] *( ";" [ forwarded-pair ] )
    element = f"for={_quoted_node(address)}"
    if by is not None:
        element += f";by={_quoted_node(by)}"
    if host:
        element += f";host={_quoted(host)}"
    _append(headers, "Forwarded", f"{element};proto={_quoted(scheme)}")


def _append(headers: Headers, name: str, entry: str) -> None:
    present = headers.get(name)
    if present:
        headers[name] = f"{present}, {entry}"
    else:
        headers.add(name, entry)


@lru_cache(maxsize=1024)
def _plain_node(address: str | None) -> str:
    if address is None:
        return "unknown"
    # Drop the zone ("fe80::1%eth0"): it is valid on this host only.
    without_zone = address.partition("%")[0]
    try:
        return str(ipaddress.ip_address(without_zone))
    except ValueError:
        return address if _OBFUSCATED.fullmatch(address) else "unknown"


@lru_cache(maxsize=1024)
def _quoted_node(address: str | None) -> str:
    node = _plain_node(address)
    return f'"[{node}]"' if ":" in node else node  # RFC 7239 §6: an IPv6 address is in brackets and therefore quoted


def _quoted(value: str) -> str:
    if is_token(value.encode("latin-1")):
        return value
    escaped = value.replace("\\", "\\\\").replace('"', '\\"')
    return f'"{escaped}"'
