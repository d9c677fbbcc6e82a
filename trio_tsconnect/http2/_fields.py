"""Field sections (RFC 9113 §8): from a decoded list of fields to a request head of HTTP/1.1.

The law: one pass, here, judges what a client sent; what passes is a request that HTTP/1.1 can carry and that no field can break in two. The
engine then judges it as it judges everybody's requests.
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

# RFC 9113 §8.2.2. TE is judged by its value.
_CONNECTION_SPECIFIC = frozenset({b"connection", b"proxy-connection", b"keep-alive", b"transfer-encoding", b"upgrade"})
_REQUEST_PSEUDO = frozenset({b":method", b":scheme", b":path", b":authority", b":protocol"})
_SPECIAL = _CONNECTION_SPECIFIC | {b"te", b"host", b"cookie", b"content-length", b"priority", b"http2-settings"}
_DROPPED_IN_RESPONSES = _CONNECTION_SPECIFIC | {b"http2-settings"}

# RFC 9113 §8.2.1: a field name is a token (RFC 9110 §5.6.2) without capitals.
_LOWER_TCHARS = b"!#$%&'*+-.^_`|~0123456789abcdefghijklmnopqrstuvwxyz"
# RFC 9113 §8.2.1 forbids NUL, CR and LF; the other controls would not pass HTTP/1.1 behind us (RFC 9110 §5.5).
_CONTROLS = bytes([*range(0x09), *range(0x0A, 0x20), 0x7F])
_VISIBLE = bytes(range(0x21, 0x7F))
# RFC 3986 §3.1
_SCHEME = b"abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789+-."
_PROTOCOL_NAME = _LOWER_TCHARS + b"ABCDEFGHIJKLMNOPQRSTUVWXYZ/"

# RFC 6455 §1.3
_WEBSOCKET_GUID = b"258EAFA5-E914-47DA-95CA-C5AB0DC85B11"


@attrs.define(eq=False)
class RequestHead:
    """A request as HTTP/1.1 has it."""

    method: bytes
    """Its method over HTTP/1.1."""
    head: bytes
    """The head as it goes over the virtual connection; the target is in absolute form where scheme and authority are known."""
    declared: int | None = None
    """The length that the client declared, None if it did not."""
    chunked: bool = False
    """Whether its body is chunked over the virtual connection, for want of a length."""
    priority: bytes | None = None
    """The value of its Priority field (RFC 9218 §5)."""
    tunnel: bool = False
    """Whether bytes follow, not content: CONNECT, extended or not."""
    websocket_key: bytes | None = None
    """What the other side is to prove that it has read (RFC 6455 §4.2.2), for an extended CONNECT to a WebSocket."""


class Rejected(StreamFault):
    """A malformed request (RFC 9113 §8.1.1), with as much of its request line as could be told."""

    def __init__(self, detail: str, fields: Iterable[Pair] = (), *, cause: str = "protocol_error") -> None:
        super().__init__(ErrorCode.PROTOCOL_ERROR, detail, cause)
        pseudo = {name: value for name, value in fields if name in _REQUEST_PSEUDO}
        self.method = _printable(pseudo.get(b":method", b"")) or "-"
        self.target = _printable(pseudo.get(b":path", b"") or pseudo.get(b":authority", b"")) or "-"


def _printable(value: bytes) -> str:
    return "".join(chr(c) if 0x21 <= c <= 0x7E else "?" for c in value[:1000])


def read_request(fields: Fields, *, ended: bool) -> RequestHead:
    """Judge a request's field section. `ended`: no body follows. `Rejected` when it is malformed (RFC 9113 §8.1.1, §8.2, §8.3).

    What was made of it is kept with it, for the next request like it; but not that of a tunnel, which has a key of its own.
    """
    head: RequestHead | None = fields.made.get(ended)
    if head is not None:
        return head
    head = _read_request(fields, ended)
    if not head.tunnel:
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
    """The pseudo-fields, which come first and once each (RFC 9113 §8.3), and the others."""
    pseudo: dict[bytes, bytes] = {}
    position = 0
    for name, value in fields:
        if name[:1] != b":":
            break
        if name not in _REQUEST_PSEUDO:
            raise ValueError(f"{name[:40]!r} is no pseudo-field of a request")
        if name in pseudo:
            raise ValueError(f"there is more than one {name.decode()}")
        pseudo[name] = value
        position += 1
    rest = fields[position:]
    names = [name for name, _ in rest]
    if b"" in names or b"".join(names).translate(None, _LOWER_TCHARS):
        raise ValueError(_blame_name(rest))
    return pseudo, rest


def _blame_name(fields: Sequence[Pair]) -> str:
    for name, _ in fields:
        if name[:1] == b":":
            return f"the pseudo-field {name[:40]!r} comes after other fields"
        if not name or name.translate(None, _LOWER_TCHARS):
            return f"the field name {name[:40]!r} is not a token in lower case"
    raise AssertionError("no name is to blame")


def _check_values(fields: Sequence[Pair]) -> None:
    values = [value for _, value in fields]
    whole = b"".join(values)
    if len(whole.translate(None, _CONTROLS)) != len(whole):
        raise ValueError("a field value has a control character")
    for value in values:
        if value and (value[0] in b" \t" or value[-1] in b" \t"):
            raise ValueError("a field value begins or ends with white space")


def _make_head(pseudo: dict[bytes, bytes], fields: Sequence[Pair], ended: bool) -> RequestHead:
    method, protocol = pseudo.get(b":method"), pseudo.get(b":protocol")
    if not method or not is_token(method):
        raise ValueError(":method is not a token")
    lines, special = _sort_out(fields)
    authority = _authority(pseudo.get(b":authority"), special.get(b"host"))
    target = _target(pseudo, method, authority, protocol)
    if target.translate(None, _VISIBLE):
        raise ValueError("the target has a character that is not visible ASCII")
    if authority is not None:
        lines.insert(0, (b"host", authority))
    if b"cookie" in special:
        lines.append((b"cookie", b"; ".join(special[b"cookie"])))  # RFC 9113 §8.2.3
    priority = b", ".join(special[b"priority"]) if b"priority" in special else None
    if protocol is not None:
        return _extended_connect(target, lines, protocol, priority)
    declared = _declared(special.get(b"content-length"), ended)
    if method == b"CONNECT":
        if declared:
            raise ValueError("a CONNECT request has no content")
        return RequestHead(method, _write(method, target, lines), priority=priority, tunnel=True)
    if declared is not None:
        lines.append((b"content-length", b"%d" % declared))
    elif not ended:
        lines.append((b"transfer-encoding", b"chunked"))
    lines.append((b"connection", b"close"))  # each stream has a virtual connection of its own
    return RequestHead(method, _write(method, target, lines), declared, not ended and declared is None, priority)


def _sort_out(fields: Sequence[Pair]) -> tuple[list[Pair], dict[bytes, list[bytes]]]:
    """Those that go on as they are, and those that are dealt with one by one."""
    lines: list[Pair] = []
    special: dict[bytes, list[bytes]] = {}
    for field in fields:
        name, value = field
        if name in _SPECIAL:
            special.setdefault(name, []).append(value)
            if name in _CONNECTION_SPECIFIC:
                raise ValueError(f"the field {name.decode()} is about a connection of HTTP/1.1")
            if name == b"te" and value.lower() != b"trailers":
                raise ValueError("TE says something other than trailers")
            if name != b"te" and name != b"priority":
                continue
        lines.append(field)
    return lines, special


def _write(method: bytes, target: bytes, lines: list[Pair]) -> bytes:
    return b"%b %b HTTP/1.1\r\n%b\r\n" % (method, target, b"".join([b"%b: %b\r\n" % line for line in lines]))


def _authority(authority: bytes | None, hosts: list[bytes] | None) -> bytes | None:
    """RFC 9113 §8.3.1: :authority counts; a Host beside it says the same, or the request is malformed."""
    if hosts is not None:
        if len(hosts) > 1 or (authority is not None and hosts[0].lower() != authority.lower()):
            raise ValueError("Host and :authority do not agree")
        if authority is None:
            authority = hosts[0]
    if authority is not None and b"@" in authority:
        raise ValueError("the authority has user information")
    return authority


def _target(pseudo: dict[bytes, bytes], method: bytes, authority: bytes | None, protocol: bytes | None) -> bytes:
    scheme, path = pseudo.get(b":scheme"), pseudo.get(b":path")
    if method == b"CONNECT" and protocol is None:
        # RFC 9113 §8.5
        if scheme is not None or path is not None or not pseudo.get(b":authority"):
            raise ValueError("a CONNECT request has :authority, and neither :scheme nor :path")
        return pseudo[b":authority"]
    if protocol is not None and (method != b"CONNECT" or not pseudo.get(b":authority")):
        raise ValueError(":protocol is for CONNECT, which has an :authority (RFC 8441)")
    if not scheme or not path:
        raise ValueError("there is no :scheme or no :path")
    if not scheme[:1].isalpha() or scheme.translate(None, _SCHEME):  # it becomes the beginning of a URI, and could be more than that
        raise ValueError(":scheme is not the name of a scheme")
    # RFC 9113 §8.3.1: a path begins with a slash; "*" is for OPTIONS.
    if path[0] != 0x2F and (path != b"*" or method != b"OPTIONS"):
        raise ValueError(":path does not begin with a slash")
    if authority and path != b"*":
        return b"".join((scheme, b"://", authority, path))
    return path


def _declared(lengths: list[bytes] | None, ended: bool) -> int | None:
    if lengths is None:
        return None
    value = lengths[0]
    if any(other != value for other in lengths) or not value.isdigit() or len(value) > 18:
        raise ValueError("Content-Length is not one number")
    declared = int(value)
    if ended and declared:
        raise ValueError("Content-Length announces content, and there is none")
    return declared


def _extended_connect(target: bytes, lines: list[Pair], protocol: bytes, priority: bytes | None) -> RequestHead:
    """RFC 8441 §5: what the Upgrade mechanism of HTTP/1.1 would ask."""
    if protocol.lower() != b"websocket":
        # RFC 8441 §4: to open a tunnel for a protocol that nobody here knows would be to carry whatever an origin takes it for.
        raise ValueError(":protocol is none that is spoken here")
    lines += [(b"connection", b"Upgrade"), (b"upgrade", protocol)]
    key = None
    if protocol.lower() == b"websocket":
        key = base64.b64encode(os.urandom(16))
        lines = [line for line in lines if line[0] != b"sec-websocket-key"]  # RFC 8441 §5: the client's own means nothing
        lines.append((b"sec-websocket-key", key))
    return RequestHead(b"GET", _write(b"GET", target, lines), priority=priority, tunnel=True, websocket_key=key)


def websocket_accepted(key: bytes | None, proof: bytes | None) -> bool:
    """Whether whoever switched protocols has read our key (RFC 6455 §4.1); there is nothing to prove for other protocols."""
    if key is None:
        return True
    return proof == base64.b64encode(hashlib.sha1(key + _WEBSOCKET_GUID, usedforsecurity=False).digest())


def read_trailers(fields: Sequence[Pair]) -> list[Pair]:
    """Judge a request's trailer section; what of it may be sent on (RFC 9113 §8.1, RFC 9110 §6.5.1)."""
    try:
        pseudo, rest = _split(fields)
        if pseudo:
            raise ValueError("the trailers have a pseudo-field")
        _check_values(fields)
        if any(name in _CONNECTION_SPECIFIC for name, _ in rest):
            raise ValueError("the trailers have a field about a connection of HTTP/1.1")
    except ValueError as error:
        raise StreamFault(ErrorCode.PROTOCOL_ERROR, str(error)) from None
    return [field for field in rest if field[0] not in FORBIDDEN_IN_TRAILERS]


def response_fields(fields: list[Pair]) -> list[Pair]:
    """A response's fields without those about a connection (RFC 9113 §8.2.2)."""
    return [field for field in fields if field[0] not in _DROPPED_IN_RESPONSES]
