"""A browser loads a page, with all that is in it, over one connection: Chromium, over TLS."""

from __future__ import annotations

import json
import os
import re
import signal
import struct
import subprocess
import zlib
from functools import partial
from pathlib import Path

import pytest
import trio
import trustme

from trio_tsconnect import MemoryLog, open_proxy
from trio_tsconnect.http2 import serve_auto, ssl_context

from ._raw import Origin, read_head

LIMIT = 60
"""Seconds. A browser takes two to start, and many more on a machine that has other things to do."""

RESOURCES = ["js"] * 20 + ["css"] * 10 + ["png"] * 20
"""What the page is made of. Each one tells its number, and the page looks whether the right one came for each address."""

TAGS = {
    "js": '<script src="/%d.js"></script>',
    "css": '<link rel="stylesheet" href="/%d.css">',
    "png": '<img id="image%d" src="/%d.png" alt="">',
}

# (an icon without an address: a browser without a window may ask for /favicon.ico, or may not)
PAGE = """<!doctype html>
<html><head><link rel="icon" href="data:,"></head><body>
<pre id="seen">nothing</pre>
<script>const said = [];</script>
TAGS
<script>
const style = getComputedStyle(document.documentElement);
const isThere = {
  js: n => said.includes(n),
  css: n => style.getPropertyValue("--resource" + n).trim() === String(n),
  png: n => document.getElementById("image" + n).naturalWidth === n + 1,
};
addEventListener("load", () => {
  const timings = [...performance.getEntriesByType("navigation"), ...performance.getEntriesByType("resource")];
  const protocols = timings.filter(timing => timing.name.startsWith(location.origin)).map(timing => timing.nextHopProtocol);
  const there = RESOURCES.filter((kind, n) => isThere[kind](n));
  document.getElementById("seen").textContent = `${there.length} resources, ${protocols.length} times by ${[...new Set(protocols)]}`;
});
</script>
</body></html>
"""


def make_page() -> bytes:
    tags = [TAGS[kind].replace("%d", str(number)) for number, kind in enumerate(RESOURCES)]
    return PAGE.replace("TAGS", "\n".join(tags)).replace("RESOURCES", json.dumps(RESOURCES)).encode()


def make_png(width: int) -> bytes:
    """A black picture, one pixel high."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">L", len(data)) + kind + data + struct.pack(">L", zlib.crc32(kind + data))

    head = struct.pack(">LLBBBBB", width, 1, 8, 0, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", head) + chunk(b"IDAT", zlib.compress(bytes(width + 1))) + chunk(b"IEND", b"")


def content_of(path: str) -> tuple[str, bytes]:
    """What is to be found there: its type, and its content."""
    name, _, kind = path.removeprefix("/").partition(".")
    match kind:
        case "js":
            return "text/javascript", f"said.push({name});".encode()
        case "css":
            return "text/css", f":root {{ --resource{name}: {name}; }}".encode()
        case "png":
            return "image/png", make_png(int(name) + 1)
        case _:
            return "text/html; charset=utf-8", make_page()


async def serve_site(stream: trio.abc.HalfCloseableStream) -> None:
    head, _ = await read_head(stream)
    kind, content = content_of(head.split()[1].decode())
    await stream.send_all(b"HTTP/1.1 200 OK\r\nContent-Type: %b\r\nContent-Length: %d\r\n\r\n%b" % (kind.encode(), len(content), content))


async def dump_dom(url: str, home: Path) -> str:
    """The page as it is in the browser once all of it has loaded."""
    # fmt: off
    command = [
        "chromium", "--headless", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage", "--disable-quic", "--no-first-run",
        "--disable-background-networking", "--disable-component-update", "--disable-sync", "--no-proxy-server", "--ignore-certificate-errors",
        f"--user-data-dir={home / 'profile'}", "--dump-dom", url,
    ]
    # fmt: on
    # Files, not pipes: the browser's own children may keep a pipe open when it has ended. A group of its own, to be ended as a whole.
    with (home / "dom.html").open("wb") as dom, (home / "messages").open("wb") as messages:
        process = await trio.lowlevel.open_process(
            command,
            stdin=subprocess.DEVNULL,
            stdout=dom,
            stderr=messages,
            env=os.environ | {"HOME": str(home)},
            start_new_session=True,
        )
        try:
            with trio.move_on_after(LIMIT):
                await process.wait()
        finally:
            try:
                os.killpg(process.pid, signal.SIGKILL)
            except ProcessLookupError:
                pass  # all of it has ended by itself
            with trio.CancelScope(shield=True):
                await process.wait()
    assert process.returncode == 0, (home / "messages").read_text(errors="replace")
    return (home / "dom.html").read_text()


@pytest.mark.needs("chromium")
async def test_browser_loads_a_page_of_fifty_resources_over_one_connection(tmp_path: Path) -> None:
    trustme.CA().issue_cert("127.0.0.1").private_key_and_cert_chain_pem.write_to_path(tmp_path / "server.pem")
    log = MemoryLog()
    async with trio.open_nursery() as nursery:
        async with open_proxy(plugins=[Origin(serve_site)], log=log) as proxy:
            (tcp,) = await trio.open_tcp_listeners(0, host="127.0.0.1")
            listener = trio.SSLListener(tcp, ssl_context(tmp_path / "server.pem", tmp_path / "server.pem"), https_compatible=True)
            nursery.start_soon(trio.serve_listeners, partial(serve_auto, proxy), [listener])
            site = f"https://127.0.0.1:{tcp.socket.getsockname()[1]}"
            dom = await dump_dom(f"{site}/", tmp_path)
        nursery.cancel_scope.cancel()

    seen = re.search(r'<pre id="seen">(.*?)</pre>', dom)
    assert seen is not None, dom
    assert seen[1] == "50 resources, 51 times by h2"

    paths = ["/", *(f"/{number}.{kind}" for number, kind in enumerate(RESOURCES))]
    assert sorted(str(record.url) for record in log.records) == sorted(site + path for path in paths)
    ends = {(record.client_protocol, record.tag, record.status, record.ended.why) for record in log.records}
    assert ends == {("h2", "h2", 200, "complete")}
    assert {record.client_connection for record in log.records} == {log.records[0].id} != {0}
    assert len({record.stream for record in log.records}) == 51
