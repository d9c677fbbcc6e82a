"""The codes of Traffic Server's log formats that are more than one field of a record.

Invariant: a code has the meaning that it has in Traffic Server, or its sentence says how it differs.
"""

from __future__ import annotations

import re
import time
from collections.abc import Callable, Mapping
from typing import Any

import attrs

from trio_tsconnect._util import public
from trio_tsconnect.log._fields import is_complete, seconds_taken
from trio_tsconnect.log._record import LogRecord

_MONTHS = ("Jan", "Feb", "Mar", "Apr", "May", "Jun", "Jul", "Aug", "Sep", "Oct", "Nov", "Dec")
_VERSIONS = {"h2": "HTTP/2.0", "http/1.0": "HTTP/1.0"}
_URL = re.compile(r"(?:(?P<scheme>[A-Za-z][A-Za-z0-9+.-]*)://(?P<authority>[^/?#]*))?(?P<path>[^?#]*)", re.DOTALL)
_UNSAFE_IN_URL = re.compile(r"[^!#-;=?-Z\[\]_a-z~%]")


@public("trio_tsconnect.log")
@attrs.frozen
class Code:
    """A code of Traffic Server's log formats, written ``%<code>``."""

    code: str
    """The code, without the brackets."""
    text: str
    """What it writes, in one sentence."""
    get: Callable[[LogRecord], Any]
    """Returns the value; None is written as "-"."""


def clock(seconds: float) -> tuple[int, ...]:
    """Return year, month, day, hour, minute and second of a Unix time in UTC; those of 1970 if it is not a valid calendar time."""
    try:
        found = tuple(time.gmtime(seconds)[:6])
    except (ArithmeticError, ValueError, OSError, TypeError):
        found = (1970, 1, 1, 0, 0, 0)
    return found


def netscape_time(seconds: float) -> str:
    """Return a Unix time as ``06/Nov/1994:08:49:37 +0000``."""
    year, month, day, hour, minute, second = clock(seconds)
    return f"{day:02d}/{_MONTHS[month - 1]}/{year:04d}:{hour:02d}:{minute:02d}:{second:02d} +0000"


def _whole(seconds: float) -> int:
    try:
        return int(seconds)
    except (ArithmeticError, ValueError):
        return 0


def _millis(seconds: float | None) -> int | None:
    return None if seconds is None else _whole(seconds * 1000)


def _date(record: LogRecord) -> str:
    year, month, day = clock(record.time)[:3]
    return f"{year:04d}-{month:02d}-{day:02d}"


def _time_of_day(record: LogRecord) -> str:
    hour, minute, second = clock(record.time)[3:]
    return f"{hour:02d}:{minute:02d}:{second:02d}"


def _taken(record: LogRecord, number: Callable[[float], object]) -> object:
    seconds = seconds_taken(record)
    return None if seconds is None else number(seconds)


def version(record: LogRecord) -> str:
    """Return the version of the client's HTTP as in a request line."""
    return _VERSIONS.get(record.client_protocol, "HTTP/1.1")


def request_line(record: LogRecord) -> str | None:
    """Return method, URL and version; None if no request could be parsed."""
    if record.method is None:
        return None
    return " ".join(str(word) for word in (record.method, record.url, version(record)) if word)


def _part(url: object, name: str) -> str | None:
    found = _URL.match(url) if isinstance(url, str) else None
    return found[name] or None if found else None


def url_host(url: object) -> str | None:
    """Return the host of an absolute URL, without its port."""
    authority = (_part(url, "authority") or "").rpartition("@")[2]
    host, colon, port = authority.rpartition(":")
    return (host if colon and (port.isdigit() or not port) else authority) or None


def url_scheme(url: object) -> str | None:
    """Return the scheme of an absolute URL."""
    return _part(url, "scheme")


def url_path(url: object) -> str | None:
    """Return the path of a URL or of a request target."""
    return _part(url, "path")


def escaped_url(url: object) -> str | None:
    """Return a URL in which every byte that may not be in a URL is percent-encoded."""
    if not isinstance(url, str):
        return None
    return _UNSAFE_IN_URL.sub(lambda found: "".join(f"%{byte:02X}" for byte in found[0].encode("utf-8", "surrogatepass")), url)


def split_host_port(address: object) -> tuple[str | None, str | None]:
    """Return the host and the port of ``host:port``; None for what is missing, as for a Unix socket."""
    if not isinstance(address, str) or address.startswith("/"):
        return None, None
    host, colon, port = address.rpartition(":")
    return (host.strip("[]"), port) if colon and port.isdigit() else (address, None)


def _cache_result(record: LogRecord) -> str:
    if is_complete(record):
        return "TCP_MISS" if record.origin_status is not None else "NONE"
    return {"client": "ERR_CLIENT_ABORT", "origin": "ERR_CONNECT_FAIL"}.get(record.ended.by, "ERR_UNKNOWN")


def _content_type(record: LogRecord) -> str | None:
    return (record.response_headers or {}).get("content-type")


CODES: tuple[Code, ...] = (
    Code("cqtq", "Start, in Unix seconds with milliseconds.", lambda r: f"{r.time:.3f}"),
    Code("cqts", "Start, in whole Unix seconds.", lambda r: _whole(r.time)),
    Code("cqth", "Start, in whole Unix seconds, in hexadecimal.", lambda r: f"{_whole(r.time):X}"),
    Code("cqtd", "Date of the start in UTC, as `1994-11-06`.", _date),
    Code("cqtt", "Time of day of the start in UTC, as `08:49:37`.", _time_of_day),
    Code("cqtn", "Start as `06/Nov/1994:08:49:37 +0000`.", lambda r: netscape_time(r.time)),
    Code("ttms", "Milliseconds from the start to the end of the transaction.", lambda r: _millis(seconds_taken(r))),
    Code("ttmsh", "The same in hexadecimal.", lambda r: _taken(r, lambda seconds: f"{_whole(seconds * 1000):X}")),
    Code("ttmsf", "The same in seconds, with milliseconds.", lambda r: _taken(r, lambda seconds: f"{seconds:.3f}")),
    Code("tts", "The same in whole seconds.", lambda r: _taken(r, _whole)),
    Code("cqtx", "Request line: method, URL before remapping, and version. Traffic Server writes the URL after remapping.", request_line),
    Code("cqhv", "Version of the client's HTTP, as `HTTP/1.1`.", version),
    Code("cqpv", "The same.", version),
    Code("cquc", "URL before remapping, with each byte that may not be in a URL percent-encoded.", lambda r: escaped_url(r.url)),
    Code("cqu", "URL after remapping; before remapping if there was none.", lambda r: r.origin_url or r.url),
    Code("cqus", "Scheme of the URL before remapping.", lambda r: url_scheme(r.url)),
    Code("cquuh", "Host of the URL before remapping.", lambda r: url_host(r.url)),
    Code("cquup", "Path of the URL before remapping.", lambda r: url_path(r.url)),
    Code("cqup", "Path of the URL after remapping.", lambda r: url_path(r.origin_url)),
    Code("shn", "Host of the URL after remapping.", lambda r: url_host(r.origin_url)),
    Code("shi", "Address of the origin, without the port.", lambda r: split_host_port(r.origin_address)[0]),
    Code("nhi", "The same.", lambda r: split_host_port(r.origin_address)[0]),
    Code("nhp", "Port of the origin.", lambda r: split_host_port(r.origin_address)[1]),
    Code("cqql", "Bytes of the request: head and body.", lambda r: r.request_head_bytes + r.request_bytes),
    Code("psql", "Bytes of the response: head and body.", lambda r: r.response_head_bytes + r.response_bytes),
    Code("psct", "Content type of the response as sent; the field is captured.", _content_type),
    Code("cqssl", "1 if the connection of the client has TLS, else 0.", lambda r: r.tls_version is not None),
    Code("ctid", "Stream number of an HTTP/2 client; the number of the transaction for others.", lambda r: r.stream or r.transaction),
    Code("sstc", "1 if the origin connection was used before, else 0. Traffic Server counts.", lambda r: r.origin_reused),
    Code("cfsc", "`FIN` if nothing failed, `INTR` otherwise.", lambda r: "FIN" if is_complete(r) else "INTR"),
    Code(
        "crc",
        "There is no cache: `TCP_MISS` for a response of an origin, `NONE` for another, `ERR_CLIENT_ABORT`, `ERR_CONNECT_FAIL` or"
        " `ERR_UNKNOWN` if the client, the origin or another party ended the transaction.",
        _cache_result,
    ),
    Code("phr", "`DIRECT` if there was an origin connection, else `NONE`.", lambda r: "NONE" if r.origin_connection is None else "DIRECT"),
    Code("caun", "Always `-`: the proxy authenticates nobody.", lambda r: None),
)
"""Codes that are computed. The codes of single fields are in `FIELDS`."""

BY_CODE: Mapping[str, Code] = {code.code: code for code in CODES}
"""The computed codes by name."""
