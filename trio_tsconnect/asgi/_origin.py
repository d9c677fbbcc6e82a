"""The application as an origin: it runs as long as `run` does, and serves whatever stream it is handed.

The law: everything that the application does lives in the task of `run`: its lifespan, its calls, its loop. Nothing of it is left when
that has ended, and it ends in bounded time.
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
from trio_tsconnect.message import TargetURI
from trio_tsconnect.stream import close_now


@public("trio_tsconnect.asgi")
class LifespanFailed(Exception):
    """The application has said that it cannot start up; the text is its reason."""


@public("trio_tsconnect.asgi")
class AsgiOrigin:
    """An ASGI 3 application that answers HTTP/1.1 on any stream, in this process.

    `loop`: "trio" calls the application on trio; "asyncio" on an asyncio loop in a thread of its own, for applications that use asyncio.
    `root_path`: where it is mounted, as the `root_path` of its scopes. `grace`: how many seconds a call may go on once its client has gone, and all
    of them together, and then the shutdown, once `run` is cancelled; what is longer is cancelled.

    Either give `plugin()` to a proxy or a remap rule, or start `run` in a nursery and give `serve` to whatever has streams. In a
    configuration file it is `to = "asgi:package.module:app"`.
    """

    def __init__(
        self, application: Application, *, loop: Literal["trio", "asyncio"] = "trio", root_path: str = "", grace: float = 10.0
    ) -> None:
        if not callable(application):
            raise TypeError(f"an ASGI application is callable, and {application!r} is not")
        if loop not in ("trio", "asyncio"):
            raise ValueError(f'loop must be "trio" or "asyncio", not {loop!r}')
        if root_path and (not root_path.startswith("/") or root_path.endswith("/")):
            raise ValueError(f'root_path must be "" or begin with / and not end with it, not {root_path!r}')
        if not grace >= 0:
            raise ValueError(f"grace must be a number of seconds, not {grace!r}")
        self._application = application
        self._loop_name: Literal["trio", "asyncio"] = loop
        self._root_path = root_path
        self._grace = grace
        self._running = False
        self._why_not = "it has not been started: run() must be running"
        self._decided = trio.Event()
        self._service: Service | None = None

    def plugin(self, host: str | None = None) -> AsgiPlugin:
        """A plugin that runs the application while the proxy is open, and makes it the origin of the transactions that it is asked about.

        These are all of the proxy's, or of a remap rule's where it is one of the rule's plugins; with `host` only those whose target, once
        remapped, is on that host.
        """
        return AsgiPlugin(self, host)

    async def run(self, *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        """Start the application up, and serve until cancelled; then let its calls end, and shut it down.

        `task_status.started()` once it has started up. `LifespanFailed` when it cannot; `RuntimeError` when it is running already.
        """
        if self._running:
            raise RuntimeError(f"{self!r} is running already")
        self._running = True
        self._decided = trio.Event()
        self._why_not = "it is ending"
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
                    with trio.CancelScope(shield=True):
                        await lifespan.end(self._grace)
            if lifespan.failure is not None:
                self._why_not = f"it did not start up: {lifespan.failure}"
                raise LifespanFailed(lifespan.failure)
        finally:
            self._running = False
            self._decided.set()

    async def _serve_calls(self, nursery: trio.Nursery, loop: Loop, lifespan: Lifespan, task_status: trio.TaskStatus[None]) -> None:
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
                        self._service = None
            finally:
                ended.set()

        # Not `nursery.start`: cancelled, it would wait for a task that is shielded and waits for `closing`.
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
        """Tell the clients of open WebSockets that the server goes away (close code 1001, RFC 6455 §7.4.1), and the application that they left."""
        for exchange in list(self._service.websockets) if self._service is not None else ():
            exchange.go_away()

    async def serve(self, stream: trio.abc.Stream) -> None:
        """Answer the requests that come on a stream, one after another, and close it: a handler for `trio.serve_listeners`, and for `txn.intercept`.

        Waits for the startup. `RuntimeError` when the application does not run. When this is cancelled the connection is closed, and its call is
        told that the client has gone.
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
    """An application's part in a proxy; made by `AsgiOrigin.plugin`."""

    def __init__(self, origin: AsgiOrigin, host: str | None) -> None:
        self._origin = origin
        self._host = None if host is None else host.lower()

    async def run(self, proxy: Proxy) -> None:
        """Run the application while the proxy is open; when it drains, its WebSockets are told."""
        failure: Exception | None = None
        async with trio.open_nursery() as nursery:
            nursery.start_soon(self._say_goodbye, proxy)
            try:
                await self._origin.run()
            except Exception as exc:  # noqa: BLE001 - raised again, in no group
                failure = exc
            nursery.cancel_scope.cancel()
        if failure is not None:
            raise failure

    async def _say_goodbye(self, proxy: Proxy) -> None:
        await proxy.wait_until_draining()
        self._origin.go_away()

    async def post_remap(self, txn: Transaction) -> None:
        """Be the origin."""
        if txn.request.method == "CONNECT":  # a tunnel to somewhere else
            return
        if self._host is None or TargetURI.parse(txn.request.target).host == self._host:
            txn.intercept(self._origin.serve)
