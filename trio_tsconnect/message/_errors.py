"""Errors of received messages. The type names the party whose message is invalid; status, cause and detail are attributes."""

from __future__ import annotations

from typing import ClassVar

from trio_tsconnect._util import public


@public("trio_tsconnect.message")
class MessageError(Exception):
    """A message that is invalid, and is neither accepted nor forwarded."""

    default_status: ClassVar[int] = 500

    status: int
    """The status that is sent to the client."""
    cause: str
    """Short snake_case name of the error, for the log."""
    detail: str
    """One sentence for people. It may quote received bytes, so it must be escaped before it is shown on a page."""

    def __init__(self, cause: str, detail: str, status: int | None = None) -> None:
        self.cause = cause
        self.detail = detail
        self.status = self.default_status if status is None else status
        super().__init__(cause, detail, self.status)

    def __str__(self) -> str:
        return f"{self.detail} ({self.cause}, {self.status})"


@public("trio_tsconnect.message")
class BadRequest(MessageError):
    """The client's message is invalid."""

    default_status = 400


@public("trio_tsconnect.message")
class BadResponse(MessageError):
    """The origin's message is invalid."""

    default_status = 502
