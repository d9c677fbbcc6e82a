"""Send one request over a new virtual connection and receive its response: the most common use of `connect`.

Invariant: leaving the block closes the connection, also after an error or a cancellation. The engine then ends an unfinished transaction.
"""

from __future__ import annotations

from collections.abc import AsyncIterable, AsyncIterator, Callable
from contextlib import asynccontextmanager

import trio

from trio_tsconnect._util import public
from trio_tsconnect.message import CHUNKED_BODY, NO_BODY, Body, Framing, Headers, MessageError, Request, Response, frame_request
from trio_tsconnect.stream._http1 import IncompleteMessage
from trio_tsconnect.stream._http1_client import HTTP1Client
from trio_tsconnect.stream._virtual import ResponseSource, VirtualConnection


@public("trio_tsconnect")
class FetchError(Exception):
    """A fetched request received no complete response, or the proxy itself answered it with an error."""

    cause: str | None
    """The cause, as in the log (`origin_refused`, `access_denied`), if the proxy answered with an error; otherwise None."""

    def __init__(self, message: str, cause: str | None = None) -> None:
        super().__init__(message)
        self.cause = cause


class FetchedBody:
    """The body of a fetched response: iterate over its pieces, or call `read`."""

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
        """Return the next piece, or `b""` at the end. Raise `FetchError` if the response is incomplete or invalid."""
        try:
            return bytes(await self._http.receive_body())
        except (IncompleteMessage, MessageError, trio.BrokenResourceError) as exc:
            raise FetchError(f"the response was cut short: {exc}") from exc

    async def read(self, limit: int | None = None) -> bytes:
        """Return the rest of the body. Raise `FetchError` if it is longer than `limit` bytes (None: no limit) or incomplete."""
        parts, size = [], 0
        async for piece in self:
            parts.append(piece)
            size += len(piece)
            if limit is not None and size > limit:
                raise FetchError(f"the response is larger than {limit} bytes")
        return b"".join(parts)

    @property
    def trailers(self) -> Headers | None:
        """The trailer fields, after the body was read completely; None if there are none."""
        return self._http.trailers


@public("trio_tsconnect")
class FetchedResponse(Response):
    """A response head with its body, which is still being received."""

    body: FetchedBody
    """The body. Usable inside the block of `fetch` only."""
    source: ResponseSource
    """Who made the response: "origin" (also a plugin that has intercepted the request), "plugin" (`Transaction.respond`) or "proxy"."""
    cause: str | None
    """The cause, as in the log, if the response reports a failure of the transaction; otherwise None."""


@public("trio_tsconnect.stream")
@asynccontextmanager
async def fetch(
    connect: Callable[[], VirtualConnection], request: Request, body: bytes | AsyncIterable[bytes], *, raise_failures: bool = True
) -> AsyncIterator[FetchedResponse]:
    """Implement `Proxy.fetch` and `Transaction.fetch`."""
    head = request.copy()
    framing = _framing(head, body)
    connection = connect()
    error: BaseException | None = None

    async def send() -> None:
        nonlocal error
        try:
            await _send(http, body)  # type: ignore[arg-type]
        except Exception as exc:  # noqa: BLE001 - an error of the caller's body is raised again below, unchanged
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
                response = await _read_head(http, connection)
                if raise_failures and response.cause is not None:
                    raise FetchError(f"the proxy answered with {response.status} ({response.cause})", response.cause)
                yield response
            except BaseException as exc:  # noqa: BLE001 - raised again below, outside of the nursery, so that it is not wrapped in a group
                error = error or exc
            nursery.cancel_scope.cancel()
    finally:
        await connection.aclose()
    if error is not None:
        try:
            raise error
        finally:
            # The exception's traceback refers to this frame: break the reference cycle.
            del error


def _framing(head: Request, body: bytes | AsyncIterable[bytes]) -> Body:
    head.headers.setdefault("Host", "")
    if isinstance(body, bytes):
        return frame_request(head, Body(Framing.LENGTH, len(body)) if body else NO_BODY)
    return frame_request(head, CHUNKED_BODY)


async def _drain(http: HTTP1Client) -> bool:
    """Write the queue. Return False if the engine accepts no more: the response, or its absence, then tells why."""
    try:
        await http.drain()
    except (trio.BrokenResourceError, trio.ClosedResourceError):
        return False
    return True


async def _send(http: HTTP1Client, body: AsyncIterable[bytes]) -> None:
    if not await _drain(http):
        return
    try:
        async for piece in body:  # exceptions of the caller's iterator propagate to the caller
            http.queue_body(piece)
            if not await _drain(http):
                return
    finally:  # close an async generator that was not exhausted, in the task that iterated over it
        if (aclose := getattr(body, "aclose", None)) is not None:
            await aclose()
    http.queue_end()
    await _drain(http)


async def _read_head(http: HTTP1Client, connection: VirtualConnection) -> FetchedResponse:
    try:
        while (head := await http.read_response()).status < 200:
            pass
    except (IncompleteMessage, MessageError, trio.BrokenResourceError) as exc:
        raise FetchError(f"there was no response: {exc}") from exc
    response = FetchedResponse(head.status, head.headers, head.reason, head.version)
    response.body = FetchedBody(http)
    response.source, response.cause = connection.response_source
    return response
