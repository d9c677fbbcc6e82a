"""WebSockets: wsproto as a client on one side, an application on the other, with and without the proxy between them."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import pytest
import trio
import trio.testing
from wsproto import ConnectionType, WSConnection
from wsproto.events import (
    AcceptConnection,
    BytesMessage,
    CloseConnection,
    Event,
    Ping,
    Pong,
    RejectConnection,
    RejectData,
    Request,
    TextMessage,
)
from wsproto.frame_protocol import CloseReason

from tests.asgi._stand import no_lifespan, serving
from trio_tsconnect import ClientInfo, ConnectOptions, MemoryLog, ProxyConfig, RemapRule, VirtualConnection, open_proxy
from trio_tsconnect.asgi import AsgiOrigin, ClientDisconnected

HANDSHAKE = "GET / HTTP/1.1\r\nHost: x\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n"


class Client:
    def __init__(self, stream: VirtualConnection) -> None:
        self.stream = stream
        self.ws = WSConnection(ConnectionType.CLIENT)

    async def send(self, event: Event) -> None:
        await self.stream.send_all(self.ws.send(event))

    async def event(self) -> Any:
        """The next one; None at the end."""
        while True:
            for event in self.ws.events():
                return event
            data = await self.stream.receive_some()
            if not data:
                return None
            self.ws.receive_data(data)

    async def open(self, **request: Any) -> Any:
        await self.send(Request(host="site.example", target="/chat?room=1", **request))
        return await self.event()


@asynccontextmanager
async def direct(app: Any, log: MemoryLog) -> AsyncIterator[VirtualConnection]:
    async with serving(app) as connect:
        yield connect()


@asynccontextmanager
async def through_the_proxy(app: Any, log: MemoryLog) -> AsyncIterator[VirtualConnection]:
    rule = RemapRule("/", "http://app.test/", plugins=(AsgiOrigin(app).plugin(),))
    options = ConnectOptions(client=ClientInfo(address=("192.0.2.7", 4711), scheme="https"))
    async with open_proxy(ProxyConfig(remap=(rule,)), log=log) as proxy, proxy.connect(options) as stream:
        yield stream


@asynccontextmanager
async def on_asyncio(app: Any, log: MemoryLog) -> AsyncIterator[VirtualConnection]:
    async with serving(app, loop="asyncio") as connect:
        yield connect()


WAYS = pytest.mark.parametrize("way", [direct, through_the_proxy, on_asyncio])


async def echo(scope: Any, receive: Any, send: Any) -> None:
    await no_lifespan(scope)
    assert (await receive()) == {"type": "websocket.connect"}
    await send({"type": "websocket.accept", "subprotocol": "two", "headers": [(b"x-extra", b"1")]})
    while (message := await receive())["type"] == "websocket.receive":
        await send({"type": "websocket.send", **{k: v for k, v in message.items() if k != "type"}})
    scope["state"]["told"] = message
    seen.append(message)


seen: list[Any] = []


@WAYS
async def test_messages_go_both_ways_until_the_client_closes(way: Any) -> None:
    seen.clear()
    log = MemoryLog()
    async with way(echo, log) as stream:
        client = Client(stream)
        accepted = await client.open(subprotocols=["one", "two"])
        assert isinstance(accepted, AcceptConnection)
        assert accepted.subprotocol == "two"
        assert (b"x-extra", b"1") in accepted.extra_headers
        await client.send(TextMessage(data="grüße"))
        assert (await client.event()).data == "grüße"
        await client.send(BytesMessage(data=b"in ", message_finished=False))
        await client.send(BytesMessage(data=b"parts"))
        assert (await client.event()).data == b"in parts"
        await client.send(Ping(payload=b"?"))
        assert await client.event() == Pong(payload=b"?")
        await client.send(CloseConnection(code=4000, reason="enough"))
        assert (await client.event()).code == 4000
        assert await client.event() is None
    assert seen == [{"type": "websocket.disconnect", "code": 4000, "reason": "enough"}]
    assert [record.status for record in log.records] == ([101] if way is through_the_proxy else [])


async def test_scope_says_what_came() -> None:
    scopes = []

    async def app(scope: Any, receive: Any, send: Any) -> None:
        await no_lifespan(scope)
        scopes.append(scope)
        await send({"type": "websocket.close"})

    async with through_the_proxy(app, MemoryLog()) as stream:
        await Client(stream).open(subprotocols=["one", "two"])
    (scope,) = scopes
    assert {name: scope[name] for name in ("type", "scheme", "path", "query_string", "subprotocols", "client")} == {
        "type": "websocket",
        "scheme": "wss",
        "path": "/chat",
        "query_string": b"room=1",
        "subprotocols": ["one", "two"],
        "client": ("192.0.2.7", 4711),
    }


@WAYS
async def test_application_may_close(way: Any) -> None:
    async def app(scope: Any, receive: Any, send: Any) -> None:
        await no_lifespan(scope)
        await send({"type": "websocket.accept"})
        await send({"type": "websocket.close", "code": 4001, "reason": "bye"})
        with pytest.raises(RuntimeError, match="after websocket"):
            await send({"type": "websocket.send", "text": "more"})

    async with way(app, MemoryLog()) as stream:
        client = Client(stream)
        await client.open()
        closing = await client.event()
        assert (closing.code, closing.reason) == (4001, "bye")
        await client.send(closing.response())
        assert await client.event() is None


@pytest.mark.parametrize(("fails", "code"), [(False, CloseReason.NORMAL_CLOSURE), (True, CloseReason.INTERNAL_ERROR)])
async def test_connection_is_closed_when_the_application_ends(fails: bool, code: int, autojump_clock: trio.testing.MockClock) -> None:
    async def app(scope: Any, receive: Any, send: Any) -> None:
        await no_lifespan(scope)
        await send({"type": "websocket.accept"})
        if fails:
            raise KeyError

    async with direct(app, MemoryLog()) as stream:
        client = Client(stream)
        await client.open()
        assert (await client.event()).code == code
        begun = trio.current_time()
        assert await client.event() is None  # though the client has not said goodbye
        assert trio.current_time() == begun + 2


@pytest.mark.parametrize(
    ("messages", "status", "content"),
    [
        ([{"type": "websocket.close"}], 403, b""),
        (
            [
                {"type": "websocket.http.response.start", "status": 401, "headers": [(b"content-length", b"2")]},
                {"type": "websocket.http.response.body", "body": b"no"},
            ],
            401,
            b"no",
        ),
        ([], 500, b"Internal Server Error"),
    ],
)
async def test_application_may_refuse(messages: list[Any], status: int, content: bytes) -> None:
    async def app(scope: Any, receive: Any, send: Any) -> None:
        await no_lifespan(scope)
        for message in messages:
            await send(message)

    log = MemoryLog()
    async with through_the_proxy(app, log) as stream:
        client = Client(stream)
        refused = await client.open()
        assert isinstance(refused, RejectConnection)
        assert refused.status_code == status
        data = b""
        while isinstance(event := await client.event(), RejectData) and not event.body_finished:
            data += event.data
        assert data == content
    assert [record.status for record in log.records] == [status]


@pytest.mark.parametrize(
    ("fields", "status"), [("Sec-WebSocket-Key: x\r\nSec-WebSocket-Version: 12\r\n", 426), ("Sec-WebSocket-Version: 13\r\n", 400)]
)
async def test_handshake_that_is_not_sound_is_refused(fields: str, status: int) -> None:
    async with direct(echo, MemoryLog()) as stream:
        await stream.send_all((HANDSHAKE + fields + "\r\n").encode())
        assert (await stream.receive_some()).startswith(b"HTTP/1.1 %d " % status)


@WAYS
async def test_client_that_vanishes_is_an_abnormal_end_and_later_sends_fail(way: Any) -> None:
    told: list[Any] = []

    async def app(scope: Any, receive: Any, send: Any) -> None:
        await no_lifespan(scope)
        await receive()
        await send({"type": "websocket.accept"})
        told.append(await receive())
        try:
            await send({"type": "websocket.send", "text": "to nobody"})
        except ClientDisconnected as exc:
            told.append(isinstance(exc, OSError))

    async with way(app, MemoryLog()) as stream:
        client = Client(stream)
        await client.open()
        await stream.aclose()
    assert told == [{"type": "websocket.disconnect", "code": 1006, "reason": ""}, True]


async def test_client_that_vanishes_before_it_is_accepted_is_told_of() -> None:
    told: list[Any] = []

    async def app(scope: Any, receive: Any, send: Any) -> None:
        await no_lifespan(scope)
        told.append((await receive())["type"])
        told.append((await receive())["type"])

    async with direct(app, MemoryLog()) as stream:
        await Client(stream).send(Request(host="x", target="/"))
        await trio.testing.wait_all_tasks_blocked()
        await stream.aclose()
        await trio.testing.wait_all_tasks_blocked()
        assert told == ["websocket.connect", "websocket.disconnect"]


async def test_message_that_is_too_large_ends_the_connection() -> None:
    async def app(scope: Any, receive: Any, send: Any) -> None:
        await no_lifespan(scope)
        await receive()
        await send({"type": "websocket.accept"})
        told.append(await receive())

    told: list[Any] = []
    async with direct(app, MemoryLog()) as stream:
        client = Client(stream)
        await client.open()
        try:
            for _ in range(20):
                await client.send(BytesMessage(data=bytes(1 << 20), message_finished=False))
        except trio.BrokenResourceError:
            pass
        assert (await client.event()).code == 1009
    assert told[0]["code"] == 1009


async def test_frame_that_is_not_sound_ends_the_connection() -> None:
    seen.clear()
    async with direct(echo, MemoryLog()) as stream:
        client = Client(stream)
        await client.open(subprotocols=["two"])
        await stream.send_all(b"\xff\xff\xff")
        assert (await client.event()).code == CloseReason.PROTOCOL_ERROR
    assert seen[0]["code"] == CloseReason.PROTOCOL_ERROR


async def test_client_waits_for_an_application_that_does_not_receive() -> None:
    go_on = trio.Event()

    async def app(scope: Any, receive: Any, send: Any) -> None:
        await no_lifespan(scope)
        await receive()
        await send({"type": "websocket.accept"})
        await go_on.wait()
        for _ in range(100):
            await receive()

    sent = 0

    async def write(client: Client) -> None:
        nonlocal sent
        for _ in range(100):
            await client.send(BytesMessage(data=bytes(10_000)))
            sent += 1

    async with serving(app, buffer_index=6) as connect, trio.open_nursery() as nursery:
        client = Client(connect())
        await client.open()
        nursery.start_soon(write, client)
        await trio.testing.wait_all_tasks_blocked()
        assert sent < 10
        go_on.set()
        assert (await client.event()).code == 1000
        assert sent == 100


@pytest.mark.parametrize("loop", ["trio", "asyncio"])
async def test_drain_of_the_proxy_closes_with_1001(loop: Any) -> None:
    """RFC 6455 §7.4.1: the server goes away. The application learns that its client is gone, and ends in its own time."""
    seen: list[Any] = []

    async def app(scope: Any, receive: Any, send: Any) -> None:
        await no_lifespan(scope)
        await receive()
        await send({"type": "websocket.accept"})
        seen.append(await receive())

    rule = RemapRule("/", "http://app.test/", plugins=(AsgiOrigin(app, loop=loop).plugin(),))
    async with open_proxy(ProxyConfig(remap=(rule,))) as proxy, proxy.connect() as stream:
        client = Client(stream)
        await client.open()
        with trio.fail_after(20):
            async with trio.open_nursery() as nursery:
                nursery.start_soon(proxy.drain, 0.1)
                closed = await client.event()
                assert await client.event() is None
        assert closed.code == 1001
    assert seen == [{"type": "websocket.disconnect", "code": 1001, "reason": ""}]
