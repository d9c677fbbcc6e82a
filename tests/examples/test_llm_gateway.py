"""The gateway to language models: keys, limits, other providers for a dead or busy one, tokens and cost in the record, and no secret in it."""

from __future__ import annotations

import contextlib
import functools
import json
import os
import subprocess
import sys
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from types import ModuleType

import attrs
import pytest
import trio
from trio.testing import MockClock

from trio_tsconnect import URL, ClientInfo, ConnectOptions, LogRecord, MemoryLog, Proxy, open_proxy
from trio_tsconnect.testing import Answer, Growing, OriginRequest, Reply, ScriptedOrigin, exchange

EXAMPLE = Path(__file__).parents[2] / "examples" / "llm_gateway.py"
CLIENT = ConnectOptions(client=ClientInfo(address="192.0.2.1"))


@pytest.fixture
def example(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    monkeypatch.syspath_prepend(str(EXAMPLE.parent))
    monkeypatch.delitem(sys.modules, "llm_gateway", raising=False)
    import llm_gateway  # type: ignore[import-not-found, unused-ignore]

    return llm_gateway  # type: ignore[no-any-return, unused-ignore]


@pytest.fixture
def clock() -> MockClock:
    """A clock that jumps when nothing has happened for a moment: long enough for a byte to cross the loopback interface."""
    return MockClock(autojump_threshold=0.02)


@attrs.frozen
class Stand:
    """A gateway with providers on real ports, the first of which may be closed."""

    proxy: Proxy
    records: Growing[LogRecord]
    names: dict[str, str]

    async def ask(self, key: str = "key-of-ada", *, prompt: bytes = b'{"model": "thinker"}', path: str = "/v1/chat") -> Reply:
        head = f"POST {path} HTTP/1.1\r\nHost: llm.example\r\nAuthorization: Bearer {key}\r\nContent-Length: {len(prompt)}\r\n\r\n"
        async with self.proxy.connect(CLIENT) as stream:
            return await exchange(stream, head.encode() + prompt)

    def noted(self) -> dict[str, object]:
        """What the gateway has noted last, with the names of the providers in place of their ports."""
        return json.loads(  # type: ignore[no-any-return]
            functools.reduce(
                lambda text, port: text.replace(port, self.names[port]), self.names, json.dumps(self.records[-1].plugin["Gateway"])
            )
        )


@contextlib.contextmanager
def closed_port() -> Iterator[URL]:
    """A port of loopback that refuses connections: it is bound, so that nothing else gets it, and nobody listens."""
    import socket

    with socket.socket() as bound:
        bound.bind(("127.0.0.1", 0))
        yield URL("http", *bound.getsockname())


@contextlib.asynccontextmanager
async def stand(example: ModuleType, *providers: ScriptedOrigin | None) -> AsyncIterator[Stand]:
    """Serve the gateway with these providers; None is a dead one."""
    log = MemoryLog()
    records: Growing[LogRecord] = Growing()
    log.records = records
    async with trio.open_nursery() as nursery:
        with contextlib.ExitStack() as ports:
            urls = {}
            for number, provider in enumerate(providers, 1):
                if provider is None:
                    url = ports.enter_context(closed_port())
                else:
                    [listener] = await nursery.start(functools.partial(trio.serve_tcp, provider.serve, 0, host="127.0.0.1"))
                    url = URL("http", *listener.socket.getsockname())
                urls[url] = f"key-at-{number}"
            config = example.configure(urls, {"key-of-ada": "ada", "key-of-bob": "bob"}, {"thinker": 0.5})
            async with open_proxy(config, log=log) as proxy:
                yield Stand(proxy, records, {url.authority: f"provider {number}" for number, url in enumerate(urls, 1)})
        nursery.cancel_scope.cancel()
    for origin in providers:
        if origin is not None:
            origin.check()


def provider(*answers: Answer) -> ScriptedOrigin:
    origin = ScriptedOrigin()
    for answer in answers or [Answer(200, b'{"usage": {"total_tokens": 3}}', headers={"Content-Type": "application/json"})]:
        origin.reply("/v1/chat", answer)
    return origin


def test_it_shows_what_it_says() -> None:
    environment = os.environ | {"PYTHONPATH": str(EXAMPLE.parents[1])}
    done = subprocess.run(
        [sys.executable, "-W", "error", str(EXAMPLE)], env=environment, capture_output=True, check=True, text=True, timeout=30
    )
    assert done.stderr == ""
    *pieces, logged = done.stdout.splitlines()
    assert (len(pieces), pieces[0]) == (4, '200 \'data: {"text": "Forty"}\'')
    assert logged.startswith("log: 200 after 3 attempts: ")
    assert '"tokens": 7, "cost": 0.007' in logged


async def test_a_first_byte_may_take_minutes(example: ModuleType, clock: MockClock, capsys: pytest.CaptureFixture[str]) -> None:
    record = await example.main(think=150)
    assert (record.status, record.attempts) == (200, 3)
    assert record.milestones["send_response"] < record.milestones["release"]
    assert record.milestones["release"] >= 150 + 3 * 15
    assert capsys.readouterr().out.count("200 'data: ") == 4


async def test_no_key_is_in_a_record_and_no_provider_gets_that_of_the_client(example: ModuleType) -> None:
    origin = provider()
    async with stand(example, origin) as gateway:
        assert (await gateway.ask()).status == 200
        assert "key-" not in json.dumps(gateway.records[0].as_dict())
        assert gateway.records[0].plugin["Keys"] == {"client": "ada"}
    assert origin.requests[0].headers.get_all("Authorization") == ["Bearer key-at-1"]


async def test_a_request_without_a_known_key_is_refused_and_no_provider_is_asked(example: ModuleType) -> None:
    origin = provider()
    async with stand(example, origin) as gateway:
        for path in ("/v1/chat", "/v1/%63hat", "/v1//chat"):
            reply = await gateway.ask("nobody's", path=path)
            assert (reply.status, reply.headers["WWW-Authenticate"]) == (401, "Bearer")
    assert origin.requests == []


@pytest.mark.parametrize(
    ("first", "why"),
    [
        (None, "origin_refused"),
        (Answer(429, b"busy"), 429),
        (Answer(500, b"broken"), 500),
        (Answer(503, b"away", headers={"Retry-After": "60"}), 503),
    ],
)
async def test_another_provider_is_asked_with_its_own_key(example: ModuleType, first: Answer | None, why: object) -> None:
    second = provider()
    async with stand(example, None if first is None else provider(first), second) as gateway:
        reply = await gateway.ask()
        assert (reply.status, reply.json()) == (200, {"usage": {"total_tokens": 3}})
        assert gateway.noted() == {"model": "thinker", "provider": "provider 2", "failed": {"provider 1": why}, "tokens": 3, "cost": 1.5}
        assert gateway.records[0].attempts == 2
    (request,) = second.requests
    assert (request.body, request.headers["Authorization"]) == (b'{"model": "thinker"}', "Bearer key-at-2")
    assert request.headers["Host"] == next(iter([name for name, which in gateway.names.items() if which == "provider 2"]))


@pytest.mark.parametrize(("last", "status"), [(None, 502), (Answer(429, b"busy"), 429)])
async def test_the_last_provider_decides_if_all_fail(example: ModuleType, last: Answer | None, status: int) -> None:
    async with stand(example, None, provider(Answer(503)), None if last is None else provider(last)) as gateway:
        assert (await gateway.ask()).status == status
        assert gateway.records[0].attempts == 3


async def test_a_prompt_that_may_have_run_is_not_sent_again(example: ModuleType) -> None:
    first, second = ScriptedOrigin(), provider()
    first.answer("/v1/chat", fault="truncate")
    async with stand(example, first, second) as gateway:
        assert (await gateway.ask()).status == 502
    assert (len(first.requests), len(second.requests)) == (1, 0)


async def test_each_key_has_its_limit(example: ModuleType) -> None:
    origin = provider()
    async with stand(example, origin) as gateway:
        assert [(await gateway.ask()).status for _ in range(4)] == [200, 200, 200, 429]
        assert (await gateway.ask("key-of-bob")).status == 200
    assert len(origin.requests) == 4


async def test_health_needs_no_key_and_no_provider(example: ModuleType) -> None:
    async with stand(example, None) as gateway, gateway.proxy.connect(CLIENT) as stream:
        for host in ("llm.example", "127.0.0.1:8080"):
            assert (await exchange(stream, f"GET /healthz HTTP/1.1\r\nHost: {host}\r\n\r\n")).text == "ok\n"


async def test_a_client_that_leaves_ends_the_request_to_the_provider(example: ModuleType) -> None:
    async def endless() -> AsyncIterator[bytes]:
        try:
            while True:
                yield b'data: {"text": "Forty"}\n\n'
                await trio.sleep(0.01)
        finally:
            ended.set()

    ended = trio.Event()
    origin = provider(Answer(200, endless(), headers={"Content-Type": "text/event-stream"}))
    async with stand(example, origin) as gateway:
        head = b"POST /v1/chat HTTP/1.1\r\nHost: llm.example\r\nAuthorization: Bearer key-of-ada\r\nContent-Length: 14\r\n\r\n"
        async with gateway.proxy.connect(CLIENT) as stream:
            await stream.send_all(head + b'{"model": "m"}')
            received = b""
            while b"Forty" not in received:
                received += await stream.receive_some()
        [record] = await gateway.records.wait(1)
        assert (record.ended.by, record.ended.why, record.status) == ("client", "client_gone", 200)
        with trio.fail_after(5):
            await ended.wait()


async def echo_after_switch(stream: trio.abc.Stream) -> None:
    """Accept an upgrade, then send back what is received."""
    received = b""
    while b"\r\n\r\n" not in received:
        received += await stream.receive_some()
    assert b"Bearer key-at-2\r\n" in received
    await stream.send_all(b"HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\r\n")
    async for piece in stream:
        await stream.send_all(piece)


async def test_a_websocket_is_passed_through_also_when_a_provider_is_dead(example: ModuleType) -> None:
    class Echo(ScriptedOrigin):
        async def serve(self, stream: trio.abc.Stream) -> None:
            await echo_after_switch(stream)

    async with stand(example, None, Echo()) as gateway, gateway.proxy.connect(CLIENT) as stream:
        await stream.send_all(
            b"GET /v1/realtime HTTP/1.1\r\nHost: llm.example\r\nAuthorization: Bearer key-of-ada\r\n"
            b"Connection: Upgrade\r\nUpgrade: websocket\r\n\r\n"
        )
        received = b""
        while b"\r\n\r\n" not in received:
            received += await stream.receive_some()
        assert received.startswith(b"HTTP/1.1 101 ")
        await stream.send_all(b"hello")
        assert await stream.receive_some() == b"hello"


@pytest.mark.parametrize(
    ("headers", "body", "noted"),
    [
        ({}, b'data: {"usage": {"total_tokens": 3}}\r\n\r\ndata: {"usage": {"total_tokens": 5}}', {"tokens": 5, "cost": 2.5}),
        ({}, b'{\n  "text": "\\"total_tokens\\": 9",\n  "usage": {\n    "total_tokens": 4\n  }\n}\n', {"tokens": 4, "cost": 2.0}),
        ({}, b"x" * 200_000 + b'"total_tokens":6', {"tokens": 6, "cost": 3.0}),
        ({}, b"nothing of the kind", {}),
        ({"Content-Encoding": "compress"}, b"?", {"not_counted": "compress"}),
    ],
)
async def test_what_can_be_read_is_counted(example: ModuleType, headers: dict[str, str], body: bytes, noted: dict[str, object]) -> None:
    async with stand(example, provider(Answer(200, body, headers=headers))) as gateway:
        reply = await gateway.ask()
        assert (reply.status, reply.body) == (200, body)
        assert gateway.noted() == {"model": "thinker", "provider": "provider 1", **noted}


async def test_a_compressed_answer_is_counted(example: ModuleType) -> None:
    import gzip

    plain = b'{"usage": {"total_tokens": 12}}'
    async with stand(example, provider(Answer(200, gzip.compress(plain), headers={"Content-Encoding": "gzip"}))) as gateway:
        assert (await gateway.ask()).body == plain
        assert gateway.noted()["tokens"] == 12


@pytest.mark.parametrize("prompt", [b"{}", b"[]", b"not JSON", b"\xff", b""])
async def test_a_prompt_without_a_model_is_refused(example: ModuleType, prompt: bytes) -> None:
    origin = provider()
    async with stand(example, origin) as gateway:
        assert (await gateway.ask(prompt=prompt)).status == 400
    assert origin.requests == []


async def test_other_requests_need_no_model(example: ModuleType) -> None:
    origin = ScriptedOrigin()

    async def models(request: OriginRequest) -> Answer:
        return Answer(200, f"{request.method} {request.target}")

    origin.reply("/v1/models", models)
    async with stand(example, None, origin) as gateway, gateway.proxy.connect(CLIENT) as stream:
        head = "GET /v1/models?all HTTP/1.1\r\nHost: llm.example\r\nAuthorization: Bearer key-of-bob\r\n\r\n"
        assert (await exchange(stream, head)).text == "GET /v1/models?all"


async def test_any_body_can_be_sent_again(example: ModuleType) -> None:
    first, second = ScriptedOrigin(), ScriptedOrigin()
    first.answer("/v1/files/1", 503)
    second.answer("/v1/files/1", body="stored")
    async with stand(example, first, second) as gateway, gateway.proxy.connect(CLIENT) as stream:
        head = "PUT /v1/files/1 HTTP/1.1\r\nHost: llm.example\r\nAuthorization: Bearer key-of-bob\r\nContent-Length: 5\r\n\r\n"
        assert (await exchange(stream, head + "hello")).text == "stored"
    assert second.requests[0].body == b"hello"
