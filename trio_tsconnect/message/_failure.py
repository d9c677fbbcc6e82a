"""The failures of a transaction, and what follows from each: the status, the responsible party, and if a retry may help.

Invariant: every way in which a transaction can fail is a member of `Failure`, and `outcome` handles each of them; mypy verifies this with
`assert_never`. A client that closes its connection never counts as a failure of the origin.
"""

from __future__ import annotations

import enum
from typing import Literal, TypeAlias, assert_never

import attrs

from trio_tsconnect._util import public
from trio_tsconnect.message._errors import BadRequest, MessageError

Party: TypeAlias = Literal["client", "origin", "proxy", "plugin"]


@public("trio_tsconnect.message")
class Failure(enum.Enum):
    """One way in which a transaction fails. The value is its cause in the log."""

    TARGET_TOO_LONG = "target_too_long"
    """The request line exceeded its limit."""
    HEAD_TOO_LARGE = "head_too_large"
    """The request head exceeded its limit of bytes or fields."""
    REQUEST_TOO_LARGE = "request_too_large"
    """The request body exceeded its limit."""
    HEADER_TIMEOUT = "header_timeout"
    """The request head was not received completely in time."""
    REQUEST_BODY_TIMEOUT = "request_body_timeout"
    """The client stopped sending the request body."""
    CLIENT_GONE = "client_gone"
    """The client closed its connection before it received the response, or before it sent the complete request."""
    CLIENT_TIMEOUT = "client_timeout"
    """The client stopped reading the response."""
    CLIENT_STALLED = "client_stalled"
    """The client occupied an origin connection that others waited for, and neither sent its request nor read its response."""
    NO_REMAP_RULE = "no_remap_rule"
    """No remap rule matches, and no other way to an origin is allowed."""
    ACCESS_DENIED = "access_denied"
    """An access rule denied the request."""
    CONNECT_DENIED = "connect_denied"
    """CONNECT is not allowed, or not to this host and port."""
    DESCENDANTS = "descendants"
    """The tree of internal requests reached `http.max_descendants`."""
    LOOP = "loop"
    """Via shows that this proxy has already forwarded the request."""
    ORIGIN_NAME_NOT_FOUND = "origin_name_not_found"
    """The name of the origin has no address."""
    ORIGIN_REFUSED = "origin_refused"
    """No address of the origin accepted a connection."""
    NO_DESCRIPTORS = "no_descriptors"
    """The proxy has no free file descriptors (`ulimit -n`), so it cannot connect to the origin."""
    ORIGIN_TLS = "origin_tls"
    """The TLS handshake with the origin failed, or the certificate of the origin was rejected."""
    ORIGIN_CONNECT_TIMEOUT = "origin_connect_timeout"
    """No connection to the origin was established in time."""
    ORIGIN_BUSY = "origin_busy"
    """The origin had its maximum number of connections, and none was released in time."""
    ORIGIN_RESPONSE_TIMEOUT = "origin_response_timeout"
    """The first byte of the response was not received in time."""
    ORIGIN_INACTIVITY = "origin_inactivity"
    """The origin stopped sending its response, or reading the request, for too long."""
    ORIGIN_CLOSED = "origin_closed"
    """The origin closed the connection before a response began."""
    ORIGIN_TRUNCATED = "origin_truncated"
    """The origin closed the connection before its response was complete."""
    ORIGIN_BAD_RESPONSE = "origin_bad_response"
    """The origin sent an invalid HTTP message, and no other cause is more precise."""
    TUNNEL_IDLE = "tunnel_idle"
    """A tunnel transferred no bytes in either direction for too long."""
    TRANSACTION_TIMEOUT = "transaction_timeout"
    """The transaction took longer than its limit."""
    DEADLINE = "deadline"
    """The deadline that the opener set, or that of a parent, has passed."""
    PLUGIN = "plugin"
    """A hook or a transform raised an exception."""
    CANCELLED = "cancelled"
    """The task that served the connection was cancelled."""
    INTERNAL = "internal"
    """The proxy itself failed."""


@public("trio_tsconnect.message")
@attrs.frozen
class Outcome:
    """The consequences of a failure."""

    status: int | None
    """Status that is sent if the response has not begun. None: the connection is closed without a response."""
    by: Party
    """The responsible party."""
    why: str
    """The cause for the log, in snake_case."""
    retry: bool = False
    """True if a fresh connection may help. Retry only a request that is `retry_safe`, on a connection that had been used before."""


@public("trio_tsconnect.message")
def outcome(failure: Failure | MessageError) -> Outcome:
    """Return the consequences of a failure. For a `MessageError` they are its attributes."""
    if isinstance(failure, MessageError):
        return Outcome(failure.status, "client" if isinstance(failure, BadRequest) else "origin", failure.cause)
    status, by = _verdict(failure)
    # RFC 9110 §9.2.2: a persistent connection may be closed at any time, also before the origin has read the request. No other failure is
    # retried.
    return Outcome(status, by, failure.value, retry=failure is Failure.ORIGIN_CLOSED)


def _verdict(failure: Failure) -> tuple[int | None, Party]:
    match failure:
        case Failure.TARGET_TOO_LONG:
            return 414, "client"
        case Failure.HEAD_TOO_LARGE:
            return 431, "client"  # RFC 6585 §5
        case Failure.REQUEST_TOO_LARGE:
            return 413, "client"
        case Failure.HEADER_TIMEOUT | Failure.REQUEST_BODY_TIMEOUT | Failure.CLIENT_STALLED:
            return 408, "client"  # RFC 9110 §15.5.9
        case Failure.CLIENT_GONE | Failure.CLIENT_TIMEOUT:
            return None, "client"
        case Failure.NO_REMAP_RULE:
            return 404, "proxy"
        case Failure.ACCESS_DENIED | Failure.CONNECT_DENIED:
            return 403, "proxy"
        case Failure.LOOP:
            return 400, "proxy"  # same status as Traffic Server; 508 (RFC 5842 §7.2) is for WebDAV bindings
        case Failure.ORIGIN_NAME_NOT_FOUND | Failure.ORIGIN_REFUSED | Failure.ORIGIN_TLS:
            return 502, "origin"
        case Failure.ORIGIN_CLOSED | Failure.ORIGIN_TRUNCATED | Failure.ORIGIN_BAD_RESPONSE:
            return 502, "origin"  # RFC 9110 §15.6.3
        case Failure.ORIGIN_CONNECT_TIMEOUT | Failure.ORIGIN_RESPONSE_TIMEOUT | Failure.ORIGIN_INACTIVITY:
            return 504, "origin"  # RFC 9110 §15.6.5
        case Failure.ORIGIN_BUSY | Failure.NO_DESCRIPTORS | Failure.DESCENDANTS:
            return 503, "proxy"  # RFC 9110 §15.6.4
        case Failure.TUNNEL_IDLE:
            return None, "proxy"
        case Failure.TRANSACTION_TIMEOUT | Failure.DEADLINE:
            return 504, "proxy"
        case Failure.PLUGIN:
            return 500, "plugin"
        case Failure.CANCELLED:
            return None, "proxy"
        case Failure.INTERNAL:
            return 500, "proxy"
        case _:
            assert_never(failure)


_SENTENCES = {
    Failure.DESCENDANTS: "The request tree has reached its maximum number of internal requests.",
    Failure.HEADER_TIMEOUT: "The request head was not received in time.",
    Failure.REQUEST_BODY_TIMEOUT: "The client stopped sending the request body.",
    Failure.ORIGIN_RESPONSE_TIMEOUT: "The origin did not respond in time.",
    Failure.ORIGIN_INACTIVITY: "The origin stopped sending or reading during the exchange.",
    Failure.TRANSACTION_TIMEOUT: "The request took longer than its time limit.",
    Failure.DEADLINE: "The deadline of the request has passed.",
}


@public("trio_tsconnect.message")
class TransactionFailure(Exception):
    """Ends a transaction. Holds the failure, and one sentence for the client and the log. Never propagates out of the engine."""

    def __init__(self, failure: Failure | MessageError, detail: str = "", *, plugin: str | None = None) -> None:
        super().__init__(detail or str(failure))
        self.failure = failure
        self.detail: str = detail or (failure.detail if isinstance(failure, MessageError) else _SENTENCES.get(failure, ""))
        self.plugin = plugin
        self.log: dict[str, str] | None = None
