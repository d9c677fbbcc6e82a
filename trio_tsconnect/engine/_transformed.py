"""Forwarding bodies through transforms.

Invariant: before it waits for more of a body, or for a transform, the proxy has sent what it has. So a transform delays no byte that it has
released. Bodies without transforms take the shorter ways in `_exchange`.
"""

from __future__ import annotations

import trio

from trio_tsconnect.engine._bodies import begin_to_wait_for_body, count_request, end_to_wait_for_body
from trio_tsconnect.engine._respond import write_to_client
from trio_tsconnect.engine._transaction import EngineTransaction
from trio_tsconnect.engine._transforms import Body, Transforms, Whole
from trio_tsconnect.engine._watch import Watch
from trio_tsconnect.message import Failure, Framing, MessageError, TransactionFailure, drop_claimed
from trio_tsconnect.stream import HTTP1Client


class Withheld(Exception):
    """Raised if the rest of the request body must not be forwarded, because the response is final already."""


async def relay_transformed(txn: EngineTransaction, http: HTTP1Client, transforms: Transforms) -> None:
    """Forward the response body. The head, which is queued already, goes out with the first write."""
    client = txn.session.http
    async with transforms.of(_ResponseBody(txn, http, hold=transforms.holds_head)) as body:
        while piece := await body.next_piece():
            txn.response_bytes += len(piece)
            client.queue_body(piece)
            await write_to_client(txn)
            txn.watch.disarm()
    client.queue_end(http.trailers and drop_claimed(http.trailers, txn.response.headers))
    await write_to_client(txn)
    txn.watch.disarm()


class _ResponseBody:
    """The body as the origin sends it. `hold`: do not send the head before there is something to send with it."""

    def __init__(self, txn: EngineTransaction, http: HTTP1Client, *, hold: bool) -> None:
        self._txn, self._http, self._hold = txn, http, hold

    async def next_piece(self) -> bytes:
        txn, http = self._txn, self._http
        while True:
            try:
                piece = http.body_piece()
            except MessageError as exc:
                raise TransactionFailure(exc) from None
            if piece is not None:
                return bytes(piece)
            if txn.session.http.queued and not self._hold:  # the head
                await write_to_client(txn)
            txn.watch.arm(Failure.ORIGIN_INACTIVITY, txn.config.inactivity_timeout)
            try:
                await fill_response(http)
            finally:
                txn.watch.disarm()


async def fill_response(http: HTTP1Client) -> None:
    """Read more of the response body. Raise `TransactionFailure` if it is cut off."""
    try:
        more = await http.fill()
    except trio.BrokenResourceError:
        raise TransactionFailure(Failure.ORIGIN_TRUNCATED, "The origin's connection broke within a response.") from None
    if not more and http.body.framing is not Framing.CLOSE:
        raise TransactionFailure(Failure.ORIGIN_TRUNCATED, "The origin closed the connection within a response.")


async def send_transformed(txn: EngineTransaction, http: HTTP1Client, watch: Watch, transforms: Transforms) -> None:
    """Send the request body. Raise `Withheld` if the rest of it is not wanted, trio's errors if the origin reads no more."""
    source: Body = Whole(txn.request_body) if txn.request_body is not None else _RequestBody(txn, watch)
    async with transforms.of(source) as body:
        while piece := await body.next_piece():
            http.queue_body(piece)
            await _drain(txn, http, watch)
    txn.request_body_sent = True
    trailers = txn.session.http.trailers
    http.queue_end(trailers and drop_claimed(trailers, txn.request.headers, present=True))
    await _drain(txn, http, watch)


async def _drain(txn: EngineTransaction, http: HTTP1Client, watch: Watch) -> None:
    watch.arm(Failure.ORIGIN_INACTIVITY, txn.config.inactivity_timeout)
    await http.drain()
    watch.disarm()


class _RequestBody:
    """The body as the client sends it."""

    def __init__(self, txn: EngineTransaction, watch: Watch) -> None:
        self._txn, self._watch = txn, watch

    async def next_piece(self) -> bytes:
        txn, client = self._txn, self._txn.session.http
        while True:
            try:
                piece = client.body_piece()
            except MessageError as exc:
                raise TransactionFailure(exc) from None
            if piece is not None:
                count_request(txn, len(piece))
                return bytes(piece)
            self._watch.arm(Failure.REQUEST_BODY_TIMEOUT, begin_to_wait_for_body(txn))
            try:
                more = await client.fill()
            finally:
                end_to_wait_for_body(txn)
                self._watch.disarm()
            if not more:
                raise TransactionFailure(Failure.CLIENT_GONE, "The client ended its input within a request body.")
            if txn.body_withheld:  # what was just read may be another request
                raise Withheld
