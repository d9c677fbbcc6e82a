"""An ASGI application as an origin. It runs as long as `AsgiOrigin.run` and answers on any stream that `AsgiOrigin.serve` is given.

Invariant: the lifespan, the calls and the loop of the application live inside `run`. When `run` has ended, nothing of the application still
runs, except an asyncio call or thread that did not end in time: it is abandoned, and an error is logged. After a cancellation `run` ends in
bounded time if the application does not shield itself from cancellation on trio.
"""

from __future__ import annotations

from typing import Literal

import trio

from trio_tsconnect import Plugin, Proxy, Transaction
from trio_tsconnect._util import public
from trio_tsconnect.asgi._connection import Connection, Service
from trio_tsconnect.asgi._lifespan import Lifespan
from trio_tsconnect.asgi._loops import AsyncioLoop, TrioLoop
from trio_tsconnect.asgi._types import Application, Loop
from trio_tsconnect.stream import close_now


@public("trio_tsconnect.asgi")
class LifespanFailed(Exception):
    """The application could not start up. The text is the reason that it gave."""


@public("trio_tsconnect.asgi")
class AsgiOrigin:
    """An ASGI 3 application that answers HTTP/1.1 on any stream, in this process.

    `loop`: "trio" calls the application on trio; "asyncio" calls it on an asyncio loop in its own thread, for applications that use
    asyncio. `root_path`: the path at which the application is mounted, as in the `root_path` of its scopes; "" or "/..." without a "/" at
    the end.

    `grace`: a limit in seconds for each of three things: a call whose client has disconnected; all calls together once `run` is cancelled;
    and then the application's shutdown. Calls that take longer are cancelled.

    Either give `plugin()` to a proxy or to a remap rule, or start `run` in a nursery and call `serve` with streams. In a configuration
    file, write `to = "asgi:package.module:app"`.
    """

    def __init__(
        self, application: Application, *, loop: Literal["trio", "asyncio"] = "trio", root_path: str = "", grace: float = 10.0
    ) -> None:
        if not callable(application):
            raise TypeError(f"an ASGI application must be callable, not {application!r}")
        if loop not in ("trio", "asyncio"):
            raise ValueError(f'loop must be "trio" or "asyncio", not {loop!r}')
        if root_path and (not root_path.startswith("/") or root_path.endswith("/")):
            raise ValueError(f'root_path must be "" or begin with "/" and not end with "/", not {root_path!r}')
        if not grace >= 0:  # also false for NaN
            raise ValueError(f"grace must be a number of seconds of at least 0, not {grace!r}")
        self._application = application
        self._loop_name: Literal["trio", "asyncio"] = loop
        self._root_path = root_path
        self._grace = grace
        self._running = False
        self._why_not = "it was not started: run() must be running"
        self._decided = trio.Event()
        self._service: Service | None = None

    def plugin(self, host: str | None = None) -> AsgiPlugin:
        """Return a plugin that runs the application while the proxy is open and makes it the origin of transactions.

        As a plugin of the proxy it takes all transactions; as a plugin of a remap rule, those of that rule. With `host` it takes only those
        whose target after remap is on that host. It never takes a CONNECT.
        """
        return AsgiPlugin(self, host)

    async def run(self, *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        """Start the application, and serve until cancelled. Then wait for its calls and shut it down, each for at most `grace` seconds.

        Calls `task_status.started()` when the application has started up. Raises `LifespanFailed` if the startup fails, and `RuntimeError`
        if the origin is running already.
        """
        if self._running:
            raise RuntimeError(f"{self!r} is running already")
        self._running = True
        self._decided = trio.Event()
        self._why_not = "it is stopping"
        loop = AsyncioLoop() if self._loop_name == "asyncio" else TrioLoop()
        lifespan = Lifespan(self._application, loop)
        try:
            async with loop.open(), trio.open_nursery() as nursery:
                nursery.start_soon(lifespan.run, name="ASGI lifespan")
                try:
                    await lifespan.startup()
                    if lifespan.failure is None:
                        await self._serve_calls(nursery, loop, lifespan, task_status)
                finally:
                    # Shielded, so that the application is shut down also when `run` is cancelled. `end` is bounded by `grace`.
                    with trio.CancelScope(shield=True):
                        await lifespan.end(self._grace)
            if lifespan.failure is not None:
                self._why_not = f"it did not start up: {lifespan.failure}"
                raise LifespanFailed(lifespan.failure)
        finally:
            self._running = False
            self._decided.set()  # wakes every `serve` that still waits for the startup

    async def _serve_calls(self, nursery: trio.Nursery, loop: Loop, lifespan: Lifespan, task_status: trio.TaskStatus[None]) -> None:
        # Shielded, so that calls get `grace` seconds after `run` is cancelled. The deadline set below cancels them then.
        calls_scope = trio.CancelScope(shield=True)
        opened, closing, ended = trio.Event(), trio.Event(), trio.Event()

        async def hold() -> None:
            try:
                with calls_scope:
                    async with trio.open_nursery() as calls:
                        self._service = Service(
                            application=self._application,
                            loop=loop,
                            calls=calls,
                            state=lifespan.state,
                            root_path=self._root_path,
                            websockets=set(),
                            grace=self._grace,
                        )
                        opened.set()
                        await closing.wait()
                        self._service = None  # first: from here on `serve` must not start connections in this nursery
            finally:
                ended.set()

        # Not `nursery.start`: when cancelled, it would wait for a shielded task that waits for `closing`, which is set only below.
        nursery.start_soon(hold, name="ASGI calls")
        try:
            await opened.wait()
            self._decided.set()
            task_status.started()
            await trio.sleep_forever()
        finally:
            calls_scope.deadline = trio.current_time() + self._grace
            closing.set()
            with trio.CancelScope(shield=True):
                await ended.wait()

    def go_away(self) -> None:
        """Close every open WebSocket with code 1001 (RFC 6455 §7.4.1). The application receives `websocket.disconnect` with this code.

        Synchronous: it starts tasks that send the close frames.
        """
        for exchange in list(self._service.websockets) if self._service is not None else ():
            exchange.go_away()

    async def serve(self, stream: trio.abc.Stream) -> None:
        """Answer the requests on a stream, one after another, then close it. A handler for `trio.serve_listeners` and for `txn.intercept`.

        Waits for the startup of the application. Raises `RuntimeError` if it is not running. Cancellation closes the stream; the current
        call receives `http.disconnect` or `websocket.disconnect`.
        """
        try:
            if self._running:
                await self._decided.wait()
            if self._service is None:
                raise RuntimeError(f"{self!r} cannot answer: {self._why_not}")
            connection = Connection(self._service, stream)
            self._service.calls.start_soon(connection.run, name="ASGI connection")
        except BaseException:
            await close_now(stream)
            raise
        try:
            await connection.released.wait()
        finally:
            connection.drop()
            await close_now(stream)

    def __repr__(self) -> str:
        name = getattr(self._application, "__name__", None) or type(self._application).__name__
        state = "running" if self._service is not None else "not running"
        return f"<AsgiOrigin {name} on {self._loop_name}, {state}>"


@public("trio_tsconnect.asgi")
class AsgiPlugin(Plugin):
    """The plugin that `AsgiOrigin.plugin` returns: it makes the application the origin of transactions."""

    def __init__(self, origin: AsgiOrigin, host: str | None) -> None:
        self._origin = origin
        self._host = None if host is None else host.lower()

    async def run(self, proxy: Proxy) -> None:
        """Run the application while the proxy is open. When the proxy drains, close the WebSockets with code 1001."""
        failure: Exception | None = None
        async with trio.open_nursery() as nursery:
            nursery.start_soon(self._say_goodbye, proxy)
            try:
                await self._origin.run()
            except Exception as exc:  # noqa: BLE001 - raised below, outside the nursery, which would wrap it in a group
                failure = exc
            nursery.cancel_scope.cancel()
        if failure is not None:
            raise failure

    async def _say_goodbye(self, proxy: Proxy) -> None:
        await proxy.wait_until_draining()
        self._origin.go_away()

    async def pre_remap(self, txn: Transaction) -> None:
        """Intercept a transaction that has no route, so that an application needs no remap rule."""
        if not txn.has_route:
            self._take(txn)

    async def post_remap(self, txn: Transaction) -> None:
        """Intercept the transaction, unless it is a CONNECT, its URL is on another host, or a plugin has intercepted it."""
        self._take(txn)

    def _take(self, txn: Transaction) -> None:
        if txn.answered_by is not None or txn.request.method == "CONNECT":  # a tunnel to another server is not for the application
            return
        if self._host is None or txn.request.url.host == self._host:
            txn.intercept(self._origin.serve)
