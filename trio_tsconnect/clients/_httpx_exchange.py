"""One request of httpx on one virtual connection: what sends it, what reads its response, and how either ends the other.

The law: the sender never raises; what it meets is noted, the connection is broken, and the reader raises it.
"""

from __future__ import annotations

import math
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any, TypeVar

import httpx
import trio

from trio_tsconnect import VirtualConnection
from trio_tsconnect.message import CHUNKED_BODY, BadRequest, Body, Headers, MessageError, Request, Response, check_request, request_body
from trio_tsconnect.stream import HTTP1Client, IncompleteMessage

T = TypeVar("T")

_PIECE = 65536  # what a write timeout counts for


def make_head(request: httpx.Request) -> tuple[Request, Body]:
    """The head that goes on the wire, and how the body that follows is framed.

    The target is in absolute form: nothing but the request itself says whether it is for https. The connection serves this one request.
    """
    url = request.url
    if url.scheme not in ("http", "https"):
        raise httpx.UnsupportedProtocol(f"{url.scheme!r} is neither http nor https", request=request)
    target: bytes = request.extensions.get("target", b"%b://%b%b" % (url.raw_scheme, url.netloc, url.raw_path))
    try:
        head = Request(request.method, target.decode("latin-1"), Headers(request.headers.raw))
        head.headers["Connection"] = "close"
        check_request(head)
    except (ValueError, BadRequest) as error:
        raise httpx.LocalProtocolError(str(error), request=request) from error
    return head, request_body(head)


class Exchange:
    """One request and its response."""

    def __init__(self, connection: VirtualConnection, timeouts: dict[str, float | None], on_end: Callable[[Exchange], object]) -> None:
        self.http = HTTP1Client(connection)
        self._connection = connection
        self._read_timeout = _seconds(timeouts.get("read"))
        self._write_timeout = _seconds(timeouts.get("write"))
        self._on_end = on_end
        self._ended: str | None = None
        self._failure: Exception | None = None
        self._sending = trio.CancelScope()
        self._sent = trio.Event()
        self._reading: trio.CancelScope | None = None

    # ------------------------------------------------------------------------------------------------------------------ the sender

    async def send(self, stream: httpx.AsyncByteStream, body: Body, *, head_first: bool = True) -> None:
        """Send the request. `head_first`: do not let the head wait for the body's first piece."""
        try:
            with self._sending:
                if head_first:
                    await self._write()
                await self._send_body(stream, body)
        except (trio.BrokenResourceError, trio.ClosedResourceError):
            pass  # the proxy may answer before it has read everything, and close: the response, or its absence, tells
        except Exception as error:  # noqa: BLE001 - anybody's generator
            self._failure = error
            self.end("the request body failed")
        except BaseException:
            self.end("the request was cancelled")
            raise
        finally:
            self._sent.set()
            if self._reading is not None:
                self._reading.deadline = trio.current_time() + self._read_timeout

    async def _send_body(self, stream: httpx.AsyncByteStream, body: Body) -> None:
        left = math.inf if body == CHUNKED_BODY else body.length
        pieces = aiter(stream)
        try:
            async for piece in pieces:
                left -= len(piece)
                if left < 0:
                    raise httpx.LocalProtocolError("Too much data for declared Content-Length")
                for start in range(0, len(piece), _PIECE):
                    self.http.queue_body(piece[start : start + _PIECE])
                    if self.http.queued >= _PIECE or not isinstance(stream, httpx.ByteStream):
                        await self._write()
        except BaseException:
            await _close_source(pieces, stream)
            raise
        if 0 < left < math.inf:
            raise httpx.LocalProtocolError("Too little data for declared Content-Length")
        self.http.queue_end()
        await self._write()

    async def _write(self) -> None:
        with trio.move_on_after(self._write_timeout) as scope:
            await self.http.drain()
        if scope.cancelled_caught:
            raise httpx.WriteTimeout(f"nothing could be written for {self._write_timeout:g} s")

    # ------------------------------------------------------------------------------------------------------------------ the reader

    async def read_head(self) -> Response:
        """The final response head."""
        while (response := await self._read(self.http.read_response)).status < 200:
            if response.status == 101:  # what follows it is no HTTP; httpx has no place for the other interim responses
                raise httpx.RemoteProtocolError("the response switches protocols, which was not asked for")
        return response

    async def read_body(self) -> bytes:
        """The next piece of the body; `b""` at its end."""
        return bytes(await self._read(self.http.receive_body))

    async def _read(self, read: Callable[[], Awaitable[T]]) -> T:
        now = trio.current_time()
        # As long as the request is being sent, it is the client's own pace that counts.
        self._reading = scope = trio.CancelScope(deadline=now + self._read_timeout if self._sent.is_set() else math.inf)
        try:
            with scope:
                return await read()
        except (IncompleteMessage, MessageError) as error:
            raise httpx.RemoteProtocolError(str(error)) from error
        except (trio.BrokenResourceError, trio.ClosedResourceError) as error:
            if self._failure is None:
                raise httpx.ReadError(self._ended or str(error)) from error
        finally:
            self._reading = None
        if self._failure is not None:
            raise self._failure
        raise httpx.ReadTimeout(f"nothing was received for {self._read_timeout:g} s")

    # --------------------------------------------------------------------------------------------------------------------- the end

    def end(self, reason: str) -> None:
        """Break the connection, which ends the transaction, and cancel the sender; nothing, once it has ended. Synchronous."""
        if self._ended is None:
            self._ended = reason
            self._sending.cancel()
            self._connection.abort(reason)
            self._on_end(self)

    async def aclose(self) -> None:
        """End it, wait until the sender has ended, and close the connection: properly, if the response was read to its end."""
        if self._ended is None and self.http.body_complete:
            self._ended = "the response was read to its end"
            self._sending.cancel()
            self._on_end(self)
            await self._connection.aclose()
        self.end("the response was closed before it was read to its end")
        await self._sent.wait()


class ResponseStream(httpx.AsyncByteStream):
    """A response body, as httpx reads it."""

    def __init__(self, exchange: Exchange) -> None:
        self._exchange = exchange

    def __aiter__(self) -> AsyncIterator[bytes]:
        return self

    async def __anext__(self) -> bytes:
        piece = await self._exchange.read_body()
        if not piece:
            raise StopAsyncIteration
        return piece

    async def aclose(self) -> None:
        """Close the connection; unless the response was read to its end, that cancels its transaction."""
        await self._exchange.aclose()


async def _close_source(pieces: AsyncIterator[bytes], stream: httpx.AsyncByteStream) -> None:
    """Close the generator that a request body comes from, for nobody will read the rest.

    httpx wraps it in a generator of its own, which does not close what it wraps: left alone it would be the garbage collector's.
    """
    for source in (pieces, getattr(stream, "_stream", None)):
        aclose: Callable[[], Awaitable[Any]] | None = getattr(source, "aclose", None)
        if aclose is not None:
            await aclose()


def _seconds(timeout: float | None) -> float:
    return math.inf if timeout is None else timeout
