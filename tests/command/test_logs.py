from __future__ import annotations

import io
import json
from pathlib import Path
from types import SimpleNamespace

import pytest

from trio_tsconnect.__main__ import main
from trio_tsconnect.log import Ended, LogRecord

H2 = {"tag": "h2", "client_protocol": "h2", "status": 200, "method": "GET", "ended": Ended("origin", "complete", "release")}


def write_log(log: Path) -> Path:
    records = [
        LogRecord(
            transaction=1, session=11, client_connection=7, stream=1, id=7, url="http://a.example/1", milestones={"release": 0.0032}, **H2
        ),
        LogRecord(transaction=2, session=12, client_connection=7, stream=3, id=7, url="http://a.example/2", **H2),
        LogRecord(
            transaction=3, session=13, parent=1, root=1, depth=1, tag="auth", id=-4, internal=True, method="POST", url="/check", status=403
        ),
        LogRecord(
            transaction=4, session=14, client_connection=14, method=None, url="/\x1b[2J", status=400, ended=Ended("client", "bad", "read")
        ),
    ]
    log.write_text("".join(record.to_json() + "\n" for record in records))
    return log


def test_logstats_counts_connections_and_streams(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["logstats", "--json", str(write_log(tmp_path / "log"))]) == 0
    counts = json.loads(capsys.readouterr().out)
    assert counts["transactions"] == 4
    assert counts["client_connections"] == {"h2": 1, "http/1.1": 1, "internal/auth": 1}
    assert counts["http2_streams"]["per_connection"] == {"7": 2}
    assert counts["statuses"]["h2"] == {"2xx": 2}


def test_logstats_prints_tables_for_people(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    log = str(write_log(tmp_path / "log"))
    assert main(["logstats", log, log]) == 0
    printed = capsys.readouterr().out
    assert "transactions: 8\n" in printed
    assert "HTTP/2 streams per client connection: 4 on 2 (min 2, median 2, max 2)" in printed


def test_logstats_reads_standard_input(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    content = write_log(tmp_path / "log").read_bytes()
    monkeypatch.setattr("sys.stdin", SimpleNamespace(buffer=io.BytesIO(content)))
    assert main(["logstats", "-"]) == 0
    assert capsys.readouterr().out.startswith("transactions: 4\n")


def test_line_that_is_still_being_written_is_counted_and_hides_nothing(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    log = write_log(tmp_path / "log")
    with log.open("a") as file:
        file.write('{"dropped": 5, "time": null}\n{"time": "20')
    assert main(["logstats", str(log)]) == 0
    printed = capsys.readouterr().out
    assert "transactions: 4\n" in printed
    assert "records dropped by the log, not counted above: 5\n" in printed
    assert "lines that are not records: 1\n" in printed
    assert main(["logtree", str(log)]) == 0
    assert capsys.readouterr().err == "records dropped by the log, not counted above: 5\nlines that are not records: 1\n"


@pytest.mark.parametrize("verb", ["logstats", "logtree"])
def test_file_that_is_no_log_exits_2_with_one_line(verb: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    log = tmp_path / "log"
    log.write_text("root:x:0:0\nbin:x:1:1\n")
    assert main([verb, str(log)]) == 2
    assert capsys.readouterr() == ("", f"tsconnect: {log}: not a log: none of its 2 lines is a record, expected JSON lines\n")


@pytest.mark.parametrize("verb", ["logstats", "logtree"])
def test_file_that_cannot_be_read_exits_2_with_one_line(verb: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main([verb, str(tmp_path)]) == 2
    assert capsys.readouterr() == ("", f"tsconnect: {tmp_path}: is a directory, expected a log of JSON lines\n")


def test_logtree_shows_causes_and_lets_no_stranger_steer_the_terminal(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["logtree", str(write_log(tmp_path / "log"))]) == 0
    assert capsys.readouterr().out.splitlines() == [
        "#1 GET http://a.example/1 200 3.2 ms [h2 7]",
        "  #3 POST /check 403 [auth -4] (proxy: unknown in unknown)",
        "#2 GET http://a.example/2 200 [h2 7]",
        "#4 - /\\x1b[2J 400 (client: bad in read)",
    ]


@pytest.mark.parametrize(
    "field",
    [
        '"transaction":[]',
        '"transaction":"1"',
        '"transaction":1,"parent":[1]',
        '"transaction":1,"milestones":{"a":"b"}',
        '"transaction":1,"time":[]',
    ],
)
@pytest.mark.parametrize("command", ["logtree", "logstats"])
def test_record_whose_fields_are_of_no_kind_that_a_log_has_is_none(
    field: str, command: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "log").write_text("{" + field + "}\n")
    assert main([command, str(tmp_path / "log")]) == 2
    said = capsys.readouterr().err
    assert said.count("\n") == 1
    assert "none of its 1 lines is a record" in said
