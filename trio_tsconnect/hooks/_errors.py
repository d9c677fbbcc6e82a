"""Exceptions of the plugin API."""

from __future__ import annotations

from typing import Literal

import attrs

from trio_tsconnect._util import public

RefusalReason = Literal["closed", "draining", "denied", "depth", "descendants", "concurrency"]


@public("trio_tsconnect")
class ConnectRefused(Exception):
    """`connect` was refused. No task was started and there is nothing to close."""

    reason: RefusalReason
    """Reason: `closed` (the proxy or the transaction has ended), `draining` (the proxy), `denied` (access rules deny this client every
    request), or a limit that is reached: `depth`, `descendants`, `concurrency`."""

    def __init__(self, reason: RefusalReason) -> None:
        super().__init__(f"the connection was refused: {reason}")
        self.reason = reason


@public("trio_tsconnect")
@attrs.frozen(kw_only=True)
class OriginFailure:
    """Why an attempt at an origin failed, for the hook `origin_failed`."""

    cause: str
    """The cause, as in the log: `origin_refused`, for example. The table in the manual has all of them."""
    origin: str
    """The origin: `host:port`, the path of a Unix socket, or the name of the plugin that acts as origin."""
    attempt: int
    """Number of the attempt, from 1. Attempts that the proxy repeated by itself count too."""
    repeatable: bool
    """True if another attempt does no harm: `retry` is legal, and the method is idempotent or the origin has not got the request."""


@public("trio_tsconnect")
class InvalidState(Exception):
    """A method or attribute of a transaction was used in a state that does not allow it. The message names the state."""
