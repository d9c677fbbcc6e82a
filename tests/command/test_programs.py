"""`tsconnect serve` between programs that know nothing of it: nginx behind, curl, nghttp and h2load in front."""

from __future__ import annotations

import os
import re
import signal
import socket
import subprocess
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from functools import partial
from pathlib import Path

import attrs
import pytest
import trio

from trio_tsconnect.logstats import Summary, read_records, summarize

from ._process import LIMIT, Serving, serving, write_config
from .conftest import Identity

pytestmark = pytest.mark.needs("nginx")

PAGE = "from nginx\n" * 100

NGINX = """\
daemon off;
{user}
worker_processes 1;
pid {folder}/nginx.pid;
error_log {folder}/error.log;
events {{ worker_connections 256; }}
http {{
    access_log {folder}/access.log;
    keepalive_requests 100000;
    {temporary}
    server {{ listen 127.0.0.1:{port}; root {folder}/pages; }}
}}
"""


@asynccontextmanager
async def nginx(folder: Path) -> AsyncIterator[int]:
    """An nginx that serves one page; its port. It inherits a socket that listens already, so nobody has to wait until it is up."""
    (folder / "pages").mkdir()
    (folder / "pages" / "page").write_text(PAGE)
    temporary = " ".join(f"{kind}_temp_path {folder}/{kind};" for kind in ("client_body", "proxy", "fastcgi", "uwsgi", "scgi"))
    with socket.create_server(("127.0.0.1", 0), backlog=1024) as listener:
        port = listener.getsockname()[1]
        config = folder / "nginx.conf"
        # Started by root, its worker would become a user who cannot read a test's directory.
        user = "user root;" if os.geteuid() == 0 else ""
        config.write_text(NGINX.format(folder=folder, port=port, temporary=temporary, user=user))
        descriptor = listener.fileno()
        process = await trio.lowlevel.open_process(
            ["nginx", "-c", str(config), "-e", str(folder / "error.log")],
            pass_fds=[descriptor],
            env=os.environ | {"NGINX": f"{descriptor};"},
            stdin=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
    try:
        yield port
    finally:
        process.terminate()
        with trio.CancelScope(shield=True):
            await process.wait()


@attrs.define(eq=False)
class World:
    """A proxy in front of an nginx, over clear text and over TLS."""

    folder: Path
    server: Serving
    identity: Identity

    @property
    def plain(self) -> str:
        return f"http://127.0.0.1:{self.server.ports()[0]}/page"

    @property
    def tls(self) -> str:
        return f"https://127.0.0.1:{self.server.ports()[1]}/page"

    async def run(self, *command: str) -> str:
        """What a client program prints; it must succeed."""
        done = await partial(trio.run_process, command, capture_stdout=True, capture_stderr=True, check=False, stdin=b"")()
        assert done.returncode == 0, f"{command} exits with {done.returncode}: {done.stdout!r} {done.stderr!r}"
        return str(done.stdout.decode())

    async def end(self) -> Summary:
        """Stop the proxy; what its log says, as `tsconnect logstats` counts it."""
        self.server.signal(signal.SIGTERM)
        assert await self.server.end() == 0
        assert "Traceback" not in self.server.said
        return summarize(read_records(self.folder / "transactions.jsonl"))

    def lines_of_nginx(self) -> int:
        return len((self.folder / "access.log").read_text().splitlines())


@pytest.fixture
async def world(tmp_path: Path, identity: Identity) -> AsyncIterator[World]:
    listen = ['address = "127.0.0.1:0"', f'address = "127.0.0.1:0"\n{identity.tls}']
    with trio.fail_after(LIMIT):
        async with nginx(tmp_path) as port, serving(write_config(tmp_path, port, listen=listen), listeners=2) as server:
            yield World(tmp_path, server, identity)


@pytest.mark.needs("curl")
async def test_curl_speaks_both_protocols_over_clear_text_and_tls(world: World) -> None:
    curl = ("curl", "-sS", "--fail", "-w", "%{http_version}", "-H", "Host: api.example", "--cacert", str(world.identity.authority))
    assert await world.run(*curl, "--http1.1", world.plain) == PAGE + "1.1"
    assert await world.run(*curl, "--http1.1", world.tls) == PAGE + "1.1"
    assert await world.run(*curl, "--http2-prior-knowledge", world.plain) == PAGE + "2"
    assert await world.run(*curl, "--http2", world.tls) == PAGE + "2"
    summary = await world.end()
    assert summary.client_connections == {"h2": 2, "http/1.1": 2}
    assert summary.statuses == {"-": {"2xx": 2}, "h2": {"2xx": 2}}
    assert world.lines_of_nginx() == 4


@pytest.mark.needs("nghttp")
async def test_nghttp_gets_the_page(world: World) -> None:
    for url in (world.plain, world.tls):
        printed = await world.run("nghttp", "-nv", "-H", ":authority: api.example", url)
        assert ":status: 200" in printed
        assert "GOAWAY" not in printed.partition("send GOAWAY")[0]
    summary = await world.end()
    assert list(summary.streams_per_connection.values()) == [1, 1]


@pytest.mark.needs("h2load")
@pytest.mark.parametrize("url", [lambda world: world.plain, lambda world: world.tls], ids=["plain", "tls"])
async def test_h2load_has_every_request_answered_and_each_is_a_stream_in_the_log(world: World, url: Callable[[World], str]) -> None:
    printed = await world.run("h2load", "-n", "2000", "-c", "4", "-m", "20", "-H", ":authority: api.example", url(world))
    assert "2000 total, 2000 started, 2000 done, 2000 succeeded, 0 failed, 0 errored, 0 timeout" in printed
    assert re.search(r"status codes: 2000 2xx, 0 3xx, 0 4xx, 0 5xx", printed)
    summary = await world.end()
    assert (summary.transactions, dict(summary.client_connections), dict(summary.statuses)) == (2000, {"h2": 4}, {"h2": {"2xx": 2000}})
    assert list(summary.streams_per_connection.values()) == [500] * 4
    assert world.lines_of_nginx() == 2000


@pytest.mark.needs("h2load")
async def test_h2load_over_http1_has_every_request_answered_and_logged(world: World) -> None:
    printed = await world.run("h2load", "--h1", "-n", "2000", "-c", "4", "-H", ":authority: api.example", world.plain)
    assert "2000 total, 2000 started, 2000 done, 2000 succeeded, 0 failed, 0 errored, 0 timeout" in printed
    summary = await world.end()
    assert (summary.transactions, dict(summary.client_connections), dict(summary.statuses)) == (2000, {"http/1.1": 4}, {"-": {"2xx": 2000}})
    assert summary.ended == {"complete": 2000}
    assert world.lines_of_nginx() == 2000
