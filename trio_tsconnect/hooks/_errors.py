"""Exceptions of the plugin API."""

from __future__ import annotations

from typing import Literal

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
class InvalidState(Exception):
    """A method or attribute of a transaction was used in a state that does not allow it. The message names the state."""
