"""What `rate_limit` counts by, and the stores that proxies share: a real Redis, one that is gone, and one that says nothing."""

from __future__ import annotations

import socket
import sys
from collections.abc import Iterator
from contextlib import closing
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import trio
import trustme
from hypothesis import given
from hypothesis import strategies as st
from trio.abc import Clock
from trio.testing import MockClock

from trio_tsconnect import ClientInfo, ConfigError, Plugin, ProxyConfig, Transaction
from trio_tsconnect.plugins import MemoryStore, RateLimit, RateLimitStore, RedisStore

from ._kit import Kit, open_kit
from ._redis import RedisServer, redis_server

SLOW = 20.0
"""Seconds for what a real server answers: no test waits for them to pass."""


class Done(Plugin):
    """Answers what was let through."""

    async def post_remap(self, txn: Transaction) -> None:
        if not txn.answered():
            txn.respond(200)


def limit(**options: Any) -> RateLimit:
    return RateLimit(RateLimit.Options(**{"rate": 0.001, "burst": 1} | options))


async def statuses(kit: Kit, *requests: str, **options: Any) -> list[int]:
    return [(await kit.ask(request, **options)).status for request in requests]


OTHER = ClientInfo(address=("198.51.100.7", 1))

# --- by what ----------------------------------------------------------------------------------------------------------------------


async def test_each_value_of_a_field_has_a_bucket_whoever_sends_it(autojump_clock: Clock) -> None:
    async with open_kit(limit(by="field", field="X-Api-Key"), Done()) as kit:
        assert await statuses(kit, "GET /\nX-Api-Key: a", "GET /\nx-api-key: b", "GET /\nx-API-key: a") == [200, 200, 429]
        assert await statuses(kit, "GET /\nX-Api-Key: b", client=OTHER) == [429]


async def test_a_field_that_is_sent_twice_is_one_value(autojump_clock: Clock) -> None:
    async with open_kit(limit(by="field", field="X-Api-Key"), Done()) as kit:
        assert await statuses(kit, "GET /\nX-Api-Key: a\nX-Api-Key: b", "GET /\nX-Api-Key: a", "GET /\nX-Api-Key: a\nX-Api-Key: b") == [
            200,
            200,
            429,
        ]


async def test_without_the_field_it_is_the_network_of_the_client_that_counts(autojump_clock: Clock) -> None:
    async with open_kit(limit(by="field", field="X-Api-Key"), Done()) as kit:
        assert await statuses(kit, "GET /", "GET /", "GET /\nX-Api-Key: client:192.0.2.1") == [200, 429, 200]
        assert await statuses(kit, "GET /", client=OTHER) == [200]


async def test_a_function_may_name_the_bucket_or_say_that_there_is_none(autojump_clock: Clock) -> None:
    def by_method(txn: Transaction) -> str | None:
        return None if txn.request.method == "HEAD" else txn.request.method

    async with open_kit(limit(key=by_method), Done()) as kit:
        assert await statuses(kit, "GET /", "POST /", "GET /", "HEAD /", "HEAD /") == [200, 200, 429, 200, 200]


async def test_the_process_itself_is_asked_by_no_function_unless_it_is_asked_for(autojump_clock: Clock) -> None:
    async with open_kit(limit(key=lambda txn: "all"), Done()) as kit:
        assert await statuses(kit, "GET /", "GET /", client=None) == [200, 200]
    async with open_kit(limit(key=lambda txn: "all", internal=True), Done()) as kit:
        assert await statuses(kit, "GET /", "GET /", client=None) == [200, 429]


# --- the store in memory ----------------------------------------------------------------------------------------------------------


async def test_plugins_share_a_store_in_memory_but_no_bucket_of_another_rate(autojump_clock: Clock) -> None:
    store = MemoryStore()
    async with open_kit(limit(store=store), Done()) as one, open_kit(limit(store=store), Done()) as two:
        assert await statuses(one, "GET /") + await statuses(two, "GET /") == [200, 429]
    async with open_kit(limit(store=store, burst=2), Done()) as kit:
        assert await statuses(kit, "GET /", "GET /", "GET /") == [200, 200, 429]


async def test_two_fields_with_the_same_value_have_a_bucket_each(autojump_clock: Clock) -> None:
    store = MemoryStore()
    one, two = (limit(store=store, by="field", field=field) for field in ("X-A", "X-B"))
    async with open_kit(one, Done()) as first, open_kit(two, Done()) as second:
        assert await statuses(first, "GET /\nX-A: 1") + await statuses(second, "GET /\nX-B: 1", "GET /\nX-B: 1") == [200, 200, 429]


@given(st.floats(0.01, 100), st.floats(1, 5), st.lists(st.just(0.0) | st.floats(0, 30), min_size=1, max_size=30))
def test_no_more_is_given_than_burst_and_rate_allow_and_a_refusal_is_exact(rate: float, burst: float, pauses: list[float]) -> None:
    given: list[float] = []

    def was_given(now: float) -> None:
        given.append(now)
        for count, begin in enumerate(reversed(given), start=1):
            assert count <= burst + (now - begin) * rate + 1e-6

    async def main() -> None:
        store = MemoryStore()
        for pause in pauses:
            await trio.sleep(pause)
            wait = await store.take("", rate=rate, burst=burst)
            if wait:
                await trio.sleep(wait * (1 + 1e-6))
                assert await store.take("", rate=rate, burst=burst) == 0
            was_given(trio.current_time())

    trio.run(main, clock=MockClock(autojump_threshold=0))


# --- a store that fails -----------------------------------------------------------------------------------------------------------


class Failing:
    """A store that does what a test says."""

    def __init__(self, error: Exception | None = None) -> None:
        self.error = error
        self.cancelled = 0

    async def take(self, key: str, *, rate: float, burst: float) -> float:
        if self.error is not None:
            raise self.error
        try:
            await trio.sleep_forever()
        except trio.Cancelled:
            self.cancelled += 1
            raise
        raise AssertionError


@pytest.mark.parametrize(
    ("error", "reason"),
    [(OSError("no route"), "OSError: no route"), (None, "no answer within 3 seconds"), (ExceptionGroup("two", [ValueError()]), "ExceptionGroup: two (1 sub-exception)")],
)  # fmt: skip
@pytest.mark.parametrize("then", ["allow", "refuse"])
async def test_a_store_that_fails_decides_nothing_and_is_noted(
    error: Exception | None, reason: str, then: str, autojump_clock: Clock
) -> None:
    async with open_kit(limit(store=Failing(error), store_timeout=3, on_store_error=then), Done()) as kit:
        begin = trio.current_time()
        reply = await kit.ask("GET /")
        assert trio.current_time() - begin == pytest.approx(0 if error else 3)
    assert (reply.status, reply.headers.get("Retry-After")) == ((200, None) if then == "allow" else (503, "1"))
    assert kit.record().plugin == {"RateLimit": {"store_error": reason}}


async def test_a_client_that_leaves_takes_its_question_with_it(autojump_clock: Clock) -> None:
    store: RateLimitStore = Failing()
    async with open_kit(limit(store=store, store_timeout=100), Done()) as kit:
        with trio.move_on_after(1):
            await kit.ask("GET /")
        await trio.testing.wait_all_tasks_blocked()
        assert isinstance(store, Failing)
        assert store.cancelled == 1


# --- Redis ------------------------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def shared() -> Iterator[RedisServer]:
    with redis_server() as server:
        yield server


@pytest.fixture
def own() -> Iterator[RedisServer]:
    with redis_server() as server:
        yield server


@pytest.fixture
def prefix(request: pytest.FixtureRequest) -> str:
    """Names that no other test uses in the shared server."""
    return f"{request.node.name}:"


def admin(server: RedisServer) -> Any:
    import redis

    return closing(redis.Redis.from_url(server.url))


def tight(server: RedisServer, prefix: str, **options: Any) -> RateLimit:
    return limit(store=server.url, store_prefix=prefix, store_timeout=SLOW, **options)


@pytest.mark.needs("redis-server")
async def test_two_proxies_share_a_limit(shared: RedisServer, prefix: str) -> None:
    one, two = (tight(shared, prefix, rate=0.001, burst=3) for _ in range(2))
    async with open_kit(one, Done()) as first, open_kit(two, Done()) as second:
        assert await statuses(first, "GET /", "GET /") + await statuses(second, "GET /", "GET /") == [200, 200, 200, 429]
        reply = await first.ask("GET /")
        assert (reply.status, 990 < int(reply.headers["Retry-After"]) <= 1000) == (429, True)
        assert await statuses(second, "GET /", client=OTHER) == [200]
        assert first.records[-1].plugin == {"RateLimit": {"limited": True}}


@pytest.mark.needs("redis-server")
async def test_of_many_at_once_no_more_than_a_burst_get_a_token(shared: RedisServer, prefix: str) -> None:
    stores = [RedisStore(shared.url, prefix=prefix, timeout=SLOW) for _ in range(2)]
    waits: list[float] = []

    async def take(store: RedisStore) -> None:
        waits.append(await store.take("", rate=0.001, burst=10))

    async with trio.open_nursery() as nursery:
        for index in range(60):
            nursery.start_soon(take, stores[index % 2])
    assert waits.count(0.0) == 10
    for store in stores:
        store.close()


@pytest.mark.needs("redis-server")
async def test_tokens_come_back_at_the_rate(shared: RedisServer, prefix: str) -> None:
    with closing(RedisStore(shared.url, prefix=prefix, timeout=SLOW)) as store:
        given = 0
        begin = trio.current_time()
        while given < 30:  # 20 beyond the burst
            given += await store.take("", rate=200.0, burst=10.0) == 0
        assert trio.current_time() - begin > 0.099


@pytest.mark.needs("redis-server")
async def test_a_bucket_in_redis_holds_no_more_than_a_burst(shared: RedisServer, prefix: str) -> None:
    with closing(RedisStore(shared.url, prefix=prefix, timeout=SLOW)) as store, admin(shared) as redis:
        long_ago = redis.time()[0] - 1_000_000
        redis.hset(store.bucket_name("", rate=0.001, burst=2), mapping={"tokens": "1", "stamp": str(long_ago)})
        assert [await store.take("", rate=0.001, burst=2) > 0 for _ in range(3)] == [False, False, True]


@pytest.mark.needs("redis-server")
async def test_a_clock_that_was_set_back_stops_no_bucket(shared: RedisServer, prefix: str) -> None:
    with closing(RedisStore(shared.url, prefix=prefix, timeout=SLOW)) as store, admin(shared) as redis:
        name = store.bucket_name("", rate=10, burst=1)
        redis.hset(name, mapping={"tokens": "0.5", "stamp": str(redis.time()[0] + 1_000_000)})
        assert await store.take("", rate=10, burst=1) == 0.05
        with trio.fail_after(SLOW):
            while await store.take("", rate=10, burst=1):
                pass


@pytest.mark.needs("redis-server")
async def test_a_bucket_expires_when_it_would_be_full(shared: RedisServer, prefix: str) -> None:
    with closing(RedisStore(shared.url, prefix=prefix, timeout=SLOW)) as store, admin(shared) as redis:
        name = store.bucket_name("slow", rate=0.01, burst=2)
        for most in (100_000, 200_000, 200_000):
            await store.take("slow", rate=0.01, burst=2)
            assert most - 10_000 < redis.pttl(name) <= most
        assert await store.take("quick", rate=100, burst=1) == 0
        with trio.fail_after(SLOW):
            while redis.exists(store.bucket_name("quick", rate=100, burst=1)):
                await trio.lowlevel.checkpoint()
        assert await store.take("vast", rate=1e-300, burst=1) == 0
        assert redis.pttl(store.bucket_name("vast", rate=1e-300, burst=1)) > 1e14


@pytest.mark.needs("redis-server")
async def test_no_api_key_lies_in_redis(own: RedisServer) -> None:
    plugin = tight(own, "mine:", by="field", field="Authorization")
    async with open_kit(plugin, Done()) as kit:
        assert await statuses(kit, "GET /\nAuthorization: Bearer s3cret", "GET /\nAuthorization: Bearer \xe9") == [200, 200]
    with admin(own) as redis:
        (first, second) = redis.keys("*")
        assert {len(first), len(second)} == {len("mine:") + 64}
        assert first.startswith(b"mine:")
        assert all(set(redis.hgetall(name)) == {b"tokens", b"stamp"} for name in (first, second))
        assert b"s3cret" not in first + second


@pytest.mark.needs("redis-server")
async def test_another_prefix_or_rate_is_another_bucket(shared: RedisServer, prefix: str) -> None:
    with (
        closing(RedisStore(shared.url, prefix=prefix, timeout=SLOW)) as one,
        closing(RedisStore(shared.url, prefix=f"{prefix}2:", timeout=SLOW)) as two,
    ):
        assert await one.take("", rate=0.001, burst=1) == 0
        assert await two.take("", rate=0.001, burst=1) == 0
        assert await one.take("", rate=0.002, burst=1) == 0
        assert await one.take("", rate=0.001, burst=1) == pytest.approx(1000, rel=0.01)


@pytest.mark.needs("redis-server")
async def test_a_flushed_script_is_sent_again_and_the_buckets_stay(own: RedisServer) -> None:
    with closing(RedisStore(own.url, timeout=SLOW)) as store, admin(own) as redis:
        assert await store.take("", rate=0.001, burst=2) == 0
        redis.script_flush()
        assert await store.take("", rate=0.001, burst=2) == 0
        redis.script_flush()
        assert await store.take("", rate=0.001, burst=2) > 0
        assert redis.script_exists(store._sha) == [True]


@pytest.mark.needs("redis-server")
async def test_a_server_that_is_killed_lets_requests_through_and_limits_again_when_it_is_back(own: RedisServer) -> None:
    async with open_kit(tight(own, "a:"), Done()) as kit, open_kit(tight(own, "a:", on_store_error="refuse"), Done()) as strict:
        assert await statuses(kit, "GET /", "GET /") == [200, 429]
        own.kill()
        begin = trio.current_time()
        assert await statuses(kit, "GET /", "GET /") + await statuses(strict, "GET /") == [200, 200, 503]
        assert trio.current_time() - begin < SLOW / 2  # it does not wait for a server that is not there
        assert "ConnectionError" in str(kit.records[-1].plugin)
        own.start()
        assert await statuses(kit, "GET /", "GET /") + await statuses(strict, "GET /") == [200, 429, 429]


@pytest.mark.needs("redis-server")
async def test_a_server_that_was_restarted_between_two_requests_costs_none_of_them(own: RedisServer) -> None:
    async with open_kit(tight(own, "a:", burst=3), Done()) as kit:
        await kit.ask("GET /")
        own.kill()
        own.start()
        await kit.ask("GET /")
        assert not any(record.plugin for record in kit.records)


@pytest.mark.needs("redis-server")
async def test_a_server_that_stops_answering_delays_nobody_and_is_asked_again(own: RedisServer) -> None:
    plugin = limit(store=own.url, burst=1, store_timeout=0.05)
    async with open_kit(plugin, Done()) as kit:
        with own.paused():
            begin = trio.current_time()
            async with trio.open_nursery() as nursery:
                for _ in range(50):  # more than there are threads
                    nursery.start_soon(kit.ask, "GET /")
            assert trio.current_time() - begin < SLOW / 2
            assert [list(record.plugin["RateLimit"]) for record in kit.records] == [["store_error"]] * 50
        with trio.fail_after(SLOW):
            while await statuses(kit, "GET /") == [200]:
                pass


async def test_a_server_that_accepts_and_never_answers() -> None:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        listener.listen(100)
        host, port = listener.getsockname()
        # The threads wait for much longer than a request does.
        url = f"redis://{host}:{port}?socket_timeout={3 * SLOW}"
        async with open_kit(limit(store=url, store_timeout=0.05), Done()) as kit:
            begin = trio.current_time()
            async with trio.open_nursery() as nursery:
                for _ in range(20):  # more than there are threads
                    nursery.start_soon(kit.ask, "GET /")
            assert 0.05 <= trio.current_time() - begin < SLOW
            assert [record.status for record in kit.records] == [200] * 20
            assert [record.plugin for record in kit.records] == [{"RateLimit": {"store_error": "no answer within 0.05 seconds"}}] * 20


async def test_a_cancelled_question_leaves_no_thread_behind_and_no_place_taken() -> None:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        listener.listen(100)
        host, port = listener.getsockname()
        store = RedisStore(f"redis://{host}:{port}", timeout=0.1)
        take = partial(store.take, "", rate=1, burst=1)
        async with trio.open_nursery() as nursery:
            for _ in range(40):
                nursery.start_soon(take)
            await trio.testing.wait_all_tasks_blocked()
            assert store._limiter.borrowed_tokens > 0
            nursery.cancel_scope.cancel()
        with trio.fail_after(SLOW):
            while store._limiter.borrowed_tokens:
                await trio.lowlevel.checkpoint()
        assert store._limiter.statistics().tasks_waiting == 0
        store.close()


def free_port() -> int:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        port: int = listener.getsockname()[1]
        return port


@pytest.mark.needs("redis-server")
async def test_the_url_may_ask_for_tls_and_give_a_password(tmp_path: Path) -> None:
    authority, port, pem, roots = trustme.CA(), free_port(), tmp_path / "server.pem", tmp_path / "roots.pem"
    authority.issue_cert("localhost").private_key_and_cert_chain_pem.write_to_path(pem)
    authority.cert_pem.write_to_path(roots)
    tls = ["--tls-port", str(port), "--tls-cert-file", str(pem), "--tls-key-file", str(pem), "--tls-auth-clients", "no"]
    with redis_server(*tls, "--tls-ca-cert-file", str(roots), "--requirepass", "s3cret"):
        url = f"rediss://:s3cret@localhost:{port}/0?ssl_ca_certs={roots}"
        async with open_kit(limit(store=url, store_timeout=SLOW), Done()) as kit:
            assert await statuses(kit, "GET /", "GET /") == [200, 429]
        for wrong, reason in (
            (url.replace("s3cret", "other"), "AuthenticationError"),
            (url.partition("?")[0], "CERTIFICATE_VERIFY_FAILED"),
        ):
            async with open_kit(limit(store=wrong, store_timeout=SLOW, on_store_error="refuse"), Done()) as kit:
                assert await statuses(kit, "GET /") == [503]
                assert reason in str(kit.record().plugin)


@pytest.mark.needs("redis-server")
async def test_the_connections_are_closed_with_the_proxy(own: RedisServer) -> None:
    with admin(own) as redis:
        async with open_kit(tight(own, "a:"), Done()) as kit:
            await kit.ask("GET /")
            assert len(redis.client_list()) == 2
        with trio.fail_after(SLOW):
            while len(redis.client_list()) > 1:
                await trio.lowlevel.checkpoint()


# --- options ----------------------------------------------------------------------------------------------------------------------


def test_without_the_library_the_extra_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "redis", None)
    with pytest.raises(ConfigError) as caught:
        limit(store="redis://localhost")
    assert str(caught.value) == "store: a store in Redis needs the extra redis: pip install 'trio-tsconnect[redis]'"


@pytest.mark.parametrize(
    ("options", "line"),
    [
        ({"by": "field"}, 'field: is missing, expected the name of a request field for by = "field"'),
        ({"field": "X-Api-Key"}, 'field: is only for by = "field", got by = "client"'),
        ({"by": "field", "field": "X Api Key"}, "field: must be the name of a request field, got 'X Api Key'"),
        ({"by": "field", "field": ""}, "field: must be the name of a request field, got ''"),
        ({"key": "client"}, "key: must be a function of a transaction, which only Python code can give, got 'client'"),
        ({"key": str, "by": "all"}, "key: replaces by, expected only one of the two"),
        ({"store": "reddis://:s3cret@host"}, 'store: must be "memory" or a URL that begins with redis://, rediss://, unix://'),
        ({"store": "redis://:s3c/ret@host/0"}, "store: is not the URL of a Redis, expected one such as redis://host:6379/0"),
        (
            {"store": 3},
            'store: must be "memory" or a URL that begins with redis://, rediss://, unix://, or in Python an object with the method take, got 3',
        ),
        ({"store_prefix": 3}, "store_prefix: must be a string, got 3"),
        ({"store_timeout": 0}, "store_timeout: must be a number, more than 0, got 0"),
        ({"on_store_error": "wait"}, 'on_store_error: must be "allow" or "refuse", got \'wait\''),
    ],
)
def test_an_option_that_cannot_be_meant_is_refused_by_its_name(options: dict[str, Any], line: str) -> None:
    with pytest.raises(ConfigError) as caught:
        limit(**options)
    assert str(caught.value) == line


def load(tmp_path: Path, options: str) -> ProxyConfig:
    file = tmp_path / "proxy.toml"
    file.write_text(f'[[plugin]]\nuse = "rate_limit"\noptions = {{ rate = 1, {options} }}\n')
    return ProxyConfig.from_toml(file)


def test_a_file_may_set_them(tmp_path: Path) -> None:
    config = load(
        tmp_path, 'by = "field", field = "X-Api-Key", store = "redis://127.0.0.1:1/0", on_store_error = "refuse", store_timeout = 1'
    )
    (plugin,) = config.plugins
    assert isinstance(plugin, RateLimit)
    options = plugin.options
    assert (options.field, options.store, options.on_store_error, options.store_timeout) == (
        "X-Api-Key",
        "redis://127.0.0.1:1/0",
        "refuse",
        1,
    )


@pytest.mark.parametrize(
    ("options", "line"),
    [
        ('by = "field"', 'options.field: is missing, expected the name of a request field for by = "field"'),
        ("field = 3", "options.field: must be a string, got 3"),
        ('by = "field", field = "a b"', "options.field: must be the name of a request field, got 'a b'"),
        ("store = 3", 'options.store: must be "memory" or a URL that begins with redis://, rediss://, unix://'),
        ('store = "redis"', 'options.store: must be "memory" or a URL that begins with redis://, rediss://, unix://'),
        ('store = "redis://h:p"', "options.store: is not the URL of a Redis, expected one such as redis://host:6379/0"),
        ('on_store_error = "wait"', 'options.on_store_error: must be "allow" or "refuse", got "wait"'),
        ('store_timeout = "1"', 'options.store_timeout: must be a number, got "1"'),
        ('key = "client"', "options.key: must be a function of a transaction, which only Python code can give, got 'client'"),
        ('stor = "memory"', "options.stor: unknown key; did you mean"),
    ],
)
def test_an_error_in_a_file_names_the_key(tmp_path: Path, options: str, line: str) -> None:
    with pytest.raises(ConfigError) as caught:
        load(tmp_path, options)
    assert f"plugin[0].{line}" in str(caught.value)
