"""RFC 9112 §6 and §7: how long a body is, the chunked coding, trailers; RFC 9110 §6.4 and §6.5 where they say what a body may be."""

from __future__ import annotations

import pytest
import trio

from tests.rfc._rig import DATE, OK, Cut, Transport, Wire, chunked, get, how, on_mock_clock, open_rig, post, response
from tests.rfc._tables import (
    BadReply,
    CutReply,
    Refused,
    Relayed,
    check_bad_reply,
    check_cut_reply,
    check_refused,
    check_relayed,
    table,
)

pytestmark = pytest.mark.trio(run=on_mock_clock)

HOST = b"Host: site.test\r\n"


def head(fields: bytes, *, first: bytes = b"POST / HTTP/1.1") -> bytes:
    return b"%b\r\n%b%b\r\n" % (first, HOST, fields)


def with_body(method: bytes, body: bytes = b"hello") -> bytes:
    return post(body).replace(b"POST", method, 1)


HELLO = b"5\r\nhello\r\n0\r\n\r\n"
BOTH = b"Content-Length: 5\r\nTransfer-Encoding: chunked\r\n"

REQUESTS = [
    # §6.1 Transfer-Encoding
    Refused("§6.1 both kinds of framing", head(BOTH) + HELLO, why="conflicting_framing"),
    Refused(
        "§6.1 both, the other way round", head(b"Transfer-Encoding: chunked\r\nContent-Length: 5\r\n") + HELLO, why="conflicting_framing"
    ),
    Refused("§6.1 both, and a length of nothing", head(b"Content-Length: 0\r\nTransfer-Encoding: chunked\r\n"), why="conflicting_framing"),
    Refused("§6.1 both, and a coding nobody knows", head(b"Content-Length: 5\r\nTransfer-Encoding: x\r\n"), why="conflicting_framing"),
    Refused("§6.1 a coding nobody knows", head(b"Transfer-Encoding: x\r\n"), 501, "unknown_transfer_coding"),
    Refused("§6.1 a coding we do not speak", head(b"Transfer-Encoding: gzip, chunked\r\n"), 501, "unknown_transfer_coding"),
    Refused("§6.1 identity is no coding any more", head(b"Transfer-Encoding: identity\r\n"), 501, "unknown_transfer_coding"),
    Refused("§6.1 chunked is not the last", head(b"Transfer-Encoding: chunked, gzip\r\n"), why="bad_transfer_encoding"),
    Refused("§6.1 chunked twice", head(b"Transfer-Encoding: chunked, chunked\r\n"), why="bad_transfer_encoding"),
    Refused("§6.1 chunked in two lines", head(b"Transfer-Encoding: chunked\r\n" * 2), why="bad_transfer_encoding"),
    Refused("§6.1 an empty member", head(b"Transfer-Encoding: ,chunked\r\n"), why="bad_transfer_encoding"),
    Refused("§6.1 no coding at all", head(b"Transfer-Encoding:\r\n"), why="bad_transfer_encoding"),
    Refused("§7 chunked has no parameters", head(b"Transfer-Encoding: chunked;a=b\r\n"), why="bad_transfer_encoding"),
    Refused("§6.1 in quotes", head(b'Transfer-Encoding: "chunked"\r\n'), 501, "unknown_transfer_coding"),
    Refused("§6.1 a letter beyond", head(b"Transfer-Encoding: chunked\xa0\r\n"), 501, "unknown_transfer_coding"),
    Refused("§6.1 from HTTP/1.0", head(b"Transfer-Encoding: chunked\r\n", first=b"POST / HTTP/1.0"), why="transfer_encoding_in_http_1_0"),
    Refused("§6.1 of a body of GET", head(BOTH, first=b"GET / HTTP/1.1") + HELLO, why="conflicting_framing"),
    # §6.2 Content-Length
    Refused("§6.3 two lengths", head(b"Content-Length: 5\r\nContent-Length: 6\r\n") + b"hello!", why="conflicting_content_length"),
    Refused("§6.3 two lengths in a list", head(b"Content-Length: 5, 6\r\n") + b"hello!", why="conflicting_content_length"),
    Refused("9110 §8.6 a sign", head(b"Content-Length: +5\r\n") + b"hello", why="bad_content_length"),
    Refused("9110 §8.6 a negative number", head(b"Content-Length: -5\r\n") + b"hello", why="bad_content_length"),
    Refused("9110 §8.6 hexadecimal", head(b"Content-Length: 0x5\r\n") + b"hello", why="bad_content_length"),
    Refused("9110 §8.6 an underscore", head(b"Content-Length: 1_0\r\n") + b"hello", why="bad_content_length"),
    Refused("9110 §8.6 a space within", head(b"Content-Length: 5 5\r\n") + b"hello", why="bad_content_length"),
    Refused("9110 §8.6 a fraction", head(b"Content-Length: 5.0\r\n") + b"hello", why="bad_content_length"),
    Refused("9110 §8.6 no number", head(b"Content-Length:\r\n"), why="bad_content_length"),
    Refused("9110 §8.6 a digit of another script", head(b"Content-Length: \xd9\xa5\r\n") + b"hello", why="bad_content_length"),
    Refused("9110 §8.6 a number beyond 63 bits", head(b"Content-Length: 9999999999999999999\r\n"), why="bad_content_length"),
    Refused("9110 §8.6 a number of many digits", head(b"Content-Length: %b5\r\n" % (b"0" * 40)), why="bad_content_length"),
    # §7.1 the chunked coding
    Refused("§7.1 a size that is none", chunked(b"x\r\n"), why="bad_chunk"),
    Refused("§7.1 a size with a sign", chunked(b"+5\r\nhello\r\n0\r\n\r\n"), why="bad_chunk"),
    Refused("§7.1 a size with a prefix", chunked(b"0x5\r\nhello\r\n0\r\n\r\n"), why="bad_chunk"),
    Refused("§7.1 a size with an underscore", chunked(b"0_5\r\nhello\r\n0\r\n\r\n"), why="bad_chunk"),
    Refused("§7.1 a space before the size", chunked(b" 5\r\nhello\r\n0\r\n\r\n"), why="bad_chunk"),
    Refused("§7.1 a space after the size", chunked(b"5 \r\nhello\r\n0\r\n\r\n"), why="bad_chunk"),
    Refused("§7.1 no size", chunked(b"\r\nhello\r\n0\r\n\r\n"), why="bad_chunk"),
    Refused("§7.1 a size beyond 64 bits", chunked(b"1" + b"0" * 16 + b"\r\nhello\r\n0\r\n\r\n"), why="bad_chunk"),
    Refused("§7.1 a bare LF after the size", chunked(b"5\nhello\r\n0\r\n\r\n"), why="bad_chunk"),
    Refused("§7.1 a bare LF after the data", chunked(b"5\r\nhello\n0\r\n\r\n"), why="bad_chunk"),
    Refused("§7.1 a bare CR after the size", chunked(b"5\rhello\r\n0\r\n\r\n"), why="bad_chunk"),
    Refused("§7.1 data longer than its size", chunked(b"5\r\nhello!\r\n0\r\n\r\n"), why="bad_chunk"),
    Refused("§7.1 data shorter than its size", chunked(b"6\r\nhello\r\n0\r\n\r\n"), why="bad_chunk"),
    Refused("§7.1.1 an extension without a name", chunked(b"5;\r\nhello\r\n0\r\n\r\n"), why="bad_chunk"),
    Refused("§7.1.1 a bare LF in an extension", chunked(b"5;a\nb\r\nhello\r\n0\r\n\r\n"), why="bad_chunk"),
    Refused("§7.1.1 a bare CR in an extension", chunked(b"5;a\rb\r\nhello\r\n0\r\n\r\n"), why="bad_chunk"),
    Refused("§7.1.1 NUL in an extension", chunked(b"5;a=\0\r\nhello\r\n0\r\n\r\n"), why="bad_chunk"),
    Refused("§7.1.1 a string that does not end", chunked(b'5;a="b\r\nhello\r\n0\r\n\r\n'), why="bad_chunk"),
    Refused("§7.1.1 an extension without end", chunked(b"5;" + b"a" * 4000), why="bad_chunk"),
    Refused("§7.1.1 extensions without end", chunked(b"".join([b"1;%b\r\nx\r\n" % (b"a" * 900)] * 20)), why="bad_chunk"),
    Refused("§7.1.2 a malformed trailer", chunked(b"5\r\nhello\r\n0\r\nX\r\n\r\n"), why="malformed_trailers"),
    Refused("§7.1.2 a space before a trailer's colon", chunked(b"5\r\nhello\r\n0\r\nX : a\r\n\r\n"), why="malformed_trailers"),
    Refused("§7.1.2 a folded trailer", chunked(b"5\r\nhello\r\n0\r\nX: a\r\n b\r\n\r\n"), why="folded_line"),
    Refused("§7.1.2 a bare LF after a trailer", chunked(b"5\r\nhello\r\n0\r\nX: a\n\r\n"), why="bare_line_end"),
    Refused("§7.1.2 a bare LF after the last chunk", chunked(b"5\r\nhello\r\n0\n\r\n"), why="bad_chunk"),
    Refused("§7.1.2 a bare LF as the empty line", chunked(b"5\r\nhello\r\n0\r\n\n"), why="bare_line_end"),
    Refused("§7.1.2 NUL in a trailer", chunked(b"5\r\nhello\r\n0\r\nX: \0\r\n\r\n"), why="control_character"),
    Refused("9110 §6.5.1 a transfer coding as a trailer", chunked(b"0\r\nTransfer-Encoding: x\r\n\r\n"), why="malformed_trailers"),
    Refused("§7.1.2 trailers beyond the limit", chunked(b"0\r\nX: " + b"a" * 40000 + b"\r\n\r\n"), 431, "head_too_large"),
    # RFC 9110 §9.3: what cannot have a body
    Refused("9110 §9.3.8 TRACE with a body", with_body(b"TRACE"), why="unexpected_content"),
    Refused("9110 §9.3.6 CONNECT with a body", with_body(b"CONNECT").replace(b" / ", b" site.test:80 "), why="unexpected_content"),
    Refused("9110 §15.5.14 a body beyond the limit", post(b"a" * 11), 413, "request_too_large", http={"max_request_body": 10}),
    Refused(
        "9110 §15.5.14 chunks beyond the limit",
        chunked(b"b\r\nhello world\r\n" * 2),
        413,
        "request_too_large",
        http={"max_request_body": 10},
    ),
]


@table(REQUESTS)
async def test_a_request_is_refused(row: Refused, transport: Transport) -> None:
    await check_refused(row, transport)


PASSED_ON = [
    Relayed("§6.2 a counted body", post(b"hello"), post(b"hello")),
    Relayed("§6.2 an empty body", post(b""), post(b"")),
    Relayed("§6.3 no framing fields, no body", head(b""), post(b"")),
    Relayed("§6.3 two equal lengths are one", head(b"Content-Length: 5\r\n" * 2) + b"hello", post(b"hello")),
    Relayed("§6.3 a list of equal lengths is one", head(b"Content-Length: 5, 5\r\n") + b"hello", post(b"hello")),
    Relayed("9110 §9.3.1 a body of GET", with_body(b"GET"), with_body(b"GET")),
    Relayed("9110 §9.3.5 a body of DELETE", with_body(b"DELETE"), with_body(b"DELETE")),
    Relayed("9110 §9.3.7 a body of OPTIONS", with_body(b"OPTIONS"), with_body(b"OPTIONS")),
    Relayed("9110 §9.1 a body of a method nobody knows", with_body(b"BREW"), with_body(b"BREW")),
    Relayed("9110 §9.3.1 a chunked body of GET", chunked(HELLO).replace(b"POST", b"GET"), chunked(HELLO).replace(b"POST", b"GET")),
    Relayed("§7.1 a chunked body", chunked(HELLO), chunked(HELLO)),
    Relayed("§7.1 an empty chunked body", chunked(b"0\r\n\r\n"), chunked(b"0\r\n\r\n")),
    Relayed("§7.1 zeros before a size", chunked(b"0005\r\nhello\r\n000\r\n\r\n"), chunked(HELLO)),
    Relayed("§7.1 capital hexadecimal digits", chunked(b"A\r\nhellohello\r\n0\r\n\r\n"), chunked(b"a\r\nhellohello\r\n0\r\n\r\n")),
    Relayed("§7 the name of the coding in other letters", head(b"Transfer-Encoding: cHuNkEd\r\n") + HELLO, chunked(HELLO)),
    Relayed(
        "§7.1.1 extensions are dropped", chunked(b'5;a;b=c; d = "e\\";f" \r\nhello\r\n0;g\r\n\r\n'.replace(b" \r", b"\r")), chunked(HELLO)
    ),
    Relayed("9110 §6.5 trailers", chunked(b"5\r\nhello\r\n0\r\nX: a\r\n\r\n"), chunked(b"5\r\nhello\r\n0\r\nX: a\r\n\r\n")),
    Relayed(
        "9110 §6.6.2 trailers that were announced",
        chunked(b"0\r\nX: a\r\n\r\n", fields=b"Trailer: X\r\n"),
        chunked(b"0\r\nX: a\r\n\r\n", fields=b"Trailer: X\r\n"),
    ),
    Relayed(
        "9110 §6.5.1 what must not be a trailer is dropped",
        chunked(b"0\r\nX: a\r\nContent-Length: 9\r\nHost: b\r\nAuthorization: c\r\n\r\n"),
        chunked(b"0\r\nX: a\r\n\r\n"),
    ),
    Relayed(
        "9110 §6.5.1 nothing is left of the trailers",
        chunked(b"0\r\nContent-Length: 9\r\n\r\n"),
        chunked(b"0\r\n\r\n"),
    ),
    Relayed(
        "9110 §6.4 no body is transformed",
        post(b"\x1f\x8b", fields=b"Content-Encoding: gzip\r\n"),
        post(b"\x1f\x8b", fields=b"Content-Encoding: gzip\r\n"),
        response(b"\x1f\x8b", fields=b"Content-Encoding: gzip\r\n"),
    ),
]


@table(PASSED_ON)
async def test_a_request_is_passed_on(row: Relayed, transport: Transport) -> None:
    await check_relayed(row, transport)


def says(fields: bytes, body: bytes = b"", *, first: bytes = b"HTTP/1.1 200 OK") -> bytes:
    return b"%b\r\n%b%b\r\n%b" % (first, DATE, fields, body)


CHUNKS = b"Transfer-Encoding: chunked\r\n"
CLOSE = b"Connection: close\r\n"
GET_1_0 = b"GET / HTTP/1.0\r\n" + HOST + b"\r\n"
GET_1_0_KEEP = b"GET / HTTP/1.0\r\n" + HOST + b"Connection: keep-alive\r\n\r\n"
HEAD = b"HEAD / HTTP/1.1\r\n" + HOST + b"\r\n"

ANSWERS = [
    Relayed("§6.2 a counted answer", get(), get(), response()),
    Relayed("§6.2 an empty answer", get(), get(), response(b"")),
    Relayed("§6.3 two equal lengths of an answer", get(), get(), says(b"Content-Length: 5\r\n" * 2, b"hello"), OK),
    Relayed("§7.1 a chunked answer", get(), get(), says(CHUNKS, HELLO)),
    Relayed("§7.1.1 extensions of an answer are dropped", get(), get(), says(CHUNKS, b"5;a=b\r\nhello\r\n0\r\n\r\n"), says(CHUNKS, HELLO)),
    Relayed(
        "9110 §6.5 trailers of an answer, announced or not",
        get(),
        get(),
        says(b"Trailer: X\r\n" + CHUNKS, b"5\r\nhello\r\n0\r\nX: a\r\nY: b\r\n\r\n"),
    ),
    Relayed(
        "9110 §6.5.1 what must not be a trailer of an answer",
        get(),
        get(),
        says(CHUNKS, b"0\r\nX: a\r\nSet-Cookie: b\r\nContent-Length: 9\r\n\r\n"),
        says(CHUNKS, b"0\r\nX: a\r\n\r\n"),
    ),
    Relayed(
        "§6.3 an answer that ends by closing is chunked", get(), get(), says(b"", b"hello"), says(CHUNKS, HELLO), closing=True, goes_on=True
    ),
    Relayed("§6.3 an empty answer that ends by closing", get(), get(), says(b""), says(CHUNKS, b"0\r\n\r\n"), closing=True, goes_on=True),
    Relayed("§6.3 an answer of HTTP/1.0", get(), get(), says(b"", b"hello", first=b"HTTP/1.0 200 OK"), says(CHUNKS, HELLO), closing=True),
    Relayed(
        "§6.1 a chunked answer for HTTP/1.0 ends by closing", GET_1_0, get(), says(CHUNKS, HELLO), says(CLOSE, b"hello"), goes_on=False
    ),
    Relayed("§6.1 and so for HTTP/1.0 that would go on", GET_1_0_KEEP, get(), says(CHUNKS, HELLO), says(CLOSE, b"hello"), goes_on=False),
    Relayed(
        "§7.1.2 trailers are dropped where they have no place",
        GET_1_0,
        get(),
        says(b"Trailer: X\r\n" + CHUNKS, b"5\r\nhello\r\n0\r\nX: a\r\n\r\n"),
        says(CLOSE, b"hello"),
        goes_on=False,
    ),
    Relayed("§6.3 closing for closing", GET_1_0, get(), says(b"", b"hello"), says(CLOSE, b"hello"), goes_on=False, closing=True),
    Relayed("§6.3 the length of an answer to HEAD is not its own", HEAD, HEAD, says(b"Content-Length: 5\r\n")),
    Relayed("§6.3 an answer to HEAD without length", HEAD, HEAD, says(b"")),
    Relayed("§6.3 a chunked answer to HEAD", HEAD, HEAD, says(CHUNKS), says(b"")),
    Relayed("§6.3 204", get(), get(), says(b"", first=b"HTTP/1.1 204 No Content")),
    Relayed(
        "§6.1 204 loses framing that it must not have",
        get(),
        get(),
        says(b"Content-Length: 0\r\n", first=b"HTTP/1.1 204 No Content"),
        says(b"", first=b"HTTP/1.1 204 No Content"),
    ),
    Relayed("§6.3 304 with a length", get(), get(), says(b"Content-Length: 5\r\n", first=b"HTTP/1.1 304 Not Modified")),
    Relayed("§6.3 304 without a length", get(), get(), says(b"", first=b"HTTP/1.1 304 Not Modified")),
    Relayed("9110 §15.3.6 205 is empty", get(), get(), says(b"Content-Length: 0\r\n", first=b"HTTP/1.1 205 Reset Content")),
    Relayed(
        "9110 §15.3.6 205 with a body loses it",
        get(),
        get(),
        says(b"Content-Length: 5\r\n", b"hello", first=b"HTTP/1.1 205 Reset Content"),
        says(b"Content-Length: 0\r\n", first=b"HTTP/1.1 205 Reset Content"),
    ),
    Relayed(
        "9110 §15.3.6 205 with chunks loses them",
        get(),
        get(),
        says(CHUNKS, HELLO, first=b"HTTP/1.1 205 Reset Content"),
        says(b"Content-Length: 0\r\n", first=b"HTTP/1.1 205 Reset Content"),
    ),
    Relayed("9110 §15.4 an error of the origin is its own", get(), get(), response(status=b"503 Busy")),
]


@table(ANSWERS)
async def test_an_answer_is_passed_back(row: Relayed, transport: Transport) -> None:
    await check_relayed(row, transport)


REPLIES = [
    BadReply("§6.1 both kinds of framing", says(BOTH, HELLO), "conflicting_framing"),
    BadReply("§6.1 a coding nobody knows", says(b"Transfer-Encoding: x\r\n", b"hello"), "unknown_transfer_coding"),
    BadReply("§6.1 gzip as a transfer coding", says(b"Transfer-Encoding: gzip, chunked\r\n", HELLO), "unknown_transfer_coding"),
    BadReply("§6.1 chunked twice", says(b"Transfer-Encoding: chunked, chunked\r\n", HELLO), "bad_transfer_encoding"),
    BadReply("§6.1 chunked from HTTP/1.0", says(CHUNKS, HELLO, first=b"HTTP/1.0 200 OK"), "transfer_encoding_in_http_1_0"),
    BadReply("§6.3 two lengths", says(b"Content-Length: 5\r\nContent-Length: 6\r\n", b"hello"), "conflicting_content_length"),
    BadReply("9110 §8.6 a sign", says(b"Content-Length: +5\r\n", b"hello"), "bad_content_length"),
    BadReply("9110 §8.6 no number", says(b"Content-Length: five\r\n", b"hello"), "bad_content_length"),
    BadReply("§6.1 both kinds of framing, with 204", says(BOTH, first=b"HTTP/1.1 204 No Content"), "conflicting_framing"),
    BadReply("§6.1 both kinds of framing, to HEAD", says(BOTH), "conflicting_framing", method=b"HEAD"),
]


@table(REPLIES)
async def test_a_reply_is_refused(row: BadReply, transport: Transport) -> None:
    await check_bad_reply(row, transport)


CUTS = [
    CutReply(
        "§8 fewer bytes than the length",
        says(b"Content-Length: 6\r\n", b"hello"),
        says(b"Content-Length: 6\r\n", b"hello"),
        "origin_truncated",
    ),
    CutReply("§8 no last chunk", says(CHUNKS, b"5\r\nhello\r\n"), says(CHUNKS, b"5\r\nhello\r\n"), "origin_truncated"),
    CutReply("§8 half a chunk", says(CHUNKS, b"6\r\nhello"), says(CHUNKS, b"5\r\nhello\r\n"), "origin_truncated"),
    CutReply(
        "§8 no end of the trailers", says(CHUNKS, b"5\r\nhello\r\n0\r\nX: a\r\n"), says(CHUNKS, b"5\r\nhello\r\n"), "origin_truncated"
    ),
    CutReply("§7.1 a chunk size that is none", says(CHUNKS, b"5\r\nhello\r\nx\r\n"), says(CHUNKS, b"5\r\nhello\r\n"), "bad_chunk"),
    CutReply("§7.1 a bare LF after a size", says(CHUNKS, b"5\r\nhello\r\n0\n\r\n"), says(CHUNKS, b"5\r\nhello\r\n"), "bad_chunk"),
    CutReply(
        "§7.1.2 a malformed trailer",
        says(CHUNKS, b"5\r\nhello\r\n0\r\nX : a\r\n\r\n"),
        says(CHUNKS, b"5\r\nhello\r\n"),
        "malformed_trailers",
    ),
    CutReply(
        "§7.1.2 a folded trailer", says(CHUNKS, b"5\r\nhello\r\n0\r\nX: a\r\n b\r\n\r\n"), says(CHUNKS, b"5\r\nhello\r\n"), "folded_line"
    ),
    CutReply("§8 no last chunk, for HTTP/1.0", says(CHUNKS, b"5\r\nhello\r\n"), says(CLOSE, b"hello"), "origin_truncated", sent=GET_1_0),
]


@table(CUTS)
async def test_a_reply_that_goes_wrong_midway_is_cut(row: CutReply, transport: Transport) -> None:
    await check_cut_reply(row, transport)


async def test_bytes_after_an_answer_end_the_connection_to_the_origin(transport: Transport) -> None:
    # §6.3: a client MUST NOT process such bytes as a separate response; the next request must not get them.
    async with open_rig(transport, OK + response(b"poison"), OK) as rig:
        client = await rig.connect()
        assert (await client.ask(get())).raw == OK
        assert (await client.ask(get())).raw == OK
    assert rig.origin.connections == 2


async def test_bytes_that_come_late_after_an_answer_are_no_answer_to_the_next_request(transport: Transport) -> None:
    async def serve(wire: Wire) -> None:
        first = rig.origin.connections == 1
        rig.origin.received.append(await wire.request())
        await wire.send(OK)
        if first:
            await answered.wait()
            await wire.send(response(b"poison"))
            poisoned.set()
            await wire.rest()

    answered, poisoned = trio.Event(), trio.Event()
    async with open_rig(transport, serve=serve) as rig:
        client = await rig.connect()
        assert (await client.ask(get())).raw == OK
        answered.set()
        await poisoned.wait()
        assert (await client.ask(get())).raw == OK
    assert rig.origin.connections == 2


@pytest.mark.parametrize("sent", [post(b"hello")[:-1], chunked(HELLO)[:-2], chunked(HELLO)[:-7]], ids=["counted", "trailers", "chunks"])
async def test_a_request_that_ends_early_never_becomes_whole(sent: bytes, transport: Transport) -> None:
    # §8: a server that receives an incomplete request closes; a proxy must not complete it either
    seen = []

    async def serve(wire: Wire) -> None:
        try:
            await wire.request()
        except Cut as cut:
            seen.append(cut.args[0])

    async with open_rig(transport, serve=serve) as rig:
        client = await rig.connect()
        await client.send(sent)
        await client.send_eof()
        assert await client.rest() == b""
        assert how(await rig.record()) == ("client", "client_gone")
    (raw,) = seen
    assert not raw.endswith(b"0\r\n\r\n")
