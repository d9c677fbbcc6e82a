"""The lifespan of an application: one call that lasts as long as the application is served.

Source: https://asgi.readthedocs.io/en/latest/specs/lifespan.html. An application that ends this call before it answers the startup message
does not support lifespans. It is served without one.
"""

from __future__ import annotations

from typing import Any

import trio

from trio_tsconnect._contain import sort_out
from trio_tsconnect.asgi._types import Application, Loop, Message, logger, nothing_yet

_RETURN = 1.0  # seconds for the call to return after the application has confirmed the shutdown


class Lifespan:
    """The lifespan call of one application.

    `run` is a background task. It is shielded from cancellation, so only the application itself or `end` ends it.
    """

    def __init__(self, application: Application, loop: Loop) -> None:
        self.state: dict[Any, Any] = {}
        """The lifespan state. What the application puts here is in the scope of every later call."""
        self.failure: str | None = None
        """The reason why the startup failed; None if it did not fail."""
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
        """Call the application with the lifespan scope, and return when the call has ended.

        Its exceptions are logged or kept in `failure`.
        """
        scope = {"type": "lifespan", "asgi": {"version": "3.0", "spec_version": "2.0"}, "state": self.state}
        try:
            with self._scope:
                await self._loop.call(self._application, scope, self._receive, self._send, nothing_yet)
        except BaseException as exc:  # noqa: BLE001 - sort_out separates the application's failure from what must be re-raised
            failure, passing = sort_out(exc)
            if failure is not None:
                self._failed(failure)
            if passing is not None:
                raise passing from None
        finally:
            # Set all three: `startup` and `end` must not wait for an application that has returned without answering.
            for event in (self._returned, self._ended, self._decided):
                event.set()

    def _failed(self, exc: BaseException) -> None:
        if self._supported:
            logger.error("the application raised an exception in its lifespan call", exc_info=exc)
        elif isinstance(exc, Exception):  # the specification requires such an application to be served without a lifespan
            logger.info("the application does not support lifespans: %r", exc)
        else:  # SystemExit and the like: an application must not end the process, so this only fails its startup
            self.failure = f"{type(exc).__name__}: {exc}"

    async def startup(self) -> None:
        """Wait until the application has started, has failed to start (see `failure`), or turns out not to support lifespans."""
        await self._decided.wait()

    async def end(self, seconds: float) -> None:
        """Send `lifespan.shutdown`, wait for the answer, and cancel the call.

        Waits at most `seconds` for the answer, and at most one more second for the call to return. Does not send or wait if the application
        has not completed its startup.
        """
        if self._supported and self.failure is None:
            self._closing.set()
            with trio.move_on_after(seconds) as scope:
                await self._ended.wait()
            if scope.cancelled_caught:
                logger.error("the application did not shut down within %g s: its lifespan call is cancelled", seconds)
            with trio.move_on_after(_RETURN):
                await self._returned.wait()
        self._scope.cancel()

    async def _receive(self) -> Message:
        if not self._asked:
            self._asked = True
            return {"type": "lifespan.startup"}
        await self._closing.wait()
        self._closing = trio.Event()  # never set: no message follows the shutdown, so a further receive waits until it is cancelled
        return {"type": "lifespan.shutdown"}

    async def _send(self, message: Message) -> None:
        match message["type"]:
            case "lifespan.startup.complete":
                self._supported = True
                self._decided.set()
            case "lifespan.startup.failed":
                self._supported = True
                self.failure = message.get("message") or "the application gave no reason"
                self._decided.set()
            case "lifespan.shutdown.complete":
                self._ended.set()
            case "lifespan.shutdown.failed":
                logger.error("the application failed to shut down: %s", message.get("message"))
                self._ended.set()
            case kind:
                raise RuntimeError(f"unexpected ASGI message {kind!r} in a lifespan call")
