"""Routing: the remap table first, then the target of the connection, then the authority of the request if `http.remap_required` is off."""

from __future__ import annotations

import attrs

from trio_tsconnect.config import AccessRule, check_access
from trio_tsconnect.engine._transaction import EngineTransaction
from trio_tsconnect.message import URL, BadRequest, Failure, TransactionFailure, via_names
from trio_tsconnect.origin import TLS, Origin, TCPOrigin, UnixOrigin

_TRANSPORT = {"http": "http", "https": "https", "ws": "http", "wss": "https"}


def remap(txn: EngineTransaction) -> None:
    """Choose the URI that the request is sent to and make it the request target. Also set `txn.rule` and the configuration of the rule.

    Raise `TransactionFailure` if the target is invalid or not allowed, if no rule matches, or if the request has looped.
    """
    core, request = txn.core, txn.request
    try:
        uri = request.url
    except BadRequest as exc:
        raise TransactionFailure(exc) from None
    host = request.headers.get(b"host")
    nameless = not host and request.version == "1.0"  # RFC 9112 §3.3: the request is for the address that the client has connected to
    if nameless and host is not None:
        del request.headers[b"Host"]  # it is empty
    if uri.scheme in ("https", "wss") and not _may_ask_for_https(txn):
        # RFC 9110 §7.4: otherwise a cleartext client could reach rules and origins that rely on TLS.
        raise TransactionFailure(
            BadRequest("misdirected_request", f"The scheme {uri.scheme} is not allowed over a cleartext connection.", 421)
        )
    if request.target[0] not in "/*" and request.method != "CONNECT":
        request.headers[b"Host"] = uri.authority  # RFC 9112 §3.2.2: the absolute form overrides Host
    _check_loop(txn)
    if request.method == "CONNECT":
        if txn.intercept_origin is None and not txn.config.permits_connect(uri.host, uri.port):
            raise TransactionFailure(Failure.CONNECT_DENIED, f"CONNECT to {uri.host}:{uri.port} is not permitted.")
        txn.uri, txn.origin_url = uri, str(uri)
        return
    match = core.remap.match(uri)
    if match is not None:
        rule = txn.rule = match.rule
        txn.hooks = core.hooks_of(rule)
        judge(txn, rule.access)
        txn.uri = match.target
        if rule.config:
            txn.config, txn.origin_config = rule.http_config(txn.config), rule.origin_config(txn.origin_config)
            _check_loop(txn)  # again: the rule may have its own name for Via
        else:
            txn.origin_config = rule.origin_config(txn.origin_config)
    elif txn.session.target is None and txn.intercept_origin is None and nameless and request.target[0] in "/*":
        raise TransactionFailure(BadRequest("no_host", "The request names no host, and no remap rule matches the proxy's address."))
    elif txn.session.target is None and txn.intercept_origin is None and txn.config.remap_required:
        raise TransactionFailure(Failure.NO_REMAP_RULE, f"No remap rule matches {uri.authority}{uri.path}.")
    else:
        txn.uri = attrs.evolve(uri, scheme=_TRANSPORT[uri.scheme])
    request.target = txn.origin_url = str(txn.uri)
    request.sent_over(txn.uri.scheme)


def _may_ask_for_https(txn: EngineTransaction) -> bool:
    """Return True if the request may have an https or wss URI.

    That is: over TLS, from code in this process, from a trusted proxy, or if no rules are required, because the scheme then only says how
    to connect to the origin.
    """
    return txn.client.scheme == "https" or txn.internal or txn.config.trust_forwarded or not txn.config.remap_required


def _check_loop(txn: EngineTransaction) -> None:
    """Raise `TransactionFailure` if the name of this proxy (`http.via`) is in Via already."""
    if txn.config.via and txn.config.via in via_names(txn.request.headers):
        raise TransactionFailure(Failure.LOOP, "The request has passed through this proxy before: its name is in Via.")


def judge(txn: EngineTransaction, rules: tuple[AccessRule, ...]) -> None:
    """Apply access rules to the request. Raise `TransactionFailure` if they deny it."""
    if rules:
        check_access(rules, client=txn.client, method=txn.request.method, internal=txn.internal)


def choose_origin(txn: EngineTransaction) -> Origin:
    """Return the origin for the request target.

    A plugin may have changed the target after `remap`. Then `txn.uri` and `txn.origin_url` follow it, and the rule applies only if host and
    port are still those of the rule. Raise `TransactionFailure` if the target is not a URI.
    """
    if txn.method == "CONNECT" and txn.uri is not None:
        return txn.intercept_origin or TCPOrigin(txn.uri.host, txn.uri.port)
    target = txn.request.target
    rule, uri = txn.rule, txn.uri
    if uri is None or target != txn.origin_url:
        try:
            uri = URL.parse(target)
        except ValueError as exc:
            raise TransactionFailure(Failure.INTERNAL, f"A plugin has set an invalid request target: {exc}.") from None
        uri = attrs.evolve(uri, scheme=_TRANSPORT[uri.scheme])
        rule = rule if rule is not None and (uri.host, uri.port) == (rule.target.host, rule.target.port) else None
        txn.uri, txn.origin_url = uri, str(uri)
    if txn.intercept_origin is not None:
        return txn.intercept_origin
    config = txn.origin_config
    if rule is None and txn.rule is not None and not (txn.rule.verify is None and txn.rule.ca_file is None):
        # A plugin asks another origin than the rule's: what the rule trusts is no trust in that one.
        config = attrs.evolve(config, verify=txn.core.config.origin.verify, ca_file=txn.core.config.origin.ca_file)
    tls = None
    if uri.scheme == "https":
        name = _server_name(txn, uri, preserve=rule is not None and rule.preserve_host)
        tls = TLS(name, config.verify, config.ca_file)
    if rule is not None and rule.unix is not None:
        return UnixOrigin(rule.unix, tls)
    if txn.rule is None and txn.session.target is not None and not txn.elsewhere:
        host, port = txn.session.target
        return TCPOrigin(host, port, tls)
    return TCPOrigin(uri.host, uri.port, tls)


def _server_name(txn: EngineTransaction, uri: URL, *, preserve: bool) -> str:
    """Return the TLS server name: the host of the URI, or the Host field without its port if the rule preserves it."""
    if preserve and (host := txn.request.headers.get("host")):
        return host.rpartition(":")[0] or host if not host.endswith("]") else host
    return uri.host
