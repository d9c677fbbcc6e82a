"""Strict validation of parsed heads, so that every recipient behind this proxy frames and routes a message as the proxy does.

Invariant: an ambiguous message is rejected. Errors that parsing hides (bare LF, folded lines, a space before the colon) are found earlier,
on the bytes. This module validates everything that names and values show. It normalizes three things in place: equal Content-Length values
become one line, the coding is written `chunked`, and framing fields are removed from responses that cannot have content.
"""

from __future__ import annotations

from collections.abc import Collection

from trio_tsconnect._util import public
from trio_tsconnect.message._errors import BadRequest, BadResponse, MessageError
from trio_tsconnect.message._framing import forbids_framing
from trio_tsconnect.message._headers import TCHARS, VALUE_BYTES, Field, Headers
from trio_tsconnect.message._message import Request, Response
from trio_tsconnect.message._twins import drop_twins
from trio_tsconnect.message._url import check_absolute, is_absolute_form, parse_authority

_JUDGED = frozenset({b"host", b"content-length", b"transfer-encoding"})

# RFC 9112 §7 defines more transfer codings. This proxy supports only this one.
_CHUNKED = b"chunked"

# A number of 18 digits fits into a signed 64-bit integer. A longer one is an attempt to overflow a parser.
_MAX_LENGTH_DIGITS = 18

# RFC 9110 §6.5.1: no field for framing, routing, request modifiers, authentication, response control, or for interpreting the content; and
# no field about the connection.
FORBIDDEN_IN_TRAILERS = frozenset(
    b"transfer-encoding content-length trailer connection keep-alive proxy-connection te upgrade http2-settings "
    b"host via forwarded x-forwarded-for x-forwarded-proto x-forwarded-host x-forwarded-port x-forwarded-by x-real-ip max-forwards "
    b"cache-control expect pragma range if-match if-none-match if-modified-since if-unmodified-since if-range "
    b"authorization proxy-authenticate proxy-authorization www-authenticate cookie set-cookie "
    b"age date expires location retry-after vary warning "
    b"content-encoding content-type content-range content-language content-location".split()
)


@public("trio_tsconnect.message")
def check_request(request: Request) -> None:
    """Validate a parsed request head. Raise `BadRequest` if it is invalid.

    A missing Host is not an error here but in `target_url`: hooks see such a request, as they do in Traffic Server.
    """
    _check_request_line(request)
    headers = request.headers
    _check_fields(headers, BadRequest)
    hosts, lengths, codings = _judged(headers)
    if hosts:
        _check_host(hosts)
    if codings:
        _check_transfer_encoding(headers, codings, lengths, request.version, BadRequest)
    elif lengths:
        _check_content_length(headers, lengths, BadRequest)
    if (codings or lengths) and request.method in ("CONNECT", "TRACE"):
        _check_contentless(request)


@public("trio_tsconnect.message")
def check_response(response: Response, method: str, *, any_status: bool = False) -> None:
    """Validate a parsed response head from an origin, the response to `method`. Raise `BadResponse` if it is invalid.

    `any_status` accepts a status above 599. If the response cannot have content (1xx, 204, a 2xx to CONNECT), framing fields that the
    origin should not have sent are removed instead of rejected (RFC 9112 §6.1, RFC 9110 §8.6 and §9.3.6).
    """
    if response.version[0] != "1":
        raise BadResponse("bad_version", f"The origin responded with HTTP/{response.version}, not with HTTP/1.")
    status = response.status
    if status > 599 and not any_status:
        # RFC 9110 §15: values outside 100..599 are invalid.
        raise BadResponse("bad_status", f"The origin sent the status {status}, which is not within 100..599.")
    headers = response.headers
    _check_fields(headers, BadResponse)
    _, lengths, codings = _judged(headers)
    if not (codings or lengths):
        return
    if codings and lengths:
        raise _conflict(BadResponse)
    if forbids_framing(method, status):
        headers.remove((b"content-length", b"transfer-encoding"))
    elif codings:
        _check_transfer_encoding(headers, codings, lengths, response.version, BadResponse)
    else:
        _check_content_length(headers, lengths, BadResponse)


@public("trio_tsconnect.message")
def check_switch(response: Response, offered: Collection[str]) -> None:
    """Validate a 101 response (RFC 9110 §7.8). `offered` holds the protocols in the request's Upgrade field, in lower case.

    Raise `BadResponse` if nothing was offered, if the response is of HTTP/1.0, if Upgrade is missing or not listed in Connection, if it
    names a protocol that was not offered, or if there is more than one Sec-WebSocket-Accept.
    """
    if not offered:
        raise BadResponse("unexpected_switch", "The origin switched protocols, but the request offered none.")
    headers = response.headers
    chosen = headers.tokens("upgrade")
    if response.version == "1.0" or not chosen or "upgrade" not in headers.tokens("connection"):
        raise BadResponse("bad_switch", "The origin switched protocols without naming the protocol in Upgrade and Connection.")
    if not set(chosen) <= set(offered):
        raise BadResponse("bad_switch", "The origin switched to a protocol that was not offered.")
    if len(headers.get_all("sec-websocket-accept")) > 1:
        raise BadResponse("bad_switch", "The origin sent more than one Sec-WebSocket-Accept.")


@public("trio_tsconnect.message")
def check_trailers(headers: Headers, error: type[MessageError] = BadRequest) -> None:
    """Validate trailer fields. Raise `error` for malformed ones; remove fields that must not be trailers (RFC 9110 §6.5.1)."""
    _check_fields(headers, error)
    headers.remove(FORBIDDEN_IN_TRAILERS)
    drop_twins(headers, FORBIDDEN_IN_TRAILERS)


def _judged(headers: Headers) -> tuple[list[bytes], list[bytes], list[bytes]]:
    hosts: list[bytes] = []
    lengths: list[bytes] = []
    codings: list[bytes] = []
    for _, name, value in headers.fields:
        if name in _JUDGED:
            if name == b"host":
                hosts.append(value)
            elif name == b"content-length":
                lengths.append(value)
            else:
                codings.append(value)
    return hosts, lengths, codings


def _check_request_line(request: Request) -> None:
    method, target = request.method, request.target
    if method == "PRI":
        # RFC 9113 §3.4: the HTTP/2 preface is designed to be rejected by HTTP/1 servers.
        raise BadRequest("http2_preface", "The client sent an HTTP/2 preface on an HTTP/1.1 connection.")
    if request.version != "1.1" and request.version[0] != "1":
        # RFC 9110 §15.6.6. A minor version above 1 is treated as 1.1 (RFC 9110 §2.5).
        raise BadRequest("bad_version", f"HTTP/{request.version} is not supported.", 505)
    if "#" in target:
        # RFC 9112 §3.2: no form of request target has a fragment.
        raise BadRequest("bad_target", f"The request target {target[:80]!r} has a fragment.")
    if target[0] != "/" or method == "CONNECT":
        _check_other_form(method, target)


def _check_other_form(method: str, target: str) -> None:
    try:
        if method == "CONNECT":
            # RFC 9112 §3.2.3: authority-form is for CONNECT only. RFC 9110 §9.3.6: it has a port.
            if parse_authority(target)[1] is None:
                raise ValueError(f"{target[:80]!r} has no port")
        elif is_absolute_form(target):
            check_absolute(target)
        elif target != "*":
            raise ValueError(f"{target[:80]!r} is neither a path nor an absolute URI")
        elif method != "OPTIONS":
            # RFC 9112 §3.2.4
            raise ValueError("'*' is for OPTIONS only")
    except ValueError as error:
        raise BadRequest("bad_target", f"The request target is invalid: {error}.") from error


def _check_fields(headers: Headers, error: type[MessageError]) -> None:
    # Two passes in C over the joined bytes. Only if one of them fails is the invalid field searched.
    fields = headers.fields
    names = [field[1] for field in fields]
    if b"" in names or b"".join(names).translate(None, TCHARS) or b"".join([field[2] for field in fields]).translate(None, VALUE_BYTES):
        raise _blame(fields, error)


def _blame(fields: list[Field], error: type[MessageError]) -> MessageError:
    for raw, name, value in fields:
        shown = repr(raw[:60].decode("latin-1"))
        if not name or name.translate(None, TCHARS):
            return error("bad_field_name", f"The field name {shown} is not a token.")
        bad = value.translate(None, VALUE_BYTES)
        if bad:
            return error("bad_field_value", f"The value of field {shown} contains the control character {bad[:1]!r}.")
    raise AssertionError("no field is invalid")


def _check_host(hosts: list[bytes]) -> None:
    # RFC 9112 §3.2: more than one Host line, or an invalid value, is answered with 400.
    if len(hosts) > 1:
        raise BadRequest("duplicate_host", "The request has more than one Host field.")
    if not hosts[0]:
        return  # a URI without authority has an empty Host; `target_url` decides if a host is required
    try:
        parse_authority(hosts[0].decode("latin-1"))
    except ValueError as error:
        raise BadRequest("bad_host", f"The Host field is invalid: {error}.") from error


def _check_content_length(headers: Headers, lengths: list[bytes], error: type[MessageError]) -> None:
    # RFC 9110 §8.6: Content-Length = 1*DIGIT. A list of equal values may be replaced by one of them.
    if len(lengths) == 1 and lengths[0].isdigit() and len(lengths[0]) <= _MAX_LENGTH_DIGITS:
        return
    values = {member.strip(b" \t") for value in lengths for member in value.split(b",")}
    if len(values) > 1:
        raise error("conflicting_content_length", "The message has different Content-Length values.")
    value = values.pop()
    if not value.isdigit():
        raise error("bad_content_length", f"Content-Length {value[:40]!r} is not a number.")
    if len(value) > _MAX_LENGTH_DIGITS:
        raise error("bad_content_length", f"Content-Length has more than {_MAX_LENGTH_DIGITS} digits.")
    headers[b"Content-Length"] = value


def _check_transfer_encoding(headers: Headers, codings: list[bytes], lengths: list[bytes], version: str, error: type[MessageError]) -> None:
    if lengths:
        raise _conflict(error)
    if version == "1.0":
        # RFC 9112 §6.1: the framing of an HTTP/1.0 message with Transfer-Encoding is faulty.
        raise error("transfer_encoding_in_http_1_0", "An HTTP/1.0 message cannot have Transfer-Encoding.")
    if codings == [_CHUNKED]:
        return
    members = b",".join(codings).lower()
    if members != _CHUNKED:
        raise _refused_coding([member.strip() for member in members.split(b",")], error)
    headers[b"Transfer-Encoding"] = _CHUNKED


def _refused_coding(members: list[bytes], error: type[MessageError]) -> MessageError:
    names = [member.partition(b";")[0].strip() for member in members]
    if b"" in names or _CHUNKED in names[:-1] or names == [_CHUNKED]:
        # RFC 9112 §6.1 and §7.1: chunked is the last coding, applied once, and has no parameters.
        return error("bad_transfer_encoding", "Transfer-Encoding must be chunked, once, as the last coding and without parameters.")
    # RFC 9112 §6.1: respond with 501 to an unknown coding in a request. From an origin, it is an invalid response.
    unknown = next(name for name in names if name != _CHUNKED)
    status = 501 if error is BadRequest else None
    return error("unknown_transfer_coding", f"The transfer coding {unknown[:40]!r} is not supported.", status)


def _conflict(error: type[MessageError]) -> MessageError:
    # RFC 9112 §6.3, rule 3: this may be request smuggling, and ought to be handled as an error.
    return error("conflicting_framing", "The message has both Transfer-Encoding and Content-Length.")


def _check_contentless(request: Request) -> None:
    # RFC 9110 §9.3.6 and §9.3.8: CONNECT has no content, and TRACE must not have any. Other parties may interpret such content differently.
    if "transfer-encoding" in request.headers or request.headers["content-length"].strip("0"):
        raise BadRequest("unexpected_content", f"A {request.method} request cannot have content.")
