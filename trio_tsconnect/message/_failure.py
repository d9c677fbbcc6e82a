"""What happens when something goes wrong: one total function from the failure to the status, whose fault it was, and whether to try again.

The one law: every way in which a transaction can fail is a member here, and `outcome` has an answer for each; mypy proves it. A client that leaves
is never an origin's failure.
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
    """One way in which a transaction fails; the value is its cause in the log."""

    TARGET_TOO_LONG = "target_too_long"
    """The request line crossed its limit."""
    HEAD_TOO_LARGE = "head_too_large"
    """The request head crossed its limit of bytes or fields."""
    REQUEST_TOO_LARGE = "request_too_large"
    """The request body crossed its limit."""
    HEADER_TIMEOUT = "header_timeout"
    """The request head did not arrive whole in time."""
    REQUEST_BODY_TIMEOUT = "request_body_timeout"
    """The request body stopped arriving."""
    CLIENT_GONE = "client_gone"
    """The client left before it had its response, or before it had sent its request whole."""
    CLIENT_TIMEOUT = "client_timeout"
    """The client stopped reading its response."""
    CLIENT_STALLED = "client_stalled"
    """The client held a connection that others waited for, and neither sent of its request nor read of its response."""
    NO_REMAP_RULE = "no_remap_rule"
    """No rule matches and none of the other ways to an origin is open."""
    ACCESS_DENIED = "access_denied"
    """An access rule says no."""
    CONNECT_DENIED = "connect_denied"
    """CONNECT is not permitted, or not to this host and port."""
    DESCENDANTS = "descendants"
    """The tree of internal requests had as many as `http.max_descendants` allows."""
    LOOP = "loop"
    """Via says that the request has been here before."""
    ORIGIN_NAME_NOT_FOUND = "origin_name_not_found"
    """The origin's name has no address."""
    ORIGIN_REFUSED = "origin_refused"
    """No address of the origin accepted a connection."""
    NO_DESCRIPTORS = "no_descriptors"
    """The system gives the proxy no more descriptors (`ulimit -n`), so it cannot connect to the origin."""
    ORIGIN_TLS = "origin_tls"
    """The TLS handshake with the origin failed, or its certificate was not accepted."""
    ORIGIN_CONNECT_TIMEOUT = "origin_connect_timeout"
    """No connection to the origin came about in time."""
    ORIGIN_BUSY = "origin_busy"
    """The origin had its full number of connections, and none came free in time."""
    ORIGIN_RESPONSE_TIMEOUT = "origin_response_timeout"
    """The first byte of the response did not come in time."""
    ORIGIN_INACTIVITY = "origin_inactivity"
    """The origin stopped, in either direction, for too long."""
    ORIGIN_CLOSED = "origin_closed"
    """The origin ended the connection before a response began."""
    ORIGIN_TRUNCATED = "origin_truncated"
    """The origin ended the connection before its response was whole."""
    ORIGIN_BAD_RESPONSE = "origin_bad_response"
    """The origin's bytes are not an acceptable HTTP message, and no other cause says more."""
    TUNNEL_IDLE = "tunnel_idle"
    """Nothing has moved through a tunnel, in either direction, for too long."""
    TRANSACTION_TIMEOUT = "transaction_timeout"
    """The whole transaction crossed its limit."""
    DEADLINE = "deadline"
    """The deadline that the opener gave, or a parent's, has passed."""
    PLUGIN = "plugin"
    """A hook, or a transform, raised."""
    CANCELLED = "cancelled"
    """The task that served the connection was cancelled."""
    INTERNAL = "internal"
    """The proxy itself is at fault."""


@public("trio_tsconnect.message")
@attrs.frozen
class Outcome:
    """What follows from a failure."""

    status: int | None
    """What the client gets where its response has not begun; None where there is nobody to answer: the connection just ends."""
    by: Party
    """Whose doing it was."""
    why: str
    """The cause for the log, in snake_case."""
    retry: bool = False
    """Whether one more attempt on a fresh connection may help, if the request is `retry_safe` and the connection had been used before."""


@public("trio_tsconnect.message")
def outcome(failure: Failure | MessageError) -> Outcome:
    """What follows from this failure; for a `MessageError` it is what the error itself says."""
    if isinstance(failure, MessageError):
        return Outcome(failure.status, "client" if isinstance(failure, BadRequest) else "origin", failure.cause)
    status, by = _verdict(failure)
    # RFC 9110 §9.2.2: a kept connection may close at any time, and so be closed before it saw the request. Nothing else is tried twice.
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
            return 400, "proxy"  # as Traffic Server does; 508 (RFC 5842 §7.2) is about WebDAV bindings
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
    Failure.DESCENDANTS: "The request that began it all may have no more descendants.",
    Failure.HEADER_TIMEOUT: "The request head did not arrive in time.",
    Failure.REQUEST_BODY_TIMEOUT: "The request body stopped arriving.",
    Failure.ORIGIN_RESPONSE_TIMEOUT: "The origin did not answer in time.",
    Failure.ORIGIN_INACTIVITY: "The origin stopped in the middle of the exchange.",
    Failure.TRANSACTION_TIMEOUT: "The request took longer than it may.",
    Failure.DEADLINE: "The deadline of the request has passed.",
}


@public("trio_tsconnect.message")
class TransactionFailure(Exception):
    """Ends a transaction: what failed, and one sentence for the client and the log. Never leaves the engine."""

    def __init__(self, failure: Failure | MessageError, detail: str = "", *, plugin: str | None = None) -> None:
        super().__init__(detail or str(failure))
        self.failure = failure
        self.detail: str = detail or (failure.detail if isinstance(failure, MessageError) else _SENTENCES.get(failure, ""))
        self.plugin = plugin
        self.log: dict[str, str] | None = None
