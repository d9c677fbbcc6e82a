"""One listener for HTTP/2 and HTTP/1. The protocol is selected by ALPN over TLS, by the first bytes in clear text.

Invariant: the server that takes over the stream gets every byte that was received. Detection takes at most `HttpConfig.header_timeout` from
the first byte of the preface, or for the whole TLS handshake.
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
    """Serve HTTP/2 or HTTP/1 on a stream, whichever the client speaks, until the stream ends, and close the stream.

    Pass it as the handler to `trio.serve_listeners`. Over TLS (`trio.SSLStream`) ALPN selects the protocol. In clear text, a client that
    sends the HTTP/2 preface first is served HTTP/2 ("prior knowledge", RFC 9113 §3.3). Raises nothing but `trio.Cancelled`.
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
    """Do the TLS handshake. Return True if it succeeded within `header_timeout` seconds; otherwise close the stream.

    The handshake is cancelled when the proxy ends. Cancellation closes the stream.
    """
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
    """Do nothing: a drain does not interrupt a handshake, which has its own timeout."""


async def _first_bytes(proxy: Proxy, stream: trio.abc.Stream) -> tuple[bytes, float] | None:
    """Receive enough bytes to detect the protocol. Return them and trio's time at which the first was received.

    Waits at most `keep_alive_timeout` seconds for the first byte, and `header_timeout` seconds from there. Closes the stream and returns
    None if no byte was received, if the preface was not completed in time, or if the stream broke. A drain of the proxy ends the wait; what
    was received until then is returned. Cancellation closes the stream.
    """
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
    if not data or (not ended and scope.cancelled_caught and not proxy.draining):  # no bytes, or an incomplete preface at the deadline
        await close_now(stream)
        return None
    return data, began
