"""One attempt at an origin: send the request and forward the response, both bodies at the same time.

Invariant: the response is forwarded in the task of the transaction; a helper task sends the part of the request body that did
not go out with the head. `_beside` runs both. If the helper fails, it cancels the response side and its error is raised, not in a group.

Errors of the two streams are told apart here: those of the client's stream are raised as trio's errors (the client is gone), those of the
origin's stream become a `TransactionFailure`.
"""

from __future__ import annotations

import enum
from collections.abc import Awaitable, Callable

import trio

from trio_tsconnect.engine._bodies import begin_to_wait_for_body, end_to_wait_for_body, next_request_piece
from trio_tsconnect.engine._hooks import fire
from trio_tsconnect.engine._prepare import add_deadline, add_ours, frame_for_client, frame_for_origin, prepare_request, settle_request
from trio_tsconnect.engine._respond import finish_request, opens_a_stream, transforms_of, write_to_client
from trio_tsconnect.engine._transaction import EngineTransaction
from trio_tsconnect.engine._transformed import Withheld, fill_response, relay_transformed, send_transformed
from trio_tsconnect.engine._tunnel import tunnel
from trio_tsconnect.engine._watch import Watch
from trio_tsconnect.hooks import State
from trio_tsconnect.message import (
    CHUNKED_BODY,
    NO_BODY,
    URL,
    Failure,
    Framing,
    MessageError,
    Response,
    TransactionFailure,
    add_via,
    drop_claimed,
    drop_twins,
    keep_alive,
    strip_hop_by_hop,
)
from trio_tsconnect.origin import OriginConnection
from trio_tsconnect.stream import DRAIN_ABOVE, HTTP1Client, IncompleteMessage, holds_input

_PIECES_A_TURN = 4
"""Pieces of a request body that are queued before the next write, which is a checkpoint. A piece can consist of many small chunks."""


class Again(Exception):
    """Raised if a plugin has asked for another attempt (`Transaction.retry`)."""


class Answered(Exception):
    """Raised if a plugin has replaced the response of the origin (`Transaction.respond`)."""


async def exchange(txn: EngineTransaction, connection: OriginConnection) -> None:
    """Send the request on `connection` and forward the response. Return the connection to the pool if it can be reused.

    Raise `Again` if a plugin asks for another attempt, `Answered` if one has replaced the response, `TransactionFailure` if the attempt
    fails, trio's errors if the client is gone.
    """
    if not txn.prepared:
        prepare_request(txn)
        txn.prepared = True
    else:
        add_deadline(txn)
    txn.enter(State.SEND_REQUEST)
    txn.before_attempt = (txn.request_transforms, txn.response_transforms)
    if txn.hooks.send_request:
        await fire(txn, txn.hooks.send_request)
        check_replaced(txn)
        settle_request(txn)
    if txn.config.underscores == "owned":  # after the hooks, so that the fields they have set count as owned
        deadline_header = txn.config.deadline_header
        drop_twins(txn.request.headers, (deadline_header.lower().encode(),) if deadline_header else ())
    if await _send_head(txn, connection.http):
        txn.enter(State.READ_RESPONSE)
        await _relay_response(txn, connection)
    else:
        txn.enter(State.READ_RESPONSE)
        assert txn.session.nursery is not None
        await _beside(txn.session.nursery, lambda: _relay_response(txn, connection), lambda: _pump_request(txn, connection.http))
    if txn.keep_alive:
        await finish_request(txn)


async def connect_tunnel(txn: EngineTransaction, connection: OriginConnection) -> None:
    """Answer CONNECT with 200 and forward bytes until the tunnel ends (RFC 9110 §9.3.6)."""
    txn.response = Response(200, reason="Connection Established")
    txn.enter(State.SEND_RESPONSE)
    await fire(txn, txn.hooks.send_response)
    check_replaced(txn)
    await _begin_tunnel(txn, connection, txn.response)


# ---------------------------------------------------------------------------------------------------------------------- the request


async def _send_head(txn: EngineTransaction, http: HTTP1Client) -> bool:
    """Write the request head and the buffered part of the body in one write. Return True if that was the whole request."""
    if txn.request_body_lost:
        raise TransactionFailure(Failure.PLUGIN, "A plugin has read only a part of the request body.")
    body = frame_for_origin(txn)
    http.queue_request(txn.request, body, target=_line_target(txn))
    moved = _queue_what_is_there(txn, http) if txn.request_chain is None else _Moved.A_TURN
    txn.watch.arm(Failure.ORIGIN_INACTIVITY, txn.config.inactivity_timeout)
    try:
        await http.drain()
    except trio.BrokenResourceError:
        pass  # the origin may respond and close before it has read the request: `_read_head` decides
    return moved is _Moved.ALL


def _line_target(txn: EngineTransaction) -> str:
    """Return the target for the request line: the path of the URI, or what a plugin has set instead."""
    if txn.uri is not None and txn.request.target == txn.origin_url:
        return txn.uri.target
    try:
        return URL.parse(txn.request.target).target  # a plugin has changed it in send_request
    except ValueError:
        return txn.request.target


class _Moved(enum.Enum):
    """How much of a request body was queued."""

    ALL = enum.auto()
    """All of it."""
    WHAT_CAME = enum.auto()
    """What was read from the client; the rest must be read first."""
    A_TURN = enum.auto()
    """As much as one write should have; more may be buffered."""


def _queue_what_is_there(txn: EngineTransaction, http: HTTP1Client) -> _Moved:
    """Move buffered request body to the origin's queue: until `DRAIN_ABOVE` bytes are queued, `_PIECES_A_TURN` pieces at most."""
    for _ in range(_PIECES_A_TURN):
        if http.queued >= DRAIN_ABOVE:
            break
        piece = next_request_piece(txn)
        if piece is None:
            return _Moved.WHAT_CAME
        if not piece:
            trailers = txn.session.http.trailers
            http.queue_end(trailers and drop_claimed(trailers, txn.request.headers, present=True))
            return _Moved.ALL
        http.queue_body(piece)
    return _Moved.A_TURN


async def _pump_request(txn: EngineTransaction, http: HTTP1Client) -> None:
    """Send the rest of the request body. Return early if the origin closes: its response, or the lack of one, decides."""
    client, timeout = txn.session.http, txn.config.inactivity_timeout
    watch = Watch(txn.core.timer)  # a separate one: the response side uses `txn.watch` at the same time
    with watch:
        if txn.request_chain is not None:
            try:
                await send_transformed(txn, http, watch, txn.request_chain)
            except (trio.BrokenResourceError, Withheld):
                return
        while txn.request_chain is None:
            if txn.retry_target is not None:  # what is taken now would be missing in the next attempt
                return
            moved = _queue_what_is_there(txn, http)
            if http.queued:
                watch.arm(Failure.ORIGIN_INACTIVITY, timeout)
                try:
                    await http.drain()
                except trio.BrokenResourceError:
                    return
            if moved is _Moved.ALL:
                break
            if moved is _Moved.A_TURN:
                continue
            watch.arm(Failure.REQUEST_BODY_TIMEOUT, begin_to_wait_for_body(txn))
            if not await client.fill():
                raise TransactionFailure(Failure.CLIENT_GONE, "The client ended its input within a request body.")
            end_to_wait_for_body(txn)
            if txn.body_withheld:  # what was just read may be another request
                return
    if watch.fired is Failure.ORIGIN_INACTIVITY and txn.head_received:
        return  # the origin has answered without the rest of the request: its response counts
    watch.check()
    response_is_due(txn)
    if txn.awaits_head:
        txn.watch.rearm(Failure.ORIGIN_RESPONSE_TIMEOUT, txn.response_due)


async def _beside(nursery: trio.Nursery, main: Callable[[], Awaitable[None]], helper: Callable[[], Awaitable[None]]) -> None:
    """Run `main`, with `helper` in a task beside it. When `main` ends, `helper` is cancelled. The first error is raised, not in a group."""
    failure: Exception | None = None
    main_scope, helper_scope = trio.CancelScope(), trio.CancelScope()
    helper_done = trio.Event()

    async def run_helper() -> None:
        nonlocal failure
        try:
            with helper_scope:
                await helper()
        except Exception as exc:  # noqa: BLE001 - raised again, after the other side has ended
            failure = exc
            main_scope.cancel()
        finally:
            helper_done.set()

    nursery.start_soon(run_helper, name="request body")
    try:
        with main_scope:
            await main()
    finally:
        helper_scope.cancel()
        with trio.CancelScope(shield=True):  # short: the helper ends at its next checkpoint
            await helper_done.wait()
    if failure is not None:
        raise failure


# --------------------------------------------------------------------------------------------------------------------- the response


async def _relay_response(txn: EngineTransaction, connection: OriginConnection) -> None:
    """Read the response and forward it. Return the connection to the pool if it can be reused."""
    http = connection.http
    response, persists = await _read_head(txn, http)
    if response.status == 101:
        await _switch_protocols(txn, connection, response)
        return
    add_ours(txn, response)
    txn.enter(State.SEND_RESPONSE)
    await fire(txn, txn.hooks.send_response)
    check_replaced(txn)
    response = txn.response
    if opens_a_stream(txn, response):
        raise TransactionFailure(
            Failure.ORIGIN_BAD_RESPONSE,
            "The origin answered a request to switch protocols with 2xx, not 101; an HTTP/2 client would take it for a 101.",
        )
    transforms = transforms_of(txn, response) if txn.response_transforms else None
    if txn.expects_continue and not txn.expectation_met and not txn.request_bytes:
        # RFC 9110 §10.1.1: after a final response the client need not send the body. Its next bytes may be another request. The origin
        # would take that for the body or, worse, for a request, which no rule has checked.
        txn.body_withheld = True
    body = frame_for_client(txn, response, CHUNKED_BODY if transforms else http.body)
    txn.status = response.status
    txn.response_begun = True
    txn.close_delimited = body.framing is Framing.CLOSE
    txn.session.http.queue_response(response, body)
    silent = body.framing is Framing.NONE or (body.empty and not http.body.empty)
    if transforms is not None:  # so there is a body to forward
        await relay_transformed(txn, http, transforms)
    else:
        await _relay_body(txn, http, silent=silent)
    txn.response_complete = True
    if persists and http.reusable and not await holds_input(connection.stream) and txn.core.pool.release(connection, txn.origin_config):
        txn.origin = None


def check_replaced(txn: EngineTransaction) -> None:
    """Raise `Answered` if a plugin has replaced the response."""
    if txn.answer is not None:
        raise Answered


async def _read_head(txn: EngineTransaction, http: HTTP1Client) -> tuple[Response, bool]:
    """Read the final response head, or a 101. Return it, and True if the origin's connection persists.

    Interim responses before it are forwarded (RFC 9110 §15.2). Raise `Again` if a plugin has asked for another attempt.
    """
    if txn.session.http.body_complete:
        response_is_due(txn)
    while True:
        txn.watch.rearm(Failure.ORIGIN_RESPONSE_TIMEOUT, txn.response_due)
        txn.awaits_head = True
        try:
            response = await http.read_response()
        except MessageError as exc:
            raise TransactionFailure(exc) from None
        except (IncompleteMessage, trio.BrokenResourceError) as exc:
            if isinstance(exc, IncompleteMessage) and exc.began:
                raise TransactionFailure(Failure.ORIGIN_BAD_RESPONSE, "The origin closed the connection within a response head.") from None
            raise TransactionFailure(Failure.ORIGIN_CLOSED, "The origin closed the connection without a response.") from None
        finally:
            txn.awaits_head = False
        txn.head_received = response.status >= 200 or response.status == 101
        if txn.before_response is None:
            txn.before_response = txn.response_transforms
        txn.response = response
        status = txn.origin_status = response.status
        persists = txn.origin_persists = keep_alive(response.version, response.headers)
        if status != 101:  # before the hook: fields that plugins set here are for the client's connection
            strip_hop_by_hop(response.headers)
        txn.watch.disarm()
        await fire(txn, txn.hooks.read_response)
        if txn.retry_target is not None:
            if not txn.can_repeat:
                raise TransactionFailure(Failure.INTERNAL, "A part of the request body is missing for another attempt.")
            raise Again
        check_replaced(txn)
        if (status < 200 or txn.response.status < 200) and txn.response.status != status:
            raise TransactionFailure(Failure.PLUGIN, "A plugin changed the status of an interim response, or a final status to 1xx.")
        if status == 101 and not txn.session.http.body_complete:  # RFC 9110 §7.8: only after the whole request was read
            raise TransactionFailure(Failure.ORIGIN_BAD_RESPONSE, "The origin switched protocols before it had received the whole request.")
        if status >= 200 or (status == 101 and txn.upgrade is not None):
            return txn.response, persists
        if status == 101:
            raise TransactionFailure(Failure.ORIGIN_BAD_RESPONSE, "The origin switched protocols without being asked to.")
        await _relay_interim(txn, txn.response)


def response_is_due(txn: EngineTransaction) -> None:
    """Start `origin.response_timeout`: the whole request was sent."""
    txn.response_due = trio.current_time() + txn.origin_config.response_timeout


async def _relay_interim(txn: EngineTransaction, response: Response) -> None:
    """Forward an interim response. Raise `TransactionFailure` if there are more than `origin.max_interim`."""
    if txn.version == "1.0":
        return  # RFC 9110 §15.2: an HTTP/1.0 client must not get a 1xx
    txn.interims += 1
    if txn.interims > txn.origin_config.max_interim:
        raise TransactionFailure(Failure.ORIGIN_BAD_RESPONSE, "The origin sent too many interim responses.")
    strip_hop_by_hop(response.headers)
    response.headers.remove((b"content-length", b"transfer-encoding"))
    client = txn.session.http
    txn.interim_sent = True
    if response.status == 100:
        txn.expectation_met = True
    client.queue_response(response, NO_BODY)
    txn.watch.arm(Failure.CLIENT_TIMEOUT, txn.config.inactivity_timeout)
    await client.drain()


async def _relay_body(txn: EngineTransaction, http: HTTP1Client, *, silent: bool) -> None:
    """Forward the response body, with one write for each read. The head, which is queued already, goes out with the first.

    `silent`: there is no body to forward.
    """
    client, watch, timeout = txn.session.http, txn.watch, txn.config.inactivity_timeout
    while not silent:
        try:
            piece = http.body_piece()
        except MessageError as exc:
            if client.queued:  # first send what is valid, so that the result does not depend on how the bytes were split
                await write_to_client(txn)
            raise TransactionFailure(exc) from None
        at_end = piece == b""
        if piece:
            txn.response_bytes += len(piece)
            client.queue_body(piece)
        if at_end:
            break
        if piece is not None and client.queued < DRAIN_ABOVE:
            continue
        if client.queued:
            await write_to_client(txn)
        if piece is None:
            watch.arm(Failure.ORIGIN_INACTIVITY, timeout)
            await fill_response(http)
    client.queue_end(http.trailers and drop_claimed(http.trailers, txn.response.headers))
    await write_to_client(txn)
    watch.disarm()


# ---------------------------------------------------------------------------------------------------------------------- the tunnel


async def _switch_protocols(txn: EngineTransaction, connection: OriginConnection, response: Response) -> None:
    """Forward a 101, then bytes both ways until the tunnel ends (RFC 9110 §7.8)."""
    chosen = response.headers.tokens("upgrade")
    if not chosen or not set(chosen) <= set(txn.upgrade or ()):
        raise TransactionFailure(Failure.ORIGIN_BAD_RESPONSE, "The origin switched to a protocol that was not offered.")
    strip_hop_by_hop(response.headers, keep_upgrade=True)
    if txn.config.via:
        add_via(response.headers, response.version, txn.config.via)
    txn.enter(State.SEND_RESPONSE)
    await fire(txn, txn.hooks.send_response)
    check_replaced(txn)
    await _begin_tunnel(txn, connection, txn.response)


async def _begin_tunnel(txn: EngineTransaction, connection: OriginConnection, response: Response) -> None:
    """Write the response head and run the tunnel."""
    client = txn.session.http
    txn.keep_alive = False
    txn.status = response.status
    txn.response_begun = True
    client.queue_response(response, NO_BODY)
    txn.watch.arm(Failure.CLIENT_TIMEOUT, txn.config.inactivity_timeout)
    await client.drain()
    txn.enter(State.TUNNEL)
    if txn.session.input_reader is not None:  # before `take_buffer` below, which takes what it has read
        await txn.session.input_reader.stop()

    def count_request(size: int) -> None:
        txn.request_bytes += size

    def count_response(size: int) -> None:
        txn.response_bytes += size

    await tunnel(
        client.stream,
        connection.stream,
        from_client=client.take_buffer(),
        from_origin=connection.http.take_buffer(),
        watch=txn.watch,
        idle_timeout=txn.config.tunnel_timeout,
        client_has_gone=lambda: txn.session.client_has_gone,
        count_request=count_request,
        count_response=count_response,
    )
    txn.response_complete = True
