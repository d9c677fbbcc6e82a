"""Exchanges as gRPC has them: messages both ways at once, a status in the trailers, and an end that either side may choose.

https://github.com/grpc/grpc/blob/master/doc/PROTOCOL-HTTP2.md is what the client speaks. The origin says the same in HTTP/1.1: chunks, and the
trailers after them.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from typing import Any

import attrs
import pytest
import trio
from trio.testing import MockClock, wait_all_tasks_blocked

from trio_tsconnect import HttpConfig, MemoryLog, ProxyConfig, RemapRule, open_proxy, open_virtual_connection_pair
from trio_tsconnect.http2 import Http2Limits, serve_http2

from ._raw import (
    CANCEL,
    DATA,
    END_STREAM,
    HEADERS,
    INTERNAL_ERROR,
    NO_ERROR,
    RST_STREAM,
    WINDOW_UPDATE,
    Answer,
    Fields,
    Origin,
    RawClient,
    frame,
    number,
    read_head,
)

CALL: Fields = (
    (":method", "POST"),
    (":scheme", "http"),
    (":path", "/pkg.Service/Method"),
    (":authority", "site.example"),
    ("te", "trailers"),
    ("content-type", "application/grpc"),
    ("grpc-timeout", "5S"),
    ("x-meta-bin", "AAEC/w"),
)
FINE = {"grpc-status": "0"}


def prefixed(message: bytes) -> bytes:
    """A message, not compressed, and its length."""
    return b"\0" + len(message).to_bytes(4, "big") + message


def first_message(data: bytes) -> tuple[bytes, int] | None:
    """The message that data begins with, and where it ends; None when it is not whole."""
    end = 5 + int.from_bytes(data[1:5], "big")
    if len(data) < 5 or len(data) < end:
        return None
    return data[5:end], end


class Served:
    """A call as its origin has it."""

    def __init__(self, stream: trio.abc.HalfCloseableStream, head: bytes, rest: bytes) -> None:
        line, *fields = head.decode("ascii").split("\r\n")
        self.line = line
        self.fields = {name.lower(): value for name, _, value in (field.partition(": ") for field in fields)}
        self._stream = stream
        self._chunks = rest
        self._content = b""
        self._ended = False

    async def receive(self) -> bytes | None:
        """The next message; None when the client has said its last."""
        while (found := first_message(self._content)) is None:
            if self._ended:
                assert not self._content
                return None
            await self._read()
        self._content = self._content[found[1] :]
        return found[0]

    async def _read(self) -> None:
        size, _, rest = self._chunks.partition(b"\r\n")
        if b"\r\n" in self._chunks and len(rest) >= int(size, 16) + 2:
            length = int(size, 16)
            self._content += rest[:length]
            self._chunks = rest[length + 2 :]
            self._ended = not length
        else:
            data = await self._stream.receive_some()
            assert data, "the client is gone"
            self._chunks += bytes(data)

    async def begin(self) -> None:
        await self._stream.send_all(b"HTTP/1.1 200 OK\r\nContent-Type: application/grpc\r\nTransfer-Encoding: chunked\r\n\r\n")

    async def send(self, message: bytes) -> None:
        data = prefixed(message)
        await self._stream.send_all(b"%x\r\n%b\r\n" % (len(data), data))

    async def finish(self, status: int = 0, *others: str) -> None:
        lines = [f"grpc-status: {status}", *others, "", ""]
        await self._stream.send_all(b"0\r\n" + "\r\n".join(lines).encode("ascii"))

    async def refuse(self, status: int) -> None:
        """Trailers-Only: nothing but a head."""
        head = f"HTTP/1.1 200 OK\r\nContent-Type: application/grpc\r\nContent-Length: 0\r\ngrpc-status: {status}\r\n\r\n"
        await self._stream.send_all(head.encode())

    async def wait_for_end(self) -> None:
        """Until the connection ends; a plugin that plays the origin is cancelled instead."""
        try:
            while await self._stream.receive_some():
                pass
        except trio.BrokenResourceError:
            pass


class Call:
    """A call as its client has it."""

    def __init__(self, client: RawClient, stream: int) -> None:
        self.client = client
        self.stream = stream
        self._position = 0

    async def begin(self) -> None:
        await self.client.send(self.client.head(self.stream, CALL, end=False))

    async def send(self, *messages: bytes) -> None:
        """Messages, all of them in as few frames as they fit in."""
        data = b"".join(prefixed(message) for message in messages)
        await self.client.send(*(self.client.data(self.stream, data[start : start + 16384]) for start in range(0, len(data), 16384)))

    async def half_close(self) -> None:
        await self.client.send(self.client.data(self.stream, b"", end=True))

    async def receive(self) -> bytes:
        while (found := first_message(self.answer.body[self._position :])) is None:
            assert not self.answer.ended
            assert self.answer.reset is None
            assert await self.client.next_frame() is not None
        self._position += found[1]
        return found[0]

    async def end(self) -> Answer:
        return await self.client.answer(self.stream)

    @property
    def answer(self) -> Answer:
        return self.client.answers.setdefault(self.stream, Answer())


Serve = Callable[[Served], Awaitable[object]]


@attrs.frozen
class Room:
    client: RawClient
    log: MemoryLog
    calls: list[Served]
    """Those that the origin has."""
    over: trio.Event
    """The origin has come to the end of a call, in whatever way."""

    async def call(self, stream: int = 1) -> Call:
        """One that has begun."""
        call = Call(self.client, stream)
        await call.begin()
        return call


@asynccontextmanager
async def open_room(serve: Serve, where: str = "plugin", **http: Any) -> AsyncIterator[Room]:
    """A proxy, a client, and an origin that is a plugin, or at a port."""
    calls: list[Served] = []
    over, log = trio.Event(), MemoryLog()

    async def serve_stream(stream: trio.abc.HalfCloseableStream) -> None:
        try:
            async with stream:
                call = Served(stream, *await read_head(stream))
                calls.append(call)
                await serve(call)
        finally:
            over.set()

    async with trio.open_nursery() as nursery:
        config = ProxyConfig(http=HttpConfig(**http))
        if where == "tcp":
            (listener,) = await trio.open_tcp_listeners(0, host="127.0.0.1")
            nursery.start_soon(trio.serve_listeners, serve_stream, [listener])
            config = attrs.evolve(config, remap=(RemapRule(from_="/", to=f"http://127.0.0.1:{listener.socket.getsockname()[1]}/"),))
        plugins = [] if where == "tcp" else [Origin(serve_stream)]
        async with open_proxy(config, plugins=plugins, log=log) as proxy:
            ours, theirs = open_virtual_connection_pair(buffer_index=12)
            limits = Http2Limits(buffer_index=12)
            nursery.start_soon(lambda: serve_http2(proxy, theirs, limits=limits))
            client = RawClient(ours)
            await client.greet(frame(WINDOW_UPDATE, 0, 0, number(1 << 30)), initial_window_size=1 << 30)
            await client.ping()
            with trio.fail_after(30):
                yield Room(client, log, calls, over)
            await ours.aclose()
        nursery.cancel_scope.cancel()


at_both = pytest.mark.parametrize("where", ["plugin", "tcp"])


async def echo(call: Served) -> None:
    """Each message as it comes, and the status once the client has said its last."""
    await call.begin()
    while (message := await call.receive()) is not None:
        await call.send(message)
    await call.finish()


@at_both
async def test_each_message_of_a_conversation_waits_for_the_answer_to_the_one_before(where: str) -> None:
    """Nothing is held back in either direction: with one message kept anywhere, the next would never be said."""

    async def serve(call: Served) -> None:
        await call.begin()
        while (message := await call.receive()) is not None:
            await call.send(message.upper())
        await call.finish(0, "grpc-message: fine")

    async with open_room(serve, where) as room:
        call = await room.call()
        for turn in range(50):
            # (an empty one, small ones, and ones that are larger than any buffer on the way)
            message = b"m" * (turn if turn < 45 else 60_000)
            await call.send(message)
            assert await call.receive() == message.upper()
        await call.half_close()
        answer = await call.end()
        assert (answer.status, answer.fields["content-type"]) == ("200", "application/grpc")
        assert answer.trailers == {"grpc-status": "0", "grpc-message": "fine"}
        assert answer.reset is None


@at_both
async def test_conversations_on_one_connection_do_not_wait_for_each_other(where: str) -> None:
    async with open_room(echo, where) as room:
        calls = [await room.call(stream) for stream in range(1, 41, 2)]
        for turn in range(5):
            for call in calls[turn:] + calls[:turn]:
                await call.send(b"%d %d" % (call.stream, turn))
                assert await call.receive() == b"%d %d" % (call.stream, turn)
        for call in reversed(calls):
            await call.half_close()
            assert (await call.end()).trailers == FINE
        assert len(room.calls) == len(calls)


@at_both
async def test_origin_speaks_first(where: str) -> None:
    """The head of the response, and messages, before the client has said anything but its own head."""

    async def serve(call: Served) -> None:
        await call.begin()
        await call.send(b"welcome")
        assert await call.receive() == b"thanks"
        assert await call.receive() is None
        await call.finish()

    async with open_room(serve, where) as room:
        call = await room.call()
        assert await call.receive() == b"welcome"
        await call.send(b"thanks")
        await call.half_close()
        assert (await call.end()).trailers == FINE


@at_both
async def test_origin_streams_each_message_as_it_has_it(where: str) -> None:
    """Server streaming: the client has ended its side long since."""
    seen = trio.Event()

    async def serve(call: Served) -> None:
        nonlocal seen
        assert await call.receive() == b"list"
        assert await call.receive() is None
        await call.begin()
        for turn in range(10):
            await call.send(b"%d" % turn)
            await seen.wait()
            seen = trio.Event()
        await call.finish()

    async with open_room(serve, where) as room:
        call = await room.call()
        await call.send(b"list")
        await call.half_close()
        for turn in range(10):
            assert await call.receive() == b"%d" % turn
            seen.set()
        assert (await call.end()).trailers == FINE


@at_both
async def test_client_streams_each_message_as_it_has_it(where: str) -> None:
    """Client streaming: no byte of an answer before the end."""
    got = trio.Event()
    messages: list[bytes] = []

    async def serve(call: Served) -> None:
        while (message := await call.receive()) is not None:
            messages.append(message)
            got.set()
        await call.begin()
        await call.send(b"%d" % len(messages))
        await call.finish()

    async with open_room(serve, where) as room:
        call = await room.call()
        for turn in range(10):
            await call.send(b"%d" % turn)
            await got.wait()
            got = trio.Event()
            assert messages[-1] == b"%d" % turn
        assert not call.answer.fields
        await call.half_close()
        assert await call.receive() == b"10"
        assert (await call.end()).trailers == FINE


@at_both
async def test_messages_need_not_keep_to_frames(where: str) -> None:
    """Several in one, and one in several: what they are is a matter of the ends."""
    async with open_room(echo, where) as room:
        call = await room.call()
        await call.send(b"one", b"", b"three")
        assert [await call.receive() for _ in range(3)] == [b"one", b"", b"three"]
        for byte in prefixed(b"split"):
            await room.client.send(room.client.data(1, bytes((byte,))))
        assert await call.receive() == b"split"
        await call.half_close()
        assert (await call.end()).trailers == FINE


@at_both
async def test_metadata_reaches_the_origin(where: str) -> None:
    async def serve(call: Served) -> None:
        await call.refuse(12)

    async with open_room(serve, where) as room:
        call = await room.call()
        await call.half_close()
        await call.end()
        (served,) = room.calls
        assert served.line.startswith("POST ")
        assert served.line.endswith("/pkg.Service/Method HTTP/1.1")
        said = {name: served.fields.get(name) for name in ("te", "content-type", "grpc-timeout", "x-meta-bin", "transfer-encoding")}
        assert said == {
            "te": "trailers",
            "content-type": "application/grpc",
            "grpc-timeout": "5S",
            "x-meta-bin": "AAEC/w",
            "transfer-encoding": "chunked",
        }


@at_both
@pytest.mark.parametrize("half_closed", [True, False], ids=["half-closed", "still sending"])
async def test_status_without_a_message_is_one_head_that_ends_the_stream(where: str, half_closed: bool) -> None:
    """Trailers-Only. A client that is still sending is told to stop, and that it is no error (RFC 9113 §8.1)."""

    async def serve(call: Served) -> None:
        await call.refuse(12)
        await call.wait_for_end()

    async with open_room(serve, where, linger_timeout=0) as room:
        call = await room.call()
        if half_closed:
            await call.half_close()
        else:
            await call.send(b"one of many")
        answer = await call.end()
        assert (answer.status, answer.fields["grpc-status"], answer.trailers) == ("200", "12", None)
        on_stream = [(got.kind, got.flags & END_STREAM) for got in room.client.frames if got.stream == 1 and got.kind in (HEADERS, DATA)]
        assert on_stream == [(HEADERS, END_STREAM)]
        if not half_closed:
            assert (await room.client.until(RST_STREAM, 1)).number == NO_ERROR


@at_both
async def test_status_after_no_message_at_all_is_two_heads(where: str) -> None:
    async def serve(call: Served) -> None:
        await call.begin()
        await call.finish(5, "grpc-message: not%20found", "grpc-status-details-bin: CAUSBG5vbmU")

    async with open_room(serve, where) as room:
        call = await room.call()
        await call.half_close()
        answer = await call.end()
        assert answer.trailers == {"grpc-status": "5", "grpc-message": "not%20found", "grpc-status-details-bin": "CAUSBG5vbmU"}
        assert not any(got.kind == DATA for got in room.client.frames)


@at_both
async def test_status_before_the_client_has_ended_is_whole(where: str) -> None:
    """The origin has heard enough in the middle of the client's messages: what it says arrives, with its status."""

    async def serve(call: Served) -> None:
        await call.begin()
        await call.send(await call.receive() or b"")
        await call.finish(11)
        await call.wait_for_end()

    async with open_room(serve, where, linger_timeout=0) as room:
        call = await room.call()
        await call.send(b"first", b"second")
        assert await call.receive() == b"first"
        answer = await call.end()
        assert (answer.trailers, answer.ended, answer.reset) == ({"grpc-status": "11"}, True, None)
        assert (await room.client.until(RST_STREAM, 1)).number == NO_ERROR


@at_both
async def test_origin_learns_that_the_client_has_cancelled(where: str) -> None:
    async def serve(call: Served) -> None:
        await call.begin()
        await call.send(b"first")
        await call.wait_for_end()

    async with open_room(serve, where) as room:
        call = await room.call()
        assert await call.receive() == b"first"
        assert not room.over.is_set()
        await room.client.send(frame(RST_STREAM, 0, 1, number(CANCEL)))
        await room.over.wait()
        await wait_all_tasks_blocked()
        (record,) = room.log.records
        assert (record.ended.by, record.ended.why) == ("client", "client_gone")
        assert record.response_bytes == len(prefixed(b"first"))
        # its neighbours are not concerned
        after = await room.call(3)
        assert await after.receive() == b"first"


@at_both
async def test_call_that_breaks_off_does_not_look_complete(where: str) -> None:
    """An end without a status would be taken for one: there is none, and the stream is reset."""

    async def serve(call: Served) -> None:
        await call.begin()
        await call.send(b"first")

    async with open_room(serve, where) as room:
        call = await room.call()
        assert await call.receive() == b"first"
        answer = await call.end()
        assert (answer.ended, answer.reset, answer.trailers) == (False, INTERNAL_ERROR, None)


@pytest.mark.parametrize("begun", [False, True])
async def test_deadline_of_the_proxy_ends_both_sides(autojump_clock: MockClock, begun: bool) -> None:
    """A call that takes longer than a transaction may: 504 if nothing was said, and else a reset, in time; and the origin is let go."""

    async def serve(call: Served) -> None:
        if begun:
            await call.begin()
            await call.send(b"first")
        await call.wait_for_end()

    async with open_room(serve, transaction_timeout=7) as room:
        call = await room.call()
        await call.send(b"a question")
        await call.half_close()
        answer = await call.end()
        assert trio.current_time() == pytest.approx(7)
        if begun:
            assert (answer.status, answer.body, answer.ended, answer.reset) == ("200", prefixed(b"first"), False, INTERNAL_ERROR)
        else:
            assert (answer.status, answer.ended) == ("504", True)
        await room.over.wait()
        assert trio.current_time() == pytest.approx(7)
        await wait_all_tasks_blocked()
        (record,) = room.log.records
        assert record.ended.by == "proxy"
