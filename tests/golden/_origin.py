"""The scripted origin that stood behind the recorded Traffic Server.

It reads and writes raw bytes, without an HTTP library: half of its paths break the protocol on purpose, and a library would refuse to.
A malformed request makes it raise, and so fails the test: a proxy must not let one through.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, MutableSequence

import attrs
import trio

DRIP_INTERVAL = 0.3
"""Seconds between two pieces of /drip: no multiple of it is a wait of a case, so how much a client has read is never a matter of luck."""


@attrs.frozen(kw_only=True)
class Received:
    """One request as it reached the origin."""

    method: str
    target: str
    headers: tuple[tuple[str, str], ...]
    """In order, names in lower case."""
    body: bytes


class _Connection:
    """A buffered reader over the stream: the least that HTTP/1.1 needs."""

    def __init__(self, stream: trio.abc.Stream) -> None:
        self.stream = stream
        self._buffer = bytearray()

    async def _more(self) -> None:
        data = await self.stream.receive_some()
        if not data:
            raise EOFError
        self._buffer += data

    async def until(self, end: bytes) -> bytes:
        while (at := self._buffer.find(end)) < 0:
            await self._more()
        return self._take(at + len(end))

    async def exactly(self, count: int) -> bytes:
        while len(self._buffer) < count:
            await self._more()
        return self._take(count)

    async def something(self) -> bytes:
        if not self._buffer:
            await self._more()
        return self._take(len(self._buffer))

    def _take(self, count: int) -> bytes:
        data = bytes(self._buffer[:count])
        del self._buffer[:count]
        return data

    async def send(self, data: bytes) -> None:
        await self.stream.send_all(data)

    async def hang(self) -> None:
        """Say nothing more, until the peer has closed."""
        while await self.stream.receive_some():
            pass
        raise EOFError


@attrs.frozen(kw_only=True)
class _Head:
    method: str
    target: str
    headers: tuple[tuple[str, str], ...]

    def get(self, name: str) -> str:
        return ", ".join(value for key, value in self.headers if key == name)


def _parse_head(data: bytes) -> _Head:
    request_line, *lines = data.decode("latin-1").removesuffix("\r\n\r\n").split("\r\n")
    method, target, _version = request_line.split(" ")
    fields = [line.partition(":") for line in lines]
    return _Head(method=method, target=target, headers=tuple((name.lower(), value.strip()) for name, _, value in fields))


async def _read_body(connection: _Connection, head: _Head) -> bytes:
    if head.get("transfer-encoding").lower() != "chunked":
        return await connection.exactly(int(head.get("content-length") or 0))
    body = b""
    while size := int((await connection.until(b"\r\n")).split(b";")[0], 16):
        body += await connection.exactly(size)
        await connection.exactly(2)
    while await connection.until(b"\r\n") != b"\r\n":
        pass
    return body


def _reply(status: str, body: bytes = b"", *fields: str, length: bool = True) -> bytes:
    lines = [f"HTTP/1.1 {status}"]
    if length:
        lines.append(f"Content-Length: {len(body)}")
    return "\r\n".join([*lines, *fields, "", ""]).encode() + body


_TEXT = "Content-Type: text/plain"
_PLAIN: dict[str, bytes] = {
    "/hello": _reply("200 OK", b"hello", _TEXT),
    "/chunked": _reply("200 OK", b"", "Transfer-Encoding: chunked", length=False) + b"5\r\nhello\r\n6\r\n world\r\n0\r\n\r\n",
    "/103": _reply("103 Early Hints", b"", "Link: </style.css>; rel=preload", length=False) + _reply("200 OK", b"hinted", _TEXT),
    "/204": _reply("204 No Content", length=False),
    "/302": _reply("302 Found", b"", "Location: http://site.test/hello"),
    "/304": _reply("304 Not Modified", b"", 'ETag: "golden"', length=False),
    "/401": _reply("401 Unauthorized", b"no", _TEXT, 'WWW-Authenticate: Basic realm="x"'),
    "/big": _reply("200 OK", b"b" * (8 << 20)),
    "/cacheable": _reply("200 OK", b"cached-body", "Cache-Control: max-age=60"),
}
"""Paths with one answer, after which the connection is kept."""


async def _slow(connection: _Connection) -> None:
    await trio.sleep(1)
    await connection.send(_reply("200 OK", b"slow", _TEXT))


async def _drip(connection: _Connection) -> None:
    await connection.send(_reply("200 OK", b"", "Content-Length: 50", length=False))
    for piece in range(5):
        if piece:
            await trio.sleep(DRIP_INTERVAL)
        await connection.send(b"x" * 10)


async def _eof(connection: _Connection) -> None:
    await connection.send(_reply("200 OK", b"until the end", length=False))
    raise EOFError


async def _stall(connection: _Connection) -> None:
    await connection.send(_reply("200 OK", b"", "Content-Length: 1000", length=False) + b"a" * 100)
    await connection.hang()


async def _closemid(connection: _Connection) -> None:
    await connection.send(_reply("200 OK", b"", "Content-Length: 1000", length=False) + b"a" * 100)
    raise EOFError


async def _chunkcut(connection: _Connection) -> None:
    await connection.send(_reply("200 OK", b"", "Transfer-Encoding: chunked", length=False) + b"5\r\nhello\r\n")
    raise EOFError


async def _garbage(connection: _Connection) -> None:
    await connection.send(b"this is not HTTP\r\n\r\n")
    raise EOFError


async def _rst(_connection: _Connection) -> None:
    raise EOFError


async def _early413(connection: _Connection) -> None:
    await connection.send(_reply("413 Too Large", b"big!", "Connection: close"))
    # Closing with the rest of the body unread would reset the connection, and the reset could overtake the answer.
    await connection.hang()


async def _upgrade(connection: _Connection) -> None:
    await connection.send(_reply("101 Switching Protocols", b"", "Connection: Upgrade", "Upgrade: websocket", length=False))
    while True:
        await connection.send(b"echo:" + await connection.something())


_SCRIPTED: dict[str, Callable[[_Connection], Awaitable[None]]] = {
    "/slow": _slow,
    "/drip": _drip,
    "/eof": _eof,
    "/stall": _stall,
    "/closemid": _closemid,
    "/chunkcut": _chunkcut,
    "/noresp": _Connection.hang,
    "/rst": _rst,
    "/garbage": _garbage,
    "/upgrade": _upgrade,
}
"""Paths that take their time, or end the connection."""


async def _answer(connection: _Connection, request: Received) -> None:
    path = request.target.partition("?")[0]
    if path.startswith("/cacheable"):
        path = "/cacheable"
    if path in _SCRIPTED:
        await _SCRIPTED[path](connection)
        return
    if path == "/echo":
        reply = _reply("200 OK", f"{request.method} {len(request.body)} ".encode() + request.body, _TEXT)
    else:
        reply = _PLAIN.get(path) or _reply("404 Not Found", b"no such path", _TEXT)
    await connection.send(reply if request.method != "HEAD" else reply[: reply.index(b"\r\n\r\n") + 4])


async def _serve_one(connection: _Connection, received: MutableSequence[Received]) -> None:
    head = _parse_head(await connection.until(b"\r\n\r\n"))
    if head.get("expect"):
        await connection.send(_reply("100 Continue", length=False))
    early = head.target.startswith("/early413")
    body = b"" if early else await _read_body(connection, head)
    request = Received(method=head.method, target=head.target, headers=head.headers, body=body)
    received.append(request)
    await (_early413(connection) if early else _answer(connection, request))
    if head.get("connection").lower() == "close":
        raise EOFError


async def serve_origin(stream: trio.abc.Stream, received: MutableSequence[Received] | None = None) -> None:
    """Answer requests on any stream until its peer has gone; what came in is appended to ``received``."""
    log: MutableSequence[Received] = [] if received is None else received
    async with stream:
        connection = _Connection(stream)
        try:
            while True:
                await _serve_one(connection, log)
        except (EOFError, trio.BrokenResourceError):
            return
