"""Real clients, over real sockets: curl, nghttp, h2load, httpx; and the example."""

from __future__ import annotations

import re
import ssl
import subprocess
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from functools import partial
from pathlib import Path

import httpx
import pytest
import trio
import trustme

from trio_tsconnect import MemoryLog, open_proxy
from trio_tsconnect.http2 import serve_auto, ssl_context

from ._raw import Origin


@asynccontextmanager
async def serving(context: ssl.SSLContext | None = None, origin: Origin | None = None) -> AsyncIterator[tuple[int, MemoryLog]]:
    """A port of a proxy whose plugin answers, and its log."""
    log = MemoryLog()
    async with trio.open_nursery() as nursery:
        async with open_proxy(plugins=[origin or Origin()], log=log) as proxy:
            (tcp,) = await trio.open_tcp_listeners(0, host="127.0.0.1")
            listener = trio.SSLListener(tcp, context, https_compatible=True) if context else tcp
            nursery.start_soon(trio.serve_listeners, partial(serve_auto, proxy), [listener])
            yield tcp.socket.getsockname()[1], log
        nursery.cancel_scope.cancel()


async def run(*command: str) -> str:
    with trio.fail_after(60):
        done = await trio.run_process(command, capture_stdout=True, stderr=subprocess.STDOUT, check=False)
    printed = done.stdout.decode()
    assert done.returncode == 0, printed
    return printed


@pytest.fixture(scope="module")
def authority() -> trustme.CA:
    return trustme.CA()


@pytest.fixture(scope="module")
def pem(authority: trustme.CA, tmp_path_factory: pytest.TempPathFactory) -> Path:
    directory = tmp_path_factory.mktemp("pem")
    authority.cert_pem.write_to_path(directory / "ca.pem")
    authority.issue_cert("localhost", "127.0.0.1").private_key_and_cert_chain_pem.write_to_path(directory / "server.pem")
    return directory


@pytest.mark.needs("curl")
async def test_curl_with_prior_knowledge() -> None:
    async with serving() as (port, log):
        assert await run("curl", "-sS", "--http2-prior-knowledge", "-w", " %{http_version}", f"http://127.0.0.1:{port}/a") == "hello 2"
        assert [(record.tag, record.url) for record in log.records] == [("h2", f"http://127.0.0.1:{port}/a")]


@pytest.mark.needs("curl")
@pytest.mark.parametrize(("option", "version"), [("--http2", "2"), ("--http1.1", "1.1")])
async def test_curl_over_tls(pem: Path, option: str, version: str) -> None:
    async with serving(ssl_context(pem / "server.pem", pem / "server.pem")) as (port, _):
        url = f"https://127.0.0.1:{port}/"
        assert await run("curl", "-sS", option, "--cacert", str(pem / "ca.pem"), "-w", " %{http_version}", url) == f"hello {version}"


@pytest.mark.needs("curl")
@pytest.mark.parametrize("status", [200, 413])
async def test_curl_that_uploads_gets_an_early_answer(tmp_path: Path, status: int) -> None:
    """The client has it, whatever it does about the rest: curl before 8.0 wants to send that to its end, and reads nothing meanwhile."""

    class Early(Origin):
        async def read_request(self, txn) -> None:  # type: ignore[no-untyped-def]
            txn.respond(status, b"early")

    with (tmp_path / "upload").open("wb") as upload:
        upload.truncate(20 << 20)
    async with serving(origin=Early()) as (port, _):
        printed = await run(
            "curl",
            *("-sS", "--http2-prior-knowledge", "--max-time", "30", "-T", str(tmp_path / "upload"), "-w", " %{http_code}"),
            f"http://127.0.0.1:{port}/",
        )
        assert printed.endswith(f"early {status}")


@pytest.mark.needs("nghttp")
async def test_nghttp() -> None:
    async with serving() as (port, _):
        printed = await run("nghttp", "-nv", f"http://127.0.0.1:{port}/")
        assert ":status: 200" in printed
        assert "SETTINGS_MAX_CONCURRENT_STREAMS(0x03):100" in printed
        assert "RST_STREAM" not in printed


@pytest.mark.needs("h2load")
async def test_h2load_counts_every_request_a_success() -> None:
    async with serving() as (port, log):
        printed = await run("h2load", "-n", "400", "-c", "4", "-m", "20", f"http://127.0.0.1:{port}/")
        assert "400 succeeded, 0 failed, 0 errored" in printed
        assert len(log.records) == 400
        assert len({record.id for record in log.records}) == 4


async def test_httpx_with_http2(authority: trustme.CA, pem: Path) -> None:
    context = ssl.create_default_context()
    authority.configure_trust(context)
    async with serving(ssl_context(pem / "server.pem", pem / "server.pem")) as (port, log):
        async with httpx.AsyncClient(http2=True, verify=context) as client:
            for _ in range(3):
                answer = await client.post(f"https://localhost:{port}/", content=b"x" * 100)
                assert (answer.http_version, answer.status_code, answer.text) == ("HTTP/2", 200, "hello")
        assert [record.stream for record in log.records] == [1, 3, 5]


def test_example_multiplexes() -> None:
    import os
    import sys

    example = Path(__file__).parents[2] / "examples" / "h2_multiplexer.py"
    done = subprocess.run(
        [sys.executable, "-W", "error", str(example)],
        env=os.environ | {"PYTHONPATH": str(example.parents[1])},
        capture_output=True,
        check=False,
        text=True,
        timeout=60,
    )
    assert (done.returncode, done.stderr) == (0, "")
    assert re.fullmatch(
        r"client connection \d+: 5 streams, from http://h\.example/1 to http://h\.example/9\n"
        r"client connection \d+: 2 streams, from http://h\.example/1 to http://h\.example/3\n",
        done.stdout,
    )
