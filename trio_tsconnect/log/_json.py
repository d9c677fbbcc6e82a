"""Records as lines of JSON.

Invariant: a record becomes exactly one line of valid ASCII JSON, whatever it contains.

`line` builds the line of a record whose fields have their types from one template. Anything else takes the plain path, which produces the
same bytes for such a record and some valid line for any other. The line is ASCII because some readers also split lines at the line ends of
Unicode. Seconds have six digits after the point. The template needs no encoder of another package: with one, the time would go into the
dict that it encodes.
"""

from __future__ import annotations

import contextlib
import functools
import json
import math
import time
from collections.abc import Mapping
from json.encoder import encode_basestring_ascii as _quote
from typing import TYPE_CHECKING, Any

from trio_tsconnect._contain import sort_out

if TYPE_CHECKING:
    from trio_tsconnect.log._record import LogRecord

_MICRO = 1_000_000
_DEEPEST = 32
_LARGEST_INT_BITS = 2000
_FLAG = {True: "true", False: "false", None: "null"}

Heads = Mapping[str, str] | None
"""Selected fields of a message, by name in lower case; None if none are selected."""

OPTIONAL = (
    *("client_port", "host", "user_agent", "referer", "tls_version", "tls_cipher", "tls_server_name", "tls_resumed", "origin_address"),
    *("opened_by", "trace_id", "span_id", "parent_span_id", "request_headers", "response_headers"),
)
"""Fields that are left out of the line if they are None."""

_SECONDS = frozenset({"milestones", "deadline_left"})
_encode = json.JSONEncoder(ensure_ascii=True, allow_nan=False, separators=(",", ":"), default=lambda value: _safe_repr(value)).encode


def line(record: LogRecord) -> bytes:
    """Return a record as one line of ASCII JSON, with the line end. Never raises."""
    return line_with(record, record.request_headers, record.response_headers)


def line_with(record: LogRecord, request_headers: Heads, response_headers: Heads) -> bytes:
    """Return the line of a record with these fields of its messages in place of its own. Never raises."""
    try:
        return f"{_fixed(record)}{_optional(record, request_headers, response_headers)}}}\n".encode("ascii")
    except Exception:  # noqa: BLE001 - a value of another type, as a plugin or a test may set one: rare, so not checked before
        return plain_line(record, request_headers, response_headers)


def plain_line(record: LogRecord, request_headers: Heads, response_headers: Heads) -> bytes:
    """Return what `line_with` returns, without the template: slower, and for values of any type."""
    fields: dict[str, Any] = record.as_dict()
    for name in _SECONDS:
        fields[name] = getattr(record, name)
    for name, heads in (("request_headers", request_headers), ("response_headers", response_headers)):
        fields.pop(name, None)
        if heads is not None:
            fields[name] = heads
    members = (f"{_quote(name)}:{_seconds(value) if name in _SECONDS else to_json(value)}" for name, value in fields.items())
    return f"{{{','.join(members)}}}\n".encode("ascii")


def _fixed(r: LogRecord) -> str:
    """Return the fields that every line has. Raises an exception if a value has another type than its field."""
    end = r.ended
    moment = iso_time(r.time)
    # One expression, because a transaction pays for each step; `:d` raises for anything that is not an int.
    return (
        f'{{"time":{"null" if moment is None else _quote(moment)},"session":{r.session:d},"client_connection":{r.client_connection:d},'
        f'"stream":{"null" if r.stream is None else f"{r.stream:d}"},"transaction":{r.transaction:d},'
        f'"parent":{"null" if r.parent is None else f"{r.parent:d}"},"root":{r.root:d},"depth":{r.depth:d},"detached":{_FLAG[r.detached]},'
        f'"client_address":{"null" if r.client_address is None else _quote(r.client_address)},"client_protocol":{_quote(r.client_protocol)},'
        f'"tag":{"null" if r.tag is None else _quote(r.tag)},"id":{r.id:d},"internal":{_FLAG[r.internal]},'
        f'"method":{"null" if r.method is None else _quote(r.method)},"url":{"null" if r.url is None else _quote(r.url)},'
        f'"origin_url":{"null" if r.origin_url is None else _quote(r.origin_url)},'
        f'"remap_rule":{"null" if r.remap_rule is None else _quote(r.remap_rule)},'
        f'"status":{"null" if r.status is None else f"{r.status:d}"},'
        f'"origin_status":{"null" if r.origin_status is None else f"{r.origin_status:d}"},"request_bytes":{r.request_bytes:d},'
        f'"response_bytes":{r.response_bytes:d},"origin_connection":{"null" if r.origin_connection is None else f"{r.origin_connection:d}"},'
        f'"origin_reused":{_FLAG[r.origin_reused]},"attempts":{r.attempts:d},"milestones":{_seconds(r.milestones)},'
        f'"ended":{{"by":{_quote(end.by)},"why":{_quote(end.why)},"state":{_quote(end.state)}}},'
        f'"plugin":{to_json(r.plugin) if r.plugin else "{}"},'
        f'"deadline_left":{"null" if r.deadline_left is None else _seconds(r.deadline_left)},"process":{r.process:d},'
        f'"request_head_bytes":{r.request_head_bytes:d},"response_head_bytes":{r.response_head_bytes:d}'
    )


def _optional(r: LogRecord, request_headers: Heads, response_headers: Heads) -> str:
    """Return the fields that are left out if they are None, each after a comma."""
    text = "" if r.client_port is None else f',"client_port":{r.client_port:d}'
    if r.host is not None:
        text += f',"host":{_quote(r.host)}'
    if r.user_agent is not None:
        text += f',"user_agent":{_quote(r.user_agent)}'
    if r.referer is not None:
        text += f',"referer":{_quote(r.referer)}'
    if r.tls_version is not None:
        text += f',"tls_version":{_quote(r.tls_version)}'
    if r.tls_cipher is not None:
        text += f',"tls_cipher":{_quote(r.tls_cipher)}'
    if r.tls_server_name is not None:
        text += f',"tls_server_name":{_quote(r.tls_server_name)}'
    if r.tls_resumed is not None:
        text += f',"tls_resumed":{_FLAG[r.tls_resumed]}'
    if r.origin_address is not None:
        text += f',"origin_address":{_quote(r.origin_address)}'
    if r.opened_by is not None:
        text += f',"opened_by":{_quote(r.opened_by)}'
    if r.trace_id is not None:
        text += f',"trace_id":{_quote(r.trace_id)}'
    if r.span_id is not None:
        text += f',"span_id":{_quote(r.span_id)}'
    if r.parent_span_id is not None:
        text += f',"parent_span_id":{_quote(r.parent_span_id)}'
    if request_headers is not None:
        text += f',"request_headers":{to_json(request_headers)}'
    if response_headers is not None:
        text += f',"response_headers":{to_json(response_headers)}'
    return text


def _seconds(values: object) -> str:
    """Return a table of seconds as JSON, with six digits after the point."""
    if not isinstance(values, dict):
        return to_json(values)
    numbers = tuple(values.values())
    with contextlib.suppress(Exception):  # a key or a value of another type
        if math.isfinite(sum(numbers)):
            return _format_of(tuple(values)) % numbers
    return f"{{{','.join(f'{_name(key)}:{_second(value)}' for key, value in values.items())}}}"


@functools.lru_cache(maxsize=256)
def _format_of(names: tuple[str, ...]) -> str:
    members = (f"{_quote(name)}:%.6f".replace("%", "%%").replace("%%.6f", "%.6f") for name in names)
    return f"{{{','.join(members)}}}"


def _second(value: object) -> str:
    return f"{value:.6f}" if isinstance(value, float) and math.isfinite(value) else to_json(value)


def _name(key: object) -> str:
    return _quote(key if isinstance(key, str) else _safe_repr(key))


def to_json(value: object) -> str:
    """Return any value as ASCII JSON on one line. Never raises."""
    try:
        return _encode(value)
    except Exception:  # noqa: BLE001 - NaN, a key that is not a str, a cycle, a repr that raises: rare, so not checked before
        return _encode(_plain(value, 0))


def _plain(value: object, depth: int) -> object:
    """Return a copy of `value` with only types and numbers that every JSON parser accepts."""
    match value:
        case None | bool() | str():
            return value
        case int():
            return value if value.bit_length() <= _LARGEST_INT_BITS else _safe_repr(value)
        case float():
            return value if math.isfinite(value) else None
        case dict() if depth < _DEEPEST:
            return {key if isinstance(key, str) else _safe_repr(key): _plain(item, depth + 1) for key, item in value.items()}
        case list() | tuple() if depth < _DEEPEST:
            return [_plain(item, depth + 1) for item in value]
        case _:
            return _safe_repr(value)


def _safe_repr(value: object) -> str:
    try:
        return repr(value)
    except BaseException as error:  # the repr of a plugin's object may raise anything
        if sort_out(error)[1] is not None:
            raise
        return f"<{type(value).__name__}: repr failed with {type(error).__name__}>"


def to_micros(seconds: dict[str, float]) -> dict[str, float]:
    """Return a table of seconds rounded to microseconds."""
    try:
        return {name: int(each * _MICRO + 0.5) / _MICRO for name, each in seconds.items()}  # three times as fast as round()
    except Exception:  # noqa: BLE001 - not finite, or of another type: handled by the encoder
        return seconds


def iso_time(seconds: float) -> str | None:
    """Return a Unix time as ``2026-11-22T20:55:04.123456Z``, or None if it is not a valid calendar time."""
    try:
        whole, micros = divmod(round(seconds * _MICRO), _MICRO)
        return f"{_iso_second(whole)}.{micros:06d}Z"
    except (ArithmeticError, ValueError, OSError):
        return None


@functools.lru_cache(maxsize=64)
def _iso_second(seconds: int) -> str:
    year, month, day, hour, minute, second = time.gmtime(seconds)[:6]
    if not 1 <= year <= 9999:
        raise ValueError("expected a year of four digits")
    return f"{year:04d}-{month:02d}-{day:02d}T{hour:02d}:{minute:02d}:{second:02d}"
