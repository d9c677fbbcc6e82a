"""Run the demo. This module imports optional packages, so `_demo` imports it only after checking that they are installed."""

from __future__ import annotations

import itertools
import ssl
import statistics
import sys
import tempfile
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from functools import partial
from pathlib import Path
from typing import Any

import trio
import trustme

from trio_tsconnect import JsonLinesLog, ProxyConfig, RemapRule, open_proxy
from trio_tsconnect._command._demo_parts import (
    HOST,
    Answerer,
    Asker,
    HTTP1Requests,
    Progress,
    connect_tls,
    get_pages,
    get_streams,
    serve_origin,
)
from trio_tsconnect._command._demo_result import HTTP1, STREAMS, VIRTUAL, Result, Sent
from trio_tsconnect._command._say import say
from trio_tsconnect.http2 import serve_auto, ssl_context
from trio_tsconnect.logstats import read_records, summarize

ROUNDS, REQUESTS_A_ROUND = 9, 150


def run() -> Result:
    """Send the requests, read the log, measure the rates, and return the result."""
    authority = trustme.CA()
    with tempfile.TemporaryDirectory() as folder:
        pem = Path(folder, "demo.pem")
        authority.issue_cert(HOST).private_key_and_cert_chain_pem.write_to_path(pem)
        return trio.run(_run, Path(folder, "transactions.jsonl"), str(pem), authority)


async def _run(log: Path, certificate: str, authority: Any) -> Result:
    began = time.perf_counter()
    sent = await _play(log, certificate, authority)
    logged = summarize(read_records(log))
    say("measuring ...")
    rates = await _measure()
    return Result(
        sent=sent,
        logged=logged,
        virtual_rate=statistics.median(virtual for virtual, _ in rates),
        loopback_rate=statistics.median(loopback for _, loopback in rates),
        ratio=statistics.median(virtual / loopback for virtual, loopback in rates),
        seconds=time.perf_counter() - began,
    )


async def _play(log: Path, certificate: str, authority: Any) -> Sent:
    """Run all clients concurrently until each has its responses. When this returns, the proxy is closed and its log is complete."""
    progress = _counter(sum(STREAMS) + sum(HTTP1) + sum(VIRTUAL))
    asker = Asker(VIRTUAL, progress)
    sent = Sent(h2=[0] * len(STREAMS), http1=[0] * len(HTTP1), virtual=asker.answers)
    async with _listening(serve_origin) as origin:
        config = ProxyConfig(remap=[RemapRule(f"//{HOST}/", f"http://127.0.0.1:{origin}/")])
        async with (
            open_proxy(config, plugins=[asker], log=JsonLinesLog(log)) as proxy,
            _listening(partial(serve_auto, proxy), ssl_context(certificate, certificate)) as port,
            trio.open_nursery() as clients,
        ):
            for index, count in enumerate(STREAMS):
                client = partial(get_streams, count=count, progress=progress)
                clients.start_soon(_client, sent.h2, index, client, port, _trusting(authority, "h2"))
            for index, count in enumerate(HTTP1):
                client = partial(get_pages, count=count, progress=progress)
                clients.start_soon(_client, sent.http1, index, client, port, _trusting(authority, "http/1.1"))
            await asker.done.wait()
    return sent


async def _client(
    counts: list[int], index: int, client: Callable[[trio.abc.Stream], Awaitable[int]], port: int, context: ssl.SSLContext
) -> None:
    async with await connect_tls(port, context) as stream:
        counts[index] = await client(stream)


async def _measure() -> list[tuple[float, float]]:
    """Return requests per second over a virtual connection and over loopback TCP, as one pair for each round.

    The two are measured alternately, so that a change of the machine's load affects both. A plugin answers, so no origin is measured.
    """
    async with (
        open_proxy(ProxyConfig(), plugins=[Answerer()]) as proxy,
        _listening(proxy.serve_stream) as port,
        proxy.connect() as virtual,
        await trio.open_tcp_stream("127.0.0.1", port) as loopback,
    ):
        ours, theirs = HTTP1Requests(virtual), HTTP1Requests(loopback)
        return [(await _rate(ours), await _rate(theirs)) for _ in range(ROUNDS)]


async def _rate(client: HTTP1Requests) -> float:
    began = time.perf_counter()
    for _ in range(REQUESTS_A_ROUND):
        await client.get("/ping")
    return REQUESTS_A_ROUND / (time.perf_counter() - began)


@asynccontextmanager
async def _listening(handler: Callable[[Any], Awaitable[object]], context: ssl.SSLContext | None = None) -> AsyncIterator[int]:
    """Serve `handler` on a loopback port chosen by the system, with TLS if there is a context, and yield the port."""
    (listener,) = await trio.open_tcp_listeners(0, host="127.0.0.1")
    port: int = listener.socket.getsockname()[1]
    door = listener if context is None else trio.SSLListener(listener, context, https_compatible=True)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(trio.serve_listeners, handler, [door])
        yield port
        nursery.cancel_scope.cancel()


def _counter(total: int) -> Progress:
    """Return a function that prints the number of responses to standard error: in place on a terminal, else one line for each quarter."""
    counted = itertools.count(1)

    def progress() -> None:
        done = next(counted)
        if sys.stderr.isatty():
            print(f"\r{done}/{total} answers", end="\n" if done == total else "", file=sys.stderr, flush=True)
        elif done * 4 // total != (done - 1) * 4 // total:
            say(f"{done}/{total} answers")

    return progress


def _trusting(authority: Any, protocol: str) -> ssl.SSLContext:
    context = ssl.create_default_context()
    authority.configure_trust(context)
    context.set_alpn_protocols([protocol])
    return context
