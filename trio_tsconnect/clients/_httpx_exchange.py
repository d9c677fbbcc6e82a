"""One httpx request on one virtual connection: its sender, its reader, and how one of them ends the other.

Invariant: `Exchange.send` raises no `Exception`, only cancellations and the like. An exception of the request body is stored, the
connection is aborted, and the reader raises the stored exception.
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

_PIECE = 65536  # bytes: the largest single write, so the write timeout applies to each 64 KiB


def make_head(request: httpx.Request) -> tuple[Request, Body]:
    """Return the request head as sent, and the framing of its body.

    The target is in absolute form, because on a virtual connection only the target can tell whether the URL is https. The head has
    `Connection: close`, because the connection carries only this request. Raises `httpx.UnsupportedProtocol` for a scheme other than http
    and https, and `httpx.LocalProtocolError` for an invalid request.
    """
    url = request.url
    if url.scheme not in ("http", "https"):
        raise httpx.UnsupportedProtocol(f"the URL scheme {url.scheme!r} is neither http nor https", request=request)
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
        """Send the request. If `head_first`, write the head before waiting for the first piece of the body. Raises only cancellations."""
        try:
            with self._sending:
                if head_first:
                    await self._write()
                await self._send_body(stream, body)
        except (trio.BrokenResourceError, trio.ClosedResourceError):
            pass  # the proxy may respond and close before it has read the whole request: the reader gets the response or an error
        except Exception as error:  # noqa: BLE001 - from the caller's iterator; raised by the reader
            self._failure = error
            self.end("the request body failed")
        except BaseException:
            self.end("the request was cancelled")
            raise
        finally:
            self._sent.set()
            if self._reading is not None:  # the read timeout of a read that is waiting starts now
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
        """Return the final response head. Interim responses are dropped, because httpx cannot represent them."""
        while (response := await self._read(self.http.read_response)).status < 200:
            if response.status == 101:  # the bytes that follow are not HTTP
                raise httpx.RemoteProtocolError("the response has status 101 (Switching Protocols), which the request did not ask for")
        return response

    async def read_body(self) -> bytes:
        """Return the next piece of the body, `b""` at its end."""
        return bytes(await self._read(self.http.receive_body))

    async def _read(self, read: Callable[[], Awaitable[T]]) -> T:
        now = trio.current_time()
        # While the request is still being sent, the response may depend on it, so only the client's own pace counts. `send` sets the
        # deadline.
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
        """Abort the connection, which ends its transaction, and cancel the sender.

        Does nothing if it has ended. Synchronous and idempotent.
        """
        if self._ended is None:
            self._ended = reason
            self._sending.cancel()
            self._connection.abort(reason)
            self._on_end(self)

    async def aclose(self) -> None:
        """Close the connection if the response was read to its end, else abort it. Then wait until the sender has ended."""
        if self._ended is None and self.http.body_complete:
            self._ended = "the response was read to its end"
            self._sending.cancel()
            self._on_end(self)
            await self._connection.aclose()
        self.end("the response was closed before it was read to its end")
        await self._sent.wait()


class ResponseStream(httpx.AsyncByteStream):
    """The body of a response, in the form that httpx reads."""

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
        """Close the connection. If the response was not read to its end, this cancels its transaction."""
        await self._exchange.aclose()


async def _close_source(pieces: AsyncIterator[bytes], stream: httpx.AsyncByteStream) -> None:
    """Close the generator of a request body, of which the rest will not be read.

    httpx wraps it in its own generator, and closing that does not close the inner one. It would stay open until it is garbage-collected.
    """
    for source in (pieces, getattr(stream, "_stream", None)):
        aclose: Callable[[], Awaitable[Any]] | None = getattr(source, "aclose", None)
        if aclose is not None:
            await aclose()


def _seconds(timeout: float | None) -> float:
    return math.inf if timeout is None else timeout
