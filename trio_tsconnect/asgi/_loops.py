"""The event loops on which an application can run: trio, or an asyncio loop in its own thread.

Theory of operation
-------------------

`TrioLoop` only calls the application. `AsyncioLoop` is hard: the application waits on asyncio, its client on trio, and each side may be
cancelled or end at any moment. Neither trio's nor asyncio's objects are thread-safe: a `trio.Event` must not be set from the asyncio
thread, nor a future from trio's thread. A blocking hand-over (`trio.from_thread.run`, `Future.result`) stops all other calls on the loop
that waits.

Invariant: an object that a task waits on (event, nursery, future, task) is used only in the thread of its own loop. One loop reaches the
other only with `TrioToken.run_sync_soon` and `call_soon_threadsafe`. Neither blocks. A message to a loop that has ended is dropped, and a
result for a future that is already done is ignored. Only `at_once` runs in the other thread: it reads and sets plain flags.

`receive` and `send` of the application create an asyncio future and ask trio to start a task in the nursery of the call. That task runs the
real `receive` or `send` and hands its result to the future. So back-pressure and exceptions pass through both loops.

Cancellation on trio cancels the asyncio task and waits for its end, shielded, for `_PATIENCE` seconds. After that the task is abandoned and
an error is logged; no call can hang the proxy. Cancellation of a `receive` on asyncio does not cancel the task on trio: a message could be
lost between the two loops. The future stays pending, and the next `receive` returns its message.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from typing import Any

import trio

from trio_tsconnect.asgi._types import Application, AtOnce, Message, Receive, Scope, Send, logger

_PATIENCE = 5.0  # seconds to wait for a cancelled call, and for the thread of a stopped loop


class TrioLoop:
    """A loop for applications that use trio. Calls run in the task that makes them."""

    @asynccontextmanager
    async def open(self) -> AsyncIterator[None]:
        """Do nothing: the trio loop is running already."""
        yield

    async def call(self, application: Application, scope: Scope, receive: Receive, send: Send, at_once: AtOnce) -> None:
        """Call the application in this task. `at_once` is not used."""
        await application(scope, receive, send)


class AsyncioLoop:
    """A loop for applications that use asyncio. Calls are tasks on an asyncio loop, whose thread lives as long as the block of `open`."""

    def __init__(self) -> None:
        self._loop: asyncio.AbstractEventLoop | None = None

    @asynccontextmanager
    async def open(self) -> AsyncIterator[None]:
        """Start the thread and its loop. On exit stop the loop, and wait at most `_PATIENCE` seconds for the thread to end.

        Raises `RuntimeError` if the loop does not start.
        """
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
            started.set()  # also here: if asyncio.run fails before main() runs, the wait below must end
            ended.set()

        trio.lowlevel.start_thread_soon(lambda: asyncio.run(main()), lambda _result: _tell_trio(token, end), name="ASGI asyncio loop")
        # Shielded, because the thread runs already and `stop`, the only way to end it, exists only after this. The wait is short.
        with trio.CancelScope(shield=True):
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
                logger.error("the asyncio loop of an application did not end in time: its thread is abandoned")
            self._loop = None

    def _tell(self, function: Callable[..., object], *args: Any) -> None:
        if self._loop is not None:
            with contextlib.suppress(RuntimeError):  # raised if the loop is closed: then nothing is left to do
                self._loop.call_soon_threadsafe(function, *args)

    async def call(self, application: Application, scope: Scope, receive: Receive, send: Send, at_once: AtOnce) -> None:
        """Call the application in a task on the asyncio loop.

        Raises what the application raises, and `RuntimeError` if the loop has ended or the application's task was cancelled on asyncio.
        Cancelling this call cancels that task and waits at most `_PATIENCE` seconds for it to end.
        """
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
                    logger.error(
                        "the application did not end after its call for %s was cancelled: the call is abandoned", scope.get("path")
                    )
                raise
            finally:
                call.over = True  # before the nursery closes: `_begin` may still run later, and must not start a task in it
                nursery.cancel_scope.cancel()
        if call.error is not None:
            raise call.error


class _Call:
    """One call on the asyncio loop. The methods are grouped by the loop on which they run."""

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
        """Start the task of the application."""
        self._task = self._loop.create_task(self._run())
        # Not at the end of `_run`: a task that is cancelled before its first step never runs, and `done` would never be set.
        self._task.add_done_callback(lambda _task: _tell_trio(self._token, self.done.set))

    def cancel(self) -> None:
        """Cancel the task of the application."""
        if self._task is not None:
            self._task.cancel()

    async def _run(self) -> None:
        try:
            await self._application()
        except asyncio.CancelledError:
            # trio must not see asyncio's exception. If trio cancelled the call, trio.Cancelled is raised there instead of this.
            self.error = RuntimeError("the application's task was cancelled")
        except BaseException as exc:  # noqa: BLE001 - raised by `AsyncioLoop.call`; a SystemExit here would stop the asyncio loop
            self.error = exc

    async def receive(self) -> Message:
        """Return the next message. This is the application's `receive`.

        If it is cancelled, the next call returns the message that this one waited for.
        """
        while True:
            if (message := self._at_once()) is not None:
                return message
            if self._pending is None:
                self._pending = self._ask(self._trio_receive)
            pending = self._pending
            if not pending.done():
                await asyncio.wait([pending])  # not `await pending`: a cancellation would cancel the future and lose its message
            if self._pending is pending:  # else another `receive`, which waited for the same future, has taken the message
                self._pending = None
                return pending.result()

    async def send(self, message: Message) -> None:
        """Send a message, and return when trio's `send` has returned.

        This is the application's `send`. Raises what trio's `send` raises.
        """
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
        except Exception as exc:  # noqa: BLE001 - raised in the application, by the `receive` or `send` that waits for this
            self._tell(_settle, future, future.set_exception, exc)
        except BaseException:
            self._tell(future.cancel)
            raise
        else:
            self._tell(_settle, future, future.set_result, result)

    def _tell(self, function: Callable[..., object], *args: Any) -> None:
        with contextlib.suppress(RuntimeError):  # raised if the loop is closed: then no task waits for the result
            self._loop.call_soon_threadsafe(function, *args)


def _settle(future: asyncio.Future[Any], settle: Callable[[Any], None], value: object) -> None:
    if not future.done():  # it was cancelled on asyncio while trio was working; setting a result would raise
        settle(value)


def _tell_trio(token: trio.lowlevel.TrioToken, function: Callable[..., object], *args: Any) -> None:
    with contextlib.suppress(trio.RunFinishedError):  # an abandoned thread may outlive the trio run
        token.run_sync_soon(function, *args)
