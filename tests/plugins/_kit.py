"""A proxy in memory with plugins under test, and a scripted origin for each host that they may ask."""

from __future__ import annotations

from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from typing import Any

import attrs

from trio_tsconnect import ClientInfo, ConnectOptions, LogRecord, MemoryLog, Plugin, Proxy, ProxyConfig, RemapRule, Transaction, open_proxy
from trio_tsconnect.testing import Growing, Reply, ScriptedOrigin, exchange

CLIENT = ClientInfo(address=("192.0.2.1", 5000))


@attrs.frozen
class Kit:
    """What a test talks to."""

    proxy: Proxy
    origins: dict[str, ScriptedOrigin]
    records: Growing[LogRecord]

    async def ask(self, request: str, *, client: ClientInfo | None = CLIENT, body: bytes = b"", **options: Any) -> Reply:
        """Send one request, whose lines are given without their ends, on a connection of its own."""
        lines = request.strip().splitlines()
        if body:
            lines.append(f"Content-Length: {len(body)}")
        head = "\r\n".join([f"{lines[0]} HTTP/1.1", *(line.strip() for line in lines[1:])])
        if "Host:" not in head:
            head += "\r\nHost: site.test"
        async with self.proxy.connect(ConnectOptions(client=client, **options)) as stream:
            return await exchange(stream, head.encode() + b"\r\n\r\n" + body)

    def record(self, tag: str | None = None) -> LogRecord:
        """The only record with this tag."""
        (record,) = (each for each in self.records if each.tag == tag)
        return record


@attrs.define(eq=False)
class Origins(Plugin):
    """Plays every origin, where no other plugin does. After the plugins of the rule, if there is one."""

    scripted: dict[str, ScriptedOrigin]
    of_rule: bool = False

    async def post_remap(self, txn: Transaction) -> None:
        origin = self.scripted.get(txn.request.url.host)
        if origin is not None and txn.answered_by is None and self.of_rule is (txn.rule is not None):
            txn.intercept(origin.serve)


@asynccontextmanager
async def open_kit(
    *plugins: Plugin, origins: Sequence[str] = ("site.test",), remap: Sequence[RemapRule] | None = None, **config: Any
) -> AsyncIterator[Kit]:
    """Serve `site.test`, and whatever else is an origin, behind the plugins; by default every host goes to itself."""
    log = MemoryLog()
    records: Growing[LogRecord] = Growing()
    log.records = records
    scripted = {host: ScriptedOrigin(host) for host in origins}
    rules = [RemapRule(f"//{host}/", f"http://{host}/") for host in origins] if remap is None else remap
    rules = [attrs.evolve(rule, plugins=(*rule.plugins, Origins(scripted, of_rule=True))) for rule in rules]
    async with open_proxy(ProxyConfig(remap=rules, **config), plugins=[*plugins, Origins(scripted)], log=log) as proxy:
        yield Kit(proxy, scripted, records)
    for origin in scripted.values():
        origin.check()
