"""The command ends when it is told to, whatever the code that it serves does. Each application here would go on for 1000 seconds."""

from __future__ import annotations

import signal
import sys
from pathlib import Path

import pytest
import trio

from ._process import serving

HERE = str(Path(__file__).parent)
COMMAND = (
    sys.executable,
    "-c",
    f"import sys; sys.path.insert(0, {HERE!r}); from trio_tsconnect.__main__ import main; sys.exit(main(sys.argv[1:]))",
)
GET = b"GET / HTTP/1.1\r\nHost: a\r\n\r\n"


def write_config(folder: Path, app: str) -> Path:
    config = folder / "proxy.toml"
    config.write_text(
        f'[[listen]]\naddress = "127.0.0.1:0"\n[[remap]]\nfrom = "/"\nto = "{app}"\n'
        '[http]\ndrain_timeout = 0.1\nclose_timeout = 0.1\n[log]\npath = "transactions.jsonl"\n'
    )
    return config


STUBBORN = [
    ("asgi:_stubborn:hangs_in_shutdown", "shutting down"),
    ("asgi:_stubborn:blocks_in_a_request", "blocking"),
    ("asgi+trio:_stubborn:blocks_in_a_request", "blocking"),
    ("asgi:_stubborn:blocks_in_startup", "blocking"),
    ("asgi:_stubborn:swallows_its_cancellation", "swallowing"),
]


@pytest.mark.parametrize(("app", "stuck"), STUBBORN)
@pytest.mark.parametrize(("signals", "status"), [(1, {0}), (2, {130, 143})])
async def test_signals_end_what_does_not_end_by_itself(tmp_path: Path, app: str, stuck: str, signals: int, status: set[int]) -> None:
    async with (
        serving(write_config(tmp_path, app), command=COMMAND) as server,
        await trio.open_tcp_stream("127.0.0.1", server.ports()[0]) as client,
    ):
        await client.send_all(GET)
        if stuck == "shutting down":
            await client.receive_some()  # so it has started up
        else:
            await server.until(stuck)
        for number in [signal.SIGINT, signal.SIGTERM][-signals:]:  # two of one kind may be one to the system
            server.signal(number)
        assert await server.end() in status
    assert ("the process exits without them" in server.said) == (signals == 1)
    assert "Traceback" not in server.said


async def test_signals_count_whichever_thread_they_interrupt(tmp_path: Path) -> None:
    """The second of two signals in a row may interrupt another thread than the first, while the main thread is blocked."""
    async with (
        serving(write_config(tmp_path, "asgi+trio:_stubborn:is_interrupted_elsewhere"), command=COMMAND) as server,
        await trio.open_tcp_stream("127.0.0.1", server.ports()[0]) as client,
    ):
        await client.send_all(GET)
        assert await server.end() in {130, 143}


async def test_third_signal_waits_for_nothing(tmp_path: Path) -> None:
    """Not even for the half second that the second one gives."""
    async with (
        serving(write_config(tmp_path, "asgi+trio:_stubborn:blocks_in_a_request"), command=COMMAND) as server,
        await trio.open_tcp_stream("127.0.0.1", server.ports()[0]) as client,
    ):
        await client.send_all(GET)
        await server.until("blocking")
        while server.process.poll() is None:  # several of them may be one to the system
            server.signal(signal.SIGTERM)
            await trio.lowlevel.checkpoint()
        assert await server.end() == -signal.SIGTERM
