"""Validation of what a hook has changed, right after it returns, so that a failure is attributed to its plugin.

Most values are validated when they are assigned (`Request`, `Response`, `Headers`). This module checks what depends on several values.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from trio_tsconnect.config import HttpConfig, OriginConfig
from trio_tsconnect.hooks import State
from trio_tsconnect.message import URL, BadRequest, Request, parse_authority, target_url

if TYPE_CHECKING:
    from trio_tsconnect.engine._transaction import EngineTransaction


def check_changes(txn: EngineTransaction, target: str | None, status: int) -> None:
    """Raise `TypeError` or `ValueError` if a hook has left the transaction in an invalid state.

    `target`: the request target before the hook; None without a request. `status`: the response status before it; 0 without a response.
    """
    if txn.config.__class__ is not HttpConfig or txn.origin_config.__class__ is not OriginConfig:
        txn.config, txn.origin_config = txn.core.config.http, txn.core.config.origin  # the error response needs valid limits
        raise TypeError("txn.config must be an HttpConfig and txn.origin_config an OriginConfig: change them with attrs.evolve()")
    state = txn.state
    if state is State.SEND_RESPONSE:
        _check_status(txn, status)
        return
    request = txn._request
    if request is None:
        return
    if (request.method == "CONNECT") is not (txn.method == "CONNECT") and txn.method is not None:
        raise ValueError("a plugin must not change the method to or from CONNECT (RFC 9110 §9.3.6)")
    if request.target is not target:
        _check_target(txn, request)
    if state is State.SEND_REQUEST:
        _check_host(request)


def _check_status(txn: EngineTransaction, before: int) -> None:
    status = txn.response.status
    if txn.refused_by is not None and status < 300:
        raise ValueError(f"{txn.refused_by} has refused this request: the status must be 300 or more, not {status}")
    if txn.answer is None and status != before and (before == 101 or not 200 <= status <= 599):
        raise ValueError(f"the status of this response must be {'101' if before == 101 else 'in 200..599'}, not {status}")


def _check_target(txn: EngineTransaction, request: Request) -> None:
    """Raise `ValueError` if the target is invalid.

    Before remapping, any form that a client may send is valid. Afterwards it must be an absolute URI; in `send_request` also a path or `*`.
    The target of CONNECT is not checked then.
    """
    if txn.uri is None:
        try:
            target_url(request, scheme=txn.client.scheme, default_authority="localhost")
        except BadRequest as exc:
            if exc.cause == "bad_target":  # other errors (no Host, for example) are the client's
                raise ValueError(exc.detail) from None
    elif txn.method != "CONNECT" and not (txn.state is State.SEND_REQUEST and request.target[0] in "/*"):
        url = URL.parse(request.target)
        if txn.state is State.SEND_REQUEST and (url.host, url.port) != (txn.uri.host, txn.uri.port):
            raise ValueError(f"the origin {txn.uri.authority} is chosen already: change request.url up to post_remap, or use retry()")


def _check_host(request: Request) -> None:
    """Raise `ValueError` unless there is exactly one Host field, with a valid or empty value (RFC 9112 §3.2)."""
    hosts = [value for _, name, value in request.headers.fields if name == b"host"]
    if len(hosts) != 1:
        raise ValueError(f"a request must have exactly one Host field (RFC 9112 §3.2), not {len(hosts)}")
    if hosts[0]:
        parse_authority(hosts[0].decode("latin-1"))
