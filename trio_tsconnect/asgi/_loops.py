"""Where an application runs: on trio, in the tasks that serve it, or on an asyncio loop in a thread of its own.

The law of the second: the two loops share no object that either waits on. What one has to tell the other it hands over by the one call that
each has for that (`TrioToken.run_sync_soon`, `call_soon_threadsafe`), and what comes too late is dropped.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from typing import Any

import trio

from trio_tsconnect.asgi._types import Application, AtOnce, Message, Receive, Scope, Send, logger

_PATIENCE = 5.0


class TrioLoop:
    """Calls are made in the task that asks for them."""

    @asynccontextmanager
    async def open(self) -> AsyncIterator[None]:
        """Nothing is needed."""
        yield

    async def call(self, application: Application, scope: Scope, receive: Receive, send: Send, at_once: AtOnce) -> None:
        """Call it."""
        await application(scope, receive, send)


class AsyncioLoop:
    """Calls are tasks of an asyncio loop in a thread, which lives as long as the block of `open`."""

    def __init__(self) -> None:
        self._loop: asyncio.AbstractEventLoop | None = None

    @asynccontextmanager
    async def open(self) -> AsyncIterator[None]:
        """Start the thread; at the end stop the loop, and wait until the thread has ended, for some seconds at most."""
        token = trio.lowlevel.current_trio_token()
        started, ended = trio.Event(), trio.Event()
        stop: asyncio.Event | None = None

        async def main() -> None:
            nonlocal stop
            stop = asyncio.Event()
            self._loop = asyncio.get_running_loop()
            _tell_trio(token, started.set)
            await stop.wait()

        def end() -> None:
            started.set()
            ended.set()

        trio.lowlevel.start_thread_soon(lambda: asyncio.run(main()), lambda _result: _tell_trio(token, end), name="ASGI asyncio loop")
        with trio.CancelScope(shield=True):  # a thread starts at once
            await started.wait()
        if stop is None:
            raise RuntimeError("the asyncio loop of the application did not start")
        try:
            yield
        finally:
            self._tell(stop.set)
            with trio.move_on_after(_PATIENCE) as scope:
                scope.shield = True
                await ended.wait()
            if scope.cancelled_caught:
                logger.error("the asyncio loop of an application does not end: it is left behind")
            self._loop = None

    def _tell(self, function: Callable[..., object], *args: Any) -> None:
        if self._loop is not None:
            with contextlib.suppress(RuntimeError):  # the loop is closed
                self._loop.call_soon_threadsafe(function, *args)

    async def call(self, application: Application, scope: Scope, receive: Receive, send: Send, at_once: AtOnce) -> None:
        """Call it in a task of its own; a cancellation cancels that task, and waits for its end for some seconds at most."""
        if self._loop is None:
            raise RuntimeError("the asyncio loop of the application has ended")
        async with trio.open_nursery() as nursery:
            call = _Call(self._loop, nursery, lambda: application(scope, call.receive, call.send), receive, send, at_once)
            self._loop.call_soon_threadsafe(call.start)
            try:
                await call.done.wait()
            except trio.Cancelled:
                self._tell(call.cancel)
                with trio.move_on_after(_PATIENCE) as waiting:
                    waiting.shield = True
                    await call.done.wait()
                if waiting.cancelled_caught:
                    logger.error("the application does not end when its call of %s is cancelled: it is left behind", scope.get("path"))
                raise
            finally:
                call.over = True
                nursery.cancel_scope.cancel()
        if call.error is not None:
            raise call.error


class _Call:
    """One call, as both loops know it."""

    def __init__(
        self,
        loop: asyncio.AbstractEventLoop,
        nursery: trio.Nursery,
        application: Callable[[], Awaitable[None]],
        receive: Receive,
        send: Send,
        at_once: AtOnce,
    ) -> None:
        self.done = trio.Event()
        self.over = False
        self.error: BaseException | None = None
        self._loop = loop
        self._token = trio.lowlevel.current_trio_token()
        self._nursery = nursery
        self._application = application
        self._trio_receive = receive
        self._trio_send = send
        self._at_once = at_once
        self._task: asyncio.Task[None] | None = None
        self._pending: asyncio.Future[Message] | None = None

    # ----------------------------------------------------------------------------------------------------------------- on asyncio

    def start(self) -> None:
        """Begin."""
        self._task = self._loop.create_task(self._run())
        # Not at the end of `_run`: a task that is cancelled before its first step never runs.
        self._task.add_done_callback(lambda _task: _tell_trio(self._token, self.done.set))

    def cancel(self) -> None:
        """Cancel the application."""
        if self._task is not None:
            self._task.cancel()

    async def _run(self) -> None:
        try:
            await self._application()
        except asyncio.CancelledError:
            self.error = RuntimeError("the application's task was cancelled")
        except BaseException as exc:  # noqa: BLE001 - it is raised where the call was made
            self.error = exc

    async def receive(self) -> Message:
        """What the application gets as `receive`. A message that came for a cancelled one is kept for the next."""
        while True:
            if (message := self._at_once()) is not None:
                return message
            if self._pending is None:
                self._pending = self._ask(self._trio_receive)
            pending = self._pending
            if not pending.done():
                await asyncio.wait([pending])
            if self._pending is pending:
                self._pending = None
                return pending.result()

    async def send(self, message: Message) -> None:
        """What the application gets as `send`."""
        await self._ask(self._trio_send, message)

    def _ask(self, work: Callable[..., Awaitable[Any]], *args: Any) -> asyncio.Future[Any]:
        future = self._loop.create_future()
        _tell_trio(self._token, self._begin, future, work, args)
        return future

    # -------------------------------------------------------------------------------------------------------------------- on trio

    def _begin(self, future: asyncio.Future[Any], work: Callable[..., Awaitable[Any]], args: tuple[Any, ...]) -> None:
        if self.over:
            self._tell(future.cancel)
        else:
            self._nursery.start_soon(self._work, future, work, args)

    async def _work(self, future: asyncio.Future[Any], work: Callable[..., Awaitable[Any]], args: tuple[Any, ...]) -> None:
        try:
            result = await work(*args)
        except Exception as exc:  # noqa: BLE001 - it is raised where it was asked for
            self._tell(_settle, future, future.set_exception, exc)
        except BaseException:
            self._tell(future.cancel)
            raise
        else:
            self._tell(_settle, future, future.set_result, result)

    def _tell(self, function: Callable[..., object], *args: Any) -> None:
        with contextlib.suppress(RuntimeError):  # the loop is closed
            self._loop.call_soon_threadsafe(function, *args)


def _settle(future: asyncio.Future[Any], settle: Callable[[Any], None], value: object) -> None:
    if not future.done():
        settle(value)


def _tell_trio(token: trio.lowlevel.TrioToken, function: Callable[..., object], *args: Any) -> None:
    with contextlib.suppress(trio.RunFinishedError):
        token.run_sync_soon(function, *args)
