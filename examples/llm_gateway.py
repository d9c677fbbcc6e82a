"""A gateway to slow APIs, such as language models. It holds the keys, waits minutes for a first byte, retries elsewhere, and counts tokens.

python examples/llm_gateway.py

Two providers are simulated on loopback. The first answers one request with a compressed response and the next with 429; the second streams
its responses. The client sees one API and none of the providers' keys. The log has the provider that answered and the number of tokens.
"""

from __future__ import annotations

import functools
import gzip
import hashlib
import json
from collections.abc import AsyncIterator, Mapping
from typing import Any

import trio

from trio_tsconnect import LogRecord, MemoryLog, Plugin, ProxyConfig, RemapRule, Request, Transaction, open_proxy
from trio_tsconnect.message import URL
from trio_tsconnect.plugins import UnknownCoding, decode_response
from trio_tsconnect.testing import Answer, ScriptedOrigin

MAX_PROMPT = 1_000_000
"""The largest request in bytes. A request is buffered, because it may have to be sent a second time."""
PATIENCE: Mapping[str, object] = {"response_timeout": 600, "inactivity_timeout": 600}
"""Seconds until the first byte, and between two pieces. The defaults of 120 are too short for these APIs."""


class Gateway(Plugin):
    """Sends a request to the provider of the remap rule and, if that is busy, to the second provider."""

    def __init__(self, second: str, keys: Mapping[str, str]) -> None:
        self._second = second
        self._keys = keys

    async def post_remap(self, txn: Transaction) -> None:
        """Buffer the prompt, so that it can be sent twice, and log the caller and the model."""
        # Log a digest: the key itself must not be written to a log.
        caller = txn.request.headers.pop("Authorization", "")
        txn.log["caller"] = hashlib.sha256(caller.encode()).hexdigest()[:12]
        prompt = await txn.read_request_body(MAX_PROMPT)
        try:
            txn.log["model"] = str(json.loads(prompt)["model"])
        except (ValueError, KeyError, TypeError):
            txn.respond(400, "The request is not a JSON object with a model.\n")

    async def send_request(self, txn: Transaction) -> None:
        """Add the key of the provider. This hook runs again for the second provider."""
        provider = URL.parse(txn.request.target).authority
        txn.request.headers["Authorization"] = f"Bearer {self._keys[provider]}"
        txn.log["provider"] = provider

    async def read_response(self, txn: Transaction) -> None:
        """Retry with the second provider if the first is busy; else count the tokens of the response."""
        if txn.response.status in (429, 503) and "moved" not in txn.log:
            txn.log["moved"] = txn.response.status
            txn.retry(self._second + URL.parse(txn.request.target).path)
            return
        try:
            decode_response(txn, limit=100 * MAX_PROMPT)
        except UnknownCoding as exc:  # forward it unchanged: the client may be able to decode it
            txn.log["not_counted"] = exc.coding
            return
        txn.transform_response(TokenCount(txn.log))


class TokenCount:
    """A transform that finds the token count in server-sent events or in one JSON object, and changes nothing.

    The last `usage` is logged.
    """

    def __init__(self, log: dict[str, Any]) -> None:
        self._log = log
        self._line = b""

    def feed(self, data: bytes) -> bytes:
        """Parse every complete line, and return `data` unchanged."""
        *lines, self._line = (self._line + data).split(b"\n")
        for line in lines:
            self._look(line)
        self._line = self._line[-MAX_PROMPT:]  # limits the memory for a response without line ends
        return data

    def finish(self) -> bytes:
        """Parse the last line."""
        self._look(self._line)
        return b""

    def _look(self, line: bytes) -> None:
        try:
            self._log["tokens"] = json.loads(line.removeprefix(b"data:"))["usage"]["total_tokens"]
        except (ValueError, KeyError, TypeError):
            pass  # most lines have no usage


def play_providers(think: float) -> tuple[ScriptedOrigin, ScriptedOrigin]:
    """Return two simulated providers, which need `think` seconds for a first byte."""
    first, second = ScriptedOrigin(), ScriptedOrigin()
    packed = gzip.compress(b'{"text": "Forty-two.", "usage": {"total_tokens": 12}}')

    async def whole() -> AsyncIterator[bytes]:
        await trio.sleep(think)
        yield packed

    async def events() -> AsyncIterator[bytes]:
        await trio.sleep(think)
        for word in ("Forty", "-", "two"):
            yield b"data: " + json.dumps({"text": word}).encode() + b"\n\n"
            await trio.sleep(think / 10)
        yield b'data: {"usage": {"total_tokens": 7}}\n\ndata: [DONE]\n\n'

    first.reply("/v1/chat", Answer(200, whole(), headers={"Content-Type": "application/json", "Content-Encoding": "gzip"}))
    first.answer("/v1/chat", 429, "busy", headers={"Retry-After": "60"})
    second.reply("/v1/chat", Answer(200, events(), headers={"Content-Type": "text/event-stream"}))
    return first, second


async def main(think: float = 0.1) -> list[LogRecord]:
    """Send two requests. The first provider answers one, the second provider the other."""
    log = MemoryLog()
    async with trio.open_nursery() as nursery:
        places: list[str] = []
        for origin in play_providers(think):
            (listener,) = await nursery.start(functools.partial(trio.serve_tcp, origin.serve, 0, host="127.0.0.1"))
            places.append(f"127.0.0.1:{listener.socket.getsockname()[1]}")
        keys = dict(zip(places, ("key-of-the-first", "key-of-the-second"), strict=True))
        rule = RemapRule("//llm.example/", f"http://{places[0]}/", config=PATIENCE)
        async with open_proxy(ProxyConfig(remap=[rule]), plugins=[Gateway(f"http://{places[1]}", keys)], log=log) as proxy:
            for _ in range(2):
                request = Request("POST", "/v1/chat", {"Host": "llm.example", "Authorization": "Bearer key-of-the-client"})
                async with proxy.fetch(request, body=b'{"model": "thinker", "prompt": "?"}') as response:
                    print(f"{response.status} {response.headers['Content-Type']}")
                    async for piece in response.body:
                        print(f"  {piece.decode().strip()!r}")
        nursery.cancel_scope.cancel()
    for record in log.records:
        noted = record.plugin["Gateway"]
        provider = "first" if noted["provider"] == places[0] else "second"
        print(f"log: {record.status} after {record.attempts} attempts, from the {provider}: {noted['tokens']} tokens for {noted['model']}")
    return log.records


if __name__ == "__main__":
    trio.run(main)
