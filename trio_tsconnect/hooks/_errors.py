"""What can go wrong, as types: whose fault it is is the type, and the rest are attributes."""

from __future__ import annotations

from typing import Literal

from trio_tsconnect._util import public

RefusalReason = Literal["closed", "draining", "denied", "depth", "descendants", "concurrency"]


@public("trio_tsconnect")
class ConnectRefused(Exception):
    """`connect` made no connection. Nothing was started and nothing needs closing."""

    reason: RefusalReason
    """`closed` or `draining` (the proxy), `denied` (an access rule refuses the client whatever it may ask for), `depth`, `descendants` or `concurrency` (a budget is spent)."""

    def __init__(self, reason: RefusalReason) -> None:
        super().__init__(f"the connection was refused: {reason}")
        self.reason = reason


@public("trio_tsconnect")
class InvalidState(Exception):
    """Something was asked of a transaction that its state does not allow; the message names the state."""
