"""`ConnectOptions`: the options of a new virtual connection."""

from __future__ import annotations

import math
from typing import Any

import attrs

from trio_tsconnect._util import public
from trio_tsconnect.stream import ClientInfo, check_water_mark, window_of


def _target(_: object, field: attrs.Attribute[Any], value: object) -> None:
    if value is None:
        return
    match value:
        case (str(host), int(port)) if host and not isinstance(port, bool) and 0 < port <= 65535:
            if host.isascii() and host.isprintable() and not set(host) & set(" /?#@[]\\"):
                return
    raise ValueError(f"{field.name} must be (host, port) with a host name or address and a port in 1..65535, not {value!r}")


def _tag(_: object, field: attrs.Attribute[Any], value: object) -> None:
    if value is not None and (not isinstance(value, str) or "\r" in value or "\n" in value or " " in value):
        raise ValueError(f"{field.name} must be text without CR, LF or space, not {value!r}")


def _none_if_empty(tag: str | None) -> str | None:
    return tag or None


def _id(_: object, field: attrs.Attribute[Any], value: object) -> None:
    if type(value) is not int or not -(1 << 63) <= value < 1 << 63:
        raise ValueError(f"{field.name} must be a signed 64-bit int, not {value!r}")


def _deadline(_: object, field: attrs.Attribute[Any], value: object) -> None:
    if value is not None and (isinstance(value, bool) or not isinstance(value, (int, float)) or math.isnan(value)):
        raise ValueError(f"{field.name} must be an absolute trio time or None, not {value!r}")


def _optional(kind: type) -> Any:
    def check(_: object, field: attrs.Attribute[Any], value: object) -> None:
        if value is not None and not isinstance(value, kind):
            raise ValueError(f"{field.name} must be {kind.__name__} or None, not {value!r}")

    return check


def _buffer_index(_: object, _field: attrs.Attribute[Any], value: int) -> None:
    window_of(value)


def _water_mark(options: ConnectOptions, _field: attrs.Attribute[Any], value: int) -> None:
    check_water_mark(value, window_of(options.buffer_index))


@public("trio_tsconnect")
@attrs.frozen(kw_only=True)
class ConnectOptions:
    """Options of a new virtual connection. An invalid value raises `ValueError`; the message names the field.

    Source: `TSHttpConnectOptions`. Its `addr` is split into two options here, `target` and `client`.
    """

    target: tuple[str, int] | None = attrs.field(default=None, validator=_target)
    """Origin (host, port) for requests that match no remap rule. Setting it also permits this connection to use that origin."""
    client: ClientInfo | None = attrs.field(default=None, validator=_optional(ClientInfo))
    """Client that the requests are made for. None: the process itself. Front ends always set it."""
    tag: str | None = attrs.field(default=None, converter=_none_if_empty, validator=_tag)
    """Name of the opener, for the log. No CR, LF or space. An empty string is stored as None."""
    id: int = attrs.field(default=0, validator=_id)
    """Number that the opener gives to the connection, for the log: a signed 64-bit int. 0 means not set."""
    internal: bool | None = attrs.field(default=None, validator=_optional(bool))
    """True if the requests are internal, made by this process for itself. None: True unless `client` is set."""
    buffer_index: int = attrs.field(default=8, validator=_buffer_index)
    """Buffer size, 0..14: each direction holds at most `128 << buffer_index` unread bytes."""
    buffer_water_mark: int = attrs.field(default=0, validator=_water_mark)
    """Bytes of the response, 0 to the buffer size, that are collected before the opener can read them. The engine may flush earlier."""
    deadline: float | None = attrs.field(default=None, validator=_deadline)
    """Absolute trio time at which a transaction on this connection ends with 504. None: no deadline."""

    @property
    def is_internal(self) -> bool:
        """True if the requests are internal: `internal` if set, otherwise True if there is no `client`."""
        return self.client is None if self.internal is None else self.internal
