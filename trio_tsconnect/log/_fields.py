"""The fields of a log record: their types, units, and the codes of Traffic Server's log formats.

Invariant: every field of `LogRecord` has exactly one row in `FIELDS`. Formats, filters and the manual take their names from these tables.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from datetime import datetime
from typing import Any, Literal

import attrs

from trio_tsconnect._util import public
from trio_tsconnect.log._record import Ended, LogRecord

Kind = Literal["time", "text", "whole number", "number", "true or false", "table", "list of text"]
"""Type of the values of a field."""

COMPLETE = frozenset({"complete", "responded"})
"""Values of `ended.why` of a transaction that did what it should."""


@public("trio_tsconnect.log")
@attrs.frozen
class Field:
    """A field of a record, as formats and filters see it. The docstring of `LogRecord` says what it means."""

    name: str
    """Name in the JSON line."""
    kind: Kind
    """Type of the value."""
    codes: tuple[str, ...] = ()
    """Codes of Traffic Server's log formats that write this field."""
    unit: str = ""
    """Unit of the value, or empty."""
    members: tuple[str, ...] | None = None
    """Names of the members of a table; None if they are not fixed."""


FIELDS: tuple[Field, ...] = (
    Field("time", "time"),
    Field("session", "whole number"),
    Field("client_connection", "whole number", ("ccid",)),
    Field("stream", "whole number"),
    Field("transaction", "whole number", ("crid",)),
    Field("parent", "whole number"),
    Field("root", "whole number"),
    Field("depth", "whole number"),
    Field("detached", "true or false"),
    Field("client_address", "text", ("chi",)),
    Field("client_protocol", "text"),
    Field("tag", "text", ("pitag",)),
    Field("id", "whole number", ("piid",)),
    Field("internal", "true or false", ("cqint",)),
    Field("method", "text", ("cqhm",)),
    Field("url", "text", ("cquuc",)),
    Field("origin_url", "text", ("pqu",)),
    Field("remap_rule", "text"),
    Field("status", "whole number", ("pssc",)),
    Field("origin_status", "whole number", ("sssc",)),
    Field("request_bytes", "whole number", ("cqcl",), "bytes"),
    Field("response_bytes", "whole number", ("pscl",), "bytes"),
    Field("origin_connection", "whole number"),
    Field("origin_reused", "true or false"),
    Field("attempts", "whole number", ("sca",)),
    Field("milestones", "table", ("ms", "msdms"), "seconds"),
    Field("ended", "table", (), "", ("by", "why", "state")),
    Field("plugin", "table"),
    Field("deadline_left", "table", (), "seconds"),
    Field("process", "whole number"),
    Field("request_head_bytes", "whole number", ("cqhl",), "bytes"),
    Field("response_head_bytes", "whole number", ("pshl",), "bytes"),
    Field("client_port", "whole number", ("chp",)),
    Field("host", "text"),
    Field("user_agent", "text"),
    Field("referer", "text"),
    Field("tls_version", "text", ("cqssv",)),
    Field("tls_cipher", "text", ("cqssc",)),
    Field("tls_server_name", "text", ("cssn",)),
    Field("tls_resumed", "true or false", ("cqssr",)),
    Field("origin_address", "text"),
    Field("opened_by", "text"),
    Field("trace_id", "text"),
    Field("span_id", "text"),
    Field("parent_span_id", "text"),
    Field("request_headers", "table", ("cqh",)),
    Field("response_headers", "table", ("psh",)),
)
"""Every field of a record, in the order of the JSON line."""

BY_NAME: Mapping[str, Field] = {field.name: field for field in FIELDS}
"""The fields by their names."""

MILESTONES = ("read_request", "remap", "acquire_origin", "send_request", "read_response", "send_response", "tunnel", "release")
"""Names in `milestones`: the states that a record can tell of."""

_INTERNAL = {"by": "proxy", "why": "unknown", "state": "unknown"}


def is_complete(record: LogRecord) -> bool:
    """Return True if nothing failed."""
    return record.ended.why in COMPLETE


def seconds_taken(record: LogRecord) -> float | None:
    """Return the seconds from the start of the transaction to its end, or to its last milestone; None if it has none."""
    times = [value for value in record.milestones.values() if isinstance(value, int | float)]
    return max(times, default=None)


def as_record(fields: Mapping[str, Any]) -> LogRecord:
    """Return a record that was read from a log as a `LogRecord`. A table of another type is left out. Never raises."""
    known = {name: fields[name] for name in BY_NAME if fields.get(name) is not None}
    known["time"] = unix_time(fields.get("time"), default=0.0)
    for name in ("milestones", "plugin", "deadline_left", "request_headers", "response_headers"):
        if not isinstance(known.get(name), dict):
            known.pop(name, None)
    ended = known.pop("ended", None)
    told = {name: str(value) for name, value in ended.items() if name in _INTERNAL} if isinstance(ended, Mapping) else {}
    return LogRecord(**known, ended=Ended(**(_INTERNAL | told)))


def unix_time(value: object, *, default: float | None = None) -> Any:
    """Return a time as Unix seconds: a number as it is, or text in ISO 8601; `default` for anything else."""
    if isinstance(value, int | float):
        return value
    try:
        return datetime.fromisoformat(str(value)).timestamp()
    except (ValueError, OverflowError):
        return default


def getter(names: Iterable[str]) -> Callable[[LogRecord | Mapping[str, Any]], Any]:
    """Return a function that returns the value at a path of names in a record, or None if there is none."""
    first, *rest = names

    def get(record: LogRecord | Mapping[str, Any]) -> Any:
        value: Any = getattr(record, first, None) if isinstance(record, LogRecord) else record.get(first)
        for name in rest:
            if isinstance(value, Mapping):
                value = value.get(name)
            elif isinstance(value, Ended):
                value = getattr(value, name, None)
            else:
                return None
        return value

    return get
