"""The writer task: batches, bounds, faults, and the end."""

from __future__ import annotations

import errno
import io
import json
import math
import os
import select
import sys
import threading
import time
from collections.abc import Callable

import pytest
import trio
from trio.testing import wait_all_tasks_blocked

from trio_tsconnect.log import Format, JsonLinesLog, LineLog, LogRecord, MemoryLog, StderrLog, _sink, _writer


class Disk(io.RawIOBase):
    """A file in memory that counts its writes, and does with each what `script` says: a number of bytes to take, or an error to raise."""

    def __init__(self, *script: int | BaseException) -> None:
        self.data = b""
        self.writes = 0
        self.script = list(script)

    def writable(self) -> bool:
        return True

    def write(self, data) -> int:
        self.writes += 1
        step = self.script.pop(0) if self.script else len(data)
        if isinstance(step, BaseException):
            raise step
        self.data += bytes(data[:step])
        return min(step, len(data))

    def lines(self) -> list[dict]:
        assert self.data == b"" or self.data.endswith(b"\n")
        return [json.loads(line) for line in self.data.splitlines()]

    def numbers(self) -> list[int | str]:
        return [line.get("transaction", f"{line.get('dropped')} dropped") for line in self.lines()]


class SlowDisk(Disk):
    """A disk on which a write takes until `let_go` is set."""

    def __init__(self) -> None:
        super().__init__()
        self.entered = threading.Event()
        self.let_go = threading.Event()

    def write(self, data) -> int:
        self.entered.set()
        assert self.let_go.wait(60)
        return super().write(data)


def full() -> OSError:
    return OSError(errno.ENOSPC, "No space left on device")


def write(log, *numbers: int) -> None:
    for number in numbers:
        log.write(LogRecord(transaction=number))


async def until(condition: Callable[[], object]) -> None:
    """Until `condition` holds; only threads are waited for, so no time passes on the test's clock."""
    bound = time.monotonic() + 60
    while not condition():
        assert time.monotonic() < bound, "it never came true"
        await trio.lowlevel.checkpoint()


async def written(log, count: int) -> None:
    await until(lambda: log.written >= count)


async def past_failure(clock, disk: Disk, count: int) -> None:
    """Until the disk's write number `count` failed and the next is due; a clock that jumps by itself would not wait for the thread."""
    await until(lambda: disk.writes >= count and trio.lowlevel.current_statistics().seconds_to_next_deadline < math.inf)
    clock.jump(1)


async def seen(event: threading.Event) -> None:
    assert await trio.to_thread.run_sync(event.wait, 60)


# ---- batches and time ------------------------------------------------------------------------------------------------------------


async def test_what_is_pending_goes_out_in_one_write(autojump_clock):
    disk = Disk()
    log = JsonLinesLog(disk)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(log.run)
        await wait_all_tasks_blocked()
        write(log, *range(1, 501))
        log.close()
    assert disk.numbers() == list(range(1, 501))
    assert disk.writes == 1
    assert (log.written, log.dropped) == (500, 0)


async def test_a_record_is_written_when_the_flush_interval_is_over_and_not_before(mock_clock, nursery):
    disk = Disk()
    log = JsonLinesLog(disk, flush_interval=0.2)
    nursery.start_soon(log.run)
    await wait_all_tasks_blocked()
    write(log, 1)
    await wait_all_tasks_blocked()
    mock_clock.jump(0.15)
    write(log, 2)
    await wait_all_tasks_blocked()
    assert disk.writes == 0
    mock_clock.jump(0.05)
    await written(log, 2)
    assert disk.writes == 1
    log.close()


async def test_a_record_that_came_during_a_write_is_not_later_than_the_interval_either(mock_clock, nursery):
    disk = SlowDisk()
    log = JsonLinesLog(disk, flush_interval=0.2)
    nursery.start_soon(log.run)
    write(log, 1)
    await wait_all_tasks_blocked()
    mock_clock.jump(0.2)
    await seen(disk.entered)
    write(log, 2)
    mock_clock.jump(0.15)
    disk.let_go.set()
    await written(log, 1)
    await wait_all_tasks_blocked()
    mock_clock.jump(0.05)  # 0.2 s after it was written, although the writer was busy for most of them
    await written(log, 2)
    log.close()


async def test_an_idle_log_sets_no_timer_and_wakes_nobody(mock_clock, nursery):
    log = JsonLinesLog(Disk())
    nursery.start_soon(log.run)
    write(log, 1)
    await wait_all_tasks_blocked()
    mock_clock.jump(1)
    await written(log, 1)
    await wait_all_tasks_blocked()
    assert trio.lowlevel.current_statistics().seconds_to_next_deadline == math.inf
    log.close()


async def test_a_pile_of_records_does_not_wait_for_the_interval(mock_clock, nursery):
    log = JsonLinesLog(Disk(), flush_interval=60, max_pending=8)
    nursery.start_soon(log.run)
    await wait_all_tasks_blocked()
    write(log, 1, 2, 3)
    await wait_all_tasks_blocked()
    assert log.written == 0
    write(log, 4)
    await written(log, 4)
    log.close()


async def test_records_written_before_the_log_runs_are_kept(autojump_clock):
    disk = Disk()
    log = JsonLinesLog(disk)
    write(log, 1)
    log.close()
    write(log, 2)
    await log.run()
    assert disk.numbers() == [1, 2]


async def test_a_record_becomes_its_line_when_it_is_written_and_not_later(autojump_clock):
    disk = Disk()
    log = JsonLinesLog(disk)
    record = LogRecord(transaction=1, plugin={"p": {"state": "then"}})
    log.write(record)
    record.plugin["p"]["state"] = "now"
    log.close()
    await log.run()
    assert disk.lines()[0]["plugin"] == {"p": {"state": "then"}}


async def test_many_lines_are_joined_off_the_loop(autojump_clock, monkeypatch):
    joined_in = []

    class Lines(bytes):
        def join(self, lines) -> bytes:
            joined_in.append(threading.get_ident())
            return b"".join(lines)

    monkeypatch.setattr(_writer, "NOTHING", Lines())
    disk = Disk()
    log = JsonLinesLog(disk)
    write(log, *range(_writer.JOINED_HERE + 1))
    log.close()
    await log.run()
    assert disk.writes == 1
    assert disk.numbers() == list(range(_writer.JOINED_HERE + 1))
    assert joined_in != [threading.get_ident()]


async def test_a_format_that_raises_costs_its_record_and_no_transaction(autojump_clock):
    def encode(record: LogRecord) -> bytes:
        raise ZeroDivisionError

    disk = Disk()
    log = LineLog(disk, form=Format(name="bad", encode=encode))
    write(log, 1, 2)
    log.close()
    await log.run()
    assert (log.written, log.dropped) == (0, 2)
    assert disk.numbers() == ["2 dropped"]


async def test_records_that_are_not_wanted_are_neither_written_nor_counted(autojump_clock):
    disk = Disk()
    log = LineLog(disk, wants=lambda record: record.transaction % 2 == 0, max_pending=2)
    write(log, 1, 2, 3, 4, 5)
    log.close()
    await log.run()
    assert disk.numbers() == [2, 4]
    assert (log.written, log.dropped) == (2, 0)


# ---- bounds ------------------------------------------------------------------------------------------------------------------------


async def test_what_does_not_fit_is_dropped_counted_and_told_in_its_place(autojump_clock):
    disk = SlowDisk()
    log = JsonLinesLog(disk, flush_interval=0, max_pending=4)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(log.run)
        write(log, 1, 2)
        await seen(disk.entered)
        write(log, 3, 4, 5, 6)  # two are in the disk's hands: there is room for two
        assert log.dropped == 2
        disk.let_go.set()
        await written(log, 4)
        write(log, 7)
        log.close()
    assert disk.numbers() == [1, 2, 3, 4, "2 dropped", 7]
    assert list(disk.lines()[4]) == ["dropped", "time"]
    assert (log.written, log.dropped) == (5, 2)


def test_dropping_needs_no_memory():
    log = JsonLinesLog(Disk(), max_pending=2)
    write(log, *range(1000))
    assert log.dropped == 998
    assert len(log._pending) == 3
    log.close()


@pytest.mark.parametrize(
    ("option", "value"), [("max_pending", 0), ("flush_interval", -1), ("flush_interval", math.nan), ("close_timeout", -1)]
)
def test_options_out_of_range_are_named(option, value):
    with pytest.raises(ValueError, match=option):
        JsonLinesLog(Disk(), **{option: value})


# ---- faults --------------------------------------------------------------------------------------------------------------------------


async def test_a_full_disk_is_told_once_and_written_to_again_from_where_it_stopped(mock_clock, nursery, capsys):
    disk = Disk(700, full(), full(), 5, full())
    log = JsonLinesLog(disk, flush_interval=0)
    nursery.start_soon(log.run)
    write(log, 1, 2, 3)
    for failure in (2, 3, 5):
        await past_failure(mock_clock, disk, failure)
    await written(log, 3)
    log.close()
    assert disk.numbers() == [1, 2, 3]
    assert (log.written, log.dropped) == (3, 0)
    told = capsys.readouterr().err.splitlines()
    assert len(told) == 2
    assert "No space left" in told[0]
    assert "written again" in told[1]


async def test_memory_is_bounded_while_the_disk_fails(mock_clock, nursery):
    disk = Disk(full(), full())
    log = JsonLinesLog(disk, flush_interval=0, max_pending=10)
    nursery.start_soon(log.run)
    write(log, *range(1, 5))
    await past_failure(mock_clock, disk, 1)
    write(log, *range(5, 31))
    assert len(log._batch) + len(log._pending) == 11  # the last stands for all that did not fit
    await past_failure(mock_clock, disk, 2)
    await written(log, 10)
    log.close()
    assert disk.numbers() == [*range(1, 11), "20 dropped"]
    assert (log.written, log.dropped) == (10, 20)


async def test_a_disk_that_fails_to_the_end_costs_the_records_and_says_so(autojump_clock, capsys):
    disk = Disk(*[full() for _ in range(100)])
    log = JsonLinesLog(disk)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(log.run)
        write(log, 1, 2)
        await trio.sleep(5)
        log.close()
    assert (log.written, log.dropped) == (0, 2)
    assert capsys.readouterr().err.endswith(": 2\n")
    assert repr(log).endswith(": 0 written, 2 dropped, 0 pending>")


async def test_records_that_came_after_a_write_that_was_given_up_are_counted_with_it(mock_clock, nursery, capsys):
    disk = Disk(full(), full(), full(), full())
    log = JsonLinesLog(disk, flush_interval=0)
    nursery.start_soon(log.run)
    write(log, 1, 2)
    await past_failure(mock_clock, disk, 1)
    write(log, 3)
    log.close()
    await until(log._finished.is_set)
    assert (log.written, log.dropped) == (0, 3)
    assert capsys.readouterr().err.endswith(": 3\n")


async def test_what_a_failing_disk_did_take_counts_as_written(autojump_clock):
    disk = Disk(700, full())
    log = JsonLinesLog(disk)
    write(log, 1, 2)
    log.close()
    await log.run()
    assert len(disk.data.splitlines()[0]) < 700
    assert (log.written, log.dropped) == (1, 1)


async def test_a_write_that_never_returns_does_not_hold_up_the_end(nursery, capsys):
    disk = SlowDisk()
    log = JsonLinesLog(disk, flush_interval=0, close_timeout=0)
    with trio.fail_after(30):
        async with trio.open_nursery() as inner:
            inner.start_soon(log.run)
            write(log, 1)
            await seen(disk.entered)
            log.close()
    assert log.dropped == 1
    assert "records missing at the end of the log" in capsys.readouterr().err
    disk.let_go.set()


async def test_a_descriptor_that_would_block_is_tried_again(autojump_clock, capsys):
    reading, writing = os.pipe()
    os.set_blocking(writing, False)
    with open(reading, "rb") as reader, open(writing, "wb") as pipe:  # noqa: ASYNC230 - both are open already
        log = JsonLinesLog(pipe, flush_interval=0)
        count = 400  # more than a pipe holds
        text = []
        thread = threading.Thread(target=lambda: text.extend(reader.readline() for _ in range(count)))
        async with trio.open_nursery() as nursery:
            nursery.start_soon(log.run)
            write(log, *range(1, count + 1))
            await until(lambda: not select.select((), (pipe,), (), 0)[1])
            thread.start()
            await written(log, count)
            log.close()
        thread.join()
    assert [json.loads(line)["transaction"] for line in text] == list(range(1, count + 1))


async def test_a_descriptor_that_blocks_to_the_end_costs_the_records(monkeypatch, capsys):
    monkeypatch.setattr(_sink, "_LONGEST_WAIT", 0)
    reading, writing = os.pipe()
    os.set_blocking(writing, False)
    with open(reading, "rb"), open(writing, "wb") as pipe:  # noqa: ASYNC230 - both are open already
        log = JsonLinesLog(pipe, flush_interval=0)
        await run_with(log, *range(1, 401))
    assert log.written > 0
    assert log.written + log.dropped == 400
    assert "reads too slowly" in capsys.readouterr().err


async def test_a_buffer_is_written_past_so_that_nothing_is_left_in_it(autojump_clock):
    disk = Disk()
    buffered = io.BufferedWriter(disk)
    buffered.write(b'{"transaction": 0}\n')
    log = JsonLinesLog(buffered)
    write(log, 1)
    log.close()
    await log.run()
    assert disk.numbers() == [0, 1]


# ---- the end -----------------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("steps", range(12))
async def test_cancelled_at_any_checkpoint_it_loses_nothing(autojump_clock, steps):
    disk = Disk()
    log = JsonLinesLog(disk, flush_interval=0)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(log.run)
        for number in range(1, steps + 2):
            write(log, number)
            await trio.lowlevel.checkpoint()
        nursery.cancel_scope.cancel()
    assert disk.numbers() == list(range(1, steps + 2))
    assert (log.written, log.dropped) == (steps + 1, 0)


async def test_cancelled_while_it_waits_for_more_it_writes_at_once(mock_clock):
    disk = Disk()
    log = JsonLinesLog(disk, flush_interval=60)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(log.run)
        write(log, 1)
        await wait_all_tasks_blocked()
        nursery.cancel_scope.cancel()
    assert disk.numbers() == [1]


async def test_cancelled_in_the_middle_of_a_write_it_finishes_it_and_what_came_after(autojump_clock):
    disk = SlowDisk()
    log = JsonLinesLog(disk, flush_interval=0)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(log.run)
        write(log, 1)
        await seen(disk.entered)
        nursery.cancel_scope.cancel()
        with trio.CancelScope(shield=True):
            await trio.lowlevel.checkpoint()
            write(log, 2)
            disk.let_go.set()
    assert disk.numbers() == [1, 2]


async def test_after_the_end_records_are_only_counted(autojump_clock):
    log = JsonLinesLog(Disk())
    log.close()
    await log.run()
    write(log, 1)
    assert (log.written, log.dropped, len(log._pending)) == (0, 1, 0)


async def test_a_log_runs_once(autojump_clock):
    log = JsonLinesLog(Disk())
    log.close()
    log.close()
    await log.run()
    with pytest.raises(RuntimeError, match="once"):
        await log.run()


# ---- files ---------------------------------------------------------------------------------------------------------------------------


def test_a_path_that_cannot_be_opened_raises_at_once(tmp_path):
    with pytest.raises(FileNotFoundError):
        JsonLinesLog(tmp_path / "none" / "log")
    with pytest.raises(IsADirectoryError):
        JsonLinesLog(tmp_path)


async def run_with(log, *numbers: int) -> None:
    write(log, *numbers)
    log.close()
    await log.run()


async def test_a_file_is_appended_to_after_a_line_that_was_left_unfinished(tmp_path, autojump_clock):
    path = tmp_path / "log"
    await run_with(JsonLinesLog(path), 1)
    await run_with(JsonLinesLog(str(path)), 2)
    with path.open("ab") as file:
        file.write(b'{"transaction": 3')
    await run_with(JsonLinesLog(path), 4)
    texts = path.read_text().splitlines()
    assert [json.loads(texts[index])["transaction"] for index in (0, 1, 3)] == [1, 2, 4]


async def test_a_log_that_never_ran_leaves_no_file_open(tmp_path):
    log = JsonLinesLog(tmp_path / "log")
    log.close()
    assert log._sink._file.closed


async def test_reopening_goes_on_in_a_new_file(tmp_path, mock_clock, nursery):
    path, rotated = tmp_path / "log", tmp_path / "log.1"
    log = JsonLinesLog(path, flush_interval=0)
    nursery.start_soon(log.run)
    write(log, 1)
    await written(log, 1)
    old = log._sink
    path.rename(rotated)
    log.reopen()
    log.reopen()
    await wait_all_tasks_blocked()
    assert old._file.closed
    write(log, 2)
    await written(log, 2)
    log.close()
    assert [json.loads(file.read_text())["transaction"] for file in (rotated, path)] == [1, 2]


async def test_reopening_during_a_write_lets_go_of_the_old_file_after_it(tmp_path, autojump_clock, nursery):
    log = JsonLinesLog(tmp_path / "log", flush_interval=0)
    old, disk = log._sink, SlowDisk()
    old._file.close()
    old._file = disk
    nursery.start_soon(log.run)
    write(log, 1)
    await seen(disk.entered)
    log.reopen()
    disk.let_go.set()
    await until(lambda: disk.closed)
    assert log._sink is not old
    log.close()


async def test_giving_up_on_a_write_leaves_the_reopened_file_closed(tmp_path):
    log = JsonLinesLog(tmp_path / "log", flush_interval=0, close_timeout=0)
    disk = SlowDisk()
    log._sink._file.close()
    log._sink._file = disk
    async with trio.open_nursery() as nursery:
        nursery.start_soon(log.run)
        write(log, 1)
        await seen(disk.entered)
        log.reopen()
        fresh = log._next_sink
        log.close()
    assert fresh._file.closed
    assert not disk.closed  # a thread is in it
    disk.let_go.set()


async def test_a_file_that_may_not_be_read_is_appended_to_as_it_is(tmp_path, monkeypatch, autojump_clock):
    def open_for_writing(path, mode, **options):
        if mode == "rb":
            raise PermissionError(errno.EACCES, "Permission denied")
        return open(path, mode, **options)

    monkeypatch.setattr(_sink, "open", open_for_writing, raising=False)
    (tmp_path / "log").write_text("x")
    await run_with(JsonLinesLog(tmp_path / "log"), 1)
    assert (tmp_path / "log").read_text().startswith('x{"time"')


def test_a_file_that_cannot_be_written_when_it_is_opened_raises_at_once(tmp_path, monkeypatch):
    class Full(io.FileIO):
        def write(self, data) -> int:
            raise full()

    monkeypatch.setattr(_sink, "open", lambda path, mode, **_: Full(path, mode.replace("b", "")), raising=False)
    (tmp_path / "log").write_text("unfinished")
    with pytest.raises(OSError, match="No space"):
        JsonLinesLog(tmp_path / "log")


async def test_reopening_fails_without_letting_go_of_the_old_file(tmp_path, autojump_clock):
    directory = tmp_path / "d"
    directory.mkdir()
    log = JsonLinesLog(directory / "log")
    directory.rename(tmp_path / "e")
    with pytest.raises(FileNotFoundError):
        log.reopen()
    await run_with(log, 1)
    assert json.loads((tmp_path / "e" / "log").read_text())["transaction"] == 1


async def test_a_line_that_was_half_out_when_the_file_was_reopened_is_whole_in_the_new_one(tmp_path, mock_clock, nursery):
    log = JsonLinesLog(tmp_path / "log", flush_interval=0)
    old, disk = log._sink._file, Disk(700, full())
    log._sink._file = disk
    old.close()
    nursery.start_soon(log.run)
    write(log, 1, 2)
    await until(lambda: disk.writes == 2)
    log.reopen()
    await past_failure(mock_clock, disk, 2)
    await written(log, 2)
    log.close()
    assert json.loads(disk.data.splitlines()[0])["transaction"] == 1
    assert json.loads((tmp_path / "log").read_text())["transaction"] == 2


async def test_the_callers_file_stays_open_and_reopening_it_does_nothing(autojump_clock):
    disk = Disk()
    log = JsonLinesLog(disk)
    log.reopen()
    await run_with(log, 1)
    assert not disk.closed
    assert disk.numbers() == [1]


async def test_the_log_on_standard_error_writes_lines_there_and_nothing_else(autojump_clock, capsysbinary):
    log = StderrLog()
    await run_with(log, 1)
    assert json.loads(capsysbinary.readouterr().err)["transaction"] == 1


async def test_the_log_on_standard_error_does_not_complain_on_standard_error(autojump_clock, monkeypatch):
    class Broken:
        buffer = Disk(full())

        def write(self, text: str) -> None:
            pytest.fail(text)

    monkeypatch.setattr(sys, "stderr", Broken())
    log = StderrLog()
    await run_with(log, 1)
    assert log.dropped == 1


# ---- the log for tests -------------------------------------------------------------------------------------------------------------


async def test_a_memory_log_keeps_the_records_and_runs_until_it_is_closed(autojump_clock, nursery):
    log = MemoryLog()
    record = LogRecord()
    log.write(record)
    assert log.records == [record]
    with trio.move_on_after(1) as scope:
        await log.run()
    assert scope.cancelled_caught
    log.reopen()
    log.close()
    await log.run()
    log.clear()
    assert (log.records, log.written, log.dropped) == ([], 1, 0)
    assert repr(log) == "<MemoryLog of 0 records>"
