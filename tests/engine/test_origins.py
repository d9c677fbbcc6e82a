"""Origins that are no memory: TLS over loopback, and Unix sockets."""

from __future__ import annotations

import ssl
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager, suppress
from pathlib import Path

import attrs
import pytest
import trio
import trustme

from tests.engine._world import OK, Serve, Wire, how, listening, replying
from trio_tsconnect import ConnectOptions, MemoryLog, ProxyConfig, RemapRule, open_proxy

GET = b"GET /path HTTP/1.1\r\nHost: site.test\r\n\r\n"


class Corked(trio.abc.Stream):
    """A transport that can hold what is written, and then send it in one piece."""

    def __init__(self, stream: trio.abc.Stream) -> None:
        self._stream = stream
        self._held: bytearray | None = None

    def cork(self) -> None:
        self._held = bytearray()

    async def uncork(self) -> None:
        held, self._held = self._held, None
        await self._stream.send_all(bytes(held or b""))

    async def send_all(self, data: bytes | bytearray | memoryview) -> None:
        if self._held is not None:
            await trio.lowlevel.checkpoint()
            self._held += data
        else:
            await self._stream.send_all(data)

    async def wait_send_all_might_not_block(self) -> None:
        await self._stream.wait_send_all_might_not_block()

    async def receive_some(self, max_bytes: int | None = None) -> bytes | bytearray:
        return await self._stream.receive_some(max_bytes)

    async def aclose(self) -> None:
        await self._stream.aclose()


@attrs.define
class SecureOrigin:
    """An origin with a certificate for two names, and what it saw."""

    port: int
    names: list[str | None]
    """The server name of each handshake."""


@asynccontextmanager
async def secure_origin(authority: trustme.CA, serve: Serve) -> AsyncIterator[SecureOrigin]:
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    authority.issue_cert("localhost", "site.test").configure_cert(context)
    names: list[str | None] = []

    def note(_connection: object, name: str | None, _context: object) -> None:
        names.append(name)

    context.sni_callback = note

    async def handle(stream: trio.abc.Stream) -> None:
        secured = trio.SSLStream(Corked(stream), context, server_side=True, https_compatible=True)
        with suppress(trio.BrokenResourceError, EOFError):
            await serve(Wire(secured))
        await trio.aclose_forcefully(secured)

    async with listening(handle) as port:
        yield SecureOrigin(port, names)


@pytest.fixture(scope="module")
def authority() -> trustme.CA:
    return trustme.CA()


@pytest.fixture
def pem(tmp_path: Path) -> Callable[[trustme.CA], str]:
    def write(authority: trustme.CA) -> str:
        authority.cert_pem.write_to_path(str(tmp_path / "ca.pem"))
        return str(tmp_path / "ca.pem")

    return write


@pytest.mark.parametrize(("preserve_host", "name"), [(False, "localhost"), (True, "site.test")])
async def test_a_rules_authority_is_trusted_its_name_is_asked_for_and_the_connection_is_used_again(
    preserve_host: bool, name: str, authority: trustme.CA, pem: Callable[[trustme.CA], str]
) -> None:
    log = MemoryLog()
    async with secure_origin(authority, replying(OK)) as origin:
        rule = RemapRule("/", f"https://localhost:{origin.port}/", ca_file=pem(authority), preserve_host=preserve_host)
        with trio.fail_after(10):
            async with open_proxy(ProxyConfig(remap=(rule,)), log=log) as proxy:
                wire = Wire(proxy.connect(ConnectOptions()))
                for _ in range(2):
                    answer = await wire.ask(GET)
                    assert (answer.status, answer.body) == (200, b"hello")
                await wire.stream.aclose()
    assert origin.names == [name]
    assert [record.origin_reused for record in log.records] == [False, True]
    assert log.records[0].origin_connection == log.records[1].origin_connection


async def test_an_origin_whose_authority_is_not_the_rules_is_not_asked(authority: trustme.CA, pem: Callable[[trustme.CA], str]) -> None:
    asked: list[str] = []

    async def serve(wire: Wire) -> None:
        asked.append((await wire.head())[0])

    log = MemoryLog()
    async with secure_origin(authority, serve) as origin:
        rule = RemapRule("/", f"https://localhost:{origin.port}/", ca_file=pem(trustme.CA()))
        with trio.fail_after(10):
            async with open_proxy(ProxyConfig(remap=(rule,)), log=log) as proxy:
                wire = Wire(proxy.connect(ConnectOptions()))
                assert (await wire.ask(GET)).status == 502
                await wire.stream.aclose()
    assert [how(record) for record in log.records] == [("origin", "origin_tls")]
    assert asked == []


async def test_a_connection_on_which_tls_holds_another_record_is_not_used_again(
    authority: trustme.CA, pem: Callable[[trustme.CA], str]
) -> None:
    async def serve(wire: Wire) -> None:
        secured = wire.stream
        assert isinstance(secured, trio.SSLStream)
        await wire.head()
        secured.transport_stream.cork()
        await wire.send(OK)
        await wire.send(OK.replace(b"hello", b"wrong"))  # a record of its own, in the same segment: nobody asked for it
        await secured.transport_stream.uncork()
        await wire.rest()

    log = MemoryLog()
    async with secure_origin(authority, serve) as origin:
        rule = RemapRule("/", f"https://localhost:{origin.port}/", ca_file=pem(authority))
        with trio.fail_after(10):
            async with open_proxy(ProxyConfig(remap=(rule,)), log=log) as proxy:
                wire = Wire(proxy.connect(ConnectOptions()))
                for _ in range(2):
                    assert (await wire.ask(GET)).body == b"hello"
                await wire.stream.aclose()
    assert [record.origin_reused for record in log.records] == [False, False]
    assert len(origin.names) == 2


async def test_an_origin_at_a_unix_socket(tmp_path: Path) -> None:
    heads: list[str] = []

    async def serve(stream: trio.abc.Stream) -> None:
        wire = Wire(stream)
        with suppress(EOFError, trio.BrokenResourceError):
            while True:
                heads.append((await wire.head())[0])
                await wire.send(OK)
        await trio.aclose_forcefully(stream)

    path, log = tmp_path / "origin.sock", MemoryLog()
    listening_socket = trio.socket.socket(trio.socket.AF_UNIX, trio.socket.SOCK_STREAM)
    await listening_socket.bind(str(path))
    listening_socket.listen()
    async with trio.open_nursery() as nursery:
        nursery.start_soon(trio.serve_listeners, serve, [trio.SocketListener(listening_socket)])
        rules = (RemapRule("/nobody", f"unix:{tmp_path}/nobody.sock"), RemapRule("/", f"unix:{path}:/base"))
        with trio.fail_after(10):
            async with open_proxy(ProxyConfig(remap=rules), log=log) as proxy:
                wire = Wire(proxy.connect(ConnectOptions()))
                for _ in range(2):
                    assert (await wire.ask(GET)).body == b"hello"
                assert (await wire.ask(GET.replace(b"/path", b"/nobody"))).status == 502
                await wire.stream.aclose()
        nursery.cancel_scope.cancel()
    assert heads == ["GET /base/path HTTP/1.1"] * 2
    assert [(how(record), record.origin_reused) for record in log.records] == [
        (("proxy", "complete"), False),
        (("proxy", "complete"), True),
        (("origin", "origin_refused"), None),
    ]
