"""TLS for HTTP/2 (RFC 9113 §9.2)."""

from __future__ import annotations

import ssl
from pathlib import Path

from trio_tsconnect._util import public

# RFC 9113 §9.2.2: of TLS 1.2, ephemeral keys and authenticated encryption only. (TLS 1.3 has no others.)
_CIPHERS = "ECDHE+AESGCM:ECDHE+CHACHA20"


@public("trio_tsconnect.http2")
def ssl_context(certificate: str | Path, key: str | Path) -> ssl.SSLContext:
    """A context for a server that speaks HTTP/2 and HTTP/1.1, as ALPN decides. PEM files; TLS 1.2 and later.

    `OSError` for a file that cannot be read, `ssl.SSLError` for one that holds something else.
    """
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    context.set_ciphers(_CIPHERS)
    context.options |= ssl.OP_NO_COMPRESSION | ssl.OP_NO_RENEGOTIATION  # RFC 9113 §9.2.1
    context.set_alpn_protocols(["h2", "http/1.1"])
    context.load_cert_chain(certificate, key)
    return context
