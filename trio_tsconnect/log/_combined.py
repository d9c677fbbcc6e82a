"""The Combined Log Format, for programs that read the logs of web servers.

Invariant: a record becomes exactly one line, whatever the client sent.

The format is `%h %l %u %t "%r" %>s %b "%{Referer}i" "%{User-Agent}i"`, escaped as in Apache httpd. Records contain no user, Referer and
User-Agent, so each of these is "-".
"""

from __future__ import annotations

import re
import time
from collections.abc import Mapping
from datetime import datetime
from typing import Any

from trio_tsconnect._util import public
from trio_tsconnect.log._record import LogRecord

_MONTHS = ("Jan", "Feb", "Mar", "Apr", "May", "Jun", "Jul", "Aug", "Sep", "Oct", "Nov", "Dec")
_ESCAPED = re.compile(r'["\\]|[^ -~]')
_SHORT = {'"': '\\"', "\\": "\\\\", "\n": "\\n", "\r": "\\r", "\t": "\\t", "\b": "\\b", "\v": "\\v"}
_PROTOCOLS = {"h2": "HTTP/2.0", "http/1.0": "HTTP/1.0"}
_NOT_IN_HOST = re.compile(r"[^0-9A-Za-z.:_\-]")


@public("trio_tsconnect.log")
def combined(record: LogRecord | Mapping[str, Any]) -> str:
    r"""Return a record as one ASCII line in the Combined Log Format, without the line end. Never raises.

    Accepts a `LogRecord`, or a record that was read from a log (`logstats.read_records`).

    The time is in UTC. A missing status, an empty body and a request that could not be parsed are written as "-".

    >>> combined(LogRecord(time=784111777.0, client_address="192.0.2.1", method="GET", url="http://site.example/", status=200,
    response_bytes=5)) '192.0.2.1 - - [06/Nov/1994:08:49:37 +0000] "GET http://site.example/ HTTP/1.1" 200 5 "-" "-"'
    """
    if not isinstance(record, LogRecord):
        record = _from_log(record)
    host = _NOT_IN_HOST.sub("_", record.client_address or "") or "-"
    status = "-" if record.status is None else record.status
    return f'{host} - - [{_time(record.time)}] "{_request(record)}" {status} {record.response_bytes or "-"} "-" "-"'


def _from_log(fields: Mapping[str, Any]) -> LogRecord:
    names = ("client_address", "method", "url", "client_protocol", "status", "response_bytes")
    known = {name: fields[name] for name in names if fields.get(name) is not None}
    try:
        seconds = datetime.fromisoformat(str(fields.get("time"))).timestamp()
    except (ValueError, OverflowError):
        seconds = 0.0
    return LogRecord(time=seconds, **known)


def _request(record: LogRecord) -> str:
    if record.method is None:
        return "-"
    words = (record.method, record.url, _PROTOCOLS.get(record.client_protocol, "HTTP/1.1"))
    return _ESCAPED.sub(_escape, " ".join(word for word in words if word))


def _escape(character: re.Match[str]) -> str:
    text = character[0]
    return _SHORT.get(text) or "".join(f"\\x{byte:02x}" for byte in text.encode("utf-8", "surrogatepass"))


def _time(seconds: float) -> str:
    try:
        year, month, day, hour, minute, second = time.gmtime(seconds)[:6]
    except (ArithmeticError, ValueError, OSError):  # not a valid calendar time
        year, month, day, hour, minute, second = time.gmtime(0)[:6]
    return f"{day:02d}/{_MONTHS[month - 1]}/{year:04d}:{hour:02d}:{minute:02d}:{second:02d} +0000"
