"""The parts of a `ProxyConfig`: frozen values, each field with its unit, its bound, and what happens when it is crossed.

Every time is in seconds and may be `inf`, which switches that limit off; every size is in bytes.

The annotations are resolved before `public` moves a class to a package where their names mean nothing: cattrs reads them.
"""

from __future__ import annotations

from typing import Any, Literal

import attrs
from attrs import field

from trio_tsconnect._util import public
from trio_tsconnect.config._checks import (
    ConfigError,
    as_tuple,
    count,
    file_name,
    flag,
    instance_of,
    one_of,
    refuse,
    seconds,
    shown,
    size,
)
from trio_tsconnect.message import is_token, parse_authority
from trio_tsconnect.stream import LENIENCES, load_parser


def _none_if_empty(name: str | None) -> str | None:
    return None if name == "" else name


def _check_via(_instance: Any, attribute: Any, value: Any) -> None:
    if value is not None and not (isinstance(value, str) and value.isascii() and is_token(value.encode())):
        raise refuse(attribute, 'a token (letters, digits, "-", "_", "."), or empty for no Via', value)


def _check_parser(_instance: Any, attribute: Any, value: Any) -> None:
    try:
        load_parser(value)
    except ModuleNotFoundError:
        problem = f'"{value}" needs the extra of that name: pip install "trio-tsconnect[{value}]"'
        raise ConfigError(problem, key=attribute.name) from None


def split_connect_pattern(pattern: object) -> tuple[str, int | None] | None:
    """`host:port`, where host may be `*` or `*.domain` and port `*`, as (host, port or None for any); None when it is none."""
    if not isinstance(pattern, str):
        return None
    host, colon, port_text = pattern.rpartition(":")
    stem = host.removeprefix("*.")
    try:
        port = parse_authority(f"x:{port_text}")[1] if port_text != "*" else None
        name = parse_authority(stem)[0] if stem != "*" else stem
    except ValueError:
        return None
    if not colon or ("*" in name and host != "*") or (not port and port_text != "*"):
        return None
    return host.removesuffix(stem) + name, port


def _check_connect(_instance: Any, attribute: Any, value: Any) -> None:
    for index, pattern in enumerate(value):
        if split_connect_pattern(pattern) is None:
            problem = f'must be "host:port", such as "*:443" or "*.example:8443", got {shown(pattern)}'
            raise ConfigError(problem, key=f"{attribute.name}[{index}]")


@public("trio_tsconnect")
@attrs.resolve_types
@attrs.frozen(kw_only=True)
class HttpConfig:
    """How the engine speaks HTTP with clients: limits, times, and what it adds to or refuses in a message."""

    remap_required: bool = field(default=True, validator=flag)
    """Without a matching rule answer 404; false sends such a request to the origin that it names, which makes an open proxy."""
    inactivity_timeout: float = field(default=120.0, validator=seconds())
    """Seconds without a byte in the middle of a transaction: a client is closed; an origin gives 504, or a cut response once it has begun."""
    tunnel_timeout: float = field(default=300.0, validator=seconds())
    """Seconds without a byte in either direction of a tunnel (an upgrade, or CONNECT); past it the tunnel is reset, both ways."""
    header_timeout: float = field(default=10.0, validator=seconds())
    """Seconds from the first byte of a request head to its end; past it the client gets 408 and is closed."""
    keep_alive_timeout: float = field(default=60.0, validator=seconds())
    """Seconds that a client connection may be idle between two requests; past it the connection is closed."""
    transaction_timeout: float | None = field(default=None, validator=seconds(optional=True))
    """Seconds for one whole transaction, None for no limit; past it 504, or a cut response once it has begun."""
    drain_timeout: float = field(default=10.0, validator=seconds(zero=True))
    """Seconds that transactions get to finish when the proxy closes, 0 for none; past it they are cancelled."""
    close_timeout: float = field(default=5.0, validator=seconds(zero=True))
    """Seconds that what was cancelled gets to end: children of a transaction (past it their connections are aborted and they are logged as
    overdue), closing hooks, a log that is closed, and after `drain_timeout` the process of `tsconnect serve`."""
    error_timeout: float = field(default=1.0, validator=seconds(zero=True))
    """Seconds beyond the end of a transaction (its deadline, `transaction_timeout`) in which its error is still told: hooks that take longer
    are left out, and after as long again a response that the client does not take is given up."""
    min_rate: int | None = field(default=None, validator=size(least=1, optional=True))
    """Bytes per second that a client must send of a request body, and take of a response, on average over the time that it is waited for
    beyond `header_timeout`; slower ones end as `inactivity_timeout` ends them. None for no such limit."""
    linger_timeout: float = field(default=2.0, validator=seconds(zero=True))
    """Seconds that a closing connection still reads and drops input, so that its response is not lost to a reset; 0 closes at once."""
    max_request_line: int = field(default=8192, validator=size(least=16))
    """Bytes of a request line; a longer one gets 414."""
    max_head: int = field(default=32768, validator=size(least=64))
    """Bytes of a whole message head or trailer section; a client's gets 431, an origin's 502."""
    max_fields: int = field(default=100, validator=count(least=1))
    """Field lines in a head; a request with more gets 431, an origin's response 502."""
    max_request_body: int | None = field(default=None, validator=size(least=0, optional=True))
    """Bytes of a request body, None for no limit (memory is constant in any case); a larger one gets 413."""
    max_requests_per_connection: int | None = field(default=None, validator=count(least=1, optional=True))
    """Requests on one client connection, None for no limit; the last response says `Connection: close`."""
    max_connections: int | None = field(default=None, validator=count(least=1, optional=True))
    """Client connections of the whole proxy, None for no limit; one more is closed before it is read."""
    drain_body: int = field(default=65536, validator=size(least=0))
    """Bytes of an unread request body that are read and dropped after an early response; with more to come the connection is closed."""
    half_close: Literal["abort", "finish"] = field(default="abort", validator=one_of("abort", "finish"))
    """What the end of a socket's input means once a transaction has waited `gone_check_interval`: `abort` it, or `finish` and answer."""
    gone_check_interval: float = field(default=0.25, validator=seconds())
    """Seconds that a transaction waits before it is watched for a client that has gone; a shorter one is always answered."""
    via: str | None = field(default="trio_tsconnect", converter=_none_if_empty, validator=_check_via)
    """The name in the Via field, by which loops are found as well; empty or None adds no Via and finds no loops."""
    forwarded: Literal["off", "x-forwarded", "forwarded", "both"] = field(
        default="x-forwarded", validator=one_of("off", "x-forwarded", "forwarded", "both")
    )
    """Which fields tell an origin who the client is: X-Forwarded-For/-Proto/-Host, RFC 7239 Forwarded, both or none."""
    trust_forwarded: bool = field(default=False, validator=flag)
    """Append to the client's own Forwarded and X-Forwarded-* fields, and believe a client in clear text that it asks for `https`; false drops
    every X-Forwarded-*, X-Real-IP and Forwarded, for any client can invent them."""
    underscores: Literal["owned", "drop", "keep"] = field(default="owned", validator=one_of("owned", "drop", "keep"))
    """Fields with an underscore in their name, which CGI and WSGI take for those with a hyphen: drop those whose hyphened name is `owned` by
    the proxy or a plugin or is there as well, `drop` all that clients send, or `keep` them."""
    expect: Literal["forward", "answer"] = field(default="forward", validator=one_of("forward", "answer"))
    """For `Expect: 100-continue`: `forward` it and relay the origin's 100, or `answer` with 100 here and send no Expect on."""
    unknown_expect: Literal["refuse", "forward"] = field(default="refuse", validator=one_of("refuse", "forward"))
    """For any other expectation: `refuse` it with 417, or `forward` it."""
    deadline_header: str | None = field(default=None, converter=_none_if_empty, validator=_check_via)
    """The field that tells an origin how many milliseconds are left until the transaction's deadline; empty or None sends none."""
    connect: tuple[str, ...] = field(default=(), converter=as_tuple, validator=_check_connect)
    """Where CONNECT may go, as `host:port` with `*`, `*.domain` and port `*` as wildcards; anything else gets 403, and by default all does."""
    parser: Literal["h11", "fast"] = field(default="h11", validator=[one_of("h11", "fast"), _check_parser])
    """Who parses HTTP/1.1: `h11`, or `fast`, its compiled form from the extra of that name."""
    max_depth: int = field(default=8, validator=count(least=1, most=64))
    """Levels of internal requests below a root transaction, at most 64; a deeper `connect` is refused with reason `depth`."""
    max_descendants: int = field(default=100, validator=count(least=1))
    """Internal requests below one root transaction, over its whole life, on however many connections: the last response says
    `Connection: close`, and one more `connect` is refused with reason `descendants`."""
    max_concurrent_internal: int = field(default=1000, validator=count(least=1))
    """Virtual connections alive in the whole proxy that code of this process opened; one more is refused with reason `concurrency`."""

    def permits_connect(self, host: str, port: int) -> bool:
        """True when a pattern of `connect` lets CONNECT go to this host (without brackets) and port."""
        host = host.lower()
        for pattern in self.connect:
            split = split_connect_pattern(pattern)
            if split is not None and split[1] in (None, port):
                wanted = split[0]
                if wanted in ("*", host) or (wanted.startswith("*.") and host.endswith(wanted[1:]) and len(host) >= len(wanted)):
                    return True
        return False


def _check_share(_instance: Any, attribute: Any, value: Any) -> None:
    if isinstance(value, bool) or not isinstance(value, (int, float)) or not 0 < value <= 1:
        raise refuse(attribute, "a number above 0 and at most 1", value)


def _check_lenient(_instance: Any, attribute: Any, value: Any) -> None:
    for index, name in enumerate(value):
        if name not in LENIENCES:
            raise ConfigError(f"must be one of {', '.join(sorted(LENIENCES))}, got {shown(name)}", key=f"{attribute.name}[{index}]")


@public("trio_tsconnect")
@attrs.resolve_types
@attrs.frozen(kw_only=True)
class OriginConfig:
    """How the engine speaks with origins: trust, times, and the bounds of the pool."""

    verify: bool = field(default=True, validator=flag)
    """Check an https origin's certificate and name; one that fails gives 502. False accepts anybody."""
    ca_file: str | None = field(default=None, validator=file_name(optional=True), metadata={"path": True})
    """PEM file of the authorities to trust instead of the system's, None for the system's."""
    connect_timeout: float = field(default=10.0, validator=seconds())
    """Seconds for a connection and its TLS handshake; past it 504 (refused or of unknown name: 502)."""
    response_timeout: float = field(default=120.0, validator=seconds())
    """Seconds from the end of the request to the first byte of the response; past it 504."""
    max_connections: int | None = field(default=None, validator=count(least=1, optional=True))
    """Connections to one origin, idle ones included, None for no limit; past it a transaction waits for one to come free."""
    max_share: float = field(default=0.75, validator=_check_share)
    """Part of `max_connections`, above 0 and at most 1, that one client address may hold, and one client connection, so that others find a
    place; behind a proxy that speaks for all clients set 1. The process's own requests are not counted."""
    stall_timeout: float = field(default=5.0, validator=seconds())
    """Seconds that a client may hold one of `max_connections` without sending of its request body, or reading of its response, when others wait
    for one; past it 408, or a cut response once it has begun."""
    wait_timeout: float = field(default=10.0, validator=seconds(zero=True))
    """Seconds that a transaction waits for a connection when all are taken; past it 503."""
    keep_alive_timeout: float = field(default=30.0, validator=seconds(zero=True))
    """Seconds that an idle connection is kept for another request, 0 to keep none; past it the connection is closed."""
    max_idle: int | None = field(default=64, validator=count(least=0, optional=True))
    """Idle connections kept for one origin, None for any number; one more is closed when it becomes idle."""
    lenient: tuple[str, ...] = field(default=(), converter=as_tuple, validator=_check_lenient)
    """What origins are forgiven: `chunk_padding`, white space after a chunk's size; `status`, a status above 599, which counts as 502 to
    nobody but is sent on. Empty: each gives 502."""
    max_retries: int = field(default=5, validator=count(least=0))
    """Further attempts of one transaction that plugins may ask for (`Transaction.retry`); after these the response at hand is sent."""
    max_interim: int = field(default=32, validator=count(least=0))
    """Interim (1xx) responses that an origin may send before its final one, over all attempts; one more gives 502."""
    retries: int = field(default=1, validator=count(least=0))
    """Fresh attempts for an idempotent request without a body when a reused connection died before it answered; then 502."""

    def __attrs_post_init__(self) -> None:
        if not self.verify and self.ca_file is not None:
            raise ConfigError("is of no use while verify is false, expected one or the other", key="ca_file")


@public("trio_tsconnect")
@attrs.resolve_types
@attrs.frozen
class LogConfig:
    """Where the records of transactions go."""

    path: str | None = field(default=None, validator=file_name(optional=True), metadata={"path": True})
    """The file that records are appended to, None for standard error."""
    format: Literal["json"] = field(default="json", kw_only=True, validator=one_of("json"))
    """How a record is written: `json`, one JSON object a line."""
    flush_interval: float = field(default=0.2, kw_only=True, validator=seconds(zero=True))
    """Seconds that a record may wait before it is written, 0 for at once."""


@public("trio_tsconnect")
@attrs.resolve_types
@attrs.frozen
class TlsFiles:
    """The files that a TLS listener proves itself with."""

    certificate: str = field(validator=file_name(optional=False), metadata={"path": True})
    """PEM file of the certificate and the chain above it."""
    key: str = field(validator=file_name(optional=False), metadata={"path": True})
    """PEM file of its private key, not encrypted."""
    client_ca: str | None = field(default=None, kw_only=True, validator=file_name(optional=True), metadata={"path": True})
    """PEM file of the authorities by which clients' certificates are verified; clients are asked for one, and access rules say who needs it."""


_NO_HOSTS = frozenset({"fd", "unix"})  # "fd:3" is meant for a descriptor, and not for a host of that name


def split_address(address: object) -> tuple[str, int] | None:
    """`host:port` or `[v6]:port` as (host without brackets, port); None when it is neither."""
    if not isinstance(address, str):
        return None
    try:
        host, port = parse_authority(address)
    except ValueError:
        return None
    # "*" may be part of a name by the grammar of URIs, and is no address by anybody's.
    return None if port is None or "*" in host or host in _NO_HOSTS else (host, port)


def _check_address(_instance: Any, attribute: Any, value: Any) -> None:
    if split_address(value) is None:
        raise refuse(attribute, '"host:port", such as "127.0.0.1:8443" or "[::1]:8443"', value)


@public("trio_tsconnect")
@attrs.resolve_types
@attrs.frozen
class ListenConfig:
    """One address where clients are met; HTTP/1.1 and HTTP/2 are both served there."""

    address: str = field(default="127.0.0.1:8443", validator=_check_address)
    """`host:port`, or `[v6]:port`; port 0 takes a free one, and the line that announces the listener says which."""
    tls: TlsFiles | None = field(
        default=None,
        kw_only=True,
        validator=attrs.validators.optional(instance_of(TlsFiles, expected="a certificate and a key")),
    )
    """Certificate and key of a TLS listener, None for cleartext."""

    @property
    def host(self) -> str:
        """The address's host, without the brackets of an IPv6 literal."""
        return self._split()[0]

    @property
    def port(self) -> int:
        """The address's port; 0 asks for a free one."""
        return self._split()[1]

    def _split(self) -> tuple[str, int]:
        split = split_address(self.address)
        assert split is not None  # the validator has seen to it
        return split
