"""State of one client stream. `_serve` reads its requests and serves them."""

from __future__ import annotations

import math
import re
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, Protocol

import trio

from trio_tsconnect.engine._core import Core, next_id
from trio_tsconnect.hooks import ConnectOptions, Session, State
from trio_tsconnect.message import Failure, TransactionFailure
from trio_tsconnect.stream import ClientInfo, HTTP1Server, describe_client, has_input

if TYPE_CHECKING:
    from trio_tsconnect.engine._transaction import EngineTransaction

# Reasons with which a front end closes or aborts a virtual connection when the client is not the cause: the (by, why) to log instead.
_NOT_THE_CLIENTS = {
    "front_end_closed": ("proxy", Failure.CANCELLED.value),
    "front_end_failed": ("proxy", "front_end_failed"),
    "broken_off": ("origin", "broken_off"),
}
_CAUSE = re.compile(r"[a-z][a-z0-9]*(?:_[a-z0-9]+)+")


class InputReader(Protocol):
    """A task that reads the client's stream while the transaction waits; see `_gone.ClientReader`."""

    async def stop(self) -> None:
        """Cancel the task and wait until it has ended. After that the session may read."""
        ...


class EngineSession(Session):
    """Engine side of a session: the public `Session` and the state that only the engine uses."""

    # Initial values. As class attributes they cost a session nothing until they are assigned.
    deadline: float = math.inf
    """Trio time at which the timer calls `due`; infinite if no deadline is set."""
    opened_by: str | None = None
    """Plugin and hook that opened the connection of a child; None for others."""
    detached: bool = False
    """True for a child that may outlive its parent."""
    counts_as_internal: bool = False
    """True if the session counts in `http.max_concurrent_internal`."""
    requests: int = 0
    """Number of requests begun on this stream."""
    transaction: EngineTransaction | None = None
    """The transaction in progress; None between two requests."""
    failures: tuple[TransactionFailure, ...] = ()
    """Failures that end the next transaction before it reads its request. The first one is answered."""
    broken: bool = False
    """True if the stream must be closed by force, without lingering."""
    cancel_cause: tuple[str, str] = ("proxy", Failure.CANCELLED.value)
    """(by, why) for the log if the session is cancelled."""
    cancelled: bool = False
    """True once `cancel` was called."""
    started: bool = False
    """True once the `session_start` hooks were started; they run before the first request."""
    idling: bool = False
    """True while the session waits for a request."""
    input_reader: InputReader | None = None
    """The task that reads from the client while the transaction waits, if one runs."""
    done: trio.Event | None = None
    """Set when the session has ended; only for children that are not detached."""
    nursery: trio.Nursery | None = None
    """Nursery for everything that the transactions start; None before the session runs."""
    gone: tuple[str, str] | None = None
    """(by, why) for the log once the client is known to be gone."""

    def __init__(
        self,
        core: Core,
        stream: trio.abc.Stream,
        client: ClientInfo | None,
        ended: Callable[[EngineSession], object],
        options: ConnectOptions | None = None,
        parent: EngineTransaction | None = None,
        *,
        internal: bool = False,
    ) -> None:
        self.core = core
        self.proxy = core.proxy
        self.number = next_id()
        self.client = client or describe_client(stream)
        self.tag = options.tag if options else None
        self.id = options.id if options else 0
        self.internal = internal
        self.data: dict[Any, Any] = {}
        self.target = options.target if options else None
        self.end: float | None = options.deadline if options else None
        self.virtual: bool = options is not None
        self.parent = parent
        self.awaited: bool = parent is not None
        self.stream = stream
        self.ended = ended
        self.http: HTTP1Server = HTTP1Server(stream, limits=core.head_limits, parser=core.config.http.parser)

    @property
    def is_last_request(self) -> bool:
        """True if the connection closes after the request that is being served."""
        http = self.core.config.http
        most = http.max_requests_per_connection
        if self.core.draining or (most is not None and self.requests >= most):
            return True
        return self.parent is not None and self.parent.root.descendants >= http.max_descendants

    def cancel(self, by: str, why: str) -> None:
        """Cancel the session. The log record of its transaction gets `by` and `why`. Later calls change nothing."""
        if not self.cancelled:
            self.cancelled = True
            self.cancel_cause = (by, why)
            if self.transaction is not None:
                # First the children, so that their records say `parent_ended`. The nursery below would cancel them without a cause.
                for child in self.transaction.children:
                    child.cancel("proxy", "parent_ended")
            if self.nursery is not None:
                self.nursery.cancel_scope.cancel()

    def stop_idling(self) -> None:
        """Cancel the session if it waits for a request and nothing was received. A request that was received is still served."""
        if self.idling and self.nursery is not None and not self.http.skip_empty_lines() and not has_input(self.stream):
            self.nursery.cancel_scope.cancel()

    def client_is_gone(self, reason: str = "") -> None:
        """Note that the client cannot receive a response any more, and cancel the transaction in progress, except in a tunnel.

        A request that was received before still becomes a transaction, and so a log record. `reason` is logged as the cause if it is in
        snake_case, with at least one underscore. The reasons in `_NOT_THE_CLIENTS` are logged as caused by the proxy or the origin.
        """
        cause = reason if _CAUSE.fullmatch(reason) else Failure.CLIENT_GONE.value
        self.gone = _NOT_THE_CLIENTS.get(reason, ("client", cause))
        if self.transaction is not None and self.transaction.state is not State.TUNNEL:  # a tunnel delivers its bytes first
            self.cancel(*self.gone)

    @property
    def gone_because(self) -> tuple[str, str]:
        """(by, why) for the log: why the client is gone. `("client", "client_gone")` if nothing else is known."""
        return self.gone or ("client", Failure.CLIENT_GONE.value)

    @property
    def client_has_gone(self) -> bool:
        """True if the client is known to be gone."""
        return self.gone is not None

    def due(self) -> None:
        """End the session at its keep-alive timeout. Called by the timer."""
        self.stop_idling()
        if self.idling:  # input was received, but it may turn out to be only empty lines: wait again
            self.core.timer.set(self, trio.current_time() + self.core.config.http.keep_alive_timeout)

    def __repr__(self) -> str:
        tag = f" tag={self.tag!r} id={self.id}" if self.tag or self.id else ""
        return f"<Session {self.number} for {self.client.host} ({self.client.protocol}){tag}, {self.requests} requests>"
