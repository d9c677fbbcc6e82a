"""TLS for HTTP/2 (RFC 9113 §9.2)."""

from __future__ import annotations

import ssl
from pathlib import Path

from trio_tsconnect._util import public

# RFC 9113 §9.2.2: with TLS 1.2, only ephemeral key exchange and authenticated encryption. TLS 1.3 has no other cipher suites.
_CIPHERS = "ECDHE+AESGCM:ECDHE+CHACHA20"


@public("trio_tsconnect.http2")
def ssl_context(certificate: str | Path, key: str | Path) -> ssl.SSLContext:
    """Return a server context for HTTP/2 and HTTP/1.1, selected by ALPN. It requires TLS 1.2 or later (RFC 9113 §9.2).

    `certificate` and `key` are paths of PEM files. Raises `OSError` if a file cannot be read, `ssl.SSLError` if its content is invalid.
    """
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    context.set_ciphers(_CIPHERS)
    context.options |= ssl.OP_NO_COMPRESSION | ssl.OP_NO_RENEGOTIATION  # RFC 9113 §9.2.1
    context.set_alpn_protocols(["h2", "http/1.1"])
    context.load_cert_chain(certificate, key)
    return context
