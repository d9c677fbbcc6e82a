"""HttpxTransport: httpx on virtual connections, streaming both ways, and leaving nothing behind however a request ends.

Nothing, because every test uses `ts_proxy`: its leak check fails the test that leaves a connection or a transaction.
"""

from __future__ import annotations

import subprocess
import sys
from collections.abc import AsyncIterator
from contextlib import aclosing

import httpx
import pytest
import trio
from trio.testing import wait_all_tasks_blocked

from trio_tsconnect import (
    ConnectOptions,
    HttpConfig,
    Plugin,
    ProxyConfig,
    RemapRule,
    Response,
    Transaction,
    VirtualConnection,
    open_proxy,
    open_virtual_connection_pair,
)
from trio_tsconnect.clients import HttpxTransport
from trio_tsconnect.testing import Answer, OriginRequest


@pytest.fixture
async def unentered(ts_proxy) -> AsyncIterator[httpx.AsyncClient]:
    """A client that is used without `async with`."""
    client = httpx.AsyncClient(transport=HttpxTransport(ts_proxy), base_url="http://origin.test", trust_env=False)
    yield client
    await client.aclose()


def client_on(opener, **options) -> httpx.AsyncClient:
    return httpx.AsyncClient(transport=HttpxTransport(opener, **options), base_url="http://origin.test", trust_env=False)


async def echo(request: OriginRequest) -> Answer:
    """Send back each piece of the body as it comes."""

    async def pieces() -> AsyncIterator[bytes]:
        while piece := await request.receive():
            yield piece

    return Answer(200, pieces())


class Silent:
    """An opener at whose other end is the test."""

    def __init__(self) -> None:
        self.connection, self.far_end = open_virtual_connection_pair()

    def connect(self, options: ConnectOptions) -> VirtualConnection:
        return self.connection


HEAD = b"HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\n"


async def ended(records) -> tuple[str, str]:
    [record] = await records.wait()
    return record.ended.by, record.ended.why


# --- the plain case ----------------------------------------------------------------------------------------------------------------


async def test_response_has_status_reason_version_fields_and_content(ts_client, ts_origin) -> None:
    ts_origin.answer("/a", 404, "no", headers=[("X-A", "1"), ("X-A", "2")])
    response = await ts_client.get("/a")
    assert (response.status_code, response.reason_phrase, response.http_version, response.text) == (404, "Not Found", "HTTP/1.1", "no")
    assert response.headers.get_list("x-a") == ["1", "2"]
    assert response.is_closed


async def test_request_arrives_with_method_query_fields_and_body(ts_client, ts_origin) -> None:
    await ts_client.put("/a?b=c%20d", json={"e": 1}, headers={"X-F": "g"})
    [request] = ts_origin.requests
    assert (request.method, request.target, request.body) == ("PUT", "/a?b=c%20d", b'{"e":1}')
    assert (request.headers["x-f"], request.headers["host"]) == ("g", "origin.test")


@pytest.mark.parametrize(("method", "status"), [("HEAD", 200), ("GET", 204), ("GET", 304)])
async def test_response_without_content_ends_with_its_head(ts_client, ts_origin, ts_records, method: str, status: int) -> None:
    ts_origin.answer("/a", status, "abc" if status == 200 else "")
    response = await ts_client.request(method, "/a")
    assert (response.status_code, response.content) == (status, b"")
    assert await ended(ts_records) == ("proxy", "complete")


async def test_interim_responses_are_passed_over(ts_client, ts_origin) -> None:
    ts_origin.reply("/a", Answer(200, "abc", interim=[Response(103, {"Link": "</a.css>"})]))
    assert (await ts_client.get("/a")).text == "abc"


async def test_tag_and_id_reach_the_log(ts_proxy, ts_records) -> None:
    async with client_on(ts_proxy, tag="crawler", id=7) as client:
        await client.get("/")
    [record] = await ts_records.wait()
    assert (record.tag, record.id, record.internal) == ("crawler", 7, True)


@pytest.mark.parametrize(("options", "field"), [({"tag": "two words"}, "tag"), ({"id": 1 << 63}, "id")])
async def test_tag_or_id_out_of_range_is_told_when_the_transport_is_made(ts_proxy, options, field: str) -> None:
    with pytest.raises(ValueError, match=f"^{field} must be"):
        HttpxTransport(ts_proxy, **options)


async def test_https_is_written_in_absolute_form_and_not_encrypted(ts_origin, ts_records, ts_log) -> None:
    rules = [RemapRule("https://shop.test/", "http://origin.test/s/"), RemapRule("http://shop.test/", "http://origin.test/h/")]
    async with open_proxy(ProxyConfig(remap=rules), plugins=[ts_origin.plugin()], log=ts_log) as proxy, client_on(proxy) as client:
        await client.get("https://shop.test/a")
        await client.get("http://shop.test/a")
    assert [request.target for request in ts_origin.requests] == ["/s/a", "/h/a"]
    assert [record.url for record in ts_records] == ["https://shop.test/a", "http://shop.test/a"]


async def test_requests_of_one_client_run_at_the_same_time(ts_client, ts_origin) -> None:
    meeting = trio.Event()

    async def meet(request: OriginRequest) -> Answer:
        if len(ts_origin.requests) == 5:
            meeting.set()
        await meeting.wait()
        return Answer(200, request.path)

    answers = []

    async def ask(number: int) -> None:
        answers.append((await ts_client.get(f"/{number}")).text)

    for number in range(5):
        ts_origin.reply(f"/{number}", meet)
    async with trio.open_nursery() as nursery:
        for number in range(5):
            nursery.start_soon(ask, number)
    assert sorted(answers) == ["/0", "/1", "/2", "/3", "/4"]


async def test_requests_of_a_transaction_are_its_children(ts_origin, ts_records, ts_log) -> None:
    class Ask(Plugin):
        async def read_request(self, txn: Transaction) -> None:
            if txn.depth == 0:
                async with client_on(txn, tag="auth") as client:
                    txn.respond((await client.get("/auth")).status_code)

    ts_origin.answer("/auth", 403)
    rules = [RemapRule("/", "http://origin.test/")]
    async with open_proxy(ProxyConfig(remap=rules), plugins=[Ask(), ts_origin.plugin()], log=ts_log) as proxy, client_on(proxy) as client:
        assert (await client.get("/")).status_code == 403
    child, parent = ts_records
    assert (child.tag, child.parent, child.depth, parent.tag) == ("auth", parent.transaction, 1, None)


async def test_what_is_written_is_one_request_in_absolute_form_for_this_connection_alone() -> None:
    opener = Silent()

    async def answer() -> None:
        assert await opener.far_end.receive_some() == (
            b"POST https://origin.test:8443/a HTTP/1.1\r\nHost: origin.test:8443\r\nConnection: close\r\nContent-Length: 3\r\n\r\nabc"
        )
        await opener.far_end.send_all(HEAD + b"nine byte")
        assert await opener.far_end.receive_some() == b""  # closed, and not broken

    transport = HttpxTransport(opener)
    async with trio.open_nursery() as nursery, httpx.AsyncClient(transport=transport) as client:
        nursery.start_soon(answer)
        request = client.build_request("POST", "https://origin.test:8443/a", content=b"abc")
        for name in ("accept", "accept-encoding", "user-agent"):
            del request.headers[name]
        assert (await client.send(request)).text == "nine byte"
        assert not transport._open


# --- streaming both ways -----------------------------------------------------------------------------------------------------------


async def test_response_body_is_handed_over_as_it_comes(ts_client, ts_origin) -> None:
    more = trio.Event()

    async def pieces() -> AsyncIterator[bytes]:
        yield b"first"
        await more.wait()
        yield b"second"

    ts_origin.answer("/a", body=pieces())
    async with ts_client.stream("GET", "/a") as response, aclosing(response.aiter_raw()) as chunks:
        assert await anext(chunks) == b"first"
        more.set()
        assert [chunk async for chunk in chunks] == [b"second"]


async def test_request_body_is_sent_while_the_response_is_read(ts_client, ts_origin) -> None:
    ts_origin.reply("/echo", echo)
    said, heard = trio.open_memory_channel[bytes](0)

    async with ts_client.stream("POST", "/echo", content=heard) as response, aclosing(response.aiter_raw()) as chunks:
        for word in (b"one", b"two", b"three"):
            await said.send(word)
            assert await anext(chunks) == word
        await said.aclose()
        assert [chunk async for chunk in chunks] == []
    await heard.aclose()


async def test_bodies_larger_than_every_buffer_pass_both_ways_at_once(ts_client, ts_origin) -> None:
    ts_origin.reply("/echo", echo)
    data = bytes(range(256)) * 4096
    assert (await ts_client.post("/echo", content=data)).content == data


async def test_head_does_not_wait_for_the_first_piece_of_the_body(ts_client, ts_origin) -> None:
    async def pieces() -> AsyncIterator[bytes]:
        await ts_origin.requests.wait()
        yield b"abc"

    await ts_client.post("/a", content=pieces())
    assert ts_origin.requests[0].body == b"abc"


async def test_declared_length_is_kept_for_a_streamed_body(ts_client, ts_origin) -> None:
    async def pieces() -> AsyncIterator[bytes]:
        yield b"ab"
        yield b"c"

    await ts_client.post("/a", content=pieces(), headers={"Content-Length": "3"})
    [request] = ts_origin.requests
    assert (request.body, request.headers["content-length"], "transfer-encoding" in request.headers) == (b"abc", "3", False)


async def test_without_async_with_a_request_is_sent_whole_before_its_response_is_there(unentered, ts_origin) -> None:
    sent = []

    async def pieces() -> AsyncIterator[bytes]:
        for piece in (b"ab", b"cd"):
            await wait_all_tasks_blocked()
            sent.append(piece)
            yield piece

    ts_origin.reply("/echo", echo)
    async with unentered.stream("POST", "/echo", content=pieces()) as response:
        assert sent == [b"ab", b"cd"]
        assert await response.aread() == b"abcd"


@pytest.mark.parametrize("which", ["ts_client", "unentered"])
async def test_early_response_ends_the_request_and_closes_its_generator(request, ts_client, unentered, ts_origin, which: str) -> None:
    client = {"ts_client": ts_client, "unentered": unentered}[which]
    closed = trio.Event()

    async def refuse(request: OriginRequest) -> Answer:
        await request.receive()
        return Answer(413, "too much")

    async def endless() -> AsyncIterator[bytes]:
        try:
            while True:
                yield b"x" * 10000
                await trio.lowlevel.checkpoint()
        finally:
            await trio.lowlevel.cancel_shielded_checkpoint()
            closed.set()

    ts_origin.reply("/a", refuse)
    response = await client.post("/a", content=endless())
    assert (response.status_code, response.text) == (413, "too much")
    assert closed.is_set()


@pytest.mark.parametrize("entered", [True, False])
async def test_request_body_is_not_waited_for_when_there_will_be_no_response(nursery, entered: bool) -> None:
    async def endless() -> AsyncIterator[bytes]:
        yield b"abc"
        await trio.sleep_forever()

    async def close_when_it_has_begun() -> None:
        while b"abc" not in await opener.far_end.receive_some():
            pass
        await wait_all_tasks_blocked()
        await opener.far_end.aclose()

    opener = Silent()
    client = client_on(opener)
    async with client if entered else aclosing(client):
        nursery.start_soon(close_when_it_has_begun)
        with pytest.raises(httpx.RemoteProtocolError):
            await client.post("/a", content=endless())


# --- what ends it early ------------------------------------------------------------------------------------------------------------


async def test_response_closed_early_cancels_its_transaction(ts_client, ts_origin, ts_records) -> None:
    ts_origin.answer("/a", body=b"x" * 100, fault="stall", after=10)
    async with ts_client.stream("GET", "/a") as response:
        assert response.status_code == 200
    assert await ended(ts_records) == ("client", "client_gone")
    await wait_all_tasks_blocked()
    assert ts_origin.open_connections == 0


async def test_cancelled_request_cancels_its_transaction(ts_client, ts_origin, ts_records) -> None:
    ts_origin.answer("/a", fault="stall")
    async with trio.open_nursery() as nursery:
        nursery.start_soon(ts_client.get, "/a")
        await ts_origin.requests.wait()
        nursery.cancel_scope.cancel()
    assert await ended(ts_records) == ("client", "client_gone")


async def test_cancelled_upload_closes_its_generator(ts_client, ts_origin, ts_records) -> None:
    closed = trio.Event()

    async def endless() -> AsyncIterator[bytes]:
        try:
            yield b"abc"
            await trio.sleep_forever()
        finally:
            closed.set()

    async with trio.open_nursery() as nursery:
        nursery.start_soon(lambda: ts_client.post("/a", content=endless()))
        await ts_origin.requests.wait()
        await wait_all_tasks_blocked()
        nursery.cancel_scope.cancel()
    await wait_all_tasks_blocked()
    assert closed.is_set()
    assert (await ended(ts_records))[0] == "client"


@pytest.mark.parametrize("entered", [True, False])
async def test_closing_the_client_ends_responses_that_were_given_up(ts_proxy, ts_origin, ts_records, entered: bool) -> None:
    ts_origin.answer("/a", body=b"x" * 100, fault="stall", after=10)
    client = client_on(ts_proxy)
    if entered:
        await client.__aenter__()
    response = await client.send(client.build_request("GET", "/a"), stream=True)
    assert not response.is_closed
    if entered:
        await client.__aexit__()
    else:
        await client.aclose()
    assert await ended(ts_records) == ("client", "client_gone")
    with pytest.raises(httpx.ReadError, match="the client was closed"):
        await response.aread()


async def test_exception_in_the_block_of_a_client_leaves_as_it_is(ts_proxy, ts_origin) -> None:
    async def endless() -> AsyncIterator[bytes]:
        yield b"abc"
        await trio.sleep_forever()

    ts_origin.reply("/echo", echo)
    with pytest.raises(KeyError):
        async with client_on(ts_proxy) as client, client.stream("POST", "/echo", content=endless()):
            raise KeyError("mine")


async def test_cancelling_the_block_of_a_client_ends_it(ts_proxy, ts_origin, autojump_clock) -> None:
    ts_origin.answer("/a", fault="stall")
    begun = trio.current_time()
    with trio.move_on_after(3):
        async with client_on(ts_proxy) as client:
            await client.get("/a", timeout=None)
    assert trio.current_time() - begun == 3


async def test_cancelling_the_block_of_a_client_ends_requests_that_other_tasks_make_with_it(ts_proxy, ts_origin) -> None:
    clients: list[httpx.AsyncClient] = []
    scope = trio.CancelScope()

    async def keep_client() -> None:
        with scope:
            async with client_on(ts_proxy) as client:
                clients.append(client)
                try:
                    await trio.sleep_forever()
                finally:
                    with trio.CancelScope(shield=True):  # it takes its time: what its senders do has to end without it
                        await done.wait()

    async def endless() -> AsyncIterator[bytes]:
        yield b"abc"
        await trio.sleep_forever()

    done = trio.Event()
    ts_origin.reply("/echo", echo)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(keep_client)
        await wait_all_tasks_blocked()
        async with clients[0].stream("POST", "/echo", content=endless()) as response, aclosing(response.aiter_raw()) as chunks:
            assert await anext(chunks) == b"abc"
            scope.cancel()
            with pytest.raises(httpx.ReadError, match="the request was cancelled"):
                await anext(chunks)
        done.set()


async def test_transport_belongs_to_one_client(ts_proxy) -> None:
    transport = HttpxTransport(ts_proxy)
    async with httpx.AsyncClient(transport=transport, trust_env=False):
        with pytest.raises(RuntimeError, match="give each client its own transport"):
            await httpx.AsyncClient(transport=transport, trust_env=False).__aenter__()


# --- httpx's timeouts --------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("fields", [{}, {"after": 10, "body": b"x" * 100}], ids=["head", "body"])
async def test_read_timeout(ts_client, ts_origin, ts_records, autojump_clock, fields) -> None:
    ts_origin.answer("/a", fault="stall", **fields)
    begun = trio.current_time()
    with pytest.raises(httpx.ReadTimeout, match="nothing was received for 2 s"):
        await ts_client.get("/a", timeout=httpx.Timeout(9, read=2))
    assert trio.current_time() - begun == 2
    assert await ended(ts_records) == ("client", "client_gone")


async def test_read_timeout_counts_from_the_end_of_the_request(ts_client, ts_origin, autojump_clock) -> None:
    async def slow() -> AsyncIterator[bytes]:
        for _ in range(5):
            await trio.sleep(1)
            yield b"x"

    async def late(request: OriginRequest) -> Answer:
        await request.read()
        await trio.sleep(1.5)
        return Answer(200)

    ts_origin.reply("/a", late)
    assert (await ts_client.post("/a", content=slow(), timeout=httpx.Timeout(9, read=2))).status_code == 200
    with pytest.raises(httpx.ReadTimeout):
        await ts_client.post("/a", content=slow(), timeout=httpx.Timeout(9, read=1))


@pytest.mark.parametrize("which", ["ts_client", "unentered"])
async def test_write_timeout(ts_client, unentered, ts_origin, autojump_clock, which: str) -> None:
    async def never_read(request: OriginRequest) -> Answer:
        await trio.sleep_forever()
        raise AssertionError

    ts_origin.reply("/a", never_read)
    begun = trio.current_time()
    client = {"ts_client": ts_client, "unentered": unentered}[which]
    with pytest.raises(httpx.WriteTimeout, match="nothing could be written for 2 s"):
        await client.post("/a", content=b"x" * 1_000_000, timeout=httpx.Timeout(9, write=2))
    assert trio.current_time() - begun == 2


async def test_write_timeout_counts_for_each_piece_of_a_large_body(ts_client, ts_origin, autojump_clock) -> None:
    async def slow(request: OriginRequest) -> Answer:
        while await request.receive():  # noqa: ASYNC110 - the pace is what this is about
            await trio.sleep(0.1)
        return Answer(200)

    ts_origin.reply("/a", slow)
    begun = trio.current_time()
    await ts_client.post("/a", content=b"x" * 4_000_000, timeout=httpx.Timeout(9, write=2))
    assert trio.current_time() - begun > 4


async def test_no_timeout_is_none(ts_client, ts_origin, autojump_clock) -> None:
    async def late(request: OriginRequest) -> Answer:
        await trio.sleep(100)
        return Answer(200)

    ts_origin.reply("/a", late)
    assert (await ts_client.get("/a", timeout=None)).status_code == 200


# --- httpx's errors ----------------------------------------------------------------------------------------------------------------


async def test_refused_connection_is_a_connect_error(ts_origin) -> None:
    async with open_proxy() as proxy:
        pass
    async with client_on(proxy) as client:
        with pytest.raises(httpx.ConnectError, match="closed") as caught:
            await client.get("/")
    assert caught.value.request.url == "http://origin.test/"


@pytest.mark.parametrize("method", ["GET", "POST"])
@pytest.mark.parametrize(
    ("said", "end", "error", "words"),
    [
        (b"", "closed", httpx.RemoteProtocolError, "the input ended within a head"),
        (HEAD + b"abc", "closed", httpx.RemoteProtocolError, "the input ended within a body"),
        (b"SSH-2.0\r\n\r\n", "closed", httpx.RemoteProtocolError, "The response head is malformed"),
        (b"HTTP/1.1 101 Go\r\nUpgrade: x\r\n\r\n", "closed", httpx.RemoteProtocolError, "(?i)switch"),
        (b"", "broken", httpx.ReadError, "the connection was aborted: tired"),
        (HEAD + b"abc", "broken", httpx.ReadError, "the connection was aborted: tired"),
    ],
)
async def test_response_that_does_not_come_whole_is_an_error_of_httpx(
    nursery, method: str, said: bytes, end: str, error, words: str
) -> None:
    opener = Silent()

    async def say() -> None:
        await opener.far_end.send_all(said)
        await wait_all_tasks_blocked()
        if end == "broken":
            opener.far_end.abort("tired")
        await opener.far_end.aclose()

    nursery.start_soon(say)
    async with client_on(opener) as client:
        with pytest.raises(error, match=words):
            await client.request(method, "/a", content=b"x" * 100_000 if method == "POST" else None)
    assert not opener.connection.statistics().receiving.unread


async def test_response_cut_short_by_the_origin_is_not_taken_for_a_whole_one(ts_client, ts_origin) -> None:
    ts_origin.answer("/a", body=b"x" * 100, fault="truncate", after=10)
    with pytest.raises(httpx.TransportError):
        await ts_client.get("/a")


async def test_response_cut_short_by_the_end_of_the_proxy_is_not_taken_for_a_whole_one(ts_origin) -> None:
    ts_origin.answer("/a", body=b"x" * 100, fault="stall", after=10)
    config = ProxyConfig(remap=[RemapRule("/", "http://origin.test/")], http=HttpConfig(drain_timeout=0.01))
    async with open_proxy(config, plugins=[ts_origin.plugin()]) as proxy:
        client = client_on(proxy)
        response = await client.send(client.build_request("GET", "/a"), stream=True)
    with pytest.raises(httpx.TransportError):
        await response.aread()
    await client.aclose()


@pytest.mark.parametrize("which", ["ts_client", "unentered"])
@pytest.mark.parametrize("first", [b"", b"abc"])
async def test_exception_in_a_request_body_comes_out_as_it_is(ts_client, unentered, ts_origin, which: str, first: bytes) -> None:
    async def broken() -> AsyncIterator[bytes]:
        if first:
            yield first
        raise KeyError("mine")

    client = {"ts_client": ts_client, "unentered": unentered}[which]
    with pytest.raises(KeyError, match="mine"):
        await client.post("/a", content=broken())


async def test_exception_in_a_request_body_comes_out_even_if_the_response_has_begun(unentered, ts_origin) -> None:
    async def broken() -> AsyncIterator[bytes]:
        yield b"abc"
        await wait_all_tasks_blocked()
        raise KeyError("mine")

    ts_origin.reply("/echo", echo)
    with pytest.raises(KeyError, match="mine"):
        await unentered.post("/echo", content=broken())


async def test_exception_in_a_request_body_reaches_who_reads_the_response(ts_client, ts_origin) -> None:
    fail = trio.Event()

    async def broken() -> AsyncIterator[bytes]:
        yield b"abc"
        await fail.wait()
        raise KeyError("mine")

    ts_origin.reply("/echo", echo)
    async with ts_client.stream("POST", "/echo", content=broken()) as response, aclosing(response.aiter_raw()) as chunks:
        assert await anext(chunks) == b"abc"
        fail.set()
        with pytest.raises(KeyError, match="mine"):
            await anext(chunks)


@pytest.mark.parametrize(("length", "words"), [("2", "Too much data"), ("4", "Too little data")])
async def test_body_of_another_length_than_declared_is_a_local_error(ts_client, length: str, words: str) -> None:
    async def pieces() -> AsyncIterator[bytes]:
        yield b"abc"

    with pytest.raises(httpx.LocalProtocolError, match=words):
        await ts_client.post("/a", content=pieces(), headers={"Content-Length": length})


@pytest.mark.parametrize("headers", [{"X-A": "a\r\nb"}, {"X A": "b"}, {"Content-Length": "2", "Transfer-Encoding": "chunked"}])
async def test_head_that_cannot_be_sent_is_a_local_error_and_opens_nothing(ts_client, ts_records, headers) -> None:
    with pytest.raises(httpx.LocalProtocolError):
        await ts_client.get("/a", headers=headers)
    await wait_all_tasks_blocked()
    assert list(ts_records) == []


async def test_other_schemes_are_refused(ts_client) -> None:
    with pytest.raises(httpx.UnsupportedProtocol, match="'ftp' is neither http nor https"):
        await ts_client.get("ftp://origin.test/")


# --- without httpx -----------------------------------------------------------------------------------------------------------------


def test_without_httpx_the_name_is_there_and_says_what_to_install() -> None:
    program = """
import sys
sys.modules["httpx"] = None
from trio_tsconnect.clients import HttpxTransport
try:
    HttpxTransport(None)
except ModuleNotFoundError as missing:
    print(missing)
"""
    done = subprocess.run([sys.executable, "-c", program], check=True, capture_output=True, text=True)
    assert done.stdout == "HttpxTransport needs httpx: pip install 'trio-tsconnect[httpx]'\n"
