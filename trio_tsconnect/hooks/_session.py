"""`Session`: one client stream, as plugins see it."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from trio_tsconnect._util import public
from trio_tsconnect.stream import ClientInfo

if TYPE_CHECKING:
    from trio_tsconnect.hooks._proxy import Proxy


@public("trio_tsconnect")
class Session:
    """One client stream, over a socket or virtual. Hooks get it; nobody else makes one."""

    proxy: Proxy
    """The proxy that serves it."""
    number: int
    """The number of this session, unique in the process (`session` in the log)."""
    client: ClientInfo
    """On whose behalf the requests come."""
    tag: str | None
    """The opener's tag; None for network clients."""
    id: int
    """The opener's number; 0 is not set."""
    internal: bool
    """Whether the requests are the process's own."""
    target: tuple[str, int] | None
    """The (host, port) that the opener named; None for network clients."""
    data: dict[Any, Any]
    """For plugins: what they keep for the length of the session, by keys of their own."""
