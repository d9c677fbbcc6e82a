"""A real Redis server that a test starts, kills and starts again, and servers that only look like one."""

from __future__ import annotations

import signal
import subprocess
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import attrs


@attrs.define
class RedisServer:
    """A server on a Unix socket, which stores nothing on disk."""

    path: Path
    options: Sequence[str] = ()
    process: subprocess.Popen[str] | None = None

    @property
    def url(self) -> str:
        return f"unix://{self.path}"

    def start(self) -> None:
        command = ["redis-server", "--port", "0", "--unixsocket", str(self.path), "--dir", str(self.path.parent)]
        command += ["--save", "", "--appendonly", "no", *self.options]
        self.process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
        assert self.process.stdout is not None
        said = []
        for line in self.process.stdout:
            said.append(line)
            if "ready to accept connections" in line.lower():
                return
        raise AssertionError(f"redis-server does not start: {''.join(said)}")

    def kill(self) -> None:
        if self.process is not None:
            self.process.kill()
            self.process.communicate()
            self.process = None

    @contextmanager
    def paused(self) -> Iterator[None]:
        """Within the block the server accepts connections, as the kernel does, and answers nothing."""
        assert self.process is not None
        self.process.send_signal(signal.SIGSTOP)
        try:
            yield
        finally:
            self.process.send_signal(signal.SIGCONT)


@contextmanager
def redis_server(*options: str) -> Iterator[RedisServer]:
    with tempfile.TemporaryDirectory() as folder:  # short: the path of a Unix socket has at most 107 bytes
        server = RedisServer(Path(folder) / "redis.sock", options)
        try:
            server.start()
            yield server
        finally:
            server.kill()
