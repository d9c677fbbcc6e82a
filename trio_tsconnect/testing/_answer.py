"""The responses of a scripted origin. An `Answer` is an immutable value; only `send_answer` turns it into bytes."""

from __future__ import annotations

from collections.abc import AsyncGenerator, AsyncIterable
from contextlib import AsyncExitStack, aclosing
from typing import Any, Literal

import attrs
import trio.testing

from trio_tsconnect._util import public
from trio_tsconnect.message import CHUNKED_BODY, NO_BODY, Body, Framing, Headers, Request, Response, frame_response
from trio_tsconnect.stream import HTTP1Server, reset

Fault = Literal["stall", "truncate", "die"]
"""A failure: `stall` (send no more, but stay open), `truncate` (an orderly close before the end), `die` (a connection reset)."""


def _as_bytes(body: object) -> object:
    return body.encode() if isinstance(body, str) else body


def _check_body(_: object, field: attrs.Attribute[Any], value: object) -> None:
    if not isinstance(value, (bytes, AsyncIterable)):
        raise TypeError(f"{field.name} must be bytes, str or an async iterable of bytes, not {type(value).__name__}")


def _check_fault(answer: Answer, field: attrs.Attribute[Any], value: int | None) -> None:
    if value is None:
        return
    if answer.fault is None:
        raise ValueError(f"{field.name} needs a fault, and fault is None")
    if type(value) is not int or value < 0:
        raise ValueError(f"{field.name} must be an int of at least 0, not {value!r}")


@public("trio_tsconnect.testing")
@attrs.frozen
class Answer:
    """One response of a scripted origin, with an optional failure. Raises `ValueError` or `TypeError` for an invalid field."""

    status: int = 200
    """The final status."""
    body: bytes | AsyncIterable[bytes] = attrs.field(default=b"", converter=_as_bytes, validator=_check_body)
    """The content: bytes, a str (sent as UTF-8), or an async iterable, each piece of which is sent when it is available."""
    headers: Headers = attrs.field(factory=Headers, converter=Headers, kw_only=True)
    """The header fields. The fields that frame the body are added, unless Content-Length is among these."""
    chunked: bool = attrs.field(default=False, kw_only=True)
    """Send a body of bytes in chunks too. An async iterable without Content-Length is always sent in chunks."""
    trailers: Headers = attrs.field(factory=Headers, converter=Headers, kw_only=True)
    """The trailer fields after a chunked body."""
    interim: tuple[Response, ...] = attrs.field(default=(), converter=tuple, kw_only=True)
    """Responses with a 1xx status, sent first."""
    raw: bytes | None = attrs.field(default=None, kw_only=True)
    """Bytes to send unchanged in place of all other fields; then the connection is closed. For responses that are not valid HTTP."""
    fault: Fault | None = attrs.field(default=None, validator=attrs.validators.in_((None, "stall", "truncate", "die")), kw_only=True)
    """The failure: None, `stall`, `truncate` or `die`."""
    after: int | None = attrs.field(default=None, validator=_check_fault, kw_only=True)
    """The number of body bytes after which the failure happens. None: it happens in place of the response."""


async def send_answer(http: HTTP1Server, request: Request, answer: Answer) -> bool:
    """Write an answer. Return True if the connection can carry another request."""
    if answer.raw is not None:
        await http.stream.send_all(answer.raw)
        return False
    if answer.fault is not None and answer.after is None:
        await strike(http.stream, answer.fault)
        return False
    for interim in answer.interim:
        http.queue_response(interim.copy(), NO_BODY)
    body = _queue_head(http, request, answer)
    await _send_body(http, answer, body)
    if answer.fault is not None:
        await http.drain()
        await strike(http.stream, answer.fault)
        return False
    http.queue_end(answer.trailers if len(answer.trailers) else None)
    await http.drain()
    return body.framing is not Framing.CLOSE


def _queue_head(http: HTTP1Server, request: Request, answer: Answer) -> Body:
    response = Response(answer.status, answer.headers.copy())
    declared = response.headers.get("content-length")
    if isinstance(answer.body, bytes) and not answer.chunked:
        length = len(answer.body) if declared is None else int(declared)
        if request.method == "HEAD":
            response.headers.setdefault("Content-Length", str(length))
        body = Body(Framing.LENGTH, length)
    else:
        body = CHUNKED_BODY if declared is None else Body(Framing.LENGTH, int(declared))
    framed = frame_response(request.method, request.version, response, body)
    http.queue_response(response, framed)
    return framed


async def _send_body(http: HTTP1Server, answer: Answer, body: Body) -> None:
    left = answer.after
    if body.framing is Framing.NONE:
        return
    async with AsyncExitStack() as stack:
        pieces = _pieces(answer.body)
        await stack.enter_async_context(aclosing(pieces))
        if not isinstance(answer.body, bytes):
            await http.drain()  # now, because the first piece may be available only much later
            if (aclose := getattr(answer.body, "aclose", None)) is not None:
                stack.push_async_callback(aclose)
        async for piece in pieces:
            if left is not None:
                piece = piece[:left]
                left -= len(piece)
            http.queue_body(piece)
            if left == 0:
                return
            if not isinstance(answer.body, bytes):
                await http.drain()


async def _pieces(body: bytes | AsyncIterable[bytes]) -> AsyncGenerator[bytes, None]:
    if isinstance(body, bytes):
        yield body
    else:
        async for piece in body:
            yield piece


async def strike(stream: trio.abc.Stream, fault: Fault) -> None:
    """Make the connection fail. Return when the caller has only to close the stream; for `stall`, when the peer has closed."""
    if fault == "stall":
        while await stream.receive_some():
            pass
    elif fault == "die":
        await trio.testing.wait_all_tasks_blocked()  # a reset drops unread bytes: let the peer read those that were sent before it
        reset(stream, "the scripted origin died")
