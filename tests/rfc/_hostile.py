"""Messages that are meant to be misunderstood: thousands of them, always the same ones, each with a name that says what was done.

Nothing here says what is right: that is for the checks in `test_hostile`.
"""

from __future__ import annotations

import re
from collections.abc import Iterator

import attrs

from tests.rfc._rig import DATE, OK, chunked, get, post, response

HOST = b"Host: site.test\r\n"
HELLO = b"5\r\nhello\r\n0\r\n\r\n"
SMUGGLED = get(b"/smuggled")


@attrs.frozen
class Hostile:
    """Some bytes, what was done to them, and whether there is any doubt that they must not be passed on."""

    name: str
    data: bytes
    must_refuse: bool = False


REQUESTS = {
    "get": get(fields=b"X: a\r\n"),
    "post": post(b"hello", fields=b"X: a\r\n"),
    "chunked": chunked(b"5;e=f\r\nhello\r\n0\r\nX: a\r\n\r\n"),
    "absolute": get(b"http://site.test/a"),
    "http10": post(b"hello", fields=b"Connection: keep-alive\r\n").replace(b"1.1", b"1.0", 1),
    "options": b"OPTIONS * HTTP/1.1\r\n" + HOST + b"Connection: X\r\nX: a\r\n\r\n",
}

INSERTED = (
    b"\n",
    b"\r",
    b"\0",
    b"\t",
    b" ",
    b"\x0b",
    b"\x7f",
    b"\x85",
    b"\xff",
    b":",
    b",",
    b";",
    b'"',
    b"0",
    b"\r\n",
    b"\r\n ",
    b"\n\n",
    b"\r\n\r\n",
)

LENGTHS = (
    b"5",
    b"+5",
    b"-5",
    b"05",
    b"0x5",
    b"5 ",
    b"\t5",
    b"5\x0b",
    b"5, 5",
    b"5,6",
    b"5;5",
    b"5.0",
    b"5e0",
    b"0",
    b"",
    b"1" * 30,
    b'"5"',
    b"5\xa0",
)

CODINGS = (
    b"Transfer-Encoding: chunked",
    b"Transfer-Encoding:chunked",
    b"Transfer-Encoding : chunked",
    b"Transfer-Encoding: \tchunked\t",
    b"Transfer-Encoding: Chunked",
    b"Transfer-Encoding: xchunked",
    b"Transfer-Encoding: chunkedx",
    b"Transfer-Encoding: chunked\x0b",
    b"Transfer-Encoding: \x0bchunked",
    b"Transfer-Encoding: chunked\xa0",
    b"Transfer-Encoding: chunked, identity",
    b"Transfer-Encoding: identity, chunked",
    b"Transfer-Encoding: identity",
    b"Transfer-Encoding: chunked, chunked",
    b"Transfer-Encoding: ,chunked",
    b"Transfer-Encoding: chunked,",
    b"Transfer-Encoding: chunked;q=1",
    b'Transfer-Encoding: "chunked"',
    b"Transfer-Encoding: 'chunked'",
    b"Transfer-Encoding: ch\r\n unked",
    b"Transfer-Encoding:\r\n chunked",
    b"Transfer-Encoding:\n chunked",
    b"Transfer-Encoding: chunked\r\nTransfer-Encoding: identity",
    b"Transfer-Encoding: identity\r\nTransfer-Encoding: chunked",
    b"Transfer-Encoding: x\r\nTransfer-Encoding: chunked",
    b"X: y\rTransfer-Encoding: chunked",
    b"X: y\nTransfer-Encoding: chunked",
    b" Transfer-Encoding: chunked",
    b"\tTransfer-Encoding: chunked",
    b"Transfer-Encoding\0: chunked",
    b"Transfer-Encoding\xff: chunked",
    b"Transfer_Encoding: chunked",
    b"Transfer Encoding: chunked",
    b'Transfer-Encoding": chunked',
    b"Content-Encoding: chunked",
    b"transfer-encoding: CHUNKED",
    b"Connection: Transfer-Encoding\r\nTransfer-Encoding: chunked",
    b"Transfer-Encoding:",
)
_AN_HONEST_FIELD = re.compile(rb"(Transfer_Encoding|Content-Encoding): .*")

CHUNK_SIZES = [
    *b'5 5\t +5 -5 0x5 5h 5, 5;; 5; 5;= 5;a= 5;=a 5;a="b 5;a="b\\ 5\x0b 5\x00 5\xa0 0_5 .5 5. 00000000000000000005 10000000000000005 '
    b"ffffffffffffffff 8000000000000000 fffffffffffffffff 6 4 0".split(b" "),
    b"5 ",
    b" 5",
    b"5\n",
    b"\r\n5",
    b"5;a\nb",
    b"5;a\rb",
    b"5;a=b\n\nGET /smuggled HTTP/1.1",
    b"",
    b"5 ;a",
    b"5; a",
    b"5;a =b",
    b"5;" + b"a" * 5000,
]

HOSTS = (
    b"Host: site.test\r\nHost: other.test",
    b"Host: site.test\r\nHost: site.test",
    b"Host: other.test\r\nhost: site.test",
    b"Host: site.test, other.test",
    b"Host: site.test other.test",
    b"Host: site.test\tother.test",
    b"Host: other.test@site.test",
    b"Host: site.test:80:80",
    b"Host: site.test:",
    b"Host: site.test:080",
    b"Host: site.test:65536",
    b"Host: site.test:-1",
    b"Host: site.test#other.test",
    b"Host: site.test/other.test",
    b"Host: site.test?other.test",
    b"Host: site.test\\other.test",
    b"Host: site%2etest",
    b"Host: [::1",
    b"Host: [::1]x",
    b"Host: [::1%25eth0]",
    b"Host: 127.1",
    b"Host: 0x7f000001",
    b"Host: \xe2\x84\xaaite.test",
    b"Host: .site.test",
    b"Host: site..test",
    b"Host:",
    b"Host : site.test",
    b" Host: site.test",
    b"Host: site.test\r\n other.test",
    b"X: y\r\n Host: site.test",
    b"Host: site.test\0other.test",
    b"Connection: host\r\nHost: site.test",
    b"X: y",
)
TARGETS = (
    b"/",
    b"http://site.test/",
    b"http://other.test/",
    b"http://site.test@other.test/",
    b"http://other.test\\@site.test/",
    b"http:/site.test/",
    b"http:site.test",
    b"//site.test/",
    b"https://site.test:80/",
    b"http://site.test:80:80/",
    b"http://site.test#@other.test/",
    b"http://site.test/ /",
    b"site.test:80",
    b"*",
    b"/\x7f",
    b"/%00",
    b"/..;/a",
    b"/\\..",
    b"/a\tb",
    b"?a",
    b"",
)
VERSIONS = [
    *b"HTTP/1.1 HTTP/1.0 HTTP/0.9 HTTP/1.2 HTTP/2.0 HTTP/2 HTTP/1 HTTP/1. HTTP/.1 HTTP/01.1 HTTP/1.01 HTTP/1.1.1 HTTP/11 HTTP/1,1 http/1.1 HTTP /1.1 HTTPS/1.1 HTTP\\1.1 HTTP/-1.1 HTTP/1.1\x00".split(
        b" "
    ),
    b"",
    b"HTTP/1.1 ",
    b"HTTP/1.1\t",
    b" HTTP/1.1",
    b"\tHTTP/1.1",
]
TRAILERS = (
    b"X: a",
    b"X : a",
    b"X: a\r\n b",
    b"X: a\nY: b",
    b"X: a\rb",
    b"X: \0",
    b": a",
    b"X",
    b"GET /smuggled HTTP/1.1",
    b"Content-Length: 5",
    b"Transfer-Encoding: chunked",
    b"Host: other.test",
    b"Connection: close",
    b"Trailer: X",
    b"Set-Cookie: a",
    b"X: " + b"a" * 40000,
    b"\r\n".join([b"X: a"] * 200),
)


def places(data: bytes) -> list[int]:
    """Where one kind of character ends and another begins: before and after each delimiter."""
    return sorted({0, len(data), *(m.start() for m in re.finditer(rb"\b|(?<=[^\w])|(?=[^\w])", data))})


def mutations(name: str, data: bytes) -> Iterator[Hostile]:
    """One byte more, one less, another line end, an end too early."""
    for place in places(data):
        for extra in INSERTED:
            yield Hostile(f"{name}: {extra!r} inserted at {place}", data[:place] + extra + data[place:])
    for place in range(len(data)):
        if not data[place : place + 1].isalnum():
            yield Hostile(f"{name}: {data[place : place + 1]!r} at {place} left out", data[:place] + data[place + 1 :])
        yield Hostile(f"{name}: cut at {place}", data[:place])
    ends = [match.start() for match in re.finditer(rb"\r\n", data)]
    for end in ends:
        for other in (b"\n", b"\r", b"\n\r", b"\r\r\n", b"\0", b"\x0b", b"\x85", b"\xe2\x80\xa8"):
            yield Hostile(f"{name}: the line end at {end} is {other!r}", data[:end] + other + data[end + 2 :])


def smuggling() -> Iterator[Hostile]:
    """Two opinions on where a request ends, one of which makes a second request of the rest."""
    for coding in CODINGS:
        honest = _AN_HONEST_FIELD.fullmatch(coding) is not None
        for length in LENGTHS:
            counted = b"Content-Length: " + length
            for first, second in ((counted, coding), (coding, counted)):
                head = b"POST / HTTP/1.1\r\n%b%b\r\n%b\r\n\r\n" % (HOST, first, second)
                yield Hostile(f"smuggling: {first!r} and {second!r}", head + b"0\r\n\r\n" + SMUGGLED, must_refuse=not honest)
        for version in (b"1.1", b"1.0"):
            head = b"POST / HTTP/%b\r\n%b%b\r\n\r\n" % (version, HOST, coding)
            yield Hostile(
                f"smuggling: HTTP/{version.decode()} and {coding!r}",
                head + b"0\r\n\r\n" + SMUGGLED,
                must_refuse=version == b"1.0" and not honest,
            )
    for one in LENGTHS:
        for two in LENGTHS:
            head = b"POST / HTTP/1.1\r\n%bContent-Length: %b\r\nContent-Length: %b\r\n\r\n" % (HOST, one, two)
            yield Hostile(f"smuggling: lengths {one!r} and {two!r}", head + b"hello" + SMUGGLED, must_refuse=not _one_number(one, two))


def _one_number(*values: bytes) -> bool:
    members = {member.strip(b" \t") for value in values for member in value.split(b",")}
    return len(members) == 1 and members.pop().isdigit()


def chunking() -> Iterator[Hostile]:
    """What is not quite a chunked body."""
    for size in CHUNK_SIZES:
        yield Hostile(f"chunk size {size[:40]!r}", chunked(b"%b\r\nhello\r\n0\r\n\r\n" % size))
        yield Hostile(f"last chunk size {size[:40]!r}", chunked(b"5\r\nhello\r\n%b\r\n\r\n" % size))
    for trailer in TRAILERS:
        yield Hostile(f"trailer {trailer[:40]!r}", chunked(b"0\r\n%b\r\n\r\n" % trailer) + SMUGGLED)
        yield Hostile(f"trailer {trailer[:40]!r} after a counted body", post(b"hello") + trailer + b"\r\n\r\n")


def routing() -> Iterator[Hostile]:
    """Two opinions on whom a request is for."""
    for target in TARGETS:
        for host in HOSTS:
            yield Hostile(f"{target!r} with {host!r}", b"GET %b HTTP/1.1\r\n%b\r\n\r\n" % (target, host))
    for version in VERSIONS:
        for method in (b"GET", b"CONNECT", b"TRACE", b"PRI", b"G\xcbT", b"GET\0"):
            yield Hostile(f"{method!r} and {version!r}", b"%b /a %b\r\n%b\r\n" % (method, version, HOST))


def excess() -> Iterator[Hostile]:
    """Too much of something, and things that are no HTTP at all."""
    yield Hostile("a long method", b"G" * 20000 + b" / HTTP/1.1\r\n" + HOST + b"\r\n", must_refuse=True)
    yield Hostile("a long target", get(b"/" + b"a" * 20000), must_refuse=True)
    yield Hostile("a long value", get(fields=b"X: " + b"a" * 70000 + b"\r\n"), must_refuse=True)
    yield Hostile("a long name", get(fields=b"a" * 70000 + b": x\r\n"), must_refuse=True)
    yield Hostile("many fields", get(fields=b"X: a\r\n" * 1000), must_refuse=True)
    yield Hostile("many empty lines", b"\r\n" * 1000 + get())
    yield Hostile("a TLS handshake", b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03" + bytes(range(256)), must_refuse=True)
    yield Hostile("HTTP/2", b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\0\0\0\4\0\0\0\0\0", must_refuse=True)
    yield Hostile("a response", OK, must_refuse=True)
    yield Hostile("a proxy protocol line", b"PROXY TCP4 1.2.3.4 5.6.7.8 1 2\r\n" + get(), must_refuse=True)
    yield Hostile("nothing but NUL", b"\0" * 5000, must_refuse=True)
    yield Hostile("nothing but LF", b"\n" * 5000, must_refuse=True)


def hostile_requests() -> list[Hostile]:
    """All of them."""
    found = [case for name, data in REQUESTS.items() for case in mutations(name, data)]
    return [*found, *smuggling(), *chunking(), *routing(), *excess()]


def _says(fields: bytes, body: bytes, *, first: bytes = b"HTTP/1.1 200 OK") -> bytes:
    return b"%b\r\n%b%b\r\n\r\n%b" % (first, DATE, fields, body)


REPLIES = {
    "counted": response(fields=b"X: a\r\n"),
    "chunked": _says(b"Transfer-Encoding: chunked\r\nTrailer: X", b"5;e=f\r\nhello\r\n0\r\nX: a\r\n\r\n"),
    "interim": b"HTTP/1.1 103 Early Hints\r\nX: a\r\n\r\n" + response(),
    "nothing": b"HTTP/1.1 204 No Content\r\nX: a\r\n\r\n",
}
POISON = response(b"poison")
STATUS_LINES = b"HTTP/1.1 200|HTTP/1.1  200 OK|HTTP/1.1 200OK|HTTP/1.1 2000 OK|HTTP/1.1 20 OK|HTTP/1.1 -20 OK|HTTP/1.1 100 OK|HTTP/1.1 101 OK|HTTP/1.1 199 OK|HTTP/1.1 000 OK|HTTP/1.1 600 OK|HTTP/1.1 999 OK|HTTP/1.0 200 OK|HTTP/0.9 200 OK|HTTP/2 200|HTTP/1.1 204 OK|HTTP/1.1 304 OK|HTTP/1.1 205 OK|HTTP/1.1 200 O\0K|HTTP/1.1 200 \xff|ICY 200 OK|HTTP/1.1|200 OK||<html>|HTTP/1.1 \xd9\xa2\xd9\xa0\xd9\xa0 OK".split(
    b"|"
)


def hostile_replies() -> list[Hostile]:
    """What an origin may say to harm the client, or the next one."""
    found = [case for name, data in REPLIES.items() for case in mutations(f"reply {name}", data)]
    for coding in CODINGS:
        for length in LENGTHS:
            found.append(Hostile(f"reply {coding!r} and {length!r}", _says(b"Content-Length: %b\r\n%b" % (length, coding), HELLO + POISON)))
        found.append(Hostile(f"reply {coding!r}", _says(coding, HELLO + POISON)))
    for size in CHUNK_SIZES:
        found.append(Hostile(f"reply chunk size {size[:40]!r}", _says(b"Transfer-Encoding: chunked", b"%b\r\nhello\r\n0\r\n\r\n" % size)))
    for trailer in TRAILERS:
        found.append(
            Hostile(f"reply trailer {trailer[:40]!r}", _says(b"Transfer-Encoding: chunked", b"0\r\n%b\r\n\r\n" % trailer + POISON))
        )
    for first in STATUS_LINES:
        for fields in (b"Content-Length: 5", b"Transfer-Encoding: chunked", b"X: a"):
            found.append(Hostile(f"reply {first!r} with {fields!r}", _says(fields, b"hello" + POISON, first=first)))
    return found
