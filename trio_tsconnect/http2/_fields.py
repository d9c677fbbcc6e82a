"""Field sections (RFC 9113 §8): validate the decoded fields of a request and convert them to an HTTP/1.1 request head.

Invariant: a head that `read_request` returns is one HTTP/1.1 request. No field can end a line or add a second request (request smuggling).
Everything else is validated by the engine, as for every other HTTP/1.1 request.
"""

from __future__ import annotations

import base64
import hashlib
import os
from collections.abc import Iterable, Sequence

import attrs

from trio_tsconnect.http2._errors import ErrorCode, StreamFault
from trio_tsconnect.http2._hpack import Fields, Pair
from trio_tsconnect.message import FORBIDDEN_IN_TRAILERS, is_token

# Connection-specific fields (RFC 9113 §8.2.2). TE is permitted with the value "trailers", see `_sort_out`.
_CONNECTION_SPECIFIC = frozenset({b"connection", b"proxy-connection", b"keep-alive", b"transfer-encoding", b"upgrade"})
_REQUEST_PSEUDO = frozenset({b":method", b":scheme", b":path", b":authority", b":protocol"})
_SPECIAL = _CONNECTION_SPECIFIC | {b"te", b"host", b"cookie", b"content-length", b"priority", b"http2-settings"}
_DROPPED_IN_RESPONSES = _CONNECTION_SPECIFIC | {b"http2-settings"}

# RFC 9113 §8.2.1: a field name is a token (RFC 9110 §5.6.2) without upper-case letters.
_LOWER_TCHARS = b"!#$%&'*+-.^_`|~0123456789abcdefghijklmnopqrstuvwxyz"
# RFC 9113 §8.2.1 forbids NUL, CR and LF. HTTP/1.1, to which requests are converted, forbids the other control characters (RFC 9110 §5.5).
_CONTROLS = bytes([*range(0x09), *range(0x0A, 0x20), 0x7F])
_VISIBLE = bytes(range(0x21, 0x7F))
# Characters of a URI scheme (RFC 3986 §3.1).
_SCHEME = b"abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789+-."
_PROTOCOL_NAME = _LOWER_TCHARS + b"ABCDEFGHIJKLMNOPQRSTUVWXYZ/"

# RFC 6455 §1.3
_WEBSOCKET_GUID = b"258EAFA5-E914-47DA-95CA-C5AB0DC85B11"


@attrs.define(eq=False)
class RequestHead:
    """A validated request, converted to HTTP/1.1."""

    method: bytes
    """Method over HTTP/1.1; an extended CONNECT becomes GET."""
    head: bytes
    """The head, as it is written to the virtual connection. Its target has the authority form for CONNECT; else the absolute form, if an
    authority is known and the path is not `*`."""
    declared: int | None = None
    """Content-Length in bytes, None if the client sent none."""
    chunked: bool = False
    """True if the body is chunked over the virtual connection, because the client declared no length."""
    priority: bytes | None = None
    """Value of the Priority field (RFC 9218 §5)."""
    tunnel: bool = False
    """True for CONNECT and extended CONNECT: the bytes that follow are no content."""
    websocket_key: bytes | None = None
    """Value of Sec-WebSocket-Key (RFC 6455 §4.2.2) of an extended CONNECT; a 101 must prove that its sender has read this key."""


class Rejected(StreamFault):
    """A stream error for a request that is malformed (RFC 9113 §8.1.1) or refused.

    `method` and `target` are those of the request, for the log: printable ASCII, at most 1000 characters, "-" if unknown.
    """

    def __init__(self, detail: str, fields: Iterable[Pair] = (), *, cause: str = "protocol_error") -> None:
        super().__init__(ErrorCode.PROTOCOL_ERROR, detail, cause)
        pseudo = {name: value for name, value in fields if name in _REQUEST_PSEUDO}
        self.method = _printable(pseudo.get(b":method", b"")) or "-"
        self.target = _printable(pseudo.get(b":path", b"") or pseudo.get(b":authority", b"")) or "-"


def _printable(value: bytes) -> str:
    return "".join(chr(c) if 0x21 <= c <= 0x7E else "?" for c in value[:1000])


def read_request(fields: Fields, *, ended: bool) -> RequestHead:
    """Validate the field section of a request and return its HTTP/1.1 head. `ended`: no body follows.

    Raises `Rejected` if the request is malformed (RFC 9113 §8.1.1, §8.2, §8.3). The result is cached in `fields.made`: the HPACK decoder
    returns the same `Fields` for a repeated head.
    """
    head: RequestHead | None = fields.made.get(ended)
    if head is not None:
        return head
    head = _read_request(fields, ended)
    if not head.tunnel:  # each tunnel needs a new random websocket_key
        fields.made[ended] = head
    return head


def _read_request(fields: Fields, ended: bool) -> RequestHead:
    try:
        pseudo, rest = _split(fields)
        _check_values(fields)
        return _make_head(pseudo, rest, ended)
    except ValueError as error:
        raise Rejected(str(error), fields) from None


def _split(fields: Sequence[Pair]) -> tuple[dict[bytes, bytes], Sequence[Pair]]:
    """Return the pseudo-header fields and the others (RFC 9113 §8.3). Raises `ValueError` for an invalid name, order or repetition."""
    pseudo: dict[bytes, bytes] = {}
    position = 0
    for name, value in fields:
        if name[:1] != b":":
            break
        if name not in _REQUEST_PSEUDO:
            raise ValueError(f"{name[:40]!r} is not a pseudo-header field of a request")
        if name in pseudo:
            raise ValueError(f"repeated pseudo-header field {name.decode()}")
        pseudo[name] = value
        position += 1
    rest = fields[position:]
    names = [name for name, _ in rest]  # checked as one joined string, for speed; a joined string hides an empty name
    if b"" in names or b"".join(names).translate(None, _LOWER_TCHARS):
        raise ValueError(_blame_name(rest))
    return pseudo, rest


def _blame_name(fields: Sequence[Pair]) -> str:
    for name, _ in fields:
        if name[:1] == b":":
            return f"pseudo-header field {name[:40]!r} after a regular field"
        if not name or name.translate(None, _LOWER_TCHARS):
            return f"field name {name[:40]!r} is not a token in lower case"
    raise AssertionError("all field names are valid")


def _check_values(fields: Sequence[Pair]) -> None:
    values = [value for _, value in fields]
    whole = b"".join(values)
    if len(whole.translate(None, _CONTROLS)) != len(whole):
        raise ValueError("a field value contains a control character")
    for value in values:
        if value and (value[0] in b" \t" or value[-1] in b" \t"):
            raise ValueError("a field value starts or ends with whitespace")


def _make_head(pseudo: dict[bytes, bytes], fields: Sequence[Pair], ended: bool) -> RequestHead:
    method, protocol = pseudo.get(b":method"), pseudo.get(b":protocol")
    if not method or not is_token(method):
        raise ValueError(":method is missing or is not a token")
    lines, special = _sort_out(fields)
    authority = _authority(pseudo.get(b":authority"), special.get(b"host"))
    target = _target(pseudo, method, authority, protocol)
    if target.translate(None, _VISIBLE):
        raise ValueError("the request target contains a character that is not visible ASCII")
    if authority is not None:
        lines.insert(0, (b"host", authority))
    if b"cookie" in special:
        lines.append((b"cookie", b"; ".join(special[b"cookie"])))  # RFC 9113 §8.2.3: HTTP/1.1 has one Cookie field
    priority = b", ".join(special[b"priority"]) if b"priority" in special else None
    if protocol is not None:
        return _extended_connect(target, lines, protocol, priority)
    declared = _declared(special.get(b"content-length"), ended)
    if method == b"CONNECT":
        if declared:
            raise ValueError("a CONNECT request must not have content")
        return RequestHead(method, _write(method, target, lines), priority=priority, tunnel=True)
    if declared is not None:
        lines.append((b"content-length", b"%d" % declared))
    elif not ended:
        lines.append((b"transfer-encoding", b"chunked"))
    lines.append((b"connection", b"close"))  # a virtual connection carries one request: one per stream
    return RequestHead(method, _write(method, target, lines), declared, not ended and declared is None, priority)


def _sort_out(fields: Sequence[Pair]) -> tuple[list[Pair], dict[bytes, list[bytes]]]:
    """Return the fields that are copied as they are, and the values of those that need handling. Te and Priority are in both.

    Raises `ValueError` for connection-specific fields (RFC 9113 §8.2.2).
    """
    lines: list[Pair] = []
    special: dict[bytes, list[bytes]] = {}
    for field in fields:
        name, value = field
        if name in _SPECIAL:
            special.setdefault(name, []).append(value)
            if name in _CONNECTION_SPECIFIC:
                raise ValueError(f"connection-specific field {name.decode()}")
            if name == b"te" and value.lower() != b"trailers":
                raise ValueError("TE has a value other than 'trailers'")
            if name != b"te" and name != b"priority":
                continue
        lines.append(field)
    return lines, special


def _write(method: bytes, target: bytes, lines: list[Pair]) -> bytes:
    return b"%b %b HTTP/1.1\r\n%b\r\n" % (method, target, b"".join([b"%b: %b\r\n" % line for line in lines]))


def _authority(authority: bytes | None, hosts: list[bytes] | None) -> bytes | None:
    """Return `:authority`, or Host without it. Raises `ValueError` if both are present and differ (RFC 9113 §8.3.1)."""
    if hosts is not None:
        if len(hosts) > 1 or (authority is not None and hosts[0].lower() != authority.lower()):
            raise ValueError("Host is repeated or differs from :authority")
        if authority is None:
            authority = hosts[0]
    if authority is not None and b"@" in authority:
        raise ValueError("the authority contains user information")
    return authority


def _target(pseudo: dict[bytes, bytes], method: bytes, authority: bytes | None, protocol: bytes | None) -> bytes:
    scheme, path = pseudo.get(b":scheme"), pseudo.get(b":path")
    if method == b"CONNECT" and protocol is None:
        # RFC 9113 §8.5
        if scheme is not None or path is not None or not pseudo.get(b":authority"):
            raise ValueError("a CONNECT request must have :authority, and neither :scheme nor :path")
        return pseudo[b":authority"]
    if protocol is not None and (method != b"CONNECT" or not pseudo.get(b":authority")):
        raise ValueError(":protocol is only allowed in a CONNECT request with :authority (RFC 8441)")
    if not scheme or not path:
        raise ValueError(":scheme or :path is missing")
    if not scheme[:1].isalpha() or scheme.translate(None, _SCHEME):  # "http://evil/x?" would change the host of the target
        raise ValueError(":scheme is not a URI scheme")
    # RFC 9113 §8.3.1: a path begins with a slash; "*" is only allowed for OPTIONS.
    if path[0] != 0x2F and (path != b"*" or method != b"OPTIONS"):
        raise ValueError(":path does not start with a slash")
    if authority and path != b"*":
        return b"".join((scheme, b"://", authority, path))
    return path


def _declared(lengths: list[bytes] | None, ended: bool) -> int | None:
    if lengths is None:
        return None
    value = lengths[0]
    if any(other != value for other in lengths) or not value.isdigit() or len(value) > 18:
        raise ValueError("Content-Length is not one number of at most 18 digits")
    declared = int(value)
    if ended and declared:
        raise ValueError("Content-Length is not 0, but the request ended with its head")
    return declared


def _extended_connect(target: bytes, lines: list[Pair], protocol: bytes, priority: bytes | None) -> RequestHead:
    """Return the HTTP/1.1 Upgrade request that corresponds to an extended CONNECT (RFC 8441 §5)."""
    if protocol.lower() != b"websocket":
        # RFC 8441 §4. A tunnel for an unknown protocol would carry arbitrary bytes to an origin.
        raise ValueError(":protocol is not supported, expected 'websocket'")
    lines = [line for line in lines if line[0] != b"sec-websocket-key"]  # RFC 8441 §5: the client's own has no meaning
    key = base64.b64encode(os.urandom(16))
    lines += [(b"connection", b"Upgrade"), (b"upgrade", protocol), (b"sec-websocket-key", key)]
    return RequestHead(b"GET", _write(b"GET", target, lines), priority=priority, tunnel=True, websocket_key=key)


def websocket_accepted(key: bytes | None, proof: bytes | None) -> bool:
    """True if `proof` (Sec-WebSocket-Accept) was computed from `key` (RFC 6455 §4.1), or if there is no key to prove."""
    if key is None:
        return True
    return proof == base64.b64encode(hashlib.sha1(key + _WEBSOCKET_GUID, usedforsecurity=False).digest())


def read_trailers(fields: Sequence[Pair]) -> list[Pair]:
    """Validate the trailer section of a request. Return the fields that may be forwarded as trailers (RFC 9113 §8.1, RFC 9110 §6.5.1).

    Raises `StreamFault` if the section is malformed.
    """
    try:
        pseudo, rest = _split(fields)
        if pseudo:
            raise ValueError("the trailers contain a pseudo-header field")
        _check_values(fields)
        if any(name in _CONNECTION_SPECIFIC for name, _ in rest):
            raise ValueError("the trailers contain a connection-specific field")
    except ValueError as error:
        raise StreamFault(ErrorCode.PROTOCOL_ERROR, str(error)) from None
    return [field for field in rest if field[0] not in FORBIDDEN_IN_TRAILERS]


def response_fields(fields: list[Pair]) -> list[Pair]:
    """Return the fields of a response without the connection-specific ones (RFC 9113 §8.2.2)."""
    return [field for field in fields if field[0] not in _DROPPED_IN_RESPONSES]
