"""Rotation: by size and by time, under load, with faults; every line is whole and in exactly one file."""

from __future__ import annotations

import errno
import gzip
import json
import os
import shutil
import time
from pathlib import Path

import pytest
import trio
from hypothesis import given
from hypothesis import strategies as st

from trio_tsconnect.log import LineLog, LogRecord, Rotation, open_line_log
from trio_tsconnect.log._rotate import RotatingFile, predecessors


async def until(condition) -> None:
    bound = time.monotonic() + 60
    while not condition():
        assert time.monotonic() < bound, "it never came true"
        await trio.lowlevel.checkpoint()


def text_of(path: Path) -> bytes:
    return gzip.decompress(path.read_bytes()) if path.suffix == ".gz" else path.read_bytes()


def lines_of(path: Path) -> list[bytes]:
    return [line + b"\n" for line in b"".join(text_of(each) for each in [*predecessors(path), path]).split(b"\n")[:-1]]


def put(file: RotatingFile, *lines: bytes) -> None:
    data = b"".join(lines)
    assert file.append(memoryview(data)) == (len(data), None)


async def test_five_rotations_under_load_lose_no_record_and_repeat_none(tmp_path: Path, autojump_clock) -> None:
    path, count = tmp_path / "log", 3000
    size = len(LogRecord(transaction=1000).to_json()) + 1
    log = open_line_log(str(path), rotation=Rotation(size=size * count // 6 + size, keep=None, compress=True), flush_interval=0)
    assert isinstance(log, LineLog)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(log.run)
        for number in range(count):
            log.write(LogRecord(transaction=number))
            if number % 100 == 0:
                await until(lambda number=number: log.written >= number - 200)
        log.close()
    assert len(predecessors(path)) >= 5
    packer = log._sink._packer  # type: ignore[attr-defined]
    await trio.to_thread.run_sync(packer.join)
    assert [json.loads(line)["transaction"] for line in lines_of(path)] == list(range(count))
    assert (log.written, log.dropped) == (count, 0)


def test_a_file_is_never_larger_than_it_may_be_but_for_one_long_line(tmp_path: Path) -> None:
    file = RotatingFile(tmp_path / "log", Rotation(size=10, keep=None))
    put(file, b"1234\n", b"1234\n", b"1234\n", b"a line that is longer\n", b"1\n", b"2\n")
    assert [text_of(each) for each in predecessors(tmp_path / "log")] == [b"1234\n1234\n", b"1234\n", b"a line that is longer\n"]
    assert (tmp_path / "log").read_bytes() == b"1\n2\n"
    file.close()


@given(st.lists(st.binary(max_size=30).map(lambda text: text.replace(b"\n", b"") + b"\n"), max_size=30), st.integers(1, 60), st.data())
def test_every_line_is_whole_in_one_file_whatever_the_pieces(tmp_path_factory, lines: list[bytes], size: int, data) -> None:
    path = tmp_path_factory.mktemp("d") / "log"
    whole = b"".join(lines)
    cut = data.draw(st.integers(0, len(whole)))
    file = RotatingFile(path, Rotation(size=size, keep=None))
    try:
        for piece in (whole[:cut], whole[cut:]):  # an interrupted write is continued within a line
            put(file, piece)
    finally:
        file.close()
    assert lines_of(path) == lines
    for each in [*predecessors(path), path]:
        text = each.read_bytes()
        assert text == b"" or text.endswith(b"\n")
        assert len(text[:-1].rpartition(b"\n")[0]) < size  # the last line may have begun before its whole length was known


def test_a_file_is_replaced_when_its_period_is_over(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    now = 1000.0
    monkeypatch.setattr("trio_tsconnect.log._rotate.time.time", lambda: now)
    file = RotatingFile(tmp_path / "log", Rotation(every=100, keep=None))
    put(file, b"a\n")
    now = 1099.0
    put(file, b"b\n")
    now = 1100.0
    put(file, b"c\n")
    assert [text_of(each) for each in predecessors(tmp_path / "log")] == [b"a\nb\n"]
    put(file, b"d\n")
    assert len(predecessors(tmp_path / "log")) == 1
    file.close()


def test_a_file_of_an_earlier_period_is_replaced_by_the_next_process(tmp_path: Path) -> None:
    path = tmp_path / "log"
    path.write_bytes(b"old\n")
    os.utime(path, (1000, 1000))
    file = RotatingFile(path, Rotation(every=86400))
    put(file, b"new\n")
    file.close()
    assert [text_of(each) for each in [*predecessors(path), path]] == [b"old\n", b"new\n"]


def test_only_so_many_are_kept(tmp_path: Path) -> None:
    other = tmp_path / "log.mine"
    other.write_bytes(b"not one of them")
    file = RotatingFile(tmp_path / "log", Rotation(size=1, keep=2))
    put(file, *(b"%d\n" % number for number in range(6)))
    file.close()
    assert lines_of(tmp_path / "log") == [b"3\n", b"4\n", b"5\n"]
    assert other.exists()


def test_a_compression_that_was_cut_off_is_done_at_the_next_rotation(tmp_path: Path) -> None:
    path = tmp_path / "log"
    left = tmp_path / "log.20200101T000000.000000Z"
    left.write_bytes(b"left\n")
    left.with_name(f"{left.name}.part").write_bytes(b"half")
    file = RotatingFile(path, Rotation(size=1, keep=None, compress=True))
    put(file, b"1\n", b"2\n")
    assert file._packer is not None
    file._packer.join()
    file.close()
    assert not left.exists()
    assert lines_of(path) == [b"left\n", b"1\n", b"2\n"]
    assert not list(tmp_path.glob("*.part"))


def test_a_directory_that_vanishes_costs_no_line_that_is_not_told(tmp_path: Path) -> None:
    home = tmp_path / "d"
    home.mkdir()
    file = RotatingFile(home / "log", Rotation(size=3, keep=None))
    put(file, b"1\n")
    shutil.rmtree(home)
    count, error = file.append(memoryview(b"2\n3\n"))
    assert count == 0
    assert isinstance(error, FileNotFoundError)
    home.mkdir()
    put(file, b"2\n3\n")
    file.close()
    assert lines_of(home / "log") == [b"2\n", b"3\n"]


def test_a_file_that_cannot_be_renamed_stays_in_use(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys) -> None:
    def rename(self, to) -> None:
        raise PermissionError(errno.EACCES, "Permission denied")

    file = RotatingFile(tmp_path / "log", Rotation(size=4, keep=None))
    with monkeypatch.context() as patched:
        patched.setattr(Path, "rename", rename)
        put(file, b"1\n", b"2\n", b"3\n")
    assert "stays in use" in capsys.readouterr().err
    assert (tmp_path / "log").read_bytes() == b"1\n2\n3\n"
    put(file, b"4\n", b"5\n")
    file.close()
    assert lines_of(tmp_path / "log") == [b"1\n", b"2\n", b"3\n", b"4\n", b"5\n"]
    assert len(predecessors(tmp_path / "log")) == 1


def test_a_device_is_not_rotated() -> None:
    file = RotatingFile("/dev/null", Rotation(size=1))
    put(file, b"1\n", b"2\n")
    file.close()


def test_two_rotations_in_one_microsecond_have_two_names(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("trio_tsconnect.log._rotate.time.time", lambda: 1000.0)
    file = RotatingFile(tmp_path / "log", Rotation(size=1, keep=None))
    put(file, *(b"%d\n" % number for number in range(4)))
    file.close()
    assert lines_of(tmp_path / "log") == [b"0\n", b"1\n", b"2\n", b"3\n"]


async def test_reopening_goes_on_in_a_new_file(tmp_path: Path, autojump_clock) -> None:
    path = tmp_path / "log"
    log = open_line_log(str(path), rotation=Rotation(size=10**6), flush_interval=0)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(log.run)
        log.write(LogRecord(transaction=1))
        await until(lambda: log.written == 1)
        path.rename(tmp_path / "moved")
        log.reopen()
        log.write(LogRecord(transaction=2))
        log.close()
    assert json.loads(path.read_bytes())["transaction"] == 2


def test_a_file_that_was_opened_again_leaves_rotation_to_the_new_one(tmp_path: Path) -> None:
    path = tmp_path / "log"
    file = RotatingFile(path, Rotation(size=2, keep=None))
    put(file, b"1\n")
    fresh = file.reopened()
    put(file, b"2\n", b"3\n")
    assert predecessors(path) == []
    put(fresh, b"4\n")
    assert [text_of(each) for each in predecessors(path)] == [b"1\n2\n3\n"]
    assert path.read_bytes() == b"4\n"
    file.close()
    fresh.close()
