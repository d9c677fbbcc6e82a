"""RFC 9113 §8.1: requests and responses, their bodies, interim responses and trailers."""

from __future__ import annotations

import tracemalloc

import pytest
import trio
from trio.testing import MockClock, wait_all_tasks_blocked

from trio_tsconnect import HttpConfig, Plugin, Transaction
from trio_tsconnect.http2 import Http2Limits

from . import _raw as raw
from ._raw import GET, NO_ERROR, POST, PROTOCOL_ERROR, RST_STREAM, frame, number, open_world, read_head, saying, silence, swallow


async def test_response_of_a_plugin(autojump_clock: MockClock) -> None:
    async with open_world() as world:
        answer = await world.client.get()
        assert (answer.status, answer.body, answer.fields["content-type"]) == ("200", b"hello", "text/plain")
        assert answer.fields["content-length"] == "5"


async def test_nothing_of_a_connection_reaches_the_client(autojump_clock: MockClock) -> None:
    """RFC 9113 §8.2.2, and no reason phrase (§8.3.2)."""
    origin = saying(
        b"HTTP/1.1 299 Odd\r\nConnection: x-hop\r\nX-Hop: 1\r\nKeep-Alive: 5\r\nTransfer-Encoding: chunked\r\nX-End: 1\r\n\r\n2\r\nok\r\n0\r\n\r\n"
    )
    async with open_world(origin) as world:
        answer = await world.client.get()
        assert answer.body == b"ok"
        assert set(answer.fields) == {":status", "x-end", "via", "date"}


async def test_transaction_tells_who_the_client_is(autojump_clock: MockClock) -> None:
    async with open_world() as world:
        await world.client.get(1)
        await world.client.get(3)
        other = world.open_client()
        await other.greet()
        await other.get(1)
        first, second, third = await world.records(3)
        assert first.tag == "h2"
        assert first.client_protocol == "h2"
        assert not first.internal
        assert first.client_address == "192.0.2.7"
        assert [first.stream, second.stream, third.stream] == [1, 3, 1]
        assert first.id == first.client_connection == second.id == second.client_connection != third.id == third.client_connection
        assert 0 not in (first.id, third.id)
        assert first.session != second.session


async def test_request_reaches_plugins_in_absolute_form(autojump_clock: MockClock) -> None:
    async with open_world() as world:
        await world.client.get(1, [*GET, ("user-agent", "raw"), ("cookie", "a=1"), ("cookie", "b=2")])
        method, target, headers = world.origin.heads[0]
        assert (method, target) == ("GET", "http://site.example/")
        assert headers["host"] == "site.example"
        assert headers["cookie"] == "a=1; b=2"


@pytest.mark.parametrize("declared", [True, False], ids=["declared", "chunked"])
@pytest.mark.parametrize("early", [True, False], ids=["whole", "in parts"])
async def test_body_of_a_request_arrives(autojump_clock: MockClock, declared: bool, early: bool) -> None:
    async with open_world(swallow) as world:
        client = world.client
        fields = [*POST, ("content-length", "10")] if declared else POST
        parts = [client.head(1, fields, end=False), client.data(1, b"01234"), client.data(1, b"56789"), client.data(1, b"", end=True)]
        if early:
            await client.send(*parts)
        else:
            for part in parts:
                await client.send(part)
                await wait_all_tasks_blocked()
        assert (await client.answer(1)).body == (b"10" if declared else b"ok")
        (record,) = await world.records(1)
        assert record.request_bytes == 10


@pytest.mark.parametrize(
    ("declared", "body", "end"),
    [("5", b"1234", True), ("5", b"123456", False), ("0", b"1", False), ("5", b"", True)],
    ids=["short", "long", "none", "nothing"],
)
async def test_content_of_another_length_is_malformed(autojump_clock: MockClock, declared: str, body: bytes, end: bool) -> None:
    """RFC 9113 §8.1.1."""
    async with open_world(silence) as world:
        client = world.client
        await client.send(client.head(1, [*POST, ("content-length", declared)], end=False), client.data(1, body, end=end))
        assert (await client.answer(1)).reset == PROTOCOL_ERROR
        await client.ping()


async def test_trailers_of_a_request_arrive(autojump_clock: MockClock) -> None:
    seen: list[bytes] = []

    async def serve(stream: trio.abc.HalfCloseableStream) -> None:
        _, data = await read_head(stream)
        while not data.endswith(b"\r\n\r\n"):
            data += await stream.receive_some()
        seen.append(data)
        await stream.send_all(b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n")

    async with open_world(serve) as world:
        client = world.client
        await client.send(client.head(1, POST, end=False), client.data(1, b"body"), client.head(1, [("x-sum", "7"), ("host", "evil")]))
        assert (await client.answer(1)).status == "200"
        assert seen == [b"4\r\nbody\r\n0\r\nx-sum: 7\r\n\r\n"]


@pytest.mark.parametrize(
    ("trailers", "end"),
    [([("x", "1")], False), ([(":path", "/")], True), ([("X", "1")], True), ([("connection", "close")], True)],
    ids=["no end", "pseudo-field", "upper case", "connection"],
)
async def test_malformed_trailers_reset_their_stream(autojump_clock: MockClock, trailers: raw.Fields, end: bool) -> None:
    async with open_world(silence) as world:
        client = world.client
        await client.send(client.head(1, POST, end=False), client.head(3, GET))
        await client.send(client.data(1, b"x"), client.head(1, trailers, end=end))
        assert (await client.answer(1)).reset == PROTOCOL_ERROR
        await client.ping()
        assert 3 not in client.answers


async def test_trailers_end_a_body_that_is_too_short(autojump_clock: MockClock) -> None:
    async with open_world(silence) as world:
        client = world.client
        await client.send(client.head(1, [*POST, ("content-length", "5")], end=False), client.data(1, b"1"), client.head(1, [("x", "1")]))
        assert (await client.answer(1)).reset == PROTOCOL_ERROR


async def test_trailers_of_a_response_arrive(autojump_clock: MockClock) -> None:
    origin = saying(
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n2\r\nde\r\n0\r\nGrpc-Status: 0\r\nGrpc-Message: fine\r\n\r\n"
    )
    async with open_world(origin) as world:
        answer = await world.client.get(1, [*GET, ("te", "trailers")])
        assert answer.body == b"abcde"
        assert answer.trailers == {"grpc-status": "0", "grpc-message": "fine"}


async def test_interim_responses_arrive_before_the_final_one(autojump_clock: MockClock) -> None:
    origin = saying(
        b"HTTP/1.1 103 Early Hints\r\nLink: </a>\r\n\r\nHTTP/1.1 102 Processing\r\n\r\nHTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n"
    )
    async with open_world(origin) as world:
        answer = await world.client.get()
        assert [fields[":status"] for fields in answer.interim] == ["103", "102"]
        assert answer.interim[0]["link"] == "</a>"
        assert answer.status == "200"


async def test_expectation_is_met_before_the_body_is_sent(autojump_clock: MockClock) -> None:
    async def serve(stream: trio.abc.HalfCloseableStream) -> None:
        await read_head(stream)
        await stream.send_all(b"HTTP/1.1 100 Continue\r\n\r\n")
        assert await stream.receive_some() == b"hello"
        await stream.send_all(b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n")

    async with open_world(serve) as world:
        client = world.client
        await client.send(client.head(1, [*POST, ("expect", "100-continue"), ("content-length", "5")], end=False))
        await client.until(raw.HEADERS, 1)
        assert client.answers[1].interim[0][":status"] == "100"
        await client.send(client.data(1, b"hello", end=True))
        assert (await client.answer(1)).status == "200"


async def test_head_request_has_a_length_and_no_body(autojump_clock: MockClock) -> None:
    async with open_world(saying(b"HTTP/1.1 200 OK\r\nContent-Length: 12345\r\n\r\n")) as world:
        answer = await world.client.get(1, [(":method", "HEAD"), *GET[1:]])
        assert (answer.status, answer.fields["content-length"], answer.body) == ("200", "12345", b"")
        assert not any(got.kind == raw.DATA for got in world.client.frames)


@pytest.mark.parametrize("status", [b"204 No Content", b"304 Not Modified"])
async def test_response_without_content_ends_with_its_head(autojump_clock: MockClock, status: bytes) -> None:
    async with open_world(saying(b"HTTP/1.1 " + status + b"\r\n\r\n")) as world:
        answer = await world.client.get()
        assert answer.status == status[:3].decode()
        assert not any(got.kind == raw.DATA for got in world.client.frames)


async def test_body_that_ends_with_its_connection_arrives_whole(autojump_clock: MockClock) -> None:
    async def serve(stream: trio.abc.HalfCloseableStream) -> None:
        await read_head(stream)
        await stream.send_all(b"HTTP/1.0 200 OK\r\n\r\nuntil ")
        await stream.send_all(b"the end")
        await stream.send_eof()

    async with open_world(serve) as world:
        assert (await world.client.get()).body == b"until the end"


async def test_large_bodies_go_both_ways_at_once(autojump_clock: MockClock) -> None:
    """As gRPC streams: the response begins before the request has ended, and each part is answered."""

    async def serve(stream: trio.abc.HalfCloseableStream) -> None:
        _, data = await read_head(stream)
        await stream.send_all(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n")
        while True:
            while b"\r\n" in data:
                size, _, rest = data.partition(b"\r\n")
                length = int(size, 16)
                if len(rest) < length + 2:
                    break
                part, data = rest[:length], rest[length + 2 :]
                if not part:
                    await stream.send_all(b"0\r\ngrpc-status: 0\r\n\r\n")
                    return
                await stream.send_all(b"%x\r\n%b\r\n" % (length, part.upper()))
            data += await stream.receive_some()

    async with open_world(serve) as world:
        client = world.client
        await client.send(client.head(1, [*POST, ("te", "trailers")], end=False))
        for part in (b"one", b"two", b"three"):
            await client.send(client.data(1, part))
            await client.until(raw.DATA, 1)
        assert client.answers[1].body == b"ONETWOTHREE"
        await client.send(client.data(1, b"", end=True))
        assert (await client.answer(1)).trailers == {"grpc-status": "0"}
        assert client.answers[1].reset is None


async def test_response_that_needs_no_request_asks_for_no_more_of_it(autojump_clock: MockClock) -> None:
    """RFC 9113 §8.1: a complete response, then RST_STREAM with NO_ERROR, once the client had time to read."""
    async with open_world(http=HttpConfig(linger_timeout=2)) as world:
        client = world.client
        await client.send(client.head(1, POST, end=False), client.data(1, b"x"))
        answer = await client.answer(1)
        assert (answer.status, answer.body, answer.ended, answer.reset) == ("200", b"hello", True, None)
        answered = trio.current_time()
        assert (await client.until(RST_STREAM, 1)).number == NO_ERROR
        assert trio.current_time() - answered == pytest.approx(2)
        (record,) = await world.records(1)
        assert (record.ended.by, record.ended.why) == ("plugin", "responded")


async def test_rest_of_a_request_that_was_answered_is_dropped(autojump_clock: MockClock) -> None:
    async with open_world() as world:
        client = world.client
        await client.ping()
        await client.send(client.head(1, POST, end=False))
        await client.answer(1)
        window = 32768 + sum(got.number for got in client.frames if got.kind == raw.WINDOW_UPDATE and got.stream == 1)
        for part in range(20):
            while window < 16384:
                window += (await client.until(raw.WINDOW_UPDATE, 1)).number
            await client.send(client.data(1, bytes(16384), end=part == 19))
            window -= 16384
        await client.ping()
        assert client.answers[1].reset is None
        assert (await client.get(3)).status == "200"


@pytest.mark.parametrize(
    ("body", "trailers", "end"),
    [(b"12345", None, True), (b"12345", None, False), (b"1234", [("x", "1")], False), (b"1234", [(":path", "/")], True)],
    ids=["long and ended", "long", "trailers without end", "pseudo-field"],
)
async def test_rest_of_a_request_that_was_answered_must_be_well_formed(
    autojump_clock: MockClock, body: bytes, trailers: raw.Fields | None, end: bool
) -> None:
    """RFC 9113 §8.1.1: whichever is first, the response or the fault, the client is told of the fault."""
    async with open_world() as world:
        client = world.client
        await client.send(client.head(1, [*POST, ("content-length", "4")], end=False), client.head(3, POST, end=False))
        assert (await client.answer(1)).ended
        assert (await client.answer(3)).ended
        parts = [client.data(1, body, end=end and trailers is None)]
        if trailers is not None:
            parts.append(client.head(1, trailers, end=end))
        await client.send(*parts)
        await client.settle()
        assert client.answers[1].reset == PROTOCOL_ERROR
        assert client.answers[3].reset is None
        assert (await client.get(5)).status == "200"


async def test_client_that_was_answered_may_end_its_request_early(autojump_clock: MockClock) -> None:
    async with open_world() as world:
        client = world.client
        await client.send(client.head(1, [*POST, ("content-length", "4")], end=False))
        assert (await client.answer(1)).ended
        await client.send(client.data(1, b"1", end=True))
        await client.settle()
        assert client.answers[1].reset is None


async def test_response_that_the_clients_window_keeps_back_is_not_cut_by_the_request_that_goes_on(autojump_clock: MockClock) -> None:
    """RFC 9113 §8.1: RST_STREAM with NO_ERROR comes after the complete response, however long the client leaves its window closed."""
    async with open_world(saying(b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nhello"), initial_window_size=0) as world:
        client = world.client
        await client.send(client.head(1, POST, end=False))
        await trio.sleep(20)  # in trio's time: more than `linger_timeout`, less than a client may take that does not read
        await client.settle()
        answer = client.answers[1]
        assert (answer.status, answer.ended, answer.reset) == ("200", False, None)
        await client.send(frame(raw.WINDOW_UPDATE, 0, 1, number(5)))
        await client.until(raw.DATA, 1)
        assert (answer.body, answer.ended) == (b"hello", True)
        assert (await client.until(RST_STREAM, 1)).number == NO_ERROR


@pytest.mark.parametrize("declared", [100_000, None])
async def test_window_is_opened_for_the_rest_before_the_response_ends(autojump_clock: MockClock, declared: int | None) -> None:
    """A client may read nothing more once it has its response, and still send its request to the end."""
    limits = Http2Limits(connection_window=65535, max_dropped=300_000)
    async with open_world(limits=limits) as world:
        client = world.client
        length = [] if declared is None else [("content-length", str(declared))]
        await client.send(client.head(1, [*POST, *length], end=False), client.data(1, bytes(1000)))
        await client.answer(1)
        opened = {0: 65535, 1: 32768}
        for got in client.frames:
            if got.kind == raw.WINDOW_UPDATE:
                opened[got.stream] += got.number
        rest = 300_000 if declared is None else declared - 1000
        for window in opened.values():
            assert rest <= window - 1000 <= rest + 65535
        while rest:
            size = min(rest, 16384)
            rest -= size
            await client.send(client.data(1, bytes(size), end=not rest))
        await client.settle()
        assert client.answers[1].reset is None
        # what was opened in advance is not opened once more when it comes
        assert sum(got.number for got in client.frames if got.kind == raw.WINDOW_UPDATE and got.stream == 0) <= 300_000 + 65535
        assert (await client.get(3)).status == "200"


async def test_window_of_the_connection_is_opened_again_for_what_is_dropped(autojump_clock: MockClock) -> None:
    async with open_world(limits=Http2Limits(connection_window=65535, max_buffered=0, max_dropped=30_000)) as world:
        client = world.client
        sent = 0
        for stream in range(1, 40, 2):
            await client.send(client.head(stream, POST, end=False))
            await client.answer(stream)
            await client.send(client.data(stream, bytes(15_000)), client.data(stream, bytes(15_000), end=True))
            await client.settle()
            sent += 30_000
            assert client.answers[stream].reset is None
            opened = sum(got.number for got in client.frames if got.kind == raw.WINDOW_UPDATE and got.stream == 0)
            assert 65535 + opened - sent >= 30_000


@pytest.mark.parametrize("status", [204, 200])
async def test_window_is_opened_before_a_response_without_content_too(autojump_clock: MockClock, status: int) -> None:
    async with open_world(saying(b"HTTP/1.1 %d Fine\r\nContent-Length: 0\r\n\r\n" % status)) as world:
        client = world.client
        await client.send(client.head(1, POST, end=False))
        assert (await client.answer(1)).ended
        assert [got for got in client.frames if got.kind == raw.WINDOW_UPDATE and got.stream == 1]


async def test_window_that_is_still_to_shrink_is_opened_for_that_too(autojump_clock: MockClock) -> None:
    """RFC 9113 §6.9.2: a client that does not know our SETTINGS yet has the larger window, and owes the difference."""
    async with open_world(greet=False) as world:
        client = world.client
        await client.send(raw.PREFACE, raw.settings(), client.head(1, [*POST, ("content-length", "65000")], end=False))
        await client.answer(1)
        opened = sum(got.number for got in client.frames if got.kind == raw.WINDOW_UPDATE and got.stream == 1)
        assert 65535 + opened - (65535 - 32768) >= 65_000


async def test_windows_opened_in_advance_have_a_bound(autojump_clock: MockClock) -> None:
    async with open_world(limits=Http2Limits(connection_window=65535, max_dropped=1_000_000)) as world:
        client = world.client
        for stream in range(1, 20, 2):
            await client.send(client.head(stream, POST, end=False))
            await client.answer(stream)
        opened = sum(got.number for got in client.frames if got.kind == raw.WINDOW_UPDATE and got.stream == 0)
        assert opened == 1_000_000


async def test_what_is_dropped_is_not_kept_until_the_response_is_read(autojump_clock: MockClock) -> None:
    async with open_world(initial_window_size=0) as world:
        client = world.client
        await client.send(client.head(1, POST, end=False))
        await client.settle()
        tracemalloc.start()
        try:
            with trio.fail_after(60):
                for _ in range(400):
                    await client.send(client.data(1, bytes(16384)))
                await client.settle()
            grown = tracemalloc.get_traced_memory()[1]
        finally:
            tracemalloc.stop()
        assert client.answers[1].fields
        assert not client.answers[1].ended
        assert grown < 3_000_000


async def test_patience_with_those_who_still_send(autojump_clock: MockClock) -> None:
    async with open_world(http=HttpConfig(linger_timeout=2)) as world:
        client = world.client
        await client.send(client.head(1, POST, end=False))
        await client.answer(1)
        for _ in range(5):
            await trio.sleep(1.5)
            await client.send(client.data(1, b"x"))
        begun = trio.current_time()
        assert (await client.until(RST_STREAM, 1)).number == NO_ERROR
        assert trio.current_time() - begun == pytest.approx(2)


async def test_dropping_has_a_bound(autojump_clock: MockClock) -> None:
    async with open_world(limits=Http2Limits(max_dropped=10_000)) as world:
        client = world.client
        await client.send(client.head(1, POST, end=False))
        await client.answer(1)
        begun = trio.current_time()
        await client.send(client.data(1, bytes(16000)))
        assert (await client.until(RST_STREAM, 1)).number == NO_ERROR
        assert trio.current_time() == begun


async def test_head_that_http_1_1_refuses_is_refused_by_the_engine(autojump_clock: MockClock) -> None:
    async with open_world() as world:
        client = world.client
        await client.send(client.head(1, [*GET, *((f"x-{each}", "y") for each in range(200))]))
        answer = await client.answer(1)
        assert answer.status == "431"
        assert (await client.get(3)).status == "200"


async def test_head_larger_than_the_buffer_of_its_stream_passes(autojump_clock: MockClock) -> None:
    async with open_world(limits=Http2Limits(buffer_index=0)) as world:
        assert (await world.client.get(1, [*GET, ("x-large", "a" * 8000)])).status == "200"
        assert len(world.origin.heads[0][2]["x-large"]) == 8000


async def test_plugin_that_raises_makes_a_500(autojump_clock: MockClock) -> None:
    class Failing(Plugin):
        async def read_request(self, txn: Transaction) -> None:
            raise ValueError("what a plugin may do")

    async with open_world(plugins=[Failing()]) as world:
        assert (await world.client.get()).status == "500"
        assert (await world.client.get(3)).status == "500"


async def test_ten_responses_of_a_mebibyte_share_one_connection(autojump_clock: MockClock) -> None:
    size = 1 << 20
    origin = saying(b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n%b" % (size, bytes(size)))
    async with open_world(origin, initial_window_size=100_000, buffer_index=10) as world:
        client = world.client
        await client.send(frame(raw.WINDOW_UPDATE, 0, 0, number(1 << 30)), *(client.head(stream, GET) for stream in range(1, 21, 2)))
        owed = dict.fromkeys(range(1, 21, 2), 0)
        received = 0
        while received < 10 * size:
            got = await client.next_frame()
            assert got is not None
            if got.kind == raw.DATA:
                received += len(got.payload)
                owed[got.stream] += len(got.payload)
                client.answers[got.stream].body = b""
                if owed[got.stream] >= 50_000 and not got.flags & raw.END_STREAM:
                    await client.send(frame(raw.WINDOW_UPDATE, 0, got.stream, number(owed[got.stream])))
                    owed[got.stream] = 0
        assert received == 10 * size
