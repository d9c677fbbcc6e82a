"""The plugins that make requests of their own: auth request, aggregate, mirror, prefetch, background fetch."""

from __future__ import annotations

import json
from typing import Any

import pytest
import trio
from trio.abc import Clock
from trio.testing import wait_all_tasks_blocked

from trio_tsconnect import ClientInfo, ConfigError, ConnectOptions, HttpConfig, Plugin, RemapRule, Transaction
from trio_tsconnect.logstats import summarize
from trio_tsconnect.plugins import Aggregate, AuthRequest, BackgroundFetch, Mirror, Prefetch, Source
from trio_tsconnect.testing import Answer, OriginRequest, exchange

from ._kit import CLIENT, Kit, open_kit

ANY = [RemapRule("/", "http://site.test/")]


# --- auth request -----------------------------------------------------------------------------------------------------------------


def auth(**options: Any) -> AuthRequest:
    return AuthRequest(AuthRequest.Options(url="http://auth.test:81/check?x=1", **options))


BOTH = ("site.test", "auth.test")


async def test_the_service_is_asked_with_the_head_and_a_request_it_likes_goes_on(autojump_clock: Clock) -> None:
    async with open_kit(auth(copy="X-User"), origins=BOTH) as kit:
        kit.origins["auth.test"].answer("/check", 204, headers={"X-User": "ada"})
        kit.origins["site.test"].answer("/page", body="hello")
        request = "POST /page?q\nAuthorization: Bearer abc\nX-User: root\nX-Original-URL: x\nContent-Type: text/plain\nConnection: X-Hop\nX-Hop: 1"
        assert (await kit.ask(request, body=b"body")).text == "hello"
        (asked,), (seen,) = kit.origins["auth.test"].requests, kit.origins["site.test"].requests
    assert (asked.method, asked.target, asked.body) == ("GET", "/check?x=1", b"")
    assert asked.headers["Authorization"] == "Bearer abc"
    assert asked.headers.get_all("X-Original-URL") == ["http://site.test/page?q"]
    assert asked.headers["X-Original-Method"] == "POST"
    assert asked.headers["X-Forwarded-For"] == "192.0.2.1"
    assert asked.headers["Host"] == "auth.test"
    assert not {"content-type", "content-length", "x-hop"} & {name.lower() for name in asked.headers}
    assert (seen.body, seen.headers.get_all("X-User")) == (b"body", ["ada"])
    whole, question = kit.record(), kit.record("auth_request")
    assert (question.parent, question.depth, question.client_address, question.internal) == (whole.transaction, 1, "192.0.2.1", True)
    assert whole.plugin["AuthRequest"] == {"status": 204}


async def test_a_name_that_the_service_may_give_is_never_the_clients(autojump_clock: Clock) -> None:
    async with open_kit(auth(copy="X-User"), origins=BOTH) as kit:
        kit.origins["auth.test"].answer("/check")
        kit.origins["site.test"].answer("/")
        await kit.ask("GET /\nX-User: root")
        assert "X-User" not in kit.origins["site.test"].requests[0].headers


async def test_the_service_may_be_told_only_some_fields(autojump_clock: Clock) -> None:
    async with open_kit(auth(fields="Cookie"), origins=BOTH) as kit:
        kit.origins["auth.test"].answer("/check")
        kit.origins["site.test"].answer("/")
        await kit.ask("GET /\nCookie: a=b\nAuthorization: Basic eA==")
        (asked,) = kit.origins["auth.test"].requests
    assert asked.headers["Cookie"] == "a=b"
    assert "Authorization" not in asked.headers


@pytest.mark.parametrize("status", [401, 403])
async def test_a_refusal_is_the_answer_with_its_fields_and_its_body(status: int, autojump_clock: Clock) -> None:
    async with open_kit(auth(), origins=BOTH) as kit:
        fields = [("WWW-Authenticate", 'Basic realm="x"'), ("Set-Cookie", "a=b"), ("Set-Cookie", "c=d"), ("Content-Type", "text/html")]
        kit.origins["auth.test"].answer("/check", status, body="<p>no", headers=fields)
        reply = await kit.ask("GET /")
        assert not kit.origins["site.test"].requests
    assert (reply.status, reply.text) == (status, "<p>no")
    assert [(name, value) for name, value in reply.headers.items() if name in dict(fields)] == fields
    assert (kit.record().ended.by, kit.record().ended.why) == ("plugin", "responded")


async def test_a_refusal_whose_body_is_too_long_goes_without_it(autojump_clock: Clock) -> None:
    async with open_kit(auth(max_body=10), origins=BOTH) as kit:
        kit.origins["auth.test"].answer("/check", 403, body=b"x" * 11, headers={"Content-Type": "text/html"})
        reply = await kit.ask("GET /")
    assert (reply.status, reply.body, reply.headers.get("Content-Type")) == (403, b"", None)


@pytest.mark.parametrize("answer", [Answer(500), Answer(302), Answer(raw=b"garbage\r\n\r\n"), Answer(fault="die"), Answer(fault="stall")])
async def test_a_service_that_gives_no_verdict_means_500(answer: Answer, autojump_clock: Clock) -> None:
    async with open_kit(auth(timeout=3), origins=BOTH) as kit:
        kit.origins["auth.test"].reply("/check", answer)
        reply = await kit.ask("GET /")
        assert reply.status == 500
        assert not kit.origins["site.test"].requests
    assert "exception" not in str(kit.record().plugin)


async def test_a_question_that_no_budget_is_left_for_means_500(autojump_clock: Clock) -> None:
    async with open_kit(auth(), origins=BOTH, http=HttpConfig(max_concurrent_internal=1)) as kit, kit.proxy.connect():
        assert (await kit.ask("GET /")).status == 500
    assert kit.record().plugin["AuthRequest"] == {"error": "the connection was refused: concurrency"}


async def test_the_process_does_not_ask_about_itself(autojump_clock: Clock) -> None:
    async with open_kit(auth(), origins=BOTH) as kit:
        kit.origins["site.test"].answer("/")
        assert (await kit.ask("GET /", client=None)).status == 200
        assert not kit.origins["auth.test"].requests


async def test_a_rule_for_any_host_does_not_catch_the_question(autojump_clock: Clock) -> None:
    async with open_kit(auth(), origins=BOTH, remap=ANY) as kit:
        kit.origins["auth.test"].answer("/check")
        kit.origins["site.test"].answer("/")
        assert (await kit.ask("GET /")).status == 200
        assert len(kit.origins["auth.test"].requests) == 1


async def test_a_rule_for_the_services_host_says_where_it_is(autojump_clock: Clock) -> None:
    rules = [*ANY, RemapRule("//auth.test/", "http://elsewhere.test/auth/")]
    async with open_kit(auth(), origins=("site.test", "elsewhere.test"), remap=rules) as kit:
        kit.origins["elsewhere.test"].answer("/auth/check")
        kit.origins["site.test"].answer("/")
        assert (await kit.ask("GET /")).status == 200


async def test_a_service_without_any_rule_is_asked_all_the_same(autojump_clock: Clock) -> None:
    rules = [RemapRule("//site.test/", "http://site.test/", plugins=[auth()])]
    async with open_kit(origins=BOTH, remap=rules) as kit:
        kit.origins["auth.test"].answer("/check", 403)
        assert (await kit.ask("GET /")).status == 403


async def test_the_questions_are_not_counted_as_streams_of_the_client(autojump_clock: Clock) -> None:
    async with open_kit(auth(), origins=BOTH) as kit:
        kit.origins["auth.test"].answer("/check")
        kit.origins["site.test"].answer("/")
        number = kit.proxy.next_id()
        for stream in (1, 3, 5):
            client = ClientInfo(address="192.0.2.1", protocol="h2", alpn="h2", connection=number, stream=stream)
            assert (await kit.ask("GET /", client=client, tag="h2", id=number)).status == 200
    summary = summarize(kit.records)
    assert summary.transactions == 6
    assert summary.streams_per_connection == {number: 3}


async def test_a_client_that_leaves_takes_the_question_with_it(autojump_clock: Clock) -> None:
    async with open_kit(auth(), origins=BOTH) as kit:
        kit.origins["auth.test"].answer("/check", fault="stall")
        stream = kit.proxy.connect(ConnectOptions(client=CLIENT))
        await stream.send_all(b"GET / HTTP/1.1\r\nHost: site.test\r\n\r\n")
        await kit.origins["auth.test"].requests.wait(1)
        await stream.aclose()
        await kit.records.wait(2)
        await wait_all_tasks_blocked()
        assert kit.origins["auth.test"].open_connections == 0
        assert kit.proxy.statistics().sessions == 0


async def test_question_is_not_about_the_clients_copy_of_the_resource() -> None:
    fields = 'If-None-Match: "x"\nIf-Modified-Since: Fri, 27 Nov 2026 00:00:00 GMT\nRange: bytes=0-5\nIf-Range: "x"\nIf-Match: *\nX-Kept: 1'
    async with open_kit(auth(), origins=BOTH) as kit:
        kit.origins["auth.test"].answer("/check", 204)
        kit.origins["site.test"].answer("/", body="hi")
        await kit.ask("GET /\n" + fields)
        (asked,), (seen,) = kit.origins["auth.test"].requests, kit.origins["site.test"].requests
    assert not {"if-none-match", "if-modified-since", "range", "if-range", "if-match"} & {name.lower() for name in asked.headers}
    assert (asked.headers["x-kept"], seen.headers["range"]) == ("1", "bytes=0-5")


@pytest.mark.parametrize(("status", "name", "value"), [(302, "Location", "https://login.test/"), (429, "Retry-After", "7")])
@pytest.mark.parametrize("configured", [True, False])
async def test_refusals_that_are_configured_are_passed_on(status: int, name: str, value: str, configured: bool) -> None:
    options = {"refusals": (401, 403, status)} if configured else {}
    async with open_kit(auth(**options), origins=BOTH) as kit:
        kit.origins["auth.test"].answer("/check", status, headers={name: value})
        answer = await kit.ask("GET /")
    assert (answer.status, answer.headers.get(name)) == ((status, value) if configured else (500, None))


async def test_service_that_takes_too_long_is_logged_with_its_deadline(autojump_clock: Clock) -> None:
    async def slow(_request: OriginRequest) -> Answer:
        await trio.sleep(60)
        return Answer(204)

    async with open_kit(auth(timeout=3), origins=BOTH) as kit:
        kit.origins["auth.test"].reply("/check", slow)
        answer = await kit.ask("GET /")
    assert answer.status == 500
    assert (kit.record("auth_request").ended.by, kit.record("auth_request").ended.why) == ("proxy", "deadline")


# --- aggregate --------------------------------------------------------------------------------------------------------------------


def aggregate(*sources: tuple[str, str], **options: Any) -> Aggregate:
    return Aggregate(Aggregate.Options(path="/all", sources=[Source(name=name, url=url) for name, url in sources], **options))


async def test_the_answers_of_all_sources_come_as_one_array_in_their_order(autojump_clock: Clock) -> None:
    plugin = aggregate(("user", "/user?id=1"), ("news", "http://news.test:81/latest"))
    async with open_kit(plugin, origins=("site.test", "news.test")) as kit:
        kit.origins["site.test"].answer("/user", body='{"id": 1}', headers={"Content-Type": "application/json"})
        kit.origins["news.test"].answer("/latest", body="grüße", headers={"Content-Type": "text/plain"})
        reply = await kit.ask("GET /all?x=1\nAuthorization: Bearer abc\nCookie: a=b")
        (user,), (news,) = kit.origins["site.test"].requests, kit.origins["news.test"].requests
    assert (reply.status, reply.headers["Content-Type"]) == (200, "application/json")
    assert reply.json() == [
        {"name": "user", "status": 200, "body": {"id": 1}, "error": None},
        {"name": "news", "status": 200, "body": "grüße", "error": None},
    ]
    assert (user.target, user.headers["Authorization"], user.headers["Cookie"]) == ("/user?id=1", "Bearer abc", "a=b")
    assert not {"authorization", "cookie"} & {name.lower() for name in news.headers}
    assert [record.parent for record in kit.records if record.tag] == [kit.record(None).transaction] * 2


async def test_the_sources_are_asked_at_the_same_time(autojump_clock: Clock) -> None:
    both = trio.Event()

    async def meet(_request: OriginRequest) -> Answer:
        if len(kit.origins["site.test"].requests) == 2:
            both.set()
        await both.wait()
        return Answer(200, "met")

    async with open_kit(aggregate(("a", "/a"), ("b", "/b"))) as kit:
        kit.origins["site.test"].reply("/a", meet)
        kit.origins["site.test"].reply("/b", meet)
        assert [part["body"] for part in (await kit.ask("GET /all")).json()] == ["met", "met"]


async def test_a_source_that_fails_has_an_error_and_spoils_nothing_else(autojump_clock: Clock) -> None:
    plugin = aggregate(
        ("good", "/good"), ("bad", "/bad"), ("slow", "/slow"), ("large", "/large"), ("lost", "/lost"), timeout=3, max_body=100
    )
    async with open_kit(plugin) as kit:
        origin = kit.origins["site.test"]
        origin.answer("/good", body="good")
        origin.answer("/bad", fault="die")
        origin.answer("/slow", fault="stall")
        origin.answer("/large", body=b"x" * 101)
        reply = await kit.ask("GET /all")
        record = kit.record(None)
    parts = {part["name"]: (part["status"], part["body"], part["error"]) for part in reply.json()}
    assert reply.status == 200
    assert parts["good"] == (200, "good", None)
    assert parts["bad"] == (502, None, "status 502")
    assert parts["slow"] == (504, None, "status 504")
    assert parts["large"] == (200, None, "the response is larger than 100 bytes")
    assert parts["lost"] == (404, None, "status 404")
    assert record.plugin["Aggregate"] == {"failed_sources": ["bad", "slow", "large", "lost"]}


async def test_all_sources_failing_is_502(autojump_clock: Clock) -> None:
    async with open_kit(aggregate(("a", "/a"), ("b", "/b"))) as kit:
        reply = await kit.ask("GET /all")
    assert (reply.status, len(reply.json())) == (502, 2)


async def test_the_answers_may_come_as_parts(autojump_clock: Clock) -> None:
    async with open_kit(aggregate(("a", "/a"), ('"b"', "/b"), format="multipart")) as kit:
        kit.origins["site.test"].answer("/a", body=b"\x00\xff", headers={"Content-Type": "image/x"})
        reply = await kit.ask("GET /all")
    kind, _, boundary = reply.headers["Content-Type"].partition("; boundary=")
    assert kind == "multipart/mixed"
    first, second, end = reply.body.removeprefix(f"--{boundary}\r\n".encode()).split(f"--{boundary}".encode())
    assert first == b'Content-Disposition: inline; name="a"\r\nContent-Type: image/x\r\nX-Status: 200\r\n\r\n\x00\xff\r\n'
    assert second.startswith(b'\r\nContent-Disposition: inline; name="\\"b\\""\r\n')
    assert b"\r\nX-Status: 404\r\nX-Error: failed\r\n\r\n\r\n" in second
    assert end == b"--\r\n"


async def test_other_paths_and_methods_are_not_taken_over(autojump_clock: Clock) -> None:
    async with open_kit(aggregate(("a", "/a"))) as kit:
        kit.origins["site.test"].answer("/all", 201)
        assert (await kit.ask("POST /all")).status == 201
        assert (await kit.ask("GET /all2")).status == 404
        assert (await kit.ask("HEAD /all")).body == b""


async def test_aggregate_and_an_application_go_together_in_either_order(autojump_clock: Clock) -> None:
    class App(Plugin):
        async def pre_remap(self, txn: Transaction) -> None:
            if txn.answered_by is None and not txn.internal:
                txn.intercept(lambda stream: stream.send_all(b"HTTP/1.1 200 OK\r\nContent-Length: 3\r\n\r\napp"))

    for plugins in ([App(), aggregate(("a", "/a"))], [aggregate(("a", "/a")), App()]):
        async with open_kit(*plugins) as kit:
            kit.origins["site.test"].answer("/a", body="a")
            assert [part["body"] for part in (await kit.ask("GET /all")).json()] == ["a"]
            assert (await kit.ask("GET /")).body == b"app"


async def test_an_aggregate_may_belong_to_one_remap_rule(autojump_clock: Clock) -> None:
    rules = [RemapRule("/", "http://site.test/", plugins=[aggregate(("a", "/a"), ("b", "/b"))])]
    async with open_kit(remap=rules) as kit:
        kit.origins["site.test"].answer("/a", body="one")
        kit.origins["site.test"].answer("/b", body="two")
        assert [part["body"] for part in (await kit.ask("GET /all")).json()] == ["one", "two"]


# --- mirror -----------------------------------------------------------------------------------------------------------------------


def mirror(**options: Any) -> Mirror:
    return Mirror(Mirror.Options(to="http://shadow.test:81/base/", **options))


SHADOW = ("site.test", "shadow.test")


async def test_a_copy_goes_to_the_second_origin_and_nobody_waits_for_it(autojump_clock: Clock) -> None:
    async with open_kit(mirror(methods=["GET", "POST"]), origins=SHADOW) as kit:
        kit.origins["site.test"].answer("/page", body="real")
        kit.origins["shadow.test"].answer("/base/page", fault="stall")
        reply = await kit.ask("POST /page?q\nX-Some: thing", body=b"body")
        assert reply.text == "real"
        await kit.origins["shadow.test"].requests.wait(1)
        (copy,) = kit.origins["shadow.test"].requests
        (real,) = kit.origins["site.test"].requests
        assert (copy.method, copy.target, copy.body) == ("POST", "/base/page?q", b"body")
        assert (copy.headers["X-Some"], copy.headers["X-Mirror"], copy.headers["Host"]) == ("thing", "1", "shadow.test")
        assert (real.body, real.headers["Content-Length"], real.headers.get("X-Mirror")) == (b"body", "4", None)
        await kit.records.wait(2)
        record, shadow = kit.record(), kit.record("mirror")
    assert (shadow.parent, shadow.detached, shadow.ended.why) == (record.transaction, True, "deadline")
    assert record.plugin["Mirror"] == {"mirrored": "started"}


async def settle(kit: Kit, count: int) -> None:
    await kit.records.wait(count)
    await wait_all_tasks_blocked()


async def test_only_so_many_copies_are_under_way(autojump_clock: Clock) -> None:
    gate = trio.Event()

    async def hold(_request: OriginRequest) -> Answer:
        await gate.wait()
        return Answer(200, b"x" * 100_000)

    async with open_kit(mirror(concurrency=2), origins=SHADOW) as kit:
        kit.origins["site.test"].answer("/")
        kit.origins["shadow.test"].reply("/base/", hold)
        for _ in range(3):
            assert (await kit.ask("GET /")).status == 200
        assert [record.plugin["Mirror"]["mirrored"] for record in kit.records] == ["started", "started", "busy"]
        gate.set()
        await settle(kit, 5)
        await kit.ask("GET /")
        assert kit.records[-1].plugin["Mirror"] == {"mirrored": "started"}
        await settle(kit, 7)
        assert [record.response_bytes for record in kit.records if record.tag] == [100_000] * 3


@pytest.mark.parametrize("head", ["Content-Length: 11", "Transfer-Encoding: chunked"])
async def test_a_body_that_is_too_long_or_of_unknown_length_is_not_held(head: str, autojump_clock: Clock) -> None:
    async with open_kit(mirror(methods="POST", max_body=10), origins=SHADOW) as kit:
        kit.origins["site.test"].answer("/")
        async with kit.proxy.connect(ConnectOptions(client=CLIENT)) as stream:
            body = b"b\r\nhello there\r\n0\r\n\r\n" if "chunked" in head else b"hello there"
            await exchange(stream, f"POST / HTTP/1.1\r\nHost: site.test\r\n{head}\r\n\r\n".encode() + body)
        assert kit.origins["site.test"].requests[0].body == b"hello there"
        assert kit.record().plugin["Mirror"] == {"mirrored": "body"}
        assert not kit.origins["shadow.test"].requests


async def test_a_part_of_the_requests_may_be_copied_and_other_methods_are_not(autojump_clock: Clock) -> None:
    plugin = mirror(fraction=0.25)
    numbers = iter([0.1, 0.25, 0.9])
    plugin._random.random = lambda: next(numbers)  # type: ignore[method-assign]
    async with open_kit(plugin, origins=SHADOW) as kit:
        kit.origins["site.test"].answer("/")
        await kit.ask("DELETE /")
        for _ in range(3):
            await kit.ask("GET /")
        await settle(kit, 5)
        assert len(kit.origins["shadow.test"].requests) == 1


async def test_a_rule_for_any_host_does_not_double_the_traffic(autojump_clock: Clock) -> None:
    async with open_kit(mirror(), origins=SHADOW, remap=ANY) as kit:
        kit.origins["site.test"].answer("/")
        await kit.ask("GET /")
        await settle(kit, 2)
        assert [len(origin.requests) for origin in kit.origins.values()] == [1, 1]


async def test_nothing_is_left_of_copies_when_the_proxy_closes(autojump_clock: Clock) -> None:
    async with open_kit(mirror(timeout=1000), origins=SHADOW) as kit:
        kit.origins["site.test"].answer("/")
        kit.origins["shadow.test"].answer("/base/", fault="stall")
        await kit.ask("GET /")
    assert kit.proxy.statistics().sessions == 0
    assert kit.record("mirror").ended.by == "proxy"


# --- prefetch ---------------------------------------------------------------------------------------------------------------------


async def test_what_a_response_announces_is_fetched(autojump_clock: Clock) -> None:
    links = '</next?x=1>; rel="next nofollow", <http://site.test/lib.js#top>;rel=preload;as=script, </other>; rel=alternate'
    async with open_kit(Prefetch()) as kit:
        origin = kit.origins["site.test"]
        origin.answer("/", headers=[("Link", links), ("Link", "<http://elsewhere.test/>; rel=prefetch"), ("Link", "<http://[>; rel=next")])
        origin.answer("/next", body=b"x" * 100_000, headers={"Link": "</more>; rel=next"})
        assert (await kit.ask("GET /\nAccept-Language: de\nCookie: a=b")).status == 200
        await settle(kit, 3)
        assert sorted(request.target for request in origin.requests) == ["/", "/lib.js", "/next?x=1"]
        assert origin.requests[1].headers["Accept-Language"] == "de"
        assert "cookie" not in origin.requests[1].headers
        assert kit.record().plugin["Prefetch"] == {"started": ["http://site.test/next?x=1", "http://site.test/lib.js"]}


async def test_the_next_of_a_series_are_fetched(autojump_clock: Clock) -> None:
    plugin = Prefetch(Prefetch.Options(pattern=r"/video/(?P<n>[0-9]+)[.]ts", ahead=2))
    async with open_kit(plugin) as kit:
        origin = kit.origins["site.test"]
        origin.answer("/video/098.ts")
        await kit.ask("GET /video/098.ts?q")
        await settle(kit, 3)
        assert sorted(request.target for request in origin.requests) == ["/video/098.ts?q", "/video/099.ts?q", "/video/100.ts?q"]


@pytest.mark.parametrize(("method", "status"), [("POST", 200), ("GET", 404), ("GET", 206)])
async def test_only_a_200_to_a_get_announces_anything(method: str, status: int, autojump_clock: Clock) -> None:
    async with open_kit(Prefetch()) as kit:
        kit.origins["site.test"].answer("/", status, headers={"Link": "</next>; rel=next"})
        await kit.ask(f"{method} /")
        await wait_all_tasks_blocked()
        assert len(kit.origins["site.test"].requests) == 1


async def test_what_is_being_fetched_is_not_fetched_again(autojump_clock: Clock) -> None:
    async with open_kit(Prefetch(Prefetch.Options(timeout=5))) as kit:
        kit.origins["site.test"].answer("/", headers={"Link": "</next>; rel=next"})
        kit.origins["site.test"].answer("/next", fault="stall")
        await kit.ask("GET /")
        await kit.ask("GET /")
        await settle(kit, 3)
        assert sorted(request.target for request in kit.origins["site.test"].requests) == ["/", "/", "/next"]
        await kit.ask("GET /")
        await kit.origins["site.test"].requests.wait(5)


# --- background fetch -------------------------------------------------------------------------------------------------------------


async def test_after_a_part_the_whole_is_fetched(autojump_clock: Clock) -> None:
    async with open_kit(BackgroundFetch()) as kit:
        origin = kit.origins["site.test"]
        origin.answer("/file", 206, body="part", headers={"Content-Range": "bytes 0-3/1000"})
        origin.answer("/file", 200, body=b"x" * 1000)
        assert (await kit.ask("GET /file?v=1\nRange: bytes=0-3\nIf-Range: x\nAccept: a/b")).status == 206
        await settle(kit, 2)
        second = origin.requests[1]
        record = kit.record("background_fetch")
        assert (second.target, second.headers["Accept"]) == ("/file?v=1", "a/b")
        assert not {"range", "if-range"} & {name.lower() for name in second.headers}
        assert len(second.headers.get_all("Via")) == len(second.headers.get_all("X-Forwarded-For")) == 1
        assert (record.status, record.response_bytes, record.detached, record.client_address) == (200, 1000, True, "192.0.2.1")
        assert record.id == record.parent == kit.record().transaction


@pytest.mark.parametrize(
    ("fields", "content_range"),
    [("Authorization: x", "bytes 0-3/9"), ("Cookie: x", "bytes 0-3/9"), ("X: y", "bytes 0-3/101"), ("X: y", "bytes 0-3/*")],
)
async def test_what_is_somebodys_own_or_too_large_is_not_fetched(fields: str, content_range: str, autojump_clock: Clock) -> None:
    async with open_kit(BackgroundFetch(BackgroundFetch.Options(max_size=100))) as kit:
        kit.origins["site.test"].answer("/", 206, body="part", headers={"Content-Range": content_range})
        await kit.ask(f"GET /\nRange: bytes=0-3\n{fields}")
        await wait_all_tasks_blocked()
        assert len(kit.origins["site.test"].requests) == 1


async def test_what_a_client_did_not_wait_for_is_fetched_to_its_end(autojump_clock: Clock) -> None:
    async with open_kit(BackgroundFetch()) as kit:
        origin = kit.origins["site.test"]
        origin.answer("/", body=b"x" * 1_000_000)
        stream = kit.proxy.connect(ConnectOptions(client=CLIENT))
        await stream.send_all(b"GET / HTTP/1.1\r\nHost: site.test\r\n\r\n")
        await stream.receive_some(100)
        await stream.aclose()
        await settle(kit, 2)
        record = kit.record("background_fetch")
        assert (record.response_bytes, record.parent, record.id) == (1_000_000, None, kit.record().transaction)


async def test_only_what_is_asked_for_makes_it_fetch(autojump_clock: Clock) -> None:
    async with open_kit(BackgroundFetch(BackgroundFetch.Options(after=["abort"]))) as kit:
        kit.origins["site.test"].answer("/", 206, body="part", headers={"Content-Range": "bytes 0-3/9"})
        await kit.ask("GET /\nRange: bytes=0-3")
        await wait_all_tasks_blocked()
        assert len(kit.origins["site.test"].requests) == 1


# --- what options may be ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("make", "line"),
    [
        (lambda: AuthRequest.Options(url="/check"), "url: must be a URL such as http://service.example/path: "),
        (lambda: AuthRequest.Options(url="ws://a.test/"), "url: must be an http or https URL, got 'ws://a.test/'"),
        (lambda: auth(timeout=0), "timeout: must be a number, more than 0, got 0"),
        (lambda: auth(copy=["Transfer-Encoding"]), "copy[0]: is a hop-by-hop or framing field"),
        (lambda: Source(name="a", url="//host/x"), "url: must be a URL such as"),
        (lambda: aggregate(), "sources: is empty, expected at least one source"),
        (lambda: mirror(fraction=1.5), "fraction: must be a number, more than 0 and at most 1, got 1.5"),
        (lambda: mirror(concurrency=0), "concurrency: must be a whole number, 1 or more, got 0"),
        (lambda: Prefetch.Options(pattern="("), "pattern: is not a valid regular expression: "),
        (lambda: Prefetch.Options(pattern="/a"), "pattern: has no group (?P<n>...), expected one around the number of the series"),
        (lambda: BackgroundFetch.Options(after="never"), "after[0]: must be \"range\" or \"abort\", got 'never'"),
    ],
)  # fmt: skip
def test_an_option_that_cannot_be_meant_is_refused_by_its_name(make: Any, line: str) -> None:
    with pytest.raises(ConfigError) as caught:
        make()
    assert str(caught.value).startswith(line)


def test_json_is_what_json_says() -> None:
    """What the array of an aggregate holds of a body that only says that it is JSON."""
    from trio_tsconnect.plugins._aggregate import _Part

    assert json.loads(json.dumps(_Part("a", 200, "application/json", b"{").to_json()))["body"] == "{"


# --- budgets ------------------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("plugin", "logged"),
    [
        (mirror(), {"Mirror": {"mirrored": "refused"}}),
        (Prefetch(), {"Prefetch": {"refused": ["http://site.test/next"]}}),
        (BackgroundFetch(), {"BackgroundFetch": {"fetch": "refused"}}),
    ],
    ids=["mirror", "prefetch", "background_fetch"],
)
async def test_side_work_that_no_budget_is_left_for_costs_the_client_nothing(plugin: Plugin, logged: object, autojump_clock: Clock) -> None:
    async with open_kit(plugin, http=HttpConfig(max_concurrent_internal=1)) as kit, kit.proxy.connect():
        origin = kit.origins["site.test"]
        headers = {"Link": "</next>; rel=next"} | ({"Content-Range": "bytes 0-3/9"} if isinstance(plugin, BackgroundFetch) else {})
        origin.answer("/", 206 if "Content-Range" in headers else 200, body="part", headers=headers)
        assert (await kit.ask("GET /\nRange: bytes=0-3" if "Content-Range" in headers else "GET /")).text == "part"
        await wait_all_tasks_blocked()
        assert len(origin.requests) == 1
    assert kit.record().plugin == logged
