"""The engine: the implementation of `Proxy`. It registers sessions and front ends while `open_proxy` keeps it open."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import attrs
import trio

from trio_tsconnect.config import ProxyConfig, admits
from trio_tsconnect.engine._core import Core, next_id
from trio_tsconnect.engine._gone import sweep
from trio_tsconnect.engine._serve import serve_session
from trio_tsconnect.engine._session import EngineSession
from trio_tsconnect.engine._transaction import EngineTransaction
from trio_tsconnect.engine._tree import live_tree
from trio_tsconnect.hooks import ConnectOptions, ConnectRefused, FrontEnd, Hooks, Plugin, Proxy, ProxyStatistics, TreeNode
from trio_tsconnect.log import Log
from trio_tsconnect.stream import ClientInfo, Identity, VirtualConnection, close_gently, make_pair, window_of

logger = logging.getLogger("trio_tsconnect")


@attrs.frozen(eq=False)
class RegisteredFrontEnd(FrontEnd):
    """A front end that is registered with the engine."""

    _engine: Engine
    drain: Callable[[], object]
    """Called once when the engine begins to drain."""
    end: Callable[[], object]
    """Called when the engine cancels the remaining sessions."""

    def connect(self, options: ConnectOptions, *, client: ClientInfo | None = None) -> VirtualConnection:
        self._engine.core.check_run("connect()")
        ours, session = self._engine.open_session(options, None, nursery=None, client=client)
        session.awaited = True  # a drain must not close it before its request arrives
        return ours


class Engine(Proxy):
    """Implementation of `Proxy`; the public methods are documented there."""

    def __init__(self, config: ProxyConfig, hooks: Hooks, rule_hooks: dict[int, Hooks], log: Log, nursery: trio.Nursery) -> None:
        self.config = config
        self.core: Core = Core(config, hooks, rule_hooks, log, self, self.open_session)
        self._nursery = nursery
        self._sessions: set[EngineSession] = set()
        self._internal = 0
        self._virtual = 0
        self._front_ends: set[RegisteredFrontEnd] = set()
        self._drains = trio.Event()
        self._idle = trio.Event()
        self._idle.set()

    @property
    def draining(self) -> bool:
        return self.core.draining

    def start(self, nursery: trio.Nursery) -> None:
        """Start the engine's background tasks in `nursery`: the origin pool, the sweep for clients that are gone, and the timer."""
        nursery.start_soon(self.core.pool.run, name="origin pool")
        nursery.start_soon(sweep, self.core, self._sessions, name="sweep")
        nursery.start_soon(self.core.timer.run, name="timer")

    # ------------------------------------------------------------------------------------------------------------------------- new sessions

    async def serve_stream(self, stream: trio.abc.Stream, *, client: ClientInfo | None = None, received: bytes = b"") -> None:
        self.core.check_run("serve_stream()")
        if self.core.draining or self._is_full():
            await _turn_away(stream)
            return
        session = EngineSession(self.core, stream, client, self._forget)
        if self.config.access and not admits(self.config.access, client=session.client, internal=False):
            await _turn_away(stream)
            return
        if received:
            session.http.feed(received)
        self._admit(session)
        await serve_session(session)

    def connect(self, options: ConnectOptions | None = None) -> VirtualConnection:
        self.core.check_run("connect()")
        if self.core.draining and not self.core.closed:  # `open_session` refuses a closed proxy, with the reason "closed"
            raise ConnectRefused("draining")
        return self.open_session(options or ConnectOptions(), None, nursery=None)[0]

    def open_session(
        self,
        options: ConnectOptions,
        parent: EngineTransaction | None,
        *,
        nursery: trio.Nursery | None,
        detached: bool = False,
        client: ClientInfo | None = None,
    ) -> tuple[VirtualConnection, EngineSession]:
        """Open a virtual connection and start its session in `nursery`; None means the proxy's nursery.

        Return the opener's end and the session. Synchronous. Raise `ConnectRefused` before anything is counted or started.
        `parent`: the transaction that opens the connection. `client` overrides `options.client`.
        """
        client = client or options.client
        internal = client is None if options.internal is None else options.internal
        if self.core.closed:
            raise ConnectRefused("closed")
        if self.config.access and not admits(self.config.access, client=client, internal=internal):
            raise ConnectRefused("denied")
        # A tree of internal requests counts once in `max_concurrent_internal`: a child of an internal transaction ends with its parent, so
        # the parent's count covers it. A detached child can outlive its parent, so it counts for itself.
        counts = internal and (parent is None or detached or not parent.internal)
        if counts and self._internal >= self.config.http.max_concurrent_internal:
            raise ConnectRefused("concurrency")
        identity = Identity(
            tag=options.tag,
            id=options.id,
            internal=internal,
            opener_address=("virtual", 0) if client is None else (client.host, client.port or 0),
            peer_address=options.target or ("virtual", 0),
            client=client,
        )
        ours, theirs = make_pair(identity, window_of(options.buffer_index), options.buffer_water_mark)
        session = EngineSession(self.core, theirs, client, self._forget, options, parent, internal=internal)
        session.detached = detached
        session.counts_as_internal = counts
        self._internal += counts
        self._virtual += 1
        self._admit(session)
        (nursery or self._nursery).start_soon(serve_session, session, name=f"session {session.number}")
        return ours, session

    @staticmethod
    def next_id() -> int:
        return next_id()

    def plugins(self) -> tuple[Plugin, ...]:
        found = {id(plugin): plugin for hooks in self.core.all_hooks() for plugin in hooks.plugins}
        return tuple(found.values())

    def tree(self) -> tuple[TreeNode, ...]:
        return live_tree(self._sessions)

    @property
    def sessions(self) -> tuple[EngineSession, ...]:
        return tuple(self._sessions)

    def statistics(self) -> ProxyStatistics:
        pool = self.core.pool.statistics()
        return ProxyStatistics(
            sessions=len(self._sessions),
            transactions=sum(session.transaction is not None for session in self._sessions),
            origin_idle=pool.idle,
            origin_taken=pool.taken,
            origin_waiting=pool.waiting,
        )

    # ------------------------------------------------------------------------------------------------------------- registration, drain, end

    @contextmanager
    def front_end(self, *, drain: Callable[[], object], end: Callable[[], object], client: ClientInfo | None = None) -> Iterator[FrontEnd]:
        self.core.check_run("front_end()")
        if self.core.closed:
            raise ConnectRefused("closed")
        if client is not None and self.config.access and not admits(self.config.access, client=client, internal=False):
            raise ConnectRefused("denied")
        if self._is_full():
            raise ConnectRefused("concurrency")
        front_end = RegisteredFrontEnd(self, drain, end)
        self._busy()
        self._front_ends.add(front_end)
        try:
            if self.core.draining:
                drain()
            yield front_end
        finally:
            self._front_ends.discard(front_end)
            self._rest()

    def _is_full(self) -> bool:
        most = self.config.http.max_connections
        return most is not None and len(self._sessions) - self._virtual + len(self._front_ends) >= most

    def _busy(self) -> None:
        if self._idle.is_set():
            self._idle = trio.Event()  # trio events cannot be cleared

    def _rest(self) -> None:
        if not self._sessions and not self._front_ends:
            self._idle.set()

    def _admit(self, session: EngineSession) -> None:
        self._busy()
        self._sessions.add(session)

    def _forget(self, session: EngineSession) -> None:
        """Remove a session that has ended, and what it counted for."""
        self._sessions.discard(session)
        self._internal -= session.counts_as_internal
        self._virtual -= session.virtual
        self._rest()

    async def drain(self, seconds: float) -> bool:
        self.core.check_run("drain()")
        self._begin_to_drain()
        for session in list(self._sessions):
            if session.requests or not session.awaited:  # of an awaited session the first request is still to come
                session.stop_idling()
        for front_end in list(self._front_ends):
            _tell(front_end.drain)
        with trio.move_on_after(seconds):
            await self._rested()
        return self._idle.is_set()

    async def _rested(self) -> None:
        while not self._idle.is_set():  # a session may have been admitted between the end of the last one and this wake-up
            await self._idle.wait()

    def _begin_to_drain(self) -> None:
        self.core.draining = True
        self._drains.set()

    async def wait_until_draining(self) -> None:
        await self._drains.wait()

    async def _end(self) -> None:
        """Cancel the remaining sessions and front ends; wait until they have ended, for `2 * http.close_timeout` seconds at most.

        This includes sessions whose tasks run in a nursery of the caller (`serve_stream`). The wait is shielded from cancellation.
        """
        self._begin_to_drain()
        self.core.closed = True  # before the cancellation: code that runs during it must not open new sessions
        for session in list(self._sessions):
            session.cancel("proxy", "closed")
        for front_end in list(self._front_ends):
            _tell(front_end.end)
        with trio.CancelScope(shield=True, deadline=trio.current_time() + 2 * self.config.http.close_timeout):
            await self._rested()

    def __repr__(self) -> str:
        state = "closed" if self.core.closed else "draining" if self.core.draining else "open"
        return f"<Proxy {state}, {len(self._sessions)} sessions>"


def _tell(callback: Callable[[], object]) -> None:
    """Call `drain` or `end` of a front end. Log an exception, so that the other front ends are still called."""
    try:
        callback()
    except Exception:
        logger.exception("drain() or end() of a front end raised")


async def _turn_away(stream: trio.abc.Stream) -> None:
    """Close a stream that gets no session. Log an exception instead of raising it: `serve_stream` must not raise."""
    try:
        await close_gently(stream, 0)
    except Exception:
        logger.exception("closing a rejected stream failed")
