"""What a hook has done to its transaction, judged when it returns: at that moment it is known whose doing it was.

Most of what a plugin writes is judged at the line that writes it (`Request`, `Response`, `Headers`). Here stands what a single line cannot show.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from trio_tsconnect.config import HttpConfig, OriginConfig
from trio_tsconnect.hooks import State
from trio_tsconnect.message import BadRequest, Request, TargetURI, parse_authority, target_uri

if TYPE_CHECKING:
    from trio_tsconnect.engine._transaction import EngineTransaction


def check_changes(txn: EngineTransaction, target: str | None, status: int) -> None:
    """Raise `TypeError` or `ValueError` for what a hook must not leave behind. `target`, `status`: what they were before it (None, 0: nothing)."""
    if txn.config.__class__ is not HttpConfig or txn.origin_config.__class__ is not OriginConfig:
        txn.config, txn.origin_config = txn.core.config.http, txn.core.config.origin  # the failure is answered by some limits
        raise TypeError("txn.config is an HttpConfig and txn.origin_config an OriginConfig: change them with attrs.evolve()")
    state = txn.state
    if state is State.SEND_RESPONSE:
        _check_status(txn, status)
        return
    request = txn._request
    if request is None:
        return
    if (request.method == "CONNECT") is not (txn.method == "CONNECT") and txn.method is not None:
        raise ValueError("a request cannot become CONNECT, or stop being it (RFC 9110 §9.3.6)")
    if request.target is not target:
        _check_target(txn, request)
    if state is State.SEND_REQUEST:
        _check_host(request)


def _check_status(txn: EngineTransaction, before: int) -> None:
    status = txn.response.status
    if status != before and (before == 101 or not 200 <= status <= 599):
        raise ValueError(f"the status of this response must be {'101' if before == 101 else 'within 200..599'}, not {status}")


def _check_target(txn: EngineTransaction, request: Request) -> None:
    """Before remap any form that a client may send; from then on an absolute URI, or what stands on the request line of an origin."""
    if txn.uri is None:
        try:
            target_uri(request, scheme=txn.client.scheme, default_authority="localhost")
        except BadRequest as exc:
            if exc.cause == "bad_target":  # what else there is to say of it is the client's
                raise ValueError(exc.detail) from None
    elif txn.method != "CONNECT" and not (txn.state is State.SEND_REQUEST and request.target[0] in "/*"):
        TargetURI.parse(request.target)


def _check_host(request: Request) -> None:
    """RFC 9112 §3.2: exactly one Host field, and a valid one; an empty one where the URI has no authority."""
    hosts = [value for _, name, value in request.headers.fields if name == b"host"]
    if len(hosts) != 1:
        raise ValueError(f"a request has exactly one Host field (RFC 9112 §3.2), and this one has {len(hosts)}")
    if hosts[0]:
        parse_authority(hosts[0].decode("latin-1"))
