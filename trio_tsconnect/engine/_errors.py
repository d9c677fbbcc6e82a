"""What can go wrong, as types: whose fault it is is the type, and the rest are attributes."""

from __future__ import annotations

from typing import Literal

from trio_tsconnect._util import public
from trio_tsconnect.message import Failure, MessageError

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


_SENTENCES = {
    Failure.DESCENDANTS: "The request that began it all may have no more descendants.",
    Failure.HEADER_TIMEOUT: "The request head did not arrive in time.",
    Failure.REQUEST_BODY_TIMEOUT: "The request body stopped arriving.",
    Failure.ORIGIN_RESPONSE_TIMEOUT: "The origin did not answer in time.",
    Failure.ORIGIN_INACTIVITY: "The origin stopped in the middle of the exchange.",
    Failure.TRANSACTION_TIMEOUT: "The request took longer than it may.",
    Failure.DEADLINE: "The deadline of the request has passed.",
}


class TransactionFailure(Exception):
    """Ends a transaction: what failed, and one sentence for the client and the log. Never leaves the engine."""

    def __init__(self, failure: Failure | MessageError, detail: str = "", *, plugin: str | None = None) -> None:
        super().__init__(detail or str(failure))
        self.failure = failure
        self.detail: str = detail or (failure.detail if isinstance(failure, MessageError) else _SENTENCES.get(failure, ""))
        self.plugin = plugin
        self.log: dict[str, str] | None = None
