"""RFC 9113 §3.2, §3.3 and §9.2: which protocol a client speaks, and TLS."""

from __future__ import annotations

import ssl
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from functools import partial
from pathlib import Path

import pytest
import trio
import trustme
from trio.testing import MockClock

from trio_tsconnect import HttpConfig, MemoryLog, Proxy, ProxyConfig, VirtualConnection, open_proxy, open_virtual_connection_pair
from trio_tsconnect.http2 import serve_auto, ssl_context

from ._raw import GET, PREFACE, Origin, RawClient, settings


@asynccontextmanager
async def listening(http: HttpConfig | None = None) -> AsyncIterator[tuple[Proxy, VirtualConnection, MemoryLog]]:
    log = MemoryLog()
    async with trio.open_nursery() as nursery:
        async with open_proxy(ProxyConfig(http=http or HttpConfig()), plugins=[Origin()], log=log) as proxy:
            ours, theirs = open_virtual_connection_pair()
            nursery.start_soon(serve_auto, proxy, theirs)
            yield proxy, ours, log
            await ours.aclose()
        nursery.cancel_scope.cancel()


async def read_all(stream: trio.abc.Stream) -> bytes:
    data = b""
    while more := await stream.receive_some():
        data += more
    return data


REQUEST = b"GET / HTTP/1.1\r\nHost: site.example\r\nConnection: close\r\n\r\n"


@pytest.mark.parametrize("size", [1, 2, 3, 5, 1000])
async def test_http_1_client_is_served_from_its_first_byte(autojump_clock: MockClock, size: int) -> None:
    async with listening() as (_, client, log):
        for at in range(0, len(REQUEST), size):
            await client.send_all(REQUEST[at : at + size])
            await trio.testing.wait_all_tasks_blocked()
        assert (await read_all(client)).startswith(b"HTTP/1.1 200 ")
        assert [record.client_protocol for record in log.records] == ["http/1.1"]


TWO_PIECES = {
    "a head": [b"GET /1 HTTP/1.1\r\nHost: h\r\nX: " + b"x" * 3000 + b"\r\n", b"Y: " + b"y" * 3000 + b"\r\nConnection: close\r\n\r\n"],
    "a body that looks like a request": [
        b"POST /1 HTTP/1.1\r\nHost: h\r\nConnection: close\r\nContent-Length: 2000\r\n\r\n",
        (b"DELETE /2 HTTP/1.1\r\nHost: h\r\nX: ".ljust(1996, b"x") + b"\r\n\r\n"),
    ],
}


@pytest.mark.parametrize("what", TWO_PIECES)
async def test_what_was_written_before_it_began_is_read_in_its_order(autojump_clock: MockClock, what: str) -> None:
    log = MemoryLog()
    async with open_proxy(plugins=[Origin()], log=log) as proxy, trio.open_nursery() as nursery:
        ours, theirs = open_virtual_connection_pair()
        for piece in TWO_PIECES[what]:
            await ours.send_all(piece)
        nursery.start_soon(serve_auto, proxy, theirs)
        assert (await read_all(ours)).startswith(b"HTTP/1.1 200 ")
    assert [(record.url, record.status) for record in log.records] == [("http://h/1", 200)]


@pytest.mark.parametrize("method", [b"PRIVATE", b"P", b"PROPFIND"])
async def test_method_that_looks_like_the_preface_is_no_preface(autojump_clock: MockClock, method: bytes) -> None:
    async with listening() as (_, client, _log):
        await client.send_all(REQUEST.replace(b"GET", method))
        assert (await read_all(client)).startswith(b"HTTP/1.1 200 ")


@pytest.mark.parametrize("size", [1, 7, 24, 1000])
async def test_client_with_prior_knowledge_is_served_http_2(autojump_clock: MockClock, size: int) -> None:
    async with listening() as (_, stream, log):
        client = RawClient(stream)
        data = PREFACE + settings() + client.head(1, GET)
        for at in range(0, len(data), size):
            await client.send(data[at : at + size])
            await trio.testing.wait_all_tasks_blocked()
        assert (await client.answer(1)).body == b"hello"
        assert [record.client_protocol for record in log.records] == ["h2"]


async def test_client_that_says_nothing_is_closed_in_time(autojump_clock: MockClock) -> None:
    async with listening(HttpConfig(keep_alive_timeout=9)) as (_, client, log):
        assert await read_all(client) == b""
        assert trio.current_time() == pytest.approx(9)
        assert log.records == []


async def test_client_that_says_half_a_preface_is_closed_in_time(autojump_clock: MockClock) -> None:
    async with listening(HttpConfig(header_timeout=2, linger_timeout=0)) as (_, client, _log):
        await client.send_all(PREFACE[:9])
        await read_all(client)
        assert trio.current_time() < 9


async def test_client_that_ends_without_a_word_leaves_nothing(autojump_clock: MockClock) -> None:
    async with listening() as (proxy, client, log):
        await client.send_eof()
        assert await read_all(client) == b""
        assert log.records == []
        assert proxy.statistics().sessions == 0


async def test_draining_closes_who_has_not_begun(autojump_clock: MockClock) -> None:
    async with listening() as (proxy, client, _log):
        await trio.testing.wait_all_tasks_blocked()
        assert await proxy.drain(60)
        assert await read_all(client) == b""
        assert trio.current_time() == 0


@pytest.fixture(scope="module")
def authority() -> trustme.CA:
    return trustme.CA()


@pytest.fixture(scope="module")
def server_context(authority: trustme.CA, tmp_path_factory: pytest.TempPathFactory) -> ssl.SSLContext:
    directory: Path = tmp_path_factory.mktemp("tls")
    issued = authority.issue_cert("site.example")
    issued.cert_chain_pems[0].write_to_path(directory / "cert.pem")
    issued.private_key_pem.write_to_path(directory / "key.pem")
    return ssl_context(directory / "cert.pem", directory / "key.pem")


@asynccontextmanager
async def tls_client(
    authority: trustme.CA, server_context: ssl.SSLContext, protocols: list[str], **limits: float
) -> AsyncIterator[tuple[trio.SSLStream[VirtualConnection], MemoryLog]]:
    context = ssl.create_default_context()
    authority.configure_trust(context)
    if protocols:
        context.set_alpn_protocols(protocols)
    log = MemoryLog()
    async with trio.open_nursery() as nursery:
        async with open_proxy(plugins=[Origin()], log=log) as proxy:
            ours, theirs = open_virtual_connection_pair()
            nursery.start_soon(serve_auto, proxy, trio.SSLStream(theirs, server_context, server_side=True))
            yield trio.SSLStream(ours, context, server_hostname="site.example"), log
            await ours.aclose()
        nursery.cancel_scope.cancel()


async def test_alpn_picks_http_2(autojump_clock: MockClock, authority: trustme.CA, server_context: ssl.SSLContext) -> None:
    async with tls_client(authority, server_context, ["h2", "http/1.1"]) as (stream, log):
        await stream.do_handshake()
        assert stream.selected_alpn_protocol() == "h2"
        client = RawClient(stream)
        await client.greet()
        assert (await client.get()).status == "200"
        await trio.testing.wait_all_tasks_blocked()
        (record,) = log.records
        assert (record.client_protocol, record.tag) == ("h2", "h2")


@pytest.mark.parametrize("protocols", [["http/1.1"], []], ids=["http/1.1", "no ALPN"])
async def test_alpn_picks_http_1(
    autojump_clock: MockClock, authority: trustme.CA, server_context: ssl.SSLContext, protocols: list[str]
) -> None:
    async with tls_client(authority, server_context, protocols) as (stream, log):
        await stream.send_all(REQUEST)
        assert (await stream.receive_some()).startswith(b"HTTP/1.1 200 ")
        await trio.testing.wait_all_tasks_blocked()
        assert [record.client_protocol for record in log.records] == ["http/1.1"]


async def test_facts_of_tls_reach_the_transaction(autojump_clock: MockClock, authority: trustme.CA, server_context: ssl.SSLContext) -> None:
    seen: list[object] = []
    context = ssl.create_default_context()
    authority.configure_trust(context)
    context.set_alpn_protocols(["h2"])

    class Looking(Origin):
        async def read_request(self, txn) -> None:  # type: ignore[no-untyped-def]
            seen.append((txn.client.scheme, txn.client.alpn, txn.client.tls.version, txn.client.stream, txn.client.connection == txn.id))
            await super().read_request(txn)

    async with trio.open_nursery() as nursery, open_proxy(plugins=[Looking()]) as proxy:
        ours, theirs = open_virtual_connection_pair()
        nursery.start_soon(serve_auto, proxy, trio.SSLStream(theirs, server_context, server_side=True))
        client = RawClient(trio.SSLStream(ours, context, server_hostname="site.example"))
        await client.greet()
        await client.get(7)
        assert seen == [("https", "h2", "TLSv1.3", 7, True)]
        nursery.cancel_scope.cancel()


async def test_handshake_that_does_not_come_is_given_up_in_time(
    autojump_clock: MockClock, authority: trustme.CA, server_context: ssl.SSLContext
) -> None:
    async with open_proxy(ProxyConfig(http=HttpConfig(header_timeout=4))) as proxy, trio.open_nursery() as nursery:
        ours, theirs = open_virtual_connection_pair()
        nursery.start_soon(partial(serve_auto, proxy, trio.SSLStream(theirs, server_context, server_side=True)))
        assert await read_all(ours) == b""
        assert trio.current_time() == pytest.approx(4)


async def test_what_is_no_handshake_is_closed(autojump_clock: MockClock, server_context: ssl.SSLContext) -> None:
    async with open_proxy() as proxy, trio.open_nursery() as nursery:
        ours, theirs = open_virtual_connection_pair()
        nursery.start_soon(serve_auto, proxy, trio.SSLStream(theirs, server_context, server_side=True))
        await ours.send_all(REQUEST)
        assert not (await read_all(ours)).startswith(b"HTTP")


def test_context_permits_what_http_2_permits(server_context: ssl.SSLContext) -> None:
    """RFC 9113 §9.2."""
    assert server_context.minimum_version is ssl.TLSVersion.TLSv1_2
    assert server_context.options & ssl.OP_NO_COMPRESSION
    assert server_context.options & ssl.OP_NO_RENEGOTIATION
    for cipher in server_context.get_ciphers():
        assert cipher["protocol"] == "TLSv1.3" or (
            cipher["name"].startswith("ECDHE-") and ("GCM" in cipher["name"] or "CHACHA20" in cipher["name"])
        )


def test_missing_certificate_is_an_error_at_once(tmp_path: Path) -> None:
    with pytest.raises(OSError, match="No such file"):
        ssl_context(tmp_path / "cert.pem", tmp_path / "key.pem")
