"""The lifespan of an application: one call that lasts as long as it is served.

Source: https://asgi.readthedocs.io/en/latest/specs/lifespan.html. An application that ends this call before it has answered does not know of
lifespans, and is served without.
"""

from __future__ import annotations

from typing import Any

import trio

from trio_tsconnect._contain import sort_out
from trio_tsconnect.asgi._types import Application, Loop, Message, logger, nothing_yet

_RETURN = 1.0  # seconds to return in, once everything is said


class Lifespan:
    """One. `run` is a task beside the rest, and shielded: only `end` ends it."""

    def __init__(self, application: Application, loop: Loop) -> None:
        self.state: dict[Any, Any] = {}
        """What the application puts there is in the scope of every call."""
        self.failure: str | None = None
        """What the application has said of a startup that failed."""
        self._application = application
        self._loop = loop
        self._scope = trio.CancelScope(shield=True)
        self._asked = False
        self._decided = trio.Event()
        self._closing = trio.Event()
        self._ended = trio.Event()
        self._returned = trio.Event()
        self._supported = False

    async def run(self) -> None:
        """The call."""
        scope = {"type": "lifespan", "asgi": {"version": "3.0", "spec_version": "2.0"}, "state": self.state}
        try:
            with self._scope:
                await self._loop.call(self._application, scope, self._receive, self._send, nothing_yet)
        except BaseException as exc:  # noqa: BLE001 - sorted out
            failure, passing = sort_out(exc)
            if failure is not None:
                self._failed(failure)
            if passing is not None:
                raise passing from None
        finally:
            for event in (self._returned, self._ended, self._decided):
                event.set()

    def _failed(self, exc: BaseException) -> None:
        if self._supported:
            logger.error("the application failed in its lifespan", exc_info=exc)
        elif isinstance(exc, Exception):  # the specification: such an application is served without a lifespan
            logger.info("the application has no lifespan: %r", exc)
        else:  # it wants the process to end (sys.exit); what ends is its own startup
            self.failure = f"{type(exc).__name__}: {exc}"

    async def startup(self) -> None:
        """Wait until the application has started up, or failed to (`failure`), or has no lifespan."""
        await self._decided.wait()

    async def end(self, seconds: float) -> None:
        """Have the application shut down, for so long at most."""
        if self._supported and self.failure is None:
            self._closing.set()
            with trio.move_on_after(seconds) as scope:
                await self._ended.wait()
            if scope.cancelled_caught:
                logger.error("the application has not shut down within %g s", seconds)
            with trio.move_on_after(_RETURN):
                await self._returned.wait()
        self._scope.cancel()

    async def _receive(self) -> Message:
        if not self._asked:
            self._asked = True
            return {"type": "lifespan.startup"}
        await self._closing.wait()
        self._closing = trio.Event()  # there is nothing after that
        return {"type": "lifespan.shutdown"}

    async def _send(self, message: Message) -> None:
        match message["type"]:
            case "lifespan.startup.complete":
                self._supported = True
                self._decided.set()
            case "lifespan.startup.failed":
                self._supported = True
                self.failure = message.get("message") or "it did not say why"
                self._decided.set()
            case "lifespan.shutdown.complete":
                self._ended.set()
            case "lifespan.shutdown.failed":
                logger.error("the application failed to shut down: %s", message.get("message"))
                self._ended.set()
            case kind:
                raise RuntimeError(f"the ASGI message {kind!r} has no place in a lifespan")
