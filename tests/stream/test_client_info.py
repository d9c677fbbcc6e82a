"""Who a client is, as a value: what it may not say, for it goes into fields and into the log."""

from __future__ import annotations

from typing import Any

import pytest

from trio_tsconnect import ClientInfo


@pytest.mark.parametrize(
    ("wrong", "what"),
    [
        ({"address": "192.0.2.1\r\nX: y"}, "address must be a host"),
        ({"address": ("192.0.2.1\n", 1)}, "address must be a host"),
        ({"address": 7}, "address must be a host"),
        ({"address": "h", "scheme": "ftp"}, "scheme must be http or https, not 'ftp'"),
        ({"address": "h", "scheme": "HTTP"}, "scheme must be http or https"),
        ({"address": "h", "scheme": None}, "scheme must be http or https"),
        ({"address": "h", "protocol": "h2\r\n"}, "protocol must be a str without line breaks"),
        ({"address": "h", "protocol": 2}, "protocol must be a str without line breaks"),
    ],
)
def test_what_would_break_a_line_or_means_nothing_is_refused_where_it_is_said(wrong: dict[str, Any], what: str) -> None:
    with pytest.raises(ValueError, match=what):
        ClientInfo(**wrong)


@pytest.mark.parametrize(("address", "host", "port"), [("192.0.2.1", "192.0.2.1", None), (("::1", 443), "::1", 443)])
def test_an_address_is_a_host_with_or_without_a_port(address: Any, host: str, port: int | None) -> None:
    client = ClientInfo(address=address, scheme="https")
    assert (client.host, client.port) == (host, port)
