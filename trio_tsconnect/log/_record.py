"""`LogRecord`: the data logged for one transaction.

Invariant: a record becomes exactly one line of valid JSON, whatever it contains.
"""

from __future__ import annotations

from typing import Any

import attrs

from trio_tsconnect._util import public
from trio_tsconnect.log._json import OPTIONAL, iso_time, line, to_micros


@public("trio_tsconnect.log")
@attrs.frozen
class Ended:
    """How a transaction ended: who caused it, why, and in which state."""

    by: str
    """Party that caused the end: ``client``, ``origin``, ``proxy`` or ``plugin``."""
    why: str
    """Cause in snake case; ``complete`` if nothing failed."""
    state: str
    """State of the transaction at that moment."""


_NOT_SAID = Ended(by="proxy", why="unknown", state="unknown")


@public("trio_tsconnect.log")
@attrs.define(eq=False, kw_only=True)
class LogRecord:
    """The log record of one transaction. Formats, statistics and post-processing read nothing else.

    The fields have the names and the order of the JSON line. `tag` and `id` are Traffic Server's ``pitag`` and ``piid``.
    """

    time: float = 0.0
    """Start of the transaction in Unix seconds. In JSON: ISO 8601 in UTC, with microseconds."""
    session: int = 0
    """Number of the HTTP/1 session that served it. Each virtual connection has its own session."""
    client_connection: int = 0
    """Number of the network connection of the client. For the tag ``h2`` it equals `id`."""
    stream: int | None = None
    """Stream number within the network connection of the client; None if its protocol has no streams."""
    transaction: int = 0
    """Number of the transaction, unique in the process."""
    parent: int | None = None
    """Number of the transaction that opened the connection of this one; None for a root."""
    root: int = 0
    """Number of the topmost ancestor; its own number for a root."""
    depth: int = 0
    """Number of ancestors; 0 for a root."""
    detached: bool = False
    """True if it may outlive its parent."""
    client_address: str | None = None
    """Address of the client, as given by the socket or by the opener of the connection; None if unknown."""
    client_protocol: str = "http/1.1"
    """Protocol of the client: ``http/1.1``, ``http/1.0`` or ``h2``."""
    tag: str | None = None
    """Tag given by the opener of the connection."""
    id: int = 0
    """Number given by the opener of the connection; 0 means not set."""
    internal: bool = False
    """True if the request is internal: made by this process for itself, not for a client."""
    method: str | None = None
    """Method as received; None if no request could be parsed."""
    url: str | None = None
    """Absolute request URI before remapping. If the transaction ended before remapping, the target as received in the request line."""
    origin_url: str | None = None
    """Absolute URI at the origin, after remapping."""
    remap_rule: str | None = None
    """Remap rule that matched (its `from`); None if there is none."""
    status: int | None = None
    """Status sent to the client; None if none was sent."""
    origin_status: int | None = None
    """Last status received from the origin; None if there was none."""
    request_bytes: int = 0
    """Bytes of the request body received from the client."""
    response_bytes: int = 0
    """Bytes of the response body passed to the connection of the client. The last bytes of a truncated response may not have been sent."""
    origin_connection: int | None = None
    """Number of the origin connection; None if there was none."""
    origin_reused: bool | None = None
    """True if that connection was used by another transaction before."""
    attempts: int = 0
    """Number of attempts at an origin."""
    milestones: dict[str, float] = attrs.Factory(dict)
    """For each state that was entered, the seconds from `time` to that moment. In JSON: rounded to microseconds."""
    ended: Ended = _NOT_SAID
    """How the transaction ended."""
    plugin: dict[str, Any] = attrs.Factory(dict)
    """Entries of plugins, by plugin name."""
    deadline_left: dict[str, float] | None = None
    """For each state that was entered, the seconds left until the deadline at that moment; None without a deadline."""
    process: int = 0
    """Process id of the proxy."""
    request_head_bytes: int = 0
    """Bytes of the request head received from the client: request line and fields, as HTTP/1.1."""
    response_head_bytes: int = 0
    """Bytes of the final response head passed to the connection of the client, as HTTP/1.1."""
    client_port: int | None = None
    """Port of the client; None if unknown."""
    host: str | None = None
    """Host field of the request as received; None if there was none."""
    user_agent: str | None = None
    """User-Agent field of the request as received."""
    referer: str | None = None
    """Referer field of the request as received."""
    tls_version: str | None = None
    """TLS version of the connection of the client, for example ``TLSv1.3``; None without TLS."""
    tls_cipher: str | None = None
    """Cipher suite of the connection of the client."""
    tls_server_name: str | None = None
    """Host name that the client requested in its TLS handshake (SNI)."""
    tls_resumed: bool | None = None
    """True if the client resumed a TLS session; None without TLS."""
    origin_address: str | None = None
    """Address that the origin connection was made to: ``host:port``, or the path of a Unix socket; None if there was no connection."""
    opened_by: str | None = None
    """Plugin and hook that opened the connection of a child, for example ``AuthRequest.read_request``; None for others."""
    trace_id: str | None = None
    """Id of the trace (W3C Trace Context), if a plugin has set one."""
    span_id: str | None = None
    """Id of the transaction within its trace."""
    parent_span_id: str | None = None
    """Id of the span that caused the transaction."""
    request_headers: dict[str, str] | None = None
    """Fields of the request as received that the configuration selects, by name in lower case; None if it selects none."""
    response_headers: dict[str, str] | None = None
    """Fields of the response as sent that the configuration selects, by name in lower case; None if it selects none."""

    def as_dict(self) -> dict[str, Any]:
        """Return the record as a dict with the names and the order of the JSON line; `plugin` is not copied.

        A missing value is None. The fields from `client_port` on are left out if they are missing, because most records lack most of them.
        """
        ended = self.ended
        fields = {
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
            "milestones": to_micros(self.milestones),
            "ended": {"by": ended.by, "why": ended.why, "state": ended.state},
            "plugin": self.plugin,
            "deadline_left": None if self.deadline_left is None else to_micros(self.deadline_left),
            "process": self.process,
            "request_head_bytes": self.request_head_bytes,
            "response_head_bytes": self.response_head_bytes,
        }
        for name in OPTIONAL:
            if (value := getattr(self, name)) is not None:
                fields[name] = value
        return fields

    def to_json(self) -> str:
        """Return the record as one line of ASCII JSON, without the line end. Never raises.

        A plugin value that JSON cannot represent is written as its `repr`. A number that is not finite is written as null.
        """
        return line(self)[:-1].decode("ascii")
