"""Formats: each record is one line that its readers can take apart, and a wrong format says what is near."""

from __future__ import annotations

import codecs
import json
import re

import attrs
import pytest
from apachelogs import COMBINED, COMMON, LogParser
from hypothesis import given
from hypothesis import strategies as st

from trio_tsconnect.hooks import State
from trio_tsconnect.log import CODES, FIELDS, FORMATS, Ended, FormatError, LogRecord, combined, make_format
from trio_tsconnect.log._fields import MILESTONES

SOUND = LogRecord(
    time=784111777.25,
    client_address="192.0.2.1",
    client_port=4711,
    transaction=7,
    root=7,
    method="GET",
    url="http://site.test/a?secret=1",
    origin_url="https://origin.test:8443/b?secret=1",
    status=200,
    origin_status=200,
    origin_connection=3,
    origin_address="[2001:db8::2]:8443",
    request_head_bytes=100,
    response_bytes=5,
    response_head_bytes=60,
    milestones={"read_request": 0.0, "remap": 0.001, "send_response": 0.0034, "release": 0.01},
    ended=Ended("proxy", "complete", "release"),
    referer="http://from.test/?secret=1",
    user_agent='an "agent"',
    host="site.test",
    response_headers={"content-type": "text/plain", "set-cookie": "secret"},
    request_headers={"user-agent": 'an "agent"', "authorization": "secret", "referer": "http://from.test/?secret=1"},
)
_hostile = (
    st.none()
    | st.text(st.characters(categories=None))
    | st.sampled_from(["", "-", '"', "\\", "a b", "\n", "\t", "]", "\x00\x7f", "é\u2028"])
)


def written(name: str, record: LogRecord = SOUND, **options) -> str:
    line = make_format(name, **options).encode(record).decode("ascii")
    assert line.endswith("\n")
    text = line[:-1]
    assert re.fullmatch(r"[ -~\t]*", text)
    return text


def test_every_field_of_a_record_has_one_row_and_a_known_type() -> None:
    assert [field.name for field in FIELDS] == [field.name for field in attrs.fields(LogRecord)]
    codes = [code for field in FIELDS for code in field.codes] + [code.code for code in CODES]
    assert len(codes) == len(set(codes))
    assert [*MILESTONES, "closed"] == [state.value for state in State]


def test_squid_is_that_of_traffic_server() -> None:
    line = "784111777.250 10 192.0.2.1 TCP_MISS/200 65 GET http://site.test/a - DIRECT/origin.test text/plain"
    assert written("squid") == line


def test_common_and_combined_are_read_by_a_parser_of_such_logs() -> None:
    entry = LogParser(COMMON).parse(written("common"))
    assert (entry.remote_host, entry.request_line, entry.final_status, entry.bytes_sent) == (
        "192.0.2.1",
        "GET http://site.test/a HTTP/1.1",
        200,
        5,
    )
    entry = LogParser(COMBINED).parse(written("combined"))
    assert entry.headers_in == {"Referer": "http://from.test/", "User-Agent": 'an "agent"'}


def test_a_query_string_is_written_in_json_or_if_the_log_is_told_to() -> None:
    for name in (*FORMATS, "%<cqtx> %<cquuc> %<cquc> %<cqu> %<pqu> %<referer> %<{Referer}cqh>"):
        assert ("secret" in written(name, response_headers=["set-cookie"])) is (name in ("json", "otel"))
        assert "secret" in written(name, query=True) or name in ("squid", "common") == False
        assert "secret" not in written(name, query=False)


def test_ltsv_is_labels_and_values() -> None:
    fields = dict(part.split(":", 1) for part in written("ltsv").split("\t"))
    assert (fields["host"], fields["status"], fields["ua"], fields["reqtime"]) == ("192.0.2.1", "200", 'an \\"agent\\"', "0.010")
    assert fields["time"] == "[06/Nov/1994:08:49:37 +0000]"


def test_otel_has_the_names_of_the_conventions() -> None:
    fields = json.loads(written("otel", request_headers=["Authorization", "User-Agent"]))
    assert fields["http.request.method"] == "GET"
    assert fields["http.response.status_code"] == 200
    assert (fields["url.path"], fields["url.query"], fields["server.address"]) == ("/a", "secret=1", "site.test")
    assert (fields["network.peer.address"], fields["network.peer.port"]) == ("2001:db8::2", 8443)
    assert fields["http.request.header.authorization"] == ["[redacted]"]
    assert "error.type" not in fields
    assert None not in fields.values()


def test_a_missing_status_is_null_in_json_and_a_dash_in_text() -> None:
    record = attrs.evolve(SOUND, status=None, ended=Ended("client", "client_gone", "remap"))
    assert json.loads(written("json", record))["status"] is None
    assert json.loads(written("otel", record))["error.type"] == "client_gone"
    assert LogParser(COMMON).parse(written("common", record)).final_status is None
    assert "ERR_CLIENT_ABORT/-" in written("squid", record)
    assert "\tstatus:-\t" in written("ltsv", record)
    assert written("%<pssc>", record) == "-"


@pytest.mark.parametrize(
    ("text", "line"),
    [
        ("%<chi> %<chp>", "192.0.2.1 4711"),
        ("%<cqtd> %<cqtt> %<cqts> %<cqth> %<cqtq>", "1994-11-06 08:49:37 784111777 2EBC98A1 784111777.250"),
        ("[%<cqtn>]", "[06/Nov/1994:08:49:37 +0000]"),
        ("%<ttms> %<ttmsh> %<ttmsf> %<tts>", "10 A 0.010 0"),
        ("%<cqus> %<cquuh> %<cquup> %<cqup> %<shn> %<shi> %<nhi> %<nhp>", "http site.test /a /b origin.test 2001:db8::2 2001:db8::2 8443"),
        ("%<cqql> %<psql> %<cqhl> %<pshl> %<pscl>", "100 65 100 60 5"),
        ("%<cqhv> %<cqpv> %<cqssl> %<cqint> %<sstc> %<cfsc> %<crc> %<phr> %<caun>", "HTTP/1.1 HTTP/1.1 0 0 - FIN TCP_MISS DIRECT -"),
        ("%<{send_response-remap}ms> %<{remap}ms> %<{tunnel}ms> %<{release-remap}msdms>", "2.400 1.000 - 9.000"),
        ("%<{Content-Type}psh> %<psct> %<{X}cqh>", "text/plain text/plain -"),
        ("%<{authorization}cqh> %<{Set-Cookie}psh>", "[redacted] [redacted]"),
        ("%<ended.why> %<milestones.remap> %<transaction> %<time>", "complete 0.001 7 1994-11-06T08:49:37.250000Z"),
        ('"%<user_agent>"|%<user_agent>|', '"an \\"agent\\""|an \\"agent\\"|'),
        ("no code but %<crid>%", "no code but 7%"),
    ],
)
def test_codes_write_what_the_manual_says(text: str, line: str) -> None:
    assert written(text) == line


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("jsn", 'unknown format "jsn"; did you mean "json"?'),
        ("", 'or a format string such as "%<chi> %<cqtx>"'),
        ("%<chj>", 'unknown code %<chj>; did you mean "chp"?'),
        ("%<statsu>", 'unknown code %<statsu>; did you mean "status"?'),
        ("%<ended.whi>", 'unknown field ended.whi; did you mean "why"?'),
        ("%<status.x>", "unknown code %<status.x>"),
        ("%<{send_respnse}ms>", 'did you mean "send_response"?'),
        ("%<{remap}msdms>", "unknown milestone ''"),
        ("%<{a b}cqh>", "does not name a field"),
        ("%<{a}cqhh>", 'did you mean "cqh"?'),
        ("%<cqh>", "needs a name, such as %<{User-Agent}cqh>"),
        ("%<ms>", "needs a name, such as %<{send_response-remap}ms>"),
        ("ok %<chi", "position 4: the code is not complete"),
        ("%<chi>\n", "cannot be in a line"),
    ],
)
def test_a_wrong_format_says_what_is_near(text: str, problem: str) -> None:
    with pytest.raises(FormatError) as caught:
        make_format(text)
    assert problem in str(caught.value)


def test_a_format_asks_for_the_fields_that_it_writes() -> None:
    form = make_format("%<{X-A}cqh> %<request_headers.x-b> %<{X-C}psh>", request_headers=["X-D"])
    assert (form.request_headers, form.response_headers) == ({"x-a", "x-b", "x-d"}, {"x-c"})
    assert make_format("squid").response_headers == {"content-type"}


def test_a_log_shows_only_the_fields_that_it_has_selected() -> None:
    assert "request_headers" not in json.loads(written("json"))
    shown = json.loads(written("json", request_headers=["User-Agent", "Authorization"], redact=["user-agent"]))
    assert shown["request_headers"] == {"user-agent": "[redacted]", "authorization": "secret"}
    assert shown["user_agent"] == "[redacted]"
    assert SOUND.user_agent == 'an "agent"'


EVERY = [field.name for field in FIELDS if not field.name.endswith("_headers")] + [code.code for code in CODES]


@given(st.data())
def test_a_line_with_every_field_is_taken_apart_again_whatever_is_in_it(data) -> None:
    texts = [field.name for field in FIELDS if field.kind == "text" and field.name != "client_protocol"]
    record = attrs.evolve(SOUND, plugin={"p": data.draw(_hostile)}, **{name: data.draw(_hostile, label=name) for name in texts})
    separator = data.draw(st.sampled_from(["\t", " ", "|", ";"]))
    line = written(separator.join(f"%<{name}>" for name in EVERY), record, query=True)
    if separator != " ":  # some values of the proxy's own have spaces: times and request lines do not, but cqtn has
        assert len(line.split(separator)) == len(EVERY)
        values = dict(zip(EVERY, line.split(separator), strict=True))
        for name in texts:
            assert unescaped(values[name]) == (getattr(record, name) or "-")
    quoted = written(" ".join(f'"%<{name}>"' for name in EVERY), record, query=True)
    found = re.findall(r'"((?:[^"\\]|\\.)*)"', quoted)
    assert [unescaped(value) for value, name in zip(found, EVERY, strict=True) if name in texts] == [
        getattr(record, name) or "-" for name in texts
    ]


def unescaped(text: str) -> str:
    return codecs.escape_decode(text.encode())[0].decode("utf-8", "surrogatepass")  # type: ignore[attr-defined]


@given(_hostile, _hostile, _hostile, st.sampled_from(FORMATS))
def test_one_record_is_one_line_in_every_format(url, agent, tag, name: str) -> None:
    record = attrs.evolve(SOUND, url=url, user_agent=agent, referer=agent, tag=tag, method=tag, request_headers={"x": agent or ""})
    line = written(name, record, query=True)
    if name == "combined":
        entry = LogParser(COMBINED).parse(line)
        if agent not in ("-", "", None) and agent.isascii():
            assert entry.headers_in["User-Agent"] == agent
    elif name == "squid":
        assert len(line.split(" ")) == 10
    elif name == "ltsv":
        assert len(line.split("\t")) == 20
    elif name in ("json", "otel"):
        json.loads(line)


def test_combined_of_a_dict_is_that_of_the_record() -> None:
    fields = json.loads(SOUND.to_json())
    assert combined(fields) == combined(SOUND)
    assert combined({"ended": 5, "milestones": 5, "time": None}) == combined(LogRecord())


@pytest.mark.parametrize("name", FORMATS)
def test_a_gap_is_one_line_that_says_how_many(name: str) -> None:
    gap = make_format(name).gap(12, 784111777.0).decode()
    assert gap.count("\n") == 1
    assert "12" in gap
    assert "1994-11-06T08:49:37" in gap
