"""Changes to the heads that the proxy forwards: the rules of `message/`, applied in order."""

from __future__ import annotations

import math
from functools import lru_cache, partial

import trio

from trio_tsconnect.engine._hooks import blame_transform
from trio_tsconnect.engine._transaction import EngineTransaction
from trio_tsconnect.engine._transforms import Transforms
from trio_tsconnect.message import (
    CHUNKED_BODY,
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
    """Change the request head into what the origin gets: remove hop-by-hop fields, set Host, add the proxy's fields.

    Must be called once only, before the first attempt; a second call would add Via twice.
    """
    request, headers = txn.request, txn.request.headers
    client_host = headers.get(b"host")
    txn.upgrade = _offered_upgrade(txn)
    trailers = accepts_trailers(headers)
    strip_hop_by_hop(headers, keep_upgrade=txn.upgrade is not None)
    if trailers:  # RFC 9110 §10.1.4: TE is hop-by-hop; the proxy forwards trailers, so it sends its own
        _say_te_trailers(headers)
    txn.expects_continue = expects_continue(request)
    preserve = (txn.rule.preserve_host if txn.rule else txn.session.target is not None) and not txn.elsewhere
    if txn.uri is not None and (not preserve or client_host is None):
        headers[b"Host"] = txn.uri.authority
    add_forwarded(
        headers,
        address=txn.client.host,
        scheme=txn.client.scheme,
        host=client_host,
        trust=txn.config.trust_forwarded,
        style=txn.config.forwarded,
    )
    add_deadline(txn)
    if txn.config.via:
        # RFC 9110 §7.6.3: the version received. A stream's request was received in HTTP/2, but its virtual connection carries HTTP/1.1.
        add_via(headers, "2.0" if txn.client.stream is not None and not txn.internal else request.version, txn.config.via)


def add_deadline(txn: EngineTransaction) -> None:
    """Set the field `http.deadline_header` to the milliseconds that are left. Called for each attempt."""
    headers = txn.request.headers
    if txn.config.deadline_header:
        headers.claim(txn.config.deadline_header)
        if txn.watch.end != math.inf:
            headers.add(txn.config.deadline_header, str(max(0, int((txn.watch.end - trio.current_time()) * 1000))))


def _offered_upgrade(txn: EngineTransaction) -> list[str] | None:
    """Return the protocols that the client offers to switch to (RFC 9110 §7.8).

    None if there are none, if the request is HTTP/1.0, or if h2c is among them.
    """
    headers = txn.request.headers
    if txn.version == "1.0" or "upgrade" not in headers or "upgrade" not in headers.tokens("connection"):
        return None
    offered = headers.tokens("upgrade")
    return None if "h2c" in offered or not offered else offered


def settle_request(txn: EngineTransaction) -> None:
    """Remove hop-by-hop fields that plugins have set in `send_request`. Keep only Upgrade, `TE: trailers` and `Connection: close`."""
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
    if closes:  # RFC 9112 §9.6; the origin connection is then not reused
        headers[b"Connection"] = f"{headers['connection']}, close" if b"connection" in headers else b"close"


def _say_te_trailers(headers: Headers) -> None:
    headers.add(b"TE", b"trailers")
    headers[b"Connection"] = b"Upgrade, TE" if b"connection" in headers else b"TE"


def frame_for_origin(txn: EngineTransaction) -> Body:
    """Choose the framing of the request body for the origin, set the fields for it in the head, and return it. Called once per attempt."""
    body = txn.session.http.body
    if txn.request_body is not None:
        body = Body(Framing.LENGTH, len(txn.request_body)) if txn.request_body else NO_BODY
    if txn.request_transforms and body.framing is not Framing.NONE:
        txn.request_chain = Transforms(txn.request_transforms, partial(blame_transform, txn))
        body = CHUNKED_BODY
    txn.request_body_sent = False
    return frame_request(txn.request, body)


def add_ours(txn: EngineTransaction, response: Response) -> None:
    """Add the proxy's fields (Via, Date) to the final response of an origin."""
    if txn.config.via:
        add_via(response.headers, response.version, txn.config.via)
    add_date(txn, response)


def add_date(txn: EngineTransaction, response: Response) -> None:
    """Add Date if it is missing (RFC 9110 §6.6.1)."""
    if b"date" not in response.headers:
        response.headers.fields.append(_date_field(int(txn.core.wall_time())))


@lru_cache(maxsize=2)
def _date_field(second: int) -> tuple[bytes, bytes, bytes]:
    return b"Date", b"date", http_date(second).encode()


def frame_for_client(txn: EngineTransaction, response: Response, body: Body) -> Body:
    """Choose the framing of the response body and whether the connection persists; set the fields for both (RFC 9112 §9.3, §9.6).

    Return the framing; set `txn.keep_alive`.
    """
    method = txn.method or "GET"
    headers = response.headers
    for field in headers.fields:
        if field[1] in HOP_BY_HOP:  # set by a plugin: those of the origin were removed before
            _obey_connection(txn, response)
            break
    framed = frame_response(method, txn.version, response, body)
    if method == "CONNECT":  # the next bytes may be meant for the tunnel that was not opened
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
    """Obey `Connection: close` (RFC 9112 §9.6), then remove the hop-by-hop fields that a plugin has set."""
    if "close" in response.headers.tokens("connection"):
        txn.wants_keep_alive = False
    strip_hop_by_hop(response.headers, keep_upgrade=response.status == 426)  # RFC 9110 §15.5.22: a 426 must say what to upgrade to


def _body_allows_keep_alive(txn: EngineTransaction) -> bool:
    """Return True if the rest of the request body will be read, so that the next request can be found behind it."""
    http = txn.session.http
    if http.body_complete:
        return True
    expects = txn.expects_continue or (not txn.prepared and txn.has_request and expects_continue(txn.request))
    if expects and not txn.expectation_met and not http.buffered:
        return False  # after a final response the client may send the body or not (RFC 9110 §10.1.1)
    # The whole length decides, not the length that is left: how much was received before the response begins is a matter of timing.
    return http.body.framing is Framing.LENGTH and http.body.length <= txn.config.drain_body
