"""A request and its response over one virtual connection: what most callers want of `connect`.

The law: leaving the block closes the connection, whatever has happened in it; the engine then ends what has not ended.
"""

from __future__ import annotations

from collections.abc import AsyncIterable, AsyncIterator, Callable
from contextlib import asynccontextmanager

import trio

from trio_tsconnect._util import public
from trio_tsconnect.message import CHUNKED_BODY, NO_BODY, Body, Framing, Headers, MessageError, Request, Response, frame_request
from trio_tsconnect.stream._http1 import IncompleteMessage
from trio_tsconnect.stream._http1_client import HTTP1Client
from trio_tsconnect.stream._virtual import VirtualConnection


@public("trio_tsconnect")
class FetchError(Exception):
    """A request that was fetched got no whole response."""


class FetchedBody:
    """The body of a fetched response: iterate over its pieces, or `read` all of it."""

    def __init__(self, http: HTTP1Client) -> None:
        self._http = http

    def __aiter__(self) -> FetchedBody:
        return self

    async def __anext__(self) -> bytes:
        piece = await self.receive()
        if not piece:
            raise StopAsyncIteration
        return piece

    async def receive(self) -> bytes:
        """The next piece, as it comes; `b""` at the end. `FetchError` when the response is cut short."""
        try:
            return bytes(await self._http.receive_body())
        except (IncompleteMessage, MessageError, trio.BrokenResourceError) as exc:
            raise FetchError(f"the response was cut short: {exc}") from exc

    async def read(self, limit: int | None = None) -> bytes:
        """All of it; `FetchError` past `limit` bytes."""
        parts, size = [], 0
        async for piece in self:
            parts.append(piece)
            size += len(piece)
            if limit is not None and size > limit:
                raise FetchError(f"the response is larger than {limit} bytes")
        return b"".join(parts)

    @property
    def trailers(self) -> Headers | None:
        """The trailer fields, once the body was read to its end."""
        return self._http.trailers


@public("trio_tsconnect")
class FetchedResponse(Response):
    """A response head with its body, still streaming."""

    body: FetchedBody
    """The body; valid until the block of `fetch` is left."""


@public("trio_tsconnect.stream")
@asynccontextmanager
async def fetch(
    connect: Callable[[], VirtualConnection], request: Request, body: bytes | AsyncIterable[bytes]
) -> AsyncIterator[FetchedResponse]:
    """`Proxy.fetch` and `Transaction.fetch`."""
    head = request.copy()
    framing = _framing(head, body)
    connection = connect()
    error: BaseException | None = None

    async def send() -> None:
        nonlocal error
        try:
            await _send(http, body)  # type: ignore[arg-type]
        except Exception as exc:  # noqa: BLE001 - what the caller's body raises is the caller's, and leaves as it is
            error = exc
            nursery.cancel_scope.cancel()

    try:
        http = HTTP1Client(connection)
        async with trio.open_nursery() as nursery:
            try:
                http.queue_request(head, framing)
                if isinstance(body, bytes):
                    http.queue_body(body)
                    http.queue_end()
                    nursery.start_soon(_drain, http)
                else:
                    nursery.start_soon(send)
                yield await _read_head(http)
            except BaseException as exc:  # noqa: BLE001 - raised again, when the other side has ended
                error = error or exc
            nursery.cancel_scope.cancel()
    finally:
        await connection.aclose()
    if error is not None:
        try:
            raise error
        finally:
            del error


def _framing(head: Request, body: bytes | AsyncIterable[bytes]) -> Body:
    head.headers.setdefault("Host", "")
    if isinstance(body, bytes):
        return frame_request(head, Body(Framing.LENGTH, len(body)) if body else NO_BODY)
    return frame_request(head, CHUNKED_BODY)


async def _drain(http: HTTP1Client) -> bool:
    """Write; False when the engine takes no more: the response, or its absence, tells why."""
    try:
        await http.drain()
    except (trio.BrokenResourceError, trio.ClosedResourceError):
        return False
    return True


async def _send(http: HTTP1Client, body: AsyncIterable[bytes]) -> None:
    if not await _drain(http):
        return
    try:
        async for piece in body:  # what this raises is the caller's
            http.queue_body(piece)
            if not await _drain(http):
                return
    finally:  # an async generator that is not read to its end is closed by whoever reads it, in the task in which it was read
        if (aclose := getattr(body, "aclose", None)) is not None:
            await aclose()
    http.queue_end()
    await _drain(http)


async def _read_head(http: HTTP1Client) -> FetchedResponse:
    try:
        while (head := await http.read_response()).status < 200:
            pass
    except (IncompleteMessage, MessageError, trio.BrokenResourceError) as exc:
        raise FetchError(f"there was no response: {exc}") from exc
    response = FetchedResponse(head.status, head.headers, head.reason, head.version)
    response.body = FetchedBody(http)
    return response
