"""Rate limits and budgets for clients (`Http2Limits`): per connection, per client address, and over all connections of a proxy.

Theory of operation: budgets per pass. A pass is one iteration of trio's run loop, in which each runnable task runs one step. A client can
send thousands of small frames, or a few bytes of HPACK that stand for thousands of fields, in one read. Limiting the work of each
connection per pass is not enough: with twenty busy connections, one pass would still do twenty times that work, and every other task of the
process waits for it. So `Shared` has one budget of work units (`_A_PASS`) that all connections spend from.

A connection that finds the budget spent calls `next_pass`. The first waiting task that runs in a new pass adds one budget and uses it
first; the other tasks see that the pass number has changed and only check if anything is left. Refilling needs no timer and no task of
its own, and no connection depends on another one to wake it up. A single head may cost more than what is left. The budget then becomes
negative, and the next refill pays the debt first. So one pass may exceed the budget by one frame, but many passes may not exceed their sum.
"""

from __future__ import annotations

from collections import OrderedDict
from typing import Protocol
from weakref import WeakKeyDictionary

import trio

from trio_tsconnect import Proxy
from trio_tsconnect.config import Http2Limits, RateLimit
from trio_tsconnect.http2._errors import ConnectionFault, ErrorCode


class Meter:
    """A token bucket that counts one kind of frame. `what` names it in the error message."""

    __slots__ = ("_limit", "_since", "_tokens", "_what")

    def __init__(self, limit: RateLimit, what: str, now: float) -> None:
        self._limit = limit
        self._what = what
        self._tokens = float(limit.burst)
        self._since = now

    def count(self, now: float, cost: int = 1) -> None:
        """Take `cost` tokens. Raises `ConnectionFault` with ENHANCE_YOUR_CALM if the bucket is empty. `now` is trio's time."""
        self._tokens -= cost
        if self._tokens < 0:
            self._tokens = min(self._limit.burst, self._tokens + (now - self._since) * self._limit.rate)
            self._since = now
            if self._tokens < 0:
                raise ConnectionFault(ErrorCode.ENHANCE_YOUR_CALM, f"too many {self._what}", "enhance_your_calm")


class Shared:
    """The state that all HTTP/2 connections of a proxy share: resets per client address, bytes held, and the budget of work per pass."""

    def __init__(self, limits: Http2Limits) -> None:
        self._resets = limits.resets_by_address
        self._cap = limits.max_buffered_by_all
        self._addresses: OrderedDict[str, Meter] = OrderedDict()
        self._blocked: set[Blocked] = set()
        self._left = _A_PASS
        self._passes = 0
        self.held = 0
        """Bytes of request bodies that the streams of all connections hold (see `ConnectionWindow`)."""

    def take_turn(self) -> int:
        """Return the units of work that are left in this pass. If that is 0 or less, the caller must await `next_pass` first."""
        return self._left

    def used(self, units: int) -> None:
        """Subtract units of work that were done. The budget may become negative."""
        self._left -= units

    async def next_pass(self) -> None:
        """Yield to trio's loop until a pass has units of work left.

        Not cancellable: a cancelled connection first processes the frames that it has read. Each iteration is one checkpoint.
        """
        while True:
            seen = self._passes
            await trio.lowlevel.cancel_shielded_checkpoint()
            if seen == self._passes:  # no other task has refilled the budget since the checkpoint: this is the first one of the pass
                self._passes += 1
                self._left = min(_A_PASS, self._left + _A_PASS)  # added, not set: what was overdrawn is paid back
            if self._left > 0:
                return

    def count_reset(self, address: str, now: float) -> None:
        """Count a reset against the limit of a client address, over all of its connections. Raises `ConnectionFault` past the limit.

        The 10,000 addresses that were counted most recently are remembered.
        """
        meter = self._addresses.get(address)
        if meter is None:
            meter = self._addresses[address] = Meter(self._resets, "reset streams of one address", now)
            if len(self._addresses) > _MOST_ADDRESSES:
                self._addresses.popitem(last=False)
        else:
            self._addresses.move_to_end(address)
        meter.count(now)

    def has_room(self, window: Blocked) -> bool:
        """True if `window` may be opened. If not, its `open` is called when all connections together are back within the limit."""
        if self.held <= self._cap:
            return True
        self._blocked.add(window)
        return False

    def changed(self, held: int) -> None:
        """Add `held` to the bytes held; a negative number subtracts. Opens the blocked windows once the sum is within the limit."""
        self.held += held
        if held < 0 and self._blocked and self.held <= self._cap:
            blocked, self._blocked = self._blocked, set()  # replaced first: `open` may block a window again
            for window in blocked:
                window.open()

    def forget(self, window: Blocked) -> None:
        """Remove the window of a connection that has ended."""
        self._blocked.discard(window)


class Blocked(Protocol):
    """A window that `Shared` has blocked."""

    def open(self) -> None:
        """Try again to open the window."""
        ...


_MOST_ADDRESSES = 10_000
_A_PASS = 40
"""Units of work in one pass, for all connections together. A small frame is one unit; `_receive` has the cost of a head."""
_shared: WeakKeyDictionary[Proxy, Shared] = WeakKeyDictionary()


def shared_by(proxy: Proxy) -> Shared:
    """Return the shared state of a proxy's connections. Its limits are those of `proxy.config.http2`, not of `serve_http2(limits=...)`."""
    shared = _shared.get(proxy)
    if shared is None:
        shared = _shared[proxy] = Shared(proxy.config.http2)
    return shared
