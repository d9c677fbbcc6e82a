from __future__ import annotations

import ipaddress

import pytest
from hypothesis import given
from hypothesis import strategies as st

from trio_tsconnect.message import DEFAULT_PORTS, URL, BadRequest, Request, parse_authority, target_url

labels = st.text("abcxyz019-_", min_size=1, max_size=10)
reg_names = st.lists(labels, min_size=1, max_size=4).map(lambda parts: ".".join([*parts, "test"]))
ipv4 = st.ip_addresses(v=4).map(str)
ipv6 = st.ip_addresses(v=6).map(str).filter(lambda text: not text.startswith("::ffff:"))
hosts = reg_names | ipv4 | ipv6
ports = st.integers(0, 65535)
visible = [chr(code) for code in range(0x21, 0x7F) if chr(code) != "#"]
paths = st.text([character for character in visible if character != "?"], max_size=20).map(lambda text: "/" + text)
queries = st.none() | st.text(visible, max_size=20)
uris = st.builds(URL, st.sampled_from(sorted(DEFAULT_PORTS)), hosts, ports, paths, queries)


@given(uris)
def test_a_target_uri_survives_its_own_text(uri: URL) -> None:
    assert URL.parse(str(uri)) == uri
    host, port = parse_authority(uri.authority)
    assert (host, DEFAULT_PORTS[uri.scheme] if port is None else port) == (uri.host, uri.port)


@given(uris)
def test_origin_form_and_absolute_form_name_the_same_uri(uri: URL) -> None:
    origin_form = Request("GET", uri.target, {"Host": uri.authority})
    assert target_url(origin_form, scheme=uri.scheme) == uri
    assert target_url(Request("GET", str(uri), {"Host": "other.test"})) == uri


@given(hosts, ports)
def test_an_authority_is_split_and_lower_cased(host: str, port: int) -> None:
    written = f"[{host.upper()}]" if ":" in host else host.upper()
    assert parse_authority(written) == (host, None)
    assert parse_authority(f"{written}:") == (host, None)  # RFC 3986 §3.2.3: port = *DIGIT
    assert parse_authority(f"{written}:{port}") == (host, port)


@given(st.text(max_size=20) | st.text("[]:.@/0123456789abcdefx%\r\n ,", max_size=20))
def test_whatever_is_accepted_is_one_plain_host(text: str) -> None:
    try:
        host, port = parse_authority(text)
    except ValueError:
        return
    assert host == host.lower()
    assert host.isascii()
    assert not set(host) & set("\r\n\0 \t/?#@[],%")
    assert port is None or 0 <= port <= 65535
    if ":" in host:
        ipaddress.IPv6Address(host)


@pytest.mark.parametrize(
    "text",
    [
        "",
        ":80",
        "a b",
        "a\tb",
        " a",
        "a ",
        "a\r\n",
        "a\n",
        "user@host",
        "user:pw@host",
        "host/path",
        "host?q",
        "host#f",
        "host:80:80",
        "host:-1",
        "host:+1",
        "host:65536",
        "host:000080",
        "host:8a",
        "host:٣",
        "a,b",
        "a%20b",
        "1.2.3.4%25lo",
        "a..b",
        ".a",
        "a" * 64,
        "a." * 128,
        "é.test",
        "\N{KELVIN SIGN}.test",
        "::1",
        "[::1",
        "[::1]a",
        "[::1]80",
        "[]",
        "[1.2.3.4]",
        "[fe80::1%eth0]",
        "[v1.a]",
        "[::1]]",
    ],
)
def test_an_authority_that_is_none_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match=r"is not|unbalanced"):
        parse_authority(text)


@pytest.mark.parametrize(
    "text", ["127.1", "2130706433", "0x7f000001", "0x7f.0.0.1", "0177.0.0.1", "1.2.3.256", "1.2.3.4.5", "127.0.0.1.", "a.1", "0x"]
)
def test_a_number_that_only_a_resolver_takes_for_an_address_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match="not an IPv4 address"):
        parse_authority(text)


def test_ipv6_addresses_become_canonical_and_mapped_ones_what_they_map() -> None:
    assert parse_authority("[0:0:0:0:0:0:0:1]:1") == ("::1", 1)
    assert parse_authority("[::ffff:127.0.0.1]") == ("127.0.0.1", None)
    assert parse_authority("[::FFFF:7F00:1]") == ("127.0.0.1", None)


@pytest.mark.parametrize(
    ("uri", "authority", "text"),
    [
        (URL("http", "a.test", 80, "/x", "y"), "a.test", "http://a.test/x?y"),
        (URL("https", "a.test", 80, "/"), "a.test:80", "https://a.test:80/"),
        (URL("wss", "::1", 443, "/"), "[::1]", "wss://[::1]/"),
        (URL("ws", "::1", 8080, "/"), "[::1]:8080", "ws://[::1]:8080/"),
        (URL("http", "a.test", 80, "*"), "a.test", "http://a.test"),
    ],
)
def test_a_default_port_is_left_out_and_ipv6_is_bracketed(uri: URL, authority: str, text: str) -> None:
    assert uri.authority == authority
    assert str(uri) == text


@pytest.mark.parametrize(
    "text",
    [
        "",
        "/",
        "http:/a",
        "http://",
        "http:///p",
        "http://:80/",
        "ftp://a/",
        "http://u@a/",
        "http://a/#f",
        "http://a/ b",
        "http://a b/",
        "//a/",
        "1http://a/",
    ],
)
def test_an_absolute_uri_that_is_none_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match=r"is not|is neither"):
        URL.parse(text)


@pytest.mark.parametrize(
    "wrong",
    [
        {"scheme": "ftp"},
        {"scheme": "HTTP"},
        {"host": "A"},
        {"host": ""},
        {"host": "[::1]"},
        {"host": "0::1"},
        {"host": "a b"},
        {"port": -1},
        {"port": 65536},
        {"path": ""},
        {"path": "a"},
        {"path": "/a b"},
        {"path": "/a\r\n"},
        {"path": "/a\n"},
        {"path": "/#"},
        {"path": "**"},
    ],
)
def test_a_target_uri_is_checked_when_made(wrong: dict[str, str]) -> None:
    good = {"scheme": "http", "host": "a", "port": 80, "path": "/"}
    URL(**good)  # type: ignore[arg-type]
    with pytest.raises(ValueError, match=next(iter(wrong))):
        URL(**good | wrong)  # type: ignore[arg-type]


# RFC 9112 §3.2 and §3.3 -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("method", "target", "host", "expected"),
    [
        ("GET", "/hello?q=1", "Site.Test", "http://site.test/hello?q=1"),
        ("GET", "//double", "site.test:81", "http://site.test:81//double"),
        ("GET", "/a://b", "site.test", "http://site.test/a://b"),
        ("GET", "http://site.test/hello", "ignored.test", "http://site.test/hello"),  # §3.2.2: the absolute form wins
        ("GET", "HTTPS://Site.test", None, "https://site.test/"),
        ("GET", "http://site.test?q", None, "http://site.test/?q"),
        ("OPTIONS", "*", "site.test", "http://site.test"),
        ("OPTIONS", "http://site.test:8001", None, "http://site.test:8001"),  # §3.2.4: becomes the asterisk form
        ("OPTIONS", "http://site.test:8001/", None, "http://site.test:8001/"),
        ("OPTIONS", "http://site.test?q", None, "http://site.test/?q"),
        ("CONNECT", "site.test:443", "other.test", "http://site.test:443/"),  # §3.2.3
        ("CONNECT", "[::1]:443", None, "http://[::1]:443/"),
    ],
)
def test_each_form_of_target_names_its_uri(method: str, target: str, host: str | None, expected: str) -> None:
    request = Request(method, target, {}, "1.0") if host is None else Request(method, target, {"Host": host})
    assert str(target_url(request)) == expected
    if host is None:  # RFC 9112 §3.2: a client of HTTP/1.1 says Host all the same
        assert str(target_url(Request(method, target, {"Host": ""}))) == expected


def test_the_asterisk_form_is_kept_as_such() -> None:
    assert target_url(Request("OPTIONS", "*", {"Host": "a"})).path == "*"
    assert target_url(Request("OPTIONS", "http://a", {"Host": "a"})).path == "*"


def test_the_scheme_is_given_where_the_target_has_none() -> None:
    assert str(target_url(Request("GET", "/", {"Host": "a"}), scheme="https")) == "https://a/"
    assert target_url(Request("GET", "http://a/", {"Host": "a"}), scheme="https").scheme == "http"


@pytest.mark.parametrize(
    ("method", "target", "host", "cause"),
    [
        ("GET", "/", None, "no_host"),
        ("GET", "/", "", "no_host"),
        ("GET", "http://a/", None, "no_host"),
        ("OPTIONS", "*", None, "no_host"),
        ("CONNECT", "a:443", None, "no_host"),
        ("GET", "/", "a b", "bad_host"),
        ("GET", "*", "a", "bad_target"),
        ("GET", "hello", "a", "bad_target"),
        ("GET", "/#f", "a", "bad_target"),
        ("GET", "a:443", "a", "bad_target"),
        ("GET", "ftp://a/", "a", "bad_target"),
        ("CONNECT", "a", "a", "bad_target"),
        ("CONNECT", "/", "a", "bad_target"),
        ("CONNECT", "http://a:80", "a", "bad_target"),
    ],
)
def test_a_request_for_nothing_is_refused(method: str, target: str, host: str | None, cause: str) -> None:
    with pytest.raises(BadRequest) as caught:
        target_url(Request(method, target, {} if host is None else {"Host": host}))
    assert (caught.value.cause, caught.value.status) == (cause, 400)


def test_only_http_1_0_may_leave_the_host_to_the_listener() -> None:
    uri = target_url(Request("GET", "/", version="1.0"), default_authority="front.test:8080")
    assert str(uri) == "http://front.test:8080/"
    with pytest.raises(BadRequest):
        target_url(Request("GET", "/", version="1.0"))
    with pytest.raises(BadRequest):
        target_url(Request("GET", "/", version="1.1"), default_authority="front.test:8080")
