"""The states of a transaction, as a literal table.

Two rules for this file: the table says everything about which state may follow which, and nothing here does anything but look it up.
`Transaction.enter` is the only writer of a state; it asks here, and stamps the milestone that the log tells.
"""

from __future__ import annotations

import enum

from trio_tsconnect._util import public


@public("trio_tsconnect.hooks")
class State(enum.Enum):
    """Where a transaction stands; the values are the names of the milestones in the log."""

    def __init__(self, milestone: str) -> None:
        self.milestone: str = milestone  # `value` again: as an attribute it costs a tenth of what enum's property does

    READ_REQUEST = "read_request"
    """The request head is being read; hooks transaction_start and read_request."""
    REMAP = "remap"
    """Where the request goes is being decided; hooks pre_remap and post_remap."""
    ACQUIRE_ORIGIN = "acquire_origin"
    """A connection to the origin is being found or made."""
    SEND_REQUEST = "send_request"
    """The request is being sent; hook send_request."""
    READ_RESPONSE = "read_response"
    """The response head is awaited; hook read_response."""
    SEND_RESPONSE = "send_response"
    """The response is being sent; hook send_response."""
    TUNNEL = "tunnel"
    """The connection has been upgraded and carries bytes both ways."""
    RELEASE = "release"
    """Everything was sent; the origin connection is given back and the record is written."""
    CLOSED = "closed"
    """The record is written; hook transaction_close."""


State.__hash__ = object.__hash__  # type: ignore[method-assign]  # enum's own is written in Python, and asked for at every step

# What may follow. SEND_RESPONSE follows nearly everything, for a plugin may answer and an error must be answered; a retry goes back from
# READ_RESPONSE (or from a request that could not be sent) to ACQUIRE_ORIGIN; RELEASE follows everything, for a client may leave at any time.
_S = State
TRANSITIONS: dict[State, frozenset[State]] = {
    _S.READ_REQUEST: frozenset({_S.REMAP, _S.SEND_RESPONSE, _S.RELEASE}),
    _S.REMAP: frozenset({_S.ACQUIRE_ORIGIN, _S.SEND_RESPONSE, _S.RELEASE}),
    _S.ACQUIRE_ORIGIN: frozenset({_S.SEND_REQUEST, _S.SEND_RESPONSE, _S.RELEASE}),
    _S.SEND_REQUEST: frozenset({_S.READ_RESPONSE, _S.ACQUIRE_ORIGIN, _S.SEND_RESPONSE, _S.RELEASE}),
    _S.READ_RESPONSE: frozenset({_S.SEND_RESPONSE, _S.ACQUIRE_ORIGIN, _S.RELEASE}),
    _S.SEND_RESPONSE: frozenset({_S.TUNNEL, _S.RELEASE}),
    _S.TUNNEL: frozenset({_S.RELEASE}),
    _S.RELEASE: frozenset({_S.CLOSED}),
    _S.CLOSED: frozenset(),
}
