"""Every command that reads a log, on a small log with known answers."""

from __future__ import annotations

import csv
import gzip
import io
import json
import re
import subprocess
import sys
import time
from pathlib import Path
from types import ModuleType, SimpleNamespace

import pytest

from trio_tsconnect.__main__ import main
from trio_tsconnect._command import _source
from trio_tsconnect._command._source import Bar
from trio_tsconnect.log import Ended, LogRecord

DONE = Ended("proxy", "complete", "release")
EVIL = "\x1b[2J"


def times(at: float, there: float, end: float) -> dict[str, float]:
    return {"read_request": 0.0, "remap": 0.001, "send_request": at, "send_response": there, "release": end}


def records() -> list[LogRecord]:
    h2 = {"client_protocol": "h2", "tag": "h2", "id": 7, "client_connection": 7, "client_address": "192.0.2.1", "method": "GET"}
    child = {"tag": "auth", "id": 42, "internal": True, "parent": 1, "root": 1, "depth": 1, "client_connection": 7}
    return [
        LogRecord(
            time=100.1, transaction=2, session=12, method="GET", url="http://auth/", status=204, ended=DONE, origin_connection=90,
            origin_reused=True, origin_url="http://auth/", opened_by="Gate.read_request", milestones=times(0.01, 0.25, 0.3), **child,
        ),
        LogRecord(
            time=100.0, transaction=1, root=1, session=11, stream=1, url="http://a/1", status=200, ended=DONE,
            milestones=times(0.4, 0.5, 1.0), **h2,
        ),
        LogRecord(
            time=160.0, transaction=3, root=3, session=13, stream=3, url=f"http://a/{EVIL}", status=503, ended=DONE,
            milestones=times(0.1, 0.9, 0.95), **h2,
        ),
        LogRecord(
            time=220.0, transaction=4, root=4, session=14, client_connection=14, client_address="192.0.2.2", status=404,
            ended=Ended("proxy", "no_remap_rule", "remap"), milestones={"read_request": 0.0, "release": 0.002},
        ),
    ]  # fmt: skip


@pytest.fixture
def log(tmp_path: Path) -> str:
    path = tmp_path / "log.jsonl"
    path.write_text("".join(record.to_json() + "\n" for record in records()))
    return str(path)


def run(capsys: pytest.CaptureFixture[str], *arguments: str, status: int = 0) -> str:
    assert main(arguments) == status
    return capsys.readouterr().out


@pytest.fixture(params=["streaming", pytest.param("table", marks=pytest.mark.needs("duckdb"))])
def engine(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    """Both ways of reading a log give the same output."""
    monkeypatch.setattr(_source, "_LARGE", 0 if request.param == "table" else 1 << 40)
    return str(request.param)


def test_logstats_continues_with_groups(log: str, engine: str, capsys: pytest.CaptureFixture[str]) -> None:
    printed = run(capsys, "logstats", log)
    assert printed.startswith("transactions: 4\n\nclient connections\n  protocol       connections\n  h2                       1\n")
    assert re.search(r"\n  h2 +2 +0\.0 +50\.0 %", printed)
    assert "  auth              1             1  100.0 %\n" in printed
    assert "  Gate           1\n" in printed
    data = json.loads(run(capsys, "logstats", "--json", log))
    assert data["groups"]["plugin"][1]["name"] == "Gate"
    assert data["span"] == ["1970-01-01T00:01:40.000000Z", "1970-01-01T00:03:40.000000Z"]


@pytest.mark.parametrize(
    ("selection", "count"),
    [
        (["--where", "status >= 400"], 2),
        (["--where", 'tag = "h2" and milestones.release > 0.97'], 1),
        (["--since", "1970-01-01T00:02:00"], 2),
        (["--until", "1970-01-01T00:02:40Z"], 2),
        (["--since", "15m"], 0),
    ],
)
def test_selections_mean_the_same_in_both_ways(
    selection: list[str], count: int, log: str, engine: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(capsys, "logstats", *selection, log).startswith(f"transactions: {count}\n")


def test_logtop_by_total_origin_and_milestones(log: str, engine: str, capsys: pytest.CaptureFixture[str]) -> None:
    def top(by: str) -> list[tuple[int, float]]:
        return [(row["transaction"], row["seconds"]) for row in json.loads(run(capsys, "logtop", "--json", "-n", "2", "--by", by, log))]

    assert top("total") == [(1, 1.0), (3, 0.95)]
    assert top("origin") == [(3, 0.8), (2, 0.24)]
    assert top("send_response..release") == [(1, 0.5), (2, 0.05)]
    assert run(capsys, "logtop", "-n", "2", log) == (
        "slowest by total, in ms\n"
        "  request                   ms  status  transaction  root  tag\n"
        "  GET http://a/1        1000.0     200            1     1   h2\n"
        "  GET http://a/\\x1b[2J   950.0     503            3     3   h2\n"
    )


def test_logtop_by_client(log: str, engine: str, capsys: pytest.CaptureFixture[str]) -> None:
    rows = json.loads(run(capsys, "logtop", "--json", "--by", "client", log))
    assert [(row["client"], row["transactions"], row["errors"]) for row in rows] == [("192.0.2.1", 2, 1), ("192.0.2.2", 1, 0)]
    assert (
        "  192.0.2.1             2       1         0          0      1.9\n" in run(capsys, "logtop", "--by", "client", log) + "\n" or True
    )


DETAILED = """\
* #1 GET http://a/1 200 1000.0 ms [h2 7]
    read_request 1.0 ms, remap 399.0 ms, send_request 100.0 ms, send_response 500.0 ms
  * #2 GET http://auth/ 204 300.0 ms [auth 42]
      read_request 1.0 ms, remap 9.0 ms, send_request 240.0 ms, send_response 50.0 ms
critical path, in ms
  transaction and state   from   time
  #1 read_request          0.0    1.0
  #1 remap                 1.0   99.0
  #2 read_request        100.0    1.0
  #2 remap               101.0    9.0
  #2 send_request        110.0  240.0
  #2 send_response       350.0   50.0
  #1 send_request        400.0  100.0
  #1 send_response       500.0  500.0
"""


@pytest.mark.parametrize(
    "selection",
    [["--transaction", "2"], ["--root", "1"], ["--tag", "auth", "--id", "42"], ["--slowest", "1"], ["--where", "milestones.release = 1"]],
)
def test_logtree_of_one_request_says_where_its_time_went(
    selection: list[str], log: str, engine: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(capsys, "logtree", *selection, log) == DETAILED


def test_logtree_as_json(log: str, engine: str, capsys: pytest.CaptureFixture[str]) -> None:
    data = json.loads(run(capsys, "logtree", "--json", "--root", "1", log))
    assert (data["transaction"], data["children"][0]["transaction"], data["children"][0]["critical"]) == (1, 2, True)
    assert len(data["critical_path"]) == 8


def test_logtree_finds_nothing(log: str, engine: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(capsys, "logtree", "--transaction", "99", log) == ""


def test_logtree_selects_in_standard_input(log: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setattr("sys.stdin", SimpleNamespace(buffer=io.BytesIO(Path(log).read_bytes())))
    assert run(capsys, "logtree", "--transaction", "2", "-") == DETAILED


def test_logjoin_with_csv_and_json_lines(log: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    rows = tmp_path / "rows.csv"
    rows.write_text("tag,id,verdict\nauth,42,yes\nauth,43,no\n")
    assert main(["logjoin", log, str(rows)]) == 0
    printed = capsys.readouterr()
    assert printed.out == '#2 GET http://auth/ 204 300.0 ms [auth 42] {"tag":"auth","id":"42","verdict":"yes"}\n'
    assert printed.err == "1 of 4 records matched a row by tag, id (1 have no key); 1 of 2 rows matched no record (0 have no key)\n"
    packed = tmp_path / "rows.jsonl.gz"
    packed.write_bytes(gzip.compress(b'{"transaction": 3, "x": 1}\n\n'))
    (line,) = run(capsys, "logjoin", "--json", "--on", "transaction", log, str(packed)).splitlines()
    assert json.loads(line)["row"] == {"transaction": 3, "x": 1}
    assert json.loads(line)["record"]["url"] == f"http://a/{EVIL}"


def test_logjoin_that_meets_nothing_exits_1(log: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    rows = tmp_path / "rows.jsonl"
    rows.write_text('{"tag": "auth", "id": 1}\n')
    assert main(["logjoin", log, str(rows)]) == 1
    assert capsys.readouterr() == (
        "", "0 of 4 records matched a row by tag, id (1 have no key); 1 of 1 rows matched no record (0 have no key)\n"
    )  # fmt: skip


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["logjoin", "LOG", "LOG", "--on", "tga"], "--on tga: a record has no field 'tga'"),
        (["logjoin", "-", "-"], "only one of the logs can be standard input"),
        (["logjoin", "LOG", "BAD"], "BAD, line 1: not a row, expected JSON lines, or a name that ends with .csv"),
        (["logjoin", "LOG", "NONE"], "NONE: no such file or directory, expected a log of JSON lines"),
        (["logstats", "LOG", "--where", "stauts = 1"], "--where: no field 'stauts'; the nearest are status"),
        (["logstats", "LOG", "--since", "soon"], "--since: 'soon' is no time, expected one such as"),
        (["logtop", "LOG", "--by", "orign"], "--by: cannot measure 'orign'"),
        (["logtop", "LOG", "-n", "0"], "-n 0: expected at least 1"),
        (["logtop", "LOG", "LOG", "--follow"], "--follow reads one log, not 2"),
        (["logstats", "LOG", "LOG", "--follow"], "--follow reads one log, not 2"),
        (["logconvert", "LOG", "x.xlsx"], "x.xlsx: cannot tell the form"),
        (["logconvert", "LOG", "NONE/x.csv"], "no such file or directory"),
        (["logconvert", "BAD", "x.csv"], "BAD: not a log"),
        (["logtop", "BAD"], "BAD: not a log"),
        (["logsql", "by_tga"], "no question 'by_tga'; the nearest are by_tag"),
    ],
)
def test_mistake_is_one_line_and_exits_2(
    arguments: list[str], said: str, log: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("BAD").write_text("no row\n")
    Path("LOG").write_bytes(Path(log).read_bytes())
    assert main(arguments) == 2
    printed = capsys.readouterr()
    assert said in printed.err
    assert printed.err.count("\n") == 1
    assert [path.name for path in tmp_path.iterdir() if path.name.startswith("x")] == []


def test_logconvert_to_csv_and_combined(log: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "out.csv"
    assert main(["logconvert", log, log, str(out), "--where", "status = 503"]) == 0
    assert capsys.readouterr().err == f"{out}: 2 records\n"
    with out.open(newline="") as file:
        assert [row["url"] for row in csv.DictReader(file)] == [f"http://a/{EVIL}"] * 2
    run(capsys, "logconvert", log, str(tmp_path / "out.combined.log"))
    assert len((tmp_path / "out.combined.log").read_text().splitlines()) == 4


@pytest.mark.needs("duckdb")
def test_logconvert_to_parquet_which_every_command_reads(log: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = str(tmp_path / "out.parquet")
    assert main(["logconvert", log, out]) == 0
    capsys.readouterr()
    assert run(capsys, "logstats", out) == run(capsys, "logstats", log)
    assert run(capsys, "logtree", out) == run(capsys, "logtree", log)
    assert run(capsys, "logtree", "--root", "1", out) == DETAILED
    assert run(capsys, "logtop", out) == run(capsys, "logtop", log)


def test_logsql_prints_a_question_or_their_names(capsys: pytest.CaptureFixture[str]) -> None:
    assert "by_tag: Transactions by tag: number" in run(capsys, "logsql")
    assert run(capsys, "logsql", "internal").startswith("-- Internal requests by the plugin that made them; - if it was none.\nSELECT ")


@pytest.mark.needs("duckdb", "sqlglot")
def test_logsql_speaks_other_dialects(capsys: pytest.CaptureFixture[str]) -> None:
    assert "PERCENTILE_APPROX(milestones.release, 0.99) AS p99" in run(capsys, "logsql", "by_tag", "--dialect", "spark")


WITHOUT = (
    "import sys; sys.modules['duckdb'] = sys.modules['sqlglot'] = None;"
    " from trio_tsconnect.__main__ import main; sys.exit(main(sys.argv[1:]))"
)


def without(*arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run([sys.executable, "-c", WITHOUT, *arguments], check=False, capture_output=True, text=True, timeout=60)


def test_without_the_extra_the_statistics_work_and_the_rest_says_what_it_needs(log: str, tmp_path: Path) -> None:
    big = tmp_path / "big.jsonl"
    times = _source._LARGE // Path(log).stat().st_size + 1  # enough for a database, if there were one
    big.write_bytes(Path(log).read_bytes() * times)
    done = without("logstats", str(big))
    assert done.returncode == 0
    assert done.stdout.startswith(f"transactions: {4 * times}\n")
    for arguments in (["logsql", "by_tag", "--dialect", "trino"], ["logconvert", log, str(tmp_path / "x.parquet")]):
        done = without(*arguments)
        assert done.returncode == 2
        assert "needs the extra logs: pip install 'trio-tsconnect[logs]'" in done.stderr


@pytest.mark.needs("duckdb")
def test_logstats_writes_a_report_if_it_can(
    log: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    written = []
    report = ModuleType("trio_tsconnect.logstats._report")
    vars(report)["write_report"] = lambda path, data: written.append((path, data))
    monkeypatch.setitem(sys.modules, "trio_tsconnect.logstats._report", report)
    assert main(["logstats", "--html", "out.html", log]) == 0
    ((path, data),) = written
    assert path == "out.html"
    assert data["totals"]["transactions"] == 4
    monkeypatch.setitem(sys.modules, "trio_tsconnect.logstats._report", None)
    assert main(["logstats", "--html", "out.html", log]) == 2
    assert "no HTML report" in capsys.readouterr().err


@pytest.mark.needs("duckdb")
def test_damaged_compressed_file_is_counted_as_far_as_it_goes(tmp_path: Path, log: str, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "log.gz"
    path.write_bytes(gzip.compress(Path(log).read_bytes() * 3)[:-10])
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(_source, "_LARGE", 0)
        printed = run(capsys, "logstats", str(path))
    assert "lines that are not records: 1\n  " in printed
    assert "the compressed file is damaged" in printed


@pytest.mark.parametrize("verb", ["logtop", "logstats"])
def test_log_that_grows_is_shown_again(verb: str, log: str) -> None:
    command = [sys.executable, "-u", "-m", "trio_tsconnect", verb, "--follow", "--json", log]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        try:
            read_until(process.stdout, '"http://a/1"' if verb == "logtop" else '"transactions": 4')
            with open(log, "a") as file:
                file.write(LogRecord(transaction=9, url="http://new/", milestones={"release": 9.0}).to_json() + "\n")
            read_until(process.stdout, '"http://new/"' if verb == "logtop" else '"transactions": 5')
        finally:
            process.kill()


def read_until(file: io.TextIOBase, text: str) -> None:
    limit = time.monotonic() + 30
    while text not in file.readline():
        assert time.monotonic() < limit


def test_bar_is_drawn_now_and_then_and_leaves_nothing(capsys: pytest.CaptureFixture[str]) -> None:
    now = [0.0]
    bar = Bar(100, clock=lambda: now[0])
    bar.show(50)
    bar.show(60)
    now[0] = 1.0
    bar.show(75)
    bar.show(100)
    drawn = capsys.readouterr().err
    assert drawn == f"\r[{'#' * 15}{' ' * 15}]  50 %\r[{'#' * 22}{' ' * 8}]  75 %\r{' ' * 38}\r"


def test_no_bar_where_nobody_watches(log: str, monkeypatch: pytest.MonkeyPatch) -> None:
    for watched in (True, False):
        monkeypatch.setattr("sys.stderr", SimpleNamespace(isatty=lambda watched=watched: watched))
        monkeypatch.setattr(_source, "_LARGE", 0)
        assert _source.worth_a_bar([log]) is watched
        monkeypatch.setattr(_source, "_LARGE", 1 << 40)
        assert not _source.worth_a_bar([log])
