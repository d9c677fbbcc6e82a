"""RateLimit: limit the rate of requests with a token bucket for each client, each tag, each value of a field, or each key of your own.

A bucket holds at most `burst` tokens and gains `rate` tokens a second. A request takes one token; if there is none, it is answered with 429
and the seconds until there is one. The buckets are in a store. Invariant: a store that fails or does not answer delays a request by no more
than `store_timeout`, and fails no request by an exception.
"""

from __future__ import annotations

import ipaddress
import math
from collections.abc import Callable
from typing import Any, Literal

import attrs
import trio

from trio_tsconnect import ConfigError, Guard, Proxy, Transaction
from trio_tsconnect._util import public
from trio_tsconnect.plugins._options import flag, number, one_of, refuse, text
from trio_tsconnect.plugins._rate_limit_store import PREFIX, SCHEMES, MemoryStore, RateLimitStore, RedisStore


def _is_field(_instance: Any, attribute: Any, value: Any) -> None:
    if value is not None and not (isinstance(value, str) and _is_token(value)):
        raise refuse(attribute.name, "the name of a request field", value)


def _is_token(text: str) -> bool:
    """Return True if `text` is a token (RFC 9110 §5.6.2), as names of fields are."""
    return bool(text) and all(c.isascii() and (c.isalnum() or c in "!#$%&'*+-.^_`|~") for c in text)


def _is_key(_instance: Any, attribute: Any, value: Any) -> None:
    if value is not None and not callable(value):
        raise refuse(attribute.name, "a function of a transaction, which only Python code can give", value)


def _is_store(_instance: Any, attribute: Any, value: Any) -> None:
    expected = f'"memory" or a URL that begins with {", ".join(SCHEMES)}'
    if isinstance(value, str):
        if value != "memory" and not value.startswith(SCHEMES):
            # The value is not shown, because a mistyped URL may contain a password.
            raise ConfigError(f"must be {expected}", key=attribute.name)
    elif not callable(getattr(value, "take", None)):
        raise refuse(attribute.name, f"{expected}, or in Python an object with the method take", value)


@public("trio_tsconnect.plugins")
class RateLimit(Guard):
    """Answers requests that exceed `rate` a second, after a burst of `burst`, with 429 (RFC 6585 §4) and `Retry-After`.

    Without a shared store each proxy limits on its own. In a shared store, limits with the same `rate`, `burst`, `by` and `store_prefix`
    share their buckets.
    """

    @attrs.frozen(kw_only=True)
    class Options:
        """The options of `RateLimit`."""

        rate: float = attrs.field(validator=number(above=0))
        """The sustained rate, in requests a second."""
        burst: float = attrs.field(default=10, validator=number(least=1))
        """The number of requests that are allowed at once after a pause."""
        by: Literal["client", "tag", "field", "all"] = attrs.field(default="client", validator=one_of("client", "tag", "field", "all"))
        """What is limited: `client`, each client address; `tag`, each tag; `field`, each value of a request field; `all`, all requests
        together.
        """
        field: str | None = attrs.field(default=None, validator=_is_field)
        """The request field, such as `X-Api-Key` or `Authorization`, for `by = "field"`. Requests without it share one bucket for each client
        address. The value is not verified: a client that invents values gets a bucket for each, so verify them before, or add a second limit
        by client.
        """
        key: Callable[[Transaction], str | None] | None = attrs.field(default=None, validator=_is_key)
        """Only in Python: a function that returns the name of the bucket for a transaction, or None for no limit. It replaces `by`."""
        internal: bool = attrs.field(default=False, validator=flag)
        """Limit internal requests too, which code in this process makes. With `by = "tag"` they are always limited."""
        ipv6_prefix: int = attrs.field(default=64, validator=number(least=1, most=128, whole=True))
        """The number of leading bits of an IPv6 address that identify a client, because a client usually has a whole network."""
        max_buckets: int = attrs.field(default=10_000, validator=number(least=1, whole=True))
        """The largest number of buckets to keep in memory. Beyond it the least recently used bucket is dropped."""
        store: str | RateLimitStore = attrs.field(default="memory", validator=_is_store, repr=False)
        """Where the buckets are: `memory`, or the URL of a Redis that several proxies share (extra `redis`): `redis://host:6379/0`,
        `rediss://...` with TLS, `unix:///path`. In Python also any `RateLimitStore`.
        """
        store_prefix: str = attrs.field(default=PREFIX, validator=text)
        """What the names of buckets in Redis begin with."""
        store_timeout: float = attrs.field(default=0.25, validator=number(above=0))
        """The most seconds that a request waits for the store."""
        on_store_error: Literal["allow", "refuse"] = attrs.field(default="allow", validator=one_of("allow", "refuse"))
        """What happens to a request if the store fails or does not answer in time: `allow` forwards it, `refuse` answers 503 with
        `Retry-After`. The log has the reason as `store_error`.
        """

        def __attrs_post_init__(self) -> None:
            if self.by == "field" and self.field is None:
                raise ConfigError('is missing, expected the name of a request field for by = "field"', key="field")
            if self.by != "field" and self.field is not None:
                raise ConfigError(f'is only for by = "field", got by = "{self.by}"', key="field")
            if self.key is not None and self.by != "client":
                raise ConfigError("replaces by, expected only one of the two", key="key")

    def __init__(self, options: Options) -> None:
        self.options = options
        self._own_store: RedisStore | None = None
        if not isinstance(options.store, str):
            self._store = options.store
        elif options.store == "memory":
            self._store = MemoryStore(options.max_buckets)
        else:
            self._store = self._own_store = RedisStore(options.store, prefix=options.store_prefix, timeout=options.store_timeout)

    async def run(self, proxy: Proxy) -> None:
        """Close the connections to the store when the proxy closes, if the plugin made the store."""
        if self._own_store is None:
            return
        try:
            await trio.sleep_forever()
        finally:
            self._own_store.close()

    async def judge(self, txn: Transaction) -> None:
        """Take a token, or answer with 429 if there is none."""
        key = self._key(txn)
        if key is None:
            return
        try:
            with trio.fail_after(self.options.store_timeout):
                wait = await self._store.take(key, rate=self.options.rate, burst=self.options.burst)
        except trio.TooSlowError:
            self._without_store(txn, f"no answer within {self.options.store_timeout:g} seconds")
        except Exception as exc:  # noqa: BLE001 - a store is code of others, and a request must not fail with it
            self._without_store(txn, f"{type(exc).__name__}: {exc}")
        else:
            if wait > 0:
                txn.log["limited"] = True
                txn.respond(429, "Too many requests.\n", headers={"Retry-After": str(math.ceil(wait)), "Cache-Control": "no-store"})

    def _without_store(self, txn: Transaction, reason: str) -> None:
        txn.log["store_error"] = reason
        if self.options.on_store_error == "refuse":
            headers = {"Retry-After": "1", "Cache-Control": "no-store"}
            txn.respond(503, "The rate limit of this request could not be checked.\n", headers=headers)

    def _key(self, txn: Transaction) -> str | None:
        """Return the key of the bucket, or None if the request is not limited. It begins with its kind, so no two kinds share a bucket."""
        options = self.options
        if txn.internal and not (options.internal or options.by == "tag"):
            return None
        if options.key is not None:
            own = options.key(txn)
            return None if own is None else f"key:{own}"
        match options.by:
            case "tag":
                return f"tag:{txn.tag or ''}"
            case "field" if options.field is not None and (values := txn.request.headers.get_all(options.field)):
                return f"field:{options.field.lower()}:{', '.join(values)}"
            case "field" | "client":
                return f"client:{_network(txn.client.host, options.ipv6_prefix)}"
            case _:
                return "all"


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
