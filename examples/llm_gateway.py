"""A gateway to language models: API keys, a limit for each, other providers when one is dead or busy, tokens and their cost in the log.

python examples/llm_gateway.py

Three providers are simulated on loopback: one is dead, one is busy, one streams its answer. Clients see one API. Three things need no code,
because the proxy does them: it streams, it passes WebSockets through, and it ends the request to the provider when the client leaves.
"""

from __future__ import annotations

import functools
import json
import re
from collections.abc import AsyncIterator, Mapping
from typing import Any

import attrs
import trio

from trio_tsconnect import URL, DataKey, Guard, LogRecord, MemoryLog, Plugin, ProxyConfig, RemapRule, Request, Transaction, open_proxy
from trio_tsconnect.plugins import HealthCheck, RateLimit, UnknownCoding, decode_response
from trio_tsconnect.testing import Answer, ScriptedOrigin

MAX_PROMPT = 1_000_000
"""The largest request in bytes. A request is buffered, because it may have to be sent a second time."""
USAGE = re.compile(rb'"total_tokens"\s*:\s*([0-9]{1,9})')
"""How an answer says how many tokens it took. It does so at its end, in events and in a JSON document."""
CLIENT = DataKey(str)
"""The name of the client, for the rate limit."""


class Keys(Guard):
    """Admits clients with a known API key. The providers do not see it, and the log has the name of the client."""

    def __init__(self, clients: Mapping[str, str]) -> None:
        self._clients = clients

    async def judge(self, txn: Transaction) -> None:
        """Refuse a request without a known key."""
        name = self._clients.get(txn.request.headers.pop("Authorization", "").removeprefix("Bearer "))
        if name is None:
            txn.respond(401, "A known API key is needed.\n", headers={"WWW-Authenticate": "Bearer"})
        else:
            CLIENT.set(txn, name)
            txn.log["client"] = name


class Gateway(Plugin):
    """Sends a request to the first provider that answers it, with the key of that provider. Counts the tokens of the answer."""

    def __init__(self, providers: Mapping[URL, str], prices: Mapping[str, float]) -> None:
        self._keys = {provider.authority: key for provider, key in providers.items()}
        self._providers = tuple(providers)
        self._prices = prices

    async def post_remap(self, txn: Transaction) -> None:
        """Buffer the body, so that it can be sent twice. Log the model of a prompt."""
        prompt = await txn.read_request_body(MAX_PROMPT)
        if txn.request.method == "POST":
            try:
                txn.log["model"] = str(json.loads(prompt)["model"])
            except (ValueError, KeyError, TypeError):
                txn.respond(400, "The request is not a JSON object with a model.\n")

    async def send_request(self, txn: Transaction) -> None:
        """Add the key of the provider. Runs for each provider that can be reached."""
        txn.log["provider"] = txn.request.url.authority
        txn.request.headers["Authorization"] = f"Bearer {self._keys[txn.request.url.authority]}"

    async def origin_failed(self, txn: Transaction) -> None:
        """Ask another provider if this one is dead, unless it may have run the prompt."""
        if txn.failure.repeatable:
            self._ask_another(txn, txn.failure.cause)

    async def read_response(self, txn: Transaction) -> None:
        """Ask another provider if this one is busy or broken; else count the tokens of the answer."""
        if txn.response.status == 429 or txn.response.status >= 500:
            self._ask_another(txn, txn.response.status)
        elif txn.response.status == 200:
            try:
                decode_response(txn, limit=100 * MAX_PROMPT)
                txn.transform_response(functools.partial(self._count, txn.log))
            except UnknownCoding as exc:  # forward it unchanged: the client may be able to decode it
                txn.log["not_counted"] = exc.coding

    def _ask_another(self, txn: Transaction, why: str | int) -> None:
        url, failed = txn.request.url, txn.log.setdefault("failed", {})
        failed[url.authority] = why
        for other in self._providers:
            if other.authority not in failed:
                txn.retry(attrs.evolve(other, path=url.path, query=url.query))
                break

    async def _count(self, log: dict[str, Any], body: AsyncIterator[bytes]) -> AsyncIterator[bytes]:
        tail = bytearray()
        async for piece in body:
            yield piece
            tail += piece
            del tail[:-65_536]
        if found := USAGE.findall(tail):
            log["tokens"] = int(found[-1])
            log["cost"] = log["tokens"] * self._prices.get(log.get("model", ""), 0)


def configure(providers: Mapping[URL, str], clients: Mapping[str, str], prices: Mapping[str, float]) -> ProxyConfig:
    """Return the configuration of a gateway: `/v1/` is for clients with a key, `/healthz` for load balancers."""
    limit = RateLimit(RateLimit.Options(rate=1, burst=3, key=CLIENT.of))
    patience = {"connect_timeout": 3, "response_timeout": 600, "inactivity_timeout": 600}  # a model may think for minutes
    plugins = [Keys(clients), limit, Gateway(providers, prices)]
    rule = RemapRule("//llm.example/v1/", f"{next(iter(providers))}v1/", plugins=plugins, config=patience)
    return ProxyConfig(remap=[rule], plugins=[HealthCheck()])


async def events(think: float) -> AsyncIterator[bytes]:
    """Yield the events of a simulated provider, which needs `think` seconds for the first."""
    await trio.sleep(think)
    for word in ("Forty", "-", "two"):
        yield b"data: " + json.dumps({"text": word}).encode() + b"\n\n"
        await trio.sleep(think / 10)
    yield b'data: {"usage": {"total_tokens": 7}}\n\ndata: [DONE]\n\n'


async def main(think: float = 0.1) -> LogRecord:
    """Send a prompt. The first provider is dead, the second is busy, the third answers."""
    log, busy, good = MemoryLog(), ScriptedOrigin(), ScriptedOrigin()
    busy.answer("/v1/chat", 429, "busy")
    good.reply("/v1/chat", Answer(200, events(think), headers={"Content-Type": "text/event-stream"}))
    async with trio.open_nursery() as nursery:
        with trio.socket.socket() as dead:  # it does not listen, so connections to it are refused
            await dead.bind(("127.0.0.1", 0))
            providers = {URL("http", *dead.getsockname()): "key-for-the-first"}
            for origin in (busy, good):
                [listener] = await nursery.start(functools.partial(trio.serve_tcp, origin.serve, 0, host="127.0.0.1"))
                providers[URL("http", *listener.socket.getsockname())] = "key-for-another"
            async with open_proxy(configure(providers, {"key-of-ada": "ada"}, {"thinker": 0.001}), log=log) as proxy:
                request = Request("POST", "/v1/chat", {"Host": "llm.example", "Authorization": "Bearer key-of-ada"})
                async with proxy.fetch(request, body=b'{"model": "thinker"}') as response:
                    async for piece in response.body:
                        print(f"{response.status} {piece.decode().strip()!r}")
        nursery.cancel_scope.cancel()
    print(f"log: {log.records[0].status} after {log.records[0].attempts} attempts: {json.dumps(log.records[0].plugin)}")
    return log.records[0]


if __name__ == "__main__":
    trio.run(main)
