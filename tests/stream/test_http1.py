"""HTTP/1.1 over any stream, both roles: what is read and how strictly, what is written, and what may follow."""

from __future__ import annotations

import itertools

import h11
import pytest
import trio
import trio.testing
from hypothesis import given
from hypothesis import strategies as st

from trio_tsconnect.message import (
    CHUNKED_BODY,
    CLOSE_BODY,
    EMPTY_BODY,
    NO_BODY,
    BadRequest,
    BadResponse,
    Body,
    Framing,
    Headers,
    Request,
    Response,
)
from trio_tsconnect.stream import HeadLimits, HTTP1Client, HTTP1Server, IncompleteMessage, VirtualConnection, open_virtual_connection_pair

GET = b"GET / HTTP/1.1\r\nHost: a\r\n\r\n"
CHUNKED = b"POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n"


async def server_given(data: bytes, *, end: bool = True, limits: HeadLimits | None = None) -> tuple[HTTP1Server, VirtualConnection]:
    near, far = open_virtual_connection_pair(buffer_index=14)
    await near.send_all(data)
    if end:
        await near.send_eof()
    return HTTP1Server(far, limits=limits), near


async def client_given(data: bytes, request: Request | None = None, *, end: bool = True) -> tuple[HTTP1Client, VirtualConnection]:
    near, far = open_virtual_connection_pair(buffer_index=14)
    await near.send_all(data)
    if end:
        await near.send_eof()
    http = HTTP1Client(far)
    http.queue_request(request or Request("GET", "/", [("Host", "a")]), NO_BODY)
    http.queue_end()
    await http.drain()
    return http, near


async def whole(http: HTTP1Server | HTTP1Client) -> bytes:
    content = bytearray()
    while piece := await http.receive_body():
        content += piece
    assert http.body_complete
    return bytes(content)


# -------------------------------------------------------------------------------------------------------------------------- requests


async def test_a_request_is_read_with_its_fields_in_order_and_as_they_were_written() -> None:
    http, _ = await server_given(b"GET /x?y HTTP/1.1\r\nHoSt: a\r\nx-One: 1 \r\nX-one:\t2\r\nEmpty:\r\n\r\n")
    assert await http.wait_for_request()
    request = await http.read_request()
    assert (request.method, request.target, request.version) == ("GET", "/x?y", "1.1")
    assert [(raw, value) for raw, _, value in request.headers.fields] == [
        (b"HoSt", b"a"),
        (b"x-One", b"1"),
        (b"X-one", b"2"),
        (b"Empty", b""),
    ]
    assert http.body == NO_BODY
    assert await whole(http) == b""


@pytest.mark.parametrize(
    ("data", "content", "framing"),
    [
        (b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 5\r\n\r\nhello", b"hello", Framing.LENGTH),
        (b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 0\r\n\r\n", b"", Framing.LENGTH),
        (b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 5\r\nContent-Length: 5\r\n\r\nhello", b"hello", Framing.LENGTH),
        (CHUNKED + b"3\r\nhel\r\n2;x\r\nlo\r\n0\r\n\r\n", b"hello", Framing.CHUNKED),
        (CHUNKED.replace(b"chunked", b"Chunked") + b"5\r\nhello\r\n0\r\n\r\n", b"hello", Framing.CHUNKED),
        (b"GET / HTTP/1.1\r\nHost: a\r\nContent-Length: 5\r\n\r\nhello", b"hello", Framing.LENGTH),
        (b"POST / HTTP/1.1\r\nHost: a\r\n\r\n", b"", Framing.NONE),
    ],
)
async def test_rfc_9112_6_3_where_a_request_body_ends(data: bytes, content: bytes, framing: Framing) -> None:
    http, _ = await server_given(data + GET)
    await http.read_request()
    assert http.body.framing is framing
    assert await whole(http) == content
    http.queue_response(Response(200), EMPTY_BODY)
    http.queue_end()
    assert http.skip_empty_lines()
    assert (await http.read_request()).method == "GET"


async def test_trailers_are_there_once_the_body_was_read_and_forbidden_ones_are_not() -> None:
    http, _ = await server_given(CHUNKED + b"1\r\nx\r\n0\r\nX-Sum: 1\r\nContent-Length: 3\r\n\r\n")
    await http.read_request()
    assert http.trailers is None
    await whole(http)
    assert http.trailers == Headers([("X-Sum", "1")])


@pytest.mark.parametrize(
    ("section", "cause"),
    [
        (b"X: 1\n\r\n", "bare_line_end"),
        (b"X: 1\n\n", "bare_line_end"),
        (b"\n", "bare_line_end"),
        (b" X: 1\r\n\r\n", "malformed_trailers"),
        (b"X: 1\r\n y\r\n\r\n", "folded_line"),
        (b"X : 1\r\n\r\n", "malformed_trailers"),
        (b"X: \x00\r\n\r\n", "control_character"),
        (b"X: y\r\n" * 200 + b"\r\n", "head_too_large"),
    ],
)
async def test_trailers_are_judged_as_strictly_as_heads(section: bytes, cause: str) -> None:
    http, _ = await server_given(CHUNKED + b"0\r\n" + section)
    await http.read_request()
    for _ in range(2):  # asked again it says the same, and does not hang
        with pytest.raises(BadRequest) as caught:
            await whole(http)
        assert caught.value.cause == cause


@pytest.mark.parametrize(
    ("head", "cause", "status"),
    [
        (b"GET / HTTP/1.1\nHost: a\r\n\r\n", "bare_line_end", 400),
        (b"GET / HTTP/1.1\r\nHost: a\n\r\n", "bare_line_end", 400),
        (b"GET / HTTP/1.1\r\nHost: a\r\n\n", "bare_line_end", 400),
        (b"GET / HTTP/1.1\r\nHost: a\r\nX: a\rb\r\n\r\n", "bare_line_end", 400),
        (b"GET / HTTP/1.1\r\nHost: a\r\nX: a\x00b\r\n\r\n", "control_character", 400),
        (b"GET / HTTP/1.1\r\nHost: a\r\n X: b\r\n\r\n", "folded_line", 400),
        (b"GET / HTTP/1.1\r\n Host: a\r\n\r\n", "folded_line", 400),
        (b"GET / HTTP/1.1\r\nHost: a\r\nX : b\r\n\r\n", "malformed_head", 400),
        (b"GET / HTTP/1.1\r\nHost: a\r\n: b\r\n\r\n", "malformed_head", 400),
        (b"GET  / HTTP/1.1\r\nHost: a\r\n\r\n", "malformed_head", 400),
        (b"GET / \r\nHost: a\r\n\r\n", "malformed_head", 400),
        (b"GET / http/1.1\r\nHost: a\r\n\r\n", "malformed_head", 400),
        (b"GET / HTTP/1.1 \r\nHost: a\r\n\r\n", "malformed_head", 400),
        (b"G(T / HTTP/1.1\r\nHost: a\r\n\r\n", "malformed_head", 400),
        (b"GET /\xff HTTP/1.1\r\nHost: a\r\n\r\n", "malformed_head", 400),
        (b"\r\n" * 20 + GET, "malformed_head", 400),
        (b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 5\r\nTransfer-Encoding: chunked\r\n\r\n", "conflicting_framing", 400),
        (b"POST / HTTP/1.0\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n", "transfer_encoding_in_http_1_0", 400),
    ],
)
async def test_what_h11_would_take_or_refuse_is_refused_by_name(head: bytes, cause: str, status: int) -> None:
    http, _ = await server_given(head)
    assert await http.wait_for_request()
    with pytest.raises(BadRequest) as caught:
        await http.read_request()
    assert (caught.value.cause, caught.value.status) == (cause, status)


@pytest.mark.parametrize("end", [True, False])
@pytest.mark.parametrize(
    ("head", "status"),
    [
        (b"GET /" + b"a" * 100 + b" HTTP/1.1\r\nHost: a\r\n\r\n", 414),
        (b"GET /" + b"a" * 300, 414),
        (b"GET / HTTP/1.1\r\nHost: a\r\nX: " + b"a" * 300 + b"\r\n\r\n", 431),
        (b"GET / HTTP/1.1\r\nHost: a\r\nX: " + b"a" * 300, 431),
        (b"GET / HTTP/1.1\r\nHost: a\r\n" + b"X: y\r\n" * 5 + b"\r\n", 431),
    ],
)
async def test_each_limit_of_a_head_has_its_status_whether_its_end_has_come_or_not(head: bytes, status: int, end: bool) -> None:
    http, _ = await server_given(head, end=end, limits=HeadLimits(request_line=80, head=200, fields=5))
    with pytest.raises(BadRequest) as caught:
        await http.read_request()
    assert caught.value.status == status


async def test_a_head_just_within_its_limits_is_read() -> None:
    line = b"GET /" + b"a" * 64 + b" HTTP/1.1\r\n"
    limits = HeadLimits(request_line=len(line), head=len(line) + 50, fields=5)
    head = line + b"Host: a\r\nX: y\r\nX: y\r\nX: y\r\n"
    head += b"X: " + b"y" * (limits.head - len(head) - 7) + b"\r\n\r\n"
    http, _ = await server_given(head, limits=limits)
    assert len((await http.read_request()).headers.fields) == 5


async def test_rfc_9112_2_2_empty_lines_before_a_request_are_skipped() -> None:
    http, near = await server_given(b"\r\n\r", end=False)
    waited = []

    async def wait() -> None:
        waited.append(await http.wait_for_request())

    async with trio.open_nursery() as nursery:
        nursery.start_soon(wait)
        await trio.testing.wait_all_tasks_blocked()
        assert not waited
        await near.send_all(b"\n" + GET)
    assert waited == [True]
    assert (await http.read_request()).method == "GET"


@pytest.mark.parametrize("data", [b"", b"\r\n", b"\r\n\r"])
async def test_the_end_of_input_between_requests_is_no_request(data: bytes) -> None:
    http, _ = await server_given(data)
    assert not await http.wait_for_request()
    assert http.input_ended


@pytest.mark.parametrize(("data", "began"), [(b"", False), (GET[:-1], True)])
async def test_the_end_of_input_within_a_head_is_told_apart_from_one_before_it(data: bytes, began: bool) -> None:
    http, _ = await server_given(data)
    with pytest.raises(IncompleteMessage) as caught:
        await http.read_request()
    assert caught.value.began is began


@pytest.mark.parametrize("data", [b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 5\r\n\r\nhell", CHUNKED + b"5\r\nhello\r\n0\r\n"])
async def test_the_end_of_input_within_a_body_is_no_end_of_the_body(data: bytes) -> None:
    http, _ = await server_given(data)
    await http.read_request()
    with pytest.raises(IncompleteMessage):
        await whole(http)
    assert not http.body_complete


async def test_a_request_without_host_is_read_and_has_none() -> None:
    http, _ = await server_given(b"POST / HTTP/1.1\r\nContent-Length: 2\r\n\r\nhi" + GET)
    request = await http.read_request()
    assert [name for _, name, _ in request.headers.fields] == [b"content-length"]
    assert await whole(http) == b"hi"


@pytest.mark.parametrize(
    ("data", "seen"),
    [
        (b"GET /x HTTP/1.0\r\nbroken\r\n\r\n", ("GET", "/x", "1.0")),
        (b"GET /x y HTTP/1.1\r\n\r\n", ("GET", "/x y", "1.1")),
        (b"GET /x\r\n\r\n", ("GET", "/x", "1.1")),
        (b"BROKEN\r\n\r\n", ("BROKEN", None, "1.1")),
        (b"\n\n", (None, None, "1.1")),
        (b"GET /unfinish", ("GET", "/unfinish", "1.1")),
    ],
)
async def test_what_can_be_told_of_a_request_that_was_refused(data: bytes, seen: tuple[str | None, str | None, str]) -> None:
    http, _ = await server_given(data)
    with pytest.raises((BadRequest, IncompleteMessage)):
        await http.read_request()
    assert http.seen_request_line() == seen


@pytest.mark.parametrize("version", [b"1.0", b"1.1"])
async def test_request_after_request_on_one_connection_of_either_version(version: bytes) -> None:
    http, near = await server_given(GET.replace(b"1.1", version) * 3)
    for _ in range(3):
        assert await http.wait_for_request()
        assert (await http.read_request()).version == version.decode()
        http.queue_response(Response(200, [("Content-Length", "2")]), Body(Framing.LENGTH, 2))
        http.queue_body(b"hi")
        http.queue_end()
        await http.drain()
    assert not await http.wait_for_request()
    replies = b""
    while replies.count(b"hi") < 3:
        replies += await near.receive_some()
    assert replies == b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nhi" * 3


MESSAGES = [
    GET,
    b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 5\r\n\r\nhello",
    CHUNKED + b"3\r\nhel\r\n2\r\nlo\r\n0\r\nX-Sum: 1\r\n\r\n",
    b"\r\nHEAD /x HTTP/1.0\r\n\r\n",
]


@given(st.lists(st.sampled_from(MESSAGES), min_size=1, max_size=3), st.lists(st.integers(1, 250), max_size=6))
def test_it_does_not_matter_in_which_pieces_requests_arrive(messages: list[bytes], cuts: list[int]) -> None:
    data = b"".join(messages)

    async def read(cuts: list[int]) -> list[object]:
        edges = [0, *sorted({min(cut, len(data)) for cut in cuts}), len(data)]
        pieces = [data[start:end] for start, end in itertools.pairwise(edges) if start < end]
        near, far = open_virtual_connection_pair()
        http = HTTP1Server(far)
        seen: list[object] = []

        async def write() -> None:
            for piece in pieces:
                await near.send_all(piece)
                await trio.testing.wait_all_tasks_blocked()
            await near.send_eof()

        async with trio.open_nursery() as nursery:
            nursery.start_soon(write)
            while await http.wait_for_request():
                request = await http.read_request()
                seen.append(
                    (request.method, request.target, request.version, list(request.headers.fields), await whole(http), http.trailers)
                )
                http.queue_response(Response(204), NO_BODY)
                http.queue_end()
        return seen

    assert trio.run(read, cuts) == trio.run(read, [])


# ------------------------------------------------------------------------------------------------------------------------- responses


@pytest.mark.parametrize(
    ("method", "data", "content", "reusable"),
    [
        ("GET", b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nhello", b"hello", True),
        ("GET", b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n0\r\n\r\n", b"hello", True),
        ("GET", b"HTTP/1.1 200 OK\r\n\r\nhello", b"hello", False),
        ("GET", b"HTTP/1.0 200 OK\r\nContent-Length: 5\r\nConnection: keep-alive\r\n\r\nhello", b"hello", True),
        ("GET", b"HTTP/1.1 204 No Content\r\n\r\n", b"", True),
        ("GET", b"HTTP/1.1 304 Not Modified\r\nContent-Length: 5\r\n\r\n", b"", True),
        ("HEAD", b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\n", b"", True),
        ("HEAD", b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n", b"", True),
        ("GET", b"HTTP/1.1 200\r\nContent-Length: 0\r\n\r\n", b"", True),
        ("GET", b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\nsurplus", b"", False),
    ],
)
async def test_rfc_9112_6_3_where_a_response_body_ends_and_whether_another_request_may_follow(
    method: str, data: bytes, content: bytes, reusable: bool
) -> None:
    http, _ = await client_given(data, Request(method, "/", [("Host", "a")]), end=content == b"hello" and not reusable)
    response = await http.read_response()
    assert response.reason
    assert await whole(http) == content
    assert http.reusable is reusable
    if reusable:
        http.queue_request(Request("GET", "/", [("Host", "a")]), NO_BODY)
        http.queue_end()
        assert http.request_sent


async def test_interim_responses_come_one_by_one_before_the_final_one() -> None:
    http, _ = await client_given(
        b"HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 103 Early Hints\r\nLink: x\r\n\r\nHTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n"
    )
    assert [(await http.read_response()).status for _ in range(3)] == [100, 103, 200]


async def test_a_connection_is_not_reusable_before_the_request_was_sent_whole() -> None:
    near, far = open_virtual_connection_pair()
    await near.send_all(b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n")
    http = HTTP1Client(far)
    http.queue_request(Request("POST", "/", [("Host", "a"), ("Content-Length", "5")]), Body(Framing.LENGTH, 5))
    http.queue_body(b"hel")
    await http.drain()
    await http.read_response()
    assert http.body_complete
    assert not http.request_sent
    assert not http.reusable


async def test_a_connection_is_reusable_only_when_the_write_of_its_request_has_returned() -> None:
    near, far = open_virtual_connection_pair(buffer_index=0)
    http = HTTP1Client(far)
    http.queue_request(Request("POST", "/", [("Host", "a"), ("Content-Length", "500")]), Body(Framing.LENGTH, 500))
    http.queue_body(bytes(500))
    http.queue_end()
    async with trio.open_nursery() as nursery:
        nursery.start_soon(http.drain)
        await trio.testing.wait_all_tasks_blocked()  # in the middle of the body
        await near.send_all(b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n")
        await http.read_response()
        assert http.body_complete
        assert http.request_sent
        assert not http.reusable
        while near.statistics().receiving.unread:
            await near.receive_some()
            await trio.testing.wait_all_tasks_blocked()
    assert http.reusable


async def test_a_connection_whose_request_was_cut_in_the_middle_of_a_write_is_never_reusable() -> None:
    near, far = open_virtual_connection_pair(buffer_index=0)
    http = HTTP1Client(far)
    http.queue_request(Request("POST", "/", [("Host", "a"), ("Content-Length", "500")]), Body(Framing.LENGTH, 500))
    http.queue_body(bytes(500))
    http.queue_end()
    async with trio.open_nursery() as nursery:
        nursery.start_soon(http.drain)
        await trio.testing.wait_all_tasks_blocked()
        nursery.cancel_scope.cancel()
    await near.send_all(b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n")
    await http.read_response()
    assert http.body_complete
    assert http.request_sent
    assert not http.reusable


@pytest.mark.parametrize(
    "data",
    [
        b"HTTP/1.1 200 OK\n\n",
        b"HTTP/1.1 20 OK\r\n\r\n",
        b"ICY 200 OK\r\n\r\n",
        b"HTTP/1.1 101 Switching\r\nConnection: upgrade\r\nUpgrade: x\r\n\r\n",
    ],
)
async def test_a_response_that_is_not_acceptable_is_the_origins_fault(data: bytes) -> None:
    http, _ = await client_given(data)
    with pytest.raises(BadResponse) as caught:
        await http.read_response()
    assert caught.value.status == 502


# --------------------------------------------------------------------------------------------------------------------------- writing


async def test_a_head_and_the_body_at_hand_go_out_in_one_write_and_nothing_goes_out_before() -> None:
    http, near = await server_given(GET)
    await http.read_request()
    http.queue_response(Response(200, [("Content-Length", "5")]), Body(Framing.LENGTH, 5))
    http.queue_body(b"hel")
    http.queue_body(b"")
    http.queue_body(b"lo")
    http.queue_end()
    assert near.statistics().receiving.total == 0
    assert http.queued == len(b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nhello")
    await http.drain()
    assert await near.receive_some() == b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nhello"
    assert http.queued == 0


async def test_drain_lets_the_peer_see_it_whatever_its_water_mark() -> None:
    near, far = open_virtual_connection_pair(buffer_water_mark=10_000)
    http = HTTP1Server(far)
    await near.send_all(GET)
    await http.read_request()
    http.queue_response(Response(100), NO_BODY)
    await http.drain()
    with trio.fail_after(5):
        assert await near.receive_some() == b"HTTP/1.1 100 Continue\r\n\r\n"


async def test_draining_nothing_is_no_checkpoint() -> None:
    http, _ = await server_given(GET)
    with trio.testing.assert_no_checkpoints():
        await http.drain()


@pytest.mark.parametrize("trailers", [None, Headers([("X-Sum", "1")])])
async def test_what_is_written_is_what_h11_reads(trailers: Headers | None) -> None:
    http, near = await server_given(GET)
    await http.read_request()
    http.queue_response(Response(200, [("X-Raw-Name", "a"), ("Transfer-Encoding", "chunked")]), CHUNKED_BODY)
    http.queue_body(b"hello")
    http.queue_end(trailers)
    await http.drain()
    reader = h11.Connection(h11.CLIENT)
    reader.send(h11.Request(method="GET", target="/", headers=[("Host", "a")]))
    reader.send(h11.EndOfMessage())
    reader.receive_data(await near.receive_some())
    head, data, end = reader.next_event(), reader.next_event(), reader.next_event()
    assert isinstance(head, h11.Response)
    assert head.headers.raw_items()[0] == (b"X-Raw-Name", b"a")
    assert isinstance(data, h11.Data)
    assert data.data == b"hello"
    assert isinstance(end, h11.EndOfMessage)
    assert list(end.headers) == ([(b"x-sum", b"1")] if trailers else [])


async def test_trailers_have_no_place_after_a_body_of_known_length() -> None:
    http, near = await server_given(GET)
    await http.read_request()
    http.queue_response(Response(200, [("Content-Length", "2")]), Body(Framing.LENGTH, 2))
    http.queue_body(b"hi")
    http.queue_end(Headers([("X-Sum", "1")]))
    await http.drain()
    assert (await near.receive_some()).endswith(b"\r\n\r\nhi")


async def test_to_an_http_1_0_client_a_body_may_end_by_closing() -> None:
    http, near = await server_given(GET.replace(b"1.1", b"1.0"))
    await http.read_request()
    http.queue_response(Response(200, [("Connection", "close")]), CLOSE_BODY)
    http.queue_body(b"hello")
    http.queue_end()
    await http.drain()
    assert await near.receive_some() == b"HTTP/1.1 200 OK\r\nConnection: close\r\n\r\nhello"


async def test_what_follows_an_upgrade_can_be_taken_out_and_what_others_read_put_in() -> None:
    http, _ = await server_given(GET + b"\x81\x00")
    await http.read_request()
    assert http.buffered == 2
    assert http.take_buffer() == b"\x81\x00"
    assert http.buffered == 0
    http.feed(GET)
    assert http.skip_empty_lines()
    http.feed(b"")
    assert http.input_ended
    assert not await http.fill()
