"""One client stream, as the engine runs on it; `_serve` runs its requests."""

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

# What a front end gives as its reason when it closes or aborts a virtual connection for another's doing than its client's.
_NOT_THE_CLIENTS = {
    "front_end_closed": ("proxy", Failure.CANCELLED.value),
    "front_end_failed": ("proxy", "front_end_failed"),
    "broken_off": ("origin", "broken_off"),
}
_CAUSE = re.compile(r"[a-z][a-z0-9]*(?:_[a-z0-9]+)+")


class InputReader(Protocol):
    """What reads a client's stream while its transaction waits."""

    async def stop(self) -> None:
        """End it, so that the session may read."""
        ...


class EngineSession(Session):
    """What the engine adds to the face that plugins see."""

    # As each session begins; an attribute of the class costs a session nothing until it changes.
    deadline: float = math.inf
    detached: bool = False
    counts_as_internal: bool = False
    requests: int = 0
    transaction: EngineTransaction | None = None
    failures: tuple[TransactionFailure, ...] = ()
    """What is wrong with the next transaction before it begins; the first counts."""
    broken: bool = False
    cancel_cause: tuple[str, str] = ("proxy", Failure.CANCELLED.value)
    cancelled: bool = False
    started: bool = False
    idling: bool = False
    input_reader: InputReader | None = None
    done: trio.Event | None = None
    nursery: trio.Nursery | None = None
    gone: tuple[str, str] | None = None

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
        """Whether the connection ends with the request that is being served."""
        http = self.core.config.http
        most = http.max_requests_per_connection
        if self.core.draining or (most is not None and self.requests >= most):
            return True
        return self.parent is not None and self.parent.root.descendants >= http.max_descendants

    def cancel(self, by: str, why: str) -> None:
        """End the session now; the record of its transaction says by whom and why. The first cause counts."""
        if not self.cancelled:
            self.cancelled = True
            self.cancel_cause = (by, why)
            if self.transaction is not None:
                for child in self.transaction.children:
                    child.cancel("proxy", "parent_ended")
            if self.nursery is not None:
                self.nursery.cancel_scope.cancel()

    def stop_idling(self) -> None:
        """End the session if it waits for a request; a request that is being served is served."""
        if self.idling and self.nursery is not None and not self.http.skip_empty_lines() and not has_input(self.stream):
            self.nursery.cancel_scope.cancel()

    def client_is_gone(self, reason: str = "") -> None:
        """The client can receive no answer any more: its transaction ends. Bytes it wrote before still make one, for the log.

        A reason that is one snake_case word is the cause that the record tells, unless it is the word of a front end for somebody else's doing.
        """
        cause = reason if _CAUSE.fullmatch(reason) else Failure.CLIENT_GONE.value
        self.gone = _NOT_THE_CLIENTS.get(reason, ("client", cause))
        if self.transaction is not None and self.transaction.state is not State.TUNNEL:  # a tunnel drains first, and ends by itself
            self.cancel(*self.gone)

    @property
    def gone_because(self) -> tuple[str, str]:
        """Whose doing it is that the client is gone, and the cause for the log; the client's, as far as is known."""
        return self.gone or ("client", Failure.CLIENT_GONE.value)

    @property
    def client_has_gone(self) -> bool:
        """Whether the client is known to be gone."""
        return self.gone is not None

    def due(self) -> None:
        """The timer's call: it has waited for a request for long enough."""
        self.stop_idling()
        if self.idling:  # something has come that may yet turn out to be no request
            self.core.timer.set(self, trio.current_time() + self.core.config.http.keep_alive_timeout)

    def __repr__(self) -> str:
        tag = f" tag={self.tag!r} id={self.id}" if self.tag or self.id else ""
        return f"<Session {self.number} for {self.client.host} ({self.client.protocol}){tag}, {self.requests} requests>"
