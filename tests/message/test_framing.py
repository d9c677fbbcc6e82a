from __future__ import annotations

import pytest

from trio_tsconnect.message import (
    CHUNKED_BODY,
    CLOSE_BODY,
    EMPTY_BODY,
    NO_BODY,
    Body,
    Framing,
    Request,
    Response,
    frame_request,
    frame_response,
    request_body,
    response_body,
)

CL5 = ("Content-Length", "5")
CL0 = ("Content-Length", "0")
TE = ("Transfer-Encoding", "chunked")
FIVE = Body(Framing.LENGTH, 5)


# RFC 9112 §6.3 ----------------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("field", "body"), [(None, NO_BODY), (CL0, EMPTY_BODY), (CL5, FIVE), (TE, CHUNKED_BODY)])
@pytest.mark.parametrize("method", ["GET", "POST", "DELETE", "OPTIONS", "FROB"])
def test_a_request_body_is_what_the_fields_say_whatever_the_method(method: str, field: tuple[str, str] | None, body: Body) -> None:
    assert request_body(Request(method, "/", [field] if field else [])) == body


@pytest.mark.parametrize(("field", "body"), [(None, CLOSE_BODY), (CL0, EMPTY_BODY), (CL5, FIVE), (TE, CHUNKED_BODY)])
@pytest.mark.parametrize("status", [200, 205, 206, 302, 404, 500])
def test_a_response_body_is_what_the_fields_say_or_ends_with_the_connection(status: int, field: tuple[str, str] | None, body: Body) -> None:
    assert response_body("GET", Response(status, [field] if field else [])) == body


@pytest.mark.parametrize(
    ("method", "status"),
    [("HEAD", 200), ("HEAD", 404), ("GET", 100), ("GET", 101), ("GET", 103), ("GET", 204), ("GET", 304), ("CONNECT", 200)],
)
@pytest.mark.parametrize("fields", [[], [CL5], [TE]])
def test_some_responses_have_no_body_whatever_the_fields_say(method: str, status: int, fields: list[tuple[str, str]]) -> None:
    assert response_body(method, Response(status, fields)) == NO_BODY


@pytest.mark.parametrize("status", [300, 403])
def test_a_refused_connect_has_a_body(status: int) -> None:
    assert response_body("CONNECT", Response(status, [CL5])) == FIVE


def test_a_body_is_empty_only_when_that_is_certain() -> None:
    assert [body.empty for body in (NO_BODY, EMPTY_BODY, FIVE, CHUNKED_BODY, CLOSE_BODY)] == [True, True, False, False, False]


# What goes to the client ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("received", [[], [CL5], [TE, ("Trailer", "X")], [("content-length", "7")]])
@pytest.mark.parametrize(
    ("method", "version", "status", "body", "fields", "expected"),
    [
        ("GET", "1.1", 200, FIVE, [CL5], FIVE),
        ("GET", "1.0", 200, FIVE, [CL5], FIVE),
        ("GET", "1.1", 200, EMPTY_BODY, [CL0], EMPTY_BODY),
        ("GET", "1.1", 200, NO_BODY, [CL0], EMPTY_BODY),
        ("GET", "1.0", 200, CHUNKED_BODY, [], CLOSE_BODY),
        ("GET", "1.0", 200, CLOSE_BODY, [], CLOSE_BODY),
        ("GET", "1.1", 205, CHUNKED_BODY, [CL0], EMPTY_BODY),
        ("GET", "1.1", 205, FIVE, [CL0], EMPTY_BODY),
        ("GET", "1.1", 204, FIVE, [], NO_BODY),
        ("GET", "1.1", 103, NO_BODY, [], NO_BODY),
        ("CONNECT", "1.1", 200, NO_BODY, [], NO_BODY),
    ],
)
def test_the_framing_toward_the_client_replaces_what_was_received(
    method: str,
    version: str,
    status: int,
    body: Body,
    fields: list[tuple[str, str]],
    expected: Body,
    received: list[tuple[str, str]],
) -> None:
    response = Response(status, received)
    assert frame_response(method, version, response, body) == expected
    assert response.headers.items() == fields


@pytest.mark.parametrize("body", [CHUNKED_BODY, CLOSE_BODY])
@pytest.mark.parametrize("version", ["1.1", "1.2"])
def test_an_unknown_length_is_chunked_and_keeps_the_announced_trailers(body: Body, version: str) -> None:
    response = Response(200, [CL5, ("Trailer", "X")])
    assert frame_response("GET", version, response, body) == CHUNKED_BODY
    assert response.headers.items() == [("Trailer", "X"), TE]


@pytest.mark.parametrize(("method", "status"), [("HEAD", 200), ("GET", 304)])
def test_head_and_304_keep_a_length_and_make_none_up(method: str, status: int) -> None:
    kept = Response(status, [CL5, TE])
    assert frame_response(method, "1.1", kept, NO_BODY) == NO_BODY
    assert kept.headers.items() == [CL5]
    bare = Response(status, [])
    assert frame_response(method, "1.1", bare, NO_BODY) == NO_BODY
    assert bare.headers.items() == []


@pytest.mark.parametrize("fields", [[("Content-Length", "x")], [CL5, CL5], [("Content-Length", "")]])
def test_head_does_not_pass_on_a_length_that_is_no_number(fields: list[tuple[str, str]]) -> None:
    response = Response(200, fields)
    frame_response("HEAD", "1.1", response, NO_BODY)
    assert response.headers.items() == []


# What goes to the origin ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("received", [[], [CL5], [("Transfer-Encoding", "chunked"), ("Trailer", "X")]])
@pytest.mark.parametrize(
    ("method", "body", "fields", "expected"),
    [
        ("GET", NO_BODY, [], NO_BODY),
        ("DELETE", NO_BODY, [], NO_BODY),
        ("POST", NO_BODY, [CL0], EMPTY_BODY),  # RFC 9110 §8.6
        ("PUT", NO_BODY, [CL0], EMPTY_BODY),
        ("PATCH", NO_BODY, [CL0], EMPTY_BODY),
        ("GET", EMPTY_BODY, [CL0], EMPTY_BODY),
        ("GET", FIVE, [CL5], FIVE),
        ("POST", FIVE, [CL5], FIVE),
    ],
)
def test_the_framing_toward_the_origin_replaces_what_was_received(
    method: str, body: Body, fields: list[tuple[str, str]], expected: Body, received: list[tuple[str, str]]
) -> None:
    request = Request(method, "/", received)
    assert frame_request(request, body) == expected
    assert request.headers.items() == fields


def test_a_chunked_request_is_chunked_again() -> None:
    request = Request("POST", "/", [CL5, ("Trailer", "X")])
    assert frame_request(request, CHUNKED_BODY) == CHUNKED_BODY
    assert request.headers.items() == [("Trailer", "X"), TE]


def test_a_request_cannot_end_by_closing() -> None:
    with pytest.raises(ValueError, match="closing the connection"):
        frame_request(Request("POST", "/"), CLOSE_BODY)
