"""The engine: what holds sessions, the pool, the plugins and the log together while `open_proxy` keeps it open."""

from __future__ import annotations

import itertools
import logging
import time
from collections.abc import AsyncIterable, Callable, Coroutine, Iterator
from contextlib import AbstractAsyncContextManager, contextmanager
from typing import Any

import attrs
import trio

from trio_tsconnect._util import public
from trio_tsconnect.config import ProxyConfig, RemapRule, RemapTable, admits
from trio_tsconnect.engine._children import open_child
from trio_tsconnect.engine._flow import run_transaction
from trio_tsconnect.engine._gone import Sweep
from trio_tsconnect.engine._hooks import fire_closing
from trio_tsconnect.engine._plugin import HookMethod, Hooks, Plugin
from trio_tsconnect.engine._session import Session
from trio_tsconnect.engine._timer import Timer
from trio_tsconnect.engine._transaction import Transaction
from trio_tsconnect.engine._tree import TreeNode, live_tree
from trio_tsconnect.hooks import ConnectOptions, ConnectRefused
from trio_tsconnect.log import Log, LogRecord
from trio_tsconnect.message import Request
from trio_tsconnect.origin import Pool
from trio_tsconnect.stream import (
    ClientInfo,
    FetchedResponse,
    HeadLimits,
    Identity,
    VirtualConnection,
    close_gently,
    fetch,
    make_pair,
    window_of,
)

logger = logging.getLogger("trio_tsconnect")
_ids = itertools.count(1)


@public("trio_tsconnect")
@attrs.frozen(kw_only=True)
class ProxyStatistics:
    """What an engine holds at one moment."""

    sessions: int
    """Client streams that are being served, virtual ones included."""
    transactions: int
    """Requests that are being served."""
    origin_idle: int
    """Origin connections that wait for a request."""
    origin_taken: int
    """Origin connections that serve one, or are being made."""
    origin_waiting: int
    """Transactions that wait for an origin connection."""


@public("trio_tsconnect")
@attrs.frozen(eq=False)
class FrontEnd:
    """One client connection of another protocol, as the proxy knows it; made by `Proxy.front_end`."""

    _proxy: Proxy
    drain: Callable[[], object]
    """Called when the proxy begins to drain."""
    end: Callable[[], object]
    """Called when the proxy cancels what is left."""

    def connect(self, options: ConnectOptions, *, client: ClientInfo | None = None) -> VirtualConnection:
        """As `Proxy.connect`, but not refused while the proxy drains: the front end itself knows which request is its last.

        `client` in place of that of the options: so one value of them does for all requests of a connection.
        """
        self._proxy.check_run("connect()")
        ours, session = self._proxy.open_session(options, None, nursery=None, client=client)
        session.awaited = True
        return ours


@public("trio_tsconnect")
class Proxy:
    """The engine. `open_proxy` makes one; it serves until that context ends."""

    def __init__(self, config: ProxyConfig, hooks: Hooks, rule_hooks: dict[int, Hooks], log: Log, nursery: trio.Nursery) -> None:
        self.config = config
        """What it was opened with."""
        # what follows is the engine's
        self.hooks = hooks
        self.log = log
        self.logs: bool = not isinstance(log, Nowhere)
        self.remap: RemapTable = RemapTable(config.remap)
        self._rule_hooks = rule_hooks
        self.head_limits: HeadLimits = HeadLimits(
            request_line=config.http.max_request_line, head=config.http.max_head, fields=config.http.max_fields
        )
        self.pool: Pool = Pool(self.next_id, self.head_limits, config.http.parser)
        self.draining: bool = False
        self.closed: bool = False
        self._nursery = nursery
        self._token = trio.lowlevel.current_trio_token()
        self._sessions: set[Session] = set()
        self._internal = 0
        self._virtual = 0
        self._sweep = Sweep(self)
        self.timer: Timer = Timer()
        self._front_ends: set[FrontEnd] = set()
        self._drains = trio.Event()
        self._idle = trio.Event()
        self._idle.set()

    # --------------------------------------------------------------------------------------------------------------- the two verbs

    async def serve_stream(self, stream: trio.abc.Stream, *, client: ClientInfo | None = None, received: bytes = b"") -> None:
        """Run an HTTP/1 session on a stream until it ends, and close the stream.

        `client`: who is at the other end, where the caller knows better than the stream. `received`: what the caller has read of the stream
        already, to tell what is spoken there. Never raises but for a cancellation, which cancels the transaction in progress (its record is
        still written). On a proxy that is closing the stream is closed at once. A handler for `trio.serve_listeners` as it is.
        """
        self.check_run("serve_stream()")
        most = self.config.http.max_connections
        if self.draining or (most is not None and len(self._sessions) - self._virtual >= most):
            await _turn_away(stream)
            return
        session = Session(self, stream, client)
        if self.config.access and not admits(self.config.access, client=session.client, internal=False):
            await _turn_away(stream)
            return
        if received:
            session.http.feed(received)
        self._admit(session)
        await session.run()

    def connect(self, options: ConnectOptions | None = None) -> VirtualConnection:
        """Open a virtual connection to the engine: write a request, read the response. Synchronous; nothing blocks.

        The session at the other end is a task of the proxy's nursery. The connection is the caller's to close; closing it fully while a
        transaction is in progress cancels that transaction, `send_eof` does not. Raises `ConnectRefused` on a proxy that is closing or closed, when an
        access rule refuses the client altogether, and past `http.max_concurrent_internal`; `RuntimeError` in another thread or trio run than
        the proxy's. Source: `TSHttpConnectPlugin`.
        """
        self.check_run("connect()")
        if self.draining and not self.closed:
            raise ConnectRefused("draining")
        return self.open_session(options or ConnectOptions(), None, nursery=None)[0]

    def fetch(
        self, request: Request, *, body: bytes | AsyncIterable[bytes] = b"", options: ConnectOptions | None = None
    ) -> AbstractAsyncContextManager[FetchedResponse]:
        """Send a request over a virtual connection of its own: `async with proxy.fetch(request) as response`, then read `response.body`.

        `body` is sent while the response is read. Leaving the block closes the connection, and so cancels what has not ended. Raises
        `ConnectRefused`, or `FetchError` when no whole response came.
        """
        return fetch(lambda: self.connect(options), request, body)

    def open_child(self, parent: Transaction, options: ConnectOptions, *, detach: bool) -> VirtualConnection:
        """`Transaction.connect`."""
        return open_child(parent, options, detach=detach)

    def open_session(
        self,
        options: ConnectOptions,
        parent: Transaction | None,
        *,
        nursery: trio.Nursery | None,
        detached: bool = False,
        client: ClientInfo | None = None,
    ) -> tuple[VirtualConnection, Session]:
        """Make a virtual connection and start its session in a nursery (None: the proxy's). Refuses at once, or does all of it."""
        client, internal = client or options.client, options.is_internal
        if self.closed:
            raise ConnectRefused("closed")
        if self.config.access and not admits(self.config.access, client=client, internal=internal):
            raise ConnectRefused("denied")
        # A tree of internal requests takes one place: what is below an internal transaction rides on that one's, for it ends with it.
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
        session = Session(self, theirs, client, options, parent)
        session.detached = detached
        session.counts_as_internal = counts
        self._internal += counts
        self._virtual += 1
        self._admit(session)
        (nursery or self._nursery).start_soon(session.run, name=f"session {session.number}")
        return ours, session

    @staticmethod
    def next_id() -> int:
        """A number that is unique in this process and never 0: for a front end's connections, a plugin's requests, the rows of its own log."""
        return next(_ids)

    def hooks_of(self, rule: RemapRule) -> Hooks:
        """The hooks of a rule's transactions: the proxy's plugins, then the rule's."""
        return self._rule_hooks.get(id(rule), self.hooks)

    def plugins(self) -> tuple[Plugin, ...]:
        """Every plugin once, those of rules included."""
        found = {id(plugin): plugin for hooks in (self.hooks, *self._rule_hooks.values()) for plugin in hooks.plugins}
        return tuple(found.values())

    def tree(self) -> tuple[TreeNode, ...]:
        """The transactions that are alive now: the roots, each with its children."""
        return live_tree(self)

    @property
    def sessions(self) -> tuple[Session, ...]:
        """The client streams that are being served."""
        return tuple(self._sessions)

    def statistics(self) -> ProxyStatistics:
        """What the engine holds at this moment."""
        pool = self.pool.statistics()
        return ProxyStatistics(
            sessions=len(self._sessions),
            transactions=sum(session.transaction is not None for session in self._sessions),
            origin_idle=pool.idle,
            origin_taken=pool.taken,
            origin_waiting=pool.waiting,
        )

    # ------------------------------------------------------------------------------------------------------------------- the books

    @contextmanager
    def front_end(self, *, drain: Callable[[], object], end: Callable[[], object], client: ClientInfo | None = None) -> Iterator[FrontEnd]:
        """Register one client connection of another protocol for as long as it lives; it opens its virtual connections by `FrontEnd.connect`.

        `drain()` is called, synchronously, when the proxy begins to drain (at once if it does so already): take no new requests when you can.
        `end()` is called when what is left is cancelled. Draining waits for registered connections as it does for sessions. Raises
        `ConnectRefused` on a proxy that is closed, and where an access rule refuses the `client` whatever it may ask for.
        """
        self.check_run("front_end()")
        if self.closed:
            raise ConnectRefused("closed")
        if client is not None and self.config.access and not admits(self.config.access, client=client, internal=False):
            raise ConnectRefused("denied")
        front_end = FrontEnd(self, drain, end)
        self._busy()
        self._front_ends.add(front_end)
        try:
            if self.draining:
                drain()
            yield front_end
        finally:
            self._front_ends.discard(front_end)
            self._rest()

    def check_run(self, what: str) -> None:
        """Raise `RuntimeError` elsewhere than in the proxy's run: such a call would count a session that no task of this run serves."""
        try:
            token = trio.lowlevel.current_trio_token()
        except RuntimeError:
            token = None
        if token is not self._token:
            raise RuntimeError(f"{what} must be called in the trio run, and so in the thread, that opened the proxy") from None

    def _busy(self) -> None:
        if self._idle.is_set():
            self._drains = trio.Event()
        self._idle = trio.Event()

    def _rest(self) -> None:
        if not self._sessions and not self._front_ends:
            self._idle.set()

    def _admit(self, session: Session) -> None:
        self._busy()
        self._sessions.add(session)

    def forget(self, session: Session) -> None:
        """A session has ended."""
        self._sessions.discard(session)
        self._internal -= session.counts_as_internal
        self._virtual -= session.virtual
        self._rest()

    def new_transaction(self, session: Session) -> Transaction:
        """The next request of a session."""
        return Transaction(session, self.next_id())

    def run_transaction(self, txn: Transaction) -> Coroutine[Any, Any, None]:
        """Serve it."""
        return run_transaction(txn) if txn.session.virtual else self._run_swept(txn)

    async def _run_swept(self, txn: Transaction) -> None:
        self._sweep.begin()
        try:
            await run_transaction(txn)
        finally:
            self._sweep.end()

    async def fire_closing(self, session: Session, methods: tuple[HookMethod, ...]) -> None:
        """Run a session's closing hooks."""
        await fire_closing(session, methods, self.config.http.close_timeout)

    def wall_time(self) -> float:
        """The time of day in Unix seconds."""
        return time.time()

    async def drain(self, seconds: float) -> bool:
        """Take no more sessions, end the idle ones, and wait so long for the rest; whether all have ended.

        Sessions that are served go on to the end of their transaction, whose response says `Connection: close`.
        """
        self.check_run("drain()")
        self._begin_to_drain()
        for session in list(self._sessions):
            if session.requests or not session.awaited:
                session.stop_idling()
        for front_end in list(self._front_ends):
            _tell(front_end.drain)
        with trio.move_on_after(seconds):
            await self._idle.wait()
        return self._idle.is_set()

    def _begin_to_drain(self) -> None:
        self.draining = True
        self._drains.set()

    async def wait_until_draining(self) -> None:
        """Return when the proxy begins to drain: for a plugin that has something to say to clients which would stay for ever."""
        await self._drains.wait()

    async def _end(self) -> None:
        """Cancel what is left, wherever its task lives, and wait until it has ended."""
        self._begin_to_drain()
        self.closed = True
        for session in list(self._sessions):
            session.cancel("proxy", "closed")
        for front_end in list(self._front_ends):
            _tell(front_end.end)
        with trio.CancelScope(shield=True, deadline=trio.current_time() + 2 * self.config.http.close_timeout):
            await self._idle.wait()

    def __repr__(self) -> str:
        state = "closed" if self.closed else "draining" if self.draining else "open"
        return f"<Proxy {state}, {len(self._sessions)} sessions>"


def _tell(callback: Callable[[], object]) -> None:
    """One front end's trouble is no other's."""
    try:
        callback()
    except Exception:
        logger.exception("a front end failed when it was told of the end")


async def _turn_away(stream: trio.abc.Stream) -> None:
    """Close a stream that gets no session; one that cannot even be closed is nobody's failure but its own."""
    try:
        await close_gently(stream, 0)
    except Exception:
        logger.exception("a stream that was turned away cannot be closed")


class Nowhere(Log):
    """No log was asked for."""

    def __init__(self) -> None:
        self._closed = trio.Event()

    def write(self, record: LogRecord) -> None:
        """Forget it."""

    async def run(self) -> None:
        """Wait for the end."""
        await self._closed.wait()

    def close(self) -> None:
        """End."""
        self._closed.set()
