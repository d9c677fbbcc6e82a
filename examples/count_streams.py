"""Post-processing: count client connections per protocol and HTTP/2 streams per connection, from the log alone.

python examples/count_streams.py                     creates a log and counts it
python examples/count_streams.py FILE...             counts the given logs; `tsconnect logstats` prints more
"""

from __future__ import annotations

import sys
import tempfile
from pathlib import Path

import trio

from trio_tsconnect import ClientInfo, ConnectOptions, JsonLinesLog, Plugin, Proxy, ProxyConfig, Request, Transaction, open_proxy
from trio_tsconnect.logstats import read_records, summarize


class Hello(Plugin):
    """A plugin that answers in place of an origin."""

    async def read_request(self, txn: Transaction) -> None:
        """Answer the request."""
        txn.respond(200, "hello\n")


def count(*paths: str | Path) -> None:
    """Print the counts of some logs."""
    summary = summarize(read_records(*paths))
    for protocol, connections in summary.client_connections.items():
        print(f"connections that speak {protocol}: {connections}")
    for connection, streams in summary.streams_per_connection.items():
        print(f"streams on HTTP/2 connection {connection}: {streams}")
    if summary.streams is not None:
        print(f"streams per HTTP/2 connection: min {summary.streams.min}, median {summary.streams.median:g}, max {summary.streams.max}")


async def make_log(path: Path) -> None:
    """Write a log as an HTTP/2 front end would: one id per client connection, and one virtual connection with the tag `h2` per stream."""
    async with open_proxy(ProxyConfig(), plugins=[Hello()], log=JsonLinesLog(path)) as proxy:
        for streams in (3, 1, 8):
            connection = proxy.next_id()
            for number in range(1, 2 * streams, 2):
                client = ClientInfo(address=("192.0.2.7", 50000 + streams), protocol="h2", connection=connection, stream=number)
                await get(proxy, ConnectOptions(tag="h2", id=connection, client=client))
        await get(proxy, ConnectOptions(tag="cron"))


async def get(proxy: Proxy, options: ConnectOptions) -> None:
    """Send one request and read its response."""
    async with proxy.fetch(Request("GET", "/", {"Host": "hello.example"}), options=options) as response:
        await response.body.read()


def main() -> None:
    """Count the given logs, or create a log and count it."""
    if sys.argv[1:]:
        count(*sys.argv[1:])
        return
    with tempfile.TemporaryDirectory() as folder:
        log = Path(folder, "transactions.jsonl")
        trio.run(make_log, log)
        count(log)


if __name__ == "__main__":
    main()
