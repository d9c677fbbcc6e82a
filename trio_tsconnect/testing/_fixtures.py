"""The pytest plugin: fixtures for a proxy in memory. pytest loads it in every project that has this package installed.

Invariant: importing it starts nothing and requires no other plugin, and it changes nothing for a test that uses none of its fixtures. The
async fixtures are plain async generators, which pytest-trio runs. In a test that pytest-trio does not run, they fail with an explanation.
"""

from __future__ import annotations

import inspect
from collections.abc import AsyncIterator, Generator, Sequence
from typing import TYPE_CHECKING, Any

import pytest

from trio_tsconnect import MemoryLog, Plugin, Proxy, ProxyConfig, RemapRule, open_proxy
from trio_tsconnect.log import LogRecord
from trio_tsconnect.testing._growing import Growing
from trio_tsconnect.testing._leaks import LeftOpen, find_leaks
from trio_tsconnect.testing._origin import ScriptedOrigin

if TYPE_CHECKING:
    import httpx

_leaks = pytest.StashKey[str]()


@pytest.fixture
def ts_log() -> MemoryLog:
    """The log of `ts_proxy`."""
    log = MemoryLog()
    log.records = Growing()
    return log


@pytest.fixture
def ts_records(ts_log: MemoryLog) -> Growing[LogRecord]:
    """The log records of `ts_proxy`, a list. A record may be appended shortly after its response: `await ts_records.wait(1)`."""
    assert isinstance(ts_log.records, Growing)
    return ts_log.records


@pytest.fixture
async def ts_origin() -> AsyncIterator[ScriptedOrigin]:
    """A `ScriptedOrigin` for http://origin.test. An exception in its script fails the test."""
    origin = ScriptedOrigin("origin.test")
    yield origin
    origin.check()


@pytest.fixture
def ts_config(ts_origin: ScriptedOrigin) -> ProxyConfig:
    """The configuration of `ts_proxy`: all requests are forwarded to `ts_origin`. Override it to change it."""
    return ProxyConfig(remap=(RemapRule("/", f"http://{ts_origin.host}/"),))


@pytest.fixture
def ts_plugins() -> Sequence[Plugin]:
    """The plugins of `ts_proxy`: none. Override it to add some."""
    return ()


@pytest.fixture
async def ts_proxy(
    request: pytest.FixtureRequest, ts_config: ProxyConfig, ts_plugins: Sequence[Plugin], ts_origin: ScriptedOrigin, ts_log: MemoryLog
) -> AsyncIterator[Proxy]:
    """A `Proxy` in memory, open during the test. The test fails if sessions or transactions are still open when it ends."""
    try:
        async with open_proxy(ts_config, plugins=(*ts_plugins, ts_origin.plugin()), log=ts_log) as proxy:
            yield proxy
            if leaks := await find_leaks(proxy):
                raise LeftOpen(leaks)  # an exception closes the proxy at once; a normal exit would wait for the leaks to drain
    except LeftOpen as left:
        request.node.stash[_leaks] = str(left)


@pytest.fixture
async def ts_client(ts_proxy: Proxy, ts_origin: ScriptedOrigin) -> AsyncIterator[httpx.AsyncClient]:
    """An `httpx.AsyncClient` that sends through `ts_proxy`. Its base URL is that of `ts_origin`."""
    import httpx

    from trio_tsconnect.clients import HttpxTransport

    base_url = f"http://{ts_origin.host}"
    async with httpx.AsyncClient(transport=HttpxTransport(ts_proxy), base_url=base_url, trust_env=False) as client:
        yield client


# ------------------------------------------------------------------------------------------------------------------- around the tests


@pytest.hookimpl(wrapper=True)
def pytest_runtest_call(item: pytest.Item) -> Generator[None, Any, Any]:
    """Fail a test that passed but left something open. A test that failed keeps its own failure."""
    result = yield
    if leaks := item.stash.get(_leaks, None):
        pytest.fail(f"left open by the test:\n{leaks}", pytrace=False)
    return result


@pytest.hookimpl(tryfirst=True)
def pytest_fixture_setup(fixturedef: pytest.FixtureDef[Any], request: pytest.FixtureRequest) -> None:
    """Fail a test that uses an async fixture of this module and is not run by pytest-trio."""
    if fixturedef.func.__module__ == __name__ and inspect.isasyncgenfunction(fixturedef.func):
        trio_is_there = request.config.pluginmanager.hasplugin("trio")
        if not trio_is_there or request.node.get_closest_marker("trio") is None:
            hint = "" if trio_is_there else ", which is not active here: pip install 'trio-tsconnect[testing]'"
            pytest.fail(
                f"{fixturedef.argname} is an async fixture of trio_tsconnect: it needs an `async def` test, marked with @pytest.mark.trio"
                f" (or under trio_mode = true) and run by pytest-trio{hint}",
                pytrace=False,
            )
