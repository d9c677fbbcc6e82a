"""Connections to origins, kept for the next request.

The law: what happens is decided in one synchronous piece, with no await between looking and taking; I/O comes after, and whatever
interrupts it gives back what was taken. So the counts are right at every checkpoint, and a cancel leaks nothing.

A connection is in one of three hands: idle here, with a transaction, or on its way to a transaction that waits for it. `_Place.taken`
counts the last two and the attempts to connect; with the idle ones it exceeds the limit only for a transaction whose ancestors hold a
connection (`beyond_limit`), because it must not wait for them.

Where an origin has a limit, three rules keep one client from having all of it. No client connection and no client address holds more than
`max_share` of the limit. A place that comes free goes to the waiting client that holds the fewest. And who waits looks after those that hold a
place without moving: the longest stalled one is told to give up after `stall_timeout`. Without a limit none of this costs anything.
"""

from __future__ import annotations

import math
from collections import Counter, deque
from collections.abc import Callable, Hashable

import attrs
import trio

from trio_tsconnect._util import public
from trio_tsconnect.config import OriginConfig
from trio_tsconnect.message import Failure, TransactionFailure
from trio_tsconnect.origin._origin import Origin
from trio_tsconnect.stream import HeadLimits, HTTP1Client, Parser, close_now, has_input

Holder = tuple[Hashable, ...]
"""The keys under which a place counts: a client's connection and its address; empty for the process's own requests."""


@public("trio_tsconnect.origin")
@attrs.define(eq=False)
class OriginConnection:
    """One connection to an origin, while a transaction has it."""

    origin: Origin
    stream: trio.abc.Stream
    http: HTTP1Client
    id: int
    uses: int = 0
    idle_until: float = 0.0
    holder: Holder = ()
    """Who has it, where its origin has a limit."""
    stalled_since: float = math.inf
    """When its transaction began to wait for its client; infinite while it does not."""
    give_up: Callable[[], object] | None = None
    """Ends its transaction."""

    @property
    def reused(self) -> bool:
        """Whether another request went over it before."""
        return self.uses > 1


class _Waiter:
    """A transaction in line. What it waits for is put into its hand: a connection, or None, the right to make one."""

    __slots__ = ("given", "granted", "holder", "wake")

    def __init__(self, holder: Holder) -> None:
        self.holder = holder
        self.wake = trio.Event()
        self.granted = False
        self.given: OriginConnection | None = None


class _Place:
    """What the pool has of one origin."""

    __slots__ = ("held", "idle", "limit", "line", "most", "taken", "with_clients")

    def __init__(self) -> None:
        self.idle: deque[OriginConnection] = deque()  # the most recently used at the right
        self.line: deque[_Waiter] = deque()
        self.taken = 0
        self.limit = math.inf  # as the transaction that came last has it, for a rule may have its own
        self.most = math.inf  # of one holder
        self.held: Counter[Hashable] = Counter()
        self.with_clients: set[OriginConnection] = set()

    def bound(self, config: OriginConfig) -> None:
        """Take over the limit of the configuration."""
        if config.max_connections is None:
            self.limit = self.most = math.inf
        else:
            self.limit, self.most = config.max_connections, math.ceil(config.max_connections * config.max_share)

    def admits(self, holder: Holder) -> bool:
        """True if a client that holds so many may have one more."""
        return all(self.held[key] < self.most for key in holder)

    def next_in_line(self) -> _Waiter | None:
        """The waiting client that holds the fewest places, the one that waits longest among equals; None if none may have one more."""
        admitted = [waiter for waiter in self.line if self.admits(waiter.holder)]
        return min(admitted, key=lambda waiter: max((self.held[key] for key in waiter.holder), default=0), default=None)

    def take(self, holder: Holder) -> None:
        """One more is taken."""
        self.taken += 1
        self.held.update(holder)

    def give(self, holder: Holder) -> None:
        """One fewer is taken."""
        self.taken -= 1
        for key in holder:
            self.held[key] -= 1
            if not self.held[key]:
                del self.held[key]


@attrs.frozen(kw_only=True)
class PoolStatistics:
    """What a pool holds at this moment."""

    idle: int
    """Connections that wait for a request."""
    taken: int
    """Connections that serve one, or are being made for one."""
    waiting: int
    """Transactions that wait for a connection."""


@public("trio_tsconnect.origin")
class Pool:
    """All connections of a proxy to its origins."""

    def __init__(self, next_id: Callable[[], int], limits: HeadLimits, parser: Parser) -> None:
        self._next_id = next_id
        self._limits = limits
        self._parser = parser
        self._places: dict[Origin, _Place] = {}
        self._closed = False
        self._next_end = math.inf  # when `run` looks next, unless it is woken
        self._earlier = trio.Event()  # set when a connection becomes idle that is due before that

    async def acquire(
        self, origin: Origin, config: OriginConfig, *, fresh: bool = False, beyond_limit: bool = False, holder: Holder = ()
    ) -> OriginConnection:
        """A connection for one request. `TransactionFailure` when there is none to be had: 502, 503 or 504.

        `fresh`: not one that was used before. `beyond_limit`: do not wait in line, for the one who holds the last is waiting for us. `holder`: on
        whose account it counts where the origin has a limit.
        """
        place = self._places.get(origin)
        if place is None:
            place = self._places[origin] = _Place()
        place.bound(config)
        stale: list[OriginConnection] = []
        try:
            admitted = beyond_limit or place.admits(holder)
            connection = self._take_idle(place, stale, holder) if admitted and not fresh else None
            if connection is None and not (admitted and self._take_room(place, stale, holder, beyond_limit=beyond_limit)):
                connection = await self._wait(origin, place, config, holder)
            if fresh and connection is not None:  # the place in line counts, not what came with it
                stale.append(connection)
                connection = None
        finally:
            if stale:
                await _close_all(stale)
        if connection is None:  # from here on one of `taken` is this transaction's
            try:
                connection = await self._connect(origin, config)
            except BaseException:
                self._give_room(origin, place, holder)
                raise
        connection.uses += 1
        connection.holder = holder
        if holder:
            place.with_clients.add(connection)
        return connection

    def _take_idle(self, place: _Place, stale: list[OriginConnection], holder: Holder) -> OriginConnection | None:
        while place.idle:
            connection = place.idle.pop()
            if not has_input(connection.stream):  # an idle origin has nothing to say: it has closed, or is out of step
                place.take(holder)
                return connection
            stale.append(connection)
        return None

    def _take_room(self, place: _Place, stale: list[OriginConnection], holder: Holder, *, beyond_limit: bool) -> bool:
        if place.taken + len(place.idle) >= place.limit and not beyond_limit:
            if not place.idle:
                return False
            stale.append(place.idle.popleft())
        place.take(holder)
        return True

    async def _wait(self, origin: Origin, place: _Place, config: OriginConfig, holder: Holder) -> OriginConnection | None:
        waiter = _Waiter(holder)
        place.line.append(waiter)
        try:
            with trio.move_on_after(config.wait_timeout):
                await self._wait_and_look_after_the_stalled(waiter, place, config.stall_timeout)
        except BaseException:
            if not waiter.granted:
                place.line.remove(waiter)
            else:
                self._give_room(origin, place, holder)
                if waiter.given is not None:
                    await close_now(waiter.given.stream)
            raise
        if not waiter.granted:
            place.line.remove(waiter)
            raise TransactionFailure(Failure.ORIGIN_BUSY, "All connections to the origin are in use.")
        return waiter.given

    @staticmethod
    async def _wait_and_look_after_the_stalled(waiter: _Waiter, place: _Place, patience: float) -> None:
        while not waiter.granted:
            now = trio.current_time()
            stalled = min(place.with_clients, key=lambda each: each.stalled_since, default=None)
            if stalled is not None and stalled.stalled_since + patience <= now:
                stalled.stalled_since = math.inf
                if stalled.give_up is not None:
                    stalled.give_up()
                continue
            # One that begins to wait for its client from now on is due no earlier than this.
            with trio.move_on_at(min(now + patience, stalled.stalled_since + patience if stalled is not None else math.inf)):
                await waiter.wake.wait()

    async def _connect(self, origin: Origin, config: OriginConfig) -> OriginConnection:
        with trio.move_on_after(config.connect_timeout) as scope:
            stream = await origin.open()
        if scope.cancelled_caught:
            raise TransactionFailure(Failure.ORIGIN_CONNECT_TIMEOUT, "The origin did not accept a connection in time.")
        http = HTTP1Client(stream, limits=self._limits, parser=self._parser)
        if config.lenient:
            http.lenient = config.lenient
        return OriginConnection(origin, stream, http, self._next_id())

    def _give_room(self, origin: Origin, place: _Place, holder: Holder) -> None:
        """One fewer is taken: those in line may connect, as far as there is room for them."""
        place.give(holder)
        while place.line and place.taken + len(place.idle) < place.limit and (waiter := place.next_in_line()) is not None:
            self._grant(place, waiter, None)
        if not place.line and not place.taken and not place.idle:
            self._places.pop(origin, None)

    def _grant(self, place: _Place, waiter: _Waiter, connection: OriginConnection | None) -> None:
        place.line.remove(waiter)
        waiter.granted, waiter.given = True, connection
        place.take(waiter.holder)
        waiter.wake.set()

    def release(self, connection: OriginConnection, config: OriginConfig) -> bool:
        """Take back a connection that is ready for another request; False when it is not to be kept: then `discard` it."""
        place = self._places[connection.origin]
        if self._closed or not config.keep_alive_timeout or not connection.origin.persistent:
            return False
        if place.line:
            if has_input(connection.stream):  # nobody asked for it: the connection is out of step, or closed
                return False
            if place.taken + len(place.idle) > place.limit:  # one more than may be, for a child: those in line are not to keep it so
                return False
            self._let_go(place, connection)
            if (waiter := place.next_in_line()) is not None:
                self._grant(place, waiter, connection)
                return True
            place.take(connection.holder)  # nobody in line may have it: it becomes idle, if it may
        if config.max_idle is not None and len(place.idle) >= config.max_idle:
            return False
        connection.idle_until = trio.current_time() + config.keep_alive_timeout
        self._let_go(place, connection)
        connection.holder = ()
        place.idle.append(connection)
        if connection.idle_until < self._next_end:
            self._earlier.set()
        return True

    @staticmethod
    def _let_go(place: _Place, connection: OriginConnection) -> None:
        place.give(connection.holder)
        place.with_clients.discard(connection)
        connection.give_up = None
        connection.stalled_since = math.inf

    async def discard(self, connection: OriginConnection) -> None:
        """Close a connection that is of no more use, at once; also when cancelled."""
        place = self._places[connection.origin]
        place.with_clients.discard(connection)
        self._give_room(connection.origin, place, connection.holder)
        await close_now(connection.stream)

    async def run(self) -> None:
        """Close connections that have been idle for too long, until cancelled; then all idle ones."""
        try:
            while True:
                self._earlier = trio.Event()
                self._next_end = math.inf
                self._next_end = await self._close_idle(trio.current_time())
                with trio.move_on_at(self._next_end):
                    await self._earlier.wait()
        finally:
            self._closed = True
            await self._close_idle(math.inf)

    async def _close_idle(self, now: float) -> float:
        """Close what is due; the time at which something will be due next."""
        due: list[OriginConnection] = []
        next_end = math.inf
        for origin, place in list(self._places.items()):
            kept: deque[OriginConnection] = deque()
            for connection in place.idle:  # in the order of rest; a rule's own keep-alive timeout makes another order of ends
                if connection.idle_until <= now:
                    due.append(connection)
                else:
                    kept.append(connection)
                    next_end = min(next_end, connection.idle_until)
            place.idle = kept
            if not (kept or place.taken or place.line):
                del self._places[origin]
        await _close_all(due)
        return next_end

    def statistics(self) -> PoolStatistics:
        """What the pool holds at this moment."""
        places = self._places.values()
        return PoolStatistics(
            idle=sum(len(place.idle) for place in places),
            taken=sum(place.taken for place in places),
            waiting=sum(len(place.line) for place in places),
        )


async def _close_all(connections: list[OriginConnection]) -> None:
    with trio.CancelScope(shield=True):  # closing by force waits for nothing, and a cancel must not leave the rest open
        for connection in connections:
            await close_now(connection.stream)
