"""Origins: whatever can be opened as a stream.

The law: an origin is a hashable value with one verb, `open`. The pool keeps connections by that value, so everything that makes two
connections different (the port, the server name, the trust) is in it.
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
    """Something that answers requests on a stream."""

    @property
    def name(self) -> str:
        """What to call it in an error."""
        ...

    @property
    def persistent(self) -> bool:
        """Whether its connections may serve several transactions, one after another."""
        ...

    async def open(self) -> trio.abc.Stream:
        """A fresh connection. `TransactionFailure` says why there is none; cancelled, it leaves nothing open."""
        ...

    def __hash__(self) -> int: ...


@public("trio_tsconnect.origin")
@attrs.frozen
class TLS:
    """How to trust an origin."""

    server_name: str
    """The name to ask for (SNI) and to verify."""
    verify: bool = True
    """Whether the certificate must prove that name."""
    ca_file: str | None = None
    """PEM file of the authorities to trust; None: the system's."""


@lru_cache(maxsize=64)
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
    """A host and a port, in clear text or with TLS."""

    host: str
    port: int
    tls: TLS | None = None
    persistent: bool = True

    @property
    def name(self) -> str:
        """Host and port."""
        return f"{self.host}:{self.port}"

    async def open(self) -> trio.abc.Stream:
        """Connect (all of the name's addresses, RFC 8305) and shake hands."""
        try:
            stream = await trio.open_tcp_stream(self.host, self.port)
        except (socket.gaierror, UnicodeError):
            raise TransactionFailure(Failure.ORIGIN_NAME_NOT_FOUND, "The origin's name has no address.") from None
        except OSError as exc:
            raise _refusal(exc) from None
        return stream if self.tls is None else await _secure(stream, self.tls)


@public("trio_tsconnect.origin")
@attrs.frozen
class UnixOrigin:
    """A Unix socket."""

    path: str
    tls: TLS | None = None
    persistent: bool = True

    @property
    def name(self) -> str:
        """The path."""
        return self.path

    async def open(self) -> trio.abc.Stream:
        """Connect."""
        try:
            stream = await trio.open_unix_socket(self.path)
        except OSError as exc:
            raise _refusal(exc) from None
        return stream if self.tls is None else await _secure(stream, self.tls)


def _refusal(exc: OSError) -> TransactionFailure:
    """What trio says of one attempt, or of all of them, that failed: the origin's doing, unless we have come to an end."""
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
        raise TransactionFailure(Failure.ORIGIN_TLS, f"The authorities to trust cannot be read: {exc.strerror}.") from None
    transport = ProbedTransport(stream)
    secured: trio.SSLStream[ProbedTransport] = trio.SSLStream(transport, context, server_hostname=tls.server_name, https_compatible=True)
    try:
        await secured.do_handshake()
    except trio.BrokenResourceError as exc:
        await close_now(stream)
        reason = getattr(exc.__cause__, "verify_message", None) or getattr(exc.__cause__, "reason", None) or "the connection ended"
        raise TransactionFailure(Failure.ORIGIN_TLS, f"The TLS handshake with the origin failed: {reason}.") from None
    except BaseException:
        await close_now(stream)
        raise
    return secured
