"""The parts of the demo beside the proxy: an origin, plugins, and clients that count their responses.

Invariant: the clients count only the responses that they received. No count is read from the proxy.
"""

from __future__ import annotations

import ssl
from collections.abc import Callable, Sequence

import h2.config
import h2.connection
import h2.events
import trio

from trio_tsconnect import ConnectOptions, Plugin, Proxy, Request, Response, Transaction
from trio_tsconnect._command._demo_result import TAG
from trio_tsconnect.message import NO_BODY, Body, Framing
from trio_tsconnect.stream import HTTP1Client, HTTP1Server

HOST = "demo.example"
"""The host of all requests. A remap rule maps it to the origin."""
PAGE = b"the origin's answer, " * 48

Progress = Callable[[], object]
"""A function that is called once for each response."""


async def connect_tls(port: int, context: ssl.SSLContext) -> trio.SSLStream[trio.SocketStream]:
    """Open a TLS connection to the demo's listener, and complete the handshake."""
    socket = await trio.open_tcp_stream("127.0.0.1", port)
    stream = trio.SSLStream(socket, context, server_hostname=HOST, https_compatible=True)
    await stream.do_handshake()
    return stream


async def serve_origin(stream: trio.abc.Stream) -> None:
    """Serve a connection as an HTTP/1.1 origin that answers each request with the same page."""
    http = HTTP1Server(stream)
    async with stream:
        while await http.wait_for_request():
            await http.read_request()
            while await http.receive_body():
                pass
            http.queue_response(Response(200, {"Content-Length": str(len(PAGE))}), Body(Framing.LENGTH, len(PAGE)))
            http.queue_body(PAGE)
            http.queue_end()
            await http.drain()


class HTTP1Requests:
    """An HTTP/1.1 client on any stream, which sends one request after another."""

    def __init__(self, stream: trio.abc.Stream) -> None:
        self._http = HTTP1Client(stream)

    async def get(self, path: str) -> int:
        """Send a GET, read the whole response, and return its status."""
        http = self._http
        http.queue_request(Request("GET", path, {"Host": HOST}), NO_BODY)
        http.queue_end()
        await http.drain()
        response = await http.read_response()
        while await http.receive_body():
            pass
        return response.status


class Asker(Plugin):
    """A plugin with its own task, which sends requests to its proxy over virtual connections with a tag and an id."""

    def __init__(self, counts: Sequence[int], progress: Progress) -> None:
        self.answers: list[int] = []
        """The number of 200 responses on each connection."""
        self.done = trio.Event()
        """Set when all requests were answered."""
        self._counts = counts
        self._progress = progress

    async def run(self, proxy: Proxy) -> None:
        """Send the requests on one connection after another."""
        for count in self._counts:
            async with proxy.connect(ConnectOptions(tag=TAG, id=proxy.next_id())) as stream:
                self.answers.append(await get_pages(stream, count, self._progress))
        self.done.set()


class Answerer(Plugin):
    """A plugin that answers every request, so that a measurement does not include an origin."""

    async def read_request(self, txn: Transaction) -> None:
        """Answer the request."""
        txn.respond(200, b"pong")


async def get_pages(stream: trio.abc.Stream, count: int, progress: Progress) -> int:
    """Send `count` requests on one HTTP/1.1 connection, and return the number of 200 responses."""
    client, good = HTTP1Requests(stream), 0
    for _ in range(count):
        good += await client.get("/page") == 200
        progress()
    return good


async def get_streams(stream: trio.abc.Stream, count: int, progress: Progress) -> int:
    """Send `count` requests on one HTTP/2 connection, and return the number of 200 responses.

    Opens as many concurrent streams as the server allows. Raises `ConnectionError` if the server resets a stream or closes the connection.
    """
    client = h2.connection.H2Connection(h2.config.H2Configuration(client_side=True))
    client.initiate_connection()
    head = [(":method", "GET"), (":scheme", "https"), (":authority", HOST), (":path", "/h2")]
    waiting, complete, good = count, 0, set[int]()
    await stream.send_all(client.data_to_send())
    while complete < count:
        for event in client.receive_data(await stream.receive_some()):
            match event:
                case h2.events.ResponseReceived(stream_id=int(number)) if (b":status", b"200") in (event.headers or ()):
                    good.add(number)
                case h2.events.DataReceived(stream_id=int(number)):
                    client.acknowledge_received_data(event.flow_controlled_length or 0, number)
                case h2.events.StreamEnded():
                    complete += 1
                    progress()
                case h2.events.StreamReset() | h2.events.ConnectionTerminated():
                    raise ConnectionError(f"the server reset a stream or closed the connection: {event}")
        while waiting and client.open_outbound_streams < client.remote_settings.max_concurrent_streams:
            client.send_headers(client.get_next_available_stream_id(), head, end_stream=True)
            waiting -= 1
        await stream.send_all(client.data_to_send())
    client.close_connection()
    await stream.send_all(client.data_to_send())
    return len(good)
