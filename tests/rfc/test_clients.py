"""Programs that others have written, through the proxy: what they make of it is what counts."""

from __future__ import annotations

import subprocess
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import pytest
import trio
import wsproto
from trio_websocket import WebSocketConnection, wrap_client_stream
from wsproto.events import AcceptConnection, BytesMessage, CloseConnection, Request, TextMessage

from tests.rfc._rig import DATE, OK, Rig, Transport, Wire, get, how, open_rig, post, response
from tests.rfc._strict import Message


async def run(*command: str, stdin: bytes = b"") -> subprocess.CompletedProcess[bytes]:
    with trio.fail_after(30):
        return await trio.run_process(command, stdin=stdin, capture_stdout=True, capture_stderr=True, check=False)


async def curl(rig: Rig, *options: str, path: str = "/", stdin: bytes = b"") -> bytes:
    """What curl prints; the name of the site leads it to the proxy."""
    site = f"site.test:{rig.port}"
    done = await run(
        "curl", "-sS", "-i", "--noproxy", "*", "--connect-to", f"{site}:127.0.0.1:{rig.port}", *options, f"http://{site}{path}", stdin=stdin
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def seen(rig: Rig) -> Message:
    (message,) = rig.origin.received
    return message


@pytest.mark.needs("curl")
async def test_curl_gets_a_page() -> None:
    async with open_rig("tcp") as rig:
        assert await curl(rig) == OK
        assert seen(rig).first == (b"GET", b"/")


@pytest.mark.needs("curl")
async def test_curl_uses_it_as_its_proxy() -> None:
    # An absolute form, with the fields of one hop that curl adds for proxies
    async with open_rig("tcp") as rig:
        done = await run("curl", "-sS", "-i", "-x", f"http://127.0.0.1:{rig.port}", "http://site.test/a?b")
        assert done.stdout == OK
        assert seen(rig).first == (b"GET", b"/a?b")
        assert seen(rig).get(b"proxy-connection") is None


@pytest.mark.needs("curl")
async def test_curl_tunnels_through_connect() -> None:
    async with open_rig("tcp", http={"connect": ("127.0.0.1:*",)}) as rig:
        proxy, url = f"http://127.0.0.1:{rig.port}", f"http://127.0.0.1:{rig.origin.port}/"
        done = await run("curl", "-sS", "-i", "--proxytunnel", "-x", proxy, url)
        assert done.stdout == b"HTTP/1.1 200 Connection Established\r\n\r\n" + OK
        assert how(await rig.record()) == ("proxy", "complete")


@pytest.mark.needs("curl")
async def test_curl_gets_trailers() -> None:
    reply = b"HTTP/1.1 200 OK\r\n" + DATE + b"Trailer: X\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n0\r\nX: a\r\n\r\n"
    async with open_rig("tcp", reply) as rig:
        printed = await curl(rig)
        assert b"hello" in printed
        assert b"X: a\r\n" in printed


@pytest.mark.needs("curl")
async def test_curl_waits_for_continue() -> None:
    body = b"x" * 2_000_000

    async def serve(wire: Wire) -> None:
        head = await wire.until(b"\r\n\r\n")
        assert b"Expect: 100-continue\r\n" in head
        await wire.send(b"HTTP/1.1 100 Continue\r\n\r\n")
        size = 0
        while size < len(body):
            size += len(wire.buffer)
            wire.buffer = b""
            if size < len(body):
                await wire.more()
        await wire.send(OK)

    async with open_rig("tcp", serve=serve) as rig:
        # More time than the whole test has: without the 100 it would not end.
        printed = await curl(rig, "--expect100-timeout", "60", "-H", "Expect: 100-continue", "--data-binary", "@-", stdin=body)
        assert printed == b"HTTP/1.1 100 Continue\r\n\r\n" + OK
        assert (await rig.record()).request_bytes == len(body)


@pytest.mark.needs("curl")
async def test_curl_uploads_in_chunks() -> None:
    async with open_rig("tcp") as rig:
        assert await curl(rig, "-T", "-", stdin=b"hello" * 1000, path="/file") == OK
        assert (seen(rig).first, seen(rig).content) == ((b"PUT", b"/file"), b"hello" * 1000)


@pytest.mark.needs("curl")
@pytest.mark.parametrize("reply", [OK, b"HTTP/1.1 200 OK\r\n" + DATE + b"Transfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n0\r\n\r\n"])
async def test_curl_speaks_http_1_0(reply: bytes) -> None:
    async with open_rig("tcp", reply) as rig:
        printed = await curl(rig, "--http1.0")
        assert printed.endswith(b"Connection: close\r\n\r\nhello")
        assert b"chunked" not in printed


@pytest.mark.needs("curl")
async def test_curl_notices_that_an_answer_was_cut() -> None:
    async with open_rig("tcp", OK[:-1], close=True) as rig:
        url = f"http://127.0.0.1:{rig.port}/"
        done = await run("curl", "-sS", "-H", "Host: site.test", url)
        assert done.returncode == 18  # "transfer closed with 1 bytes remaining to read"


@pytest.mark.needs("nc")
async def test_nc_pipelines_and_ends_its_input() -> None:
    async with open_rig("tcp", response(b"one"), response(b"two"), response(b"three")) as rig:
        done = await run("nc", "-N", "127.0.0.1", str(rig.port), stdin=get() + post(b"hello") + get())
        assert done.stdout == response(b"one") + response(b"two") + response(b"three")
        assert [message.first[0] for message in rig.origin.received] == [b"GET", b"POST", b"GET"]


@pytest.mark.needs("nc")
async def test_nc_is_told_what_is_wrong() -> None:
    async with open_rig("tcp") as rig:
        done = await run("nc", "-N", "127.0.0.1", str(rig.port), stdin=b"hello\r\n\r\n" + get())
        assert done.stdout.startswith(b"HTTP/1.1 400 Bad Request\r\n")
        assert done.stdout.count(b"HTTP/1.1") == 1


# ---------------------------------------------------------------------------------------------------------------------------- WebSocket


async def speak_websocket(wire: Wire) -> None:
    """A WebSocket server by wsproto: gives back what it gets, and closes when asked to."""
    server = wsproto.WSConnection(wsproto.ConnectionType.SERVER)
    while True:
        await wire.more()
        server.receive_data(wire.take(len(wire.buffer)))
        for event in server.events():
            match event:
                case Request():
                    await wire.send(server.send(AcceptConnection()))
                case TextMessage() | BytesMessage():
                    await wire.send(server.send(event))
                case CloseConnection():
                    await wire.send(server.send(event.response()))
                    return
                case _:
                    raise AssertionError(event)


async def whole_message(connection: WebSocketConnection, size: int) -> str | bytes:
    """So much of what comes, in however many messages."""
    whole = await connection.get_message()
    while len(whole) < size:
        whole += await connection.get_message()  # type: ignore[operator] # the parts of one message are of one type
    return whole


@asynccontextmanager
async def websocket(rig: Rig) -> AsyncIterator[WebSocketConnection]:
    """A client of trio-websocket."""
    async with trio.open_nursery() as nursery:
        client = await rig.connect()
        connection = await wrap_client_stream(nursery, client.stream, "site.test", "/socket")  # type: ignore[arg-type] # any stream will do
        yield connection
        await connection.aclose()


async def test_a_websocket_client_talks_to_its_server(transport: Transport) -> None:
    async with open_rig(transport, serve=speak_websocket) as rig:
        with trio.fail_after(10):
            async with websocket(rig) as connection:
                for message in ("hello", b"\x00\xff" * 3, "x" * 100_000):
                    await connection.send_message(message)
                    assert await whole_message(connection, len(message)) == message
        record = await rig.record()
        assert (record.status, *how(record)) == (101, "proxy", "complete")
        assert record.request_bytes > 100_000
        assert record.response_bytes > 100_000
