"""Request and response heads: mutable values that hooks change in place.

Invariant: every attribute is validated when it is assigned. An invalid value raises at the line that assigned it, and no value can end a
head early or split it in two. A head of valid attributes may still be an invalid message: `check_request` and `check_response` decide that.
"""

from __future__ import annotations

import re
from typing import Any

import attrs

from trio_tsconnect._util import public
from trio_tsconnect.message._headers import Headers, HeadersInput, is_token
from trio_tsconnect.message._status import reason_phrase
from trio_tsconnect.message._url import URL, origin_form_url, target_url

_set = object.__setattr__
_TARGET = re.compile(r"[\x21-\x7e]+")  # RFC 9112 §3.2: all four forms consist of visible ASCII
_VERSION = re.compile(r"[0-9]\.[0-9]")  # RFC 9112 §2.3
_REASON = re.compile(r"[\t\x20-\x7e\x80-\xff]*")  # RFC 9112 §4: 1*( HTAB / SP / VCHAR / obs-text )

# Most requests use one of these methods. They need no encoding and no check.
_KNOWN_METHODS = frozenset({"GET", "HEAD", "POST", "PUT", "DELETE", "CONNECT", "OPTIONS", "TRACE", "PATCH"})


def _as_headers(value: HeadersInput) -> Headers:
    return value if isinstance(value, Headers) else Headers(value)


def _check_text(attribute: attrs.Attribute[Any], value: object) -> str:
    if not isinstance(value, str):
        raise TypeError(f"{attribute.name} must be a str, not {type(value).__name__}")
    return value


def _check_method(_: Request, attribute: attrs.Attribute[str], value: str) -> None:
    if value not in _KNOWN_METHODS and not is_token(_check_text(attribute, value).encode("latin-1", "replace")):
        raise ValueError(f"method {value[:60]!r} is not a token (RFC 9110 §9.1)")


def _check_target(_: Request, attribute: attrs.Attribute[str], value: str) -> None:
    if _TARGET.fullmatch(_check_text(attribute, value)) is None:
        raise ValueError(f"target {value[:60]!r} is empty or has a character that is not visible ASCII (RFC 9112 §3.2)")


def _check_version(_: object, attribute: attrs.Attribute[str], value: str) -> None:
    if value != "1.1" and _VERSION.fullmatch(_check_text(attribute, value)) is None:
        raise ValueError(f"version {value[:60]!r} is not DIGIT.DIGIT (RFC 9112 §2.3)")


def _check_status(_: Response, attribute: attrs.Attribute[int], value: int) -> None:
    if isinstance(value, bool) or not isinstance(value, int):
        raise TypeError(f"status must be an int, not {type(value).__name__}")
    if not 100 <= value <= 999:
        raise ValueError(f"status {value} is not within 100..999 (RFC 9110 §15)")


def _check_reason(_: Response, attribute: attrs.Attribute[str], value: str) -> None:
    if value != "" and _REASON.fullmatch(_check_text(attribute, value)) is None:
        raise ValueError(f"reason {value[:60]!r} has a control character or one outside ISO-8859-1 (RFC 9112 §4)")


def _follow_status(response: Response, attribute: attrs.Attribute[int], value: int) -> int:
    """Replace a standard reason phrase when the status changes: after `response.status = 404` the phrase must not be `OK`."""
    _check_status(response, attribute, value)
    if response.reason == reason_phrase(response.status):
        response.reason = reason_phrase(value)
    return value


def _fill_reason(response: Response, attribute: attrs.Attribute[str], value: str) -> str:
    _check_reason(response, attribute, value)
    return value or reason_phrase(response.status)


@public("trio_tsconnect")
@attrs.define(eq=False)
class Request:
    """The head of a request. An invalid attribute raises ValueError when it is assigned, or TypeError if its type is wrong.

    >>> request = Request("GET", "/", {"Host": "site.example"})
    >>> request.target = "/two words"
    Traceback (most recent call last):
    ValueError: target '/two words' is empty or has a character that is not visible ASCII (RFC 9112 §3.2)
    """

    method: str = attrs.field(validator=_check_method)
    """The method: a token, case-sensitive (RFC 9110 §9.1)."""
    target: str = attrs.field(validator=_check_target)
    """The request target as on the request line, in any of its four forms (RFC 9112 §3.2)."""
    headers: Headers = attrs.field(factory=Headers, converter=_as_headers)
    """The fields. Any input of `Headers` may be assigned. A `Headers` object is stored, not copied."""
    version: str = attrs.field(default="1.1", validator=_check_version)
    """HTTP version of the sender, "1.1" or "1.0"."""

    _where: tuple[str, str | None] = attrs.field(default=("http", None), init=False, repr=False)  # the arguments of `sent_over`
    _known: tuple[str, bytes | None, URL] | None = attrs.field(default=None, init=False, repr=False)  # target and Host, and the URL of both

    @property
    def url(self) -> URL:
        """The effective request URI (RFC 9110 §7.1): the same in every form of the target, over every protocol.

        Raises `BadRequest` if target and Host are no valid URL. Assign a `URL`, or an absolute URL as text (ValueError if it is invalid), to
        change the target and the Host field together.
        """
        target, host, known = self.target, self.headers.raw_value(b"host"), self._known
        if known is not None and known[0] is target and known[1] == host:
            return known[2]
        scheme, authority = self._where
        if host and target[0] == "/" and self.method != "CONNECT":
            url = origin_form_url(scheme, host.decode("latin-1"), target)
        else:
            url = target_url(self, scheme=scheme, default_authority=authority)
        _set(self, "_known", (target, host, url))  # attrs' own assignment takes ten times as long, for the validators of other attributes
        return url

    @url.setter
    def url(self, value: URL | str) -> None:
        url = URL.parse(value) if isinstance(value, str) else value
        if not isinstance(url, URL):
            raise TypeError(f"url must be a URL or a str, not {type(value).__name__}")
        self.target = f"{url.uri_host}:{url.port}" if self.method == "CONNECT" else str(url)
        self.headers[b"Host"] = url.authority

    def sent_over(self, scheme: str, authority: str | None = None) -> None:
        """Set what the message does not say: the scheme of its connection, and the authority for an HTTP/1.0 request without a host."""
        _set(self, "_where", (scheme, authority))

    def copy(self) -> Request:
        """Return an independent copy, including the fields."""
        request = Request(self.method, self.target, self.headers.copy(), self.version)
        request.sent_over(*self._where)
        return request


@public("trio_tsconnect")
@attrs.define(eq=False)
class Response:
    """The head of a response. An invalid attribute raises ValueError when it is assigned, or TypeError if its type is wrong.

    >>> response = Response(200)
    >>> response.status = 404
    >>> response.reason
    'Not Found'
    """

    status: int = attrs.field(validator=_check_status, on_setattr=_follow_status)
    """The status, 100..999; above 599 it is parsed, and by default rejected. A standard reason follows a new status."""
    headers: Headers = attrs.field(factory=Headers, converter=_as_headers)
    """The fields. Any input of `Headers` may be assigned. A `Headers` object is stored, not copied."""
    reason: str = attrs.field(default="", validator=_check_reason, on_setattr=_fill_reason)
    """The reason phrase. An empty one is replaced by the standard phrase, because some clients reject an empty phrase."""
    version: str = attrs.field(default="1.1", validator=_check_version)
    """HTTP version of the sender, "1.1" or "1.0"."""

    def __attrs_post_init__(self) -> None:
        if not self.reason:
            object.__setattr__(self, "reason", reason_phrase(self.status))  # without validation: the phrase is known to be valid

    def copy(self) -> Response:
        """Return an independent copy, including the fields."""
        return Response(self.status, self.headers.copy(), self.reason, self.version)
