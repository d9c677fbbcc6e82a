"""Records as flat JSON with the names of OpenTelemetry's semantic conventions for HTTP.

Invariant: a value without a name there keeps its own name, below ``trio_tsconnect.``.
"""

from __future__ import annotations

from typing import Any

from trio_tsconnect.log._codes import split_host_port, url_host, url_path, url_scheme
from trio_tsconnect.log._fields import is_complete, seconds_taken
from trio_tsconnect.log._json import iso_time, to_json
from trio_tsconnect.log._record import LogRecord

_VERSIONS = {"h2": "2", "http/1.0": "1.0", "http/1.1": "1.1"}
_OURS = ("session", "transaction", "parent", "root", "depth", "tag", "id", "internal", "remap_rule", "origin_status", "opened_by")


def otel_line(record: LogRecord) -> bytes:
    """Return a record as one line, with the line end. A missing value is left out. Never raises."""
    fields = {name: value for name, value in _attributes(record).items() if value is not None}
    return f"{to_json(fields)}\n".encode("ascii")


def _attributes(record: LogRecord) -> dict[str, Any]:
    url = record.url
    address, port = split_host_port(record.origin_address)
    query = url.partition("?")[2] if isinstance(url, str) else None
    attributes: dict[str, Any] = {
        "timestamp": iso_time(record.time),
        "trace_id": record.trace_id,
        "span_id": record.span_id,
        "parent_span_id": record.parent_span_id,
        "http.request.method": record.method,
        "http.response.status_code": record.status,
        "http.request.body.size": record.request_bytes,
        "http.response.body.size": record.response_bytes,
        "http.request.resend_count": record.attempts - 1 if record.attempts > 1 else None,
        "http.server.request.duration": seconds_taken(record),
        "url.full": url,
        "url.scheme": url_scheme(url),
        "url.path": url_path(url),
        "url.query": query or None,
        "server.address": url_host(url) or record.host,
        "client.address": record.client_address,
        "client.port": record.client_port,
        "network.protocol.name": "http",
        "network.protocol.version": _VERSIONS.get(record.client_protocol),
        "network.peer.address": address or record.origin_address,
        "network.peer.port": int(port) if port and len(port) < 6 else None,
        "user_agent.original": record.user_agent,
        "tls.protocol.version": record.tls_version,
        "tls.cipher": record.tls_cipher,
        "tls.client.server_name": record.tls_server_name,
        "tls.resumed": record.tls_resumed,
        "process.pid": record.process,
        "error.type": _error(record),
        "trio_tsconnect.ended.by": record.ended.by,
        "trio_tsconnect.ended.why": record.ended.why,
        "trio_tsconnect.ended.state": record.ended.state,
    }
    attributes |= {f"trio_tsconnect.{name}": getattr(record, name) for name in _OURS}
    attributes |= {f"http.request.header.{name}": [value] for name, value in (record.request_headers or {}).items()}
    attributes |= {f"http.response.header.{name}": [value] for name, value in (record.response_headers or {}).items()}
    return attributes


def _error(record: LogRecord) -> str | None:
    """Return the cause of a failure, or the status of an error response of which no failure is known."""
    if not is_complete(record):
        return record.ended.why
    return str(record.status) if record.status is not None and record.status >= 500 else None
