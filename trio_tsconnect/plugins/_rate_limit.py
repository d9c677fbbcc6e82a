"""A bound on how often somebody may ask: a token bucket for each client, or for each tag.

A bucket holds `burst` tokens at most and is filled at `rate` tokens a second; a request takes one, or is answered 429 with the seconds
after which there will be one. The table of buckets is bounded: a full bucket is as good as none and goes first, then the one that was used
least lately.
"""

from __future__ import annotations

import ipaddress
import math
from collections import OrderedDict
from typing import Literal

import attrs
import trio

from trio_tsconnect import Plugin, Transaction
from trio_tsconnect._util import public
from trio_tsconnect.plugins._options import flag, number, one_of


@attrs.define
class _Bucket:
    tokens: float
    stamp: float


@public("trio_tsconnect.plugins")
class RateLimit(Plugin):
    """Answers 429 (RFC 6585 §4) to whoever asks more often than `rate` times a second, once `burst` requests are spent."""

    @attrs.frozen(kw_only=True)
    class Options:
        """What `RateLimit` can be told."""

        rate: float = attrs.field(validator=number(above=0))
        """Requests a second, in the long run."""
        burst: float = attrs.field(default=10, validator=number(least=1))
        """Requests that may come at once after a pause."""
        by: Literal["client", "tag", "all"] = attrs.field(default="client", validator=one_of("client", "tag", "all"))
        """What has a bucket of its own: a client address, a tag, or nothing, so that all requests share one."""
        internal: bool = attrs.field(default=False, validator=flag)
        """Count the process's own requests, too."""
        ipv6_prefix: int = attrs.field(default=64, validator=number(least=1, most=128, whole=True))
        """Bits of an IPv6 address that tell clients apart: a client is given a whole network, not one address."""
        max_buckets: int = attrs.field(default=10_000, validator=number(least=1, whole=True))
        """Buckets that are kept; past it the one that was used least lately is forgotten."""

    def __init__(self, options: Options) -> None:
        self.options = options
        self._buckets: OrderedDict[str, _Bucket] = OrderedDict()

    async def post_remap(self, txn: Transaction) -> None:
        """Take a token, or answer."""
        if txn.internal and not (self.options.internal or self.options.by == "tag"):
            return
        wait = self._take(self._key(txn))
        if wait > 0:
            txn.log["limited"] = True
            txn.respond(429, "You ask too often.\n", headers={"Retry-After": str(math.ceil(wait)), "Cache-Control": "no-store"})

    def _key(self, txn: Transaction) -> str:
        match self.options.by:
            case "client":
                return _network(txn.client.host, self.options.ipv6_prefix)
            case "tag":
                return txn.tag or ""
            case _:
                return ""

    def _take(self, key: str) -> float:
        """Take a token; the seconds until there is one when there is none."""
        now, rate, burst = trio.current_time(), self.options.rate, self.options.burst
        bucket = self._buckets.get(key)
        if bucket is None:
            self._make_room(now)
            bucket = self._buckets[key] = _Bucket(burst, now)
        self._buckets.move_to_end(key)
        bucket.tokens, bucket.stamp = min(burst, bucket.tokens + (now - bucket.stamp) * rate), now
        if bucket.tokens < 1:
            return (1 - bucket.tokens) / rate
        bucket.tokens -= 1
        return 0.0

    def _make_room(self, now: float) -> None:
        while self._buckets:
            oldest = next(iter(self._buckets.values()))
            full = oldest.tokens + (now - oldest.stamp) * self.options.rate >= self.options.burst
            if not full and len(self._buckets) < self.options.max_buckets:
                return
            self._buckets.popitem(last=False)


def _network(host: str, ipv6_prefix: int) -> str:
    try:
        address = ipaddress.ip_address(host)
    except ValueError:
        return host
    if isinstance(address, ipaddress.IPv6Address):
        if address.ipv4_mapped is not None:
            return str(address.ipv4_mapped)
        return str(ipaddress.ip_network((int(address), ipv6_prefix), strict=False))
    return host
