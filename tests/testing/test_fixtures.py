"""The fixtures as a user's tests have them, in runs of pytest of their own."""

from __future__ import annotations

import sys

import pytest

pytest_plugins = ["pytester"]

USER_INI = """
[pytest]
trio_mode = true
filterwarnings = error
"""


@pytest.fixture
def run_tests(pytester: pytest.Pytester):
    """Run a module of tests as a project that uses this package has them run."""

    def run(source: str, *options: str, ini: str = USER_INI) -> pytest.RunResult:
        pytester.makeini(ini)
        pytester.makepyfile(source)
        return pytester.runpytest_inprocess("-p", "no:cacheprovider", *options)

    return run


# --- what the fixtures are for -----------------------------------------------------------------------------------------------------


async def test_request_to_the_client_reaches_the_scripted_origin_and_the_log(ts_client, ts_origin, ts_records) -> None:
    ts_origin.answer("/hello", body="hello, you")
    response = await ts_client.get("/hello?who=me", headers={"X-Mine": "1"})
    assert (response.status_code, response.text) == (200, "hello, you")
    [request] = ts_origin.requests
    assert (request.method, request.target, request.headers["x-mine"]) == ("GET", "/hello?who=me", "1")
    [record] = await ts_records.wait()
    assert (record.status, record.ended.why, record.internal) == (200, "complete", True)


@pytest.mark.parametrize("number", [1, 2])
async def test_every_test_has_its_own(ts_client, ts_origin, ts_records, number: int) -> None:
    await ts_client.get("/")
    assert len(ts_origin.requests) == len(await ts_records.wait()) == 1


def test_configuration_and_plugins_are_overridden_by_fixtures(run_tests) -> None:
    run_tests(
        """
        import pytest
        from trio_tsconnect import Plugin, ProxyConfig, RemapRule

        class Teapot(Plugin):
            async def read_request(self, txn):
                if txn.request.target.endswith("/tea"):
                    txn.respond(418)

        @pytest.fixture
        def ts_config(ts_origin):
            return ProxyConfig(remap=[RemapRule("//shop.example/", f"http://{ts_origin.host}/v1/")])

        @pytest.fixture
        def ts_plugins():
            return [Teapot()]

        async def test_it(ts_client, ts_origin):
            ts_origin.answer("/v1/milk", body="milk")
            assert (await ts_client.get("http://shop.example/milk")).text == "milk"
            assert (await ts_client.get("http://shop.example/tea")).status_code == 418
            assert (await ts_client.get("http://other.example/milk")).status_code == 404
        """
    ).assert_outcomes(passed=1)


async def test_fixtures_work_on_a_clock_that_jumps(ts_client, ts_origin, autojump_clock) -> None:
    ts_origin.answer("/silent", fault="stall")
    response = await ts_client.get("/silent", timeout=1000)
    assert response.status_code == 504


# --- the leak check ----------------------------------------------------------------------------------------------------------------


def test_connection_that_is_left_open_fails_the_test_and_is_named(run_tests) -> None:
    result = run_tests(
        """
        async def test_it(ts_proxy):
            ts_proxy.connect()
        """
    )
    result.assert_outcomes(failed=1)
    result.stdout.fnmatch_lines(["left open by the test:", "- <Session *idle: close the connection"])


def test_transaction_that_is_left_going_fails_the_test_without_delay(run_tests) -> None:
    result = run_tests(
        """
        import pytest, time
        from trio_tsconnect.testing import exchange

        @pytest.fixture(autouse=True)
        def quick():
            begun = time.monotonic()
            yield
            assert time.monotonic() - begun < 5

        async def test_it(ts_proxy, ts_origin):
            ts_origin.answer("/", fault="stall")
            connection = ts_proxy.connect()
            await connection.send_all(b"GET / HTTP/1.1\\r\\nHost: origin.test\\r\\n\\r\\n")
            await ts_origin.requests.wait()
        """
    )
    result.assert_outcomes(failed=1)
    result.stdout.fnmatch_lines(["- <Session *busy with <Transaction * GET http://origin.test/*", "- 1 origin connection(s)*"])


def test_leak_is_found_on_a_clock_that_jumps_too(run_tests) -> None:
    result = run_tests(
        """
        async def test_it(ts_proxy, autojump_clock):
            ts_proxy.connect()
        """
    )
    result.assert_outcomes(failed=1)
    result.stdout.fnmatch_lines(["left open by the test:"])


def test_leak_of_a_test_that_failed_is_not_reported(run_tests) -> None:
    result = run_tests(
        """
        async def test_it(ts_proxy):
            ts_proxy.connect()
            raise KeyError("mine")
        """
    )
    result.assert_outcomes(failed=1)
    result.stdout.fnmatch_lines(["*KeyError: 'mine'"])
    result.stdout.no_fnmatch_line("*left open*")


def test_what_other_tests_leave_is_not_looked_for(run_tests) -> None:
    run_tests(
        """
        from trio_tsconnect import HttpConfig, ProxyConfig, open_proxy

        async def test_it():
            async with open_proxy(ProxyConfig(http=HttpConfig(drain_timeout=0.01))) as proxy:
                proxy.connect()
        """
    ).assert_outcomes(passed=1)


def test_what_a_script_of_the_origin_raises_fails_the_test(run_tests) -> None:
    result = run_tests(
        """
        async def test_it(ts_client, ts_origin):
            async def check(request):
                assert request.headers.get("x-token") == "secret"
            ts_origin.reply("/", check)
            assert (await ts_client.get("/")).status_code == 502
        """
    )
    result.assert_outcomes(failed=1)
    result.stdout.fnmatch_lines(["*AssertionError: assert None == 'secret'*"])


# --- where they do not work --------------------------------------------------------------------------------------------------------

SENTENCE = "{} is an async fixture of trio_tsconnect: it needs an `async def` test, marked with @pytest.mark.trio (or under trio_mode = true) and run by pytest-trio"


@pytest.mark.parametrize("name", ["ts_proxy", "ts_origin", "ts_client"])
def test_async_fixture_in_a_sync_test_says_so_in_one_sentence(run_tests, name: str) -> None:
    result = run_tests(f"def test_it({name}): pass")
    result.assert_outcomes(errors=1)
    first = name if name == "ts_origin" else "ts_*"
    result.stdout.fnmatch_lines([SENTENCE.format(first)])
    result.stdout.no_fnmatch_line("*Traceback*")


def test_async_fixture_in_an_unmarked_test_says_so(run_tests) -> None:
    result = run_tests("async def test_it(ts_origin): pass", ini="")
    result.assert_outcomes(errors=1)
    result.stdout.fnmatch_lines([SENTENCE.format("ts_origin")])


def test_marked_test_needs_no_trio_mode(run_tests) -> None:
    run_tests(
        """
        import pytest

        @pytest.mark.trio
        async def test_it(ts_client, ts_records):
            assert (await ts_client.get("/")).status_code == 404
        """,
        ini="",
    ).assert_outcomes(passed=1)


def test_without_pytest_trio_the_plugin_loads_and_says_what_is_missing(run_tests) -> None:
    result = run_tests("def test_other(): pass\ndef test_it(ts_proxy): pass", "-p", "no:trio", ini="")
    result.assert_outcomes(passed=1, errors=1)
    result.stdout.fnmatch_lines(["ts_* is an async fixture*, which is not active here: pip install 'trio-tsconnect?testing?'"])


def test_plugin_imports_neither_pytest_trio_nor_httpx(pytester: pytest.Pytester) -> None:
    result = pytester.run(
        sys.executable,
        "-c",
        "import sys, trio_tsconnect.testing._fixtures; print([m for m in ('pytest_trio', 'httpx', 'hypothesis') if m in sys.modules])",
    )
    result.stdout.fnmatch_lines(["[[]]"])
