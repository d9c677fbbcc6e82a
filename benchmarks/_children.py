"""Servers in processes of their own, so that each one's CPU time can be told.

`python -m benchmarks._children NAME [ORIGIN_PORT]` is one of them: it prints the port it listens on and serves until it is killed.
"""

from __future__ import annotations

import os
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager, suppress
from functools import partial
from importlib import import_module
from pathlib import Path
from typing import Any

import attrs
import trio

from benchmarks._exchange import ANSWER_FIELDS, BODY, Respond, serve_origin
from trio_tsconnect import HttpConfig, JsonLinesLog, ProxyConfig, RemapRule, open_proxy
from trio_tsconnect.stream import Parser

ROOT = Path(__file__).parent.parent
START_TIMEOUT = 15.0


@attrs.frozen
class Child:
    """A server in a process of its own."""

    port: int
    """Where it listens, on 127.0.0.1."""
    pid: int
    """Its process."""

    def cpu_seconds(self) -> float:
        """The CPU time that all its threads have used so far, those that have ended included. `OSError` on systems that do not tell."""
        # What clock_getcpuclockid(3) makes of a process on Linux; Python has no name for it. (/proc counts in ticks, or forgets dead threads.)
        return time.clock_gettime(~self.pid << 3 | 2)


def tells_cpu_time() -> bool:
    """Whether `Child.cpu_seconds` works here."""
    try:
        return Child(0, os.getpid()).cpu_seconds() > 0
    except (OSError, AttributeError, OverflowError):
        return False


@asynccontextmanager
async def _process(command: Sequence[str | os.PathLike[str]], port: int | None) -> AsyncIterator[Child]:
    """Run a server; without a known port it prints it. It is there when it accepts."""
    async with trio.open_nursery() as nursery:
        process: trio.Process = await nursery.start(
            partial(
                trio.run_process,
                command,
                cwd=ROOT,
                stdout=subprocess.PIPE if port is None else subprocess.DEVNULL,
                stderr=None,
                check=False,
                deliver_cancel=_kill,
            )
        )
        with trio.fail_after(START_TIMEOUT):
            if port is None:
                assert process.stdout is not None
                port = int(await process.stdout.receive_some(16) or b"0")
            while not await _accepts(port):
                if process.poll() is not None:
                    raise RuntimeError(f"{command[0]} has ended with {process.returncode}")
                await trio.sleep(0.02)
        try:
            yield Child(port, process.pid)
        finally:
            nursery.cancel_scope.cancel()


async def _kill(process: trio.Process) -> None:
    process.kill()


async def _accepts(port: int) -> bool:
    try:
        await trio.aclose_forcefully(await trio.open_tcp_stream("127.0.0.1", port))
    except OSError:
        return False
    return True


def _free_port() -> int:
    with socket.socket() as sock:
        sock.bind(("127.0.0.1", 0))
        port: int = sock.getsockname()[1]
        return port


@asynccontextmanager
async def child(name: str, origin_port: int | None = None) -> AsyncIterator[Child]:
    """One of the servers below."""
    arguments = [] if origin_port is None else [str(origin_port)]
    async with _process([sys.executable, "-m", "benchmarks._children", name, *arguments], None) as process:
        yield process


@asynccontextmanager
async def bare_proxy(origin_port: int) -> AsyncIterator[Child]:
    """The yardstick."""
    port = _free_port()
    async with _process([sys.executable, ROOT / "benchmarks" / "bare_proxy.py", str(port), str(origin_port)], port) as process:
        yield process


NGINX = """
daemon off; master_process off; worker_processes 1; pid {home}/pid; error_log stderr crit;
events {{ worker_connections 1024; }}
http {{
    access_log off; keepalive_requests 100000000; keepalive_timeout 600;
    {temporary}
    server {{ listen 127.0.0.1:{port} backlog=1024; location / {{ {fields} default_type text/html; return 200 "{body}"; }} }}
}}
"""


@asynccontextmanager
async def nginx() -> AsyncIterator[Child]:
    """nginx, with the yardstick's response."""
    port = _free_port()
    with tempfile.TemporaryDirectory() as home:
        kinds = ("client_body", "proxy", "fastcgi", "uwsgi", "scgi")
        temporary = " ".join(f"{kind}_temp_path {home}/{kind};" for kind in kinds)
        fields = " ".join(f"add_header {name} '{value}';" for name, value in (("ETag", '"5f-abc123"'), ("Vary", "accept-encoding")))
        path = trio.Path(home, "nginx.conf")
        await path.write_text(NGINX.format(home=home, port=port, temporary=temporary, fields=fields, body=BODY.decode()))
        async with _process(["nginx", "-p", home, "-e", "stderr", "-c", path], port) as process:
            yield process


# --- in the child -------------------------------------------------------------------------------------------------------------


async def _announce(serve: Callable[[trio.abc.Stream], Any]) -> None:
    async with trio.open_nursery() as nursery:
        listen = partial(trio.serve_tcp, serve, 0, host="127.0.0.1", backlog=1024)
        listeners: list[trio.SocketListener] = await nursery.start(listen)
        print(listeners[0].socket.getsockname()[1], flush=True)


async def _forgiving_origin(stream: trio.abc.Stream) -> None:
    with suppress(trio.BrokenResourceError):
        await serve_origin(stream)


async def serve_proxy(origin_port: int, *, log: bool) -> None:
    """Our proxy in front of an origin, with no log, or with JSON lines to a file."""
    config = ProxyConfig(remap=(RemapRule("/", f"http://127.0.0.1:{origin_port}/"),))
    with tempfile.TemporaryDirectory() as home:
        async with open_proxy(config, log=JsonLinesLog(Path(home, "log.jsonl")) if log else None) as proxy:
            await _announce(proxy.serve_stream)


async def serve_h2(parser: Parser = "h11") -> None:
    """Our HTTP/2 front end, with a plugin that answers."""
    http2 = import_module("trio_tsconnect.http2")
    async with open_proxy(ProxyConfig(http=HttpConfig(parser=parser)), plugins=[Respond()]) as proxy:
        await _announce(partial(http2.serve_http2, proxy))


async def serve_hypercorn() -> None:
    """hypercorn's trio worker, with an application that answers the same."""
    hypercorn, configuration = import_module("hypercorn.trio"), import_module("hypercorn.config")

    async def app(scope: Any, receive: Any, send: Any) -> None:
        while scope["type"] == "lifespan":
            event = await receive()
            await send({"type": f"{event['type']}.complete"})
        await send({"type": "http.response.start", "status": 200, "headers": [*ANSWER_FIELDS, (b"content-length", b"%d" % len(BODY))]})
        await send({"type": "http.response.body", "body": BODY, "more_body": False})

    config = configuration.Config()
    config.bind = ["127.0.0.1:0"]
    config.backlog = 1024
    config.errorlog = None
    config.include_date_header = config.include_server_header = False
    async with trio.open_nursery() as nursery:
        binds: list[str] = await nursery.start(partial(hypercorn.serve, app, config, mode="asgi"))
        print(binds[0].rpartition(":")[2], flush=True)


def main(name: str, *arguments: str) -> None:
    """Be one of the servers."""
    servers: dict[str, Callable[..., Any]] = {
        "origin": lambda: _announce(_forgiving_origin),
        "proxy": lambda port: serve_proxy(int(port), log=False),
        "proxy-log": lambda port: serve_proxy(int(port), log=True),
        "http2": serve_h2,
        "http2-fast": lambda: serve_h2("fast"),
        "hypercorn": serve_hypercorn,
    }
    trio.run(servers[name], *arguments)


if __name__ == "__main__":
    main(*sys.argv[1:])
