"""`tsconnect serve --reload-plugins`: a real process whose files are edited while clients are connected."""

from __future__ import annotations

import signal
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import trio

from ._process import Serving, fetch, listening, read_head, records_in, serving, write_config
from .conftest import Identity
from .test_serve import SlowOrigin

PLUGIN = """
from trio_tsconnect import Plugin
from words import WORD

class Stamp(Plugin):
    async def pre_remap(self, txn):
        if txn.request.target.endswith("/word"):
            txn.respond(200, WORD)

    async def send_response(self, txn):
        txn.response.headers["X-Word"] = WORD
"""
USE = '[[plugin]]\nuse = "stamp:Stamp"'


def write(folder: Path, word: str, plugin: str = PLUGIN) -> None:
    (folder / "words.py").write_text(f"WORD = {word!r}\n")
    (folder / "stamp.py").write_text(plugin)


def replace(file: Path, text: str) -> None:
    """As many editors save: write another file, and rename it."""
    fresh = file.with_suffix(".tmp")
    fresh.write_text(text)
    fresh.rename(file)


@asynccontextmanager
async def reloading(
    folder: Path, origin: int, *more: str, listen: tuple[str, ...] = ('address = "127.0.0.1:0"',)
) -> AsyncIterator[Serving]:
    write(folder, "one")
    config = write_config(folder, origin, USE, *more, listen=listen)
    async with serving(config, "--reload-plugins") as server:
        await server.until("reloading when a file changes: proxy.toml, stamp.py, words.py\n")
        yield server


async def word(server: Serving, path: str = "/word") -> bytes:
    return (await fetch(await trio.open_tcp_stream("127.0.0.1", server.ports()[0]), path)).rpartition(b"\r\n\r\n")[2]


async def test_edits_take_effect_while_a_request_in_progress_is_finished(tmp_path: Path) -> None:
    slow = SlowOrigin()
    async with listening(slow.serve) as origin, reloading(tmp_path, origin) as server:
        (port,) = server.ports()
        assert await word(server) == b"one"
        client, idle = await trio.open_tcp_stream("127.0.0.1", port), await trio.open_tcp_stream("127.0.0.1", port)
        for stream in (client, idle):  # both are kept alive
            await stream.send_all(b"GET /word HTTP/1.1\r\nHost: api.example\r\n\r\n")
            assert b"X-Word: one" in await read_head(stream)
        await client.send_all(b"GET /slow HTTP/1.1\r\nHost: api.example\r\n\r\n")
        await slow.asked.wait()

        replace(tmp_path / "stamp.py", PLUGIN.replace("(200, WORD)", "(200, WORD + '!')"))
        await server.until(" ms: stamp.py changed\n")
        assert await word(server) == b"one!"
        while await idle.receive_some():  # the rest of the body, and then the end
            pass
        slow.answer.set()
        answer = await read_head(client)
        assert b"X-Word: one\r\n" in answer
        assert b"connection: close\r\n" in answer.lower()
        async with client, idle:
            pass

        (tmp_path / "words.py").write_text("WORD = 'two'\n")  # beside the plugin
        await server.until(" ms: words.py changed\n")
        assert await word(server) == b"two!"
        server.signal(signal.SIGTERM)
        assert await server.end() == 0
    records = records_in(tmp_path / "transactions.jsonl")
    assert {record["status"] for record in records} == {200}
    assert sorted(record["ended"]["why"] for record in records) == ["complete", *["responded"] * 5]
    assert "Traceback" not in server.said


async def test_broken_file_is_named_and_the_old_code_goes_on_until_it_is_mended(tmp_path: Path) -> None:
    async with reloading(tmp_path, 1) as server:
        (tmp_path / "stamp.py").write_text(PLUGIN.replace("class Stamp(Plugin)", "class Stamp(Plugin"))
        await server.until("stamp.py changed, but the proxy goes on as before: ")
        await server.until(f" in {tmp_path / 'stamp.py'}, line 5)\n")
        assert await word(server) == b"one"
        write(tmp_path, "two")
        await server.until("reloaded in ")
        assert await word(server) == b"two"


async def test_edit_of_the_configuration_adds_a_rule_and_does_not_touch_listeners(tmp_path: Path) -> None:
    async def answer(stream: trio.SocketStream) -> None:
        await read_head(stream)
        await stream.send_all(b"HTTP/1.1 200 OK\r\nContent-Length: 3\r\n\r\nnew")

    async with listening(answer) as origin, reloading(tmp_path, 1) as server:
        config = tmp_path / "proxy.toml"
        text = config.read_text()
        replace(config, text + "[[remap]]\nfrom =")
        await server.until("proxy.toml changed, but the proxy goes on as before: ")
        await server.until(f"{config}: line ")
        rule = f'[[remap]]\nfrom = "//api.example/rule"\nto = "http://127.0.0.1:{origin}/"\n'
        replace(config, text.replace("127.0.0.1:0", "127.0.0.1:1") + rule)
        await server.until(" ms: proxy.toml changed; listen changed too: that needs a restart\n")
        assert await word(server, "/rule") == b"new"
        assert await word(server) == b"one"


async def test_handshake_that_lasts_longer_than_a_reload_is_served_by_the_new_code(tmp_path: Path, identity: Identity) -> None:
    listen = (f'address = "127.0.0.1:0"\n{identity.tls}',)
    async with reloading(tmp_path, 1, "[http]\ndrain_timeout = 0.01\nclose_timeout = 0.01", listen=listen) as server:
        tcp = await trio.open_tcp_stream("127.0.0.1", server.ports()[0])
        await tcp.send_all(b"\x16")  # a handshake has begun: what follows comes with the rest of its record
        for text in ("two", "three", "four"):  # at half a second each the first proxy has ended before the last
            write(tmp_path, text)
            await server.until("reloaded in ")
            server.said = server.said.replace("reloaded in", "done")
        stream = trio.SSLStream(_Without(tcp, 1), identity.trusting("http/1.1"), server_hostname="api.example", https_compatible=True)
        assert (await fetch(stream, "/word")).endswith(b"\r\n\r\nfour")


class _Without(trio.abc.Stream):
    """A stream whose first bytes to send were sent before."""

    def __init__(self, stream: trio.abc.Stream, sent: int) -> None:
        self._stream, self._sent = stream, sent

    async def send_all(self, data: bytes | bytearray | memoryview) -> None:
        sent, self._sent = self._sent, 0
        await self._stream.send_all(bytes(data)[sent:])

    async def wait_send_all_might_not_block(self) -> None:
        await self._stream.wait_send_all_might_not_block()

    async def receive_some(self, max_bytes: int | None = None) -> bytes:
        return bytes(await self._stream.receive_some(max_bytes))

    async def aclose(self) -> None:
        await self._stream.aclose()


async def _one_old_and_one_new(server: Serving, folder: Path, slow: SlowOrigin) -> trio.SocketStream:
    """A client whose request the old proxy serves, when the new one is there."""
    client = await trio.open_tcp_stream("127.0.0.1", server.ports()[0])
    await client.send_all(b"GET /slow HTTP/1.1\r\nHost: api.example\r\n\r\n")
    await slow.asked.wait()
    write(folder, "two")
    await server.until("reloaded in ")
    assert await word(server) == b"two"
    return client


async def test_first_signal_drains_the_old_proxy_too(tmp_path: Path) -> None:
    slow = SlowOrigin()
    async with listening(slow.serve) as origin, reloading(tmp_path, origin) as server:
        async with await _one_old_and_one_new(server, tmp_path, slow) as client:
            server.signal(signal.SIGUSR1)
            await server.until(" GET http://api.example/slow [")
            server.signal(signal.SIGTERM)
            await server.until("draining for at most 10 s")
            slow.answer.set()
            assert b"X-Word: one\r\n" in await read_head(client)
        assert await server.end() == 0
    assert [record["ended"]["why"] for record in records_in(tmp_path / "transactions.jsonl")] == ["responded", "complete"]


async def test_second_signal_ends_the_old_proxy_at_once(tmp_path: Path) -> None:
    slow = SlowOrigin()
    async with (
        listening(slow.serve) as origin,
        reloading(tmp_path, origin) as server,
        await _one_old_and_one_new(server, tmp_path, slow),
    ):
        server.signal(signal.SIGTERM)
        await server.until("draining")
        server.signal(signal.SIGTERM)
        assert await server.end() == 143
    assert [record["ended"]["by"] for record in records_in(tmp_path / "transactions.jsonl")] == ["plugin", "proxy"]
    assert "Traceback" not in server.said


async def test_signal_while_new_code_is_being_imported_ends_the_process(tmp_path: Path) -> None:
    limits = "[http]\ndrain_timeout = 0.1\nclose_timeout = 0.1"
    async with reloading(tmp_path, 1, limits) as server:
        assert await word(server) == b"one"
        code = "import sys, time\nprint('blocking', file=sys.stderr, flush=True)\ntime.sleep(1000)\n"
        replace(tmp_path / "words.py", code)
        await server.until("blocking")
        server.signal(signal.SIGTERM)
        assert await server.end() == 0
    assert "the process exits without them" in server.said
