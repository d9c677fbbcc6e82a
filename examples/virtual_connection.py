"""A virtual connection, bytes and all: no socket, no port, and to the engine a client like any other.

python examples/virtual_connection.py
"""

from __future__ import annotations

import trio

from trio_tsconnect import ConnectOptions, MemoryLog, Plugin, ProxyConfig, Transaction, VirtualConnection, open_proxy


class Clock(Plugin):
    """Stands in for an origin."""

    async def read_request(self, txn: Transaction) -> None:
        """Answer."""
        txn.respond(200, "ten past four\n")


async def main() -> None:
    """Write two requests on one connection, then read two responses."""
    log = MemoryLog()
    async with open_proxy(ProxyConfig(), plugins=[Clock()], log=log) as proxy:
        # Opening it is all that connect() does. Each direction holds at most 128 << buffer_index bytes that nobody has read.
        stream = proxy.connect(ConnectOptions(tag="example", id=42, buffer_index=4))
        print(stream)
        async with stream:
            await ask(stream, "/clock")
            await ask(stream, "/clock?again")
    for record in log.records:
        print(f"log: tag={record.tag} id={record.id} internal={record.internal} {record.method} {record.url} {record.status}")


async def ask(stream: VirtualConnection, path: str) -> None:
    """HTTP/1.1 by hand: a real request is written, a real response comes back."""
    await stream.send_all(f"GET {path} HTTP/1.1\r\nHost: clock.example\r\n\r\n".encode())
    answer = b""
    while not answer.endswith(b"four\n"):
        answer += await stream.receive_some()
    print(answer.decode().replace("\r\n", "\n"))


if __name__ == "__main__":
    trio.run(main)
