"""Fields about a connection: whose they are decides what becomes of them, in heads and in trailers, and whoever says `close` has closed."""

from __future__ import annotations

from typing import Any

import pytest

from tests.engine._world import GET, OK, Wire, open_world, replying
from tests.engine.test_hooks import make_plugin
from trio_tsconnect import ClientInfo, ConnectOptions, Headers, MemoryLog, Plugin, ProxyConfig, RemapRule, Transaction, open_proxy
from trio_tsconnect.message import drop_claimed, remove_listed
from trio_tsconnect.plugins import AuthRequest, HeaderRewrite, HeaderRule, RequestId

POST = b"POST /path HTTP/1.1\r\nHost: origin.test\r\n%bTransfer-Encoding: chunked\r\n\r\n2\r\nhi\r\n0\r\n%b\r\n"


class Recording:
    """An origin that keeps the heads and trailers it is sent."""

    def __init__(self, reply: bytes = OK) -> None:
        self.heads: list[dict[str, str]] = []
        self.raw: list[bytes] = []
        self.connections = 0
        self.reply = reply

    async def __call__(self, wire: Wire) -> None:
        self.connections += 1
        while True:
            first, headers = await wire.head()
            self.heads.append({":line": first, **headers})
            if headers.get("transfer-encoding") == "chunked":
                self.raw.append(await wire.until(b"0\r\n"))
                while (line := await wire.until(b"\r\n")) != b"\r\n":
                    self.raw.append(line)
            await wire.send(self.reply)


class Auth(Plugin):
    """The service that `AuthRequest` asks."""

    async def pre_remap(self, txn: Transaction) -> None:
        if txn.tag == "auth_request":
            txn.respond(200, headers={"X-User": "alice"})


def client(proxy: Any) -> Wire:
    return Wire(proxy.connect(ConnectOptions(target=("origin.test", 80), client=ClientInfo(address=("192.0.2.1", 1)))))


# ------------------------------------------------------------------------------------------------------------- what Connection lists


@pytest.mark.parametrize("listed", [b"x-user, x-request-id, traceparent", b"close, X-User,x-set", b"keep-alive,X-User, X-Request-Id,x-set"])
async def test_client_cannot_have_removed_what_plugins_have_set(listed: bytes) -> None:
    origin = Recording()
    plugins = [
        RequestId(),
        Auth(),
        AuthRequest(AuthRequest.Options(url="http://auth.test/", copy=("X-User",))),
        HeaderRewrite(HeaderRewrite.Options(rules=[HeaderRule(on="request", set={"X-Set": "yes"})])),
    ]
    async with open_world(origin, plugins=plugins) as world:
        wire = client(world.proxy)
        await wire.ask(GET.replace(b"\r\n\r\n", b"\r\nConnection: " + listed + b"\r\nX-User: admin\r\n\r\n"))
        await wire.stream.aclose()
    (head,) = origin.heads
    assert (head["x-user"], head["x-set"]) == ("alice", "yes")
    assert {"x-request-id", "traceparent"} <= set(head)
    assert "connection" not in head


@pytest.mark.parametrize(
    ("before", "after", "gone"),
    [
        ([("Connection", "keep-alive")], [("Connection", "keep-alive")], set()),
        ([("Connection", "x-a"), ("X-A", "1"), ("X-B", "2")], [("X-B", "2")], {b"x-a"}),
        ([("Connection", "close, x-a"), ("X-A", "1")], [("Connection", "close")], {b"x-a"}),
        ([("Connection", "Upgrade, x-a"), ("Upgrade", "y")], [("Connection", "upgrade"), ("Upgrade", "y")], {b"x-a"}),
        (
            [("Connection", "x-a"), ("X-A", "1"), ("Connection", "TE"), ("TE", "trailers")],
            [("Connection", "te"), ("TE", "trailers")],
            {b"x-a"},
        ),
        ([("Connection", "authorization"), ("Authorization", "z")], [("Authorization", "z")], set()),
    ],
)
def test_what_connection_lists_is_removed_once(before: list[Any], after: list[Any], gone: set[bytes]) -> None:
    headers = Headers(before)
    assert remove_listed(headers) == gone
    assert sorted(headers.items()) == sorted(after)
    assert remove_listed(headers) == set()


async def test_trailers_that_connection_lists_go_no_further_either_way() -> None:
    reply = b"HTTP/1.1 200 OK\r\nConnection: x-back\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nhi\r\n0\r\nX-Back: 1\r\nX-Fine: 2\r\n\r\n"
    origin = Recording(reply)
    async with open_world(origin) as world:
        wire = world.connect()
        await wire.send(POST % (b"Connection: x-hop\r\n", b"X-Hop: 1\r\nX-Good: 2\r\n"))
        answer = await wire.until(b"0\r\n") + await wire.until(b"\r\n\r\n")
        await wire.stream.aclose()
    assert b"".join(origin.raw).lower().count(b"x-") == 1
    assert b"x-good" in b"".join(origin.raw).lower()
    assert b"X-Fine: 2" in answer
    assert b"x-back" not in answer.lower()


# ------------------------------------------------------------------------------------------------------------- claimed names, trailers


@pytest.mark.parametrize(
    "name", ["X-User", "X_User", "X-Admin", "X-Request-Id", "X-Set", "X-Gone", "X-Deadline-Ms", "X_Deadline_Ms", "X-Forwarded-For"]
)
async def test_trailers_cannot_say_what_plugins_or_the_proxy_say(name: str) -> None:
    origin = Recording()
    plugins = [
        RequestId(),
        Auth(),
        AuthRequest(AuthRequest.Options(url="http://auth.test/", copy=("X-User", "X-Admin"))),
        HeaderRewrite(HeaderRewrite.Options(rules=[HeaderRule(on="request", set={"X-Set": "yes"}, remove=["X-Gone"])])),
    ]
    async with open_world(origin, plugins=plugins, http={"deadline_header": "X-Deadline-Ms"}) as world:
        wire = client(world.proxy)
        await wire.ask(POST % (b"", f"{name}: evil\r\nX-Fine: 1\r\n".encode()))
        await wire.stream.aclose()
    assert b"evil" not in b"".join(origin.raw)
    assert b"X-Fine: 1\r\n" in origin.raw


async def test_trailers_cannot_double_what_is_in_the_head() -> None:
    origin = Recording()

    async def act(_hook: str, txn: Any) -> None:
        txn.request.headers["X-Plain"] = "mine"  # set without a claim

    async with open_world(origin, plugins=[make_plugin("Setting", act, "read_request")]) as world:
        await client(world.proxy).ask(POST % (b"", b"X-Plain: evil\r\nX_Plain: evil\r\n"))
    assert origin.raw == [b"2\r\nhi\r\n0\r\n"]


async def test_response_trailers_cannot_bring_back_what_a_rule_removes() -> None:
    reply = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nhi\r\n0\r\nX-Secret: 1\r\nX-Fine: 2\r\n\r\n"
    rules = [HeaderRule(on="response", remove=["X-Secret"])]
    async with open_world(replying(reply), plugins=[HeaderRewrite(HeaderRewrite.Options(rules=rules))]) as world:
        wire = world.connect()
        await wire.send(GET)
        answer = await wire.until(b"0\r\n") + await wire.until(b"\r\n\r\n")
        await wire.stream.aclose()
    assert b"X-Secret" not in answer
    assert b"X-Fine: 2" in answer


def test_claimed_names_go_in_all_spellings_and_what_comes_after_stays() -> None:
    headers = Headers([("X-User", "a"), ("X_User", "b"), ("x-user", "c"), ("Y", "d")])
    headers.claim("X-User")
    headers.add("X-User", "mine")
    assert headers.items() == [("Y", "d"), ("X-User", "mine")]
    trailers = Headers([("X_USER", "a"), ("y", "b"), ("Z", "c")])
    assert drop_claimed(trailers, headers).items() == [("y", "b"), ("Z", "c")]
    assert drop_claimed(trailers, headers.copy(), present=True).items() == [("Z", "c")]
    assert drop_claimed(trailers, Headers()) is trailers


# ------------------------------------------------------------------------------------------------------------- what plugins write


@pytest.mark.parametrize("hook", ["read_response", "send_response"])
async def test_close_that_a_plugin_writes_closes_in_whichever_hook(hook: str) -> None:
    async def act(_hook: str, txn: Any) -> None:
        txn.response.headers["Connection"] = "close"

    async with open_world(replying(OK), plugins=[make_plugin("Closing", act, hook)]) as world:
        wire = world.connect()
        await wire.send(GET + GET)
        assert (await wire.answer()).headers["connection"] == "close"
        assert await wire.rest() == b""


@pytest.mark.parametrize("where", ["respond", "send_response"])
async def test_fields_of_this_hop_that_a_plugin_writes_go_no_further(where: str) -> None:
    fields = {"Upgrade": "x", "Keep-Alive": "timeout=5", "Proxy-Connection": "close", "TE": "gzip"}

    async def act(hook: str, txn: Any) -> None:
        if where == "respond" and hook == "read_request":
            txn.respond(200, headers=fields)
        elif where == hook:
            for name, value in fields.items():
                txn.response.headers[name] = value

    async with open_world(replying(OK), plugins=[make_plugin("Writing", act, "read_request", "send_response")]) as world:
        answer = await world.connect().ask()
    assert not {"upgrade", "keep-alive", "proxy-connection", "te"} & set(answer.headers)


async def test_close_that_a_plugin_writes_to_the_origin_is_sent_and_kept() -> None:
    origin = Recording()

    async def act(_hook: str, txn: Any) -> None:
        txn.request.headers["Connection"] = "close, x-list"
        txn.request.headers["Keep-Alive"] = "9"
        txn.request.headers["X-List"] = "1"

    async with open_world(origin, plugins=[make_plugin("Closing", act, "send_request")]) as world:
        wire = world.connect()
        for _ in range(2):
            assert (await wire.ask()).status == 200
    assert origin.connections == 2
    assert origin.heads[0]["connection"] == "close"
    assert not {"keep-alive", "x-list"} & set(origin.heads[0])


async def test_te_and_upgrade_survive_a_hook_that_looks_at_them() -> None:
    origin = Recording()

    async def act(_hook: str, _txn: Any) -> None:
        pass

    async with open_world(origin, plugins=[make_plugin("Looking", act, "send_request")]) as world:
        ask = GET.replace(b"\r\n\r\n", b"\r\nTE: trailers\r\nConnection: TE, Upgrade\r\nUpgrade: x\r\n\r\n")
        assert (await world.connect().ask(ask)).status == 200
    assert (origin.heads[0]["te"], origin.heads[0]["upgrade"]) == ("trailers", "x")
    assert {each.strip().lower() for each in origin.heads[0]["connection"].split(",")} == {"te", "upgrade"}


# ------------------------------------------------------------------------------------------------------------- who is internal


async def test_front_end_that_names_the_client_apart_serves_a_network_client() -> None:
    log = MemoryLog()
    async with open_proxy(ProxyConfig(remap=[RemapRule("/", "http://origin.test/")]), plugins=[Answers()], log=log) as proxy:
        with proxy.front_end(drain=lambda: None, end=lambda: None) as front_end:
            connection = front_end.connect(ConnectOptions(tag="x"), client=ClientInfo(address=("203.0.113.9", 1)))
            assert (await Wire(connection).ask()).status == 204
    assert (log.records[0].internal, log.records[0].client_address) == (False, "203.0.113.9")


class Answers(Plugin):
    """Answers everything."""

    async def read_request(self, txn: Transaction) -> None:
        txn.respond(204)
