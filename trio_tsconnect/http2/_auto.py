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
from trio_tsconnect.http2._frontend import serve_http2
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
    client = describe_client(stream)
    first = await _first_bytes(proxy, stream)
    if first is None:
        return
    begun = Begun(stream, first)
    if first[: len(PREFACE)] == PREFACE:
        await serve_http2(proxy, begun, client=client)
    else:
        await proxy.serve_stream(begun, client=client)


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


async def _first_bytes(proxy: Proxy, stream: trio.abc.Stream) -> bytes | None:
    """As many bytes as it takes to tell; None when the client has not begun in time, and the stream is closed."""
    config = proxy.config.http
    data = b""
    scope = trio.move_on_after(config.keep_alive_timeout)
    ended = False
    try:
        with proxy.front_end(drain=scope.cancel, end=scope.cancel), scope:
            while not ended and len(data) < len(PREFACE) and PREFACE.startswith(data):
                more = bytes(await stream.receive_some(_READ_SIZE))
                if not data:
                    scope.deadline = min(scope.deadline, trio.current_time() + config.header_timeout)
                data += more
                ended = not more
    except (trio.BrokenResourceError, trio.ClosedResourceError, ConnectRefused):
        data = b""
    except BaseException:
        await close_now(stream)
        raise
    if not data:
        await close_now(stream)
        return None
    return data


class Begun(trio.abc.HalfCloseableStream):
    """A stream of which something was read already: those bytes come first, and in all else it is that stream."""

    def __init__(self, stream: trio.abc.Stream, first: bytes) -> None:
        self._stream = stream
        self._first = first

    async def receive_some(self, max_bytes: int | None = None) -> bytes | bytearray:
        """The bytes that were read already, then what comes."""
        if self._first:
            await trio.lowlevel.checkpoint()
            size = len(self._first) if max_bytes is None else max_bytes
            data, self._first = self._first[:size], self._first[size:]
            return data
        return await self._stream.receive_some(max_bytes)

    async def send_all(self, data: bytes | bytearray | memoryview) -> None:
        """As the stream."""
        await self._stream.send_all(data)

    async def wait_send_all_might_not_block(self) -> None:
        """As the stream."""
        await self._stream.wait_send_all_might_not_block()

    async def send_eof(self) -> None:
        """As the stream, if it can be closed by halves."""
        if isinstance(self._stream, trio.abc.HalfCloseableStream):
            await self._stream.send_eof()

    async def aclose(self) -> None:
        """As the stream."""
        await self._stream.aclose()

    def __getattr__(self, name: str) -> Any:
        # what only some kinds of streams have (to be watched, aborted, flushed) is asked of the stream by those who know
        return getattr(self._stream, name)
