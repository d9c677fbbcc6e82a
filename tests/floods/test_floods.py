"""Under every flood a probe on another connection is answered. The attackers and the server are processes of their own, on real sockets.

In `make fuzz` it is timed: the worst probe of three tries, the middle one of them, takes 250 ms at most; memory stays bounded.
"""

from __future__ import annotations

import os
import statistics
import subprocess
import sys
from pathlib import Path

import pytest
import trio

from tests.command._process import Serving, serving
from tests.floods._attackers import ATTACKS

pytestmark = pytest.mark.long
LONG = os.environ.get("HYPOTHESIS_PROFILE") == "long"
ROOT = Path(__file__).parent.parent.parent
SECONDS = 4.0 if LONG else 0.3
TRIES = 3 if LONG else 1
LATEST = 0.25
MOST_MEMORY = 400 << 20
COMMAND = (
    sys.executable,
    "-c",
    f"import sys; sys.path.insert(0, {str(ROOT)!r}); from trio_tsconnect.__main__ import main; sys.exit(main(sys.argv[1:]))",
)


def write_config(folder: Path) -> Path:
    config = folder / "proxy.toml"
    config.write_text(
        '[[listen]]\naddress = "127.0.0.1:0"\n[[remap]]\nfrom = "/"\nto = "asgi+trio:tests.floods._app:app"\n'
        '[http]\ndrain_timeout = 0.1\nclose_timeout = 0.5\n[log]\npath = "transactions.jsonl"\n'
    )
    return config


async def probe(port: int) -> float:
    """How long a new client waits for an answer."""
    start = trio.current_time()
    async with await trio.open_tcp_stream("127.0.0.1", port) as stream:
        await stream.send_all(b"GET /small HTTP/1.1\r\nHost: probe\r\nConnection: close\r\n\r\n")
        answer = b"".join([bytes(data) async for data in stream])
    assert answer.startswith(b"HTTP/1.1 200 OK\r\n")
    return trio.current_time() - start


def memory(server: Serving) -> int:
    pages = int(Path(f"/proc/{server.process.pid}/statm").read_text(encoding="ascii").split()[1])
    return pages * os.sysconf("SC_PAGESIZE")


async def worst_under(attack: str, server: Serving) -> float:
    port = server.ports()[0]
    attacker = await trio.lowlevel.open_process(
        [sys.executable, "-m", "tests.floods._attackers", attack, str(port), str(SECONDS)], stdout=subprocess.PIPE, cwd=ROOT
    )
    worst = 0.0
    try:
        assert attacker.stdout is not None
        await attacker.stdout.receive_some()
        end = trio.current_time() + SECONDS
        while trio.current_time() < end:
            worst = max(worst, await probe(port))
            await trio.sleep(0.02)
    finally:
        if attacker.returncode is None:
            attacker.kill()
        with trio.CancelScope(shield=True):
            await attacker.wait()
            assert attacker.stdout is not None
            await attacker.stdout.aclose()
    return worst


@pytest.mark.parametrize("attack", ATTACKS)
async def test_probe_is_answered_under_every_flood(attack: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    async with serving(write_config(tmp_path), command=COMMAND) as server:
        worst = [await worst_under(attack, server) for _ in range(TRIES)]
        held = memory(server)
    if LONG:
        with capsys.disabled():
            print(f"\n{attack}: worst probe {', '.join(f'{each * 1000:.0f}' for each in worst)} ms, {held >> 20} MiB")
        assert statistics.median(worst) <= LATEST
        assert held <= MOST_MEMORY
