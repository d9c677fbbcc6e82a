"""The plugins that answer, or name, what passes them: health check, rate limit, request id, header rewrite."""

from __future__ import annotations

import json
import re
from typing import Any

import pytest
import trio
from trio.abc import Clock

from trio_tsconnect import AccessRule, ClientInfo, ConfigError, ConnectOptions, Plugin, RemapRule, Request, Transaction
from trio_tsconnect.plugins import HeaderRewrite, HeaderRule, HealthCheck, MemoryStore, RateLimit, RequestId
from trio_tsconnect.plugins._request_id import parse_traceparent

from ._kit import CLIENT, open_kit


def client(address: str) -> ClientInfo:
    return ClientInfo(address=(address, 1))


# --- health check -----------------------------------------------------------------------------------------------------------------


async def test_a_health_check_is_answered_without_an_origin_if_access_rules_allow_it(autojump_clock: Clock) -> None:
    async with open_kit(HealthCheck(), remap=()) as kit:
        reply = await kit.ask("GET /healthz?x=1")
        assert (reply.status, reply.text, reply.headers["Cache-Control"]) == (200, "ok\n", "no-store")
        assert (await kit.ask("HEAD /healthz")).headers["Content-Length"] == "3"
        assert (await kit.ask("POST /healthz")).status == 404
        assert (await kit.ask("GET /healthz2")).status == 404
    async with open_kit(HealthCheck(), remap=(), access=[AccessRule(action="deny", methods="GET")]) as kit:
        assert (await kit.ask("GET /healthz")).status == 403


async def test_a_health_check_of_some_hosts_leaves_others_alone(autojump_clock: Clock) -> None:
    async with open_kit(HealthCheck(HealthCheck.Options(path="/up", hosts=("status.test",), body="fine")), remap=()) as kit:
        assert (await kit.ask("GET /up\nHost: status.test:8080")).text == "fine"
        assert (await kit.ask("GET /up")).status == 404


async def test_a_health_check_says_503_once_the_proxy_drains(autojump_clock: Clock) -> None:
    async with open_kit(HealthCheck(HealthCheck.Options(statistics=True))) as kit:
        async with kit.proxy.connect() as stream:
            await stream.send_all(b"GET /healthz HTTP/1.1\r\n")
            await trio.testing.wait_all_tasks_blocked()
            async with trio.open_nursery() as nursery:
                nursery.start_soon(kit.proxy.drain, 10)
                await trio.testing.wait_all_tasks_blocked()
                await stream.send_all(b"Host: site.test\r\n\r\n")
                reply = await stream.receive_some()
        assert reply.startswith(b"HTTP/1.1 503 ")
        facts = json.loads(reply.partition(b"\r\n\r\n")[2])
        assert (facts["draining"], facts["transactions"]) == (True, 1)


# --- rate limit -------------------------------------------------------------------------------------------------------------------


class Done(Plugin):
    """Answers what was let through."""

    async def post_remap(self, txn: Transaction) -> None:
        if not txn.answered():
            txn.respond(200)


def limit(**options: Any) -> RateLimit:
    return RateLimit(RateLimit.Options(**options))


async def test_after_a_burst_there_is_429_until_a_token_has_come(autojump_clock: Clock) -> None:
    async with open_kit(limit(rate=0.5, burst=2), Done()) as kit:
        assert [(await kit.ask("GET /")).status for _ in range(3)] == [200, 200, 429]
        reply = await kit.ask("GET /")
        assert (reply.status, reply.headers["Retry-After"]) == (429, "2")
        assert kit.records[-1].plugin == {"RateLimit": {"limited": True}}
        await trio.sleep(1.9)
        assert (await kit.ask("GET /")).headers["Retry-After"] == "1"
        await trio.sleep(0.1)
        assert (await kit.ask("GET /")).status == 200
        assert (await kit.ask("GET /")).status == 429


async def test_a_bucket_holds_no_more_than_a_burst(autojump_clock: Clock) -> None:
    async with open_kit(limit(rate=100, burst=1), Done()) as kit:
        assert (await kit.ask("GET /")).status == 200
        await trio.sleep(60)
        assert [(await kit.ask("GET /")).status for _ in range(2)] == [200, 429]


@pytest.mark.parametrize(
    ("first", "second", "shared"),
    [
        ("192.0.2.1", "192.0.2.2", False),
        ("192.0.2.1", "::ffff:192.0.2.1", True),
        ("2001:db8:0:1::1", "2001:db8:0:1:ffff::2", True),
        ("2001:db8:0:1::1", "2001:db8:0:2::1", False),
        ("unknown", "unknown", True),
    ],
)
async def test_each_client_has_a_bucket(first: str, second: str, shared: bool, autojump_clock: Clock) -> None:
    async with open_kit(limit(rate=0.1, burst=1), Done()) as kit:
        assert (await kit.ask("GET /", client=client(first))).status == 200
        assert (await kit.ask("GET /", client=client(second))).status == (429 if shared else 200)


async def test_the_process_itself_is_not_limited_unless_it_is_asked_for(autojump_clock: Clock) -> None:
    async with open_kit(limit(rate=0.1, burst=1), Done()) as kit:
        assert [(await kit.ask("GET /", client=None)).status for _ in range(3)] == [200, 200, 200]
    async with open_kit(limit(rate=0.1, burst=1, internal=True, by="all"), Done()) as kit:
        assert [(await kit.ask("GET /", client=who)).status for who in (None, CLIENT)] == [200, 429]


async def test_each_tag_may_have_a_bucket(autojump_clock: Clock) -> None:
    async with open_kit(limit(rate=0.1, burst=1, by="tag"), Done()) as kit:
        assert [(await kit.ask("GET /", tag=tag, client=None)).status for tag in ("a", "b", "a")] == [200, 200, 429]


async def test_the_table_of_buckets_is_bounded_and_forgets_who_was_there_longest_ago(autojump_clock: Clock) -> None:
    store = MemoryStore(max_buckets=2)
    plugin = limit(rate=0.001, burst=1, store=store)
    async with open_kit(plugin, Done()) as kit:
        for host in ("192.0.2.1", "192.0.2.2"):
            assert (await kit.ask("GET /", client=client(host))).status == 200
        assert (await kit.ask("GET /", client=client("192.0.2.1"))).status == 429  # it was here last now
        assert (await kit.ask("GET /", client=client("192.0.2.3"))).status == 200
        assert len(store) == 2
        assert (await kit.ask("GET /", client=client("192.0.2.1"))).status == 429
        assert (await kit.ask("GET /", client=client("192.0.2.2"))).status == 200


async def test_a_full_bucket_is_not_kept(autojump_clock: Clock) -> None:
    store = MemoryStore()
    plugin = limit(rate=1, burst=1, store=store)
    async with open_kit(plugin, Done()) as kit:
        await kit.ask("GET /", client=client("192.0.2.1"))
        await trio.sleep(1)
        await kit.ask("GET /", client=client("192.0.2.2"))
        assert len(store) == 1


# --- request id -------------------------------------------------------------------------------------------------------------------

PARENT = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01"


async def test_every_request_has_an_id_that_origin_client_and_record_agree_on(autojump_clock: Clock) -> None:
    async with open_kit(RequestId()) as kit:
        kit.origins["site.test"].answer("/")
        reply = await kit.ask("GET /\nX-Request-Id: mine")
        (seen,) = kit.origins["site.test"].requests
        name = seen.headers["X-Request-Id"]
        assert re.fullmatch("[0-9a-f]{32}", name)
        assert reply.headers["X-Request-Id"] == name
        assert kit.record().plugin["RequestId"]["request_id"] == name


async def test_a_clients_id_is_kept_only_if_it_is_trusted_and_harmless(autojump_clock: Clock) -> None:
    options = RequestId.Options(field="X-Id", trust_client=True, answer=False)
    async with open_kit(RequestId(options)) as kit:
        kit.origins["site.test"].answer("/")
        reply = await kit.ask("GET /\nX-Id: mine")
        assert "X-Id" not in reply.headers
        for value in ('a"b', "x" * 129, "a\nX-Id: b"):
            await kit.ask(f"GET /\nX-Id: {value}")
        seen = [request.headers["X-Id"] for request in kit.origins["site.test"].requests]
        assert seen[0] == "mine"
        assert all(re.fullmatch("[0-9a-f]{32}", value) for value in seen[1:])


async def test_a_response_that_no_origin_gave_has_the_id_too(autojump_clock: Clock) -> None:
    async with open_kit(RequestId(), remap=()) as kit:
        reply = await kit.ask("GET /")
        assert (reply.status, reply.headers["X-Request-Id"]) == (404, kit.record().plugin["RequestId"]["request_id"])


async def test_a_trace_goes_on_with_a_span_of_its_own(autojump_clock: Clock) -> None:
    async with open_kit(RequestId()) as kit:
        kit.origins["site.test"].answer("/")
        await kit.ask(f"GET /\ntraceparent: {PARENT}\ntracestate: a=b")
        (seen,) = kit.origins["site.test"].requests
        logged = kit.record()
        assert seen.headers["traceparent"] == f"00-4bf92f3577b34da6a3ce929d0e0e4736-{logged.span_id}-01"
        assert seen.headers["tracestate"] == "a=b"
        assert (logged.trace_id, logged.parent_span_id) == ("4bf92f3577b34da6a3ce929d0e0e4736", "00f067aa0ba902b7")
        assert logged.span_id != "00f067aa0ba902b7"


async def test_a_trace_that_cannot_be_read_begins_anew_without_its_state(autojump_clock: Clock) -> None:
    async with open_kit(RequestId(RequestId.Options(sampled=True))) as kit:
        kit.origins["site.test"].answer("/")
        await kit.ask("GET /\ntraceparent: nonsense\ntracestate: a=b")
        (seen,) = kit.origins["site.test"].requests
        logged = kit.record()
        assert seen.headers["traceparent"] == f"00-{logged.trace_id}-{logged.span_id}-01"
        assert "tracestate" not in seen.headers
        assert logged.parent_span_id is None


@pytest.mark.parametrize(
    ("value", "found"),
    [
        (PARENT, True),
        (PARENT.replace("00-", "01-", 1) + "-more", True),
        (PARENT.replace("00-", "01-", 1), True),
        (PARENT + "-more", False),
        (PARENT.replace("00-", "ff-", 1), False),
        (PARENT.upper(), False),
        ("00-" + "0" * 32 + "-00f067aa0ba902b7-01", False),
        ("00-4bf92f3577b34da6a3ce929d0e0e4736-" + "0" * 16 + "-01", False),
        (PARENT[:-1], False),
        (f"{PARENT}, {PARENT}", False),
        (None, False),
    ],
)
def test_a_traceparent_is_read_as_the_recommendation_has_it(value: str | None, found: bool) -> None:
    assert (parse_traceparent(value) is not None) is found


def test_flags_of_a_version_to_come_are_cut_to_what_is_known() -> None:
    context = parse_traceparent(PARENT.replace("00-", "01-", 1)[:-2] + "ff")
    assert context is not None
    assert context.flags == "01"


async def test_the_children_of_a_request_share_its_id_and_lie_within_its_span(autojump_clock: Clock) -> None:
    class Asks(Plugin):
        async def post_remap(self, txn: Transaction) -> None:
            if txn.parent is None:
                async with txn.fetch(Request("GET", "/part", {"Host": "site.test"}), options=ConnectOptions(tag="part")):
                    pass

    async with open_kit(RequestId(), Asks()) as kit:
        kit.origins["site.test"].answer("/")
        kit.origins["site.test"].answer("/part")
        await kit.ask("GET /")
        whole, part = kit.record(), kit.record("part")
        assert part.plugin["RequestId"]["request_id"] == whole.plugin["RequestId"]["request_id"]
        assert (part.trace_id, part.parent_span_id) == (whole.trace_id, whole.span_id)
        assert part.opened_by == "Asks.post_remap"


async def test_a_request_id_may_belong_to_one_remap_rule(autojump_clock: Clock) -> None:
    rules = [RemapRule("//site.test/", "http://site.test/", plugins=[RequestId()]), RemapRule("//other.test/", "http://site.test/")]
    async with open_kit(remap=rules) as kit:
        kit.origins["site.test"].answer("/")
        assert "X-Request-Id" in (await kit.ask("GET /")).headers
        assert "X-Request-Id" not in (await kit.ask("GET /\nHost: other.test")).headers


# --- header rewrite ---------------------------------------------------------------------------------------------------------------


def rewrite(*rules: dict[str, Any]) -> HeaderRewrite:
    return HeaderRewrite(HeaderRewrite.Options(rules=[HeaderRule(**rule) for rule in rules]))


async def test_fields_are_removed_set_and_added_in_both_directions(autojump_clock: Clock) -> None:
    plugin = rewrite(
        {"on": "request", "remove": ["Cookie"], "set": {"X-A": "1"}, "add": {"X-B": "2"}},
        {"on": "response", "remove": "Server", "set": {"X-C": "3"}, "add": {"Vary": "Accept"}},
    )
    async with open_kit(plugin) as kit:
        kit.origins["site.test"].answer("/", headers=[("Server", "x"), ("X-C", "old"), ("Vary", "Origin")])
        reply = await kit.ask("GET /\nCookie: a=b\nX-A: old\nX-B: old")
        (seen,) = kit.origins["site.test"].requests
    assert "cookie" not in seen.headers
    assert (seen.headers.get_all("X-A"), seen.headers.get_all("X-B")) == (["1"], ["old", "2"])
    assert "server" not in reply.headers
    assert (reply.headers.get_all("X-C"), reply.headers.get_all("Vary")) == (["3"], ["Origin", "Accept"])


@pytest.mark.parametrize(
    ("conditions", "request_line", "covered"),
    [
        ({"hosts": "site.test"}, "GET /v1/x", True),
        ({"hosts": "other.test"}, "GET /v1/x", False),
        ({"hosts": "*.test"}, "GET /v1/x", True),
        ({"hosts": "*.site.test"}, "GET /v1/x", False),
        ({"paths": "/v1"}, "GET /v1/x?y", True),
        ({"paths": "/v1"}, "GET /v1?y", True),
        ({"paths": "/v1/"}, "GET /v1/x", True),
        ({"paths": "/v1"}, "GET /v1x", False),
        ({"paths": ["/a", "/v1/x"]}, "GET /v1/x", True),
        ({"methods": ["GET", "HEAD"]}, "GET /v1/x", True),
        ({"methods": "POST"}, "GET /v1/x", False),
        ({"hosts": "site.test", "paths": "/v2"}, "GET /v1/x", False),
    ],
)
async def test_a_rule_is_for_what_the_client_asked(
    conditions: dict[str, Any], request_line: str, covered: bool, autojump_clock: Clock
) -> None:
    plugin = rewrite({"on": "request", "set": {"X-R": "1"}} | conditions, {"on": "response", "set": {"X-R": "1"}} | conditions)
    async with open_kit(plugin, remap=[RemapRule("//site.test/", "http://origin.test/below/")], origins=["origin.test"]) as kit:
        reply = await kit.ask(request_line)
        (seen,) = kit.origins["origin.test"].requests
    assert ("X-R" in seen.headers, "X-R" in reply.headers) == (covered, covered)


async def test_a_rule_may_be_for_some_statuses_and_covers_the_proxys_own_answers(autojump_clock: Clock) -> None:
    async with open_kit(rewrite({"on": "response", "statuses": [404], "set": {"X-R": "1"}})) as kit:
        kit.origins["site.test"].answer("/")
        assert "X-R" not in (await kit.ask("GET /")).headers
        assert (await kit.ask("GET /\nHost: nowhere.test")).headers["X-R"] == "1"


async def test_a_second_attempt_sends_the_request_that_was_rewritten_once(autojump_clock: Clock) -> None:
    class Again(Plugin):
        async def read_response(self, txn: Transaction) -> None:
            if txn.response.status == 503:
                txn.retry()

    async with open_kit(rewrite({"on": "request", "add": {"X-R": "1"}}), Again()) as kit:
        kit.origins["site.test"].answer("/", 503)
        kit.origins["site.test"].answer("/", 200)
        assert (await kit.ask("GET /")).status == 200
        assert [request.headers.get_all("X-R") for request in kit.origins["site.test"].requests] == [["1"], ["1"]]


# --- what options may be ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("make", "line"),
    [
        (lambda: HealthCheck.Options(path="healthz"), "path: must be a path that begins with / and has no query, got 'healthz'"),
        (lambda: HealthCheck.Options(draining_status=100), "draining_status: must be a whole number, 200 or more and at most 599, got 100"),
        (lambda: RateLimit.Options(rate=0), "rate: must be a number, more than 0, got 0"),
        (lambda: RateLimit.Options(rate=True), "rate: must be a number, more than 0, got True"),
        (lambda: RateLimit.Options(rate=1, burst=0.5), "burst: must be a number, 1 or more, got 0.5"),
        (lambda: RateLimit.Options(rate=1, by="cookie"), 'by: must be "client" or "tag" or "field" or "all", got \'cookie\''),  # type: ignore[arg-type]
        (lambda: RequestId.Options(field="a b"), "field: is not a valid field: field name 'a b' is not a token (RFC 9110 §5.1)"),
        (lambda: RequestId.Options(sampled=1), "sampled: must be true or false, got 1"),  # type: ignore[arg-type]
        (
            lambda: HeaderRule(on="request", set={"Content-Length": "1"}),
            "set.Content-Length: is a hop-by-hop or framing field, expected an end-to-end field",
        ),
        (lambda: HeaderRule(on="response", add={"X": "a\nb"}), "add.X: is not a valid field: the value of field 'X' has the control character b'\\n' (RFC 9110 §5.5)"),
        (lambda: HeaderRule(on="request", statuses=[200]), "statuses: is a condition for responses, but the rule is on requests"),
        (lambda: HeaderRule(on="request", hosts="a.*"), "hosts[0]: must be a host, or \"*.\" and a domain, got 'a.*'"),
        (lambda: HeaderRule(on="request", paths="v1"), "paths[0]: must be a path that begins with /, got 'v1'"),
    ],
)  # fmt: skip
def test_an_option_that_cannot_be_meant_is_refused_by_its_name(make: Any, line: str) -> None:
    with pytest.raises(ConfigError) as caught:
        make()
    assert str(caught.value) == line
