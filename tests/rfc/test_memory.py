"""Bodies of any size in constant memory: the resident set of this very process, client, proxy and origin together.

`make fuzz` sends 1 GiB each way; the suite 64 MiB.
"""

from __future__ import annotations

import os
from pathlib import Path

import pytest
import trio

from tests.rfc._rig import DATE, Transport, Wire, how, open_rig

pytestmark = pytest.mark.long

SIZE = (1 << 30) if os.environ.get("HYPOTHESIS_PROFILE") == "long" else (1 << 26)
PIECE = b"x" * 65536
ROOM = 32 << 20


def resident() -> int:
    """Bytes of memory that this process has now."""
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE")


class Peak:
    """The most that was seen."""

    def __init__(self) -> None:
        self.before = self.most = resident()

    def look(self) -> None:
        self.most = max(self.most, resident())

    @property
    def growth(self) -> int:
        return self.most - self.before


async def send_much(wire: Wire, peak: Peak, *, chunked: bool) -> None:
    for number in range(SIZE // len(PIECE)):
        await wire.send(b"%x\r\n%b\r\n" % (len(PIECE), PIECE) if chunked else PIECE)
        if number % 64 == 0:
            peak.look()
    if chunked:
        await wire.send(b"0\r\n\r\n")


async def drop_much(stream: trio.abc.ReceiveStream, peak: Peak, already: int) -> None:
    """Read and forget so much, and check that it is what was sent, no byte of it another one."""
    left, reads = SIZE - already, 0
    while left:
        data = await stream.receive_some(65536)
        assert data, f"{left} bytes are missing"
        assert not data.strip(b"x")
        left -= len(data)
        reads += 1
        if reads % 64 == 0:
            peak.look()


def framing_field(*, chunked: bool) -> bytes:
    return b"Transfer-Encoding: chunked\r\n" if chunked else b"Content-Length: %d\r\n" % SIZE


def plain_head(first: bytes, fields: bytes = b"") -> bytes:
    return b"%b\r\nHost: site.test\r\n%b\r\n" % (first, fields)


@pytest.mark.parametrize("framing", ["counted", "chunked"])
async def test_a_body_of_any_size_comes_down_in_constant_memory(framing: str, transport: Transport) -> None:
    chunked = framing == "chunked"
    peak = Peak()

    async def serve(wire: Wire) -> None:
        await wire.until(b"\r\n\r\n")
        await wire.send(b"HTTP/1.1 200 OK\r\n%b%b\r\n" % (DATE, framing_field(chunked=chunked)))
        await send_much(wire, peak, chunked=chunked)

    async with open_rig(transport, serve=serve) as rig:
        client = await rig.connect()
        # HTTP/1.0 gets the content of chunks as it is, so that nothing but content is counted
        await client.send(plain_head(b"GET / HTTP/1.0"))
        await client.until(b"\r\n\r\n")
        await drop_much(client.stream, peak, len(client.buffer))
        record = await rig.record()
        assert (record.response_bytes, *how(record)) == (SIZE, "proxy", "complete")
    assert peak.growth < ROOM


@pytest.mark.parametrize("framing", ["counted", "chunked"])
async def test_a_body_of_any_size_goes_up_in_constant_memory(framing: str, transport: Transport) -> None:
    chunked = framing == "chunked"
    peak = Peak()

    async def serve(wire: Wire) -> None:
        await wire.until(b"\r\n\r\n")
        if not chunked:
            await drop_much(wire.stream, peak, len(wire.buffer))
        else:
            end = wire.buffer
            while not end.endswith(b"0\r\n\r\n"):
                end = end[-8:] + bytes(await wire.stream.receive_some(65536))
                peak.look()
        await wire.send(b"HTTP/1.1 204 No Content\r\n%b\r\n" % DATE)

    async with open_rig(transport, serve=serve) as rig, trio.open_nursery() as nursery:
        client = await rig.connect()
        await client.send(plain_head(b"PUT / HTTP/1.1", framing_field(chunked=chunked)))
        nursery.start_soon(lambda: send_much(client, peak, chunked=chunked))
        assert (await client.response(b"PUT")).status == 204
        record = await rig.record()
        assert (record.request_bytes, *how(record)) == (SIZE, "proxy", "complete")
    assert peak.growth < ROOM
