"""Reading logs back."""

from __future__ import annotations

import gzip
import io
import json
import sys
import types

import pytest

from trio_tsconnect.log import LogRecord
from trio_tsconnect.logstats import read_records


def lines(*numbers: int) -> str:
    return "".join(LogRecord(transaction=number).to_json() + "\n" for number in numbers)


def numbers(records):
    return [record["transaction"] for record in records]


def test_reads_files_one_after_another_plain_and_compressed(tmp_path):
    (tmp_path / "a").write_text(lines(1, 2))
    (tmp_path / "b.gz").write_bytes(gzip.compress(lines(3).encode()))
    assert numbers(read_records(tmp_path / "a", str(tmp_path / "b.gz"))) == [1, 2, 3]


def test_reads_standard_input(monkeypatch):
    monkeypatch.setattr(sys, "stdin", types.SimpleNamespace(buffer=io.BytesIO(lines(1).encode())))
    assert numbers(read_records("-")) == [1]


def test_a_record_comes_back_as_it_is_by_its_json_names(tmp_path):
    record = LogRecord(transaction=1, url="/\x00\xff", milestones={"a": 0.25}, plugin={"p": {"n": 1}})
    (tmp_path / "log").write_text(record.to_json() + "\n")
    assert list(read_records(tmp_path / "log")) == [record.as_dict()]


@pytest.mark.parametrize(
    ("line", "offence"),
    [
        (b"{", "not JSON"),
        (b"\xff\xfe", "not JSON"),
        (b"[" * 100_000, "not JSON"),
        (b"[1]", "not a JSON object"),
        (b'{"a": 1}', "no field 'transaction'"),
    ],
    ids=["torn", "encoding", "deep", "array", "foreign"],
)
def test_a_line_that_is_no_record_is_named_or_counted(tmp_path, line, offence):
    path = tmp_path / "log"
    path.write_bytes(lines(1).encode() + line + b"\n" + lines(2).encode())
    with pytest.raises(ValueError, match=offence) as raised:
        list(read_records(path))
    assert str(raised.value).startswith(f"{path}, line 2: ")
    records = read_records(path, on_error="skip")
    assert numbers(records) == [1, 2]
    assert records.skipped == 1


def test_a_damaged_compressed_file_is_named_or_counted(tmp_path):
    path = tmp_path / "log.gz"
    path.write_bytes(gzip.compress(lines(1).encode())[:-20])
    with pytest.raises(ValueError, match=r"log\.gz, line 1: the compressed file is damaged"):
        list(read_records(path))
    path.write_bytes(b"plain")
    records = read_records(path, on_error="skip")
    assert list(records) == []
    assert records.skipped == 1


def test_lines_about_dropped_records_are_no_records_and_add_up(tmp_path):
    path = tmp_path / "log"
    gap = json.dumps({"dropped": 3, "time": "2026-01-01T00:00:00.000000Z"}) + "\n"
    path.write_text(lines(1) + gap + "\n  \n" + lines(2) + gap)
    records = read_records(path)
    assert numbers(records) == [1, 2]
    assert records.dropped == 6


def test_a_missing_file_is_an_os_error(tmp_path):
    with pytest.raises(FileNotFoundError):
        list(read_records(tmp_path / "none"))


def test_an_unknown_way_to_treat_errors_is_refused():
    with pytest.raises(ValueError, match="on_error"):
        read_records(on_error="ignore")  # type: ignore[arg-type]
