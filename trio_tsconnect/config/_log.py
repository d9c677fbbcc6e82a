"""`LogConfig`: where one log goes, what it shows, and which records it keeps.

Invariant: a configuration that was accepted can be opened, unless the destination itself cannot be.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from typing import Any, Literal

import attrs
from attrs import field

from trio_tsconnect._util import public
from trio_tsconnect.config._checks import (
    ConfigError,
    as_strings,
    as_tuple,
    count,
    file_name,
    flag,
    instance_of,
    is_number,
    optional_flag,
    refuse,
    seconds,
    shown,
)
from trio_tsconnect.log import (
    FORMATS,
    REDACTED_FIELDS,
    FilterError,
    Format,
    FormatError,
    Rotation,
    check_destination,
    is_file,
    make_format,
    parse_filter,
)
from trio_tsconnect.message import is_token

_SIZES = {"": 1, "B": 1, "KB": 10**3, "MB": 10**6, "GB": 10**9, "KIB": 2**10, "MIB": 2**20, "GIB": 2**30}
_TIMES = {"second": 1, "minute": 60, "hour": 3600, "day": 86400, "week": 7 * 86400}
_QUANTITY = re.compile(r"(?P<number>\d{1,9}(?:\.\d{1,6})?) ?(?P<unit>[A-Za-z]*)")


def _as_bytes(value: Any) -> Any:
    """Convert a size such as "100 MB" to bytes. What is no size stays as it is, for the validator."""
    found = _QUANTITY.fullmatch(value) if isinstance(value, str) else None
    factor = _SIZES.get(found["unit"].upper()) if found else None
    return int(float(found["number"]) * factor) if found and factor else value


def _as_seconds(value: Any) -> Any:
    """Convert a time such as "1 day" to seconds. What is no time stays as it is, for the validator."""
    found = _QUANTITY.fullmatch(value) if isinstance(value, str) else None
    factor = _TIMES.get(found["unit"].lower().removesuffix("s")) if found else None
    return float(found["number"]) * factor if found and factor else value


def _check_size(_instance: Any, attribute: Any, value: Any) -> None:
    if value is not None and (not isinstance(value, int) or isinstance(value, bool) or value < 1):
        raise refuse(attribute, 'a number of bytes, 1 or more, or such as "100 MB"', value)


def _check_every(_instance: Any, attribute: Any, value: Any) -> None:
    if value is not None and not (is_number(value) and 1 <= value < float("inf")):
        raise refuse(attribute, 'a number of seconds, 1 or more, or such as "1 day"', value)


@public("trio_tsconnect")
@attrs.resolve_types
@attrs.frozen(kw_only=True)
class RotateConfig:
    """When a log file is replaced by a new one, and what is kept of the old ones. Set `size`, `every` or both."""

    size: int | None = field(default=None, converter=_as_bytes, validator=_check_size)
    """Bytes that the file may have: a number, or text such as `100 MB` or `1 GiB`."""
    every: float | None = field(default=None, converter=_as_seconds, validator=_check_every)
    """Time after which the file is replaced: seconds, or text such as `1 day`. Counted in UTC: a day ends at midnight."""
    keep: int | None = field(default=7, validator=count(least=0, optional=True))
    """Number of old files that are kept. The oldest are removed. None keeps all."""
    compress: bool = field(default=False, validator=flag)
    """Compress old files with gzip."""

    def __attrs_post_init__(self) -> None:
        if self.size is None and self.every is None:
            raise ConfigError("has neither size nor every, expected at least one of them")

    def rotation(self) -> Rotation:
        """Return the same as the log takes it."""
        return Rotation(size=self.size, every=self.every, keep=self.keep, compress=self.compress)


def _check_path(instance: Any, attribute: Any, value: Any) -> None:
    file_name(optional=True)(instance, attribute, value)
    if value is not None:
        try:
            check_destination(value)
        except ValueError as exc:
            raise ConfigError(f"{shown(value)} is not complete, {exc}", key=attribute.name) from exc


def _check_format(_instance: Any, attribute: Any, value: Any) -> None:
    if not isinstance(value, str):
        raise refuse(attribute, f"one of {', '.join(FORMATS)}, or a format string", value)
    try:
        make_format(value)
    except FormatError as exc:
        raise ConfigError(str(exc), key=attribute.name) from exc


def _check_filter(_instance: Any, attribute: Any, value: Any) -> None:
    if value is None:
        return
    if not isinstance(value, str):
        raise refuse(attribute, "an expression such as status >= 500", value)
    try:
        parse_filter(value)
    except FilterError as exc:
        raise ConfigError(str(exc), key=attribute.name) from exc


def _check_names(_instance: Any, attribute: Any, value: Any) -> None:
    for index, name in enumerate(value):
        if not (isinstance(name, str) and name.isascii() and is_token(name.encode())):
            raise ConfigError(f"must be the name of a field, got {shown(name)}", key=f"{attribute.name}[{index}]")


def _check_sample(_instance: Any, attribute: Any, value: Any) -> None:
    if not is_number(value) or not 0 <= value <= 1:
        raise refuse(attribute, "a number from 0 to 1", value)


def _check_overflow(_instance: Any, attribute: Any, value: Any) -> None:
    if value == "block":
        raise ConfigError('must be "drop": "block" would stop the whole proxy while a disk is slow', key=attribute.name)
    if value != "drop":
        raise refuse(attribute, '"drop"', value)


@public("trio_tsconnect")
@attrs.resolve_types
@attrs.frozen
class LogConfig:
    """Destination and format of a log, and which records it keeps."""

    path: str | None = field(default=None, validator=_check_path, metadata={"path": is_file})
    """File that records are appended to; or `-` or None: standard error; `syslog:`, `syslog:/path`, `syslog:udp://host:port` or
    `syslog:tcp://host:port`: RFC 5424; `|command`: a program that reads them; `logging:NAME`: a logger of Python."""
    format: str = field(default="json", kw_only=True, validator=_check_format)
    """`json`, `common`, `combined`, `squid`, `ltsv`, `otel`, or a format string with codes of Traffic Server, such as `%<chi> %<cqtx>`."""
    flush_interval: float = field(default=0.2, kw_only=True, validator=seconds(zero=True))
    """Maximum seconds before a record is written. 0: at once."""
    max_pending: int = field(default=65536, kw_only=True, validator=count(least=1))
    """Records that may wait for the destination. What happens to more is for `on_overflow`."""
    on_overflow: Literal["drop"] = field(default="drop", kw_only=True, validator=_check_overflow)
    """What happens to a record for which there is no room: `drop` drops and counts it, and a line in its place says so."""
    request_headers: tuple[str, ...] = field(default=(), kw_only=True, converter=as_strings, validator=_check_names)
    """Fields of the request as received that the record shows."""
    response_headers: tuple[str, ...] = field(default=(), kw_only=True, converter=as_strings, validator=_check_names)
    """Fields of the response as sent that the record shows."""
    redact: tuple[str, ...] = field(default=REDACTED_FIELDS, kw_only=True, converter=as_strings, validator=_check_names)
    """Fields whose values are written as `[redacted]`, wherever the log shows them."""
    query: bool | None = field(default=None, kw_only=True, validator=optional_flag)
    """Keep the query strings of URLs. None: only in `json` and `otel`."""
    filter: str | None = field(default=None, kw_only=True, validator=_check_filter)
    """Expression that a record must match, such as `status >= 500 and tag = "h2"`. None: all records."""
    sample: float = field(default=1.0, kw_only=True, validator=_check_sample)
    """Share of the trees of transactions that are logged, 0 to 1. Failures and statuses of 400 or more are always logged."""
    rotate: RotateConfig | None = field(
        default=None, kw_only=True, validator=attrs.validators.optional(instance_of(RotateConfig, expected="a RotateConfig or None"))
    )
    """When the file is replaced by a new one. None: when another program renames it and sends SIGHUP."""

    def __attrs_post_init__(self) -> None:
        if self.rotate is not None and not is_file(self.path):
            raise ConfigError("has no effect on a destination that is no file, expected the path of one", key="rotate")

    def make_format(self) -> Format:
        """Return the format of the lines, with the fields that the log shows."""
        return make_format(
            self.format,
            request_headers=self.request_headers,
            response_headers=self.response_headers,
            redact=self.redact,
            query=self.query,
        )


def as_logs(value: LogConfig | Iterable[LogConfig] | None) -> tuple[LogConfig, ...]:
    """Convert one log, several, or none to a tuple."""
    if value is None:
        return ()
    converted: tuple[LogConfig, ...] = as_tuple(value)
    return converted
