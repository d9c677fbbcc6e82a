from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from trio_tsconnect.message import (
    FORBIDDEN_IN_TRAILERS,
    HOP_BY_HOP,
    BadRequest,
    BadResponse,
    Headers,
    MessageError,
    Request,
    Response,
    check_request,
    check_response,
    check_trailers,
    request_body,
)

Pairs = list[tuple[str, str]]
HOST = ("Host", "a.test")
TE = ("Transfer-Encoding", "chunked")


def parsed(pairs: list[tuple[bytes, bytes]]) -> Headers:
    """As from a parser that let something through."""
    return Headers.from_parsed([(name, name.lower(), value) for name, value in pairs])


def refusal(request: Request) -> tuple[str, int]:
    with pytest.raises(BadRequest) as caught:
        check_request(request)
    assert caught.value.detail.endswith(".")
    return caught.value.cause, caught.value.status


def response_refusal(response: Response, method: str = "GET") -> str:
    with pytest.raises(BadResponse) as caught:
        check_response(response, method)
    assert caught.value.status == 502
    return caught.value.cause


# RFC 9112 §2.3, RFC 9110 §2.5 and §15.6.6: the version -----------------------------------------------------------------------------


@pytest.mark.parametrize("version", ["0.9", "2.0", "3.0", "9.9"])
def test_another_major_version_is_answered_with_505(version: str) -> None:
    assert refusal(Request("GET", "/", [HOST], version)) == ("bad_version", 505)


@pytest.mark.parametrize("version", ["1.0", "1.1", "1.2", "1.9"])
def test_every_minor_version_of_one_is_accepted_and_kept(version: str) -> None:
    request = Request("GET", "/", [HOST], version)
    check_request(request)
    assert request.version == version


# RFC 9113 §3.4
def test_the_http2_preface_is_refused() -> None:
    assert refusal(Request("PRI", "*")) == ("http2_preface", 400)


# RFC 9112 §3.2: the target ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("method", "target"),
    [
        ("GET", "*"),
        ("OPTIONS", "**"),
        ("GET", "a"),
        ("GET", "a:80"),
        ("GET", "?q"),
        ("GET", "/a#f"),
        ("GET", "http://a/#f"),
        ("GET", "http://"),
        ("GET", "http:///a"),
        ("GET", "http://u@a/"),
        ("GET", "http://a:b/"),
        ("GET", "urn:a"),
        ("GET", "gopher://a/"),
        ("GET", "*://a/"),
        ("CONNECT", "a"),
        ("CONNECT", "a:"),
        ("CONNECT", "/a"),
        ("CONNECT", "u@a:80"),
        ("CONNECT", "http://a:80/"),
    ],
)
def test_a_target_in_no_form_for_its_method_is_refused(method: str, target: str) -> None:
    assert refusal(Request(method, target, [HOST])) == ("bad_target", 400)


@pytest.mark.parametrize(
    ("method", "target"),
    [
        ("GET", "/"),
        ("GET", "//a"),
        ("FROB", "/a?b=http://c"),
        ("GET", "http://a"),
        ("OPTIONS", "*"),
        ("OPTIONS", "/"),
        ("CONNECT", "a:443"),
    ],
)
def test_a_target_in_its_form_is_accepted(method: str, target: str) -> None:
    check_request(Request(method, target, [HOST]))


# RFC 9112 §3.2: Host ----------------------------------------------------------------------------------------------------------------


def test_a_second_host_is_refused_even_if_it_is_equal() -> None:
    assert refusal(Request("GET", "/", [HOST, ("host", "a.test")])) == ("duplicate_host", 400)
    assert refusal(Request("GET", "http://a.test/", [HOST, HOST])) == ("duplicate_host", 400)


@pytest.mark.parametrize("host", ["a b", "a/b", "u@a", "a, b", "a,b", "http://a", "a:b", "é", "127.1"])
def test_an_invalid_host_is_refused(host: str) -> None:
    assert refusal(Request("GET", "/", [("Host", host)])) == ("bad_host", 400)
    assert refusal(Request("GET", "/", [("Host", host)], "1.0")) == ("bad_host", 400)


def test_a_missing_or_empty_host_is_left_to_the_target_uri() -> None:
    check_request(Request("GET", "/"))
    check_request(Request("GET", "/", [("Host", "")]))


# RFC 9110 §5.1 and §5.5: names and values -------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", [b"", b"a b", b"a ", b"a\t", b"a\0", b"\xe9", b"a\r"])
@pytest.mark.parametrize("around", [False, True])
def test_a_field_name_that_is_no_token_is_refused(name: bytes, around: bool) -> None:
    other = [(b"A", b"1")] if around else []
    headers = parsed([*other, (name, b"v"), *other])
    assert refusal(Request("GET", "/", headers)) == ("bad_field_name", 400)
    assert response_refusal(Response(200, headers)) == "bad_field_name"


@pytest.mark.parametrize("byte", [*range(9), *range(10, 32), 127])
def test_a_control_byte_in_a_value_is_refused(byte: int) -> None:
    headers = parsed([(b"A", b"1"), (b"B", b"x%cy" % byte)])
    assert refusal(Request("GET", "/", headers)) == ("bad_field_value", 400)
    assert response_refusal(Response(200, headers)) == "bad_field_value"


def test_tabs_and_other_bytes_above_ascii_are_accepted() -> None:
    check_request(Request("GET", "/", [("A", "a\tb"), ("B", "\x80\xff")]))


# RFC 9110 §8.6 and RFC 9112 §6.3: Content-Length ------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("values", "cause"),
    [
        ([""], "bad_content_length"),
        (["-1"], "bad_content_length"),
        (["+1"], "bad_content_length"),
        (["0x5"], "bad_content_length"),
        (["5.0"], "bad_content_length"),
        (["5 5"], "bad_content_length"),
        (["\xb2"], "bad_content_length"),
        (["9" * 19], "bad_content_length"),
        (["0" * 5000 + "5"], "bad_content_length"),
        (["3", "4"], "conflicting_content_length"),
        (["3, 4"], "conflicting_content_length"),
        (["5", "05"], "conflicting_content_length"),
        (["5,"], "conflicting_content_length"),
        (["5", ""], "conflicting_content_length"),
    ],
)
def test_a_content_length_that_is_not_one_number_is_refused(values: list[str], cause: str) -> None:
    fields = [("Content-Length", value) for value in values]
    assert refusal(Request("POST", "/", [HOST, *fields])) == (cause, 400)
    assert response_refusal(Response(200, fields)) == cause


@pytest.mark.parametrize("values", [["5"], ["5", "5"], ["5, 5"], ["5 ,\t5", "5"]])
def test_equal_content_lengths_become_one_line(values: list[str]) -> None:
    request = Request("POST", "/", [("Content-Length", value) for value in values] + [HOST])
    check_request(request)
    assert request.headers.items() == [("Content-Length", "5"), HOST]
    assert request_body(request).length == 5


# RFC 9112 §6.1 and §6.3: Transfer-Encoding ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("order", [1, -1])
@pytest.mark.parametrize("version", ["1.0", "1.1"])
def test_transfer_encoding_with_content_length_is_refused(order: int, version: str) -> None:
    fields = [TE, ("Content-Length", "5")][::order]
    assert refusal(Request("POST", "/", [HOST, *fields], version)) == ("conflicting_framing", 400)
    for status in (200, 204, 304):
        assert response_refusal(Response(status, fields, version=version)) == "conflicting_framing"


def test_transfer_encoding_in_http_1_0_is_refused() -> None:
    assert refusal(Request("POST", "/", [HOST, TE], "1.0")) == ("transfer_encoding_in_http_1_0", 400)
    assert response_refusal(Response(200, [TE], version="1.0")) == "transfer_encoding_in_http_1_0"


@pytest.mark.parametrize(
    ("values", "cause", "status"),
    [
        (["gzip"], "unknown_transfer_coding", 501),
        (["gzip, chunked"], "unknown_transfer_coding", 501),
        (["gzip", "chunked"], "unknown_transfer_coding", 501),
        (["identity"], "unknown_transfer_coding", 501),
        (["xchunked"], "unknown_transfer_coding", 501),
        (["chunkedx"], "unknown_transfer_coding", 501),
        (['"chunked"'], "unknown_transfer_coding", 501),
        (["chunked, gzip"], "bad_transfer_encoding", 400),
        (["chunked, identity"], "bad_transfer_encoding", 400),
        (["chunked, chunked"], "bad_transfer_encoding", 400),
        (["chunked", "chunked"], "bad_transfer_encoding", 400),
        (["chunked;a=b"], "bad_transfer_encoding", 400),
        (["chunked,"], "bad_transfer_encoding", 400),
        (["", "chunked"], "bad_transfer_encoding", 400),
        ([""], "bad_transfer_encoding", 400),
    ],
)
def test_anything_but_chunked_once_is_refused(values: list[str], cause: str, status: int) -> None:
    fields = [("Transfer-Encoding", value) for value in values]
    assert refusal(Request("POST", "/", [HOST, *fields])) == (cause, status)
    assert response_refusal(Response(200, fields)) == cause


def test_chunked_is_recognised_in_any_case_and_written_in_one() -> None:
    request = Request("POST", "/", [("transfer-ENCODING", "CHUNKED"), HOST])
    check_request(request)
    assert request.headers.get_all("transfer-encoding") == ["chunked"]


# RFC 9110 §9.3.6 and §9.3.8
@pytest.mark.parametrize(("method", "target"), [("CONNECT", "a:1"), ("TRACE", "/")])
def test_methods_without_content_refuse_it(method: str, target: str) -> None:
    check_request(Request(method, target, [HOST, ("Content-Length", "0")]))
    for field in (TE, ("Content-Length", "1")):
        assert refusal(Request(method, target, [HOST, field])) == ("unexpected_content", 400)


# The origin's side ------------------------------------------------------------------------------------------------------------------


def test_a_status_outside_the_classes_is_refused() -> None:
    check_response(Response(599), "GET")
    assert response_refusal(Response(600)) == "bad_status"  # RFC 9110 §15


@pytest.mark.parametrize("version", ["0.9", "2.0"])
def test_an_origin_of_another_major_version_is_refused(version: str) -> None:
    assert response_refusal(Response(200, version=version)) == "bad_version"


@pytest.mark.parametrize(("method", "status"), [("GET", 100), ("GET", 103), ("GET", 204), ("HEAD", 204), ("CONNECT", 200)])
@pytest.mark.parametrize("field", [TE, ("Content-Length", "5"), ("Content-Length", "x")])
def test_framing_where_there_can_be_none_is_taken_out(method: str, status: int, field: tuple[str, str]) -> None:
    response = Response(status, [field, ("A", "1")])
    check_response(response, method)
    assert response.headers.items() == [("A", "1")]


@pytest.mark.parametrize(("method", "status"), [("HEAD", 200), ("GET", 304), ("GET", 200), ("CONNECT", 400)])
def test_framing_that_means_something_is_kept_and_judged(method: str, status: int) -> None:
    response = Response(status, [("Content-Length", "5")])
    check_response(response, method)
    assert response.headers["content-length"] == "5"
    assert response_refusal(Response(status, [("Content-Length", "x")]), method) == "bad_content_length"


# RFC 9110 §6.5.1 --------------------------------------------------------------------------------------------------------------------


def test_trailers_lose_what_must_not_be_in_them() -> None:
    trailers = Headers([("Grpc-Status", "0"), ("Host", "evil"), ("Content-Length", "5"), ("Digest", "x"), ("Set-Cookie", "a"), TE])
    check_trailers(trailers)
    assert trailers.items() == [("Grpc-Status", "0"), ("Digest", "x")]
    assert HOP_BY_HOP <= FORBIDDEN_IN_TRAILERS


@pytest.mark.parametrize("error", [BadRequest, BadResponse])
@pytest.mark.parametrize("field", [(b"a b", b""), (b"a", b"\0")])
def test_malformed_trailers_are_the_senders_fault(error: type[MessageError], field: tuple[bytes, bytes]) -> None:
    with pytest.raises(error):
        check_trailers(parsed([field]), error)


# Everything at once -----------------------------------------------------------------------------------------------------------------

spice = st.sampled_from(
    [b"chunked", b"Chunked", b"gzip", b"5", b"5, 5", b"6", b"", b"a.test", b"a b", b"\0", b"x\ry", b"close", b"chunked, chunked", b"1" * 30]
)
fields = st.lists(
    st.tuples(
        st.sampled_from([b"Host", b"Content-Length", b"content-length", b"Transfer-Encoding", b"A", b"", b"B C"]),
        spice | st.binary(max_size=4),
    ),
    max_size=5,
)


@given(fields, st.sampled_from(["1.0", "1.1"]))
def test_whatever_passes_has_one_meaning(pairs: list[tuple[bytes, bytes]], version: str) -> None:
    request = Request("POST", "/", parsed(pairs), version)
    try:
        check_request(request)
    except BadRequest:
        return
    headers = request.headers
    lengths, codings = headers.get_all("content-length"), headers.get_all("transfer-encoding")
    assert len(lengths) + len(codings) <= 1
    assert all(length.isascii() and length.isdigit() for length in lengths)
    assert codings in ([], ["chunked"])
    assert not (codings and version == "1.0")
    assert len(headers.get_all("host")) <= 1
    check_request(request)  # what was put right is right
    for name, value in headers.raw():
        Headers([(name, value.strip(b" \t"))])
