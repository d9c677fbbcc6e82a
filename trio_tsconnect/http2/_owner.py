"""The interfaces of a connection towards its parts, the streams and the receiver.

Invariant: a part calls its connection only through these protocols. The connection calls its parts directly.
"""

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
    """The interface of a connection towards its streams."""

    config: HttpConfig
    limits: Http2Limits
    window: ConnectionWindow
    window_size: int
    """Bytes of a stream's flow-control window, and of each buffer of its virtual connection."""

    def ready(self, stream: Stream) -> None:
        """Schedule a stream for writing: its outbox is not empty."""
        ...

    def look_at(self, stream: Stream) -> None:
        """Schedule a call of `stream.answer_now`: its virtual connection has input, and the stream has no task."""
        ...

    def took(self, stream: Stream, content: int, size: int) -> None:
        """Credit received DATA to the client: `content` bytes are no longer held, `size` bytes (with padding) go to the stream's window."""
        ...

    def open_wide(self, stream: Stream, size: int) -> None:
        """Open the stream's window, and the connection's, so that the client may send `size` more bytes on this stream."""
        ...

    def reset(self, stream: Stream, code: int, reason: str) -> None:
        """Reset a stream with an error code and abort its transaction with a reason, unless the stream is closed already."""
        ...


class ReceiverOwner(Protocol):
    """The interface of a connection towards its receiver."""

    client: ClientInfo
    streams: dict[int, Stream]
    shared: Shared
    window: ConnectionWindow

    @property
    def frames_written(self) -> int:
        """Number of DATA frames that were written; a client may answer each with WINDOW_UPDATE."""
        ...

    def put(self, data: bytes) -> None:
        """Queue serialized frames after everything that h2 has queued."""
        ...

    def ring(self) -> None:
        """Wake the writer: h2 has queued frames."""
        ...

    def ready(self, stream: Stream) -> None:
        """Schedule a stream for writing."""
        ...

    def open_stream(self, number: int, fields: Fields, *, ended: bool, refuse: bool) -> None:
        """Handle a request head. `ended`: no body follows. `refuse`: reject the request, because the stream depends on itself."""
        ...

    def remote_ended(self, stream: Stream) -> None:
        """Handle END_STREAM from the client."""
        ...

    def fail(self, stream: Stream, fault: StreamFault) -> None:
        """Reset a stream for a stream error of the client."""
        ...

    def closed(self, stream: Stream, reason: str | None) -> None:
        """Remove a stream that is closed in HTTP/2. With a reason, abort its transaction."""
        ...

    def client_leaves(self, code: int) -> None:
        """Handle GOAWAY from the client."""
        ...

    def ping_returned(self) -> None:
        """Handle an acknowledged PING."""
        ...
