"""Facts about a client, as a value.

Invariant: other modules learn who a client is from `ClientInfo`, never from the type of its stream.
"""

from __future__ import annotations

import ssl
from typing import Any

import attrs
import trio

from trio_tsconnect._util import public


@public("trio_tsconnect")
@attrs.frozen(kw_only=True)
class TLSInfo:
    """Facts about the TLS session of a client."""

    version: str | None = None
    """TLS version as OpenSSL names it, for example "TLSv1.3"."""
    cipher: str | None = None
    """Name of the cipher suite."""
    server_name: str | None = None
    """Host name that the client requested (SNI, RFC 6066 §3), if known."""
    resumed: bool | None = None
    """True if the client resumed an earlier TLS session; None if unknown."""
    certificate: dict[str, Any] | None = attrs.field(default=None, hash=False)
    """Verified certificate of the client, as returned by `ssl.SSLSocket.getpeercert`; None if there is none."""


def _text(_: object, field: attrs.Attribute[Any], value: object) -> None:
    if not isinstance(value, str) or "\r" in value or "\n" in value:
        raise ValueError(f"{field.name} must be a str without line breaks, not {value!r}")


def _scheme(_: object, field: attrs.Attribute[Any], value: object) -> None:
    if value != "http" and value != "https":
        raise ValueError(f"{field.name} must be http or https, not {value!r}")


def _address(_: object, field: attrs.Attribute[Any], value: object) -> None:
    host = value[0] if isinstance(value, tuple) and value else value
    if not isinstance(host, str) or "\r" in host or "\n" in host:
        raise ValueError(f"{field.name} must be a host or (host, port), without line breaks, not {value!r}")


@public("trio_tsconnect")
@attrs.frozen(kw_only=True)
class ClientInfo:
    """The client on whose behalf requests are made. Used for the log, for Forwarded fields and for access rules.

    Created from a stream by `describe_client`. A front end, which knows its client, passes it to `serve_stream` or in `ConnectOptions`.
    """

    address: str | tuple[str, int] = attrs.field(validator=_address)
    """Host of the client, or (host, port)."""
    scheme: str = attrs.field(default="http", validator=_scheme)
    """"https" if the client used TLS, else "http"."""
    protocol: str = attrs.field(default="http/1.1", validator=_text)
    """Protocol of the client: "http/1.1", "h2", ... (logged as `client_protocol`)."""
    alpn: str | None = None
    """Protocol negotiated by ALPN (RFC 7301), if any."""
    tls: TLSInfo | None = None
    """Facts about the TLS session; None without TLS."""
    connection: int = 0
    """Number of the client's own connection (`Proxy.next_id`); 0: the number of the session that serves it."""
    stream: int | None = None
    """Number of the stream within that connection, for protocols with streams."""

    @property
    def host(self) -> str:
        """The address without its port."""
        return self.address if isinstance(self.address, str) else self.address[0]

    @property
    def port(self) -> int | None:
        """The port, or None if unknown."""
        return None if isinstance(self.address, str) else self.address[1]


@public("trio_tsconnect.stream")
def describe_client(stream: trio.abc.Stream) -> ClientInfo:
    """Return the `ClientInfo` of the peer of a stream. Never raises: unknown facts are left out, and an unknown address is "unknown".

    Supports `trio.SocketStream`, `trio.SSLStream` after its handshake, and any stream with a `client_info` attribute.
    """
    known = getattr(stream, "client_info", None)
    if isinstance(known, ClientInfo):
        return known
    transport = stream
    tls = alpn = None
    if isinstance(stream, trio.SSLStream):
        transport = stream.transport_stream
        tls, alpn = _describe_tls(stream)
    return ClientInfo(
        address=_peer_address(transport),
        scheme="https" if tls else "http",
        alpn=alpn,
        tls=tls,
    )


@public("trio_tsconnect.stream")
def own_authority(stream: trio.abc.Stream) -> str | None:
    """Return the local address and port of a stream as a URI authority, or None if unknown."""
    address: Any = getattr(stream, "local_address", None)
    transport = stream.transport_stream if isinstance(stream, trio.SSLStream) else stream
    if address is None and (sock := getattr(transport, "socket", None)) is not None:
        try:
            address = sock.getsockname()
        except OSError:
            return None
    if not isinstance(address, tuple):
        return None
    host, port = address[:2]
    if not port:  # port 0: a virtual connection without a target, which has only a name
        return str(host)
    return f"[{host.partition('%')[0]}]:{port}" if ":" in host else f"{host}:{port}"


def _describe_tls(stream: trio.SSLStream[Any]) -> tuple[TLSInfo, str | None]:
    try:
        cipher = stream.cipher()
        info = TLSInfo(
            version=stream.version(),
            cipher=cipher[0] if cipher else None,
            server_name=getattr(stream.context, "requested_server_name", None),
            resumed=stream.session_reused,
            certificate=stream.getpeercert() or None,
        )
        return info, stream.selected_alpn_protocol()
    except (trio.NeedHandshakeError, ssl.SSLError, ValueError):
        return TLSInfo(), None


@public("trio_tsconnect.stream")
def peer_name(stream: trio.abc.Stream) -> str | None:
    """Return the address of the peer of a socket, as `host:port` or the path of a Unix socket. None for other streams."""
    transport = stream.transport_stream if isinstance(stream, trio.SSLStream) else stream
    sock = getattr(transport, "socket", None)
    try:
        peer = sock.getpeername() if sock is not None else None
    except OSError:
        return None
    if isinstance(peer, tuple):
        return f"[{peer[0]}]:{peer[1]}" if ":" in peer[0] else f"{peer[0]}:{peer[1]}"
    return str(peer) if peer else None


def _peer_address(transport: trio.abc.Stream) -> str | tuple[str, int]:
    sock = getattr(transport, "socket", None)
    if sock is None:
        return "unknown"
    try:
        peer = sock.getpeername()
    except OSError:
        return "unknown"
    if isinstance(peer, tuple):
        return (str(peer[0]), int(peer[1]))
    return "unix"
