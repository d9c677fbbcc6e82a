"""Where lines are appended: descriptors that someone made non-blocking."""

from __future__ import annotations

import fcntl
import os
import resource
import threading
from collections.abc import Iterator

import pytest

from trio_tsconnect.log._sink import Sink

HIGH = 1100
"""More than `select` can tell of."""


@pytest.fixture
def room_for_descriptors() -> Iterator[None]:
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft != resource.RLIM_INFINITY and soft <= HIGH:
        resource.setrlimit(resource.RLIMIT_NOFILE, (HIGH + 100, hard))
    yield
    resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


def test_pipe_that_does_not_block_is_waited_for_whatever_its_number(room_for_descriptors: None) -> None:
    reading, writing = os.pipe()
    high = fcntl.fcntl(writing, fcntl.F_DUPFD, HIGH)
    os.close(writing)
    os.set_blocking(high, False)
    data = bytes(1_000_000)
    got = bytearray()

    def read() -> None:
        while piece := os.read(reading, 65536):
            got.extend(piece)

    reader = threading.Thread(target=read)
    reader.start()
    try:
        with open(high, "wb", buffering=0) as file:
            assert Sink(file, "pipe", ours=False).append(memoryview(data)) == (len(data), None)
    finally:
        reader.join()
        os.close(reading)
    assert got == data
