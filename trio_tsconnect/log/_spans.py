"""Log records as spans of OpenTelemetry. Needs the extra `otel`; `_otel` imports this module when it is needed.

Invariant: the ids of a span follow from its own record, so a child finds its parent whichever of them ends first.

Sources: https://opentelemetry.io/docs/specs/semconv/http/http-spans/ (names of attributes, status), and W3C Trace Context (ids).
"""

from __future__ import annotations

import hashlib
import math
import re
import secrets
from collections.abc import Iterator, Mapping
from urllib.parse import urlsplit

from opentelemetry.sdk.resources import SERVICE_NAME, Resource
from opentelemetry.sdk.trace import Event, ReadableSpan
from opentelemetry.sdk.util.instrumentation import InstrumentationScope
from opentelemetry.trace import Link, SpanContext, SpanKind, Status, StatusCode, TraceFlags

from trio_tsconnect._version import __version__
from trio_tsconnect.log._json import to_json
from trio_tsconnect.log._record import LogRecord

Value = str | int | bool | float | list[str]

RUN = secrets.token_bytes(16)
"""Keeps the ids of this run of the process apart from those of other runs, which count transactions from 1 too."""

_METHODS = frozenset({"GET", "HEAD", "POST", "PUT", "DELETE", "CONNECT", "OPTIONS", "TRACE", "PATCH", "QUERY"})
_SUCCEEDED = frozenset({"complete", "responded"})
_VERSIONS = {"http/1.0": "1.0", "http/1.1": "1.1", "h2": "2", "h3": "3"}
_LONGEST_TEXT = 4096
_LATEST = 2**63 - 1
_HEX = re.compile(r"[0-9a-f]+")
_CREDENTIALS = re.compile(r"(?<=//)[^/?#]*@")
_SCOPE = InstrumentationScope("trio_tsconnect", __version__)


def resource(attributes: Mapping[str, str]) -> Resource:
    """Return the description of this process: `attributes`, then the variables of the environment that OpenTelemetry defines."""
    found = Resource.create(dict(attributes))
    unnamed = str(found.attributes.get(SERVICE_NAME, "")).startswith("unknown_service")
    return found.merge(Resource({SERVICE_NAME: "trio_tsconnect"})) if unnamed else found


def to_span(record: LogRecord, described: Resource, run: bytes = RUN) -> ReadableSpan:
    """Return the span of a transaction."""
    start = _nanoseconds(record.time)
    offsets = {name: value for name, value in record.milestones.items() if math.isfinite(value)}
    context, parent = _contexts(record, run)
    status = _status(record)
    attributes: dict[str, Value] = {_text(name): _value(value) for name, value in _attributes(record, status) if value is not None}
    return ReadableSpan(
        name=_text(_name(record)),
        context=context,
        parent=parent,
        resource=described,
        attributes=attributes,
        events=[Event(_text(name), timestamp=_nanoseconds(record.time + value)) for name, value in offsets.items()],
        links=_links(record, parent, run),
        kind=SpanKind.CLIENT if record.internal else SpanKind.SERVER,
        status=status,
        start_time=start,
        end_time=max(start, _nanoseconds(record.time + max(offsets.values(), default=0.0))),
        instrumentation_scope=_SCOPE,
    )


# ---- ids ---------------------------------------------------------------------------------------------------------------------


def _contexts(record: LogRecord, run: bytes) -> tuple[SpanContext, SpanContext | None]:
    """Return the context of a transaction and that of its parent."""
    trace = _given(record.trace_id, 32) or _derived(run, "trace", record.process, record.root, 16)
    span = _given(record.span_id, 16) or _derived(run, "span", record.process, record.transaction, 8)
    above = _given(record.parent_span_id, 16)
    # A record with a trace and no parent in it began that trace, although another transaction may have caused it.
    if above is None and record.parent is not None and not _given(record.span_id, 16):
        above = _derived(run, "span", record.process, record.parent, 8)
    return _context(trace, span), None if above is None else _context(trace, above, remote=record.parent is None)


def _links(record: LogRecord, parent: SpanContext | None, run: bytes) -> list[Link]:
    """Return a link to the transaction that caused this one, if this one began a trace of its own."""
    if parent is not None or record.parent is None:
        return []
    trace = _derived(run, "trace", record.process, record.root, 16)
    return [Link(_context(trace, _derived(run, "span", record.process, record.parent, 8)))]


def _context(trace: int, span: int, *, remote: bool = False) -> SpanContext:
    return SpanContext(trace, span, is_remote=remote, trace_flags=TraceFlags(TraceFlags.SAMPLED))


def _given(value: str | None, digits: int) -> int | None:
    """Return an id of a record; None if there is none, or if it is not one."""
    return (int(value, 16) or None) if value and len(value) == digits and _HEX.fullmatch(value) else None


def _derived(run: bytes, kind: str, process: int, number: int, size: int) -> int:
    return int.from_bytes(hashlib.blake2b(f"{kind} {process} {number}".encode(), key=run, digest_size=size).digest()) or 1


# ---- what a span says --------------------------------------------------------------------------------------------------------


def _name(record: LogRecord) -> str:
    """Return the method and the rule: a name must have few values, and a URL has many."""
    method = record.method if record.method in _METHODS else "HTTP"
    return f"{method} {record.remap_rule}" if record.remap_rule else method


def _status(record: LogRecord) -> Status:
    """Return an error for a 5xx, and for a failure of the proxy, an origin or a plugin.

    A 4xx says what the client did wrong, even if the proxy found it: the conventions leave its status unset.
    """
    failed = record.ended.why not in _SUCCEEDED and record.ended.by != "client"
    status = record.status or 0
    if status >= 500 or (failed and not 400 <= status < 500):
        return Status(StatusCode.ERROR, _text(f"{record.ended.by}: {record.ended.why} in {record.ended.state}") if failed else None)
    return Status(StatusCode.UNSET)


def _attributes(record: LogRecord, status: Status) -> Iterator[tuple[str, object]]:
    known = record.method in _METHODS
    yield "http.request.method", record.method if known else "_OTHER"
    yield "http.request.method_original", None if known else record.method
    yield "http.response.status_code", record.status
    yield "http.request.body.size", record.request_bytes
    yield "http.response.body.size", record.response_bytes
    if status.status_code is StatusCode.ERROR:
        yield "error.type", record.ended.why if record.ended.why not in _SUCCEEDED else str(record.status)
    yield from _address(record)
    yield "client.address", record.client_address
    yield "client.port", record.client_port
    yield "network.protocol.name", "http"
    yield "network.protocol.version", _VERSIONS.get(record.client_protocol)
    yield "user_agent.original", record.user_agent
    yield "tls.protocol.name", record.tls_version and "tls"
    yield "tls.protocol.version", record.tls_version and record.tls_version.removeprefix("TLSv")
    yield "tls.cipher", record.tls_cipher
    yield "tls.client.server_name", record.tls_server_name
    yield "tls.resumed", record.tls_resumed
    for name, value in ({"referer": record.referer} | (record.request_headers or {})).items():
        yield f"http.request.header.{name}", None if value is None else [value]
    for name, value in (record.response_headers or {}).items():
        yield f"http.response.header.{name}", [value]
    yield from _own(record)


def _address(record: LogRecord) -> Iterator[tuple[str, object]]:
    """Yield the attributes of the URL, without the credentials that it may contain."""
    if not record.url:
        return
    url = _CREDENTIALS.sub("REDACTED@", record.url)
    yield "url.full", url
    try:
        parts = urlsplit(url)
        host, port = parts.hostname, parts.port
    except ValueError:
        return
    yield "url.scheme", parts.scheme or None
    yield "url.path", parts.path or None
    yield "url.query", parts.query or None
    yield "server.address", host
    yield "server.port", port or {"http": 80, "https": 443}.get(parts.scheme) if host else None


def _own(record: LogRecord) -> Iterator[tuple[str, object]]:
    """Yield what only this package knows, under the names of the record."""
    names = (
        "transaction", "parent", "root", "depth", "session", "client_connection", "stream", "process", "tag", "id", "internal", "detached",
        "opened_by", "origin_url", "origin_address", "origin_status", "origin_connection", "origin_reused", "attempts",
    )  # fmt: skip
    for name in names:
        yield f"tsconnect.{name}", getattr(record, name)
    yield "tsconnect.rule", record.remap_rule
    yield "tsconnect.cause", record.ended.why
    yield "tsconnect.cause.by", record.ended.by
    yield "tsconnect.cause.state", record.ended.state
    if record.plugin:
        yield "tsconnect.plugin", to_json(record.plugin)


# ---- values that can be sent -------------------------------------------------------------------------------------------------


def _value(value: object) -> Value:
    match value:
        case bool():
            return value
        case int():
            return value if -(2**63) <= value < 2**63 else str(value)[:_LONGEST_TEXT]
        case float():
            return value
        case list():
            return [_text(str(item)) for item in value]
        case _:
            return _text(str(value))


def _text(value: str) -> str:
    """Return text that UTF-8 can encode, of limited length."""
    if value.isascii() and len(value) <= _LONGEST_TEXT:
        return value
    return value[:_LONGEST_TEXT].encode("utf-8", "backslashreplace").decode("utf-8")


def _nanoseconds(seconds: float) -> int:
    """Return a Unix time in nanoseconds, to the microsecond; 0 if it is not a time."""
    return min(max(round(seconds * 1e6) * 1000, 0), _LATEST) if math.isfinite(seconds) else 0
