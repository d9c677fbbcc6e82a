from __future__ import annotations

import pickle
import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from trio_tsconnect.message import BadRequest, BadResponse, Failure, MessageError, Outcome, error_page, outcome, reason_phrase


@pytest.mark.parametrize("failure", Failure)
def test_every_failure_has_an_outcome_that_can_be_logged_and_sent(failure: Failure) -> None:
    result = outcome(failure)
    assert re.fullmatch(r"[a-z][a-z_]*", result.why)
    assert result.status is None or 400 <= result.status <= 599
    assert (result.by == "origin") == (failure.name.startswith("ORIGIN_") and failure is not Failure.ORIGIN_BUSY)


@pytest.mark.parametrize(
    ("failure", "status", "by"),
    [
        (Failure.NO_REMAP_RULE, 404, "proxy"),
        (Failure.ORIGIN_REFUSED, 502, "origin"),
        (Failure.ORIGIN_NAME_NOT_FOUND, 502, "origin"),
        (Failure.ORIGIN_CONNECT_TIMEOUT, 504, "origin"),
        (Failure.ORIGIN_RESPONSE_TIMEOUT, 504, "origin"),
        (Failure.ORIGIN_BUSY, 503, "proxy"),
        (Failure.HEADER_TIMEOUT, 408, "client"),
        (Failure.TARGET_TOO_LONG, 414, "client"),
        (Failure.HEAD_TOO_LARGE, 431, "client"),
        (Failure.REQUEST_TOO_LARGE, 413, "client"),
        (Failure.PLUGIN, 500, "plugin"),
        (Failure.LOOP, 400, "proxy"),
        (Failure.NO_DESCRIPTORS, 503, "proxy"),
        (Failure.CLIENT_GONE, None, "client"),
        (Failure.CLIENT_TIMEOUT, None, "client"),
        (Failure.CANCELLED, None, "proxy"),
    ],
)
def test_the_statuses_are_those_promised(failure: Failure, status: int | None, by: str) -> None:
    result = outcome(failure)
    assert (result.status, result.by) == (status, by)


def test_only_a_connection_that_died_before_the_response_is_tried_again() -> None:
    assert [failure for failure in Failure if outcome(failure).retry] == [Failure.ORIGIN_CLOSED]


def test_a_bad_message_says_itself_what_follows() -> None:
    assert outcome(BadRequest("bad_host", "It is bad.")) == Outcome(400, "client", "bad_host")
    assert outcome(BadRequest("bad_version", "It is bad.", 505)) == Outcome(505, "client", "bad_version")
    assert outcome(BadResponse("bad_status", "It is bad.")) == Outcome(502, "origin", "bad_status")


def test_an_error_tells_and_survives_pickling() -> None:
    error = BadRequest("bad_version", "HTTP/9.9 is not supported.", 505)
    assert str(error) == "HTTP/9.9 is not supported. (bad_version, 505)"
    again = pickle.loads(pickle.dumps(error))
    assert (type(again), again.cause, again.detail, again.status) == (BadRequest, error.cause, error.detail, 505)
    assert isinstance(error, MessageError)


@given(st.text(max_size=600) | st.text("<>\r\n\0\x1b\x7f\x85\u202e\ud800a", max_size=600))
def test_an_error_page_shows_nothing_that_acts(detail: str) -> None:
    body, content_type = error_page(502, detail)
    assert content_type == "text/plain; charset=utf-8"
    text = body.decode()
    head, _, shown = text.partition("\n")
    assert head == f"502 {reason_phrase(502)}"
    assert all(character.isprintable() for character in shown.strip("\n"))
    assert "<" not in text
    assert ">" not in text


def test_an_error_page_is_short_and_explains() -> None:
    assert error_page(404, "") == (b"404 Not Found\n", "text/plain; charset=utf-8")
    assert error_page(404, "No rule for 'é\x1b'.")[0] == "404 Not Found\n\nNo rule for 'é\\x1b'.\n".encode()
    assert error_page(400, "\u202e")[0] == b"400 Bad Request\n\n\\u{202e}\n"
    assert error_page(400, "a" * 400)[0].endswith(b"\n" + b"a" * 400 + b"\n")
    assert error_page(400, "a" * 5000)[0].endswith(b"a" * 400 + b"...\n")
