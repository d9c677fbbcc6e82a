"""`Format`: how a record becomes a line. Invariant: one record is one line, which ends with its only line end."""

from __future__ import annotations

from collections.abc import Callable, Iterable

import attrs

from trio_tsconnect._util import did_you_mean, public
from trio_tsconnect.log._combined import combined, common
from trio_tsconnect.log._json import iso_time, line, to_json
from trio_tsconnect.log._otel_line import otel_line
from trio_tsconnect.log._privacy import Privacy
from trio_tsconnect.log._record import LogRecord
from trio_tsconnect.log._template import FormatError, Template, compile_template

REDACTED_FIELDS = ("Authorization", "Proxy-Authorization", "Cookie", "Set-Cookie", "X-Api-Key", "Api-Key")
"""Message fields whose values no log shows unless it is told to."""

SQUID = "%<cqtq> %<ttms> %<chi> %<crc>/%<pssc> %<psql> %<cqhm> %<cquc> %<caun> %<phr>/%<shn> %<psct>"
"""The format string of the format `squid`."""

LTSV = "\t".join(
    f"{label}:{place}"
    for label, place in {
        "time": "[%<cqtn>]",
        "host": "%<chi>",
        "method": "%<cqhm>",
        "uri": "%<cquuc>",
        "protocol": "%<cqpv>",
        "status": "%<pssc>",
        "size": "%<pscl>",
        "reqsize": "%<cqql>",
        "referer": "%<referer>",
        "ua": "%<user_agent>",
        "vhost": "%<host>",
        "reqtime": "%<ttmsf>",
        "transaction": "%<transaction>",
        "parent": "%<parent>",
        "root": "%<root>",
        "tag": "%<pitag>",
        "id": "%<piid>",
        "why": "%<ended.why>",
        "by": "%<ended.by>",
        "state": "%<ended.state>",
    }.items()
)
"""The format string of the format `ltsv`."""

FORMATS = ("json", "common", "combined", "squid", "ltsv", "otel")
"""Names of formats. Any other text that contains ``%<`` is a format string."""


def json_gap(count: int, since: float) -> bytes:
    """Return the line for records that were dropped, as JSON."""
    return f"{to_json({'dropped': count, 'time': iso_time(since)})}\n".encode("ascii")


def _text_gap(count: int, since: float) -> bytes:
    return f"# dropped={count} time={iso_time(since)}\n".encode("ascii")


def _ltsv_gap(count: int, since: float) -> bytes:
    return f"dropped:{count}\ttime:{iso_time(since)}\n".encode("ascii")


@public("trio_tsconnect.log")
@attrs.frozen(kw_only=True)
class Format:
    """A format of log lines. `make_format` makes one from its name or from a format string."""

    name: str
    """Name of the format, or the format string."""
    encode: Callable[[LogRecord], bytes]
    """Returns the line of a record, with the line end. Never raises."""
    gap: Callable[[int, float], bytes] = json_gap
    """Returns the line that takes the place of dropped records: their number, and the Unix time at which the first was dropped."""
    request_headers: frozenset[str] = frozenset()
    """Names of the request fields that the format needs in the record, in lower case."""
    response_headers: frozenset[str] = frozenset()
    """Names of the response fields that the format needs in the record, in lower case."""


JSON = Format(name="json", encode=line)
"""One JSON object per line, with every field of the record."""


@public("trio_tsconnect.log")
def make_format(
    name: str = "json",
    *,
    request_headers: Iterable[str] = (),
    response_headers: Iterable[str] = (),
    redact: Iterable[str] = REDACTED_FIELDS,
    query: bool | None = None,
) -> Format:
    """Return the format with this name, or of this format string. Raises `FormatError`.

    `request_headers` and `response_headers` are captured into the record besides those that a format string names. `redact` names the
    message fields whose values are written as "[redacted]". `query` keeps the query strings of URLs; None keeps them in JSON only.
    """
    plain, gap, template = _plain(name)
    requested = _lower(request_headers) | (template.request_headers if template else frozenset())
    responded = _lower(response_headers) | (template.response_headers if template else frozenset())
    keep_query = name in ("json", "otel") if query is None else query
    privacy = Privacy(request_headers=requested, response_headers=responded, redact=_lower(redact), query=keep_query)

    def encode(record: LogRecord) -> bytes:
        return plain(privacy.applied(record))

    return Format(name=name, encode=encode, gap=gap, request_headers=requested, response_headers=responded)


def _lower(names: Iterable[str]) -> frozenset[str]:
    return frozenset(name.lower() for name in names)


def _plain(name: str) -> tuple[Callable[[LogRecord], bytes], Callable[[int, float], bytes], Template | None]:
    """Return what writes a record, what writes a gap, and the compiled format string, if there is one."""
    match name:
        case "json":
            return line, json_gap, None
        case "otel":
            return otel_line, json_gap, None
        case "common":
            return lambda record: f"{common(record)}\n".encode("ascii"), _text_gap, None
        case "combined":
            return lambda record: f"{combined(record)}\n".encode("ascii"), _text_gap, None
    text = {"squid": SQUID, "ltsv": LTSV}.get(name, name)
    if "%<" not in text:
        near = did_you_mean(name, FORMATS)
        more = "" if near.startswith(";") else ', or a format string such as "%<chi> %<cqtx>"'
        raise FormatError(f'unknown format "{name}"{near}{more}')
    template = compile_template(text)
    return template.write, _ltsv_gap if name == "ltsv" else _text_gap, template
