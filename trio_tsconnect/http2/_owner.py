"""What the parts of a connection may ask of it. Events go down to them by calls of their methods; this is the way up, and there is no other."""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol

from trio_tsconnect import ClientInfo, HttpConfig
from trio_tsconnect.config import Http2Limits
from trio_tsconnect.http2._errors import StreamFault
from trio_tsconnect.http2._flow import ConnectionWindow
from trio_tsconnect.http2._hpack import Fields
from trio_tsconnect.http2._limits import Shared

if TYPE_CHECKING:
    from trio_tsconnect.http2._stream import Stream


class StreamOwner(Protocol):
    """A connection, as its streams see it."""

    config: HttpConfig
    limits: Http2Limits
    window: ConnectionWindow
    window_size: int

    def ready(self, stream: Stream) -> None:
        """A stream has something to write."""
        ...

    def look_at(self, stream: Stream) -> None:
        """The engine has answered, and nothing else has to be waited for."""
        ...

    def took(self, stream: Stream, content: int, size: int) -> None:
        """The virtual connection of a stream has taken content."""
        ...

    def open_wide(self, stream: Stream, size: int) -> None:
        """The client is to send so much more of this stream at once."""
        ...

    def reset(self, stream: Stream, code: int, reason: str) -> None:
        """A stream failed, for a fault of ours or of the origin's."""
        ...


class ReceiverOwner(Protocol):
    """A connection, as its receiver sees it."""

    client: ClientInfo
    streams: dict[int, Stream]
    shared: Shared
    window: ConnectionWindow

    @property
    def frames_written(self) -> int:
        """How many frames have been written, as far as they may be answered by WINDOW_UPDATE."""
        ...

    def put(self, data: bytes) -> None:
        """Frames that h2 does not write; what it has written goes out before them."""
        ...

    def ring(self) -> None:
        """There is something to write."""
        ...

    def ready(self, stream: Stream) -> None:
        """A stream has something to write."""
        ...

    def open_stream(self, number: int, fields: Fields, *, ended: bool, refuse: bool) -> None:
        """A request head has come."""
        ...

    def remote_ended(self, stream: Stream) -> None:
        """The client has sent END_STREAM."""
        ...

    def fail(self, stream: Stream, fault: StreamFault) -> None:
        """The client has made a mistake that ends a stream."""
        ...

    def closed(self, stream: Stream, reason: str | None) -> None:
        """A stream is over; with a reason, its transaction is broken off."""
        ...

    def client_leaves(self, code: int) -> None:
        """GOAWAY has come."""
        ...

    def ping_returned(self) -> None:
        """The client has answered a PING."""
        ...
