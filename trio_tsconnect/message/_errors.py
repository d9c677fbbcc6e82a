"""Whose message was bad is the type; the status, the cause and one sentence are attributes."""

from __future__ import annotations

from typing import ClassVar

from trio_tsconnect._util import public


@public("trio_tsconnect.message")
class MessageError(Exception):
    """A message that must be neither accepted nor forwarded."""

    default_status: ClassVar[int] = 500

    status: int
    """The status the client gets."""
    cause: str
    """Short snake_case name of the offence, for the log."""
    detail: str
    """One sentence for a person; it may quote what was received, so it needs sanitising before it goes into a page."""

    def __init__(self, cause: str, detail: str, status: int | None = None) -> None:
        self.cause = cause
        self.detail = detail
        self.status = self.default_status if status is None else status
        super().__init__(cause, detail, self.status)

    def __str__(self) -> str:
        return f"{self.detail} ({self.cause}, {self.status})"


@public("trio_tsconnect.message")
class BadRequest(MessageError):
    """The client's message is at fault."""

    default_status = 400


@public("trio_tsconnect.message")
class BadResponse(MessageError):
    """The origin's message is at fault."""

    default_status = 502
