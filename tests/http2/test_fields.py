"""RFC 9113 §8.2 and §8.3: which field sections are malformed, and what becomes of the others; without a connection."""

from __future__ import annotations

from collections.abc import Sequence

import pytest

from trio_tsconnect.http2 import _fields
from trio_tsconnect.http2._errors import StreamFault
from trio_tsconnect.http2._fields import Rejected, RequestHead, read_trailers
from trio_tsconnect.http2._hpack import Fields

GET = [(b":method", b"GET"), (b":scheme", b"https"), (b":path", b"/a?b"), (b":authority", b"site.example")]
POST = [(b":method", b"POST"), *GET[1:]]
CONNECT = [(b":method", b"CONNECT"), (b":authority", b"site.example:443")]
WEBSOCKET = [(b":method", b"CONNECT"), (b":protocol", b"websocket"), *GET[1:]]


def read_request(fields: Sequence[tuple[bytes, bytes]], *, ended: bool) -> RequestHead:
    return _fields.read_request(Fields(fields), ended=ended)


def without(name: bytes) -> list[tuple[bytes, bytes]]:
    return [field for field in GET if field[0] != name]


def replaced(name: bytes, value: bytes) -> list[tuple[bytes, bytes]]:
    return [(field[0], value if field[0] == name else field[1]) for field in GET]


MALFORMED = {
    # §8.2: names
    "upper case": [*GET, (b"X-Field", b"1")],
    "empty name": [*GET, (b"", b"1")],
    "empty name before others": [*GET, (b"", b"1"), (b"a", b"1")],
    "space in name": [*GET, (b"a b", b"1")],
    "colon in name": [*GET, (b"a:b", b"1")],
    "line feed in name": [*GET, (b"a\nb", b"1")],
    "high byte in name": [*GET, (b"a\xe4", b"1")],
    "DEL in name": [*GET, (b"a\x7f", b"1")],
    # §8.2.1: values
    "NUL in value": [*GET, (b"a", b"1\x002")],
    "CR in value": [*GET, (b"a", b"1\r2")],
    "LF in value": [*GET, (b"a", b"1\n2")],
    "CRLF in a pseudo-field": replaced(b":path", b"/ HTTP/1.1\r\nevil: 1"),
    "leading space": [*GET, (b"a", b" 1")],
    "trailing tab": [*GET, (b"a", b"1\t")],
    # §8.2.2: about a connection
    "connection": [*GET, (b"connection", b"keep-alive")],
    "proxy-connection": [*GET, (b"proxy-connection", b"keep-alive")],
    "keep-alive": [*GET, (b"keep-alive", b"1")],
    "transfer-encoding": [*POST, (b"transfer-encoding", b"chunked")],
    "upgrade": [*GET, (b"upgrade", b"websocket")],
    "te gzip": [*GET, (b"te", b"gzip")],
    "te twice": [*GET, (b"te", b"trailers"), (b"te", b"trailers, deflate")],
    # §8.3: pseudo-fields
    "pseudo after regular": [*GET[:3], (b"a", b"1"), GET[3]],
    "unknown pseudo": [*GET, (b":what", b"1")],
    "pseudo of a response": [*GET, (b":status", b"200")],
    "no method": without(b":method"),
    "no scheme": without(b":scheme"),
    "scheme that is more than one": replaced(b":scheme", b"http://evil.example/x?"),
    "scheme with a colon": replaced(b":scheme", b"http:"),
    "scheme that begins with a digit": replaced(b":scheme", b"1http"),
    "scheme with a space": replaced(b":scheme", b"ht tp"),
    "empty scheme": replaced(b":scheme", b""),
    "scheme that is more than one, with a Host": [*replaced(b":scheme", b"http://evil.example/x?")[:-1], (b"host", b"site.example")],
    "no path": without(b":path"),
    "empty path": replaced(b":path", b""),
    "empty method": replaced(b":method", b""),
    "method no token": replaced(b":method", b"GET /evil HTTP/1.1"),
    "two methods": [(b":method", b"GET"), *GET],
    "two paths": [*GET, (b":path", b"/")],
    "two schemes": [*GET, (b":scheme", b"https")],
    "two authorities": [*GET, (b":authority", b"site.example")],
    "path without slash": replaced(b":path", b"a"),
    "star for GET": replaced(b":path", b"*"),
    "space in path": replaced(b":path", b"/a b"),
    "high byte in path": replaced(b":path", b"/\xe4"),
    "user information": replaced(b":authority", b"user@site.example"),
    "another host": [*GET, (b"host", b"other.example")],
    "two hosts": [*without(b":authority"), (b"host", b"a"), (b"host", b"a")],
    # §8.1.1
    "length no number": [*POST, (b"content-length", b"+1")],
    "lengths that differ": [*POST, (b"content-length", b"1"), (b"content-length", b"2")],
    "length list": [*POST, (b"content-length", b"1, 1")],
    "negative length": [*POST, (b"content-length", b"-1")],
    "absurd length": [*POST, (b"content-length", b"9" * 30)],
    # §8.5
    "CONNECT with path": [*CONNECT, (b":path", b"/")],
    "CONNECT with scheme": [*CONNECT, (b":scheme", b"https")],
    "CONNECT without authority": CONNECT[:1],
    "CONNECT with host only": [CONNECT[0], (b"host", b"site.example:443")],
    "CONNECT with content": [*CONNECT, (b"content-length", b"1")],
    # RFC 8441 §4
    "protocol without CONNECT": [*GET, (b":protocol", b"websocket")],
    "extended CONNECT without path": [field for field in WEBSOCKET if field[0] != b":path"],
    "extended CONNECT without scheme": [field for field in WEBSOCKET if field[0] != b":scheme"],
    "extended CONNECT without authority": WEBSOCKET[:-1],
    "extended CONNECT with a scheme that is more than one": [
        (name, b"http://evil.example/x?" if name == b":scheme" else value) for name, value in WEBSOCKET
    ],
    "protocol of two words": [*CONNECT[:1], (b":protocol", b"web socket"), *GET[1:]],
    "empty protocol": [*CONNECT[:1], (b":protocol", b""), *GET[1:]],
}


@pytest.mark.parametrize("fields", MALFORMED.values(), ids=MALFORMED.keys())
def test_malformed_request_is_rejected(fields: list[tuple[bytes, bytes]]) -> None:
    with pytest.raises(Rejected):
        read_request(fields, ended=False)


def test_rejected_request_tells_what_it_was_in_one_line() -> None:
    with pytest.raises(Rejected) as caught:
        read_request(replaced(b":path", b"/ HTTP/1.1\r\nevil: 1"), ended=True)
    assert (caught.value.method, caught.value.target) == ("GET", "/?HTTP/1.1??evil:?1")


def test_content_announced_by_a_request_that_has_ended_is_malformed() -> None:
    with pytest.raises(Rejected):
        read_request([*POST, (b"content-length", b"5")], ended=True)


def lines(fields: list[tuple[bytes, bytes]], *, ended: bool = True) -> list[bytes]:
    head = read_request(fields, ended=ended).head
    assert head.endswith(b"\r\n\r\n")
    return head[:-4].split(b"\r\n")


def test_request_becomes_one_of_http_1_1_in_absolute_form() -> None:
    assert lines([*GET, (b"accept", b"*/*"), (b"x", b"")]) == [
        b"GET https://site.example/a?b HTTP/1.1",
        b"host: site.example",
        b"accept: */*",
        b"x: ",
        b"connection: close",
    ]


def test_host_stands_in_for_a_missing_authority() -> None:
    assert lines([*without(b":authority"), (b"host", b"site.example")])[:2] == [
        b"GET https://site.example/a?b HTTP/1.1",
        b"host: site.example",
    ]


def test_host_that_agrees_is_not_repeated() -> None:
    assert [line for line in lines([*GET, (b"host", b"SITE.example")]) if line.lower().startswith(b"host")] == [b"host: site.example"]


def test_request_without_any_authority_is_left_to_the_engine() -> None:
    assert lines(without(b":authority")) == [b"GET /a?b HTTP/1.1", b"connection: close"]


def test_options_for_the_server_keeps_its_star() -> None:
    fields = [(b":method", b"OPTIONS"), (b":scheme", b"http"), (b":path", b"*"), (b":authority", b"site.example")]
    assert lines(fields)[:2] == [b"OPTIONS * HTTP/1.1", b"host: site.example"]


def test_cookie_crumbs_become_one_field() -> None:
    """RFC 9113 §8.2.3."""
    assert b"cookie: a=1; b=2; c=3" in lines([*GET, (b"cookie", b"a=1"), (b"x", b"y"), (b"cookie", b"b=2; c=3")])


def test_te_trailers_and_priority_go_on() -> None:
    fields = lines([*GET, (b"te", b"trailers"), (b"priority", b"u=1")])
    assert b"te: trailers" in fields
    assert b"priority: u=1" in fields
    assert read_request([*GET, (b"priority", b"u=1"), (b"priority", b"i")], ended=True).priority == b"u=1, i"


def test_declared_length_is_kept_once() -> None:
    fields = lines([*POST, (b"content-length", b"5"), (b"content-length", b"5")], ended=False)
    assert fields.count(b"content-length: 5") == 1
    assert b"transfer-encoding: chunked" not in fields


def test_content_of_unknown_length_is_chunked() -> None:
    head = read_request(POST, ended=False)
    assert head.chunked
    assert b"\r\ntransfer-encoding: chunked\r\n" in head.head


def test_connect_has_authority_form() -> None:
    head = read_request(CONNECT, ended=False)
    assert head.tunnel
    assert head.head == b"CONNECT site.example:443 HTTP/1.1\r\nhost: site.example:443\r\n\r\n"


def test_extended_connect_becomes_an_upgrade() -> None:
    """RFC 8441 §5."""
    fields = [*WEBSOCKET, (b"sec-websocket-version", b"13"), (b"sec-websocket-key", b"of no meaning")]
    head = read_request(fields, ended=False)
    assert head.tunnel
    assert head.websocket_key
    assert head.head.split(b"\r\n")[:-2] == [
        b"GET https://site.example/a?b HTTP/1.1",
        b"host: site.example",
        b"sec-websocket-version: 13",
        b"connection: Upgrade",
        b"upgrade: websocket",
        b"sec-websocket-key: " + head.websocket_key,
    ]


@pytest.mark.parametrize("protocol", [b"connect-udp", b"webtransport", b"h2c", b"x", b""])
def test_extended_connect_to_other_protocols_is_refused(protocol: bytes) -> None:
    fields = [(name, protocol if name == b":protocol" else value) for name, value in WEBSOCKET]
    with pytest.raises(Rejected):
        read_request(Fields(fields), ended=False)


@pytest.mark.parametrize(
    "fields",
    [[(b":path", b"/")], [(b"A", b"1")], [(b"a", b"1\r\n")], [(b"connection", b"close")], [(b"a", b"1"), (b":status", b"200")]],
)
def test_malformed_trailers_are_refused(fields: list[tuple[bytes, bytes]]) -> None:
    with pytest.raises(StreamFault):
        read_trailers(fields)


def test_trailers_lose_what_cannot_be_one() -> None:
    """RFC 9110 §6.5.1."""
    assert read_trailers([(b"grpc-status", b"0"), (b"content-length", b"5"), (b"host", b"evil")]) == [(b"grpc-status", b"0")]


def test_head_that_repeats_is_judged_once() -> None:
    fields = Fields(GET)
    head = _fields.read_request(fields, ended=True)
    assert _fields.read_request(fields, ended=True) is head
    assert _fields.read_request(fields, ended=False).chunked


def test_tunnels_never_share_a_key() -> None:
    fields = Fields([(b":method", b"CONNECT"), *GET[1:], (b":protocol", b"websocket"), (b"sec-websocket-version", b"13")])
    keys = {_fields.read_request(fields, ended=False).websocket_key for _ in range(3)}
    assert len(keys) == 3
