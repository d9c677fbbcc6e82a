"""`Proxy`: the engine, as its users and its plugins see it."""

from __future__ import annotations

import abc
from collections.abc import AsyncIterable, Callable
from contextlib import AbstractAsyncContextManager, AbstractContextManager

import attrs
import trio

from trio_tsconnect._util import public
from trio_tsconnect.config import PluginBase, ProxyConfig
from trio_tsconnect.hooks._connect import ConnectOptions
from trio_tsconnect.hooks._session import Session
from trio_tsconnect.hooks._tree import TreeNode
from trio_tsconnect.message import Request
from trio_tsconnect.stream import ClientInfo, FetchedResponse, VirtualConnection, fetch


@public("trio_tsconnect")
@attrs.frozen(kw_only=True)
class ProxyStatistics:
    """What an engine holds at one moment."""

    sessions: int
    """Client streams that are being served, virtual ones included."""
    transactions: int
    """Requests that are being served."""
    origin_idle: int
    """Origin connections that wait for a request."""
    origin_taken: int
    """Origin connections that serve one, or are being made."""
    origin_waiting: int
    """Transactions that wait for an origin connection."""


@public("trio_tsconnect")
class FrontEnd(abc.ABC):
    """One client connection of another protocol, as the proxy knows it; made by `Proxy.front_end`."""

    @abc.abstractmethod
    def connect(self, options: ConnectOptions, *, client: ClientInfo | None = None) -> VirtualConnection:
        """As `Proxy.connect`, but not refused while the proxy drains: the front end itself knows which request is its last.

        `client` in place of that of the options: so one value of them does for all requests of a connection.
        """


@public("trio_tsconnect")
class Proxy(abc.ABC):
    """The engine. `open_proxy` makes one; it serves until that context ends."""

    config: ProxyConfig
    """What it was opened with."""

    @property
    @abc.abstractmethod
    def draining(self) -> bool:
        """Whether it takes no more sessions."""

    @abc.abstractmethod
    async def serve_stream(self, stream: trio.abc.Stream, *, client: ClientInfo | None = None, received: bytes = b"") -> None:
        """Run an HTTP/1 session on a stream until it ends, and close the stream.

        `client`: who is at the other end, where the caller knows better than the stream. `received`: what the caller has read of the stream
        already, to tell what is spoken there. Never raises but for a cancellation, which cancels the transaction in progress (its record is
        still written). On a proxy that is closing the stream is closed at once. A handler for `trio.serve_listeners` as it is.
        """

    @abc.abstractmethod
    def connect(self, options: ConnectOptions | None = None) -> VirtualConnection:
        """Open a virtual connection to the engine: write a request, read the response. Synchronous; nothing blocks.

        The session at the other end is a task of the proxy's nursery. The connection is the caller's to close; closing it fully while a
        transaction is in progress cancels that transaction, `send_eof` does not. Raises `ConnectRefused` on a proxy that is closing or closed, when an
        access rule refuses the client altogether, and past `http.max_concurrent_internal`; `RuntimeError` in another thread or trio run than
        the proxy's. Source: `TSHttpConnectPlugin`.
        """

    def fetch(
        self, request: Request, *, body: bytes | AsyncIterable[bytes] = b"", options: ConnectOptions | None = None
    ) -> AbstractAsyncContextManager[FetchedResponse]:
        """Send a request over a virtual connection of its own: `async with proxy.fetch(request) as response`, then read `response.body`.

        `body` is sent while the response is read. Leaving the block closes the connection, and so cancels what has not ended. Raises
        `ConnectRefused`, or `FetchError` when no whole response came.
        """
        return fetch(lambda: self.connect(options), request, body)

    @abc.abstractmethod
    def front_end(
        self, *, drain: Callable[[], object], end: Callable[[], object], client: ClientInfo | None = None
    ) -> AbstractContextManager[FrontEnd]:
        """Register one client connection of another protocol for as long as it lives; it opens its virtual connections by `FrontEnd.connect`.

        `drain()` is called, synchronously, when the proxy begins to drain (at once if it does so already): take no new requests when you can.
        `end()` is called when what is left is cancelled. Draining waits for registered connections as it does for sessions. Raises
        `ConnectRefused` on a proxy that is closed, past `http.max_connections`, and where an access rule refuses the `client` whatever it may ask
        for.
        """

    @staticmethod
    @abc.abstractmethod
    def next_id() -> int:
        """A number that is unique in this process and never 0: for a front end's connections, a plugin's requests, the rows of its own log."""

    @abc.abstractmethod
    def plugins(self) -> tuple[PluginBase, ...]:
        """Every plugin once, those of rules included."""

    @abc.abstractmethod
    def tree(self) -> tuple[TreeNode, ...]:
        """The transactions that are alive now: the roots, each with its children."""

    @property
    @abc.abstractmethod
    def sessions(self) -> tuple[Session, ...]:
        """The client streams that are being served."""

    @abc.abstractmethod
    def statistics(self) -> ProxyStatistics:
        """What the engine holds at this moment."""

    @abc.abstractmethod
    async def drain(self, seconds: float) -> bool:
        """Take no more sessions, end the idle ones, and wait so long for the rest; whether all have ended.

        Sessions that are served go on to the end of their transaction, whose response says `Connection: close`.
        """

    @abc.abstractmethod
    async def wait_until_draining(self) -> None:
        """Return when the proxy begins to drain: for a plugin that has something to say to clients which would stay for ever."""
