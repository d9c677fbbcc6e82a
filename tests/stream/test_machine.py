"""The one seam to h11: what is used of it, and that both implementations of it read the same."""

from __future__ import annotations

import h11
import pytest

from trio_tsconnect.stream import load_parser
from trio_tsconnect.stream._machine import Parser

REQUEST = b"POST /path HTTP/1.0\r\nHost: a\r\nX-Field:  some value \r\n\r\n"
RESPONSE = b"HTTP/1.1 404 Not Here\r\nServer: x\r\nserver: y\r\n\r\n"


@pytest.mark.parametrize("parser", ["h11", "fast"])
def test_heads_are_read_as_the_whole_of_h11_reads_them(parser: Parser) -> None:
    ours, server, client = load_parser(parser), h11.Connection(h11.SERVER), h11.Connection(h11.CLIENT)
    server.receive_data(REQUEST)
    client.receive_data(RESPONSE)
    for event, theirs in ((ours.request(REQUEST), server.next_event()), (ours.response(RESPONSE), client.next_event())):
        assert type(event).__name__ == type(theirs).__name__
        assert event.http_version == theirs.http_version
        assert event.headers.raw_items() == theirs.headers.raw_items()
    assert (ours.request(REQUEST).method, ours.request(REQUEST).target) == (b"POST", b"/path")
    assert (ours.response(RESPONSE).status_code, ours.response(RESPONSE).reason) == (404, b"Not Here")


@pytest.mark.parametrize("parser", ["h11", "fast"])
def test_interim_responses_and_trailers_are_read(parser: Parser) -> None:
    ours = load_parser(parser)
    assert ours.response(b"HTTP/1.1 103 Early Hints\r\nLink: </a>\r\n\r\n").status_code == 103
    assert ours.trailers(b"X-Sum: 1\r\n\r\n").headers.raw_items() == [(b"X-Sum", b"1")]


@pytest.mark.parametrize("parser", ["h11", "fast"])
@pytest.mark.parametrize(
    "head",
    [
        b"GET / HTTP/1.1\r\n\r\n",
        b"GET /\x00 HTTP/1.1\r\nHost: a\r\n\r\n",
        b"GET\r\n\r\n",
        b"GET / HTTP/1.1\r\nHost : a\r\n\r\n",
        b"\r\n\r\n",
    ],
)
def test_what_cannot_be_read_is_refused(parser: Parser, head: bytes) -> None:
    ours = load_parser(parser)
    with pytest.raises(ours.error):
        ours.request(head)


@pytest.mark.parametrize("parser", ["h11", "fast"])
def test_trailers_that_cannot_be_read_are_refused(parser: Parser) -> None:
    ours = load_parser(parser)
    with pytest.raises(ours.error):
        ours.trailers(b"no colon\r\n\r\n")
