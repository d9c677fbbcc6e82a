"""Where `RateLimit` keeps its token buckets: in this process, or in a Redis that several proxies share.

Invariant: one `take` is atomic. However many requests and proxies take at once, no more than `burst` tokens and `rate` tokens a second are
given from one bucket.

A bucket holds at most `burst` tokens and gains `rate` tokens a second. It is identified by its key, its rate and its burst together, so
two limits for one client do not disturb each other in one store.
"""

from __future__ import annotations

import hashlib
from collections import OrderedDict
from functools import partial
from typing import Any, Final, Protocol

import attrs
import trio

from trio_tsconnect import ConfigError
from trio_tsconnect._util import lacks, public


@public("trio_tsconnect.plugins")
class RateLimitStore(Protocol):
    """What `RateLimit` needs of a store. Any object with this method is one."""

    async def take(self, key: str, *, rate: float, burst: float) -> float:
        """Take a token from the bucket of `key`, `rate` and `burst`. Return 0.0, or the seconds until there is a token.

        Any exception is an error of the store. `RateLimit` cancels the call after `store_timeout` seconds.
        """
        ...


@attrs.define
class _Bucket:
    tokens: float
    stamp: float
    rate: float
    burst: float

    def fill(self, now: float) -> None:
        self.tokens, self.stamp = self.tokens_at(now), now

    def tokens_at(self, now: float) -> float:
        return min(self.burst, self.tokens + (now - self.stamp) * self.rate)


@public("trio_tsconnect.plugins")
class MemoryStore:
    """Keeps buckets in this process, on trio's clock. Plugins that get the same object share their buckets.

    The table is bounded. When a bucket is added, full buckets at the least recently used end are dropped, because a full bucket is the same
    as none. If the table is still full, the least recently used bucket is dropped. `len(store)` is the number of buckets.
    """

    def __init__(self, max_buckets: int = 10_000) -> None:
        self._max_buckets = max_buckets
        self._buckets: OrderedDict[tuple[str, float, float], _Bucket] = OrderedDict()

    def __len__(self) -> int:
        return len(self._buckets)

    async def take(self, key: str, *, rate: float, burst: float) -> float:
        """Take a token and return 0.0. If there is none, return the seconds until there is one. Never waits."""
        now, name = trio.current_time(), (key, rate, burst)
        bucket = self._buckets.get(name)
        if bucket is None:
            self._make_room(now)
            bucket = self._buckets[name] = _Bucket(burst, now, rate, burst)
        self._buckets.move_to_end(name)
        bucket.fill(now)
        if bucket.tokens < 1:
            return (1 - bucket.tokens) / rate
        bucket.tokens -= 1
        return 0.0

    def _make_room(self, now: float) -> None:
        while self._buckets:
            oldest = next(iter(self._buckets.values()))
            full = oldest.tokens_at(now) >= oldest.burst
            if not full and len(self._buckets) < self._max_buckets:
                return
            self._buckets.popitem(last=False)


SCHEMES: Final = ("redis://", "rediss://", "unix://")
"""What the URL of a Redis begins with: TCP, TLS, or a Unix socket."""
PREFIX: Final = "tsconnect:rate_limit:"
"""What the names of buckets in Redis begin with, unless another prefix is given."""

_THREADS = 16
"""The most threads that one store uses at once. A server that does not answer blocks no more than these."""

# The clock is the server's, so the clocks of the proxies do not matter. If it is set back, a bucket gains tokens from then on. Otherwise a
# refusal writes nothing: tokens and stamp say the same as before. A bucket expires when it would be full again, and a full bucket is the
# same as none.
_SCRIPT = """
local rate, burst = tonumber(ARGV[1]), tonumber(ARGV[2])
local clock = redis.call('TIME')
local now = tonumber(clock[1]) + tonumber(clock[2]) / 1000000
local kept = redis.call('HMGET', KEYS[1], 'tokens', 'stamp')
local tokens, stamp = tonumber(kept[1]) or burst, tonumber(kept[2]) or now
tokens = math.min(burst, tokens + math.max(0, now - stamp) * rate)
if tokens < 1 then
    if now < stamp then
        redis.call('HSET', KEYS[1], 'stamp', string.format('%.6f', now))
    end
    return string.format('%.17g', (1 - tokens) / rate)
end
tokens = tokens - 1
redis.call('HSET', KEYS[1], 'tokens', string.format('%.17g', tokens), 'stamp', string.format('%.6f', now))
redis.call('PEXPIRE', KEYS[1], string.format('%.0f', math.min(math.ceil((burst - tokens) / rate * 1000), 1e15)))
return '0'
"""


@public("trio_tsconnect.plugins")
class RedisStore:
    """Keeps buckets in a Redis server (5 or later), on the server's clock. All proxies that use the server share their buckets.

    `url`: `redis://host:6379/0`, `rediss://...` with TLS, or `unix:///path`, with a password where one is needed. `prefix`: what the names
    of the buckets begin with; stores with different prefixes do not share. `timeout`: the seconds after which a server counts as failed.

    The names of the buckets contain the SHA-256 of the key, so no API key is stored; a short key, such as a client address, can be guessed
    from its hash. The buckets expire when they are full again. Needs the extra `redis`; raises `ConfigError` without it, or if the URL is
    invalid.
    """

    # The client is synchronous and runs in threads: a call that is cancelled is abandoned, its thread ends by the timeout of its socket,
    # and the state of a connection never depends on where a task was cancelled.

    def __init__(self, url: str, *, prefix: str = PREFIX, timeout: float = 0.25) -> None:
        self._errors, self._client = _open_client(url, timeout)
        self._sha = hashlib.sha1(_SCRIPT.encode(), usedforsecurity=False).hexdigest()
        self._prefix = prefix
        self._timeout = timeout
        self._limiter = trio.CapacityLimiter(_THREADS)

    async def take(self, key: str, *, rate: float, burst: float) -> float:
        """Take a token and return 0.0. If there is none, return the seconds until there is one.

        Raises `trio.TooSlowError` after `timeout`, and `redis.RedisError` or `OSError` if the server cannot be reached or refuses. A token
        may have been taken even so.
        """
        name = self.bucket_name(key, rate=rate, burst=burst)
        with trio.fail_after(self._timeout):
            call = partial(self._run_script, name, rate, burst)
            return await trio.to_thread.run_sync(call, abandon_on_cancel=True, limiter=self._limiter)

    def bucket_name(self, key: str, *, rate: float, burst: float) -> str:
        """Return the name of a bucket in Redis."""
        identity = f"{float(rate)!r} {float(burst)!r} {key}".encode("utf-8", "surrogatepass")
        return self._prefix + hashlib.sha256(identity).hexdigest()

    def _run_script(self, name: str, rate: float, burst: float) -> float:
        given = (1, name, repr(float(rate)), repr(float(burst)))
        try:
            return float(self._client.evalsha(self._sha, *given))
        except self._errors.NoScriptError:  # the first call, or the server was restarted or flushed
            return float(self._client.eval(_SCRIPT, *given))

    def close(self) -> None:
        """Close the connections to the server. A later `take` opens new ones."""
        self._client.close()


def _open_client(url: str, timeout: float) -> tuple[Any, Any]:
    """Return the exceptions of the client library, and a client. No connection is opened yet."""
    try:
        import redis
        from redis.backoff import NoBackoff
        from redis.retry import Retry
    except ModuleNotFoundError as exc:
        raise ConfigError(str(lacks("redis", "a store in Redis", exc)), key="store") from None
    # No second attempt, because time is short and a token may have been taken. The older protocol needs no greeting.
    options: dict[str, Any] = {"protocol": 2, "retry": Retry(NoBackoff(), 0)}
    try:
        client = redis.Redis.from_url(url, socket_timeout=timeout, socket_connect_timeout=timeout, **options)
    except (ValueError, TypeError):
        # Neither the URL nor the text of the exception is shown, because both may contain a part of a password.
        raise ConfigError("is not the URL of a Redis, expected one such as redis://host:6379/0", key="store") from None
    return redis.exceptions, client
