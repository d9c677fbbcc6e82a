"""Responses that do not come from an origin: those of plugins, of the proxy itself, and of failures."""

from __future__ import annotations

import math
from functools import partial

import trio

from trio_tsconnect.engine._hooks import blame_transform, fire
from trio_tsconnect.engine._prepare import add_date, frame_for_client
from trio_tsconnect.engine._release import drop_origin
from trio_tsconnect.engine._transaction import EngineTransaction
from trio_tsconnect.engine._transforms import Transforms
from trio_tsconnect.engine._watch import Pace
from trio_tsconnect.hooks import State
from trio_tsconnect.message import (
    EMPTY_BODY,
    NO_BODY,
    BadRequest,
    Body,
    Failure,
    Framing,
    MessageError,
    Request,
    Response,
    TransactionFailure,
    error_page,
    has_no_content,
    max_forwards,
    outcome,
)
from trio_tsconnect.stream import DRAIN_ABOVE, IncompleteMessage, VirtualConnection, request_to_bytes, reset

# RFC 9110 §9.3.8: the response to TRACE must not contain credentials or cookies.
_SECRET = frozenset({b"authorization", b"proxy-authorization", b"cookie"})
_METHODS = b"GET, HEAD, POST, PUT, PATCH, DELETE, OPTIONS, TRACE"


_OF_THE_CONTENT = frozenset(
    b"content-length content-encoding etag last-modified accept-ranges content-md5 digest content-digest repr-digest".split()
)


async def send_answer(txn: EngineTransaction) -> None:
    """Send the response that a plugin or the proxy has made (`txn.response`, `txn.answer`)."""
    if txn.state is not State.SEND_RESPONSE:  # otherwise a hook of this state has made the response
        txn.enter(State.SEND_RESPONSE)
        if txn.hooks.send_response:
            await _fire_for(txn)
    if opens_a_stream(txn, txn.response):
        raise TransactionFailure(
            Failure.PLUGIN, "A plugin answered a request to switch protocols with 2xx, not 101; an HTTP/2 client would take it for a 101."
        )
    if txn.answer and txn.response_transforms and (transforms := transforms_of(txn, txn.response)) is not None:
        txn.answer = await transforms.whole(txn.answer)
    _tell_source(txn, None)
    await _send(txn, txn.response, txn.answer or b"")
    txn.end(txn.response_source, "responded")


async def _fire_for(txn: EngineTransaction) -> None:
    """Run the hooks of `send_response` for an answer. A refusal is sent as it was made if one of them fails."""
    refusal = (txn.response.copy(), txn.answer) if txn.refused_by is not None else None
    try:
        await fire(txn, txn.hooks.send_response)
    except TransactionFailure:
        if refusal is None:
            raise
        txn.response, txn.answer = refusal


def opens_a_stream(txn: EngineTransaction, response: Response) -> bool:
    """Return True if `response` is a 2xx to extended CONNECT.

    An HTTP/2 client would take it for a switch of protocols (RFC 8441 §5). Only a 101 of the origin may become one.
    The front end sends extended CONNECT as an HTTP/1.1 request with Upgrade. No other request of a stream has Upgrade (RFC 9113 §8.2.2).
    """
    return 200 <= response.status <= 299 and txn.client.stream is not None and not txn.internal and txn.asks_for_switch


def answer_here(txn: EngineTransaction) -> bool:
    """Decrement Max-Forwards (RFC 9110 §7.6.2). Return True if it was 0: the proxy is the final recipient and has made the response.

    The response is in `txn.response` and `txn.answer`. Raise `TransactionFailure` if the field is invalid.
    """
    request = txn.request
    if b"max-forwards" not in request.headers:
        return False
    try:
        left = max_forwards(request)
    except BadRequest as exc:
        raise TransactionFailure(exc) from None
    if left is None:
        return False
    if left > 0:
        request.headers[b"Max-Forwards"] = b"%d" % (left - 1)
        return False
    if request.method == "OPTIONS":
        txn.response, txn.answer = Response(200, [("Allow", _METHODS)]), b""
    else:
        echoed = Request(request.method, request.target, [(n, v) for n, v in request.headers.raw() if n.lower() not in _SECRET])
        txn.response, txn.answer = Response(200, [("Content-Type", "message/http")]), request_to_bytes(echoed, echoed.target)
    return True


async def send_failure(txn: EngineTransaction, failed: TransactionFailure) -> None:
    """Send the error response for a failure. If a response has begun, cut it short in a way that the client can detect."""
    if txn.response_complete:  # the response was sent; only the connection is affected
        txn.keep_alive = False
        return
    result = outcome(failed.failure)
    txn.end(result.by, result.why)
    txn.answer = txn.replaced = txn.retry_target = None  # an answer that was not sent
    txn.response_source = "proxy"
    if failed.failure in (Failure.ACCESS_DENIED, Failure.CONNECT_DENIED):
        txn.refused_by = "an access rule"
    if txn.response_begun and txn.session.http.take_back():  # the head was queued but not written: an error response can replace it
        unsay(txn)
    await drop_origin(txn)
    if result.status is None or txn.response_begun:
        txn.keep_alive = False
        if result.status is None:
            txn.session.broken = True  # no response can be delivered: close without lingering
        cut_short(txn)
        return
    page, content_type = error_page(result.status, failed.detail)
    response = Response(result.status, [("Content-Type", content_type), ("Cache-Control", "no-store")])
    if failed.failure is not Failure.NO_REMAP_RULE and (result.by == "client" or not txn.has_request):
        txn.wants_keep_alive = False  # the next bytes on this connection may not be a request
    await _send_failure_response(txn, response, page)


def unsay(txn: EngineTransaction) -> None:
    """Reset the state of a response that was begun but not sent, so that another can be sent and the record shows none."""
    txn.response_begun = txn.close_delimited = False
    txn.status = None
    txn.response_bytes = 0


def cut_short(txn: EngineTransaction) -> None:
    """Give up a response that has begun, so that the client can detect that it is incomplete.

    With Content-Length or the chunked coding the client detects it by itself, so bytes that were written are still delivered. A body that
    ends with the connection would look complete (RFC 9112 §6.3), so the connection is reset.
    """
    txn.keep_alive = False
    if txn.response_begun and not txn.response_complete and txn.close_delimited:
        txn.session.broken = True
        reset(txn.session.stream, txn.ended.why if txn.ended else "cut")


async def _send_failure_response(txn: EngineTransaction, response: Response, page: bytes) -> None:
    if txn.state is not State.SEND_RESPONSE:
        txn.enter(State.SEND_RESPONSE)
    # The watch of the transaction has ended, so a limit of its own is needed: `inactivity_timeout` from now, and not later than
    # `error_timeout` after the end of the transaction.
    now = trio.current_time()
    latest = min(now + txn.config.inactivity_timeout, max(now, txn.watch.end) + txn.config.error_timeout)
    txn.response = response.copy()
    with trio.move_on_at(latest) as hooks_scope:
        try:
            await fire(txn, txn.hooks.send_response)
            if txn.answer is not None:
                page = txn.answer
        except TransactionFailure:
            if txn.refused_by is None:
                txn.response_source = "proxy"
                response, page = Response(500, [("Content-Type", "text/plain; charset=utf-8")]), error_page(500, "A plugin failed.")[0]
            txn.response = response
    if hooks_scope.cancel_called:  # not `cancelled_caught`: a hook may swallow the cancellation
        txn.response = response
        latest += txn.config.error_timeout
    _tell_source(txn, txn.ended.why if txn.ended else None)
    with trio.move_on_at(latest) as scope:
        await _send(txn, txn.response, page)
    if scope.cancelled_caught and not txn.response_complete:
        txn.session.broken = True  # the client does not read: close without lingering
        cut_short(txn)


def _tell_source(txn: EngineTransaction, cause: str | None) -> None:
    """Tell the opener of a virtual connection who has made the response, for `fetch`."""
    stream = txn.session.stream
    if isinstance(stream, VirtualConnection):
        stream.tell_source(txn.response_source, cause)


async def _send(txn: EngineTransaction, response: Response, content: bytes) -> None:
    """Write a response with a body of known length, then read the rest of the request body if the connection persists."""
    http = txn.session.http
    add_date(txn, response)
    silent = has_no_content(txn.method or "GET", response.status)
    if (
        silent
        and txn.method == "HEAD"
        and not txn.response_transforms
        and response.status not in (204, 304)
        and b"content-length" not in response.headers
    ):
        response.headers[b"Content-Length"] = b"%d" % len(content)
    body = NO_BODY if silent else Body(Framing.LENGTH, len(content)) if content else EMPTY_BODY
    body = frame_for_client(txn, response, body)
    txn.status = response.status
    txn.response_begun = True
    http.queue_response(response, body)
    if body.framing is not Framing.NONE and body.length:
        for start in range(0, len(content), DRAIN_ABOVE):
            if start:  # one write for each piece: the timeout begins anew with each
                await write_to_client(txn)
            piece = content[start : start + DRAIN_ABOVE]
            http.queue_body(piece)
            txn.response_bytes += len(piece)
    http.queue_end()
    await trio.lowlevel.checkpoint_if_cancelled()
    if txn.keep_alive or not http.drain_now():  # with keep-alive `drain`, because it is a checkpoint between two requests
        await write_to_client(txn)
    txn.response_complete = True
    if txn.keep_alive:
        await finish_request(txn)


def transforms_of(txn: EngineTransaction, response: Response) -> Transforms | None:
    """Return the chain of transforms for the body of `response`; None if it has no body. Then the fields that describe one are removed."""
    if has_no_content(txn.method or "GET", response.status):
        # RFC 9110 §8.6, §15.4.5: these fields would describe the content before the transforms.
        response.headers.remove(_OF_THE_CONTENT)
        return None
    return None if response.status == 205 else Transforms(txn.response_transforms, partial(blame_transform, txn))


async def write_to_client(txn: EngineTransaction) -> None:
    """Write the queued bytes to the client. If it does not read them in time, the transaction ends with `CLIENT_TIMEOUT`.

    The time is `http.inactivity_timeout`, or less for `http.min_rate`.
    """
    config, origin = txn.config, txn.origin
    if config.min_rate is None and (origin is None or not origin.holder):
        txn.watch.arm(Failure.CLIENT_TIMEOUT, config.inactivity_timeout)
        await txn.session.http.drain()
        return
    seconds = config.inactivity_timeout
    if config.min_rate is not None:
        if txn.response_pace is None:
            txn.response_pace = Pace(config.min_rate, config.header_timeout)
        seconds = txn.response_pace.begin(txn.response_bytes, seconds)
    txn.watch.arm(Failure.CLIENT_TIMEOUT, seconds)
    if origin is not None:
        origin.stalled_since = trio.current_time()
    await txn.session.http.drain()
    if origin is not None:
        origin.stalled_since = math.inf
    if txn.response_pace is not None:
        txn.response_pace.end()


async def finish_request(txn: EngineTransaction) -> None:
    """Read and discard the rest of the request body, for `http.linger_timeout` seconds at most.

    `_body_allows_keep_alive` has checked its length. If the body does not end in time, `txn.keep_alive` becomes False.
    """
    http = txn.session.http
    if http.body_complete:
        return
    with trio.move_on_after(txn.config.linger_timeout):
        try:
            while piece := await http.receive_body():
                txn.request_bytes += len(piece)
        except (IncompleteMessage, MessageError, trio.BrokenResourceError):
            pass  # the response was sent, so this is no failure; the connection just closes
    txn.keep_alive = txn.keep_alive and http.body_complete
