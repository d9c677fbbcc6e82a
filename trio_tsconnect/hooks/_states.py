"""The states of a transaction and the table of allowed transitions.

Invariant: `TRANSITIONS` is the only definition of which state may follow which. The engine changes a state in one place, which checks this
table and stores the milestone for the log.
"""

from __future__ import annotations

import enum

from trio_tsconnect._util import public


@public("trio_tsconnect.hooks")
class State(enum.Enum):
    """State of a transaction. The values are the names of the milestones in the log."""

    def __init__(self, milestone: str) -> None:
        self.milestone: str = milestone  # a copy of `value`: reading an attribute takes a tenth of the time of enum's property

    READ_REQUEST = "read_request"
    """The request head is being received. Hooks: transaction_start, read_request."""
    REMAP = "remap"
    """Access rules and remap rules are applied. Hooks: pre_remap, post_remap."""
    ACQUIRE_ORIGIN = "acquire_origin"
    """A connection to the origin is taken from the pool or opened. Hook: origin_failed."""
    SEND_REQUEST = "send_request"
    """The request is being sent. Hooks: send_request, origin_failed."""
    READ_RESPONSE = "read_response"
    """The proxy waits for the response head. Hooks: read_response, origin_failed."""
    SEND_RESPONSE = "send_response"
    """The response is being sent. Hook: send_response."""
    TUNNEL = "tunnel"
    """The connection is a tunnel (CONNECT or an upgrade) that forwards bytes in both directions."""
    RELEASE = "release"
    """The exchange is over, and the origin connection is returned to the pool or closed. Hook: transaction_close."""
    CLOSED = "closed"
    """The record is logged."""


State.__hash__ = object.__hash__  # type: ignore[method-assign]  # enum's own is written in Python and runs at every transition

# Allowed next states. SEND_RESPONSE follows nearly every state, because a plugin may answer and an error must be answered. A retry goes
# from READ_RESPONSE, or from an earlier state if that fails, back to ACQUIRE_ORIGIN. RELEASE follows every state, because a client may
# disconnect at any time.
_S = State
TRANSITIONS: dict[State, frozenset[State]] = {
    _S.READ_REQUEST: frozenset({_S.REMAP, _S.SEND_RESPONSE, _S.RELEASE}),
    _S.REMAP: frozenset({_S.ACQUIRE_ORIGIN, _S.SEND_RESPONSE, _S.RELEASE}),
    _S.ACQUIRE_ORIGIN: frozenset({_S.SEND_REQUEST, _S.ACQUIRE_ORIGIN, _S.SEND_RESPONSE, _S.RELEASE}),
    _S.SEND_REQUEST: frozenset({_S.READ_RESPONSE, _S.ACQUIRE_ORIGIN, _S.SEND_RESPONSE, _S.RELEASE}),
    _S.READ_RESPONSE: frozenset({_S.SEND_RESPONSE, _S.ACQUIRE_ORIGIN, _S.RELEASE}),
    _S.SEND_RESPONSE: frozenset({_S.TUNNEL, _S.RELEASE}),
    _S.TUNNEL: frozenset({_S.RELEASE}),
    _S.RELEASE: frozenset({_S.CLOSED}),
    _S.CLOSED: frozenset(),
}
