"""Helpers that the plugins share: requests that a plugin made itself, and copies of a client's fields."""

from __future__ import annotations

from trio_tsconnect import URL, Headers, Request, Transaction
from trio_tsconnect.message import strip_hop_by_hop

_OF_THE_BODY = frozenset(b"content-length content-type content-encoding content-language content-location content-range expect".split())


def is_own(txn: Transaction, tag: str) -> bool:
    """Return True if the request was made by a plugin with this tag."""
    return txn.internal and txn.tag == tag


def keep_target(txn: Transaction) -> None:
    """Undo the remap of a plugin's own request if the rule is for any host. A rule for the request's host still applies.

    Call it in `post_remap`. A rule for any host is meant for requests of clients; it would send this request to the wrong origin.
    """
    if txn.rule is not None and txn.rule.host is None and txn.url is not None:
        txn.request.url = txn.url


def has_body(request: Request) -> bool:
    """Return True if the request has a body (RFC 9112 §6)."""
    return "transfer-encoding" in request.headers or request.headers.get("content-length", "0") != "0"


def end_to_end(headers: Headers, *, body: bool) -> Headers:
    """Return a copy without hop-by-hop and framing fields. If not `body`, it is also without the fields that describe a body."""
    copy = headers.copy()
    strip_hop_by_hop(copy)
    copy.remove((b"content-length", b"transfer-encoding", b"expect") if body else _OF_THE_BODY)
    return copy


def place(uri: URL) -> tuple[str, int]:
    """Return host and port as a value for `ConnectOptions.target`."""
    return uri.host, uri.port
