"""Spellings by which a message once got around a rule."""

from __future__ import annotations

import pytest

from trio_tsconnect.message import FORBIDDEN_IN_TRAILERS, Headers, add_via, parse_authority, via_names


@pytest.mark.parametrize("claimed", ["1.0 x (", "1.1 a, 1.0 b (c", "1.0 x (a\\"])
def test_a_comment_that_is_not_closed_does_not_hide_who_comes_after_it(claimed: str) -> None:
    headers = Headers([("Via", claimed)])
    add_via(headers, "1.1", "us")
    assert "us" in via_names(headers)


def test_the_dot_at_the_end_of_a_name_makes_no_other_host() -> None:
    assert parse_authority("Secret.Example.:8080") == ("secret.example", 8080)


def test_what_is_claimed_of_the_client_is_no_trailer() -> None:
    assert {b"x-real-ip", b"x-forwarded-port", b"x-forwarded-by", b"x-forwarded-for", b"forwarded"} <= FORBIDDEN_IN_TRAILERS
