"""Origins: hashable values that can be opened as a stream.

Invariant: two origins that compare equal can share a connection. The pool stores connections by origin, so the value contains everything
that makes two connections different: port, TLS server name and trust settings.
"""

from __future__ import annotations

import errno
import socket
import ssl
from functools import lru_cache
from typing import Protocol

import attrs
import trio

from trio_tsconnect._util import public
from trio_tsconnect.message import Failure, TransactionFailure
from trio_tsconnect.stream import ProbedTransport, close_now

_EXHAUSTED = frozenset({errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM})


@public("trio_tsconnect.origin")
class Origin(Protocol):
    """A server that answers HTTP requests on a stream."""

    @property
    def name(self) -> str:
        """Name for error messages."""
        ...

    @property
    def persistent(self) -> bool:
        """True if a connection may be used for several transactions, one after another."""
        ...

    async def open(self) -> trio.abc.Stream:
        """Open a new connection. Raises `TransactionFailure` if that fails. If it is cancelled, nothing stays open."""
        ...

    def __hash__(self) -> int: ...


@public("trio_tsconnect.origin")
@attrs.frozen
class TLS:
    """TLS settings for an origin."""

    server_name: str
    """Server name for SNI and for verification."""
    verify: bool = True
    """True if the certificate must be valid for that name."""
    ca_file: str | None = None
    """PEM file of the certificate authorities to trust. None: the system's."""


@lru_cache(maxsize=64)  # loading CA certificates is slow; a file that changes later is not read again
def _context(verify: bool, ca_file: str | None) -> ssl.SSLContext:
    context = ssl.create_default_context(cafile=ca_file)
    if not verify:
        context.check_hostname = False
        context.verify_mode = ssl.CERT_NONE
    context.set_alpn_protocols(["http/1.1"])
    return context


@public("trio_tsconnect.origin")
@attrs.frozen
class TCPOrigin:
    """An origin at a TCP host and port, in cleartext or with TLS."""

    host: str
    port: int
    tls: TLS | None = None
    persistent: bool = True

    @property
    def name(self) -> str:
        """Host and port, for error messages."""
        return f"{self.host}:{self.port}"

    async def open(self) -> trio.abc.Stream:
        """Connect to the host, trying all of its addresses (RFC 8305), and do the TLS handshake if TLS is used."""
        try:
            stream = await trio.open_tcp_stream(self.host, self.port)
        except (socket.gaierror, UnicodeError):
            raise TransactionFailure(Failure.ORIGIN_NAME_NOT_FOUND, "The host name of the origin cannot be resolved.") from None
        except OSError as exc:
            raise _refusal(exc) from None
        return stream if self.tls is None else await _secure(stream, self.tls)


@public("trio_tsconnect.origin")
@attrs.frozen
class UnixOrigin:
    """An origin at a Unix socket, in cleartext or with TLS."""

    path: str
    tls: TLS | None = None
    persistent: bool = True

    @property
    def name(self) -> str:
        """Path of the socket, for error messages."""
        return self.path

    async def open(self) -> trio.abc.Stream:
        """Connect to the socket, and do the TLS handshake if TLS is used."""
        try:
            stream = await trio.open_unix_socket(self.path)
        except OSError as exc:
            raise _refusal(exc) from None
        return stream if self.tls is None else await _secure(stream, self.tls)


def _refusal(exc: OSError) -> TransactionFailure:
    """Return the failure for a connection error: `NO_DESCRIPTORS` if the proxy is out of resources, otherwise `ORIGIN_REFUSED`."""
    cause = exc.__cause__
    attempts = cause.exceptions if isinstance(cause, BaseExceptionGroup) else (exc, cause)
    if any(isinstance(each, OSError) and each.errno in _EXHAUSTED for each in attempts):
        return TransactionFailure(Failure.NO_DESCRIPTORS, "The proxy cannot open another connection.")
    return TransactionFailure(Failure.ORIGIN_REFUSED, "The origin does not accept connections.")


async def _secure(stream: trio.SocketStream, tls: TLS) -> trio.abc.Stream:
    try:
        context = _context(tls.verify, tls.ca_file)
    except (OSError, ssl.SSLError) as exc:
        await close_now(stream)
        raise TransactionFailure(Failure.ORIGIN_TLS, f"The CA certificates cannot be loaded: {exc.strerror}.") from None
    transport = ProbedTransport(stream)
    secured: trio.SSLStream[ProbedTransport] = trio.SSLStream(transport, context, server_hostname=tls.server_name, https_compatible=True)
    try:
        await secured.do_handshake()
    except trio.BrokenResourceError as exc:
        await close_now(stream)
        reason = getattr(exc.__cause__, "verify_message", None) or getattr(exc.__cause__, "reason", None) or "the connection ended"
        raise TransactionFailure(Failure.ORIGIN_TLS, f"The TLS handshake with the origin failed: {reason}.") from None
    except BaseException:  # most likely cancelled: leave nothing open
        await close_now(stream)
        raise
    return secured
