"""Telling the origin who the client is: Forwarded (RFC 7239) and the X-Forwarded-* fields that most origins read.

The one law: what a client that is not trusted says about itself is dropped, not passed on with our word beside it.
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
    """True for a field (its name in lower case) by which somebody says who the client is: Forwarded, X-Real-IP and every X-Forwarded-*."""
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
    """Add the client's address, scheme and Host to a request that goes to an origin.

    `address` is an IP address without port, or an RFC 7239 §6.3 name like `_plugin`; anything else is "unknown". `host` is the Host the client
    sent, `by` the address or name of this proxy. `trust=False` first drops what the client sent of these fields, in every style; `trust=True`
    appends to the lists and keeps the -Proto and -Host of the first proxy. Style "off" adds nothing.
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
    # A zone ("fe80::1%eth0") means something on this host only.
    without_zone = address.partition("%")[0]
    try:
        return str(ipaddress.ip_address(without_zone))
    except ValueError:
        return address if _OBFUSCATED.fullmatch(address) else "unknown"


@lru_cache(maxsize=1024)
def _quoted_node(address: str | None) -> str:
    node = _plain_node(address)
    return f'"[{node}]"' if ":" in node else node  # RFC 7239 §6: an IPv6 address is in brackets, and so needs quotes


def _quoted(value: str) -> str:
    if is_token(value.encode("latin-1")):
        return value
    escaped = value.replace("\\", "\\\\").replace('"', '\\"')
    return f'"{escaped}"'
