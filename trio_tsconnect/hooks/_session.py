"""`Session`: one client stream, in the interface for plugins."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from trio_tsconnect._util import public
from trio_tsconnect.stream import ClientInfo

if TYPE_CHECKING:
    from trio_tsconnect.hooks._proxy import Proxy


@public("trio_tsconnect")
class Session:
    """One client stream: a socket or a virtual connection. Created by the engine and passed to hooks."""

    proxy: Proxy
    """Proxy that serves the session."""
    number: int
    """Number of the session, unique in the process (`session` in the log)."""
    client: ClientInfo
    """Client that the requests are made for."""
    tag: str | None
    """Tag given by the opener; None for network clients."""
    id: int
    """Number given by the opener; 0 means not set."""
    internal: bool
    """True if the requests are internal, made by this process for itself."""
    target: tuple[str, int] | None
    """Origin (host, port) given by the opener; None for network clients."""
    data: dict[Any, Any]
    """Storage for plugins, kept until the session ends. `DataKey` gives typed entries; other keys must be distinct."""
