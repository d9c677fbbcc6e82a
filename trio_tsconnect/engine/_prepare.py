"""What an intermediary does to the heads it sends on: the rules of `message/`, in their order."""

from __future__ import annotations

import math
from functools import lru_cache, partial

import trio

from trio_tsconnect.engine._hooks import blame_transform
from trio_tsconnect.engine._transaction import EngineTransaction
from trio_tsconnect.engine._transforms import Transforms
from trio_tsconnect.message import (
    CHUNKED_BODY,
    EMPTY_BODY,
    HOP_BY_HOP,
    NO_BODY,
    Body,
    Framing,
    Headers,
    Response,
    accepts_trailers,
    add_forwarded,
    add_via,
    expects_continue,
    frame_request,
    frame_response,
    http_date,
    strip_hop_by_hop,
)


def prepare_request(txn: EngineTransaction) -> None:
    """Make the request what the origin gets, before the first attempt: fields of this hop out, ours in, the origin's name as Host."""
    request, headers = txn.request, txn.request.headers
    client_host = headers.get(b"host")
    txn.upgrade = _offered_upgrade(txn)
    trailers = accepts_trailers(headers)
    strip_hop_by_hop(headers, keep_upgrade=txn.upgrade is not None)
    if trailers:  # RFC 9110 §10.1.4: ours to say again, for we forward trailers
        _say_te_trailers(headers)
    txn.expects_continue = expects_continue(request)
    if (txn.uri is not None and not (txn.rule.preserve_host if txn.rule else txn.session.target is not None)) or (
        client_host is None and txn.uri is not None
    ):
        headers[b"Host"] = txn.uri.authority
    add_forwarded(
        headers,
        address=txn.client.host,
        scheme=txn.client.scheme,
        host=client_host,
        trust=txn.config.trust_forwarded,
        style=txn.config.forwarded,
    )
    if txn.config.deadline_header:
        headers.claim(txn.config.deadline_header)
        if txn.watch.end != math.inf:
            headers.add(txn.config.deadline_header, str(max(0, int((txn.watch.end - trio.current_time()) * 1000))))
    if txn.config.via:
        # RFC 9110 §7.6.3: the version received. A stream's request came in HTTP/2, whatever its virtual connection speaks.
        add_via(headers, "2.0" if txn.client.stream is not None and not txn.internal else request.version, txn.config.via)


def _offered_upgrade(txn: EngineTransaction) -> list[str] | None:
    """The protocols that the client offers to switch to, where we let it (RFC 9110 §7.8): not from HTTP/1.0, and not to HTTP/2."""
    headers = txn.request.headers
    if txn.version == "1.0" or "upgrade" not in headers or "upgrade" not in headers.tokens("connection"):
        return None
    offered = headers.tokens("upgrade")
    return None if "h2c" in offered or not offered else offered


def settle_request(txn: EngineTransaction) -> None:
    """After `send_request`: of what plugins have written about this hop, `close` is obeyed; nothing else goes out but what is ours."""
    headers = txn.request.headers
    for field in headers.fields:
        if field[1] in HOP_BY_HOP:
            break
    else:
        return
    closes = "close" in headers.tokens("connection")
    trailers = accepts_trailers(headers)
    strip_hop_by_hop(headers, keep_upgrade=txn.upgrade is not None)
    if trailers:
        _say_te_trailers(headers)
    if closes:  # RFC 9112 §9.6; the connection is not used again
        headers[b"Connection"] = f"{headers['connection']}, close" if b"connection" in headers else b"close"


def _say_te_trailers(headers: Headers) -> None:
    headers.add(b"TE", b"trailers")
    headers[b"Connection"] = b"Upgrade, TE" if b"connection" in headers else b"TE"


def frame_for_origin(txn: EngineTransaction) -> Body:
    """Decide the framing of the request towards the origin, and say it in the head."""
    body = txn.session.http.body
    if txn.request_body is not None:
        body = Body(Framing.LENGTH, len(txn.request_body)) if txn.request_body else NO_BODY if body.framing is Framing.NONE else EMPTY_BODY
    if txn.request_transforms and body.framing is not Framing.NONE:
        txn.request_chain = Transforms(txn.request_transforms, partial(blame_transform, txn))
        body = CHUNKED_BODY
    txn.request_body_sent = False
    return frame_request(txn.request, body)


def add_ours(txn: EngineTransaction, response: Response) -> None:
    """Put the proxy's fields into an origin's final response."""
    if txn.config.via:
        add_via(response.headers, response.version, txn.config.via)
    add_date(txn, response)


def add_date(txn: EngineTransaction, response: Response) -> None:
    """RFC 9110 §6.6.1: whoever has a clock adds the Date that is missing."""
    if b"date" not in response.headers:
        response.headers.fields.append(_date_field(int(txn.core.wall_time())))


@lru_cache(maxsize=2)
def _date_field(second: int) -> tuple[bytes, bytes, bytes]:
    return b"Date", b"date", http_date(second).encode()


def frame_for_client(txn: EngineTransaction, response: Response, body: Body) -> Body:
    """Decide the framing towards the client and whether its connection goes on, and say so in the head (RFC 9112 §9.3, §9.6)."""
    method = txn.method or "GET"
    headers = response.headers
    for field in headers.fields:
        if field[1] in HOP_BY_HOP:  # an origin's are gone by now: a plugin has written it
            _obey_connection(txn, response)
            break
    framed = frame_response(method, txn.version, response, body)
    if method == "CONNECT":  # what follows may be meant for the tunnel that was not made
        txn.wants_keep_alive = False
    txn.keep_alive = (
        txn.wants_keep_alive and framed.framing is not Framing.CLOSE and not txn.session.is_last_request and _body_allows_keep_alive(txn)
    )
    if not txn.keep_alive:
        headers.put((b"Connection", b"connection", b"close, Upgrade" if b"connection" in headers else b"close"))
    elif txn.version == "1.0":
        headers[b"Connection"] = b"keep-alive"
    return framed


def _obey_connection(txn: EngineTransaction, response: Response) -> None:
    """RFC 9112 §9.6: a response that says `close` is the last. What a plugin lists as hop-by-hop goes no further than to us."""
    if "close" in response.headers.tokens("connection"):
        txn.wants_keep_alive = False
    strip_hop_by_hop(response.headers, keep_upgrade=response.status == 426)  # RFC 9110 §15.5.22: 426 says what to upgrade to


def _body_allows_keep_alive(txn: EngineTransaction) -> bool:
    """Whether what is left of the request body will be read, so that the next request can be found."""
    http = txn.session.http
    if http.body_complete:
        return True
    expects = txn.expects_continue or (not txn.prepared and txn.has_request and expects_continue(txn.request))
    if expects and not txn.expectation_met and not http.buffered:
        return False  # a client that waits for 100 may send the body or not (RFC 9110 §10.1.1)
    # Whether more is to come than will be dropped decides, not how much of it has come by chance when the response begins.
    return http.body.framing is Framing.LENGTH and http.body.length <= txn.config.drain_body
