"""Counting what clients do against their limits (`Http2Limits`): one connection by itself, an address, and all connections together."""

from __future__ import annotations

from collections import OrderedDict
from typing import Protocol
from weakref import WeakKeyDictionary

import trio

from trio_tsconnect import Proxy
from trio_tsconnect.config import Http2Limits, RateLimit
from trio_tsconnect.http2._errors import ConnectionFault, ErrorCode


class Meter:
    """Counts one kind of frame against its rate."""

    __slots__ = ("_limit", "_since", "_tokens", "_what")

    def __init__(self, limit: RateLimit, what: str, now: float) -> None:
        self._limit = limit
        self._what = what
        self._tokens = float(limit.burst)
        self._since = now

    def count(self, now: float, cost: int = 1) -> None:
        """One more; `ConnectionFault` when it is one too many."""
        self._tokens -= cost
        if self._tokens < 0:
            self._tokens = min(self._limit.burst, self._tokens + (now - self._since) * self._limit.rate)
            self._since = now
            if self._tokens < 0:
                raise ConnectionFault(ErrorCode.ENHANCE_YOUR_CALM, f"too many {self._what}", "enhance_your_calm")


class Shared:
    """What the connections of a proxy have in common: the resets of each client address, the bytes that all of them hold, and turns.

    A turn that is bounded for each connection is not bounded for all: of twenty connections that have much to do, each pass of the loop would
    do a turn of every one. So the work of a pass is bounded as well, and connections that find it done wait for the next.
    """

    def __init__(self, limits: Http2Limits) -> None:
        self._resets = limits.resets_by_address
        self._cap = limits.max_buffered_by_all
        self._addresses: OrderedDict[str, Meter] = OrderedDict()
        self._blocked: set[Blocked] = set()
        self._left = _A_PASS
        self._passes = 0
        self.held = 0
        """Bytes of request bodies that came for streams which have not passed them on."""

    def take_turn(self) -> int:
        """How many units of work a connection may do now; 0 or less: `next_pass` first."""
        return self._left

    def used(self, units: int) -> None:
        """So many were done."""
        self._left -= units

    async def next_pass(self) -> None:
        """Let others have their turn, and wait for a pass of the loop in which there is work to be had.

        Whoever comes first in a pass gives it its work. So nobody has to be woken, and nobody depends on what others do. Not cancelled: it is
        to be known first what has come.
        """
        while True:
            seen = self._passes
            await trio.lowlevel.cancel_shielded_checkpoint()
            if seen == self._passes:
                self._passes += 1
                self._left = min(_A_PASS, self._left + _A_PASS)
            if self._left > 0:
                return

    def count_reset(self, address: str, now: float) -> None:
        """One more reset by this client address; `ConnectionFault` when it is one too many, over however many connections."""
        meter = self._addresses.get(address)
        if meter is None:
            meter = self._addresses[address] = Meter(self._resets, "reset streams of one address", now)
            if len(self._addresses) > _MOST_ADDRESSES:
                self._addresses.popitem(last=False)
        else:
            self._addresses.move_to_end(address)
        meter.count(now)

    def has_room(self, window: Blocked) -> bool:
        """True if a window may be opened; one that may not is opened when there is room again."""
        if self.held <= self._cap:
            return True
        self._blocked.add(window)
        return False

    def changed(self, held: int) -> None:
        """So many bytes more are held, or fewer."""
        self.held += held
        if held < 0 and self._blocked and self.held <= self._cap:
            blocked, self._blocked = self._blocked, set()
            for window in blocked:
                window.open()

    def forget(self, window: Blocked) -> None:
        """A connection has ended."""
        self._blocked.discard(window)


class Blocked(Protocol):
    """A window that waits for room."""

    def open(self) -> None:
        """There may be room."""
        ...


_MOST_ADDRESSES = 10_000
_A_PASS = 40
"""Units of work (`_receive`) in one pass of the loop, of all connections."""
_shared: WeakKeyDictionary[Proxy, Shared] = WeakKeyDictionary()


def shared_by(proxy: Proxy) -> Shared:
    """What the connections of this proxy share. The limits are those of its configuration, whatever a single connection was given."""
    shared = _shared.get(proxy)
    if shared is None:
        shared = _shared[proxy] = Shared(proxy.config.http2)
    return shared
