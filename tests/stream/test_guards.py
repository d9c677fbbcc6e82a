"""Lines that guard something, each of which was once left out without a test noticing."""

from __future__ import annotations

import ssl
from collections.abc import AsyncIterator, Callable
from typing import Any

import attrs
import pytest
import trio
import trio.testing
import trustme
from trio.testing import assert_checkpoints, assert_no_checkpoints, wait_all_tasks_blocked

from trio_tsconnect import ClientInfo, FetchError, Request, Response, VirtualConnection, open_virtual_connection_pair
from trio_tsconnect.message import CHUNKED_BODY, NO_BODY, BadRequest, BadResponse, Body, Framing, Headers
from trio_tsconnect.stream import (
    HeadLimits,
    HTTP1Client,
    HTTP1Server,
    Identity,
    ProbedTransport,
    close_gently,
    close_now,
    describe_client,
    fetch,
    has_hung_up,
    has_input,
    make_pair,
    own_authority,
    reset,
    unsent,
)
from trio_tsconnect.stream._chunked import ChunkedReader
from trio_tsconnect.stream._heads import check_head_bytes, check_head_size, head_end, too_large
from trio_tsconnect.stream._machine import HeadParser, load_parser

Clock = trio.testing.MockClock


class Recording(trio.abc.Stream):
    """A stream that notes what is written, and on which nothing comes."""

    def __init__(self) -> None:
        self.writes: list[bytes] = []

    async def send_all(self, data: Any) -> None:
        await trio.lowlevel.checkpoint()
        self.writes.append(bytes(data))

    async def receive_some(self, max_bytes: int | None = None) -> bytes:
        await trio.sleep_forever()

    async def wait_send_all_might_not_block(self) -> None:
        await trio.lowlevel.checkpoint()

    async def aclose(self) -> None:
        await trio.lowlevel.checkpoint()


class OneEnd(trio.abc.Stream):
    """A stream that cannot end its output alone."""

    def __init__(self, stream: trio.abc.Stream) -> None:
        self.stream = stream

    async def send_all(self, data: Any) -> None:
        await self.stream.send_all(data)

    async def wait_send_all_might_not_block(self) -> None:
        await self.stream.wait_send_all_might_not_block()

    async def receive_some(self, max_bytes: int | None = None) -> bytes | bytearray:
        return await self.stream.receive_some(max_bytes)

    async def aclose(self) -> None:
        await self.stream.aclose()


# ------------------------------------------------------------------------------------------------------------- heads, just within limits


def head_of(fields: int) -> bytes:
    return b"GET / HTTP/1.1\r\n" + b"A: b\r\n" * fields + b"\r\n"


@pytest.mark.parametrize("start_line", [True, False])
def test_head_may_have_as_many_fields_as_the_limit_says(start_line: bool) -> None:
    for fields in (5, 6):
        section = head_of(fields) if start_line else head_of(fields).partition(b"\r\n")[2]
        if fields == 5:
            check_head_bytes(section, HeadLimits(fields=5), BadRequest, start_line=start_line)
        else:
            with pytest.raises(BadRequest, match="more than 5 field lines"):
                check_head_bytes(section, HeadLimits(fields=5), BadRequest, start_line=start_line)


@pytest.mark.parametrize("complete", [True, False])
def test_head_may_be_as_large_as_the_limits_say(complete: bool) -> None:
    buffer = bytearray(head_of(5))
    size, line = len(buffer), buffer.index(b"\n")

    def check(*, request: bool, **limits: int) -> None:
        check_head_size(buffer, size if complete else -1, HeadLimits(**limits), BadRequest, request=request)

    check(request=True, head=size, request_line=line)
    with pytest.raises(BadRequest, match="request line is longer"):
        check(request=True, request_line=line - 1)
    with pytest.raises(BadRequest, match="head is longer"):
        check(request=True, head=size - 1)
    check(request=False, request_line=1)


def test_request_line_is_judged_before_its_end_has_come() -> None:
    limits = HeadLimits(request_line=10)
    check_head_size(bytearray(10), -1, limits, BadRequest, request=True)
    with pytest.raises(BadRequest, match="request line is longer"):
        check_head_size(bytearray(11), -1, limits, BadRequest, request=True)


@pytest.mark.parametrize("white", [b" ", b"\t"])
@pytest.mark.parametrize("start_line", [True, False])
def test_folded_line_is_refused_whatever_it_begins_with(white: bytes, start_line: bool) -> None:
    head = (b"GET / HTTP/1.1\r\n" if start_line else b"") + b"A: b\r\n" + white + b"c\r\n\r\n"
    with pytest.raises(BadRequest, match="folded lines are not allowed"):
        check_head_bytes(head, HeadLimits(), BadRequest, start_line=start_line)


def test_what_is_too_large_has_the_status_of_its_side() -> None:
    assert (too_large(BadRequest), too_large(BadResponse)) == (431, 502)


@pytest.mark.parametrize(
    ("data", "end"),
    [(b"a\r\n\r\nb", 5), (b"a\r\n\r", -1), (b"a\n\nb", 3), (b"a\n\nb\r\n\r\n", 3), (b"a\r\n\r\nb\n\n", 5), (b"\n\n", 2), (b"", -1)],
)
def test_end_of_a_head_is_found_wherever_the_search_stopped_before(data: bytes, end: int) -> None:
    for start in range(max(1, end)):
        assert head_end(bytearray(data), start) == end


# ------------------------------------------------------------------------------------------------------------------------------ chunks


def read_chunks(data: bytes, **limits: int) -> bytes:
    reader, buffer, content = ChunkedReader(HeadLimits(**limits), BadRequest), bytearray(data), b""
    while piece := reader.next_piece(buffer):
        content += piece
    assert piece == b"", "it is not over"
    return content


def test_chunk_extensions_may_be_as_long_as_the_limit_says() -> None:
    lines = [b"1;" + b"x" * 1000 + b"\r\na\r\n"] * 16
    rest = 16384 - 16 * 1001
    assert read_chunks(b"".join(lines) + b"1;" + b"x" * (rest - 1) + b"\r\nb\r\n0\r\n\r\n") == b"a" * 16 + b"b"
    with pytest.raises(BadRequest, match="bytes of chunk extensions"):
        read_chunks(b"".join(lines) + b"1;" + b"x" * rest + b"\r\nb\r\n0\r\n\r\n")


def test_chunk_size_line_may_have_as_many_bytes_as_the_limit_says() -> None:
    line = b"1;" + b"x" * 1020
    assert read_chunks(line + b"\r\na\r\n0\r\n\r\n") == b"a"
    with pytest.raises(BadRequest, match="size line is longer"):
        read_chunks(line + b"x\r\na\r\n0\r\n\r\n")
    with pytest.raises(BadRequest, match="size line is longer"):  # before its end has come
        read_chunks(b"1;" + b"x" * 1022)
    reader = ChunkedReader(HeadLimits(), BadRequest)
    assert reader.next_piece(bytearray(b"1;" + b"x" * 1021)) is None


def test_trailer_section_may_be_as_large_as_the_limit_says() -> None:
    section = b"A: b\r\n\r\n"
    assert read_chunks(b"0\r\n" + section, head=len(section)) == b""
    with pytest.raises(BadRequest, match="trailer section is longer"):
        read_chunks(b"0\r\n" + section, head=len(section) - 1)


def test_chunk_size_is_a_number_of_63_bits() -> None:
    reader = ChunkedReader(HeadLimits(), BadRequest)
    assert reader.next_piece(bytearray(b"7fffffffffffffff\r\nx")) == b"x"
    with pytest.raises(BadRequest, match="64-bit"):
        read_chunks(b"8000000000000000\r\nx")


@pytest.mark.parametrize("data", [b"3\r\nabcX", b"3\r\nabc\n", b"3\r\nabc\rX", b"\nabc"])
def test_chunk_that_goes_on_is_refused_at_its_first_byte_too_many(data: bytes) -> None:
    with pytest.raises(BadRequest):
        read_chunks(data)


def test_bare_line_feed_after_the_last_chunk_ends_the_section_at_once() -> None:
    """It is judged as the whole section, and refused: nobody waits for another end of it."""
    reader = ChunkedReader(HeadLimits(), BadRequest)
    assert reader.next_piece(bytearray(b"0\r\n\nGET")) == b""
    assert reader.trailer_section == b"\n"


# ------------------------------------------------------------------------------------------------------------------------------ writes


@pytest.mark.parametrize(("extra", "writes"), [(0, 1), (1, 2)])
async def test_head_goes_out_with_what_is_there_unless_that_is_much(extra: int, writes: int) -> None:
    stream = Recording()
    http = HTTP1Server(stream)
    response = Response(200, [("Content-Length", "100000")])
    http.queue_response(response, Body(Framing.LENGTH, 100_000))
    assert not http.head_sent
    http.queue_body(bytes(32768 - http.queued + extra))
    await http.drain()
    assert http.head_sent
    assert len(stream.writes) == writes


async def test_head_alone_is_one_write_and_nothing_is_none() -> None:
    stream = Recording()
    http = HTTP1Server(stream)
    http.queue_response(Response(103), NO_BODY)
    await http.drain()
    assert (len(stream.writes), http.head_sent) == (1, False)  # an interim response is no answer yet
    http.queue_response(Response(204), NO_BODY)
    await http.drain()
    assert (len(stream.writes), http.head_sent) == (2, True)
    with assert_no_checkpoints():
        await http.drain()
    assert len(stream.writes) == 2


@pytest.mark.parametrize(("status", "final"), [(101, True), (103, False), (200, True)])
async def test_final_head_can_be_taken_back_until_it_is_written(status: int, final: bool) -> None:
    stream = Recording()
    http = HTTP1Server(stream)
    http.queue_response(Response(status), NO_BODY)
    assert http.take_back() is final
    assert (http.queued == 0) is final
    http.queue_response(Response(status), NO_BODY)
    await http.drain()
    assert not http.take_back()


async def test_virtual_connection_is_read_and_written_without_a_checkpoint() -> None:
    near, far = open_virtual_connection_pair(buffer_index=0)
    http = HTTP1Server(far)
    with assert_no_checkpoints():
        assert not http.fill_now()
        near.send_nowait(b"GET")
        assert http.fill_now()
        assert http.buffered == 3
        http.queue_response(Response(204), NO_BODY)
        assert http.drain_now()
        assert (http.queued, http.head_sent) == (0, True)
        assert near.receive_nowait().startswith(b"HTTP/1.1 204 ")
        http.queue_response(Response(200, [("X", "x" * 200)]), NO_BODY)
        assert not http.drain_now()  # there is no room for it
        assert not http.head_sent
    await near.aclose()
    assert not http.fill_now()
    assert http.input_ended
    assert not http.fill_now()


async def test_other_streams_are_not_written_now() -> None:
    stream = Recording()
    http = HTTP1Server(stream)
    assert http.drain_now()  # there is nothing to write
    http.queue_response(Response(204), NO_BODY)
    assert not http.drain_now()
    assert not http.fill_now()
    assert stream.writes == []


@pytest.mark.parametrize(
    ("body", "pieces", "error"),
    [
        (Body(Framing.LENGTH, 5), [b"hel", b"lo"], None),
        (Body(Framing.LENGTH, 5), [b"hel", b"lo!"], "longer"),
        (Body(Framing.LENGTH, 5), [b"hell", b""], "shorter"),
        (Body(Framing.CLOSE, 0), [b"hello", b"world"], None),
        (CHUNKED_BODY, [b"hello", b""], None),
    ],
)
def test_body_is_as_long_as_its_head_says(body: Body, pieces: list[bytes], error: str | None) -> None:
    http = HTTP1Server(Recording())
    http.queue_response(Response(200), body)

    def write() -> None:
        for piece in pieces:
            http.queue_body(piece)
        http.queue_end()

    if error is None:
        before = http.queued
        write()
        framing = len(b"5\r\n\r\n0\r\n\r\n") if body is CHUNKED_BODY else 0
        assert http.queued - before == sum(map(len, pieces)) + framing
    else:
        with pytest.raises(ValueError, match=f"{error} than the Content-Length"):
            write()


# ------------------------------------------------------------------------------------------------------------------------------- reads


async def given(data: bytes, **options: Any) -> HTTP1Server:
    near, far = open_virtual_connection_pair()
    await near.send_all(data)
    await near.send_eof()
    return HTTP1Server(far, **options)


@pytest.mark.parametrize("first", [0x20, 0x7F, 0x16, 0x80, 0x00])
async def test_what_begins_no_method_is_refused_at_its_first_byte(first: int) -> None:
    http = await given(bytes([first]))
    with pytest.raises(BadRequest, match="does not begin with a method"):
        await http.read_request()


@pytest.mark.parametrize(("lines", "waits"), [(8, False), (9, True)])
async def test_so_many_empty_lines_are_skipped_and_no_more(lines: int, waits: bool) -> None:
    http = await given(b"\r\n" * lines)
    await http.fill()
    assert http.skip_empty_lines() is waits
    assert http.buffered == (2 if waits else 0)


@pytest.mark.parametrize(("data", "more"), [(b"\r", False), (b"\r\n\r", False), (b"\rX", True), (b"G", True), (b"\r\nG", True)])
async def test_lone_carriage_return_is_no_request_yet(data: bytes, more: bool) -> None:
    http = await given(data)
    await http.fill()
    assert http.skip_empty_lines() is more


@pytest.mark.parametrize("fields", [b"Host: a b\r\n", b"Host: a\r\nHost: b\r\n", b"X: y\r\n"])
async def test_host_is_not_made_good_by_one_of_our_own(fields: bytes) -> None:
    """A request without one is read, so that hooks see it; one with a bad one is not."""
    http = await given(b"GET / HTTP/1.1\r\n" + fields + b"\r\n")
    if b"Host" in fields:
        with pytest.raises(BadRequest):
            await http.read_request()
    else:
        assert (await http.read_request()).headers.items() == [("X", "y")]


@pytest.mark.parametrize("offered", [True, False])
async def test_response_of_a_switch_is_checked_against_the_offer(offered: bool) -> None:
    near, far = open_virtual_connection_pair()
    http = HTTP1Client(far)
    fields = [("Connection", "Upgrade"), ("Upgrade", "x")] if offered else []
    http.queue_request(Request("GET", "/", [("Host", "a"), *fields]), NO_BODY)
    await near.send_all(b"HTTP/1.1 101 Switching\r\nConnection: Upgrade\r\nUpgrade: x\r\n\r\n")
    if offered:
        assert (await http.read_response()).status == 101
    else:
        with pytest.raises(BadResponse):
            await http.read_response()


def test_parser_is_the_one_that_was_asked_for(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[str] = []
    monkeypatch.setattr(HeadParser, "__init__", lambda _self, module: asked.append(module))
    load_parser.cache_clear()
    try:
        load_parser("h11")
        load_parser("fast")
    finally:
        load_parser.cache_clear()
    assert asked == ["h11", "h11_mypyc"]


@pytest.mark.parametrize(("status", "lenient", "accepted"), [(599, False, True), (600, False, False), (600, True, True), (999, True, True)])
async def test_status_above_599_is_accepted_where_the_configuration_says_so(status: int, lenient: bool, accepted: bool) -> None:
    near, far = open_virtual_connection_pair()
    http = HTTP1Client(far)
    http.lenient = ("status",) if lenient else ()
    http.queue_request(Request("GET", "/", [("Host", "a")]), NO_BODY)
    await near.send_all(b"HTTP/1.1 %d Odd\r\nContent-Length: 0\r\n\r\n" % status)
    if accepted:
        assert (await http.read_response()).status == status
    else:
        with pytest.raises(BadResponse, match="the status 600"):
            await http.read_response()


# ---------------------------------------------------------------------------------------------------------------- virtual connections


def test_virtual_connection_is_made_in_pairs() -> None:
    with pytest.raises(TypeError, match="cannot be created directly"):
        VirtualConnection()


async def test_other_end_is_told_who_makes_the_response_while_it_is_there() -> None:
    near, far = open_virtual_connection_pair()
    assert near.response_source == ("origin", None)
    far.tell_source("proxy", "why")
    assert near.response_source == ("proxy", "why")
    near.close()
    far.tell_source("plugin")
    far.close()
    far.tell_source("plugin")


async def test_ending_is_a_checkpoint_whether_it_succeeds_or_not() -> None:
    near, _ = open_virtual_connection_pair()
    for _ in range(2):
        with assert_checkpoints():
            await near.send_eof()
    with assert_checkpoints():
        await near.aclose()
    with assert_checkpoints(), pytest.raises(trio.ClosedResourceError):
        await near.send_eof()


async def test_nothing_written_at_once_is_no_end_of_input() -> None:
    near, far = open_virtual_connection_pair()
    near.send_nowait(b"")
    with pytest.raises(trio.WouldBlock):
        far.receive_nowait()
    near.send_nowait(b"x")
    assert await far.receive_some() == b"x"


@pytest.mark.parametrize("mark", [0, 128])
@pytest.mark.parametrize("now", [False, True])
@pytest.mark.parametrize("size", [3, 6000])
async def test_buffer_that_was_written_may_be_used_again(mark: int, now: bool, size: int) -> None:
    """Whether it waits alone, behind others, or below the water mark, and whether it is small enough to be put together with others."""
    opener, other = open_virtual_connection_pair(buffer_water_mark=mark)
    sent, buffer = b"", bytearray(size)
    for number in range(3):
        buffer[:] = bytes([number]) * size
        sent += bytes(buffer)
        if now:
            other.send_nowait(buffer)
        else:
            await other.send_all(buffer)
    buffer[:] = b"x" * size
    other.close()
    got = b""
    while data := await opener.receive_some():
        got += data
    assert got == sent


async def test_probed_transport_passes_on_what_it_is_asked() -> None:
    near, far = open_virtual_connection_pair(buffer_index=0)
    probed = ProbedTransport(near)
    await probed.send_all(bytes(128))
    waited: list[bool] = []

    async def wait() -> None:
        await probed.wait_send_all_might_not_block()
        waited.append(True)

    async with trio.open_nursery() as nursery:
        nursery.start_soon(wait)
        await wait_all_tasks_blocked()
        assert not waited
        assert len(await far.receive_some()) == 128
    assert waited
    await far.send_all(b"hello")
    assert await probed.receive_some(2) == b"he"
    await probed.aclose()
    assert await far.receive_some() == b""


async def test_waiting_for_room_is_writing() -> None:
    near, far = open_virtual_connection_pair(buffer_index=0)
    near.send_nowait(bytes(128))
    async with trio.open_nursery() as nursery:
        nursery.start_soon(near.wait_send_all_might_not_block)
        await wait_all_tasks_blocked()
        with pytest.raises(trio.BusyResourceError):
            await near.wait_send_all_might_not_block()
        with pytest.raises(trio.BusyResourceError):
            near.send_nowait(b"")
        with pytest.raises(trio.BusyResourceError):
            await near.send_eof()
        await far.receive_some()
    with assert_checkpoints():
        await near.wait_send_all_might_not_block()
    await near.send_eof()
    with pytest.raises(trio.ClosedResourceError):
        await near.wait_send_all_might_not_block()


@pytest.mark.parametrize("leave", ["close", "abort", "break_off"])
async def test_waiting_for_room_ends_when_there_will_be_none(leave: str) -> None:
    near, far = open_virtual_connection_pair(buffer_index=0)
    near.send_nowait(bytes(128))
    async with trio.open_nursery() as nursery:
        nursery.start_soon(near.wait_send_all_might_not_block)
        await wait_all_tasks_blocked()
        getattr(far, leave)("reason")
    with pytest.raises(trio.BrokenResourceError):
        await near.send_all(b"x")


@pytest.mark.parametrize(
    ("leave", "theirs", "ours"),
    [
        (lambda end: end.close(), "eof", "reader closed"),
        (lambda end: end.abort("why"), "why", "why"),
        (lambda end: end.break_off("why"), "why", "reader closed"),
        (lambda end: None, None, None),
    ],
)
async def test_statistics_tell_how_a_direction_has_ended(
    leave: Callable[[VirtualConnection], None], theirs: str | None, ours: str | None
) -> None:
    """`theirs`: what one reads after the other has left. `ours`: what one writes."""
    near, far = open_virtual_connection_pair()
    leave(near)
    assert (far.statistics().receiving.ended, far.statistics().sending.ended) == (theirs, ours)
    assert has_input(far) is (theirs is not None)


async def test_reader_that_waits_is_told_of_an_abort_and_so_is_a_writer() -> None:
    near, far = open_virtual_connection_pair(buffer_index=0)
    ended: list[str] = []

    async def read() -> None:
        with pytest.raises(trio.BrokenResourceError, match="why"):
            await far.receive_some()
        ended.append("read")

    async def write() -> None:
        with pytest.raises(trio.BrokenResourceError, match="why"):
            await far.send_all(bytes(1000))
        ended.append("write")

    async with trio.open_nursery() as nursery:
        nursery.start_soon(read)
        nursery.start_soon(write)
        await wait_all_tasks_blocked()
        assert far.statistics().sending.writer_blocked
        assert far.statistics().receiving.reader_blocked
        near.abort("why")
    assert sorted(ended) == ["read", "write"]


async def test_bytes_that_were_not_read_are_dropped_by_an_abort() -> None:
    near, far = open_virtual_connection_pair()
    await near.send_all(b"hello")
    near.abort("why")
    assert far.statistics().receiving.unread == 0
    assert unsent(near) == 0
    with pytest.raises(trio.BrokenResourceError):
        await far.receive_some()
    with pytest.raises(trio.BrokenResourceError):
        far.receive_nowait()


@pytest.mark.parametrize("end", ["close", "abort"])
async def test_what_comes_as_its_reader_leaves_is_not_delivered(end: str) -> None:
    """`receive_some` is a checkpoint: what happens during it counts."""
    near, far = open_virtual_connection_pair()
    await near.send_all(b"hello")
    error = trio.ClosedResourceError if end == "close" else trio.BrokenResourceError

    async def read() -> None:
        with pytest.raises(error):
            await far.receive_some()

    async with trio.open_nursery() as nursery:
        nursery.start_soon(read)
        await trio.lowlevel.checkpoint()  # the reader is within its checkpoint now
        (far.close if end == "close" else near.abort)()


async def test_addresses_of_both_ends_are_each_others() -> None:
    identity = Identity(opener_address=("opener", 1), peer_address=("peer", 2))
    opener, other = make_pair(identity, 128, 0)
    assert (opener.local_address, opener.remote_address) == (("opener", 1), ("peer", 2))
    assert (other.local_address, other.remote_address) == (("peer", 2), ("opener", 1))


# ----------------------------------------------------------------------------------------------------------------- streams of all kinds


def test_address_that_is_empty_is_refused_by_name() -> None:
    with pytest.raises(ValueError, match="address must be a host"):
        ClientInfo(address=())  # type: ignore[arg-type]


@pytest.mark.parametrize("value", ["a\rb", "a\nb", "\r", "\n", 5, None])
@pytest.mark.parametrize("name", ["address", "protocol", "scheme"])
def test_facts_about_a_client_have_no_line_breaks(name: str, value: Any) -> None:
    with pytest.raises(ValueError, match=name):
        ClientInfo(**{"address": "192.0.2.1", name: value})
    if name == "address":
        with pytest.raises(ValueError, match="address"):
            ClientInfo(address=(value, 80))


@attrs.define(eq=False)
class Addressed:
    """As much of a stream as says where it is."""

    local_address: Any = None
    socket: Any = None
    client_info: Any = None


class Socket:
    def __init__(self, name: Any, peer: Any = None) -> None:
        self.name, self.peer = name, peer

    def getsockname(self) -> Any:
        if self.name is None:
            raise OSError
        return self.name

    def getpeername(self) -> Any:
        if self.peer is None:
            raise OSError
        return self.peer


@pytest.mark.parametrize(
    ("stream", "authority"),
    [
        (Addressed(("name", 80)), "name:80"),
        (Addressed(("name", 0)), "name"),
        (Addressed(socket=Socket(("192.0.2.1", 81))), "192.0.2.1:81"),
        (Addressed(socket=Socket(("fe80::1%eth0", 81, 0, 2))), "[fe80::1]:81"),
        (Addressed(("name", 80), Socket(("192.0.2.1", 81))), "name:80"),
        (Addressed(socket=Socket("/run/socket")), None),
        (Addressed(socket=Socket(None)), None),
        (Addressed(), None),
    ],
)
def test_own_address_of_a_stream(stream: Any, authority: str | None) -> None:
    assert own_authority(stream) == authority


@pytest.mark.parametrize(
    ("peer", "address"), [(("192.0.2.1", 81), ("192.0.2.1", 81)), (("::1", 81, 0, 0), ("::1", 81)), ("", "unix"), (None, "unknown")]
)
def test_address_of_a_peer(peer: Any, address: Any) -> None:
    stream: Any = Addressed(socket=Socket(None, peer))
    assert describe_client(stream) == ClientInfo(address=address)


async def test_stream_that_says_who_its_client_is_is_believed_if_it_is_one() -> None:
    who = ClientInfo(address="192.0.2.1")
    known, _ = make_pair(Identity(client=who), 128, 0)
    unknown, _ = open_virtual_connection_pair()
    other: Any = Addressed(client_info="somebody")
    assert describe_client(known) is who
    assert describe_client(other) == ClientInfo(address="unknown")
    assert describe_client(unknown) == ClientInfo(address="unknown")


async def test_stream_without_a_socket_can_tell_nothing() -> None:
    near, far = trio.testing.memory_stream_pair()
    await far.send_all(b"x")
    assert (has_input(near), has_hung_up(near), unsent(far)) == (False, False, 0)
    reset(near, "why")
    await close_now(near)
    with pytest.raises(trio.ClosedResourceError):
        await near.receive_some()


@pytest.fixture(scope="module")
def contexts() -> tuple[ssl.SSLContext, ssl.SSLContext]:
    authority = trustme.CA()
    server, client = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER), ssl.create_default_context()
    authority.issue_cert("localhost").configure_cert(server)
    authority.configure_trust(client)
    return server, client


@pytest.mark.parametrize("half_close", [True, False])
async def test_closing_gently_ends_tls_as_tls_wants_it(
    contexts: tuple[ssl.SSLContext, ssl.SSLContext], half_close: bool, autojump_clock: Clock
) -> None:
    """With a close_notify: an end without one might be an attacker's. It is known who the peer was."""
    near, far = trio.testing.memory_stream_pair()
    client = trio.SSLStream(near, contexts[1], server_hostname="localhost")
    transport: trio.abc.Stream = far if half_close else OneEnd(far)
    server = trio.SSLStream(transport, contexts[0], server_side=True)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(client.do_handshake)
        await server.do_handshake()
    who = describe_client(server)
    assert (who.scheme, who.address) == ("https", "unknown")
    assert who.tls is not None
    assert who.tls.version == "TLSv1.3"
    assert who.tls.cipher is not None
    assert who.tls.certificate is None
    async with trio.open_nursery() as nursery:
        nursery.start_soon(close_gently, server, 5)
        assert await client.receive_some() == b""
        await client.aclose()


async def test_closing_gently_reads_what_comes_until_the_peer_closes(autojump_clock: Clock) -> None:
    near, far = trio.testing.memory_stream_pair()
    began = trio.current_time()
    async with trio.open_nursery() as nursery:
        nursery.start_soon(close_gently, OneEnd(far), 10)
        for _ in range(3):
            await near.send_all(bytes(1000))
            await trio.sleep(1)
        assert trio.current_time() == began + 3
        await near.aclose()
    assert trio.current_time() == began + 3


# ------------------------------------------------------------------------------------------------------------------------------- fetch


async def test_fetch_skips_interim_responses_and_closes_in_the_end() -> None:

    near, far = open_virtual_connection_pair()
    left: list[str] = []
    far.watch_peer(left.append)

    async def serve() -> None:
        assert b"\r\n\r\n" in await far.receive_some()
        await far.send_all(b"HTTP/1.1 103 Early\r\n\r\nHTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok")

    async with trio.open_nursery() as nursery:
        nursery.start_soon(serve)
        async with fetch(lambda: near, Request("GET", "/", Headers()), b"") as response:
            assert (response.status, await response.body.read()) == (200, b"ok")
            assert not left
    assert left == ["closed"]


@pytest.mark.parametrize(("limit", "enough"), [(5, True), (4, False), (None, True)])
async def test_fetched_body_may_be_as_large_as_the_limit_says(limit: int | None, enough: bool) -> None:

    near, far = open_virtual_connection_pair()
    far.send_nowait(b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nhello")
    async with fetch(lambda: near, Request("GET", "/", Headers()), b"") as response:
        if enough:
            assert await response.body.read(limit) == b"hello"
        else:
            with pytest.raises(FetchError, match="larger than 4 bytes"):
                await response.body.read(limit)


async def test_fetch_does_not_wait_for_a_body_that_nobody_wants(autojump_clock: Clock) -> None:
    """The response is there, and the block ends: the task that sends the request ends with it."""

    near, far = open_virtual_connection_pair()
    far.send_nowait(b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n")
    closed: list[bool] = []

    async def body() -> AsyncIterator[bytes]:
        try:
            yield b"begun"
            await trio.sleep_forever()
        finally:
            closed.append(True)

    with trio.fail_after(1):
        async with fetch(lambda: near, Request("POST", "/", Headers()), body()) as response:
            assert response.status == 200
            await wait_all_tasks_blocked()
    assert closed == [True]
