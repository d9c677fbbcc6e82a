"""Runs `tsconnect` as a process, and reads what it says as it says it."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import attrs
import trio

LIMIT = 60
"""Seconds that a process may take before a test fails; a bound against hanging, never waited for."""

COMMAND = (sys.executable, "-m", "trio_tsconnect")

WITHOUT_H2 = (
    sys.executable,
    "-c",
    "import sys; sys.modules['h2'] = None; from trio_tsconnect.__main__ import main; sys.exit(main(sys.argv[1:]))",
)


@attrs.define(eq=False)
class Serving:
    """A running `tsconnect serve`."""

    process: trio.Process
    said: str = ""
    """Its standard error so far."""

    async def _more(self) -> None:
        assert self.process.stderr is not None
        more = await self.process.stderr.receive_some()
        assert more, f"it ended, and said:\n{self.said}"
        self.said += bytes(more).decode()

    async def until(self, text: str) -> None:
        """Read on until it has said this."""
        while text not in self.said:
            await self._more()

    async def until_listening(self, count: int) -> None:
        """Read on until it has announced so many listeners."""
        while len(self.ports()) < count:
            await self._more()

    def ports(self) -> list[int]:
        """Those it has announced."""
        return announced_ports(self.said)

    def signal(self, number: int) -> None:
        """Send a signal."""
        self.process.send_signal(number)

    async def end(self) -> int:
        """Read to the end; the exit status."""
        assert self.process.stderr is not None
        async for more in self.process.stderr:
            self.said += bytes(more).decode()
        return await self.process.wait()


def announced_ports(said: str) -> list[int]:
    """The ports in the lines that announce listeners, as far as those lines are complete."""
    return [int(port) for port in re.findall(r"^listening \S+:(\d+) \(.*\)\n", said, re.MULTILINE)]


@asynccontextmanager
async def serving(config: Path, *options: str, listeners: int = 1, command: Sequence[str] = COMMAND) -> AsyncIterator[Serving]:
    """A `tsconnect serve` that has announced so many listeners; killed if it is still there at the end."""
    process = await trio.lowlevel.open_process([*command, "serve", *options, str(config)], stderr=subprocess.PIPE, stdin=subprocess.DEVNULL)
    server = Serving(process)
    try:
        with trio.fail_after(LIMIT):
            await server.until_listening(listeners)
            yield server
    finally:
        if process.returncode is None:
            process.kill()
        with trio.CancelScope(shield=True):
            await process.wait()
            assert process.stderr is not None
            await process.stderr.aclose()


@asynccontextmanager
async def listening(handler: Callable[[trio.SocketStream], Awaitable[object]]) -> AsyncIterator[int]:
    """Serve loopback on a port that the system chooses, for the length of a `with` block."""
    (listener,) = await trio.open_tcp_listeners(0, host="127.0.0.1")
    async with trio.open_nursery() as nursery:
        nursery.start_soon(trio.serve_listeners, handler, [listener])
        yield listener.socket.getsockname()[1]
        nursery.cancel_scope.cancel()


async def read_head(stream: trio.abc.Stream) -> bytes:
    """What comes, up to the end of a head at least."""
    data = bytearray()
    while b"\r\n\r\n" not in data:
        more = await stream.receive_some()
        if not more:
            break
        data += more
    return bytes(data)


async def answer_at_once(stream: trio.SocketStream) -> None:
    """An origin that answers each request with two bytes."""
    while await read_head(stream):
        await stream.send_all(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok")


async def fetch(stream: trio.abc.Stream, path: str = "/") -> bytes:
    """Ask for a page and have the connection closed after it; everything that came."""
    async with stream:
        await stream.send_all(b"GET %s HTTP/1.1\r\nHost: api.example\r\nConnection: close\r\n\r\n" % path.encode())
        return b"".join([bytes(piece) async for piece in stream])


def records_in(log: Path) -> list[dict[str, Any]]:
    """The records of a log, each of whose lines must be JSON."""
    return [json.loads(line) for line in log.read_text().splitlines()]


def write_config(folder: Path, origin: int, *more: str, listen: Sequence[str] = ('address = "127.0.0.1:0"',)) -> Path:
    """A configuration in front of an origin on loopback, which logs to `transactions.jsonl` beside it."""
    config = folder / "proxy.toml"
    tables = [f"[[listen]]\n{keys}" for keys in listen]
    tables.append(f'[[remap]]\nfrom = "//api.example/"\nto = "http://127.0.0.1:{origin}/"')
    tables.append('[log]\npath = "transactions.jsonl"')
    config.write_text("\n".join([*tables, *more]) + "\n")
    return config
