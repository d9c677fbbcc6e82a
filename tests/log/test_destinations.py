"""Destinations that are no files: syslog, programs, loggers; and several logs at once. What cannot be written is counted."""

from __future__ import annotations

import errno
import json
import logging
import os
import re
import socket
import time
from pathlib import Path

import pytest
import trio

from trio_tsconnect.log import LineLog, Log, LogRecord, MemoryLog, SeveralLogs, check_destination, is_file, make_format, open_line_log
from trio_tsconnect.log._elsewhere import Command, PythonLogging
from trio_tsconnect.log._syslog import Syslog

MESSAGE = re.compile(rb"<134>1 \d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{6}Z \S+ trio_tsconnect \d+ transaction - (?P<text>[^\n]*)")


async def until(condition) -> None:
    bound = time.monotonic() + 60
    while not condition():
        assert time.monotonic() < bound, "it never came true"
        await trio.lowlevel.checkpoint()


async def run_with(log: Log, *numbers: int, text: str = "") -> None:
    for number in numbers:
        log.write(LogRecord(transaction=number, tag=text or None))
    log.close()
    await log.run()


def number_of(message: bytes) -> int:
    found = MESSAGE.fullmatch(message)
    assert found is not None, message
    number: int = json.loads(found["text"])["transaction"]
    return number


@pytest.fixture
def service(tmp_path: Path):
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as listener:
        listener.bind(str(tmp_path / "socket"))
        listener.settimeout(30)
        yield listener


async def test_each_record_is_a_message_of_syslog(service, tmp_path: Path, autojump_clock) -> None:
    log = open_line_log(f"syslog:{tmp_path}/socket")
    await run_with(log, 1, 2)
    assert [number_of(service.recv(65536)) for _ in range(2)] == [1, 2]
    assert (log.written, log.dropped) == (2, 0)


async def test_a_message_that_is_too_long_for_a_datagram_is_counted(service, tmp_path: Path, autojump_clock) -> None:
    log = open_line_log(f"syslog:{tmp_path}/socket")
    log.write(LogRecord(transaction=1, url="x" * 4_000_000))
    await run_with(log, 2)
    assert number_of(service.recv(65536)) == 2
    assert (log.written, log.dropped) == (1, 1)


async def test_a_syslog_that_is_not_there_costs_the_records_and_is_told(tmp_path: Path, autojump_clock, capsys) -> None:
    log = open_line_log(f"syslog:{tmp_path}/nowhere")
    await run_with(log, 1, 2)
    assert (log.written, log.dropped) == (0, 2)
    assert "No such file" in capsys.readouterr().err


async def test_a_syslog_that_comes_back_gets_what_waited(tmp_path: Path, mock_clock, nursery, capsys) -> None:
    log = open_line_log(f"syslog:{tmp_path}/socket", flush_interval=0)
    nursery.start_soon(log.run)
    log.write(LogRecord(transaction=1))
    await until(lambda: log._failing and trio.lowlevel.current_statistics().seconds_to_next_deadline < 10)
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as listener:
        listener.bind(str(tmp_path / "socket"))
        mock_clock.jump(1)
        await until(lambda: log.written == 1)
        assert number_of(listener.recv(65536)) == 1
    log.close()


async def test_over_udp_a_message_is_a_datagram(autojump_clock) -> None:
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as listener:
        listener.bind(("127.0.0.1", 0))
        listener.settimeout(30)
        await run_with(open_line_log(f"syslog:udp://127.0.0.1:{listener.getsockname()[1]}"), 5)
        assert number_of(listener.recv(65536)) == 5


async def test_over_tcp_a_message_has_its_length_before_it(autojump_clock) -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        listener.settimeout(30)
        await run_with(open_line_log(f"syslog:tcp://127.0.0.1:{listener.getsockname()[1]}"), 1, 2)
        connection, _ = listener.accept()
    with connection, connection.makefile("rb") as file:
        data = file.read()
    numbers = []
    while data:
        length, _, data = data.partition(b" ")
        numbers.append(number_of(data[: int(length)]))
        data = data[int(length) :]
    assert numbers == [1, 2]


def test_a_message_that_was_interrupted_is_sent_again_on_a_new_connection() -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        listener.settimeout(30)
        syslog = Syslog(f"tcp://127.0.0.1:{listener.getsockname()[1]}")
        assert syslog.append(memoryview(b"one\n")) == (4, None)
        first, _ = listener.accept()
        first.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\1\0\0\0\0\0\0\0")
        first.close()
        done, error = 0, None
        while error is None:  # the first message after a reset may still be taken by the kernel
            done, error = syslog.append(memoryview(b"two\n"))
        assert done == 0
        assert syslog.append(memoryview(b"two\n")) == (4, None)
        second, _ = listener.accept()
        with second:
            second.settimeout(30)
            assert second.recv(65536).endswith(b"- two")
        syslog.close()


# ---- programs --------------------------------------------------------------------------------------------------------------------


async def test_a_program_reads_the_lines_and_ends_with_the_log(tmp_path: Path, autojump_clock) -> None:
    log = open_line_log(f"|cat > {tmp_path}/out; echo end >> {tmp_path}/out")
    await run_with(log, 1, 2, 3)
    await until(lambda: (tmp_path / "out").exists() and (tmp_path / "out").read_text().endswith("end\n"))
    lines = (tmp_path / "out").read_text().splitlines()
    assert [json.loads(line)["transaction"] for line in lines[:-1]] == [1, 2, 3]


async def test_a_program_that_does_not_read_costs_records_which_are_counted(autojump_clock, monkeypatch, capsys) -> None:
    monkeypatch.setattr("trio_tsconnect.log._sink._LONGEST_WAIT", 0)
    log = open_line_log("|exec sleep 600")
    process = log._sink._process  # type: ignore[attr-defined]
    try:
        await run_with(log, *range(1000))
        assert log.dropped > 0
        assert log.written + log.dropped == 1000
        assert "reads too slowly" in capsys.readouterr().err
    finally:
        process.kill()
        process.wait()


async def test_a_program_that_reads_slowly_gets_every_line(tmp_path: Path, autojump_clock) -> None:
    go, out = tmp_path / "go", tmp_path / "out"
    os.mkfifo(go)
    log = open_line_log(f"|read x < {go}; cat > {out}.part; mv {out}.part {out}", flush_interval=0)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(log.run)
        for number in range(400):  # more than a pipe holds
            log.write(LogRecord(transaction=number))
        await trio.to_thread.run_sync(go.write_text, "go\n")
        await until(lambda: log.written == 400)
        log.close()
    await until(out.exists)
    assert [json.loads(line)["transaction"] for line in out.read_text().splitlines()] == list(range(400))
    assert log.dropped == 0


def test_a_program_that_has_ended_is_started_again(tmp_path: Path, capsys) -> None:
    command = Command(f"head -n 1 >> {tmp_path}/out")
    for line in (b"one\n", b"two\n"):
        while command.append(memoryview(line)) != (4, None):
            pass
        command._process.wait()
    command.close()
    assert (tmp_path / "out").read_bytes() == b"one\ntwo\n"
    assert "has ended with 0 and is started again" in capsys.readouterr().err


def test_a_new_program_gets_an_interrupted_line_from_its_start(tmp_path: Path, capsys) -> None:
    command = Command(f"head -c 4 > /dev/null; cat > {tmp_path}/out")
    assert command.append(memoryview(b"one\ntw")) == (6, None)
    first = command._process
    first.kill()
    first.wait()
    command._command = f"cat > {tmp_path}/out"
    assert command.append(memoryview(b"o\n")) == (2, None)
    second = command._process
    command.close()
    second.wait()
    assert (tmp_path / "out").read_bytes() == b"two\n"


# ---- loggers ---------------------------------------------------------------------------------------------------------------------


async def test_each_line_is_a_message_of_a_logger(caplog: pytest.LogCaptureFixture, autojump_clock) -> None:
    caplog.set_level(logging.INFO, "test.access")
    await run_with(open_line_log("logging:test.access", form=make_format("%<crid> 100%")), 1, 2)
    assert [(record.name, record.levelname, record.getMessage()) for record in caplog.records] == [
        ("test.access", "INFO", "1 100%"),
        ("test.access", "INFO", "2 100%"),
    ]


def test_a_filter_that_raises_costs_its_record(caplog: pytest.LogCaptureFixture) -> None:
    def fail(record: logging.LogRecord) -> bool:
        raise ZeroDivisionError

    caplog.set_level(logging.INFO, "test.broken")
    logger = logging.getLogger("test.broken")
    logger.addFilter(fail)
    destination = PythonLogging("test.broken")
    assert destination.append(memoryview(b"a\nb\n")) == (4, None)
    assert destination.lost == 2
    logger.removeFilter(fail)


# ---- files ----------------------------------------------------------------------------------------------------------------------


async def test_a_full_disk_costs_the_records_and_says_how_many(autojump_clock, capsys) -> None:
    log = open_line_log("/dev/full")
    await run_with(log, 1, 2)
    assert (log.written, log.dropped) == (0, 2)
    assert os.strerror(errno.ENOSPC) in capsys.readouterr().err


@pytest.mark.parametrize("to", [None, "-"])
async def test_standard_error_is_the_default(to, capsysbinary, autojump_clock) -> None:
    await run_with(open_line_log(to), 1)
    assert json.loads(capsysbinary.readouterr().err)["transaction"] == 1


@pytest.mark.parametrize(
    "to", ["syslog:x", "syslog:tcp://a", "syslog:tcp://a:0", "syslog:tcp://:5", "syslog:sctp://a:5", "|", "| ", "logging:"]
)
def test_a_destination_that_is_not_complete_is_refused(to: str) -> None:
    with pytest.raises(ValueError, match="expected"):
        check_destination(to)
    assert not is_file(to)


@pytest.mark.parametrize(
    ("to", "file"),
    [
        *((to, False) for to in ("syslog:", "syslog:/a", "syslog:udp://[::1]:514", "|cat", "logging:a.b", "-")),
        *((to, True) for to in ("log", "./-", "./|x")),
    ],
)
def test_other_destinations_are_accepted(to: str, file: bool) -> None:
    check_destination(to)
    assert is_file(to) is file


# ---- several -------------------------------------------------------------------------------------------------------------------


class Broken(MemoryLog):
    def reopen(self) -> None:
        self.clear()
        raise PermissionError


async def test_several_logs_each_have_every_record(tmp_path: Path, autojump_clock) -> None:
    paths = [tmp_path / "a", tmp_path / "b"]
    logs = SeveralLogs([open_line_log(str(path)) for path in paths])
    await run_with(logs, 1, 2)
    assert (logs.written, logs.dropped) == (4, 0)
    for path in paths:
        assert [json.loads(line)["transaction"] for line in path.read_text().splitlines()] == [1, 2]
    assert repr(logs).startswith("<SeveralLogs <LineLog ")


def test_all_of_several_logs_are_reopened_although_one_cannot_be() -> None:
    logs = SeveralLogs([Broken(), Broken()])
    logs.write(LogRecord())
    with pytest.raises(PermissionError):
        logs.reopen()
    assert [log.records for log in logs.logs if isinstance(log, MemoryLog)] == [[], []]


def test_several_logs_need_what_any_of_them_needs() -> None:
    logs = SeveralLogs([LineLog(os.devnull, form=make_format("%<{A}cqh> %<{B}psh>")), LineLog(os.devnull, form=make_format("%<{C}cqh>"))])
    assert (logs.request_headers, logs.response_headers) == ({"a", "c"}, {"b"})
    logs.close()
