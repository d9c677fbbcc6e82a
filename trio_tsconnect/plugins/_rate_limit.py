"""RateLimit: limit the rate of requests with a token bucket for each client or each tag.

A bucket holds at most `burst` tokens and gains `rate` tokens a second. A request takes one token; if there is none, it is answered with 429
and the seconds until there is one. The table of buckets is bounded. When a bucket is added, full buckets at the least recently used end are
dropped, because a full bucket is the same as none. If the table is still full, the least recently used bucket is dropped.
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
    """Answers requests that exceed `rate` a second, after a burst of `burst`, with 429 (RFC 6585 §4) and `Retry-After`."""

    @attrs.frozen(kw_only=True)
    class Options:
        """The options of `RateLimit`."""

        rate: float = attrs.field(validator=number(above=0))
        """The sustained rate, in requests a second."""
        burst: float = attrs.field(default=10, validator=number(least=1))
        """The number of requests that are allowed at once after a pause."""
        by: Literal["client", "tag", "all"] = attrs.field(default="client", validator=one_of("client", "tag", "all"))
        """What is limited: `client`, each client address; `tag`, each tag; `all`, all requests together."""
        internal: bool = attrs.field(default=False, validator=flag)
        """Limit internal requests too, which code in this process makes. With `by = "tag"` they are always limited."""
        ipv6_prefix: int = attrs.field(default=64, validator=number(least=1, most=128, whole=True))
        """The number of leading bits of an IPv6 address that identify a client, because a client usually has a whole network."""
        max_buckets: int = attrs.field(default=10_000, validator=number(least=1, whole=True))
        """The largest number of buckets to keep. Beyond it the least recently used bucket is dropped."""

    def __init__(self, options: Options) -> None:
        self.options = options
        self._buckets: OrderedDict[str, _Bucket] = OrderedDict()

    async def post_remap(self, txn: Transaction) -> None:
        """Take a token, or answer with 429 if there is none."""
        if txn.internal and not (self.options.internal or self.options.by == "tag"):
            return
        wait = self._take(self._key(txn))
        if wait > 0:
            txn.log["limited"] = True
            txn.respond(429, "Too many requests.\n", headers={"Retry-After": str(math.ceil(wait)), "Cache-Control": "no-store"})

    def _key(self, txn: Transaction) -> str:
        match self.options.by:
            case "client":
                return _network(txn.client.host, self.options.ipv6_prefix)
            case "tag":
                return txn.tag or ""
            case _:
                return ""

    def _take(self, key: str) -> float:
        """Take a token and return 0. If there is none, return the seconds until there is one."""
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
