"""RFC 9112 §2 to §5: line ends, the request line, the status line, Host, and field lines."""

from __future__ import annotations

import pytest

from tests.rfc._rig import DATE, OK, Transport, get, on_mock_clock, open_rig, response
from tests.rfc._tables import BadReply, Refused, Relayed, check_bad_reply, check_refused, check_relayed, table

pytestmark = pytest.mark.trio(run=on_mock_clock)

LINE = b"GET / HTTP/1.1\r\n"
HOST = b"Host: site.test\r\n"


def line(first: bytes) -> bytes:
    return first + b"\r\n" + HOST + b"\r\n"


def field(text: bytes) -> bytes:
    return LINE + HOST + text + b"\r\n\r\n"


REQUESTS = [
    # line ends and characters
    Refused("§2.2 a bare LF after the request line", b"GET / HTTP/1.1\n" + HOST + b"\r\n", why="bare_line_end"),
    Refused("§2.2 a bare LF after a field", LINE + b"Host: site.test\n\r\n", why="bare_line_end"),
    Refused("§2.2 bare LFs throughout", b"GET / HTTP/1.1\nHost: site.test\n\n", why="bare_line_end"),
    Refused("§2.2 a bare LF as the empty line", LINE + HOST + b"\n", why="bare_line_end"),
    Refused("§2.2 a bare CR in a value", field(b"X: a\rb"), why="bare_line_end"),
    Refused("§2.2 a bare CR in the request line", line(b"GET /\r HTTP/1.1"), why="bare_line_end"),
    Refused("§2.2 a second CR before the LF", field(b"X: a\r"), why="bare_line_end"),
    Refused("§2.2 white space before the first field", LINE + b" " + HOST + b"\r\n", why="folded_line"),
    Refused("9110 §5.5 NUL in a value", field(b"X: a\0b"), why="control_character"),
    Refused("9110 §5.5 NUL in the target", line(b"GET /\0 HTTP/1.1"), why="control_character"),
    Refused("9110 §5.5 another control in a value", field(b"X: a\x0bb"), why="control_character"),
    Refused("9110 §5.5 DEL in a value", field(b"X: a\x7fb"), why="control_character"),
    # the request line
    Refused("§3 one word", line(b"GET"), why="malformed_head"),
    Refused("§3 no version", line(b"GET /"), why="malformed_head"),
    Refused("§3 two spaces", line(b"GET  / HTTP/1.1"), why="malformed_head"),
    Refused("§3 a space before the method", line(b" GET / HTTP/1.1"), why="malformed_head"),
    Refused("§3 a space after the version", line(b"GET / HTTP/1.1 "), why="malformed_head"),
    Refused("§3 a tab between the words", line(b"GET\t/ HTTP/1.1"), why="malformed_head"),
    Refused("§3 a space in the target", line(b"GET /a b HTTP/1.1"), why="malformed_head"),
    Refused("§3.1 the method is a token", line(b"G<T / HTTP/1.1"), why="malformed_head"),
    Refused("§3 a word more", line(b"GET / HTTP/1.1 GET / HTTP/1.1"), why="malformed_head"),
    Refused("§3 the preface of HTTP/2", b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", 400, "http2_preface"),
    Refused("§2.3 lower case in the name of the protocol", line(b"GET / http/1.1"), why="malformed_head"),
    Refused("§2.3 a version of two digits", line(b"GET / HTTP/1.10"), why="malformed_head"),
    Refused("§2.3 a version without minor", line(b"GET / HTTP/1"), why="malformed_head"),
    Refused("§2.3 HTTP/0.9 with a version", line(b"GET / HTTP/0.9"), 505, "bad_version"),
    Refused("9110 §15.6.6 HTTP/2.0", line(b"GET / HTTP/2.0"), 505, "bad_version"),
    Refused("9110 §15.6.6 HTTP/3.0", line(b"GET / HTTP/3.0"), 505, "bad_version"),
    # the four forms of a target
    Refused("§3.2 a fragment", line(b"GET /a#b HTTP/1.1"), why="bad_target"),
    Refused("§3.2 neither form", line(b"GET site.test HTTP/1.1"), why="bad_target"),
    Refused("§3.2 bytes beyond ASCII", line(b"GET /\xff HTTP/1.1"), why="malformed_head"),
    Refused("§3.2.2 an absolute form with user information", line(b"GET http://me@site.test/ HTTP/1.1"), why="bad_target"),
    Refused("§3.2.2 an absolute form without a host", line(b"GET http:///path HTTP/1.1"), why="bad_target"),
    Refused("§3.2.2 an absolute form with a port out of range", line(b"GET http://site.test:65536/ HTTP/1.1"), why="bad_target"),
    Refused("§3.2.2 a scheme that is none of ours", line(b"GET ftp://site.test/ HTTP/1.1"), why="bad_target"),
    Refused("§3.2.3 the authority form without CONNECT", line(b"GET site.test:80 HTTP/1.1"), why="bad_target"),
    Refused("§3.2.3 CONNECT with a path", line(b"CONNECT / HTTP/1.1"), why="bad_target"),
    Refused("§3.2.3 CONNECT without a port", line(b"CONNECT site.test HTTP/1.1"), why="bad_target"),
    Refused("§3.2.4 the asterisk with GET", line(b"GET * HTTP/1.1"), why="bad_target"),
    Refused("§3.2.4 an asterisk with more behind it", line(b"OPTIONS */ HTTP/1.1"), why="bad_target"),
    # Host
    Refused("§3.2 no Host", LINE + b"\r\n", why="no_host"),
    Refused("§3.2 an empty Host", LINE + b"Host:\r\n\r\n", why="no_host"),
    Refused("§3.2 two Hosts", LINE + HOST + b"Host: other.test\r\n\r\n", why="duplicate_host"),
    Refused("§3.2 two equal Hosts", LINE + HOST + HOST + b"\r\n", why="duplicate_host"),
    Refused("§3.2 Hosts in a list", LINE + b"Host: site.test, other.test\r\n\r\n", why="bad_host"),
    Refused("§3.2 a Host with a path", LINE + b"Host: site.test/path\r\n\r\n", why="bad_host"),
    Refused("§3.2 a Host with user information", LINE + b"Host: me@site.test\r\n\r\n", why="bad_host"),
    Refused("§3.2 a Host with a space", LINE + b"Host: site.test other\r\n\r\n", why="bad_host"),
    Refused("§3.2 a Host with a port that is none", LINE + b"Host: site.test:x\r\n\r\n", why="bad_host"),
    Refused("§3.2 two Hosts beside an absolute form", line(b"GET http://site.test/ HTTP/1.1")[:-2] + HOST + b"\r\n", why="duplicate_host"),
    Refused("§3.2 a bad Host beside an absolute form", b"GET http://site.test/ HTTP/1.1\r\nHost: a b\r\n\r\n", why="bad_host"),
    # field lines
    Refused("§5 no colon", field(b"X"), why="malformed_head"),
    Refused("§5 no name", field(b": a"), why="malformed_head"),
    Refused("§5 a name that is no token", field(b"X@Y: a"), why="malformed_head"),
    Refused("§5 a name beyond ASCII", field(b"X\xe9: a"), why="malformed_head"),
    Refused("§5.1 a space before the colon", field(b"X : a"), why="malformed_head"),
    Refused("§5.1 a tab before the colon", field(b"X\t: a"), why="malformed_head"),
    Refused("§5.1 a space before the colon of Content-Length", field(b"Content-Length : 5"), why="malformed_head"),
    Refused("§5.2 a folded value", field(b"X: a\r\n b"), why="folded_line"),
    Refused("§5.2 a value folded by a tab", field(b"X: a\r\n\tb"), why="folded_line"),
    Refused("§5.2 an empty folded line", field(b"X: a\r\n "), why="folded_line"),
    # limits
    Refused("9110 §15.5.15 a long target", line(b"GET /%b HTTP/1.1" % (b"a" * 9000)), 414, "target_too_long"),
    Refused("9110 §15.5.15 a line that does not end", b"G" * 9000, 414, "target_too_long"),
    Refused("6585 §5 too many fields", field(b"\r\n".join([b"X: a"] * 100)), 431, "head_too_large"),
    Refused("6585 §5 one field too large", field(b"X: " + b"a" * 33000), 431, "head_too_large"),
    Refused("6585 §5 a configured number of fields", field(b"X: a\r\nY: b"), 431, "head_too_large", http={"max_fields": 2}),
    Refused(
        "9110 §15.5.15 a configured line", line(b"GET /%b HTTP/1.1" % (b"a" * 20)), 414, "target_too_long", http={"max_request_line": 32}
    ),
]


@table(REQUESTS)
async def test_a_request_is_refused(row: Refused, transport: Transport) -> None:
    await check_refused(row, transport)


def at_origin(first: bytes = b"GET / HTTP/1.1", host: bytes = b"site.test", fields: bytes = b"") -> bytes:
    return b"%b\r\nHost: %b\r\n%b\r\n" % (first, host, fields)


PASSED_ON = [
    Relayed("§2.2 an empty line before the request is skipped", b"\r\n" + get(), get()),
    Relayed("§2.2 several empty lines are skipped", b"\r\n\r\n\r\n" + get(), get()),
    Relayed("§3.2.1 a query and odd characters", get(b"/a//../%2e?b=[]|{}"), get(b"/a//../%2e?b=[]|{}")),
    Relayed("§3.2.2 an absolute form", get(b"http://site.test/a?b"), get(b"/a?b")),
    Relayed("§3.2.2 an absolute form in other letters", get(b"HTTP://Site.Test:80/a"), get(b"/a")),
    Relayed("§3.2.2 an absolute form without a path", get(b"http://site.test?b"), get(b"/?b")),
    Relayed("§3.2.4 the asterisk", b"OPTIONS * HTTP/1.1\r\n" + HOST + b"\r\n", b"OPTIONS * HTTP/1.1\r\nHost: site.test\r\n\r\n"),
    Relayed("§2.3 a higher minor version is read as 1.1", b"GET / HTTP/1.9\r\n" + HOST + b"\r\n", get()),
    Relayed("9110 §9.1 a method nobody knows", b"BREW / HTTP/1.1\r\n" + HOST + b"\r\n", b"BREW / HTTP/1.1\r\n" + HOST + b"\r\n"),
    Relayed("9110 §9.1 methods are case-sensitive", b"get / HTTP/1.1\r\n" + HOST + b"\r\n", b"get / HTTP/1.1\r\n" + HOST + b"\r\n"),
    Relayed("§5.1 white space around a value is dropped", field(b"X: \t a b \t"), at_origin(fields=b"X: a b\r\n")),
    Relayed("§5.1 no space after the colon", field(b"X:a"), at_origin(fields=b"X: a\r\n")),
    Relayed("9110 §5.5 obs-text is passed on", field(b"X: \xe9\xff"), at_origin(fields=b"X: \xe9\xff\r\n")),
    Relayed("9110 §5.5 a value may be empty", field(b"X:"), at_origin(fields=b"X: \r\n")),
    Relayed(
        "9110 §5.3 lines of one name keep their order",
        field(b"X: 1\r\nY: 2\r\nx: 3"),
        at_origin(fields=b"X: 1\r\nY: 2\r\nx: 3\r\n"),
    ),
    Relayed("§4 the reason phrase is passed on", get(), get(), response(status=b'200 Fine \xe9 "it" is')),
    Relayed(
        "§4 an empty reason phrase is filled",
        get(),
        get(),
        response(status=b"200 "),
        OK,
    ),
    Relayed("§4 no reason phrase is filled", get(), get(), response(status=b"200"), OK),
    Relayed("§4 a status nobody knows", get(), get(), response(status=b"299 Odd")),
    Relayed("9110 §6.2 an origin of a later minor version", get(), get(), OK.replace(b"1.1", b"1.5", 1), OK),
    Relayed("§5.1 white space around a value of a response", get(), get(), response(fields=b"X:  a \r\n"), response(fields=b"X: a\r\n")),
    Relayed("9110 §6.6.1 a Date of the origin is kept", get(), get(), OK, OK),
]


@table(PASSED_ON)
async def test_a_request_is_passed_on(row: Relayed, transport: Transport) -> None:
    await check_relayed(row, transport)


async def test_an_absolute_form_wins_over_a_host_that_says_otherwise(transport: Transport) -> None:
    # §3.2.2: a proxy MUST ignore the received Host and replace it with the host of the target
    async with open_rig(transport) as rig:
        client = await rig.connect()
        await client.ask(b"GET http://site.test/ HTTP/1.1\r\nHost: other.test\r\n\r\n")
    (seen,) = rig.origin.received
    assert seen.all(b"host") == [b"site.test"]


@pytest.mark.parametrize("host", [b"", b"Host: site.test\r\n"])
async def test_http_1_0_may_leave_host_out_of_an_absolute_form(host: bytes, transport: Transport) -> None:
    async with open_rig(transport) as rig:
        client = await rig.connect()
        await client.send(b"GET http://site.test/ HTTP/1.0\r\n%b\r\n" % host)
        assert (await client.rest()).startswith(b"HTTP/1.1 200 OK\r\n")
    assert rig.origin.raw() == [get()]


def reply(text: bytes) -> bytes:
    return b"HTTP/1.1 200 OK\r\n" + DATE + text + b"\r\nContent-Length: 0\r\n\r\n"


REPLIES = [
    BadReply("§2.2 a bare LF after the status line", b"HTTP/1.1 200 OK\nContent-Length: 0\r\n\r\n", "bare_line_end"),
    BadReply("§2.2 a bare LF after a field", b"HTTP/1.1 200 OK\r\nContent-Length: 0\n\r\n", "bare_line_end"),
    BadReply("§2.2 bare LFs throughout", b"HTTP/1.1 200 OK\nContent-Length: 0\n\n", "bare_line_end"),
    BadReply("§2.2 a bare CR in a value", reply(b"X: a\rb"), "bare_line_end"),
    BadReply("9110 §5.5 NUL in a value", reply(b"X: a\0b"), "control_character"),
    BadReply("9110 §5.5 NUL in the reason", b"HTTP/1.1 200 O\0K\r\nContent-Length: 0\r\n\r\n", "control_character"),
    BadReply("§2.2 white space before the first field", b"HTTP/1.1 200 OK\r\n X: a\r\nContent-Length: 0\r\n\r\n", "folded_line"),
    BadReply("§2.2 an empty line before the status line", b"\r\n" + OK, "malformed_head"),
    BadReply("§4 no HTTP at all", b"hello\r\n\r\n", "malformed_head"),
    BadReply("§4 a page without a head", b"<html>\r\n\r\n</html>", "malformed_head"),
    BadReply("§4 a status of two digits", b"HTTP/1.1 20 OK\r\nContent-Length: 0\r\n\r\n", "malformed_head"),
    BadReply("§4 a status of four digits", b"HTTP/1.1 2000 OK\r\nContent-Length: 0\r\n\r\n", "malformed_head"),
    BadReply("9110 §15 a status beyond 599", b"HTTP/1.1 600 OK\r\nContent-Length: 0\r\n\r\n", "bad_status"),
    BadReply("9110 §15 a status below 100", b"HTTP/1.1 099 OK\r\nContent-Length: 0\r\n\r\n", "malformed_head"),
    BadReply("§2.3 HTTP/2.0", b"HTTP/2.0 200 OK\r\nContent-Length: 0\r\n\r\n", "bad_version"),
    BadReply("§2.3 another protocol", b"ICY 200 OK\r\n\r\n", "malformed_head"),
    BadReply("§5 no colon", reply(b"X"), "malformed_head"),
    BadReply("§5 no name", reply(b": a"), "malformed_head"),
    BadReply("§5 a name that is no token", reply(b"X Y: a"), "malformed_head"),
    BadReply("§5.2 a folded value", reply(b"X: a\r\n b"), "folded_line"),
    BadReply("a head beyond the limit", reply(b"X: " + b"a" * 40000), "head_too_large"),
    BadReply("too many fields", reply(b"\r\n".join([b"X: a"] * 110)), "head_too_large"),
    BadReply("§2.2 a bad head behind an interim one", b"HTTP/1.1 103 Early Hints\r\n\r\nHTTP/1.1 200 OK\nX: a\n\n", "bare_line_end"),
]


@table(REPLIES)
async def test_a_reply_is_refused(row: BadReply, transport: Transport) -> None:
    if "interim" in row.rule:
        return await check_bad_interim(row, transport)
    return await check_bad_reply(row, transport)


async def check_bad_interim(row: BadReply, transport: Transport) -> None:
    async with open_rig(transport, row.reply) as rig:
        client = await rig.connect()
        assert (await client.ask(get())).status == 103
        assert (await client.response()).status == 502
        assert (await rig.record()).ended.why == row.why
