"""One client stream: its requests one after another, until one side has had enough.

The law: a session never raises. Whatever ends it, its stream is closed, its transaction has its record, and it is off the proxy's books.

A session owns a nursery, and everything that its transactions start lives there: children, intercepts, a reader that looks after the
client. So the request tree is the nursery tree, and a transaction that starts nothing pays for no nursery of its own.
"""

from __future__ import annotations

import logging
import math
import re
from typing import TYPE_CHECKING, Any

import trio

from trio_tsconnect._contain import sort_out
from trio_tsconnect._util import public
from trio_tsconnect.engine._gone import InputWatch
from trio_tsconnect.engine._plugin import plugin_name
from trio_tsconnect.hooks import State
from trio_tsconnect.message import Failure, TransactionFailure
from trio_tsconnect.stream import ClientInfo, HTTP1Server, close_gently, close_now, describe_client, has_input, watch_peer

if TYPE_CHECKING:
    from trio_tsconnect.engine._proxy import Proxy
    from trio_tsconnect.engine._transaction import Transaction
    from trio_tsconnect.hooks import ConnectOptions

# What a front end gives as its reason when it closes or aborts a virtual connection for another's doing than its client's.
_NOT_THE_CLIENTS = {
    "front_end_closed": ("proxy", Failure.CANCELLED.value),
    "front_end_failed": ("proxy", "front_end_failed"),
    "broken_off": ("origin", "broken_off"),
}
_CAUSE = re.compile(r"[a-z][a-z0-9]*(?:_[a-z0-9]+)+")
logger = logging.getLogger("trio_tsconnect")


@public("trio_tsconnect")
class Session:
    """One client stream, over a socket or virtual. Hooks get it; nobody else makes one."""

    # The engine's own, as each session begins with it; an attribute of the class costs a session nothing until it changes.
    deadline: float = math.inf
    detached: bool = False
    counts_as_internal: bool = False
    requests: int = 0
    transaction: Transaction | None = None
    failure: TransactionFailure | None = None
    broken: bool = False
    cancel_cause: tuple[str, str] = ("proxy", Failure.CANCELLED.value)
    input_watch: InputWatch | None = None
    done: trio.Event | None = None
    nursery: trio.Nursery | None = None
    _cancelled = False
    _gone: tuple[str, str] | None = None
    _started = False
    _idling = False

    def __init__(
        self,
        proxy: Proxy,
        stream: trio.abc.Stream,
        client: ClientInfo | None,
        options: ConnectOptions | None = None,
        parent: Transaction | None = None,
    ) -> None:
        self.proxy = proxy
        self.number: int = proxy.next_id()
        """The number of this session, unique in the process (`session` in the log)."""
        self.client: ClientInfo = client or describe_client(stream)
        """On whose behalf the requests come."""
        self.tag: str | None = options.tag if options else None
        """The opener's tag; None for network clients."""
        self.id: int = options.id if options else 0
        """The opener's number; 0 is not set."""
        self.internal: bool = options.is_internal if options else False
        """Whether the requests are the process's own."""
        self.data: dict[Any, Any] = {}
        """For plugins: what they keep for the length of the session, by keys of their own."""
        # what follows is the engine's
        self.target: tuple[str, int] | None = options.target if options else None
        self.end: float | None = options.deadline if options else None
        self.virtual: bool = options is not None
        self.parent = parent
        self.awaited: bool = parent is not None
        self.stream = stream
        self.http: HTTP1Server = HTTP1Server(stream, limits=proxy.head_limits, parser=proxy.config.http.parser)

    @property
    def is_last_request(self) -> bool:
        """Whether the connection ends with the request that is being served."""
        http = self.proxy.config.http
        most = http.max_requests_per_connection
        if self.proxy.draining or (most is not None and self.requests >= most):
            return True
        return self.parent is not None and self.parent.root.descendants >= http.max_descendants

    def cancel(self, by: str, why: str) -> None:
        """End the session now; the record of its transaction says by whom and why. The first cause counts."""
        if not self._cancelled:
            self._cancelled = True
            self.cancel_cause = (by, why)
            if self.transaction is not None:
                for child in self.transaction.children:
                    child.cancel("proxy", "parent_ended")
            if self.nursery is not None:
                self.nursery.cancel_scope.cancel()

    def stop_idling(self) -> None:
        """End the session if it waits for a request; a request that is being served is served."""
        if self._idling and self.nursery is not None and not self.http.skip_empty_lines() and not has_input(self.stream):
            self.nursery.cancel_scope.cancel()

    def client_is_gone(self, reason: str = "") -> None:
        """The client can receive no answer any more: its transaction ends. Bytes it wrote before still make one, for the log.

        A reason that is one snake_case word is the cause that the record tells, unless it is the word of a front end for somebody else's doing.
        """
        cause = reason if _CAUSE.fullmatch(reason) else Failure.CLIENT_GONE.value
        self._gone = _NOT_THE_CLIENTS.get(reason, ("client", cause))
        if self.transaction is not None and self.transaction.state is not State.TUNNEL:  # a tunnel drains first, and ends by itself
            self.cancel(*self._gone)

    @property
    def gone_because(self) -> tuple[str, str]:
        """Whose doing it is that the client is gone, and the cause for the log; the client's, as far as is known."""
        return self._gone or ("client", Failure.CLIENT_GONE.value)

    @property
    def client_has_gone(self) -> bool:
        """Whether the client is known to be gone."""
        return self._gone is not None

    async def run(self) -> None:
        """Serve requests until the connection ends; close the stream. An error never leaves, a cancellation from outside does."""
        try:
            async with trio.open_nursery() as nursery:
                self.nursery = nursery
                if self._cancelled:
                    nursery.cancel_scope.cancel()
                watch_peer(self.stream, self.client_is_gone)
                try:
                    await self._serve()
                except (trio.BrokenResourceError, trio.ClosedResourceError):
                    pass  # between two requests a client may go as it likes
                except Exception:
                    logger.exception("session %d failed inside the engine", self.number)
                if nursery.child_tasks:
                    nursery.cancel_scope.cancel()
        finally:
            try:
                await self._close()
            finally:
                self.proxy.forget(self)
                if self.done is not None:
                    self.done.set()

    async def _serve(self) -> None:
        while await self._next_request():
            if not self._started:
                await self._start()
            self.requests += 1
            if self.parent is not None and self.requests > 1:  # the connection has counted as its first request
                self._count_descendant(self.parent.root)
            self.transaction = txn = self.proxy.new_transaction(self)
            if self._gone is not None:
                self.cancel(*self._gone)
            try:
                await self.proxy.run_transaction(txn)
            finally:
                self.transaction = None
            if self.input_watch is not None:
                await self.input_watch.stop()
            if not txn.keep_alive:
                return

    def _count_descendant(self, root: Transaction) -> None:
        """One more request on a kept connection. Several connections may have been open when the last place went, so each asks again."""
        if root.descendants >= self.proxy.config.http.max_descendants:
            self.failure = TransactionFailure(Failure.DESCENDANTS)
        else:
            root.descendants += 1

    async def _next_request(self) -> bool:
        if self.http.skip_empty_lines():
            return True  # pipelined: the next request is here already
        if self.proxy.draining and (self.requests or not self.awaited) and not has_input(self.stream):
            return False  # (what has come already is served, and told that it was the last)
        if not self.requests and self.http.fill_now() and self.http.skip_empty_lines():
            return True  # of a virtual connection: it was written before this task could begin
        self.proxy.timer.set(self, trio.current_time() + self.proxy.config.http.keep_alive_timeout)
        self._idling = True
        more = await self._wait_for_request()
        self._idling = False
        self.deadline = math.inf
        assert self.nursery is not None
        return more and not self.nursery.cancel_scope.cancel_called  # it ended in the tick in which something came

    async def _wait_for_request(self) -> bool:
        while await self.http.fill():
            if self.http.skip_empty_lines():
                return True
            if self.proxy.draining and not has_input(self.stream):
                return False  # nothing but empty lines has come
        return False

    def due(self) -> None:
        """The timer's call: it has waited for a request for long enough."""
        self.stop_idling()
        if self._idling:  # something has come that may yet turn out to be no request
            self.proxy.timer.set(self, trio.current_time() + self.proxy.config.http.keep_alive_timeout)

    async def _start(self) -> None:
        self._started = True
        for method in self.proxy.hooks.session_start:
            try:
                with trio.fail_after(self.proxy.config.http.header_timeout):  # there is no transaction yet whose limits could count
                    await method(self)
            except BaseException as exc:
                failure, passing = sort_out(exc)
                if failure is not None:
                    name = plugin_name(method)
                    logger.error("plugin %s failed in session_start (session %d)", name, self.number, exc_info=failure)
                    self.failure = TransactionFailure(Failure.PLUGIN, "A plugin failed.", plugin=name)
                    self.failure.log = {"hook": "session_start", "exception": f"{type(failure).__name__}: {failure}"}
                if passing is not None:
                    raise passing from None

    async def _close(self) -> None:
        self.proxy.timer.remove(self)
        watch_peer(self.stream, None)
        try:
            if self.broken or self._cancelled:
                await close_now(self.stream)
            else:
                await close_gently(self.stream, 0.0 if self.http.input_ended else self.proxy.config.http.linger_timeout)
        except Exception:
            logger.exception("the stream of session %d cannot be closed", self.number)
        finally:
            if self._started and self.proxy.hooks.session_close:
                await self.proxy.fire_closing(self, self.proxy.hooks.session_close)

    def __repr__(self) -> str:
        tag = f" tag={self.tag!r} id={self.id}" if self.tag or self.id else ""
        return f"<Session {self.number} for {self.client.host} ({self.client.protocol}){tag}, {self.requests} requests>"
