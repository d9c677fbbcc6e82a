"""What one HTTP/2 connection may cost, and how often a client may do what costs us more than it costs the client.

The law: a limit that is crossed ends that one connection with ENHANCE_YOUR_CALM (or the code that the RFC names), and hurts nobody else.

Every flood there is has the same shape: frames that are legal one by one, cost their sender nothing, and make us work, answer or remember. So
each kind has a rate: a burst that no honest client reaches, and so many per second for the rest of time.
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
    """A token bucket: how many at once, and how many per second in the long run."""

    burst: int = field(validator=count(least=0))
    """So many may come at once."""
    rate: float = field(validator=_rate)
    """So many per second are allowed anew, up to the burst."""


_IS_RATE = instance_of(RateLimit, expected="a RateLimit, in a file a table of `burst` and `rate`")


@public("trio_tsconnect.http2")
@attrs.resolve_types
@attrs.frozen(kw_only=True)
class Http2Limits:
    """The limits of one HTTP/2 connection. The defaults are those that nghttp2, Traffic Server, haproxy and Envoy have come to.

    How long a connection may idle, and how long a client may take for a head or to read, is `HttpConfig`'s, as for HTTP/1.1.
    """

    max_concurrent_streams: int = field(default=100, validator=count(least=1))
    """Streams at once (RFC 9113 §5.1.2); one more is refused with REFUSED_STREAM."""
    max_unwinding: int | None = field(default=None, validator=count(least=0, optional=True))
    """Transactions of streams that are over and that still come to their end (a plugin's hooks, say), that there may be beyond
    `max_concurrent_streams`; None: as many again. Past them new streams are refused with REFUSED_STREAM (CVE-2023-44487)."""
    buffer_index: int = field(default=8, validator=count(least=0, most=14))
    """The buffer of each stream's virtual connection, `128 << buffer_index` bytes; a stream's flow-control window is as large."""
    connection_window: int = field(default=1 << 20, validator=size(least=65535, most=(1 << 31) - 1))
    """Bytes of request bodies that may be under way on the whole connection."""
    max_buffered: int = field(default=1 << 22, validator=size(least=0))
    """Bytes of request bodies that streams have not taken yet; while there are more, the connection's window is not opened again. By default
    more than all streams together can hold, so that however many of them stall, none starves another."""
    max_buffered_by_all: int = field(default=1 << 28, validator=size(least=0))
    """The same for all connections of the proxy together. That of the proxy's own configuration counts."""
    max_dropped: int = field(default=1 << 26, validator=size(least=0, most=(1 << 30) - 1))
    """Bytes of a request body that are taken and dropped once the response is complete; then, or when none have come for
    `HttpConfig.linger_timeout`, NO_ERROR."""
    max_header_list: int = field(default=65536, validator=size(least=1024))
    """Bytes of a decoded head as RFC 9113 §6.5.2 counts them, 32 for each field; more may be an HPACK bomb, and ends the connection."""
    max_header_block: int = field(default=65536, validator=size(least=1024))
    """Bytes of an encoded head, its CONTINUATION frames included."""
    max_continuations: int = field(default=8, validator=count(least=0))
    """CONTINUATION frames of one head (CVE-2024-27316); as nghttp2."""
    max_control_backlog: int = field(default=65536, validator=size(least=1024))
    """Bytes of answers to control frames that a client leaves unread (CVE-2019-9512, CVE-2019-9515)."""
    resets: RateLimit = field(default=RateLimit(200, 33), validator=_IS_RATE)
    """Streams that the client resets, or makes us reset (CVE-2023-44487, CVE-2025-8671)."""
    resets_by_address: RateLimit = field(default=RateLimit(1000, 100), validator=_IS_RATE)
    """The same of all connections of one client address together; the one that crosses it ends. That of the proxy's own configuration counts."""
    settings: RateLimit = field(default=RateLimit(32, 1), validator=_IS_RATE)
    """SETTINGS frames, acknowledgements included (CVE-2019-9515)."""
    pings: RateLimit = field(default=RateLimit(100, 10), validator=_IS_RATE)
    """PING frames (CVE-2019-9512)."""
    empty_data: RateLimit = field(default=RateLimit(100, 10), validator=_IS_RATE)
    """DATA frames with no data that end nothing (CVE-2019-9518)."""
    priorities: RateLimit = field(default=RateLimit(500, 50), validator=_IS_RATE)
    """PRIORITY and PRIORITY_UPDATE frames (CVE-2019-9513)."""
    window_updates: RateLimit = field(default=RateLimit(1000, 100), validator=_IS_RATE)
    """WINDOW_UPDATE frames beyond two for each DATA frame that was sent (CVE-2019-9511, CVE-2019-9517)."""
    small_data: RateLimit = field(default=RateLimit(20000, 2000), validator=_IS_RATE)
    """DATA frames of less than 64 bytes: each costs as much work as one of 16 KiB."""
    oddities: RateLimit = field(default=RateLimit(500, 50), validator=_IS_RATE)
    """Frames that are to be ignored: of unknown types, or for streams that are closed."""
