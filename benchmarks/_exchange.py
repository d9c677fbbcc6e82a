"""The transaction that everything here is measured with: the yardstick's keep-alive GET and its 200, both with 8 fields, and 1 KiB of body."""

from __future__ import annotations

from typing import Any

import trio

from benchmarks import h11_floor
from trio_tsconnect import Plugin, Transaction

REQUEST = h11_floor.request_bytes()
RESPONSE = h11_floor.response_bytes()
BODY = h11_floor.BODY
ANSWER_FIELDS = [(name, value) for name, value in h11_floor.RESPONSE_FIELDS if name != b"content-length"]


class Respond(Plugin):
    """Answers every request."""

    async def read_request(self, txn: Transaction) -> None:
        """Answer with the yardstick's response."""
        txn.respond(200, BODY, headers=ANSWER_FIELDS)


class Intercept(Plugin):
    """Is the origin of every request, on a stream in memory."""

    async def read_request(self, txn: Transaction) -> None:
        """Put the origin in place."""
        intercept: Any = getattr(txn, "intercept")  # noqa: B009 - not there in every version; the caller has looked
        intercept(serve_origin)


async def serve_origin(stream: trio.abc.Stream) -> None:
    """The least that answers requests without a body, until they end."""
    tail = b""
    async with stream:
        while data := await stream.receive_some(65536):
            data = tail + data
            requests = data.count(b"\r\n\r\n")
            tail = data.rpartition(b"\r\n\r\n")[2]
            if requests:
                await stream.send_all(RESPONSE * requests)


class Client:
    """A keep-alive client on any stream, which does as little as a client can: all its responses have the same size."""

    def __init__(self, stream: trio.abc.Stream) -> None:
        self._stream = stream
        self._size = 0

    async def run(self, n: int) -> None:
        """Do n transactions, one after another."""
        if not self._size:
            await self._first()
            n -= 1
        for _ in range(n):
            await self._stream.send_all(REQUEST)
            left = self._size
            while left:
                left -= len(await self._receive())

    async def _receive(self) -> bytes | bytearray:
        data = await self._stream.receive_some(65536)
        if not data:
            raise RuntimeError("the connection ended within a response")
        return data

    async def _first(self) -> None:
        """The first response, read properly, tells how long all of them are."""
        await self._stream.send_all(REQUEST)
        data = b""
        while b"\r\n\r\n" not in data or len(data) < data.index(b"\r\n\r\n") + 4 + len(BODY):
            data += await self._receive()
        if not data.startswith(b"HTTP/1.1 200 ") or not data.endswith(BODY):
            raise RuntimeError(f"not the response that was expected: {data[:200]!r}")
        self._size = len(data)
