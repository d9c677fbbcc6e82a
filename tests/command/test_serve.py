from __future__ import annotations

import gc
import signal
import socket
from pathlib import Path

import attrs
import pytest
import trio
import trio.testing

from trio_tsconnect import Plugin, Proxy, ProxyConfig, Request, Transaction
from trio_tsconnect.__main__ import main
from trio_tsconnect._command import _serve
from trio_tsconnect._command._listen import Protocols, http1_context

from ._process import (
    COMMAND,
    WITHOUT_H2,
    announced_ports,
    answer_at_once,
    fetch,
    listening,
    read_head,
    records_in,
    serving,
    write_config,
)
from .conftest import Identity


class SlowOrigin:
    """Says when a request has come, and answers when it is told to."""

    def __init__(self) -> None:
        self.asked, self.answer = trio.Event(), trio.Event()

    async def serve(self, stream: trio.SocketStream) -> None:
        await read_head(stream)
        self.asked.set()
        await self.answer.wait()
        await stream.send_all(b"HTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\nslow")


async def test_announces_the_real_port_and_logs_each_transaction(tmp_path: Path) -> None:
    async with listening(answer_at_once) as origin, serving(write_config(tmp_path, origin)) as server:
        (port,) = server.ports()
        assert f"listening http://127.0.0.1:{port} (h2, http/1.1)\n" in server.said
        assert (await fetch(await trio.open_tcp_stream("127.0.0.1", port))).endswith(b"\r\n\r\nok")
        server.signal(signal.SIGTERM)
        assert await server.end() == 0
    (record,) = records_in(tmp_path / "transactions.jsonl")
    assert (record["status"], record["client_protocol"], record["ended"]["why"]) == (200, "http/1.1", "complete")


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
async def test_first_signal_refuses_new_clients_and_finishes_what_is_in_progress(tmp_path: Path, number: int) -> None:
    slow = SlowOrigin()
    async with listening(slow.serve) as origin, serving(write_config(tmp_path, origin)) as server, trio.open_nursery() as nursery:
        (port,) = server.ports()
        stream = await trio.open_tcp_stream("127.0.0.1", port)
        idle = await trio.open_tcp_stream("127.0.0.1", port)
        await stream.send_all(b"GET / HTTP/1.1\r\nHost: api.example\r\n\r\n")
        await slow.asked.wait()
        server.signal(number)
        await server.until("draining")
        assert await idle.receive_some() == b""  # which also says that the doors are closed by now
        await idle.aclose()
        with pytest.raises(OSError, match="connect"):
            await trio.open_tcp_stream("127.0.0.1", port)
        slow.answer.set()
        answer = await read_head(stream)
        assert answer.startswith(b"HTTP/1.1 200 ")
        assert b"connection: close\r\n" in answer.lower()
        await stream.aclose()
        assert await server.end() == 0
        nursery.cancel_scope.cancel()
    (record,) = records_in(tmp_path / "transactions.jsonl")
    assert (record["status"], record["ended"]["why"]) == (200, "complete")


@pytest.mark.parametrize(("number", "status"), [(signal.SIGTERM, 143), (signal.SIGINT, 130)])
async def test_second_signal_cancels_and_the_record_says_so(tmp_path: Path, number: int, status: int) -> None:
    slow = SlowOrigin()
    async with (
        listening(slow.serve) as origin,
        serving(write_config(tmp_path, origin)) as server,
        await trio.open_tcp_stream("127.0.0.1", server.ports()[0]) as stream,
    ):
        await stream.send_all(b"GET / HTTP/1.1\r\nHost: api.example\r\n\r\n")
        await slow.asked.wait()
        server.signal(signal.SIGTERM)
        await server.until("draining")
        server.signal(number)
        assert await server.end() == status
    (record,) = records_in(tmp_path / "transactions.jsonl")
    assert record["ended"]["by"] == "proxy"
    assert "Traceback" not in server.said


async def test_drain_that_takes_too_long_is_cut_short_and_still_exits_0(tmp_path: Path) -> None:
    slow = SlowOrigin()
    async with listening(slow.serve) as origin:
        config = write_config(tmp_path, origin, "[http]\ndrain_timeout = 0.1")
        async with serving(config) as server, await trio.open_tcp_stream("127.0.0.1", server.ports()[0]) as stream:
            await stream.send_all(b"GET / HTTP/1.1\r\nHost: api.example\r\n\r\n")
            await slow.asked.wait()
            server.signal(signal.SIGTERM)
            assert await server.end() == 0
    (record,) = records_in(tmp_path / "transactions.jsonl")
    assert record["ended"]["by"] == "proxy"


async def test_http2_client_without_streams_is_told_to_go_away_when_the_proxy_drains(tmp_path: Path, identity: Identity) -> None:
    config = write_config(tmp_path, 1, listen=[f'address = "127.0.0.1:0"\n{identity.tls}'])
    async with serving(config) as server, await trio.open_tcp_stream("127.0.0.1", server.ports()[0]) as tcp:
        stream = trio.SSLStream(tcp, identity.trusting("h2"), server_hostname="api.example", https_compatible=True)
        await stream.send_all(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + b"\0\0\0\4\0\0\0\0\0")  # the preface, and empty SETTINGS
        received = bytearray(await stream.receive_some())
        server.signal(signal.SIGTERM)
        while GOAWAY not in frame_types(received):
            received += await stream.receive_some()
        await stream.aclose()
        assert await server.end() == 0


GOAWAY = 7


def frame_types(received: bytearray) -> list[int]:
    """Of the HTTP/2 frames that have begun (RFC 9113 §4.1)."""
    at, types = 0, []
    while at + 9 <= len(received):
        types.append(received[at + 3])
        at += 9 + int.from_bytes(received[at : at + 3])
    return types


async def test_hangup_signal_reopens_the_log_under_its_name(tmp_path: Path) -> None:
    log = tmp_path / "transactions.jsonl"
    async with listening(answer_at_once) as origin, serving(write_config(tmp_path, origin)) as server:
        (port,) = server.ports()
        log.rename(tmp_path / "old.jsonl")
        server.signal(signal.SIGHUP)
        await server.until("the log was reopened")
        await fetch(await trio.open_tcp_stream("127.0.0.1", port))
        server.signal(signal.SIGTERM)
        assert await server.end() == 0
    assert len(records_in(log)) == 1


async def test_each_log_of_a_file_has_the_fields_that_it_selects(tmp_path: Path) -> None:
    config = write_config(tmp_path, 1)
    text = config.read_text().replace("[log]", "[[log]]")
    config.write_text(f'{text}\n[[log]]\npath = "selected.log"\nformat = "%<{{Host}}cqh> %<{{Content-Type}}psh>"\n')
    async with serving(config) as server:
        (port,) = server.ports()
        await fetch(await trio.open_tcp_stream("127.0.0.1", port))
        server.signal(signal.SIGTERM)
        assert await server.end() == 0
    host = records_in(tmp_path / "transactions.jsonl")[0]["host"]
    line = (tmp_path / "selected.log").read_text()
    assert line.split()[0] == host
    assert line.split()[1].startswith("text/")


async def test_hangup_signal_keeps_the_old_log_when_a_new_one_cannot_be_opened(tmp_path: Path) -> None:
    folder = tmp_path / "logs"
    folder.mkdir()
    config = write_config(tmp_path, 1)
    config.write_text(config.read_text().replace('"transactions.jsonl"', '"logs/transactions.jsonl"'))
    async with serving(config) as server:
        folder.rename(tmp_path / "moved")
        server.signal(signal.SIGHUP)
        await server.until("the log cannot be reopened (no such file or directory)")
        await fetch(await trio.open_tcp_stream("127.0.0.1", server.ports()[0]))
        server.signal(signal.SIGTERM)
        assert await server.end() == 0
    assert len(records_in(tmp_path / "moved" / "transactions.jsonl")) == 1


async def test_user_signal_shows_what_is_alive(tmp_path: Path) -> None:
    slow = SlowOrigin()
    async with (
        listening(slow.serve) as origin,
        serving(write_config(tmp_path, origin)) as server,
        await trio.open_tcp_stream("127.0.0.1", server.ports()[0]) as stream,
    ):
        server.signal(signal.SIGUSR1)
        await server.until("transactions alive: none\n")
        await stream.send_all(b"GET /slow HTTP/1.1\r\nHost: api.example\r\n\r\n")
        await slow.asked.wait()
        server.signal(signal.SIGUSR1)
        await server.until("transactions alive:\n#")
        await server.until(" GET http://api.example/slow [")
        slow.answer.set()
        await read_head(stream)


async def test_without_a_log_table_records_go_to_standard_error(tmp_path: Path) -> None:
    config = tmp_path / "proxy.toml"
    config.write_text('[[listen]]\naddress = "127.0.0.1:0"\n')
    async with serving(config) as server:
        await fetch(await trio.open_tcp_stream("127.0.0.1", server.ports()[0]))
        server.signal(signal.SIGTERM)
        assert await server.end() == 0
    assert '"status":404' in server.said
    assert "warning: remap: there is no rule" in server.said


async def test_client_that_fails_the_tls_handshake_hurts_no_other(tmp_path: Path, identity: Identity) -> None:
    config_listen = [f'address = "127.0.0.1:0"\n{identity.tls}']
    async with listening(answer_at_once) as origin, serving(write_config(tmp_path, origin, listen=config_listen)) as server:
        (port,) = server.ports()
        assert f"listening https://127.0.0.1:{port} (h2, http/1.1)" in server.said
        async with await trio.open_tcp_stream("127.0.0.1", port) as silent, await trio.open_tcp_stream("127.0.0.1", port) as wrong:
            await wrong.send_all(b"GET / HTTP/1.1\r\n\r\n" * 10)
            while await wrong.receive_some():
                pass
            tcp = await trio.open_tcp_stream("127.0.0.1", port)
            good = trio.SSLStream(tcp, identity.trusting("http/1.1"), server_hostname="api.example", https_compatible=True)
            assert (await fetch(good)).endswith(b"\r\n\r\nok")
            await silent.send_all(b"\x16")
        server.signal(signal.SIGTERM)
        assert await server.end() == 0
    assert "Traceback" not in server.said


async def test_without_h2_it_serves_http1_and_says_what_to_install(tmp_path: Path, identity: Identity) -> None:
    listen = ['address = "127.0.0.1:0"', f'address = "127.0.0.1:0"\n{identity.tls}']
    async with listening(answer_at_once) as origin:
        config = write_config(tmp_path, origin, listen=listen)
        async with serving(config, listeners=2, command=WITHOUT_H2) as server:
            plain, tls = server.ports()
            assert "serving HTTP/1.1 only: HTTP/2 needs the package h2: pip install 'trio-tsconnect[h2]'\n" in server.said
            assert f"listening http://127.0.0.1:{plain} (http/1.1)\nlistening https://127.0.0.1:{tls} (http/1.1)\n" in server.said
            assert (await fetch(await trio.open_tcp_stream("127.0.0.1", plain))).endswith(b"\r\n\r\nok")
            tcp = await trio.open_tcp_stream("127.0.0.1", tls)
            stream = trio.SSLStream(tcp, identity.trusting("h2", "http/1.1"), server_hostname="api.example", https_compatible=True)
            assert (await fetch(stream)).endswith(b"\r\n\r\nok")
            assert stream.selected_alpn_protocol() == "http/1.1"
            async with await trio.open_tcp_stream("127.0.0.1", tls) as wrong:
                await wrong.send_all(b"GET / HTTP/1.1\r\n\r\n" * 10)
                while await wrong.receive_some():
                    pass
            server.signal(signal.SIGTERM)
            assert await server.end() == 0
    assert "Traceback" not in server.said


async def test_survives_running_out_of_file_descriptors(tmp_path: Path) -> None:
    limited = ("bash", "-c", 'ulimit -n 40; exec "$@"', "bash", *COMMAND)
    async with listening(answer_at_once) as origin, serving(write_config(tmp_path, origin), command=limited) as server:
        (port,) = server.ports()
        crowd = [await trio.open_tcp_stream("127.0.0.1", port) for _ in range(60)]
        await server.until("Too many open files")
        for stream in crowd:
            await stream.aclose()
        assert (await fetch(await trio.open_tcp_stream("127.0.0.1", port))).endswith(b"\r\n\r\nok")
        server.signal(signal.SIGTERM)
        assert await server.end() == 0


async def test_takes_all_the_file_descriptors_it_may_have(tmp_path: Path) -> None:
    limited = ("bash", "-c", 'ulimit -S -n 40; exec "$@"', "bash", *COMMAND)
    async with listening(answer_at_once) as origin, serving(write_config(tmp_path, origin), command=limited) as server:
        (port,) = server.ports()
        crowd = [await trio.open_tcp_stream("127.0.0.1", port) for _ in range(60)]
        assert (await fetch(await trio.open_tcp_stream("127.0.0.1", port))).endswith(b"\r\n\r\nok")
        for stream in crowd:
            await stream.aclose()
        server.signal(signal.SIGTERM)
        assert await server.end() == 0
    assert "Too many open files" not in server.said


class Stubborn(Plugin):
    """Has a request under way that no drain can finish."""

    def __init__(self) -> None:
        self.asked = trio.Event()

    async def read_request(self, txn: Transaction) -> None:
        self.asked.set()
        await trio.sleep_forever()

    async def run(self, proxy: Proxy) -> None:
        async with proxy.fetch(Request("GET", "/", {"Host": "api.example"})):
            pass


async def test_drain_takes_its_time_once(tmp_path: Path, autojump_clock: trio.testing.MockClock) -> None:
    stubborn = Stubborn()
    config = attrs.evolve(ProxyConfig.from_toml(write_config(tmp_path, 1)), plugins=[stubborn])
    server = _serve._Server(config)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(server.run, "proxy.toml")
        await stubborn.asked.wait()
        began = trio.current_time()
        server.stopping.set()
    assert config.http.drain_timeout <= trio.current_time() - began < 2 * config.http.drain_timeout
    assert server.status == 0


# --- what cannot be served: one line, exit status 2, nothing half started --------------------------------------------------------------


def test_address_in_use_is_one_line_and_nothing_is_half_started(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        address = f"127.0.0.1:{taken.getsockname()[1]}"
        config = write_config(tmp_path, 1, listen=['address = "127.0.0.1:0"', f'address = "{address}"'])
        assert main(["serve", str(config)]) == 2
    expected = f"tsconnect: {config}: listen[1].address: address already in use: {address}, expected a free address of this machine\n"
    assert capsys.readouterr() == ("", expected)
    assert not (tmp_path / "transactions.jsonl").exists()
    gc.collect()  # a listener that was left open is a ResourceWarning, which fails the test


@pytest.mark.parametrize(
    ("text", "complaint"),
    [
        ('[[listen]]\naddress = "127.0.0.1:0"\n[http]\nremap_requierd = true', "http.remap_requierd: "),
        ('[[listen]]\naddress = "127.0.0.1"', "listen[0].address: "),
        ('[[listen]]\naddress = "192.0.2.1:0"', "listen[0].address: cannot listen ("),
        (
            '[[listen]]\naddress = "127.0.0.1:0"\ntls = { certificate = "no.pem", key = "no.pem" }',
            "listen[0].tls.certificate: no such file",
        ),
        ('[[remap]]\nfrom = "//a.example/"\nto = "http://127.0.0.1:1/"', "listen: there is nothing to listen on"),
        ('[[listen]]\naddress = "127.0.0.1:0"\n[log]\npath = "nowhere/log"', "log.path: no such directory"),
        ("[[listen", "line 1: is not TOML"),
    ],
)
def test_configuration_that_cannot_be_served_is_one_line(
    tmp_path: Path, text: str, complaint: str, capsys: pytest.CaptureFixture[str]
) -> None:
    config = tmp_path / "proxy.toml"
    config.write_text(text)
    assert main(["serve", str(config)]) == 2
    printed, said = capsys.readouterr()
    assert printed == ""
    (line,) = said.splitlines()
    assert line.startswith(f"tsconnect: {config}: {complaint}")


async def test_front_end_that_raises_hurts_no_other_client(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], caplog: pytest.LogCaptureFixture
) -> None:
    clients = 0

    async def fail_at_first(proxy: Proxy, stream: trio.abc.Stream) -> None:
        nonlocal clients
        clients += 1
        if clients == 1:
            raise RuntimeError("the first client of all")
        await proxy.serve_stream(stream)

    monkeypatch.setattr(_serve, "find_protocols", lambda: Protocols(names="h2", serve=fail_at_first, tls=http1_context))
    server = _serve._Server(ProxyConfig.from_toml(write_config(tmp_path, 1)))
    async with trio.open_nursery() as nursery:
        nursery.start_soon(server.run, "proxy.toml")
        await trio.testing.wait_all_tasks_blocked()
        (port,) = announced_ports(capsys.readouterr().err)
        async with await trio.open_tcp_stream("127.0.0.1", port) as first:
            assert await first.receive_some() == b""
        assert (await fetch(await trio.open_tcp_stream("127.0.0.1", port))).startswith(b"HTTP/1.1 502 ")
        server.stopping.set()
    assert "the first client of all" in caplog.text
