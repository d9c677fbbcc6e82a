"""One attempt at an origin: the request goes out, the response comes in, and both bodies stream at once.

The law: the response side is the transaction; the request body beside it is a helper that never raises. What it meets is noted and the
response side is told, by way of the one function (`_beside`) that runs two things together and lets one error out, unwrapped.

Who breaks is told apart here: the client's stream raises trio's errors as they are (it is gone), the origin's become a
`TransactionFailure`.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable

import trio

from trio_tsconnect.engine._errors import TransactionFailure
from trio_tsconnect.engine._hooks import fire
from trio_tsconnect.engine._pool import OriginConnection
from trio_tsconnect.engine._prepare import clean_response, frame_for_client, prepare_request
from trio_tsconnect.engine._respond import finish_request
from trio_tsconnect.engine._states import State
from trio_tsconnect.engine._transaction import Transaction
from trio_tsconnect.engine._watch import Watch
from trio_tsconnect.message import NO_BODY, Body, Failure, Framing, MessageError, Response, TargetURI, keep_alive, strip_hop_by_hop
from trio_tsconnect.stream import DRAIN_ABOVE, HTTP1Client, IncompleteMessage


async def exchange(txn: Transaction, connection: OriginConnection) -> None:
    """Send the request on this connection, relay the response, and give the connection back if it is good for another."""
    if txn.attempts == 1:
        prepare_request(txn)
    txn.enter(State.SEND_REQUEST)
    await fire(txn, txn.hooks.send_request)
    if await _send_head(txn, connection.http):
        txn.enter(State.READ_RESPONSE)
        await _relay_response(txn, connection)
    else:
        txn.enter(State.READ_RESPONSE)
        await _beside(lambda: _relay_response(txn, connection), lambda: _pump_request(txn, connection.http))
    await finish_request(txn)


async def _send_head(txn: Transaction, http: HTTP1Client) -> bool:
    """Write the head, and what has come of the body, in one piece; whether that was all."""
    client = txn.session.http
    http.queue_request(txn.request, client.body, target=_line_target(txn))
    complete = _queue_what_is_there(txn, http)
    txn.watch.arm(Failure.ORIGIN_INACTIVITY, txn.config.inactivity_timeout)
    try:
        await http.drain()
    except trio.BrokenResourceError:
        pass  # an origin may answer before it has read, and close: the response, or its absence, tells
    return complete


def _line_target(txn: Transaction) -> str:
    if txn.uri is not None and txn.request.target == txn.origin_url:
        return txn.uri.path
    try:
        return TargetURI.parse(txn.request.target).path  # a plugin has changed it in send_request
    except ValueError:
        return txn.request.target


def _queue_what_is_there(txn: Transaction, http: HTTP1Client) -> bool:
    """Move what the client's buffer holds of the body to the origin's queue, up to a good write; whether that was all of it."""
    client = txn.session.http
    while http.queued < DRAIN_ABOVE:
        try:
            piece = client.body_piece()
        except MessageError as exc:
            raise TransactionFailure(exc) from None
        if piece is None:
            return False
        if not piece:
            http.queue_end(client.trailers)
            return True
        _count_request(txn, len(piece))
        http.queue_body(piece)
    return False


def _count_request(txn: Transaction, size: int) -> None:
    txn.request_bytes += size
    limit = txn.config.max_request_body
    if limit is not None and txn.request_bytes > limit:
        raise TransactionFailure(Failure.REQUEST_TOO_LARGE, f"The request body is larger than {limit} bytes.")


async def _pump_request(txn: Transaction, http: HTTP1Client) -> None:
    """Stream the rest of the request body. The origin going away is no failure here: its response decides."""
    client, timeout = txn.session.http, txn.config.inactivity_timeout
    watch = Watch()
    txn.sending_body = True
    with watch.scope:
        while True:
            complete = _queue_what_is_there(txn, http)
            if http.queued:
                watch.arm(Failure.ORIGIN_INACTIVITY, timeout)
                try:
                    await http.drain()
                except trio.BrokenResourceError:
                    return
            if complete:
                break
            if http.queued or client.buffered >= DRAIN_ABOVE:
                continue
            watch.arm(Failure.REQUEST_BODY_TIMEOUT, timeout)
            if not await client.fill():
                raise TransactionFailure(Failure.CLIENT_GONE, "The client ended its input within a request body.")
    watch.check()
    txn.sending_body = False
    if txn.state is State.READ_RESPONSE:
        txn.watch.arm(Failure.ORIGIN_RESPONSE_TIMEOUT, txn.origin_config.response_timeout)


async def _beside(main: Callable[[], Awaitable[None]], helper: Callable[[], Awaitable[None]]) -> None:
    """Run `main` with `helper` beside it. The end of `main` ends both; the first failure of either comes out as it is."""
    failure: Exception | None = None

    async def run_helper() -> None:
        nonlocal failure
        try:
            await helper()
        except Exception as exc:
            failure = failure or exc
            nursery.cancel_scope.cancel()

    async with trio.open_nursery() as nursery:
        nursery.start_soon(run_helper)
        try:
            await main()
        except Exception as exc:
            failure = failure or exc
        nursery.cancel_scope.cancel()
    if failure is not None:
        raise failure


async def _relay_response(txn: Transaction, connection: OriginConnection) -> None:
    http = connection.http
    response = await _read_head(txn, http)
    persists = keep_alive(response.version, response.headers)
    clean_response(txn, response)
    txn.enter(State.SEND_RESPONSE)
    await fire(txn, txn.hooks.send_response)
    response = txn.response
    body = frame_for_client(txn, response, http.body)
    client = txn.session.http
    txn.status = response.status
    txn.response_begun = True
    client.queue_response(response, body)
    await _relay_body(txn, http, body)
    txn.response_complete = True
    if persists and http.reusable:
        http.next_cycle()
        txn.origin = None
        if not txn.proxy.pool.release(connection, txn.origin_config):
            await txn.proxy.pool.discard(connection)


async def _read_head(txn: Transaction, http: HTTP1Client) -> Response:
    """The final response head; interim ones are relayed on the way (RFC 9110 §15.2)."""
    if not txn.session.http.body_complete:
        txn.watch.disarm()  # the response is due from the end of the request on
    else:
        txn.watch.arm(Failure.ORIGIN_RESPONSE_TIMEOUT, txn.origin_config.response_timeout)
    while True:
        try:
            response = await http.read_response()
        except MessageError as exc:
            raise TransactionFailure(exc) from None
        except (IncompleteMessage, trio.BrokenResourceError) as exc:
            if isinstance(exc, IncompleteMessage) and exc.began:
                raise TransactionFailure(Failure.ORIGIN_BAD_RESPONSE, "The origin closed within a response head.") from None
            raise TransactionFailure(Failure.ORIGIN_CLOSED, "The origin closed the connection without an answer.") from None
        txn.response = response
        txn.origin_status = response.status
        deadline = txn.watch.scope.deadline
        txn.watch.disarm()
        await fire(txn, txn.hooks.read_response)
        if response.status == 101:
            raise TransactionFailure(Failure.ORIGIN_BAD_RESPONSE, "The origin switched protocols, which nobody asked for.")
        if response.status >= 200:
            return txn.response
        await _relay_interim(txn, txn.response)
        txn.watch.rearm(Failure.ORIGIN_RESPONSE_TIMEOUT, deadline)


async def _relay_interim(txn: Transaction, response: Response) -> None:
    if txn.version == "1.0":
        return  # RFC 9110 §15.2: an HTTP/1.0 client must not get any
    strip_hop_by_hop(response.headers)
    response.headers.remove((b"content-length", b"transfer-encoding"))
    client = txn.session.http
    txn.interim_sent = True
    client.queue_response(response, NO_BODY)
    txn.watch.arm(Failure.CLIENT_TIMEOUT, txn.config.inactivity_timeout)
    await client.drain()


async def _relay_body(txn: Transaction, http: HTTP1Client, body: Body) -> None:
    """Stream the response body; one write for each read, and the head goes with the first."""
    client, watch, timeout = txn.session.http, txn.watch, txn.config.inactivity_timeout
    wanted = body.framing is not Framing.NONE
    while wanted:
        try:
            piece = http.body_piece()
        except MessageError as exc:
            raise TransactionFailure(exc) from None
        if piece:
            txn.response_bytes += len(piece)
            client.queue_body(piece)
            if client.queued < DRAIN_ABOVE:
                continue
        elif piece is not None:
            break
        if client.queued:
            watch.arm(Failure.CLIENT_TIMEOUT, timeout)
            await client.drain()
        if piece is None:
            watch.arm(Failure.ORIGIN_INACTIVITY, timeout)
            await _fill(http)
    client.queue_end(http.trailers)
    watch.arm(Failure.CLIENT_TIMEOUT, timeout)
    await client.drain()
    watch.disarm()


async def _fill(http: HTTP1Client) -> None:
    try:
        more = await http.fill()
    except trio.BrokenResourceError:
        raise TransactionFailure(Failure.ORIGIN_TRUNCATED, "The origin's connection broke within a response.") from None
    if not more and http.body.framing is not Framing.CLOSE:
        raise TransactionFailure(Failure.ORIGIN_TRUNCATED, "The origin closed within a response.")
