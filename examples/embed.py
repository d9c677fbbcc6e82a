"""A proxy inside your own program, with a listener for network clients.

python examples/embed.py                            requests one page from itself, and ends
python examples/embed.py 8080 http://127.0.0.1:9000/   serves until it is interrupted
"""

from __future__ import annotations

import sys
from collections.abc import Awaitable, Callable

import trio

from trio_tsconnect import MemoryLog, ProxyConfig, RemapRule, open_proxy


async def serve(port: int, origin: str) -> None:
    """Forward all requests received on a port to one origin."""
    async with open_proxy(ProxyConfig(remap=[RemapRule("/", origin)])) as proxy:
        # The engine serves any stream, so `serve_stream` is a handler for trio's listeners.
        await trio.serve_tcp(proxy.serve_stream, port, host="127.0.0.1")


async def show() -> None:
    """Do the same with a small origin, the proxy and one network client in this process."""
    log = MemoryLog()
    async with trio.open_nursery() as nursery:
        origin = await listen(nursery, small_origin)
        config = ProxyConfig(remap=[RemapRule("//shop.example/", f"http://127.0.0.1:{origin}/v1/")])
        async with open_proxy(config, log=log) as proxy:
            print(await ask(await listen(nursery, proxy.serve_stream)))
        nursery.cancel_scope.cancel()
    for record in log.records:
        print(f"log: {record.client_address} asked for {record.url}, and {record.origin_url} answered {record.origin_status}")


async def listen(nursery: trio.Nursery, handler: Callable[[trio.SocketStream], Awaitable[None]]) -> int:
    """Serve `handler` on a loopback port chosen by the system, and return the port."""
    listeners = await trio.open_tcp_listeners(0, host="127.0.0.1")
    nursery.start_soon(trio.serve_listeners, handler, listeners)
    port: int = listeners[0].socket.getsockname()[1]
    return port


async def ask(port: int) -> str:
    """Send one request to the proxy, and return the body of the response."""
    async with await trio.open_tcp_stream("127.0.0.1", port) as stream:
        await stream.send_all(b"GET /cart HTTP/1.1\r\nHost: shop.example\r\nConnection: close\r\n\r\n")
        answer = b"".join([bytes(piece) async for piece in stream])
    return answer.partition(b"\r\n\r\n")[2].decode()


async def small_origin(stream: trio.SocketStream) -> None:
    """Answer one request with the path that was requested."""
    head = bytes(await stream.receive_some())
    body = b"the origin was asked for " + head.split()[1]
    await stream.send_all(b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\nConnection: close\r\n\r\n%s" % (len(body), body))


if __name__ == "__main__":
    if sys.argv[1:]:
        trio.run(serve, int(sys.argv[1]), sys.argv[2])
    else:
        trio.run(show)
