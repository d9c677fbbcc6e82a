"""What is known of one transaction once it has ended. The law: whatever is in a record, it becomes exactly one line of valid JSON."""

from __future__ import annotations

import functools
import json
import math
import time
from typing import Any

import attrs

from trio_tsconnect._contain import sort_out
from trio_tsconnect._util import public

_MICRO = 1_000_000
_DEEPEST = 32
_LARGEST_INT_BITS = 2000


@public("trio_tsconnect.log")
@attrs.frozen
class Ended:
    """How a transaction ended: one cause, in the words *who*, *why* and *in which state*."""

    by: str
    """Whose doing it was: ``client``, ``origin``, ``proxy`` or ``plugin``."""
    why: str
    """The cause in snake case, ``complete`` when nothing went wrong."""
    state: str
    """The state of the transaction in which it happened."""


_NOT_SAID = Ended(by="proxy", why="unknown", state="unknown")


@public("trio_tsconnect.log")
@attrs.define(eq=False, kw_only=True)
class LogRecord:
    """One transaction, as the log tells it; the only thing that formats, statistics and post-processing read.

    The fields have the names and the order of the JSON line. `tag` and `id` are Traffic Server's ``pitag`` and ``piid``.
    """

    time: float = 0.0
    """When the transaction began, in Unix seconds; ISO 8601 in UTC with microseconds in JSON."""
    session: int = 0
    """The HTTP/1 session that served it; a virtual connection has one of its own."""
    client_connection: int = 0
    """The connection of the real client; for the tag ``h2`` it equals `id`."""
    stream: int | None = None
    """The real client's stream within its connection, where its protocol has streams."""
    transaction: int = 0
    """This transaction, unique in the process."""
    parent: int | None = None
    """The transaction that opened the connection on which this one came; None for a root."""
    root: int = 0
    """The first ancestor; a root names itself."""
    depth: int = 0
    """How many ancestors there are."""
    detached: bool = False
    """Whether it may outlive its parent."""
    client_address: str | None = None
    """The host on whose behalf the request is, as the socket or the opener says; absent when it is not known."""
    client_protocol: str = "http/1.1"
    """What the real client speaks: ``http/1.1``, ``http/1.0`` or ``h2``."""
    tag: str | None = None
    """What the opener of the connection called it."""
    id: int = 0
    """What the opener of the connection numbered it; 0 is not set."""
    internal: bool = False
    """Whether the request is the process's own rather than made for a network client."""
    method: str | None = None
    """The method as received; None when no request could be read."""
    url: str | None = None
    """The absolute URI asked for, before remapping; where the end came before the remap table was asked, the target as on the request line."""
    origin_url: str | None = None
    """The absolute URI that was asked of the origin, after remapping."""
    remap_rule: str | None = None
    """The rule that matched."""
    status: int | None = None
    """The status sent to the client."""
    origin_status: int | None = None
    """The status received from the origin."""
    request_bytes: int = 0
    """Bytes of body read from the client."""
    response_bytes: int = 0
    """Bytes of body handed to the client's connection; the last of a response that was cut may not have gone out."""
    origin_connection: int | None = None
    """The connection to the origin that carried it."""
    origin_reused: bool | None = None
    """Whether that connection had carried another transaction before."""
    attempts: int = 0
    """How many times the request was sent to an origin."""
    milestones: dict[str, float] = attrs.Factory(dict)
    """State to the seconds after `time` at which it was entered; microseconds in JSON."""
    ended: Ended = _NOT_SAID
    """How it ended."""
    plugin: dict[str, Any] = attrs.Factory(dict)
    """What plugins added, by their name. It is read when the line is written, so do not change it after the record was handed over."""
    deadline_left: dict[str, float] | None = None
    """State to the seconds that were left until the deadline when it was entered; None without a deadline."""

    def as_dict(self) -> dict[str, Any]:
        """The record by its JSON names, in order; what is absent is None, and what plugins added is as they gave it."""
        ended = self.ended
        return {
            "time": iso_time(self.time),
            "session": self.session,
            "client_connection": self.client_connection,
            "stream": self.stream,
            "transaction": self.transaction,
            "parent": self.parent,
            "root": self.root,
            "depth": self.depth,
            "detached": self.detached,
            "client_address": self.client_address,
            "client_protocol": self.client_protocol,
            "tag": self.tag,
            "id": self.id,
            "internal": self.internal,
            "method": self.method,
            "url": self.url,
            "origin_url": self.origin_url,
            "remap_rule": self.remap_rule,
            "status": self.status,
            "origin_status": self.origin_status,
            "request_bytes": self.request_bytes,
            "response_bytes": self.response_bytes,
            "origin_connection": self.origin_connection,
            "origin_reused": self.origin_reused,
            "attempts": self.attempts,
            "milestones": _to_micros(self.milestones),
            "ended": {"by": ended.by, "why": ended.why, "state": ended.state},
            "plugin": self.plugin,
            "deadline_left": None if self.deadline_left is None else _to_micros(self.deadline_left),
        }

    def to_json(self) -> str:
        """The record as one line of ASCII JSON, without the line end; it never raises.

        A plugin's value that JSON cannot say is its `repr`, and a number that is not finite is null.
        """
        return to_json_line(self.as_dict())


_encode = json.JSONEncoder(ensure_ascii=True, allow_nan=False, separators=(",", ":"), default=lambda value: _safe_repr(value)).encode


def to_json_line(fields: dict[str, Any]) -> str:
    """`fields` as one line of ASCII JSON, whatever is in them."""
    try:
        return _encode(fields)
    except Exception:  # noqa: BLE001 - a NaN, a key that is no string, a cycle, a repr that raises: rare, so found out by failing
        return _encode(_plain(fields, 0))


def _to_micros(milestones: dict[str, float]) -> dict[str, float]:
    try:
        return {name: int(seconds * _MICRO + 0.5) / _MICRO for name, seconds in milestones.items()}  # three times as fast as round()
    except (ArithmeticError, ValueError):  # not finite: the encoder's business
        return dict(milestones)


def _plain(value: object, depth: int) -> object:
    """`value` made of nothing but what every JSON parser takes."""
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
    except BaseException as error:  # anyone's repr
        if sort_out(error)[1] is not None:
            raise
        return f"<{type(value).__name__}: repr failed with {type(error).__name__}>"


def iso_time(seconds: float) -> str | None:
    """Unix time as ``2026-11-22T20:55:04.123456Z``; None for what is no time of the calendar."""
    try:
        whole, micros = divmod(round(seconds * _MICRO), _MICRO)
        return f"{_iso_second(whole)}.{micros:06d}Z"
    except (ArithmeticError, ValueError, OSError):
        return None


@functools.lru_cache(maxsize=64)
def _iso_second(seconds: int) -> str:
    year, month, day, hour, minute, second = time.gmtime(seconds)[:6]
    if not 1 <= year <= 9999:
        raise ValueError("a year of four digits was expected")
    return f"{year:04d}-{month:02d}-{day:02d}T{hour:02d}:{minute:02d}:{second:02d}"
