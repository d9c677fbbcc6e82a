"""The pool of connections to origins: it keeps idle connections and enforces `max_connections`.

Invariant: at every checkpoint, `_Place.taken` is the number of connections used by transactions, plus those granted to waiting
transactions, plus the attempts to connect. `taken` and the idle connections together exceed the limit only for transactions with an
ancestor that holds a connection (`beyond_limit`), which would otherwise wait for that ancestor forever, or after a plugin has lowered the
limit.

Theory of operation. At a checkpoint a task may be cancelled, and other tasks run. A pool that checks the count, awaits a connection and
counts it afterwards gives the last place to two tasks. A pool that counts first loses the place if a cancelled task does not count down. A
pool that only wakes a waiter lets a new transaction take the place before the waiter runs.

So checking and taking are one synchronous step without an await. I/O comes after it, and every exception handler around that I/O gives back
what was taken. A free place is not announced to waiters: the task that frees it takes it again on behalf of one waiter (`_grant`). From
then on the waiter owns the place, and gives it back if it is cancelled before it could use it.

Shares: if an origin has a limit, `held` counts places by client connection and by client address. Neither may hold more than `max_share` of
the limit. A free place goes to the waiter whose client holds the fewest; among equals the one that waits longest.

Stalls: a client that stops reading or sending would hold its place until `inactivity_timeout`. Each waiter therefore watches the
connections in use. It ends the transaction that has waited longest for its client, once that exceeds `stall_timeout`. There is no
watchdog task. Without a limit, shares and stalls cost nothing.
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
from trio_tsconnect.stream import HeadLimits, HTTP1Client, Parser, close_now, has_input, peer_name

Holder = tuple[Hashable, ...]
"""Keys by which a place is counted: the client connection and the client address. Empty for internal requests and without a limit."""


@public("trio_tsconnect.origin")
@attrs.define(eq=False)
class OriginConnection:
    """One connection to an origin, idle or used by a transaction."""

    origin: Origin
    stream: trio.abc.Stream
    http: HTTP1Client
    id: int
    address: str | None = None
    """Address that the connection was made to, for the log."""
    uses: int = 0
    idle_until: float = 0.0
    holder: Holder = ()
    """Keys by which it is counted. Empty without a limit, for internal requests, and while idle."""
    stalled_since: float = math.inf
    """Trio time at which its transaction started to wait for its client; `inf` while it does not wait."""
    give_up: Callable[[], object] | None = None
    """Callback that ends its transaction."""

    @property
    def reused(self) -> bool:
        """True if it was used for another request before."""
        return self.uses > 1


class _Waiter:
    """A waiting transaction. When `granted`, it owns a place: `given` is a connection, or None if it has to connect itself."""

    __slots__ = ("given", "granted", "holder", "wake")

    def __init__(self, holder: Holder) -> None:
        self.holder = holder
        self.wake = trio.Event()
        self.granted = False
        self.given: OriginConnection | None = None


class _Place:
    """The connections, counts and waiters of one origin."""

    __slots__ = ("held", "idle", "limit", "line", "most", "taken", "with_clients")

    def __init__(self) -> None:
        self.idle: deque[OriginConnection] = deque()  # most recently used last
        self.line: deque[_Waiter] = deque()
        self.taken = 0
        self.limit = math.inf  # of the latest `acquire`: a plugin may change the limit for its transaction
        self.most = math.inf  # places of one holder
        self.held: Counter[Hashable] = Counter()
        self.with_clients: set[OriginConnection] = set()

    def bound(self, config: OriginConfig) -> None:
        """Set the limits from the configuration of the transaction that acquires."""
        if config.max_connections is None:
            self.limit = self.most = math.inf
        else:
            self.limit, self.most = config.max_connections, math.ceil(config.max_connections * config.max_share)

    def admits(self, holder: Holder) -> bool:
        """Return True if no key of the holder has reached its share."""
        return all(self.held[key] < self.most for key in holder)

    def next_in_line(self) -> _Waiter | None:
        """Return the admitted waiter whose client holds the fewest places (the longest-waiting one among equals), or None."""
        admitted = [waiter for waiter in self.line if self.admits(waiter.holder)]
        return min(admitted, key=lambda waiter: max((self.held[key] for key in waiter.holder), default=0), default=None)

    def take(self, holder: Holder) -> None:
        """Count one more place as taken."""
        self.taken += 1
        self.held.update(holder)

    def give(self, holder: Holder) -> None:
        """Count one place less as taken."""
        self.taken -= 1
        for key in holder:
            self.held[key] -= 1
            if not self.held[key]:  # keep no entry for clients that have left
                del self.held[key]


@attrs.frozen(kw_only=True)
class PoolStatistics:
    """Number of connections and waiters of a pool at one moment."""

    idle: int
    """Idle connections."""
    taken: int
    """Connections that are used by a transaction or are being opened."""
    waiting: int
    """Transactions waiting for a connection."""


@public("trio_tsconnect.origin")
class Pool:
    """The connections of a proxy to its origins."""

    def __init__(self, next_id: Callable[[], int], limits: HeadLimits, parser: Parser) -> None:
        self._next_id = next_id
        self._limits = limits
        self._parser = parser
        self._places: dict[Origin, _Place] = {}
        self._closed = False
        self._next_end = math.inf  # trio time at which `run` checks next, unless `_earlier` is set
        self._earlier = trio.Event()  # set when a connection becomes idle that expires before that

    async def acquire(
        self, origin: Origin, config: OriginConfig, *, fresh: bool = False, beyond_limit: bool = False, holder: Holder = ()
    ) -> OriginConnection:
        """Return a connection for one request, idle or new. The caller must pass it to `release` or `discard`.

        Waits up to `config.wait_timeout` seconds at the limit. Raises `TransactionFailure`: 502 or 504 if connecting fails, 503 after the
        wait. `fresh`: do not reuse a connection. `beyond_limit`: do not wait, because an ancestor that waits for this transaction may hold
        the last place. `holder`: keys by which the connection is counted. If it is cancelled, nothing stays taken.
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
            if fresh and connection is not None:  # keep the granted place, but not the connection that came with it
                stale.append(connection)
                connection = None
        finally:
            if stale:
                await _close_all(stale)
        if connection is None:  # this transaction owns one place of `taken`
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
            if not has_input(connection.stream):  # input on an idle connection: it was closed, or is out of sync
                place.take(holder)
                return connection
            stale.append(connection)
        return None

    def _take_room(self, place: _Place, stale: list[OriginConnection], holder: Holder, *, beyond_limit: bool) -> bool:
        if place.taken + len(place.idle) >= place.limit and not beyond_limit:
            if not place.idle:
                return False
            stale.append(place.idle.popleft())  # only a `fresh` request finds idle connections here: the oldest is closed
        place.take(holder)
        return True

    async def _wait(self, origin: Origin, place: _Place, config: OriginConfig, holder: Holder) -> OriginConnection | None:
        waiter = _Waiter(holder)
        place.line.append(waiter)
        try:
            with trio.move_on_after(config.wait_timeout):
                await self._wait_and_look_after_the_stalled(waiter, place, config.stall_timeout)
        except BaseException:  # cancelled, possibly after the grant
            if not waiter.granted:
                place.line.remove(waiter)
            else:
                self._give_room(origin, place, holder)
                if waiter.given is not None:
                    await close_now(waiter.given.stream)
            raise
        if not waiter.granted:  # (a grant may arrive together with the timeout; then it counts)
            place.line.remove(waiter)
            raise TransactionFailure(Failure.ORIGIN_BUSY, "All connections to the origin are in use.")
        return waiter.given

    @staticmethod
    async def _wait_and_look_after_the_stalled(waiter: _Waiter, place: _Place, patience: float) -> None:
        while not waiter.granted:
            now = trio.current_time()
            stalled = min(place.with_clients, key=lambda each: each.stalled_since, default=None)
            if stalled is not None and stalled.stalled_since + patience <= now:
                stalled.stalled_since = math.inf  # so that other waiters do not end it again
                if stalled.give_up is not None:
                    stalled.give_up()
                continue
            # A connection that starts to stall after this moment is due no earlier than `now + patience`, so this waiter cannot miss it.
            with trio.move_on_at(min(now + patience, stalled.stalled_since + patience if stalled is not None else math.inf)):
                await waiter.wake.wait()

    async def _connect(self, origin: Origin, config: OriginConfig) -> OriginConnection:
        with trio.move_on_after(config.connect_timeout) as scope:
            stream = await origin.open()
        if scope.cancelled_caught:
            raise TransactionFailure(Failure.ORIGIN_CONNECT_TIMEOUT, "The origin did not accept a connection in time.")
        http = HTTP1Client(stream, limits=self._limits, parser=self._parser)
        http.lenient = config.lenient
        return OriginConnection(origin, stream, http, self._next_id(), peer_name(stream))

    def _give_room(self, origin: Origin, place: _Place, holder: Holder) -> None:
        """Give a place back. Grant waiters the right to connect, as far as there is room; remove the origin if nothing is left of it."""
        place.give(holder)
        while place.line and place.taken + len(place.idle) < place.limit and (waiter := place.next_in_line()) is not None:
            self._grant(place, waiter, None)
        if not place.line and not place.taken and not place.idle:
            self._places.pop(origin, None)

    def _grant(self, place: _Place, waiter: _Waiter, connection: OriginConnection | None) -> None:
        # The place is taken here and not when the waiter runs: in between, another transaction could take it.
        place.line.remove(waiter)
        waiter.granted, waiter.given = True, connection
        place.take(waiter.holder)
        waiter.wake.set()

    def release(self, connection: OriginConnection, config: OriginConfig) -> bool:
        """Take a reusable connection back. Return False if the pool does not keep it: then the caller must `discard` it."""
        place = self._places[connection.origin]
        if self._closed or not config.keep_alive_timeout or not connection.origin.persistent:
            return False
        if place.taken + len(place.idle) > place.limit:  # above the limit because of `beyond_limit`: neither keep it nor hand it on
            return False
        if place.line:
            if has_input(connection.stream):  # no request was sent: the connection is out of sync, or closed
                return False
            self._let_go(place, connection)
            if (waiter := place.next_in_line()) is not None:
                self._grant(place, waiter, connection)
                return True
            place.take(connection.holder)  # no waiter is admitted: count it again, as both ways on from here expect
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
        """Close a connection at once and give its place back. Shielded from cancellation."""
        place = self._places[connection.origin]
        place.with_clients.discard(connection)
        self._give_room(connection.origin, place, connection.holder)
        await close_now(connection.stream)

    async def run(self) -> None:
        """Close connections whose idle time is over. Runs until cancelled, then closes all idle connections and keeps no others."""
        try:
            while True:
                self._earlier = trio.Event()
                self._next_end = math.inf
                self._next_end = await self._close_idle(trio.current_time())
                with trio.move_on_at(self._next_end):
                    await self._earlier.wait()
        finally:
            self._closed = True  # before the last await: a connection released later would never be closed
            await self._close_idle(math.inf)

    async def _close_idle(self, now: float) -> float:
        """Close the connections that are due. Return the trio time at which the next one is due, or `inf`."""
        due: list[OriginConnection] = []
        next_end = math.inf
        for origin, place in list(self._places.items()):
            kept: deque[OriginConnection] = deque()
            for connection in place.idle:  # not sorted by end: keep-alive timeouts may differ between transactions
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
        """Return the current counts."""
        places = self._places.values()
        return PoolStatistics(
            idle=sum(len(place.idle) for place in places),
            taken=sum(place.taken for place in places),
            waiting=sum(len(place.line) for place in places),
        )


async def _close_all(connections: list[OriginConnection]) -> None:
    with trio.CancelScope(shield=True):  # without the shield, a cancellation would leave the rest open; a forced close does not wait
        for connection in connections:
            await close_now(connection.stream)
