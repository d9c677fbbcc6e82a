"""Limits of one HTTP/2 connection.

Invariant: a client that exceeds a limit loses that one connection, with ENHANCE_YOUR_CALM or the error code that the RFC requires. Other
connections are not affected.

HTTP/2 floods have one pattern: frames that are legal one by one, cost the sender almost nothing, and make the receiver work, reply or keep
state. So each kind of frame has a rate limit: a burst that a normal client does not reach, and a sustained rate per second.
"""

from __future__ import annotations

from typing import Any

import attrs
from attrs import field

from trio_tsconnect._util import public
from trio_tsconnect.config._checks import count, instance_of, is_number, refuse, size


def _rate(_instance: Any, attribute: Any, value: Any) -> None:
    if not is_number(value) or value < 0:
        raise refuse(attribute, "a number per second, 0 or more", value)


@public("trio_tsconnect.http2")
@attrs.resolve_types
@attrs.frozen
class RateLimit:
    """A token bucket: a burst size and a sustained rate."""

    burst: int = field(validator=count(least=0))
    """Number of events allowed at once. 0 or more."""
    rate: float = field(validator=_rate)
    """Tokens added per second, up to `burst`. 0 or more."""


_IS_RATE = instance_of(RateLimit, expected="a RateLimit, in a file a table of `burst` and `rate`")


@public("trio_tsconnect.http2")
@attrs.resolve_types
@attrs.frozen(kw_only=True)
class Http2Limits:
    """Limits of one HTTP/2 connection. The defaults follow those of nghttp2, Traffic Server, haproxy and Envoy.

    Timeouts for idle connections, for request heads and for slow readers are those of `HttpConfig`, as for HTTP/1.1.
    """

    max_concurrent_streams: int = field(default=100, validator=count(least=1))
    """Concurrent streams (RFC 9113 §5.1.2). One more is refused with REFUSED_STREAM."""
    max_unwinding: int | None = field(default=None, validator=count(least=0, optional=True))
    """Transactions, beyond `max_concurrent_streams`, that have not finished although their stream is closed (a plugin hook still runs, for
    example). None: as many as `max_concurrent_streams`. Above the limit, new streams are refused with REFUSED_STREAM (CVE-2023-44487)."""
    buffer_index: int = field(default=8, validator=count(least=0, most=14))
    """Buffer size of each stream's virtual connection: `128 << buffer_index` bytes, `buffer_index` from 0 to 14. A stream's flow-control
    window has the same size."""
    connection_window: int = field(default=1 << 20, validator=size(least=65535, most=(1 << 31) - 1))
    """Flow-control window of the connection: bytes of request bodies in flight on all of its streams together."""
    max_buffered: int = field(default=1 << 22, validator=size(least=0))
    """Bytes of request bodies received but not yet passed on by the streams of one connection. Above the limit, the connection window is
    not reopened. The default is more than all streams together can hold, so streams that stall do not starve the others."""
    max_buffered_by_all: int = field(default=1 << 28, validator=size(least=0))
    """As `max_buffered`, for all connections of the proxy together. Only the value in `ProxyConfig.http2` is used."""
    max_dropped: int = field(default=1 << 26, validator=size(least=0, most=(1 << 30) - 1))
    """Bytes of a request body that are read and discarded after the response is complete. Above the limit, or after
    `HttpConfig.linger_timeout` seconds without data, the stream is reset with NO_ERROR."""
    max_header_list: int = field(default=65536, validator=size(least=1024))
    """Bytes of a decoded head, counted as in RFC 9113 §6.5.2: 32 bytes are added for each field. A larger head closes the connection, as it
    may be an HPACK bomb."""
    max_header_block: int = field(default=65536, validator=size(least=1024))
    """Bytes of an encoded head, including its CONTINUATION frames."""
    max_continuations: int = field(default=8, validator=count(least=0))
    """CONTINUATION frames of one head (CVE-2024-27316). nghttp2 has the same limit."""
    max_control_backlog: int = field(default=65536, validator=size(least=1024))
    """Bytes of replies to control frames that the client has not read (CVE-2019-9512, CVE-2019-9515)."""
    resets: RateLimit = field(default=RateLimit(200, 33), validator=_IS_RATE)
    """Streams that the client resets, or makes the proxy reset (CVE-2023-44487, CVE-2025-8671)."""
    resets_by_address: RateLimit = field(default=RateLimit(1000, 100), validator=_IS_RATE)
    """As `resets`, for all connections of one client address together. The connection that exceeds the limit is closed. Only the value in
    `ProxyConfig.http2` is used."""
    settings: RateLimit = field(default=RateLimit(32, 1), validator=_IS_RATE)
    """SETTINGS frames, including acknowledgements (CVE-2019-9515)."""
    pings: RateLimit = field(default=RateLimit(100, 10), validator=_IS_RATE)
    """PING frames (CVE-2019-9512)."""
    empty_data: RateLimit = field(default=RateLimit(100, 10), validator=_IS_RATE)
    """DATA frames without data and without END_STREAM (CVE-2019-9518)."""
    priorities: RateLimit = field(default=RateLimit(500, 50), validator=_IS_RATE)
    """PRIORITY and PRIORITY_UPDATE frames (CVE-2019-9513)."""
    window_updates: RateLimit = field(default=RateLimit(1000, 100), validator=_IS_RATE)
    """WINDOW_UPDATE frames in excess of two for each DATA frame sent (CVE-2019-9511, CVE-2019-9517)."""
    small_data: RateLimit = field(default=RateLimit(20000, 2000), validator=_IS_RATE)
    """DATA frames of less than 64 bytes. Each costs as much work as a frame of 16 KiB."""
    oddities: RateLimit = field(default=RateLimit(500, 50), validator=_IS_RATE)
    """Frames that the proxy must ignore: frames of unknown types, and frames for closed streams."""
