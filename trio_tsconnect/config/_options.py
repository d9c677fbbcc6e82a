"""The parts of a `ProxyConfig`, as frozen values. Each field documents its unit, its bounds, and what happens when a limit is exceeded.

All times are in seconds; `inf` disables the limit. All sizes are in bytes.

`attrs.resolve_types` must run before `public`: cattrs reads the annotations, and `public` changes `__module__` to a package in which the
names of the annotations are not defined.
"""

from __future__ import annotations

from typing import Any, Literal

import attrs
from attrs import field

from trio_tsconnect._util import public
from trio_tsconnect.config._checks import (
    ConfigError,
    as_strings,
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
    """Parse `host:port` into (host, port). The host may be `*` or `*.domain`; the port `*` becomes None. Return None if it is invalid."""
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
    """HTTP towards clients: limits, timeouts, and the fields that the proxy adds to or rejects in a message."""

    remap_required: bool = field(default=True, validator=flag)
    """Answer 404 if no remap rule matches. False forwards such a request to the host that it names: this makes an open proxy."""
    inactivity_timeout: float = field(default=120.0, validator=seconds())
    """Seconds without a byte during a transaction. Then a client that stopped sending its request body gets 408; a client that stopped
    reading is disconnected; an origin that stopped gives 504, or a truncated response if the response has begun."""
    tunnel_timeout: float = field(default=300.0, validator=seconds())
    """Seconds without a byte in either direction of a tunnel (CONNECT or an upgrade). Then the tunnel is reset on both sides."""
    header_timeout: float = field(default=10.0, validator=seconds())
    """Seconds from the first to the last byte of a request head. Then the client gets 408 and the connection is closed."""
    keep_alive_timeout: float = field(default=60.0, validator=seconds())
    """Seconds that a client connection may wait for its first or next request. Then the connection is closed."""
    transaction_timeout: float | None = field(default=None, validator=seconds(optional=True))
    """Seconds for one whole transaction. Then 504, or a truncated response if the response has begun. None: no limit."""
    drain_timeout: float = field(default=10.0, validator=seconds(zero=True))
    """Seconds that running transactions may take to finish when the proxy closes. Then they are cancelled. 0 cancels at once."""
    close_timeout: float = field(default=5.0, validator=seconds(zero=True))
    """Seconds that work may take to end after it was cancelled or closed: the children of a transaction (then their connections are aborted
    and they are logged as overdue), the closing hooks, the log, and, after `drain_timeout`, the process of `tsconnect serve`."""
    error_timeout: float = field(default=1.0, validator=seconds(zero=True))
    """Seconds after the deadline or `transaction_timeout` of a transaction in which its error response may still be sent. Hooks that take
    longer are cancelled and the response is sent without their changes. After the same time again, the response is abandoned."""
    min_rate: int | None = field(default=None, validator=size(least=1, optional=True))
    """Minimum rate, in bytes per second, at which a client must send a request body and read a response. The proxy waits for the client
    `header_timeout` seconds plus one second for every `min_rate` bytes transferred; then as for `inactivity_timeout`. None: no limit."""
    linger_timeout: float = field(default=2.0, validator=seconds(zero=True))
    """Seconds that a closing connection reads and discards input, so that a TCP reset does not destroy its response. 0: closed at once."""
    max_request_line: int = field(default=8192, validator=size(least=16))
    """Maximum bytes of a request line. A longer one gets 414."""
    max_head: int = field(default=32768, validator=size(least=64))
    """Maximum bytes of a message head or of a trailer section. A larger one from a client gets 431, from an origin 502."""
    max_fields: int = field(default=100, validator=count(least=1))
    """Maximum number of field lines in a head. A request with more gets 431, an origin response with more gives 502."""
    max_request_body: int | None = field(default=None, validator=size(least=0, optional=True))
    """Maximum bytes of a request body. A larger one gets 413. None: no limit; memory use is bounded in either case."""
    max_requests_per_connection: int | None = field(default=None, validator=count(least=1, optional=True))
    """Maximum requests on one client connection. The last response says `Connection: close`. None: no limit."""
    max_connections: int | None = field(default=None, validator=count(least=1, optional=True))
    """Maximum client connections of the proxy, HTTP/2 connections included. One more is closed unread. None: no limit."""
    drain_body: int = field(default=65536, validator=size(least=0))
    """Bytes of a request body that are read and discarded after an early response. If more follow, the connection is closed."""
    half_close: Literal["abort", "finish"] = field(default="abort", validator=one_of("abort", "finish"))
    """Reaction to the end of input on a client socket, for transactions longer than `gone_check_interval`: `abort` the transaction, or
    `finish` it and answer. The end of input of a TLS connection always aborts."""
    gone_check_interval: float = field(default=0.25, validator=seconds())
    """Seconds after which the proxy checks whether the client of a waiting transaction is still there. Shorter ones are always answered."""
    via: str | None = field(default="trio_tsconnect", converter=_none_if_empty, validator=_check_via)
    """Name of this proxy in the Via field, also used to detect loops. Empty or None: no Via field and no loop detection."""
    forwarded: Literal["off", "x-forwarded", "forwarded", "both"] = field(
        default="x-forwarded", validator=one_of("off", "x-forwarded", "forwarded", "both")
    )
    """Fields that tell the origin who the client is: `x-forwarded` (X-Forwarded-For/-Proto/-Host), `forwarded` (RFC 7239), both or none."""
    trust_forwarded: bool = field(default=False, validator=flag)
    """Keep the client's Forwarded and X-Forwarded-* fields and append to them, and accept `https` targets on cleartext connections. False
    removes every X-Forwarded-*, X-Real-IP and Forwarded field that a client sends, because any client can forge them."""
    underscores: Literal["owned", "drop", "keep"] = field(default="owned", validator=one_of("owned", "drop", "keep"))
    """Handling of field names with an underscore, which CGI and WSGI cannot tell from a hyphen. `owned` removes a field if the same name
    with hyphens is set by the proxy or a plugin, or is also present. `drop` removes all that clients send. `keep` forwards them."""
    expect: Literal["forward", "answer"] = field(default="forward", validator=one_of("forward", "answer"))
    """For `Expect: 100-continue`: `forward` it and relay the origin's 100, or `answer` 100 and forward the request without Expect."""
    unknown_expect: Literal["refuse", "forward"] = field(default="refuse", validator=one_of("refuse", "forward"))
    """For any other expectation: `refuse` with 417, or `forward` it."""
    deadline_header: str | None = field(default=None, converter=_none_if_empty, validator=_check_via)
    """Field that tells the origin the milliseconds left until the deadline of the transaction. Empty or None: no such field."""
    connect: tuple[str, ...] = field(default=(), converter=as_strings, validator=_check_connect)
    """Allowed targets of CONNECT, as `host:port`. The host may be `*` or `*.domain`, the port `*`. Any other target gets 403. The default
    allows none."""
    parser: Literal["h11", "fast"] = field(default="h11", validator=[one_of("h11", "fast"), _check_parser])
    """HTTP/1.1 parser: `h11`, or `fast`, a compiled h11 from the extra `fast`."""
    max_depth: int = field(default=8, validator=count(least=1, most=64))
    """Maximum levels of internal requests below a root transaction, 1 to 64. A deeper `connect` is refused with reason `depth`."""
    max_descendants: int = field(default=100, validator=count(least=1))
    """Maximum internal requests below one root transaction during its whole life, on all connections together. The response to the last one
    says `Connection: close`. One more `connect` is refused with reason `descendants`."""
    max_concurrent_internal: int = field(default=1000, validator=count(least=1))
    """Maximum open virtual connections for internal requests in the whole proxy; children of an internal transaction do not
    count unless they are detached. One more is refused with reason `concurrency`."""

    def permits_connect(self, host: str, port: int) -> bool:
        """Return True if `connect` allows CONNECT to this host (without brackets) and port."""
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
    """HTTP towards origins: TLS trust, timeouts, and the limits of the connection pool."""

    verify: bool = field(default=True, validator=flag)
    """Verify the certificate and name of an https origin. A failure gives 502. False accepts any certificate."""
    ca_file: str | None = field(default=None, validator=file_name(optional=True), metadata={"path": True})
    """PEM file of the certificate authorities to trust instead of the system's. None: the system's."""
    connect_timeout: float = field(default=10.0, validator=seconds())
    """Seconds to connect, including the TLS handshake. Then 504. A refused connection or an unknown host name gives 502."""
    response_timeout: float = field(default=120.0, validator=seconds())
    """Seconds from the end of the request to the first byte of the response. Then 504."""
    max_connections: int | None = field(default=None, validator=count(least=1, optional=True))
    """Maximum connections to one origin, including idle ones. At the limit, a transaction waits for a free one. None: no limit."""
    max_share: float = field(default=0.75, validator=_check_share)
    """Share of `max_connections`, above 0 and at most 1, that one client address, or one client connection, may hold (rounded up). Set 1
    behind a proxy through which all clients have the same address. Internal requests are not counted."""
    stall_timeout: float = field(default=5.0, validator=seconds())
    """Seconds that a client may hold one of `max_connections` without sending its request body or reading its response while other
    transactions wait for a connection. Then 408, or a truncated response if the response has begun."""
    wait_timeout: float = field(default=10.0, validator=seconds(zero=True))
    """Seconds that a transaction waits for a connection when all of `max_connections` are in use. Then 503."""
    keep_alive_timeout: float = field(default=30.0, validator=seconds(zero=True))
    """Seconds that an idle connection is kept for another request. Then it is closed. 0 keeps none."""
    max_idle: int | None = field(default=64, validator=count(least=0, optional=True))
    """Maximum idle connections kept for one origin. One more is closed when it becomes idle. None: no limit."""
    lenient: tuple[str, ...] = field(default=(), converter=as_strings, validator=_check_lenient)
    """Protocol errors of origins that are tolerated: `chunk_padding`, white space after a chunk size; `status`, a status code above 599,
    which is forwarded as it is. Any error that is not listed here gives 502."""
    max_retries: int = field(default=5, validator=count(least=0))
    """Maximum additional attempts of one transaction that plugins request (`Transaction.retry`). Then the current response is sent."""
    max_interim: int = field(default=32, validator=count(least=0))
    """Maximum interim (1xx) responses of an origin before the final one, over all attempts. One more gives 502."""
    retries: int = field(default=1, validator=count(least=0))
    """Additional attempts, on a new connection, for an idempotent request without a body if a reused connection closes before it
    answers. Then 502."""

    def __attrs_post_init__(self) -> None:
        if not self.verify and self.ca_file is not None:
            raise ConfigError("has no effect while verify is false, expected only one of the two", key="ca_file")


@public("trio_tsconnect")
@attrs.resolve_types
@attrs.frozen
class TlsFiles:
    """Certificate and key files of a TLS listener."""

    certificate: str = field(validator=file_name(optional=False), metadata={"path": True})
    """PEM file of the certificate, followed by its chain."""
    key: str = field(validator=file_name(optional=False), metadata={"path": True})
    """PEM file of the private key, not encrypted."""
    client_ca: str | None = field(default=None, kw_only=True, validator=file_name(optional=True), metadata={"path": True})
    """PEM file of the certificate authorities that verify client certificates. If set, clients are asked for a certificate; access rules
    decide who needs one."""


_NO_HOSTS = frozenset({"fd", "unix"})  # "fd:3" most likely means a file descriptor, not a host named "fd"


def split_address(address: object) -> tuple[str, int] | None:
    """Parse `host:port` or `[v6]:port` into (host without brackets, port). Return None if it is neither."""
    if not isinstance(address, str):
        return None
    try:
        host, port = parse_authority(address)
    except ValueError:
        return None
    # The URI grammar allows "*" in a host name, but no listener can bind to it.
    return None if port is None or "*" in host or host in _NO_HOSTS else (host, port)


def _check_address(_instance: Any, attribute: Any, value: Any) -> None:
    if split_address(value) is None:
        raise refuse(attribute, '"host:port", such as "127.0.0.1:8443" or "[::1]:8443"', value)


@public("trio_tsconnect")
@attrs.resolve_types
@attrs.frozen
class ListenConfig:
    """One listening address. It serves HTTP/1.1 and HTTP/2."""

    address: str = field(default="127.0.0.1:8443", validator=_check_address)
    """`host:port` or `[v6]:port`. Port 0 selects a free port; the line that announces the listener shows it."""
    tls: TlsFiles | None = field(
        default=None,
        kw_only=True,
        validator=attrs.validators.optional(instance_of(TlsFiles, expected="a certificate and a key")),
    )
    """Certificate and key of a TLS listener. None: cleartext."""

    @property
    def host(self) -> str:
        """The host of the address, without the brackets of an IPv6 literal."""
        return self._split()[0]

    @property
    def port(self) -> int:
        """The port of the address. 0 means any free port."""
        return self._split()[1]

    def _split(self) -> tuple[str, int]:
        split = split_address(self.address)
        assert split is not None  # guaranteed by the validator
        return split
