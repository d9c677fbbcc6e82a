"""The Common and the Combined Log Format, for programs that read the logs of web servers.

Invariant: a record becomes exactly one line, whatever the client sent.

The Combined format is `%h %l %u %t "%r" %>s %b "%{Referer}i" "%{User-Agent}i"`, escaped as in Apache httpd. Records contain no user.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

from trio_tsconnect._util import public
from trio_tsconnect.log._codes import netscape_time, request_line
from trio_tsconnect.log._fields import as_record
from trio_tsconnect.log._record import LogRecord
from trio_tsconnect.log._template import escape

_NOT_IN_HOST = re.compile(r"[^0-9A-Za-z.:_\-]")


@public("trio_tsconnect.log")
def combined(record: LogRecord | Mapping[str, Any]) -> str:
    r"""Return a record as one ASCII line in the Combined Log Format, without the line end. Never raises.

    Accepts a `LogRecord`, or a record that was read from a log (`logstats.read_records`).

    The time is in UTC. A missing status, an empty body, a missing field and a request that could not be parsed are written as "-".

    >>> combined(LogRecord(time=784111777.0, client_address="192.0.2.1", method="GET", url="http://site.example/", status=200,
    response_bytes=5)) '192.0.2.1 - - [06/Nov/1994:08:49:37 +0000] "GET http://site.example/ HTTP/1.1" 200 5 "-" "-"'
    """
    if not isinstance(record, LogRecord):
        record = as_record(record)
    return f'{common(record)} "{_or_dash(record.referer)}" "{_or_dash(record.user_agent)}"'


def common(record: LogRecord) -> str:
    """Return a record as one ASCII line in the Common Log Format, without the line end. Never raises."""
    host = _NOT_IN_HOST.sub("_", str(record.client_address or "")) or "-"
    status = "-" if record.status is None else record.status
    return f'{host} - - [{netscape_time(record.time)}] "{_or_dash(request_line(record))}" {status} {record.response_bytes or "-"}'


def _or_dash(text: object) -> str:
    return "-" if text is None else escape(str(text))
