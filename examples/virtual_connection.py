"""HTTP/1.1 bytes on a virtual connection: no socket and no port, but for the engine an ordinary client.

python examples/virtual_connection.py
"""

from __future__ import annotations

import trio

from trio_tsconnect import ConnectOptions, MemoryLog, Plugin, ProxyConfig, Transaction, VirtualConnection, open_proxy


class Clock(Plugin):
    """A plugin that answers in place of an origin."""

    async def read_request(self, txn: Transaction) -> None:
        """Answer the request."""
        txn.respond(200, "ten past four\n")


async def main() -> None:
    """Send two requests, one after the other, on one virtual connection, and print the log."""
    log = MemoryLog()
    async with open_proxy(ProxyConfig(), plugins=[Clock()], log=log) as proxy:
        # connect() only opens the connection. Each direction buffers at most 128 << buffer_index unread bytes.
        stream = proxy.connect(ConnectOptions(tag="example", id=42, buffer_index=4))
        print(stream)
        async with stream:
            await ask(stream, "/clock")
            await ask(stream, "/clock?again")
    for record in log.records:
        print(f"log: tag={record.tag} id={record.id} internal={record.internal} {record.method} {record.url} {record.status}")


async def ask(stream: VirtualConnection, path: str) -> None:
    """Write an HTTP/1.1 request, then read and print the response."""
    await stream.send_all(f"GET {path} HTTP/1.1\r\nHost: clock.example\r\n\r\n".encode())
    answer = b""
    while not answer.endswith(b"four\n"):
        answer += await stream.receive_some()
    print(answer.decode().replace("\r\n", "\n"))


if __name__ == "__main__":
    trio.run(main)
