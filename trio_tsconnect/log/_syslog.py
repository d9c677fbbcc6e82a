"""Records as messages of syslog (RFC 5424), over a Unix socket, UDP or TCP.

Invariant: one record is one message. A message that was interrupted is sent again from its start on a new connection.
"""

from __future__ import annotations

import contextlib
import errno
import os
import time
from socket import AF_UNIX, SOCK_DGRAM, create_connection, getaddrinfo, gethostname, socket
from typing import Any

from trio_tsconnect.log._json import iso_time
from trio_tsconnect.log._sink import Destination

LOCAL = "/dev/log"
"""Socket of the syslog service of this machine."""

_PRIORITY = 16 * 8 + 6  # facility local0, severity informational
_TIMEOUT = 1.0


class Syslog(Destination):
    """A syslog service. It is connected when the first record is written, and again after a failure."""

    def __init__(self, target: str) -> None:
        kind, rest = split_target(target)
        self.name = f"syslog:{target}"
        self._kind = kind
        self._address: str | tuple[str, int] = rest
        self._socket: socket | None = None
        self._start = f"{_word(gethostname())} trio_tsconnect {os.getpid()} transaction - "

    def append(self, data: memoryview) -> tuple[int, Exception | None]:
        """Send one message per line."""
        done = 0
        try:
            for line in bytes(data).split(b"\n")[:-1]:
                self._send(line)
                done += len(line) + 1
        except OSError as error:
            self.close()
            return done, error
        return done, None

    def _send(self, line: bytes) -> None:
        message = f"<{_PRIORITY}>1 {iso_time(time.time()) or '-'} {self._start}".encode("ascii") + line
        if self._socket is None:
            self._socket = self._connected()
        try:
            if self._kind == "tcp":
                self._socket.sendall(b"%d %b" % (len(message), message))  # RFC 6587 §3.4.1, octet counting
            else:
                self._socket.send(message)
        except OSError as error:
            if error.errno != errno.EMSGSIZE:
                raise
            self.lost += 1  # a datagram of this size is refused each time

    def _connected(self) -> socket:
        if self._kind == "tcp":
            assert isinstance(self._address, tuple)
            return create_connection(self._address, timeout=_TIMEOUT)
        if self._kind == "udp":
            assert isinstance(self._address, tuple)
            family, _, protocol, _, address = getaddrinfo(*self._address, type=SOCK_DGRAM)[0]
            return _datagrams(family, protocol, address)
        return _datagrams(AF_UNIX, 0, self._address)

    def close(self) -> None:
        """Close the connection."""
        if self._socket is not None:
            with contextlib.suppress(OSError):
                self._socket.close()
            self._socket = None


def _datagrams(family: int, protocol: int, address: Any) -> socket:
    """Return a socket for datagrams to one address."""
    connection = socket(family, SOCK_DGRAM, protocol)
    try:
        connection.settimeout(_TIMEOUT)
        connection.connect(address)
    except OSError:
        connection.close()
        raise
    return connection


def split_target(target: str) -> tuple[str, str | tuple[str, int]]:
    """Parse what follows ``syslog:``: nothing, the path of a socket, ``udp://host:port`` or ``tcp://host:port``. Raises `ValueError`."""
    kind, found, address = target.partition("://")
    if not found:
        if target and not target.startswith("/"):
            raise ValueError('expected "syslog:", "syslog:/path", "syslog:udp://host:port" or "syslog:tcp://host:port"')
        return "unix", target or LOCAL
    host, _, port = address.rpartition(":")
    host = host.removeprefix("[").removesuffix("]")
    if kind not in ("tcp", "udp") or not host or not (port.isascii() and port.isdigit() and 0 < int(port) < 65536):
        raise ValueError('expected "syslog:", "syslog:/path", "syslog:udp://host:port" or "syslog:tcp://host:port"')
    return kind, (host, int(port))


def _word(text: str) -> str:
    return "".join(character if "!" <= character <= "~" else "_" for character in text)[:255] or "-"
