"""What plugins of this package ask of every transaction: what its client asked for, and whether it is a request of their own."""

from __future__ import annotations

from trio_tsconnect import Headers, Request, Transaction
from trio_tsconnect.message import MessageError, TargetURI, strip_hop_by_hop, target_uri

_OF_THE_BODY = frozenset(b"content-length content-type content-encoding content-language content-location content-range expect".split())


def asked_for(txn: Transaction) -> TargetURI | None:
    """The URI that the client asked for, as it was before remap; None when there is none to be had."""
    if not txn.has_request:
        return None
    try:
        if txn.uri is not None and txn.url is not None:  # remapped: the request's target is the origin's by now
            return TargetURI.parse(txn.url)
        return target_uri(txn.request, scheme=txn.client.scheme)
    except (MessageError, ValueError):
        return None


def is_own(txn: Transaction, tag: str) -> bool:
    """Whether a plugin with this tag has made the request itself."""
    return txn.internal and txn.tag == tag


def keep_target(txn: Transaction) -> None:
    """In `post_remap`, for a plugin's own request: a rule that catches any host was not meant for it, a rule for its host was."""
    if txn.rule is not None and txn.rule.host is None and txn.url is not None:
        txn.request.target = txn.url


def has_body(request: Request) -> bool:
    """Whether a body comes with the request (RFC 9112 §6)."""
    return "transfer-encoding" in request.headers or request.headers.get("content-length", "0") != "0"


def end_to_end(headers: Headers, *, body: bool) -> Headers:
    """A copy without what belongs to one connection; without a body also without what describes it."""
    copy = headers.copy()
    strip_hop_by_hop(copy)
    copy.remove((b"content-length", b"transfer-encoding", b"expect") if body else _OF_THE_BODY)
    return copy


def place(uri: TargetURI) -> tuple[str, int]:
    """Host and port, as `ConnectOptions.target` wants them."""
    return uri.host, uri.port
