"""The Combined Log Format, read by a package that reads the logs of web servers."""

from __future__ import annotations

import math
from datetime import UTC, datetime

import pytest
from apachelogs import COMBINED, LogParser
from hypothesis import given
from hypothesis import strategies as st

from trio_tsconnect.log import LogRecord, combined
from trio_tsconnect.logstats import read_records

PARSER = LogParser(COMBINED)
SOUND = LogRecord(time=784111777.5, client_address="2001:db8::1", method="GET", url="http://site.test/a?b", status=200, response_bytes=5)


def test_a_parser_of_such_logs_finds_everything_where_it_belongs() -> None:
    entry = PARSER.parse(combined(SOUND))
    assert entry.remote_host == "2001:db8::1"
    assert entry.request_time == datetime(1994, 11, 6, 8, 49, 37, tzinfo=UTC)
    assert entry.request_line == "GET http://site.test/a?b HTTP/1.1"
    assert (entry.final_status, entry.bytes_sent) == (200, 5)
    assert entry.headers_in == {"Referer": None, "User-Agent": None}


def test_what_is_absent_is_a_dash() -> None:
    entry = PARSER.parse(combined(LogRecord()))
    assert (entry.remote_host, entry.request_line, entry.final_status, entry.bytes_sent) == ("-", None, None, None)


@pytest.mark.parametrize(("protocol", "version"), [("h2", "HTTP/2.0"), ("http/1.0", "HTTP/1.0"), ("http/1.1", "HTTP/1.1")])
def test_the_version_is_the_clients(protocol: str, version: str) -> None:
    record = LogRecord(method="GET", url="/", client_protocol=protocol)
    assert PARSER.parse(combined(record)).request_line == f"GET / {version}"


@given(
    method=st.text(min_size=1),
    url=st.none() | st.text(),
    address=st.none() | st.text(),
    status=st.none() | st.integers(100, 599),
    size=st.integers(0, 1 << 70),
    time=st.floats(),
)
def test_one_record_is_one_line_whatever_a_client_sent(
    method: str, url: str | None, address: str | None, status: int | None, size: int, time: float
) -> None:
    line = combined(LogRecord(time=time, client_address=address, method=method, url=url, status=status, response_bytes=size))
    assert line.isascii()
    assert line.isprintable()
    if not _far_from_now(time):  # the parser knows the years of four digits
        assert PARSER.parse(line).final_status == status


def _far_from_now(time: float) -> bool:
    return 1e10 < abs(time) < math.inf


@pytest.mark.parametrize("url", ['/"', "/\\", "/\n", "/a b", "/é", "/\x00\x7f"])
def test_the_request_line_is_read_back_as_it_was(url: str) -> None:
    entry = PARSER.parse(combined(LogRecord(method="GET", url=url)))
    assert entry.request_line.encode("latin-1").decode() == f"GET {url} HTTP/1.1"


def test_a_record_that_was_read_from_a_log_makes_the_same_line(tmp_path):
    record = LogRecord(
        transaction=1,
        time=784111777.25,
        client_address="192.0.2.1",
        method="GET",
        url="http://a/\x7f",
        status=200,
        response_bytes=5,
        client_protocol="h2",
    )
    log = tmp_path / "log"
    log.write_text(record.to_json() + "\n" + LogRecord(transaction=2, time=784111777.0).to_json() + "\n")
    first, second = read_records(log)
    assert combined(first) == combined(record)
    assert combined(second) == combined(LogRecord(time=784111777.0))
    assert combined({"time": "never"}).startswith("- - - [01/Jan/1970:00:00:00 +0000]")
