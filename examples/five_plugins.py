"""Five plugins of a shop: add a field, block a path, rewrite a JSON body, ask a service, write timings to a log of one's own.

python examples/five_plugins.py
"""

from __future__ import annotations

import io
import json
from typing import Any, TextIO

import trio

from trio_tsconnect import (
    URL,
    ConnectOptions,
    ConnectRefused,
    FetchError,
    Guard,
    MemoryLog,
    Plugin,
    ProxyConfig,
    RemapRule,
    Transaction,
    open_proxy,
)
from trio_tsconnect.logstats import join
from trio_tsconnect.plugins import change_response_json
from trio_tsconnect.testing import ScriptedOrigin


class NoSniff(Plugin):
    """Adds a field to every response: of the origin, of a plugin and of the proxy."""

    async def send_response(self, txn: Transaction) -> None:
        """Set the field."""
        txn.response.headers["X-Content-Type-Options"] = "nosniff"


class Private(Guard):
    """Refuses every request below /private."""

    async def judge(self, txn: Transaction) -> None:
        """Refuse the request, however its path is written."""
        if txn.request.url.under("/private"):
            txn.respond(403, "not for you\n")


class HideCost(Plugin):
    """Removes the cost from every JSON object that an origin sends."""

    async def send_request(self, txn: Transaction) -> None:
        """Ask for a whole body, in a coding that can be decoded."""
        txn.request.headers["Accept-Encoding"] = "gzip"
        txn.request.headers.pop("Range", None)

    async def read_response(self, txn: Transaction) -> None:
        """Change the body."""
        change_response_json(txn, self._without_cost)

    def _without_cost(self, value: Any) -> Any:
        return {name: each for name, each in value.items() if name != "cost"} if isinstance(value, dict) else value


class InStock(Plugin):
    """Asks the stock service for each article, and answers with 410 if there is none left."""

    async def post_remap(self, txn: Transaction) -> None:
        """Ask for at most two seconds. Without an answer the article counts as in stock."""
        options = ConnectOptions(tag="stock", deadline=trio.current_time() + 2)
        try:
            async with txn.fetch(URL("http", "stock.example", 80, txn.request.url.path), options=options, direct=True) as answer:
                left = await answer.body.read(100)
        except (ConnectRefused, FetchError) as exc:
            txn.log["not_asked"] = str(exc)
        else:
            if (answer.status, left) == (200, b"0"):
                txn.respond(410, "sold out\n")


class Timings(Plugin):
    """Writes how long each transaction took to a log of its own, one JSON object a line."""

    def __init__(self, file: TextIO) -> None:
        self._file = file

    async def transaction_close(self, txn: Transaction) -> None:
        """Write the line. All milestones are known now."""
        self._file.write(json.dumps({"tag": txn.tag, "id": txn.id, "seconds": txn.milestones["release"]}) + "\n")


async def main() -> None:
    """Ask for five paths of a simulated shop, then join the two logs."""
    log, timings = MemoryLog(), io.StringIO()
    shop, stock = ScriptedOrigin("shop.internal"), ScriptedOrigin("stock.example")
    for article, left in (("apple", "12"), ("pear", "0")):
        shop.answer(f"/{article}", body=json.dumps({"name": article, "cost": 1}), headers={"Content-Type": "application/json"})
        stock.answer(f"/{article}", body=left)
    rule = RemapRule("//shop.example/", "http://shop.internal/", plugins=[InStock(), HideCost()])
    plugins = [NoSniff(), Private(), Timings(timings), shop.plugin(), stock.plugin()]
    async with open_proxy(ProxyConfig(remap=[rule]), plugins=plugins, log=log) as proxy:
        for number, path in enumerate(("/apple", "/pear", "/plum", "/private/accounts", "/x/..%2F%70rivate"), 1):
            options = ConnectOptions(tag="demo", id=number)
            async with proxy.fetch(f"http://shop.example{path}", options=options) as response:
                text = (await response.body.read()).decode().strip()
                print(f"{path}: {response.status} {text} ({response.headers['X-Content-Type-Options']})")
    joined = join(log.records, map(json.loads, timings.getvalue().splitlines()))
    for record, row in joined:
        print(f"log: {record['url']} took {row['seconds']:.0f} s")
    print(joined.to_text())


if __name__ == "__main__":
    trio.run(main)
