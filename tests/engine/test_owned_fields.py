"""What the proxy says of a request and of its connections is said by nobody else: not by a client with underscores, not by a plugin by mistake."""

from __future__ import annotations

from typing import Any

import pytest

from tests.engine._world import GET, OK, Wire, how, open_world, replying
from tests.engine.test_hooks import make_plugin
from trio_tsconnect import ClientInfo, ConfigError, HttpConfig, OriginConfig, RemapRule
from trio_tsconnect.message import Headers, drop_twins


def with_fields(*fields: str) -> bytes:
    return GET.replace(b"\r\n\r\n", b"\r\n" + "".join(f"{field}\r\n" for field in fields).encode() + b"\r\n")


CLAIMS = [
    "X-Forwarded-For: 6.6.6.6",
    "X-Forwarded-User: admin",
    "X-Forwarded-Prefix: /evil",
    "X-Forwarded-Ssl: on",
    "X-Real-IP: 6.6.6.6",
    "Forwarded: for=6.6.6.6",
    "X_Forwarded_For: 6.6.6.6",
    "X_Forwarded-User: admin",
    "X-Real_IP: 6.6.6.6",
]


@pytest.mark.parametrize("style", ["off", "x-forwarded", "forwarded", "both"])
async def test_nothing_that_a_client_claims_of_itself_reaches_the_origin(style: str) -> None:
    seen: list[dict[str, str]] = []

    async def origin(wire: Wire) -> None:
        _, headers = await wire.head()
        seen.append(headers)
        await wire.send(OK)

    async with open_world(origin, http={"forwarded": style}) as world:
        await world.connect().ask(with_fields(*CLAIMS))
    assert "6.6.6.6" not in str(seen[0])
    assert "admin" not in str(seen[0])
    assert not [name for name in seen[0] if name.startswith(("x-forwarded-", "x_")) and name[12:] not in ("for", "proto", "host")]


TWINS = [
    "X_User: admin",
    "Content_Length: 0",
    "Transfer_Encoding: chunked",
    "Connection_: x",
    "ho_st: a",
    "X_Other: 1",
    "X-Other: 2",
    "A_B: 3",
]


@pytest.mark.parametrize(
    ("choice", "left"),
    [
        ("owned", {"x_user", "connection_", "ho_st", "x-other", "a_b"}),
        ("drop", {"x-other"}),
        ("keep", {"x_user", "content_length", "transfer_encoding", "connection_", "ho_st", "x_other", "x-other", "a_b"}),
    ],
)
async def test_twins_with_underscores_are_dropped_as_configured(choice: str, left: set[str]) -> None:
    seen: list[dict[str, str]] = []

    async def origin(wire: Wire) -> None:
        _, headers = await wire.head()
        seen.append(headers)
        await wire.send(OK)

    async with open_world(origin, http={"underscores": choice, "forwarded": "off", "via": None}) as world:
        await world.connect().ask(with_fields(*TWINS))
    assert set(seen[0]) == left | {"host"}


@pytest.mark.parametrize("hook", ["read_request", "pre_remap", "post_remap", "send_request"])
async def test_field_that_a_plugin_writes_has_no_twin(hook: str) -> None:
    seen: list[dict[str, str]] = []

    async def origin(wire: Wire) -> None:
        _, headers = await wire.head()
        seen.append(headers)
        await wire.send(OK)

    async def act(_hook: str, txn: Any) -> None:
        txn.request.headers["X-User"] = "nobody"

    async with open_world(origin, plugins=[make_plugin("Naming", act, hook)]) as world:
        await world.connect().ask(with_fields("X_User: admin", "X_USER: root"))
    assert (seen[0]["x-user"], "x_user" in seen[0]) == ("nobody", False)


async def test_deadline_field_has_no_twin_even_without_a_deadline() -> None:
    seen: list[dict[str, str]] = []

    async def origin(wire: Wire) -> None:
        _, headers = await wire.head()
        seen.append(headers)
        await wire.send(OK)

    async with open_world(origin, http={"deadline_header": "X-Deadline"}) as world:
        await world.connect().ask(with_fields("X_Deadline: 999999", "X-Deadline: 5"))
    assert not {"x_deadline", "x-deadline"} & set(seen[0])


def test_head_without_underscores_is_left_as_it_is() -> None:
    headers = Headers([("Host", "a"), ("X-A", "b")])
    fields = headers.fields
    drop_twins(headers)
    assert headers.fields is fields


# ------------------------------------------------------------------------------------------------------------------------ https


RULES = (RemapRule("https://site.test/", "http://trusted.test/"), RemapRule("//site.test/", "http://open.test/"))


@pytest.mark.parametrize("scheme", ["https", "wss"])
@pytest.mark.parametrize(
    ("http", "client", "status"),
    [
        ({}, ClientInfo(address="192.0.2.1"), 421),
        ({}, ClientInfo(address="192.0.2.1", scheme="https"), 200),
        ({}, None, 200),  # code in this process is believed
        ({"trust_forwarded": True}, ClientInfo(address="192.0.2.1"), 200),
        ({"remap_required": False}, ClientInfo(address="192.0.2.1"), 200),
    ],
)
async def test_https_is_believed_of_tls_and_of_who_is_trusted(scheme: str, http: dict[str, Any], client: Any, status: int) -> None:
    async with open_world(replying(OK), http=http, remap=RULES) as world:
        wire = world.connect(target=None, client=client)
        answer = await wire.ask(f"GET {scheme}://site.test/ HTTP/1.1\r\nHost: site.test\r\n\r\n".encode())
        assert answer.status == status
    (record,) = world.records
    assert record.remap_rule == ("https://site.test/" if status == 200 else None)
    if status == 421:
        assert how(record) == ("client", "misdirected_request")


# ------------------------------------------------------------------------------------------------ what plugins do to connections


@pytest.mark.parametrize("way", ["respond", "response", "error"])
@pytest.mark.parametrize("value", ["close", "Close, x-own"])
async def test_connection_close_that_a_plugin_writes_closes(way: str, value: str) -> None:
    """RFC 9112 §9.6."""

    async def act(hook: str, txn: Any) -> None:
        if hook == "read_request" and way == "respond":
            txn.respond(200, "hi", headers={"Connection": value, "X-Own": "1"})
        if hook == "pre_remap" and way == "error":
            txn.request.target = "/nowhere"
        if hook == "send_response" and way != "respond":
            txn.response.headers.add("Connection", value)
            txn.response.headers.add("Keep-Alive", "timeout=5")

    remap = (RemapRule("/path", "http://origin.test/"),)
    async with open_world(
        replying(OK), plugins=[make_plugin("Closing", act, "read_request", "pre_remap", "send_response")], remap=remap
    ) as world:
        wire = world.connect(target=None)
        answer = await wire.ask()
        assert answer.headers["connection"] == "close"
        assert "keep-alive" not in answer.headers
        assert ("x-own" in answer.headers) == ("x-own" not in value and way == "respond")
        assert await wire.rest() == b""


async def test_426_says_what_to_upgrade_to() -> None:
    """RFC 9110 §15.5.22: Upgrade goes out, with the option that it needs."""

    async def act(_hook: str, txn: Any) -> None:
        txn.respond(426, headers={"Upgrade": "websocket", "Connection": "upgrade"})

    async with open_world(plugins=[make_plugin("Asking", act, "read_request")]) as world:
        wire = world.connect()
        for _ in range(2):
            answer = await wire.ask()
            assert (answer.headers["upgrade"], answer.headers["connection"].lower()) == ("websocket", "upgrade")


@pytest.mark.parametrize("status", [100, 101, 103, 199, 600, 999])
async def test_final_response_has_a_final_status(status: int) -> None:
    async def act(_hook: str, txn: Any) -> None:
        if txn.response.status == 200:
            txn.response.status = status

    async with open_world(replying(OK), plugins=[make_plugin("Odd", act, "send_response")]) as world:
        assert (await world.connect().ask()).status == 500
    assert how(world.records[0]) == ("plugin", "plugin")
    assert str(status) in world.records[0].plugin["Odd"]["failed"]["exception"]


SPOILED = {
    "no Host": lambda request: request.headers.pop("Host"),
    "two Hosts": lambda request: request.headers.add("Host", "b"),
    "a Host that is none": lambda request: request.headers.__setitem__("Host", "a b/c@d"),
    "a target that is none": lambda request: setattr(request, "target", "http://db-internal.corp:99999/secret?token=abc"),
    "a relative target": lambda request: setattr(request, "target", "relative"),
}


@pytest.mark.parametrize("spoil", SPOILED.values(), ids=SPOILED)
async def test_request_that_a_plugin_spoils_is_not_sent(spoil: Any) -> None:
    async def act(_hook: str, txn: Any) -> None:
        spoil(txn.request)

    async with open_world(replying(OK), plugins=[make_plugin("Spoiling", act, "send_request")]) as world:
        answer = await world.connect().ask()
        assert (answer.status, b"internal.corp" in answer.body) == (500, False)
        assert world.origin.heads == []
    assert world.records[0].plugin["Spoiling"]["failed"]["hook"] == "send_request"


@pytest.mark.parametrize("hook", ["read_request", "pre_remap", "post_remap"])
async def test_target_that_is_none_is_its_plugins_failure_and_the_client_does_not_see_it(hook: str) -> None:
    async def act(_hook: str, txn: Any) -> None:
        txn.request.target = "http://db-internal.corp:99999/secret?token=abc"

    async with open_world(replying(OK), plugins=[make_plugin("Spoiling", act, hook)]) as world:
        answer = await world.connect().ask()
        assert (answer.status, b"internal.corp" in answer.body) == (500, False)
    assert world.records[0].plugin["Spoiling"]["failed"]["hook"] == hook


@pytest.mark.parametrize("name", ["config", "origin_config"])
async def test_configuration_that_is_none_is_its_plugins_failure(name: str) -> None:
    async def act(_hook: str, txn: Any) -> None:
        setattr(txn, name, None)

    async with open_world(replying(OK), plugins=[make_plugin("Careless", act, "read_request")]) as world:
        assert (await world.connect().ask()).status == 500
    assert "attrs.evolve" in world.records[0].plugin["Careless"]["failed"]["exception"]


async def test_plugins_of_one_class_have_logs_of_their_own() -> None:
    def noting(number: int) -> Any:
        async def note(_hook: str, txn: Any) -> None:
            txn.log["number"] = number

        return make_plugin("Noting", note, "read_request")

    named = noting(3)
    named.log_name = "mine"
    async with open_world(replying(OK), plugins=[noting(1), noting(2), named]) as world:
        await world.connect().ask()
    assert world.records[0].plugin == {"Noting": {"number": 1}, "Noting#2": {"number": 2}, "mine": {"number": 3}}


# ------------------------------------------------------------------------------------------------------- what origins are forgiven


@pytest.mark.parametrize("space", [" ", "\t", " \t "])
async def test_space_before_a_response_fields_colon_is_removed(space: str) -> None:
    """RFC 9112 §5.1: a proxy MUST remove it; of a request it is a 400."""
    reply = f"HTTP/1.1 200 OK\r\nX-A{space}: b\r\nContent-Length{space}: 2\r\n\r\nhi".encode()
    async with open_world(replying(reply)) as world:
        answer = await world.connect().ask()
        assert (answer.status, answer.headers["x-a"], answer.body) == (200, "b", b"hi")
        assert (await world.connect().ask(with_fields(f"X-A{space}: b"))).status == 400


@pytest.mark.parametrize(
    ("name", "reply", "body"),
    [
        ("chunk_padding", b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5  \r\nhello\r\n0 \r\n\r\n", b"hello"),
        ("status", b"HTTP/1.1 799 Odd\r\nContent-Length: 2\r\n\r\nhi", b"hi"),
    ],
)
async def test_origin_is_forgiven_what_the_configuration_names(name: str, reply: bytes, body: bytes) -> None:
    async with open_world(replying(reply), origin={"lenient": [name]}) as world:
        answer = await world.connect().ask()
        assert (answer.whole, answer.body) == (True, body)
    async with open_world(replying(reply)) as world:
        answer = await world.connect().ask()
        assert answer.status == 502 or not answer.whole


def test_leniency_that_is_not_known_is_named() -> None:
    with pytest.raises(ConfigError, match=r"lenient\[0\]: must be one of chunk_padding, status, got \"kindness\""):
        OriginConfig(lenient=["kindness"])
    with pytest.raises(ConfigError, match="underscores"):
        HttpConfig(underscores="some")


# ------------------------------------------------------------------------------------------------------------------- transforms


@pytest.mark.parametrize(("method", "reply"), [("HEAD", b"HTTP/1.1 200 OK"), ("GET", b"HTTP/1.1 304 Not Modified")])
async def test_head_without_content_says_nothing_of_content_that_is_transformed(method: str, reply: bytes) -> None:
    fields = (
        b'Content-Length: 5\r\nContent-Encoding: gzip\r\nETag: "x"\r\nLast-Modified: Fri, 27 Nov 2026 00:00:00 GMT\r\nX-Kept: 1\r\n\r\n'
    )

    async def add(_hook: str, txn: Any) -> None:
        txn.transform_response(Footer())

    async with open_world(replying(reply + b"\r\n" + fields), plugins=[make_plugin("Adding", add, "read_response")]) as world:
        wire = world.connect()
        await wire.send(GET.replace(b"GET", method.encode()))
        _, headers = await wire.head()
    assert not {"content-length", "content-encoding", "etag", "last-modified"} & set(headers)
    assert headers["x-kept"] == "1"


class Footer:
    def feed(self, data: bytes) -> bytes:
        return data

    def finish(self) -> bytes:
        return b"the end"


EMPTY = {
    "length": b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n",
    "chunked": b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
    "close": b"HTTP/1.1 200 OK\r\nConnection: close\r\n\r\n",
}


@pytest.mark.parametrize("framing", EMPTY)
async def test_transform_of_an_empty_response_is_finished(framing: str) -> None:
    async def add(_hook: str, txn: Any) -> None:
        txn.transform_response(Footer())

    async def origin(wire: Wire) -> None:
        await wire.head()
        await wire.send(EMPTY[framing])

    async with open_world(origin, plugins=[make_plugin("Adding", add, "read_response")]) as world:
        assert (await world.connect().ask()).body == b"the end"


async def test_transform_of_an_empty_request_is_finished() -> None:
    bodies: list[bytes] = []

    async def origin(wire: Wire) -> None:
        _, headers = await wire.head()
        bodies.append(await wire.body(headers))
        await wire.send(OK)

    async def add(_hook: str, txn: Any) -> None:
        txn.transform_request(Footer())

    async with open_world(origin, plugins=[make_plugin("Adding", add, "post_remap")]) as world:
        await world.connect().ask(b"POST / HTTP/1.1\r\nHost: origin.test\r\nContent-Length: 0\r\n\r\n")
    assert bodies == [b"the end"]
