"""The framing of bodies (RFC 9112 §6): read it from a validated head, and choose it for a head that is sent.

Invariant: framing belongs to one connection. The framing of a received message only decides how its body is read. `frame_request` and
`frame_response` choose the framing of the forwarded message anew, and set Content-Length and Transfer-Encoding accordingly.
"""

from __future__ import annotations

import enum

import attrs

from trio_tsconnect._util import public
from trio_tsconnect.message._headers import Headers
from trio_tsconnect.message._message import Request, Response


@public("trio_tsconnect.message")
class Framing(enum.Enum):
    """How the end of a body is determined."""

    NONE = "none"
    """There is no body."""
    LENGTH = "length"
    """By the number of bytes in Content-Length."""
    CHUNKED = "chunked"
    """By the last chunk."""
    CLOSE = "close"
    """By the end of the connection. Only for a response from an origin, or to an HTTP/1.0 client."""


@public("trio_tsconnect.message")
@attrs.frozen
class Body:
    """The framing of one body, with its length if known."""

    framing: Framing
    """How the end is determined."""
    length: int = 0
    """Bytes, for `Framing.LENGTH`; otherwise 0, and not used."""

    @property
    def empty(self) -> bool:
        """True if the body certainly has no content."""
        return self.length == 0 and (self.framing is Framing.NONE or self.framing is Framing.LENGTH)


NO_BODY = Body(Framing.NONE)
EMPTY_BODY = Body(Framing.LENGTH, 0)
CHUNKED_BODY = Body(Framing.CHUNKED)
CLOSE_BODY = Body(Framing.CLOSE)

_FRAMING_AND_TRAILER = frozenset({b"content-length", b"transfer-encoding", b"trailer"})

# RFC 9110 §8.6: a user agent SHOULD send Content-Length: 0 where the method anticipates content and there is none.
_ANTICIPATES_CONTENT = frozenset({"POST", "PUT", "PATCH"})


@public("trio_tsconnect.message")
def has_no_content(method: str, status: int) -> bool:
    """Return True if a response to this method with this status has no content, whatever its fields say (RFC 9112 §6.3, rules 1 and 2)."""
    return method == "HEAD" or status == 304 or forbids_framing(method, status)


def forbids_framing(method: str, status: int) -> bool:
    """Return True if a response to this method with this status must not have Content-Length or Transfer-Encoding.

    RFC 9112 §6.1 (Transfer-Encoding), RFC 9110 §8.6 (Content-Length) and §9.3.6 (a 2xx to CONNECT).
    """
    return status < 200 or status == 204 or (method == "CONNECT" and status < 300)


def _declared(headers: Headers, otherwise: Body) -> Body:
    length = None
    for _, name, value in headers.fields:
        if name == b"transfer-encoding":
            return CHUNKED_BODY
        if name == b"content-length":
            length = int(value)
    if length is None:
        return otherwise
    return Body(Framing.LENGTH, length) if length else EMPTY_BODY


@public("trio_tsconnect.message")
def request_body(request: Request) -> Body:
    """Return the framing of a request that passed `check_request` (RFC 9112 §6.3, rules 4 to 7): `NO_BODY` without framing fields."""
    return _declared(request.headers, NO_BODY)


@public("trio_tsconnect.message")
def response_body(method: str, response: Response) -> Body:
    """Return the framing of a response that passed `check_response` (RFC 9112 §6.3): `CLOSE_BODY` without framing fields."""
    if has_no_content(method, response.status):
        return NO_BODY
    return _declared(response.headers, CLOSE_BODY)


@public("trio_tsconnect.message")
def frame_response(method: str, request_version: str, response: Response, body: Body) -> Body:
    """Choose the framing of a response to the client. Set Content-Length, Transfer-Encoding and Trailer in place.

    `body` is the body to send. A known length is kept. For an unknown length, the body is chunked for an HTTP/1.1 client, and ended by
    closing the connection for an HTTP/1.0 client (RFC 9112 §6.1). The result is `Framing.NONE` for a response without content. HEAD and 304
    keep the origin's Content-Length, and none is added (RFC 9110 §8.6). 1xx, 204 and a 2xx to CONNECT have neither field. 205 has length 0
    (RFC 9110 §15.3.6).
    """
    headers, status = response.headers, response.status
    if has_no_content(method, status):
        if forbids_framing(method, status):
            headers.remove(_FRAMING_AND_TRAILER)
        else:
            headers.remove((b"transfer-encoding", b"trailer"))
            _keep_one_length(headers)
        return NO_BODY
    if status == 205 or body.empty:
        _set_length(headers, 0)
        return EMPTY_BODY
    if body.framing is Framing.LENGTH:
        _set_length(headers, body.length)
        return body
    if request_version == "1.0":
        headers.remove(_FRAMING_AND_TRAILER)
        return CLOSE_BODY
    _set_chunked(headers)
    return CHUNKED_BODY


@public("trio_tsconnect.message")
def frame_request(request: Request, body: Body) -> Body:
    """Choose the framing of a request to the origin. Set Content-Length, Transfer-Encoding and Trailer in place.

    Without a body both fields are removed, except that POST, PUT and PATCH get `Content-Length: 0`. Raise ValueError for `Framing.CLOSE`: a
    request cannot end by closing the connection (RFC 9112 §6.3, rule 7).
    """
    headers = request.headers
    match body.framing:
        case Framing.NONE:
            if request.method in _ANTICIPATES_CONTENT:
                _set_length(headers, 0)
                return EMPTY_BODY
            headers.remove(_FRAMING_AND_TRAILER)
        case Framing.LENGTH:
            _set_length(headers, body.length)
        case Framing.CHUNKED:
            _set_chunked(headers)
        case Framing.CLOSE:
            raise ValueError("a request body cannot be delimited by closing the connection (RFC 9112 §6.3)")
    return body


def _keep_one_length(headers: Headers) -> None:
    # The response has no content that would reveal a wrong number, but recipients rely on the field. So remove it unless it is one number.
    values = [value for _, name, value in headers.fields if name == b"content-length"]
    if values and not (len(values) == 1 and values[0].isdigit()):
        headers.remove((b"content-length",))


def _set_length(headers: Headers, length: int) -> None:
    field = (b"Content-Length", b"content-length", b"%d" % length)
    if _FRAMING_AND_TRAILER.isdisjoint([each[1] for each in headers.fields]):
        headers.fields.append(field)
    else:
        headers.remove((b"transfer-encoding", b"trailer"))
        headers.put(field)


def _set_chunked(headers: Headers) -> None:
    headers.remove((b"content-length",))
    headers.put((b"Transfer-Encoding", b"transfer-encoding", b"chunked"))
