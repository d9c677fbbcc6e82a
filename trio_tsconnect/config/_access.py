"""Access rules: allow or deny a request by client, method and certificate.

Invariant: the first rule that matches a request decides. If no rule matches, the request is allowed, so an allowlist must end with a rule
that has no conditions and the action `deny`.

Rules read the `ClientInfo` of the request. It has the same form for sockets and for virtual connections, so a rule cannot tell them apart.
"""

from __future__ import annotations

import ipaddress
from collections.abc import Iterable
from functools import lru_cache
from typing import Any, Literal

import attrs
from attrs import field

from trio_tsconnect._util import public
from trio_tsconnect.config._checks import ConfigError, as_strings, as_tuple, one_of, optional_flag, shown
from trio_tsconnect.message import Failure, TransactionFailure, is_token
from trio_tsconnect.stream import ClientInfo

_Address = ipaddress.IPv4Address | ipaddress.IPv6Address
_Network = ipaddress.IPv4Network | ipaddress.IPv6Network

_ATTRIBUTES = {"CN": "commonName", "O": "organizationName", "OU": "organizationalUnitName"}
_ALTERNATIVES = {"DNS": "DNS", "URI": "URI", "EMAIL": "email", "IP": "IP Address"}
_CERTIFICATE_FORMS = '"*" (any verified certificate), "CN=", "O=" or "OU=" and a name, or "DNS:", "URI:", "EMAIL:" or "IP:" and a name'


def _check_clients(_instance: Any, attribute: Any, value: Any) -> None:
    for index, text in enumerate(value):
        key = f"{attribute.name}[{index}]"
        if not isinstance(text, str):
            raise ConfigError(f'must be an address or a network, such as "10.0.0.0/8" or "2001:db8::/32", got {shown(text)}', key=key)
        try:
            ipaddress.ip_network(text)
        except ValueError as exc:
            hint = f'; did you mean "{ipaddress.ip_network(text, strict=False)}"?' if "has host bits set" in str(exc) else ""
            problem = f'must be an address or a network, such as "10.0.0.0/8" or "2001:db8::/32", got {shown(text)}{hint}'
            raise ConfigError(problem, key=key) from None


def _check_methods(_instance: Any, attribute: Any, value: Any) -> None:
    for index, method in enumerate(value):
        if not (isinstance(method, str) and method.isascii() and is_token(method.encode())):
            raise ConfigError(f'must be a method, such as "GET", got {shown(method)}', key=f"{attribute.name}[{index}]")
        if method != method.upper() and method.upper() in ("GET", "HEAD", "POST", "PUT", "DELETE", "CONNECT", "OPTIONS", "TRACE", "PATCH"):
            # RFC 9110 §9.1: methods are case-sensitive, so a rule for `get` would never match a GET request.
            raise ConfigError(
                f'must be a method in upper case, got {shown(method)}; did you mean "{method.upper()}"?', key=f"{attribute.name}[{index}]"
            )


def _split_certificate(text: object) -> tuple[str, str] | None:
    """Return the certificate field, as `ssl.getpeercert` names it, and the expected value; None if `text` has none of the known forms."""
    if not isinstance(text, str):
        return None
    if text == "*":
        return "*", ""
    kind, sign, name = text.partition("=")
    known = _ATTRIBUTES.get(kind) if sign else None
    if known is None:
        kind, sign, name = text.partition(":")
        known = _ALTERNATIVES.get(kind) if sign else None
    return (known, name) if known is not None and name else None


def _check_certificates(_instance: Any, attribute: Any, value: Any) -> None:
    for index, text in enumerate(value):
        if _split_certificate(text) is None:
            raise ConfigError(f"must be {_CERTIFICATE_FORMS}, got {shown(text)}", key=f"{attribute.name}[{index}]")


def as_rules(value: Iterable[AccessRule] | AccessRule) -> tuple[AccessRule, ...]:
    """Convert access rules, or a single one, to a tuple."""
    converted: tuple[AccessRule, ...] = as_tuple(value)
    return converted


@public("trio_tsconnect")
@attrs.resolve_types
@attrs.frozen(kw_only=True)
class AccessRule:
    """One access rule. It allows or denies the requests that meet all of its conditions. A condition that is left out always matches."""

    action: Literal["allow", "deny"] = field(validator=one_of("allow", "deny"))
    """Action for a request that matches: `allow` it, or `deny` it with 403."""
    clients: tuple[str, ...] = field(default=(), converter=as_strings, validator=_check_clients)
    """Client addresses and networks (`10.0.0.0/8`). Matches if the client address is one of them or is in one of them. Empty: any."""
    methods: tuple[str, ...] = field(default=(), converter=as_strings, validator=_check_methods)
    """Request methods, case-sensitive. Matches if the method is one of them. Empty: any method."""
    internal: bool | None = field(default=None, validator=optional_flag)
    """True matches internal requests, made by this process for itself. False matches requests made for a client. None matches both."""
    certificates: tuple[str, ...] = field(default=(), converter=as_strings, validator=_check_certificates)
    """Names in the client's verified TLS certificate (`CN=ops`, `DNS:ops.example`; `*` for any verified certificate). Matches if the
    certificate has one of them. Empty: certificates are not checked."""

    def covers_client(self, client: ClientInfo | None, internal: bool) -> bool:
        """Return True if all conditions except `methods` are met. `client` is None for the process itself: no address, no certificate."""
        if self.internal is not None and self.internal is not internal:
            return False
        if self.clients and (client is None or not _is_within(client.host, self.clients)):
            return False
        return not self.certificates or (client is not None and _has_certificate(client, self.certificates))


@lru_cache(maxsize=256)
def _networks(texts: tuple[str, ...]) -> tuple[_Network, ...]:
    return tuple(ipaddress.ip_network(text) for text in texts)


@lru_cache(maxsize=4096)  # bounded: clients choose the keys
def _is_within(host: str, texts: tuple[str, ...]) -> bool:
    try:
        address: _Address = ipaddress.ip_address(host)
    except ValueError:
        return False  # a host name or an unknown host is in no network
    mapped = getattr(address, "ipv4_mapped", None)  # a dual-stack listener on [::] reports IPv4 clients as ::ffff:a.b.c.d
    address = mapped or address
    return any(address in network for network in _networks(texts))


def _has_certificate(client: ClientInfo, wanted: tuple[str, ...]) -> bool:
    certificate = client.tls.certificate if client.tls is not None else None
    if not certificate:
        return False
    names = {(kind, value) for attributes in certificate.get("subject", ()) for kind, value in attributes}
    names |= {(kind, value.lower() if kind == "DNS" else value) for kind, value in certificate.get("subjectAltName", ())}
    for text in wanted:
        split = _split_certificate(text)
        assert split is not None  # guaranteed by the validator
        kind, name = split
        if kind == "*" or (kind, name.lower() if kind == "DNS" else name) in names:
            return True
    return False


@public("trio_tsconnect.config")
def check_access(rules: Iterable[AccessRule], *, client: ClientInfo, method: str, internal: bool) -> None:
    """Apply the first rule that matches. Raises `TransactionFailure` (403) if it denies; returns if it allows or if no rule matches."""
    for rule in rules:
        if (not rule.methods or method in rule.methods) and rule.covers_client(client, internal):
            if rule.action == "deny":
                raise TransactionFailure(Failure.ACCESS_DENIED, "You are not allowed to make this request.")
            return


@public("trio_tsconnect.config")
def admits(rules: Iterable[AccessRule], *, client: ClientInfo | None, internal: bool) -> bool:
    """Return True if the rules allow this client at least one method. If not, the connection itself can be refused."""
    for rule in rules:
        if rule.covers_client(client, internal):
            if rule.action == "allow":
                return True
            if not rule.methods:
                return False
    return True
