"""A client that says frames, and nothing on its own account: what a test does not send is not sent.

`open_world` serves one connection of HTTP/2 in memory. The origin is a plugin: a test gives a coroutine that speaks HTTP/1.1 as an origin
does, or an answer.
"""

from __future__ import annotations

import struct
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager
from functools import partial

import attrs
import trio
from hpack import Decoder, Encoder
from trio.testing import wait_all_tasks_blocked

from trio_tsconnect import (
    ClientInfo,
    HttpConfig,
    LogRecord,
    MemoryLog,
    Plugin,
    Proxy,
    ProxyConfig,
    Transaction,
    open_proxy,
    open_virtual_connection_pair,
)
from trio_tsconnect.http2 import Http2Limits, serve_http2

PREFACE = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"
DATA, HEADERS, PRIORITY, RST_STREAM, SETTINGS, PUSH_PROMISE, PING, GOAWAY, WINDOW_UPDATE, CONTINUATION = range(10)
PRIORITY_UPDATE = 0x10
END_STREAM, ACK, END_HEADERS, PADDED, HAS_PRIORITY = 0x1, 0x1, 0x4, 0x8, 0x20
NO_ERROR, PROTOCOL_ERROR, INTERNAL_ERROR, FLOW_CONTROL_ERROR, SETTINGS_TIMEOUT, STREAM_CLOSED, FRAME_SIZE_ERROR, REFUSED_STREAM, CANCEL = (
    range(9)
)
COMPRESSION_ERROR, CONNECT_ERROR, ENHANCE_YOUR_CALM = 9, 10, 11

Fields = Sequence[tuple[str, str]]
GET: Fields = ((":method", "GET"), (":scheme", "http"), (":path", "/"), (":authority", "site.example"))
POST: Fields = ((":method", "POST"), (":scheme", "http"), (":path", "/"), (":authority", "site.example"))


def frame(kind: int, flags: int, stream: int, payload: bytes = b"") -> bytes:
    return struct.pack(">HBBBL", len(payload) >> 8, len(payload) & 0xFF, kind, flags, stream) + payload


def number(value: int) -> bytes:
    return struct.pack(">L", value)


def settings(**values: int) -> bytes:
    """`settings(initial_window_size=0)`; `s9=1` for one that has no name here."""
    names = {
        "header_table_size": 1,
        "enable_push": 2,
        "max_concurrent_streams": 3,
        "initial_window_size": 4,
        "max_frame_size": 5,
        "max_header_list_size": 6,
    }
    pairs = [(names.get(name) or int(name[1:]), value) for name, value in values.items()]
    return frame(SETTINGS, 0, 0, b"".join(struct.pack(">HL", *pair) for pair in pairs))


@attrs.frozen
class Frame:
    kind: int
    flags: int
    stream: int
    payload: bytes

    @property
    def number(self) -> int:
        """The last number of a RST_STREAM or WINDOW_UPDATE, the code of a GOAWAY."""
        return int.from_bytes(self.payload[4:8] if self.kind == GOAWAY else self.payload[:4], "big")

    @property
    def last_stream(self) -> int:
        """What a GOAWAY says of streams."""
        return int.from_bytes(self.payload[:4], "big")


@attrs.define
class Answer:
    """All that came on one stream."""

    interim: list[dict[str, str]] = attrs.Factory(list)
    fields: dict[str, str] = attrs.Factory(dict)
    body: bytes = b""
    trailers: dict[str, str] | None = None
    reset: int | None = None
    ended: bool = False

    @property
    def status(self) -> str | None:
        return self.fields.get(":status")


class RawClient:
    def __init__(self, stream: trio.abc.Stream) -> None:
        self.stream = stream
        self.encoder = Encoder()
        self.decoder = Decoder()
        self.answers: dict[int, Answer] = {}
        self.frames: list[Frame] = []
        """All that came, in order."""
        self._buffer = b""

    # --- sending ------------------------------------------------------------------------------------------------------------------

    async def send(self, *frames: bytes) -> None:
        await self.stream.send_all(b"".join(frames))

    async def greet(self, *frames: bytes, **values: int) -> None:
        """The preface, SETTINGS and the acknowledgement of the server's; then these frames."""
        await self.send(PREFACE, settings(**values), frame(SETTINGS, ACK, 0), *frames)

    def head(self, stream: int, fields: Fields, *, end: bool = True, flags: int = END_HEADERS) -> bytes:
        block = self.encoder.encode([(name.encode("latin-1"), value.encode("latin-1")) for name, value in fields])
        return frame(HEADERS, flags | (END_STREAM if end else 0), stream, block)

    def data(self, stream: int, data: bytes, *, end: bool = False) -> bytes:
        return frame(DATA, END_STREAM if end else 0, stream, data)

    # --- receiving ----------------------------------------------------------------------------------------------------------------

    async def next_frame(self) -> Frame | None:
        """The next frame; None at the end of input."""
        while len(self._buffer) < 9 or len(self._buffer) < 9 + int.from_bytes(self._buffer[:3], "big"):
            try:
                data = await self.stream.receive_some()
            except trio.BrokenResourceError:
                data = b""
            if not data:
                assert not self._buffer, "the server closed within a frame"
                return None
            self._buffer += data
        length = int.from_bytes(self._buffer[:3], "big")
        kind, flags = self._buffer[3], self._buffer[4]
        got = Frame(kind, flags, int.from_bytes(self._buffer[5:9], "big"), self._buffer[9 : 9 + length])
        self._buffer = self._buffer[9 + length :]
        self.frames.append(got)
        self._note(got)
        return got

    def _note(self, got: Frame) -> None:
        answer = self.answers.setdefault(got.stream, Answer())
        if got.kind == HEADERS:
            assert got.flags & END_HEADERS
            fields = {str(name): str(value) for name, value in self.decoder.decode(got.payload)}
            if ":status" not in fields:
                answer.trailers = fields
            elif fields[":status"].startswith("1"):
                answer.interim.append(fields)
            else:
                assert not answer.fields
                answer.fields = fields
        elif got.kind == DATA:
            answer.body += got.payload
        elif got.kind == RST_STREAM:
            assert answer.reset is None, "two RST_STREAM for one stream"
            answer.reset = got.number
        if got.kind in (HEADERS, DATA) and got.flags & END_STREAM:
            assert not answer.ended
            answer.ended = True

    async def until(self, kind: int, stream: int | None = None, flags: int = 0) -> Frame:
        """The next frame of this type (on this stream, with these flags)."""
        while True:
            got = await self.next_frame()
            assert got is not None, f"the server closed; it said {self.frames}"
            if got.kind == kind and stream in (None, got.stream) and got.flags & flags == flags:
                return got

    async def answer(self, stream: int) -> Answer:
        """All of what comes on a stream, until it ends or is reset."""
        while True:
            answer = self.answers.setdefault(stream, Answer())
            if answer.ended or answer.reset is not None:
                return answer
            got = await self.next_frame()
            assert got is not None, f"the server closed; it said {self.frames}"

    async def goaway(self) -> Frame:
        """The GOAWAY that ends the connection, and its end."""
        last: Frame | None = None
        while (got := await self.next_frame()) is not None:
            if got.kind == GOAWAY:
                last = got
        assert last is not None, f"no GOAWAY; it said {self.frames}"
        return last

    async def ping(self) -> None:
        """Wait until the server has acted on all that was sent."""
        await self.send(frame(PING, 0, 0, b"question"))
        while (await self.until(PING, flags=ACK)).payload != b"question":
            pass

    async def settle(self) -> None:
        """Wait until nothing moves any more, and read all that was said."""
        await wait_all_tasks_blocked()
        await self.ping()

    async def get(self, stream: int = 1, fields: Fields = GET) -> Answer:
        await self.send(self.head(stream, fields))
        return await self.answer(stream)


class Origin(Plugin):
    """Plays every origin: by a coroutine that gets a stream, or by answering at once."""

    def __init__(self, serve: Callable[[trio.abc.HalfCloseableStream], Awaitable[object]] | None = None) -> None:
        self.serve = serve
        self.answers = True
        self.requests: list[Transaction] = []
        self.heads: list[tuple[str, str, dict[str, str]]] = []

    async def read_request(self, txn: Transaction) -> None:
        self.requests.append(txn)
        self.heads.append((txn.request.method, txn.request.target, dict(txn.request.headers.items())))
        if self.serve is not None:
            txn.intercept(self.serve)
        elif self.answers:
            txn.respond(200, b"hello", headers={"Content-Type": "text/plain"})


@attrs.frozen
class World:
    client: RawClient
    proxy: Proxy
    origin: Origin
    log: MemoryLog
    nursery: trio.Nursery
    open_client: Callable[[], RawClient]

    async def records(self, count: int) -> list[LogRecord]:
        """The records, of which there are so many once nothing moves any more."""
        await wait_all_tasks_blocked()
        assert len(self.log.records) == count
        return list(self.log.records)


Serve = Callable[[trio.abc.HalfCloseableStream], Awaitable[object]]


@asynccontextmanager
async def open_world(
    serve: Serve | None = None,
    *,
    limits: Http2Limits | None = None,
    http: HttpConfig | None = None,
    plugins: Sequence[Plugin] = (),
    buffer_index: int = 14,
    greet: bool = True,
    **values: int,
) -> AsyncIterator[World]:
    """A proxy, one client of it, and a server for it; the client has greeted, unless told not to."""
    origin, log = Origin(serve), MemoryLog()
    config = ProxyConfig(http=http or HttpConfig(), http2=limits or Http2Limits())
    who = ClientInfo(address=("192.0.2.7", 4321))
    async with trio.open_nursery() as nursery:
        async with open_proxy(config, plugins=[*plugins, origin], log=log) as proxy:

            def open_client() -> RawClient:
                ours, theirs = open_virtual_connection_pair(buffer_index=buffer_index)
                nursery.start_soon(partial(serve_http2, proxy, theirs, client=who))
                return RawClient(ours)

            client = open_client()
            if greet:
                await client.greet(**values)
            yield World(client, proxy, origin, log, nursery, open_client)
            await client.stream.aclose()
        nursery.cancel_scope.cancel()


# --- origins ----------------------------------------------------------------------------------------------------------------------


async def read_head(stream: trio.abc.Stream) -> tuple[bytes, bytes]:
    """A request head, and what came after it."""
    data = b""
    while b"\r\n\r\n" not in data:
        more = await stream.receive_some()
        assert more
        data += more
    head, _, rest = data.partition(b"\r\n\r\n")
    return head, rest


def saying(response: bytes) -> Serve:
    """An origin that reads a head and says this."""

    async def serve(stream: trio.abc.HalfCloseableStream) -> None:
        await read_head(stream)
        await stream.send_all(response)

    return serve


async def swallow(stream: trio.abc.HalfCloseableStream) -> None:
    """An origin that reads a whole request, and answers with the number of bytes in it."""
    head, rest = await read_head(stream)
    size = len(rest)
    if b"chunked" in head.lower():
        while not rest.endswith(b"0\r\n\r\n"):
            rest = rest[-8:] + bytes(await stream.receive_some())
            size += len(rest)
        await stream.send_all(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok")
        return
    length = int(head.lower().partition(b"content-length: ")[2].partition(b"\r")[0] or 0)
    while size < length:
        size += len(await stream.receive_some())
    body = b"%d" % size
    await stream.send_all(b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n%b" % (len(body), body))


async def silence(stream: trio.abc.HalfCloseableStream) -> None:
    """An origin that reads a head and never says anything."""
    await read_head(stream)
    await trio.sleep_forever()


async def echo(stream: trio.abc.HalfCloseableStream) -> None:
    """An origin that agrees to a tunnel, and sends back what comes; it ends when the client does."""
    head, rest = await read_head(stream)
    if head.startswith(b"CONNECT"):
        await stream.send_all(b"HTTP/1.1 200 Connected\r\n\r\n" + rest)
    else:
        protocol = head.lower().partition(b"upgrade: ")[2].partition(b"\r")[0]
        accept = websocket_accept(head)
        await stream.send_all(
            b"HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: %b\r\n%b\r\n%b" % (protocol, accept, rest)
        )
    while data := await stream.receive_some():
        await stream.send_all(data)
    await stream.send_eof()


def websocket_accept(head: bytes) -> bytes:
    import base64
    import hashlib

    key = head.lower().find(b"sec-websocket-key: ")
    if key < 0:
        return b""
    value = head[key + 19 :].partition(b"\r")[0]
    proof = base64.b64encode(hashlib.sha1(value + b"258EAFA5-E914-47DA-95CA-C5AB0DC85B11").digest())
    return b"Sec-WebSocket-Accept: " + proof + b"\r\n"
