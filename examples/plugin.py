"""A plugin that answers requests, changes responses, adds fields to the log, and has its own task; and a guard that blocks a path.

python examples/plugin.py
"""

from __future__ import annotations

import json

import trio

from trio_tsconnect import ConnectOptions, Guard, MemoryLog, Plugin, Proxy, ProxyConfig, Request, Transaction, open_proxy


class Private(Guard):
    """Refuses every request below /private, whatever other plugins answer."""

    async def judge(self, txn: Transaction) -> None:
        """Refuse the request. `under` knows the other spellings of the path that an origin may accept."""
        if txn.request.url.under("/private"):
            txn.respond(403, "not for you\n")


class Greeter(Plugin):
    """Answers every path, and sends one request itself when the proxy starts."""

    def __init__(self) -> None:
        self.warm = trio.Event()

    async def run(self, proxy: Proxy) -> None:
        """Send a request. It is an ordinary transaction, and is logged with its tag and id."""
        options = ConnectOptions(tag="warm-up", id=proxy.next_id())
        async with proxy.fetch(Request("GET", "/warm-up", {"Host": "greeter.example"}), options=options) as response:
            await response.body.read()
        self.warm.set()

    async def read_request(self, txn: Transaction) -> None:
        """Answer the request. This is the earliest hook that can do so: the request head was just read."""
        name = "/".join(txn.request.url.segments) or "world"
        txn.log["greeted"] = name
        txn.respond(200, f"hello, {name}\n")

    async def send_response(self, txn: Transaction) -> None:
        """Add a field to every response, whether it is from an origin, a plugin or the proxy."""
        txn.response.headers["X-Greeter"] = "1"


async def main() -> None:
    """Run the plugin's own request, one that is answered with 200, and two that are answered with 403."""
    log, greeter = MemoryLog(), Greeter()
    async with open_proxy(ProxyConfig(), plugins=[Private(), greeter], log=log) as proxy:
        await greeter.warm.wait()
        for path in ("/trio", "/private/notes", "/x/..%2F%70rivate"):
            async with proxy.fetch(Request("GET", path, {"Host": "greeter.example"})) as response:
                text = (await response.body.read()).decode().strip()
                print(f"{path}: {response.status} {text} (X-Greeter: {response.headers['X-Greeter']})")
    for record in log.records:
        print(f"log: {record.url} {record.status} tag={record.tag} plugin={json.dumps(record.plugin)}")


if __name__ == "__main__":
    trio.run(main)
