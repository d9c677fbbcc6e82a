from __future__ import annotations

import pytest

from trio_tsconnect.message import ForwardedStyle, Headers, add_forwarded

CLAIMS = [
    ("Forwarded", "for=6.6.6.6"),
    ("X-Forwarded-For", "6.6.6.6"),
    ("X-Forwarded-Proto", "https"),
    ("X-Forwarded-Host", "evil.test"),
    ("X-Forwarded-Port", "1"),
    ("X-Real-IP", "6.6.6.6"),
]
OURS_X = [("X-Forwarded-For", "192.0.2.1"), ("X-Forwarded-Proto", "http"), ("X-Forwarded-Host", "a.test:81")]
OURS = [("Forwarded", 'for=192.0.2.1;host="a.test:81";proto=http')]


def forwarded(fields: list[tuple[str, str]], *, trust: bool, style: ForwardedStyle) -> list[tuple[str, str]]:
    headers = Headers(fields)
    add_forwarded(headers, address="192.0.2.1", scheme="http", host="a.test:81", trust=trust, style=style)
    return headers.items()


@pytest.mark.parametrize(("style", "added"), [("x-forwarded", OURS_X), ("forwarded", OURS), ("both", OURS_X + OURS), ("off", [])])
def test_a_client_that_is_not_trusted_has_its_claims_replaced(style: ForwardedStyle, added: list[tuple[str, str]]) -> None:
    assert forwarded([*CLAIMS, ("A", "1")], trust=False, style=style) == [("A", "1"), *added]


def test_a_trusted_client_has_us_appended_and_its_first_words_kept() -> None:
    chained = dict(forwarded([*CLAIMS, ("Forwarded", "for=7.7.7.7")], trust=True, style="both"))
    assert chained["X-Forwarded-For"] == "6.6.6.6, 192.0.2.1"
    assert chained["X-Forwarded-Proto"] == "https"
    assert chained["X-Forwarded-Host"] == "evil.test"
    assert chained["Forwarded"] == f"for=6.6.6.6, for=7.7.7.7, {OURS[0][1]}"
    assert forwarded([], trust=True, style="both") == OURS_X + OURS


def test_off_leaves_a_trusted_client_alone() -> None:
    assert forwarded(CLAIMS, trust=True, style="off") == CLAIMS


# RFC 7239 §4 and §6
@pytest.mark.parametrize(
    ("address", "plain", "quoted"),
    [
        ("192.0.2.1", "192.0.2.1", "192.0.2.1"),
        ("2001:db8::1", "2001:db8::1", '"[2001:db8::1]"'),
        ("fe80::1%eth0", "fe80::1", '"[fe80::1]"'),
        ("_plugin", "_plugin", "_plugin"),
        (None, "unknown", "unknown"),
        ("/run/socket", "unknown", "unknown"),
        ("a, b", "unknown", "unknown"),
        ("_a;b", "unknown", "unknown"),
    ],
)
def test_an_address_is_written_as_each_field_wants_it(address: str | None, plain: str, quoted: str) -> None:
    headers = Headers()
    add_forwarded(headers, address=address, scheme="https", host=None, by=address or "", trust=False, style="both")
    assert headers.items() == [
        ("X-Forwarded-For", plain),
        ("X-Forwarded-Proto", "https"),
        ("Forwarded", f"for={quoted};by={quoted};proto=https"),
    ]


def test_a_host_cannot_leave_its_quotes() -> None:
    headers = Headers()
    add_forwarded(headers, address=None, scheme="http", host='a";for=6.6.6.6\\', trust=False, style="forwarded")
    assert headers["Forwarded"] == r'for=unknown;host="a\";for=6.6.6.6\\";proto=http'
