"""The types of an ASGI application, and what HTTP, WebSocket and lifespan calls have in common.

Sources: https://asgi.readthedocs.io/en/latest/specs/main.html and the HTTP, WebSocket and lifespan specifications beside it.
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
"""An ASGI 3 application: `await application(scope, receive, send)`. The arguments are `Any` because frameworks type them differently."""
AtOnce = Callable[[], Message | None]
"""A function that returns what `receive` would return without waiting, or None if that is not known. May be called from another thread."""


@public("trio_tsconnect.asgi")
class ClientDisconnected(OSError):
    """The application sent a message after its client had disconnected."""


class Loop(Protocol):
    """The event loop on which an application runs."""

    def open(self) -> AbstractAsyncContextManager[None]:
        """Start the loop. `call` may be used inside the block of this context manager."""
        ...

    async def call(self, application: Application, scope: Scope, receive: Receive, send: Send, at_once: AtOnce) -> None:
        """Call the application on this loop. `receive` and `send` run on the caller's trio loop.

        Raises what the application raises. Cancelling this call cancels the application.
        """
        ...


def nothing_yet() -> Message | None:
    """Return None. This is an `AtOnce` for calls whose next message is never known in advance."""
    return None
