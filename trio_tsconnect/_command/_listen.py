"""The listeners of a configuration, and the functions that serve their connections.

Invariant: all listeners are open before the first is announced. If one cannot be opened, none stays open.
"""

from __future__ import annotations

import errno
import importlib.util
import logging
import ssl
from collections.abc import Awaitable, Callable

import attrs
import trio

from trio_tsconnect import ListenConfig, Proxy, ProxyConfig
from trio_tsconnect._command._say import CommandError, why

logger = logging.getLogger("trio_tsconnect")

Listener = trio.SocketListener | trio.SSLListener[trio.SocketStream]


@attrs.frozen(kw_only=True)
class Protocols:
    """The functions that serve clients: with HTTP/2 and HTTP/1.1, or with HTTP/1.1 only."""

    names: str
    """The names of the protocols, for the message at startup."""
    serve: Callable[[Proxy, trio.abc.Stream], Awaitable[None]]
    """A function that serves one client stream until it ends, including the TLS handshake."""
    tls: Callable[[str, str], ssl.SSLContext]
    """A function that returns a TLS context for the files of a certificate and its key."""


def find_protocols() -> Protocols:
    """Return the functions for all protocols that the installed packages support."""
    if importlib.util.find_spec("h2") is None:
        return Protocols(names="http/1.1", serve=serve_http1, tls=http1_context)
    from trio_tsconnect.http2 import serve_auto, ssl_context

    return Protocols(names="h2, http/1.1", serve=serve_auto, tls=ssl_context)


def http1_context(certificate: str, key: str) -> ssl.SSLContext:
    """Return a TLS context whose ALPN offers HTTP/1.1 only."""
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    context.load_cert_chain(certificate, key)
    context.set_alpn_protocols(["http/1.1"])
    return context


async def serve_http1(proxy: Proxy, stream: trio.abc.Stream) -> None:
    """Serve a client stream with HTTP/1.1. A TLS handshake that fails or takes longer than `http.header_timeout` closes the stream."""
    if await shake_hands(stream, proxy.config.http.header_timeout):
        await proxy.serve_stream(stream)


async def shake_hands(stream: trio.abc.Stream, seconds: float) -> bool:
    """Do the TLS handshake of a stream that has one, within `seconds`. Otherwise close the stream and return False.

    So a proxy that is replaced during the handshake is not given a stream that it would have to close.
    """
    if not isinstance(stream, trio.SSLStream):
        return True
    with trio.move_on_after(seconds):
        try:
            await stream.do_handshake()
        except (trio.BrokenResourceError, trio.ClosedResourceError):
            pass
        else:
            return True
    await trio.aclose_forcefully(stream)
    return False


@attrs.frozen(kw_only=True)
class Door:
    """A listener and its URL."""

    listener: Listener
    """The listener, which is bound and listening."""
    url: str
    """The URL with scheme, address and actual port."""


async def open_doors(config: ProxyConfig, speak: Protocols, file: str) -> list[Door]:
    """Open every listener of a configuration. If one cannot be opened, close all, and raise `CommandError` with its key."""
    if not config.listen:
        raise CommandError(f"{file}: listen: there is nothing to listen on, expected a [[listen]] table with an address")
    contexts = [_context(listen, speak, f"{file}: listen[{index}].tls") for index, listen in enumerate(config.listen)]
    doors: list[Door] = []
    try:
        for index, (listen, context) in enumerate(zip(config.listen, contexts, strict=True)):
            doors += await _open(listen, context, f"{file}: listen[{index}].address")
    except BaseException:
        await close_doors(doors)
        raise
    return doors


async def close_doors(doors: list[Door]) -> None:
    """Close the listeners. Shielded: they are closed also in a cancelled task."""
    with trio.CancelScope(shield=True):
        for door in doors:
            await door.listener.aclose()


def _context(listen: ListenConfig, speak: Protocols, key: str) -> ssl.SSLContext | None:
    if listen.tls is None:
        return None
    try:
        context = speak.tls(listen.tls.certificate, listen.tls.key)
        if listen.tls.client_ca is not None:
            context.load_verify_locations(listen.tls.client_ca)
            # Optional: a certificate that is sent must be valid. Access rules decide which requests need one.
            context.verify_mode = ssl.CERT_OPTIONAL
        return context
    except OSError as exc:
        raise CommandError(f"{key}: cannot be used ({why(exc)}), expected PEM files of a certificate and its key") from exc


async def _open(listen: ListenConfig, context: ssl.SSLContext | None, key: str) -> list[Door]:
    try:
        # Returns one listener for each address of the name. trio uses the system's largest backlog and sets SO_REUSEADDR.
        listeners = await trio.open_tcp_listeners(listen.port, host=listen.host)
    except OSError as exc:
        problem = "address already in use" if exc.errno == errno.EADDRINUSE else f"cannot listen ({why(exc)})"
        raise CommandError(f"{key}: {problem}: {listen.address}, expected a free address of this machine") from exc
    if context is None:
        return [Door(listener=listener, url=_url("http", listener)) for listener in listeners]
    return [
        Door(listener=trio.SSLListener(listener, context, https_compatible=True), url=_url("https", listener)) for listener in listeners
    ]


def _url(scheme: str, listener: trio.SocketListener) -> str:
    host, port = listener.socket.getsockname()[:2]
    return f"{scheme}://[{host}]:{port}" if ":" in host else f"{scheme}://{host}:{port}"
