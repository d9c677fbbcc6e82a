"""One listener for both protocols: what a client speaks is told by ALPN, or by the first bytes that it sends.

The law: whoever is handed the stream sees every byte of it. Telling costs no more time than a head may take.
"""

from __future__ import annotations

import ssl
from typing import Any

import trio

from trio_tsconnect import ConnectRefused, Proxy
from trio_tsconnect._util import public
from trio_tsconnect.http2._frames import PREFACE
from trio_tsconnect.http2._frontend import Connection, serve_http2
from trio_tsconnect.stream import close_now, describe_client

_READ_SIZE = 65536


@public("trio_tsconnect.http2")
async def serve_auto(proxy: Proxy, stream: trio.abc.Stream) -> None:
    """Serve HTTP/2 or HTTP/1, whichever the client speaks, until the stream ends. A handler for `trio.serve_listeners`.

    Over TLS (`trio.SSLStream`) ALPN decides; in clear text a client that begins with the preface of HTTP/2 speaks it ("prior knowledge", RFC 9113
    §3.3). Never raises but for a cancellation.
    """
    if isinstance(stream, trio.SSLStream):
        if await _shake_hands(proxy, stream):
            if stream.selected_alpn_protocol() == "h2":
                await serve_http2(proxy, stream)
            else:
                await proxy.serve_stream(stream)
        return
    received = await _first_bytes(proxy, stream)
    if received is None:
        return
    data, began = received
    if data[: len(PREFACE)] == PREFACE:
        await Connection(proxy, stream, describe_client(stream), proxy.config.http2).run(data, since=began)
    else:
        await proxy.serve_stream(stream, received=data)


async def _shake_hands(proxy: Proxy, stream: trio.SSLStream[Any]) -> bool:
    """Whether the handshake came to its end in time; if not, the stream is closed."""
    done = False
    scope = trio.move_on_after(proxy.config.http.header_timeout)
    try:
        with proxy.front_end(drain=_no_matter, end=scope.cancel), scope:
            await stream.do_handshake()
            done = True
    except (trio.BrokenResourceError, trio.ClosedResourceError, ssl.SSLError, ConnectRefused):
        pass
    finally:
        if not done:
            await close_now(stream)
    return done


def _no_matter() -> None:
    """A handshake is bounded anyway."""


async def _first_bytes(proxy: Proxy, stream: trio.abc.Stream) -> tuple[bytes, float] | None:
    """As many bytes as it takes to tell, and when they began to come; None when it cannot be told in time, and the stream is closed."""
    config = proxy.config.http
    data = b""
    scope = trio.move_on_after(config.keep_alive_timeout)
    ended, began = False, trio.current_time()
    try:
        with proxy.front_end(drain=scope.cancel, end=scope.cancel), scope:
            while not ended and len(data) < len(PREFACE) and PREFACE.startswith(data):
                more = bytes(await stream.receive_some(_READ_SIZE))
                if not data:
                    began = trio.current_time()
                    scope.deadline = min(scope.deadline, began + config.header_timeout)
                data += more
                ended = not more
    except (trio.BrokenResourceError, trio.ClosedResourceError, ConnectRefused):
        data = b""
    except BaseException:
        await close_now(stream)
        raise
    if not data or (not ended and scope.cancelled_caught and not proxy.draining):  # silence, or a preface that does not go on
        await close_now(stream)
        return None
    return data, began
