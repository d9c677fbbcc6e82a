"""What an application is, and the few things that all kinds of calls have in common.

Sources: https://asgi.readthedocs.io/en/latest/specs/main.html and the specifications beside it.
"""

from __future__ import annotations

import logging
from collections.abc import Awaitable, Callable, MutableMapping
from contextlib import AbstractAsyncContextManager
from typing import Any, Protocol

from trio_tsconnect._util import public

logger = logging.getLogger("trio_tsconnect")

Scope = MutableMapping[str, Any]
Message = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]
Application = Callable[[Any, Any, Any], Awaitable[None]]
"""An ASGI 3 application: `await application(scope, receive, send)`. Any, for frameworks disagree in how they type these."""
AtOnce = Callable[[], Message | None]
"""What `receive` would return without waiting, if it is known; it may be asked from another thread."""


@public("trio_tsconnect.asgi")
class ClientDisconnected(OSError):
    """The application has sent something to a client that has gone."""


class Loop(Protocol):
    """Where an application runs."""

    def open(self) -> AbstractAsyncContextManager[None]:
        """For the length of a block calls may be made."""
        ...

    async def call(self, application: Application, scope: Scope, receive: Receive, send: Send, at_once: AtOnce) -> None:
        """Call the application there; `receive` and `send` are run here. Raises what it raises; a cancellation cancels the application."""
        ...


def nothing_yet() -> Message | None:
    """An `AtOnce` that never knows."""
    return None
