"""The command's doors: listeners as the configuration has them, and who serves what comes through them.

The law: every door is open before one of them is announced, and none is when one cannot be.
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
    """Who speaks with clients: HTTP/2 and HTTP/1.1, or only that."""

    names: str
    """What is announced."""
    serve: Callable[[Proxy, trio.abc.Stream], Awaitable[None]]
    """Serves one client stream to its end, TLS handshake included."""
    tls: Callable[[str, str], ssl.SSLContext]
    """A context from the files of a certificate and its key."""


def find_protocols() -> Protocols:
    """The one that speaks all that the installed packages can."""
    if importlib.util.find_spec("h2") is None:
        return Protocols(names="http/1.1", serve=serve_http1, tls=http1_context)
    from trio_tsconnect.http2 import serve_auto, ssl_context

    return Protocols(names="h2, http/1.1", serve=serve_auto, tls=ssl_context)


def http1_context(certificate: str, key: str) -> ssl.SSLContext:
    """What a server without HTTP/2 agrees to."""
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    context.load_cert_chain(certificate, key)
    context.set_alpn_protocols(["http/1.1"])
    return context


async def serve_http1(proxy: Proxy, stream: trio.abc.Stream) -> None:
    """Serve a stream whose client can only mean HTTP/1.1."""
    if isinstance(stream, trio.SSLStream):
        with trio.move_on_after(proxy.config.http.header_timeout):
            try:
                await stream.do_handshake()
            except (trio.BrokenResourceError, trio.ClosedResourceError):
                pass
            else:
                await proxy.serve_stream(stream)
                return
        await trio.aclose_forcefully(stream)
        return
    await proxy.serve_stream(stream)


@attrs.frozen(kw_only=True)
class Door:
    """A listener, and what is announced of it."""

    listener: Listener
    """Bound, and listening."""
    url: str
    """Its scheme and address, with the real port."""


async def open_doors(config: ProxyConfig, speak: Protocols, file: str) -> list[Door]:
    """Every listener of a configuration. `CommandError` names the first that cannot be, and leaves none open."""
    if not config.listen:
        raise CommandError(f"{file}: listen: there is nothing to listen on, expected a table [[listen]] with an address")
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
    """Close them, whatever happens."""
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
            context.verify_mode = ssl.CERT_OPTIONAL  # a certificate that is shown must be sound; who needs one is for access rules to say
        return context
    except OSError as exc:
        raise CommandError(f"{key}: cannot be used ({why(exc)}), expected PEM files of a certificate and its key") from exc


async def _open(listen: ListenConfig, context: ssl.SSLContext | None, key: str) -> list[Door]:
    try:
        # Several for a name with several addresses. The backlog is the greatest the system has, and SO_REUSEADDR is set.
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
