"""A plugin: it answers some requests itself, changes others on their way, writes into the log, and has a task of its own.

python examples/plugin.py
"""

from __future__ import annotations

import json

import trio

from trio_tsconnect import ConnectOptions, MemoryLog, Plugin, Proxy, ProxyConfig, Request, Transaction, open_proxy


class Greeter(Plugin):
    """Answers every path but /private, and warms itself up with a request of its own."""

    def __init__(self) -> None:
        self.warm = trio.Event()

    async def run(self, proxy: Proxy) -> None:
        """The plugin's own work: what it asks for is a transaction like any other, and the log knows it by its tag and id."""
        options = ConnectOptions(tag="warm-up", id=proxy.next_id())
        async with proxy.fetch(Request("GET", "/warm-up", {"Host": "greeter.example"}), options=options) as response:
            await response.body.read()
        self.warm.set()

    async def read_request(self, txn: Transaction) -> None:
        """The request head was read: the earliest place to answer."""
        if txn.request.target.startswith("/private"):
            txn.respond(403, "not for you\n")
            return
        name = txn.request.target.strip("/") or "world"
        txn.log["greeted"] = name
        txn.respond(200, f"hello, {name}\n")

    async def send_response(self, txn: Transaction) -> None:
        """Whatever is about to be sent, wherever it came from."""
        txn.response.headers["X-Greeter"] = "1"


async def main() -> None:
    """Three requests: the plugin's own, one that is welcome and one that is not."""
    log, greeter = MemoryLog(), Greeter()
    async with open_proxy(ProxyConfig(), plugins=[greeter], log=log) as proxy:
        await greeter.warm.wait()
        for path in ("/trio", "/private/notes"):
            async with proxy.fetch(Request("GET", path, {"Host": "greeter.example"})) as response:
                text = (await response.body.read()).decode().strip()
                print(f"{path}: {response.status} {text} (X-Greeter: {response.headers['X-Greeter']})")
    for record in log.records:
        print(f"log: {record.url} {record.status} tag={record.tag} plugin={json.dumps(record.plugin)}")


if __name__ == "__main__":
    trio.run(main)
