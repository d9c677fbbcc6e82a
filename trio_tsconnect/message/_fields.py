"""Rules of an intermediary for fields about the connection or the path of a message: Connection, Via, Expect, Max-Forwards, TE and Date.

Invariant: fields that belong to one connection are removed before a message is forwarded, and no `Connection` option can remove a field
that the meaning of the message depends on.
"""

from __future__ import annotations

import time
from functools import lru_cache

from trio_tsconnect._util import public
from trio_tsconnect.message._errors import BadRequest
from trio_tsconnect.message._framing import Body
from trio_tsconnect.message._headers import Headers, is_token
from trio_tsconnect.message._message import Request

# RFC 9110 §7.6.1: Connection and these fields are removed, even if Connection does not list them. Trailer is end-to-end: `_framing` removes
# it if no trailers can follow. Proxy-Authenticate and Proxy-Authorization are not included: they belong to the proxy that uses them (RFC
# 9110 §11.7), which may be another one.
HOP_BY_HOP = frozenset({b"connection", b"keep-alive", b"proxy-connection", b"te", b"transfer-encoding", b"upgrade", b"http2-settings"})

# RFC 9110 §7.6.1: a sender MUST NOT list a field that is meant for all recipients. A sender that does so wants the origin to see a
# different request than this proxy saw ("hop-by-hop header abuse").
_NOT_REMOVABLE = frozenset(
    b"host content-length content-type content-encoding content-range content-language content-location authorization cookie set-cookie "
    b"www-authenticate proxy-authorization proxy-authenticate cache-control via forwarded x-forwarded-for x-forwarded-proto x-forwarded-host "
    b"max-forwards expect date location range trailer".split()
)

_IDEMPOTENT = frozenset({"GET", "HEAD", "OPTIONS", "TRACE", "PUT", "DELETE"})  # RFC 9110 §9.2.2


@public("trio_tsconnect.message")
def strip_hop_by_hop(headers: Headers, *, keep_upgrade: bool = False) -> None:
    """Remove Connection, the fields that it lists, and all other hop-by-hop fields (RFC 9110 §7.6.1).

    With `keep_upgrade`, keep an Upgrade field that Connection lists, together with `Connection: Upgrade` (RFC 9110 §7.8).
    """
    doomed = HOP_BY_HOP
    upgrading = False
    for _, name, value in headers.fields:
        if name == b"connection":
            options = {option.strip() for option in value.lower().split(b",")}
            upgrading = upgrading or b"upgrade" in options
            if not options <= doomed:
                doomed = doomed | (options - _NOT_REMOVABLE)
    if keep_upgrade and upgrading and "upgrade" in headers:
        headers.remove(doomed - {b"upgrade"})
        headers.add(b"Connection", b"Upgrade")
    else:
        headers.remove(doomed)


# Options that stay in Connection after the listed fields were removed: they have a meaning of their own.
_OPTIONS = (HOP_BY_HOP - {b"connection"}) | {b"close"}
_ONE_OPTION = frozenset({b"keep-alive", b"Keep-Alive", b"close", b"Close", b"upgrade", b"Upgrade"})
_NOTHING: frozenset[bytes] = frozenset()


@public("trio_tsconnect.message")
def remove_listed(headers: Headers) -> frozenset[bytes]:
    """Remove the fields that Connection lists, and their names from Connection. Return these names (RFC 9110 §7.6.1).

    Call it on a message as it was received, before fields are added: otherwise the sender's list would remove fields of the proxy.
    """
    for field in headers.fields:
        if field[1] == b"connection" and field[2] not in _ONE_OPTION:
            break
    else:
        return _NOTHING
    options = [option.strip() for field in headers.fields if field[1] == b"connection" for option in field[2].lower().split(b",")]
    others = set(options) - _OPTIONS
    if not others:
        return _NOTHING
    kept = b", ".join([option for option in options if option in _OPTIONS])
    if kept:
        headers.put((b"Connection", b"connection", kept))
    else:
        headers.remove((b"connection",))
    listed = frozenset(others - _NOT_REMOVABLE)
    headers.remove(listed)
    return listed


@public("trio_tsconnect.message")
def keep_alive(message_version: str, headers: Headers) -> bool:
    """Return True if the sender of this message wants the connection to persist (RFC 9112 §9.3)."""
    options: list[str] = []
    for field in headers.fields:
        if field[1] == b"connection":
            if field[2] == b"close":  # by far the most common option
                return False
            options = headers.tokens(b"connection")
            break
    if "close" in options:
        return False
    return message_version != "1.0" or "keep-alive" in options


@public("trio_tsconnect.message")
def accepts_trailers(headers: Headers) -> bool:
    """Return True if the sender of this request accepts trailers: `TE: trailers` (RFC 9110 §10.1.4)."""
    return "trailers" in headers.tokens("te")


@public("trio_tsconnect.message")
def add_via(headers: Headers, version: str, pseudonym: str) -> None:
    """Append `version pseudonym` to Via (RFC 9110 §7.6.3). `version` is the version in which the message was received.

    Raise ValueError if the pseudonym is neither a token nor a host.
    """
    entry = _via_entry(version, pseudonym)
    fields = headers.fields
    for position in range(len(fields) - 1, -1, -1):
        raw, name, value = fields[position]
        # Not to a line with a comment: if the comment is not closed, it would hide what is appended.
        if name == b"via" and b"(" not in value:
            fields[position] = (raw, name, value + b", " + entry if value else entry)
            return
    headers.add(b"Via", entry)


@lru_cache(maxsize=64)
def _via_entry(version: str, pseudonym: str) -> bytes:
    # RFC 9110 §7.6.3: received-by is a pseudonym (a token), or a host with an optional port.
    if not is_token(pseudonym.replace(":", "").replace("[", "").replace("]", "").encode("latin-1", "replace")):
        raise ValueError(f"Via pseudonym {pseudonym[:60]!r} is neither a token nor a host (RFC 9110 §7.6.3)")
    return f"{version} {pseudonym}".encode("latin-1")


@public("trio_tsconnect.message")
def via_names(headers: Headers) -> list[str]:
    """Return the received-by names in Via, in order and as written: the intermediaries of this message so far (RFC 9110 §7.6.3)."""
    names = []
    for value in headers.get_all("via"):
        for member in _without_comments(value).split(","):
            words = member.split()
            if len(words) >= 2:
                names.append(words[1])
    return names


def _without_comments(value: str) -> str:
    # A comment may contain commas and nested comments (RFC 9110 §5.6.5).
    if "(" not in value:
        return value
    kept: list[str] = []
    depth = 0
    escaped = False
    for character in value:
        if escaped:
            escaped = False
        elif depth and character == "\\":
            escaped = True
        elif character == "(":
            depth += 1
        elif character == ")" and depth:
            depth -= 1
        elif not depth:
            kept.append(character)
    return "".join(kept)


@public("trio_tsconnect.message")
def expects_continue(request: Request) -> bool:
    """Return True if the client waits for 100 (Continue). An HTTP/1.0 client never does (RFC 9110 §10.1.1)."""
    return "100-continue" in request.headers.tokens(b"expect") and request.version != "1.0"


@public("trio_tsconnect.message")
def check_expect(request: Request) -> None:
    """Raise `BadRequest` 417 for an expectation other than 100-continue (RFC 9110 §10.1.1)."""
    expect = request.headers.get(b"expect")
    if expect is not None and any(member != "100-continue" for member in request.headers.tokens(b"expect")):
        raise BadRequest("unknown_expectation", f"The expectation {expect[:80]!r} is not supported.", 417)


@public("trio_tsconnect.message")
def max_forwards(request: Request) -> int | None:
    """Return how many times this request may still be forwarded; None if it does not limit that (RFC 9110 §7.6.2).

    The limit applies to TRACE and OPTIONS only. Raise `BadRequest` for a value that is not a number: a guess could forward without end.
    """
    if request.method not in ("TRACE", "OPTIONS"):
        return None
    value = request.headers.get(b"max-forwards")
    if value is None:
        return None
    if not (value.isascii() and value.isdigit() and len(value) <= 18):
        raise BadRequest("bad_max_forwards", f"Max-Forwards {value[:80]!r} is not a number.")
    return int(value)


@public("trio_tsconnect.message")
def retry_safe(request: Request, *, body: Body) -> bool:
    """Return True if this request may be sent twice: its method is idempotent (RFC 9110 §9.2.2), and it has no body to replay."""
    return body.empty and is_idempotent(request.method)


@public("trio_tsconnect.message")
def is_idempotent(method: str) -> bool:
    """Return True if several identical requests with this method have the effect of one (RFC 9110 §9.2.2)."""
    return method in _IDEMPOTENT


_DAYS = ("Mon", "Tue", "Wed", "Thu", "Fri", "Sat", "Sun")
_MONTHS = ("Jan", "Feb", "Mar", "Apr", "May", "Jun", "Jul", "Aug", "Sep", "Oct", "Nov", "Dec")


@public("trio_tsconnect.message")
def http_date(unix_time: float) -> str:
    """Return an IMF-fixdate (RFC 9110 §5.6.7), as used in the Date field. `unix_time` is in seconds.

    >>> http_date(784111777)
    'Sun, 06 Nov 1994 08:49:37 GMT'
    """
    return _date_of_second(int(unix_time))


@lru_cache(maxsize=16)
def _date_of_second(second: int) -> str:
    # Not strftime: its day and month names depend on the locale.
    year, month, day, hour, minute, sec, weekday, *_ = time.gmtime(second)
    return f"{_DAYS[weekday]}, {day:02d} {_MONTHS[month - 1]} {year:04d} {hour:02d}:{minute:02d}:{sec:02d} GMT"
