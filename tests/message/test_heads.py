from __future__ import annotations

import string
from collections.abc import Callable
from http import HTTPStatus
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from trio_tsconnect.message import STATUS_PHRASES, Headers, Request, Response, reason_phrase


@pytest.mark.parametrize(
    ("attribute", "value", "says"),
    [
        ("method", "", "not a token"),
        ("method", "GE T", "not a token"),
        ("method", "GET\r\n", "not a token"),
        ("method", "GÉT", "not a token"),
        ("method", "G€T", "not a token"),
        ("target", "", "visible ASCII"),
        ("target", "/a b", "visible ASCII"),
        ("target", "/a\r\nX: y", "visible ASCII"),
        ("target", "/a\n", "visible ASCII"),
        ("target", "/é", "visible ASCII"),
        ("version", "1", "DIGIT.DIGIT"),
        ("version", "1.1\r\n", "DIGIT.DIGIT"),
        ("version", "1.1\n", "DIGIT.DIGIT"),
        ("version", "HTTP/1.1", "DIGIT.DIGIT"),
        ("version", "1.²", "DIGIT.DIGIT"),
        ("headers", [("A", "\n")], "control character"),
    ],
)
def test_a_request_refuses_a_bad_attribute_when_made_and_when_assigned(attribute: str, value: Any, says: str) -> None:
    good: dict[str, Any] = {"method": "GET", "target": "/", "headers": (), "version": "1.1"}
    with pytest.raises(ValueError, match=says):
        Request(**good | {attribute: value})
    request = Request(**good)
    with pytest.raises(ValueError, match=says):
        setattr(request, attribute, value)
    assert (request.method, request.target, request.headers, request.version) == ("GET", "/", Headers(), "1.1")


@pytest.mark.parametrize(
    ("attribute", "value", "says"),
    [
        ("status", 99, "100..999"),
        ("status", 1000, "100..999"),
        ("reason", "OK\r\nX: y", "control character"),
        ("reason", "OK\n", "control character"),
        ("reason", "\0", "control character"),
        ("reason", "€", "outside ISO-8859-1"),
        ("version", "1.10", "DIGIT.DIGIT"),
        ("headers", [("A b", "")], "not a token"),
    ],
)
def test_a_response_refuses_a_bad_attribute_when_made_and_when_assigned(attribute: str, value: Any, says: str) -> None:
    good: dict[str, Any] = {"status": 200, "headers": (), "reason": "Fine", "version": "1.1"}
    with pytest.raises(ValueError, match=says):
        Response(**good | {attribute: value})
    response = Response(**good)
    with pytest.raises(ValueError, match=says):
        setattr(response, attribute, value)
    assert (response.status, response.headers, response.reason, response.version) == (200, Headers(), "Fine", "1.1")


@pytest.mark.parametrize(
    ("attribute", "value"), [("status", "200"), ("status", True), ("status", 200.0), ("reason", b"OK"), ("version", 1.1)]
)
def test_a_wrong_type_is_refused_by_name(attribute: str, value: Any) -> None:
    with pytest.raises(TypeError, match=f"^{attribute} must be "):
        setattr(Response(200), attribute, value)


@given(st.text(max_size=10), st.text(max_size=10), st.text(max_size=4), st.text(max_size=10))
def test_no_accepted_value_can_break_a_start_line(method: str, target: str, version: str, reason: str) -> None:
    makes: list[tuple[str, Callable[[], str]]] = [
        (method, lambda: Request(method, "/").method),
        (target, lambda: Request("GET", target).target),
        (version, lambda: Request("GET", "/", version=version).version),
    ]
    for text, make in makes:
        try:
            made = make()
        except ValueError:
            continue
        assert made == text
        assert not set(text) - (set(string.printable) - set(string.whitespace))
    try:
        assert not set(Response(200, reason=reason).reason) & set("\r\n\0")
    except ValueError:
        pass


def test_any_token_is_a_method_and_any_int_a_status() -> None:
    assert Request("FROB", "/").method == "FROB"
    assert Response(HTTPStatus.NOT_FOUND).status == 404


def test_headers_are_kept_when_they_are_headers_and_made_when_not() -> None:
    headers = Headers({"A": "1"})
    request = Request("GET", "/", headers)
    assert request.headers is headers
    request.headers = {"B": "2"}  # type: ignore[assignment]
    assert request.headers.items() == [("B", "2")]


def test_two_heads_do_not_share_default_headers() -> None:
    assert Request("GET", "/").headers is not Request("GET", "/").headers


def test_a_copy_is_independent() -> None:
    request, response = Request("GET", "/", {"A": "1"}, "1.0"), Response(404, {"A": "1"}, "Nope", "1.0")
    for copied, original in ((request.copy(), request), (response.copy(), response)):
        assert repr(copied) == repr(original)
        copied.headers["A"] = "2"
        assert original.headers["A"] == "1"


# A reason phrase is always there: some clients count a reply without one as failed.
def test_an_empty_reason_is_the_standard_phrase() -> None:
    response = Response(404)
    assert response.reason == "Not Found"
    response.reason = "Gone Fishing"
    response.reason = ""
    assert response.reason == "Not Found"


def test_a_standard_reason_follows_the_status_and_another_does_not() -> None:
    response = Response(200)
    response.status = 404
    assert response.reason == "Not Found"
    response.reason = "Gone Fishing"
    response.status = 410
    assert response.reason == "Gone Fishing"


def test_every_status_has_a_phrase() -> None:
    assert all(reason_phrase(status) for status in range(100, 1000))
    assert reason_phrase(299) == "Successful"
    assert reason_phrase(777) == "Unknown"
    assert STATUS_PHRASES[413] == "Content Too Large"
