"""`exchange`: a client for tests that writes bytes unchanged, reads complete responses, and shows the received bytes if it fails."""

from __future__ import annotations

import json
from typing import Any, overload

import attrs
import trio

from trio_tsconnect._util import public
from trio_tsconnect.message import NO_BODY, Headers, MessageError, Request, Response
from trio_tsconnect.stream import HTTP1Client, HTTP1Server, IncompleteMessage


@public("trio_tsconnect.testing")
class ExchangeFailed(AssertionError):
    """A response was incomplete or invalid, or bytes followed the last one.

    The text names the response, the reason and the received bytes.
    """


@public("trio_tsconnect.testing")
@attrs.frozen(kw_only=True)
class Reply:
    """One complete response."""

    status: int
    """The final status."""
    reason: str
    """The reason phrase."""
    headers: Headers
    """The header fields."""
    body: bytes
    """The content, without its framing."""
    trailers: Headers | None = None
    """The trailer fields after a chunked body; None without any."""
    interim: tuple[Response, ...] = ()
    """The 1xx responses that preceded it."""

    @property
    def text(self) -> str:
        """The content, decoded as UTF-8."""
        return self.body.decode()

    def json(self) -> Any:
        """Parse the content as JSON and return the value."""
        return json.loads(self.body)


class _Listener(trio.abc.Stream):
    """A stream that drops what is written and keeps what was read, for the text of a failure."""

    def __init__(self, stream: trio.abc.Stream) -> None:
        self.stream = stream
        self.seen = bytearray()

    async def send_all(self, data: bytes | bytearray | memoryview) -> None:
        await trio.lowlevel.checkpoint()

    async def wait_send_all_might_not_block(self) -> None:
        await trio.lowlevel.checkpoint()

    async def receive_some(self, max_bytes: int | None = None) -> bytes:
        data = bytes(await self.stream.receive_some(max_bytes))
        self.seen += data
        return data

    async def aclose(self) -> None:
        await trio.lowlevel.checkpoint()


@overload
async def exchange(stream: trio.abc.Stream, data: bytes | str, *, timeout: float = ...) -> Reply: ...
@overload
async def exchange(stream: trio.abc.Stream, data: bytes | str, *, count: int, timeout: float = ...) -> list[Reply]: ...
@public("trio_tsconnect.testing")
async def exchange(stream: trio.abc.Stream, data: bytes | str, *, count: int | None = None, timeout: float = 300.0) -> Reply | list[Reply]:
    """Write `data` unchanged, and return one complete response, or with `count` a list of that many. The stream is left open.

    `data` is one request or several. They need not be valid. If their methods can be parsed, these decide which responses have no body.
    Responses are read while `data` is still being written. Interim responses are part of the response that they precede.

    Raises `ExchangeFailed` if the responses are not complete within `timeout` trio seconds in total, if a response is not valid HTTP/1.1,
    or if bytes follow the last one.
    """
    if isinstance(data, str):
        data = data.encode()
    listener = _Listener(stream)
    methods = await _methods(listener, data)
    replies: list[Reply] = []
    wanted = 1 if count is None else count
    problem: str | None = None
    with trio.move_on_after(timeout) as scope:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(_send, stream, data)
            problem = await _read_replies(listener, methods, wanted, replies)
            nursery.cancel_scope.cancel()
    if scope.cancelled_caught:
        problem = f"it was not complete within {timeout:g} s"
    if problem is not None:
        raise ExchangeFailed(f"response {min(len(replies) + 1, wanted)} of {wanted}: {problem}; received: {_shown(bytes(listener.seen))}")
    return replies[0] if count is None else replies


async def _send(stream: trio.abc.Stream, data: bytes) -> None:
    try:
        await stream.send_all(data)
    except (trio.BrokenResourceError, trio.ClosedResourceError):
        pass  # the peer may respond and close before it has read everything: the reader gets the responses, or fails


async def _methods(listener: _Listener, data: bytes) -> list[str]:
    """Return the methods of the requests in `data`, up to the first request that is invalid. Nothing is read from the stream."""
    methods: list[str] = []
    requests = HTTP1Server(listener)
    requests.feed(data)
    requests.feed(b"")
    try:
        while await requests.wait_for_request():
            methods.append((await requests.read_request()).method)
            while await requests.receive_body():
                pass
    except (MessageError, IncompleteMessage):
        methods.append(requests.seen_request_line()[0] or "GET")
    return methods


async def _read_replies(listener: _Listener, methods: list[str], wanted: int, replies: list[Reply]) -> str | None:
    """Read `wanted` responses into `replies`. Return what went wrong, or None."""
    http = HTTP1Client(listener)
    try:
        while len(replies) < wanted:
            method = methods[len(replies)] if len(replies) < len(methods) else "GET"
            replies.append(await _read_reply(http, method))
    except IncompleteMessage as error:
        return str(error)
    except MessageError as error:
        return error.detail
    except trio.BrokenResourceError as error:
        return f"the connection broke ({error})"
    except trio.ClosedResourceError:
        return "the stream was closed on this side"
    return f"{http.buffered} bytes follow it" if http.buffered else None


async def _read_reply(http: HTTP1Client, method: str) -> Reply:
    # `data` was written already. The parser needs a request only for its method, which decides how the response is framed.
    try:
        http.queue_request(Request(method, "/", {"Host": "exchange"}), NO_BODY)
    except ValueError:
        http.queue_request(Request("GET", "/", {"Host": "exchange"}), NO_BODY)
    http.queue_end()
    await http.drain()
    interim: list[Response] = []
    while (response := await http.read_response()).status < 200 and response.status != 101:
        interim.append(response)
    body = bytearray()
    while piece := await http.receive_body():
        body += piece
    return Reply(
        status=response.status,
        reason=response.reason,
        headers=response.headers,
        body=bytes(body),
        trailers=http.trailers,
        interim=tuple(interim),
    )


def _shown(seen: bytes) -> str:
    if not seen:
        return "nothing"
    return repr(seen) if len(seen) <= 300 else f"{seen[:200]!r} ... {seen[-60:]!r} ({len(seen)} bytes)"
