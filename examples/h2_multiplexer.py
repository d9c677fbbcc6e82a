"""HTTP/2 streams as transactions on virtual connections. This is the use for which `TSHttpConnect` was made.

python examples/h2_multiplexer.py            runs two clients, and prints what was logged
python examples/h2_multiplexer.py 8080       serves until it is interrupted: curl --http2-prior-knowledge http://127.0.0.1:8080/

This is a minimal version: GET only, no limits, no flow control. For real use there is `trio_tsconnect.http2.serve_http2`.
"""

from __future__ import annotations

import sys
from functools import partial

import h2.config
import h2.connection
import h2.events
import trio

from trio_tsconnect import (
    ClientInfo,
    ConnectOptions,
    MemoryLog,
    Plugin,
    Proxy,
    ProxyConfig,
    Request,
    Transaction,
    open_proxy,
    open_virtual_connection_pair,
)
from trio_tsconnect.logstats import summarize


class Multiplexer:
    """One client connection. It has a number, and each of its streams gets a virtual connection with that number as id and the tag `h2`."""

    def __init__(self, proxy: Proxy, client: trio.abc.Stream) -> None:
        self.proxy, self.client = proxy, client
        self.number = proxy.next_id()
        self.machine = h2.connection.H2Connection(h2.config.H2Configuration(client_side=False, header_encoding="ascii"))
        self.writing = trio.Lock()

    async def flush(self) -> None:
        """Send the frames that the h2 state machine has queued."""
        async with self.writing:  # several streams may call this concurrently, but only one task may write to the stream
            if data := self.machine.data_to_send():
                await self.client.send_all(data)

    async def serve(self) -> None:
        """Read frames until the client closes. Each request is answered in its own task."""
        self.machine.initiate_connection()
        await self.flush()
        async with trio.open_nursery() as nursery:
            while data := await self.client.receive_some():
                for event in self.machine.receive_data(data):
                    if isinstance(event, h2.events.RequestReceived):
                        fields = {str(name): str(value) for name, value in event.headers or ()}
                        nursery.start_soon(self.answer, event.stream_id or 0, fields)
                await self.flush()

    async def answer(self, stream: int, fields: dict[str, str]) -> None:
        """Answer one stream with an ordinary transaction on a virtual connection, as if the client had opened a connection for it."""
        who = ClientInfo(address="127.0.0.1", protocol="h2", connection=self.number, stream=stream)
        options = ConnectOptions(tag="h2", id=self.number, client=who)
        target = f"{fields[':scheme']}://{fields[':authority']}{fields[':path']}"
        async with self.proxy.fetch(Request("GET", target, {"Host": fields[":authority"]}), options=options) as response:
            body = await response.body.read()
        self.machine.send_headers(stream, [(":status", str(response.status)), ("content-length", str(len(body)))])
        self.machine.send_data(stream, body, end_stream=True)
        await self.flush()


async def multiplex(proxy: Proxy, client: trio.abc.Stream) -> None:
    """Serve one client connection. A handler for listeners."""
    async with client:
        await Multiplexer(proxy, client).serve()


class Hello(Plugin):
    """A plugin that answers in place of an origin."""

    async def read_request(self, txn: Transaction) -> None:
        """Answer the request."""
        txn.respond(200, f"you asked for {txn.request.url.path}\n")


async def ask(proxy: Proxy, requests: int) -> None:
    """Run a client with several concurrent requests on one connection, which is in memory too."""
    ours, theirs = open_virtual_connection_pair()
    machine = h2.connection.H2Connection()
    machine.initiate_connection()
    for stream in range(1, 2 * requests, 2):
        machine.send_headers(stream, [(":method", "GET"), (":scheme", "http"), (":authority", "h.example"), (":path", f"/{stream}")], True)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(multiplex, proxy, theirs)
        await ours.send_all(machine.data_to_send())
        ended = 0
        while ended < requests:
            events = machine.receive_data(await ours.receive_some())
            ended += sum(isinstance(event, h2.events.StreamEnded) for event in events)
        await ours.aclose()


async def show() -> None:
    """Run two clients, and print from the log how many streams each connection had."""
    log = MemoryLog()
    async with open_proxy(ProxyConfig(), plugins=[Hello()], log=log) as proxy:
        await ask(proxy, 5)
        await ask(proxy, 2)
    for connection, streams in summarize(log.records).streams_per_connection.items():
        urls = sorted(record.url or "" for record in log.records if record.id == connection)
        print(f"client connection {connection}: {streams} streams, from {urls[0]} to {urls[-1]}")


async def serve(port: int) -> None:
    """Serve network clients on a port."""
    async with open_proxy(ProxyConfig(), plugins=[Hello()]) as proxy:
        await trio.serve_tcp(partial(multiplex, proxy), port, host="127.0.0.1")


if __name__ == "__main__":
    if sys.argv[1:]:
        trio.run(serve, int(sys.argv[1]))
    else:
        trio.run(show)
