"""`Proxy`: the interface of the engine for its users and for plugins."""

from __future__ import annotations

import abc
from collections.abc import AsyncIterable, Callable
from contextlib import AbstractAsyncContextManager, AbstractContextManager

import attrs
import trio

from trio_tsconnect._util import public
from trio_tsconnect.config import PluginBase, ProxyConfig
from trio_tsconnect.hooks._connect import ConnectOptions
from trio_tsconnect.hooks._fetch import as_request, directed
from trio_tsconnect.hooks._session import Session
from trio_tsconnect.hooks._tree import TreeNode
from trio_tsconnect.message import URL, Request
from trio_tsconnect.stream import ClientInfo, FetchedResponse, VirtualConnection, fetch


@public("trio_tsconnect")
@attrs.frozen(kw_only=True)
class ProxyStatistics:
    """Number of open sessions, transactions and origin connections at one moment."""

    sessions: int
    """Client streams being served, including virtual connections."""
    transactions: int
    """Requests being served."""
    origin_idle: int
    """Idle origin connections."""
    origin_taken: int
    """Origin connections that serve a request or are being opened."""
    origin_waiting: int
    """Transactions waiting for an origin connection."""


@public("trio_tsconnect")
class FrontEnd(abc.ABC):
    """One registered client connection of another protocol, such as HTTP/2. Created by `Proxy.front_end`."""

    @abc.abstractmethod
    def connect(self, options: ConnectOptions, *, client: ClientInfo | None = None) -> VirtualConnection:
        """Open a virtual connection as `Proxy.connect` does, also while the proxy drains: the front end decides which request is its last.

        `client` replaces the client of the options, so that one `ConnectOptions` can be used for all requests of a connection.
        """


@public("trio_tsconnect")
class Proxy(abc.ABC):
    """A running proxy. Created by `open_proxy`; it serves until that context ends."""

    config: ProxyConfig
    """Configuration passed to `open_proxy`."""

    @property
    @abc.abstractmethod
    def draining(self) -> bool:
        """True if the proxy no longer accepts sessions."""

    @abc.abstractmethod
    async def serve_stream(self, stream: trio.abc.Stream, *, client: ClientInfo | None = None, received: bytes = b"") -> None:
        """Serve HTTP/1 requests on a stream until the session ends, then close the stream. Can be used as handler of
        `trio.serve_listeners`.

        `client`: the client, if the caller knows it better than the stream does. `received`: bytes that the caller has already read from
        the stream, for example to detect the protocol. The stream is closed at once if the proxy is draining or closed, at
        `http.max_connections`, or if the access rules deny the client every request. Errors of the connection are not raised. Cancellation
        cancels the transaction in progress, which is still logged. Raises `RuntimeError` outside the trio run of the proxy.
        """

    @abc.abstractmethod
    def connect(self, options: ConnectOptions | None = None) -> VirtualConnection:
        """Open a virtual connection to the proxy, to write requests and read responses. Synchronous; does not block.

        The session at the other end runs in the nursery of the proxy. The caller must close the connection. Closing it during a transaction
        cancels that transaction; `send_eof` does not. Raises `ConnectRefused` if the proxy is draining or closed, if the access rules deny
        the client every request, or at `http.max_concurrent_internal`. Raises `RuntimeError` outside the thread and trio run of the proxy.
        Source: `TSHttpConnectPlugin`.
        """

    def fetch(
        self,
        request: Request | URL | str,
        *,
        body: bytes | AsyncIterable[bytes] = b"",
        options: ConnectOptions | None = None,
        direct: bool = False,
        raise_failures: bool = True,
    ) -> AbstractAsyncContextManager[FetchedResponse]:
        """Send a request over a new virtual connection: `async with proxy.fetch(request) as response`, then read `response.body`.

        A URL, or text with an absolute URL, is a GET. `body` is sent while the response is read. `direct` permits the host of the URL as
        the origin if no remap rule matches, as `ConnectOptions.target` does. Leaving the block closes the connection, which cancels a
        transaction still in progress. Raises `ConnectRefused`, or `FetchError` if no complete response is received, or if the proxy itself
        answers with an error: its `cause` is that of the log. With `raise_failures=False` such an answer is returned like any other;
        `response.source` and `response.cause` tell it from an origin's.
        """
        request, where = directed(as_request(request), options, direct=direct)
        return fetch(lambda: self.connect(where), request, body, raise_failures=raise_failures)

    @abc.abstractmethod
    def front_end(
        self, *, drain: Callable[[], object], end: Callable[[], object], client: ClientInfo | None = None
    ) -> AbstractContextManager[FrontEnd]:
        """Register one client connection of another protocol for the length of a `with` block. It opens virtual connections by
        `FrontEnd.connect`.

        `drain()` is called when the proxy starts to drain, or at once if it is draining already: stop accepting requests as soon as the
        protocol allows. `end()` is called when the remaining sessions are cancelled. Both calls are synchronous. Draining waits for
        registered connections as for sessions. Raises `ConnectRefused` if the proxy is closed, if it has `http.max_connections` client
        connections already, or if the access rules deny the `client` every request.
        """

    @staticmethod
    @abc.abstractmethod
    def next_id() -> int:
        """Return a number that is unique in this process and never 0, for example as the `id` of a connection."""

    @abc.abstractmethod
    def plugins(self) -> tuple[PluginBase, ...]:
        """Return all plugins, including those of remap rules, each once."""

    @abc.abstractmethod
    def tree(self) -> tuple[TreeNode, ...]:
        """Return the transactions in progress: the roots, each with its children."""

    @property
    @abc.abstractmethod
    def sessions(self) -> tuple[Session, ...]:
        """Sessions being served."""

    @abc.abstractmethod
    def statistics(self) -> ProxyStatistics:
        """Return the current counts of sessions, transactions and origin connections."""

    @abc.abstractmethod
    async def drain(self, seconds: float) -> bool:
        """Stop accepting sessions, close idle ones, and wait up to `seconds` for the others. Return True if all have ended.

        A session with a transaction in progress finishes that transaction. If its response has not begun, it says `Connection: close`.
        """

    @abc.abstractmethod
    async def wait_until_draining(self) -> None:
        """Wait until the proxy starts to drain. For plugins that must end long-lived responses or tunnels."""
