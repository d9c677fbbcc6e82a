"""Who a client is, as a value. Nothing else in the house asks what kind of stream it has."""

from __future__ import annotations

import ssl
from typing import Any

import attrs
import trio

from trio_tsconnect._util import public


@public("trio_tsconnect")
@attrs.frozen(kw_only=True)
class TLSInfo:
    """What is known of the TLS session that a client came through."""

    version: str | None = None
    """The protocol's name as OpenSSL gives it, such as "TLSv1.3"."""
    cipher: str | None = None
    """The cipher suite's name."""
    server_name: str | None = None
    """The host name that the client asked for (RFC 6066 §3), if it is known."""
    certificate: dict[str, Any] | None = attrs.field(default=None, hash=False)
    """The client's verified certificate as `ssl.SSLSocket.getpeercert` gives it; None without one."""


def _text(_: object, field: attrs.Attribute[Any], value: object) -> None:
    if not isinstance(value, str) or "\r" in value or "\n" in value:
        raise ValueError(f"{field.name} must be text on one line, not {value!r}")


def _scheme(_: object, field: attrs.Attribute[Any], value: object) -> None:
    if value != "http" and value != "https":
        raise ValueError(f"{field.name} must be http or https, not {value!r}")


def _address(_: object, field: attrs.Attribute[Any], value: object) -> None:
    host = value[0] if isinstance(value, tuple) and value else value
    if not isinstance(host, str) or "\r" in host or "\n" in host:
        raise ValueError(f"{field.name} must be a host, or (host, port), not {value!r}")


@public("trio_tsconnect")
@attrs.frozen(kw_only=True)
class ClientInfo:
    """On whose behalf requests come: used for the log, Forwarded fields and access rules.

    Made from a stream by `describe_client`, or given to `serve_stream` or in `ConnectOptions` by a front end, which knows its client.
    """

    address: str | tuple[str, int] = attrs.field(validator=_address)
    """The client's host, or (host, port)."""
    scheme: str = attrs.field(default="http", validator=_scheme)
    """"http", or "https" when the client came through TLS."""
    protocol: str = attrs.field(default="http/1.1", validator=_text)
    """What the client speaks: "http/1.1", "h2", ... (logged as `client_protocol`)."""
    alpn: str | None = None
    """The protocol agreed on by ALPN (RFC 7301), if any."""
    tls: TLSInfo | None = None
    """Facts of the TLS session; None in clear text."""
    connection: int = 0
    """The number of the client's own connection (`Proxy.next_id`); 0: the session that serves it."""
    stream: int | None = None
    """The number of the stream within that connection, for protocols that have streams."""

    @property
    def host(self) -> str:
        """The address without its port."""
        return self.address if isinstance(self.address, str) else self.address[0]

    @property
    def port(self) -> int | None:
        """The port, if it is known."""
        return None if isinstance(self.address, str) else self.address[1]


@public("trio_tsconnect.stream")
def describe_client(stream: trio.abc.Stream) -> ClientInfo:
    """Say who is at the other end of a stream. Never fails: what cannot be known is left out.

    Knows `trio.SocketStream`, `trio.SSLStream` after its handshake, and any stream with a `client_info` attribute.
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
    """The address and port at which a stream came to us, as the authority of a URI; None where it cannot be told."""
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
    if not port:  # a virtual connection without a target: its name is all there is
        return str(host)
    return f"[{host.partition('%')[0]}]:{port}" if ":" in host else f"{host}:{port}"


def _describe_tls(stream: trio.SSLStream[Any]) -> tuple[TLSInfo, str | None]:
    try:
        cipher = stream.cipher()
        info = TLSInfo(
            version=stream.version(),
            cipher=cipher[0] if cipher else None,
            server_name=getattr(stream.context, "requested_server_name", None),
            certificate=stream.getpeercert() or None,
        )
        return info, stream.selected_alpn_protocol()
    except (trio.NeedHandshakeError, ssl.SSLError, ValueError):
        return TLSInfo(), None


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
