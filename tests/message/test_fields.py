from __future__ import annotations

import email.utils

import pytest
from hypothesis import given
from hypothesis import strategies as st

from trio_tsconnect.message import (
    CHUNKED_BODY,
    EMPTY_BODY,
    NO_BODY,
    BadRequest,
    Body,
    Framing,
    Headers,
    Request,
    accepts_trailers,
    add_via,
    check_expect,
    expects_continue,
    http_date,
    keep_alive,
    max_forwards,
    retry_safe,
    strip_hop_by_hop,
    via_names,
)

# RFC 9110 §7.6.1 --------------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["Connection", "Keep-Alive", "Proxy-Connection", "TE", "Transfer-Encoding", "Upgrade", "HTTP2-Settings"])
def test_a_hop_by_hop_field_is_stripped_without_being_listed(name: str) -> None:
    headers = Headers([("A", "1"), (name, "x"), ("B", "2")])
    strip_hop_by_hop(headers)
    assert headers.items() == [("A", "1"), ("B", "2")]


def test_every_field_that_connection_lists_is_stripped() -> None:
    headers = Headers(
        [("X-Note", "x-c"), ("X-A", "1"), ("Connection", "x-a, close"), ("x-b", "2"), ("X-C", "3"), ("connection", ",\tX-B ,")]
    )
    strip_hop_by_hop(headers)
    assert headers.items() == [("X-Note", "x-c"), ("X-C", "3")]


@pytest.mark.parametrize(
    "name",
    [
        "Host",
        "Content-Length",
        "Content-Type",
        "Authorization",
        "Cookie",
        "Set-Cookie",
        "Cache-Control",
        "Via",
        "Forwarded",
        "X-Forwarded-For",
        "Max-Forwards",
        "Expect",
        "Range",
        "Content-Encoding",
    ],
)
def test_connection_cannot_take_away_what_the_whole_message_depends_on(name: str) -> None:
    headers = Headers([(name, "x"), ("Connection", f"close, {name}")])
    strip_hop_by_hop(headers)
    assert headers.items() == [(name, "x")]


def test_fields_for_a_proxy_and_trailer_go_on() -> None:
    fields = [("Proxy-Authorization", "Basic x"), ("Proxy-Authenticate", "Basic"), ("Trailer", "X")]
    headers = Headers(fields)
    strip_hop_by_hop(headers)
    assert headers.items() == fields


# RFC 9110 §7.8
def test_an_announced_upgrade_is_kept_on_request() -> None:
    headers = Headers([("Upgrade", "websocket"), ("Connection", "keep-alive, X-A, Upgrade"), ("X-A", "1"), ("Keep-Alive", "5")])
    stripped = headers.copy()
    strip_hop_by_hop(stripped)
    assert stripped.items() == []
    strip_hop_by_hop(headers, keep_upgrade=True)
    assert headers.items() == [("Upgrade", "websocket"), ("Connection", "Upgrade")]


@pytest.mark.parametrize("fields", [[("Upgrade", "websocket")], [("Connection", "Upgrade")], [("Upgrade", "a"), ("Connection", "close")]])
def test_half_an_upgrade_is_none(fields: list[tuple[str, str]]) -> None:
    headers = Headers(fields)
    strip_hop_by_hop(headers, keep_upgrade=True)
    assert headers.items() == []


# RFC 9112 §9.3 ----------------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("version", "connection", "persists"),
    [
        ("1.1", None, True),
        ("1.2", None, True),
        ("1.0", None, False),
        ("1.1", "close", False),
        ("1.1", "Close", False),
        ("1.1", "x, CLOSE", False),
        ("1.1", "keep-alive", True),
        ("1.0", "keep-alive", True),
        ("1.0", "Keep-Alive", True),
        ("1.0", "keep-alive, close", False),
        ("1.0", "x", False),
    ],
)
def test_a_connection_persists_as_version_and_options_say(version: str, connection: str | None, persists: bool) -> None:
    headers = Headers({} if connection is None else {"Connection": connection})
    assert keep_alive(version, headers) is persists


def test_close_counts_on_any_line() -> None:
    assert not keep_alive("1.1", Headers([("Connection", "x"), ("Connection", "close")]))


# RFC 9110 §7.6.3: Via ---------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("before", "after"),
    [
        ([], [("Via", "1.1 us")]),
        ([("via", "1.0 a")], [("via", "1.0 a, 1.1 us")]),
        ([("via", "")], [("via", "1.1 us")]),
        ([("X", "1")], [("X", "1"), ("Via", "1.1 us")]),
        ([("Via", "1.0 a"), ("X", "1")], [("Via", "1.0 a, 1.1 us"), ("X", "1")]),
        ([("Via", "1.0 a"), ("X", "1"), ("Via", "1.1 b")], [("Via", "1.0 a"), ("X", "1"), ("Via", "1.1 b, 1.1 us")]),
    ],
)
def test_via_names_us_last(before: list[tuple[str, str]], after: list[tuple[str, str]]) -> None:
    headers = Headers(before)
    add_via(headers, "1.1", "us")
    assert headers.items() == after
    assert via_names(headers)[-1] == "us"


@pytest.mark.parametrize("pseudonym", ["", "a b", "a,b", "a\r\n", "é"])
def test_a_pseudonym_that_would_break_via_is_refused(pseudonym: str) -> None:
    with pytest.raises(ValueError, match="pseudonym"):
        add_via(Headers(), "1.1", pseudonym)


@pytest.mark.parametrize(
    ("value", "names"),
    [
        ("1.1 a, HTTP/1.0 b:80", ["a", "b:80"]),
        ("1.1 a (Apache, really 1.1 fake), 1.1 b", ["a", "b"]),
        ("1.1 a (x (y, 1.1 fake) z), 1.1 b", ["a", "b"]),
        (r"1.1 a (\), 1.1 fake), 1.1 b", ["a", "b"]),
        ("1.1 a (open, 1.1 b", ["a"]),
        ("1.1 a), 1.1 b", ["a)", "b"]),
        ("nonsense,, 1.1 a", ["a"]),
        ("1.1\ta", ["a"]),
    ],
)
def test_the_names_in_via_are_found_outside_comments(value: str, names: list[str]) -> None:
    assert via_names(Headers({"Via": value})) == names


def test_the_names_in_via_are_those_of_all_lines() -> None:
    assert via_names(Headers([("Via", "1.1 a"), ("via", "1.1 b")])) == ["a", "b"]
    assert via_names(Headers()) == []


# RFC 9110 §10.1.1: Expect -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("version", "expect", "waits"),
    [
        ("1.1", "100-continue", True),
        ("1.1", "100-Continue", True),
        ("1.1", None, False),
        ("1.0", "100-continue", False),
        ("1.1", "other", False),
    ],
)
def test_a_client_waits_for_100_if_it_says_so_and_is_not_of_1_0(version: str, expect: str | None, waits: bool) -> None:
    request = Request("POST", "/", {} if expect is None else {"Expect": expect}, version)
    assert expects_continue(request) is waits


@pytest.mark.parametrize("expect", ["other", "100-continue, other", "100-continue;a=b", '"100-continue"'])
def test_an_unknown_expectation_is_answered_with_417(expect: str) -> None:
    with pytest.raises(BadRequest) as caught:
        check_expect(Request("POST", "/", {"Expect": expect}))
    assert (caught.value.status, caught.value.cause) == (417, "unknown_expectation")


@pytest.mark.parametrize("fields", [{}, {"Expect": "100-Continue"}, {"Expect": ""}])
def test_a_known_expectation_passes(fields: dict[str, str]) -> None:
    check_expect(Request("POST", "/", fields))


# RFC 9110 §7.6.2: Max-Forwards ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("method", "hops"), [("TRACE", 5), ("OPTIONS", 5), ("GET", None)])
def test_max_forwards_binds_trace_and_options(method: str, hops: int | None) -> None:
    assert max_forwards(Request(method, "/", {"Max-Forwards": "5"})) == hops
    assert max_forwards(Request(method, "/")) is None


@pytest.mark.parametrize("values", [["x"], ["-1"], [""], ["1", "1"], ["\xb2"], ["9" * 5000]])
def test_max_forwards_that_is_no_number_is_refused(values: list[str]) -> None:
    fields = [("Max-Forwards", value) for value in values]
    with pytest.raises(BadRequest, match="Max-Forwards"):
        max_forwards(Request("TRACE", "/", fields))
    assert max_forwards(Request("GET", "/", fields)) is None


# RFC 9110 §9.2.2, §10.1.4, §5.6.7 ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("method", "body", "safe"),
    [
        *[(method, NO_BODY, True) for method in ("GET", "HEAD", "OPTIONS", "TRACE", "PUT", "DELETE")],
        *[(method, NO_BODY, False) for method in ("POST", "PATCH", "CONNECT", "FROB", "get")],
        ("PUT", EMPTY_BODY, True),
        ("PUT", Body(Framing.LENGTH, 1), False),
        ("GET", CHUNKED_BODY, False),
    ],
)
def test_only_an_idempotent_request_without_content_may_be_sent_twice(method: str, body: Body, safe: bool) -> None:
    assert retry_safe(Request(method, "/"), body=body) is safe


def test_te_trailers_is_recognised() -> None:
    assert accepts_trailers(Headers({"TE": "gzip, Trailers"}))
    assert not accepts_trailers(Headers({"TE": "gzip"}))
    assert not accepts_trailers(Headers())


@given(st.floats(0, 4_000_000_000))
def test_a_date_is_an_imf_fixdate(moment: float) -> None:
    assert http_date(moment) == email.utils.formatdate(int(moment), usegmt=True)
