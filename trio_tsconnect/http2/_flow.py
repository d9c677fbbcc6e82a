"""Inbound flow control (RFC 9113 §5.2): when a client may send more of its request bodies.

Invariant: bytes are credited to the connection's window when they are received, to a stream's window only when its virtual connection has
accepted them. So a stream whose body is not read closes its own window and no other, and buffers at most that window. The connection's
window is not opened while the buffers of all streams together are above their limit.
"""

from __future__ import annotations

from collections.abc import Callable

from trio_tsconnect.config import Http2Limits
from trio_tsconnect.http2._limits import Shared
from trio_tsconnect.http2._protocol import Machine


class ConnectionWindow:
    """The connection's flow-control window, and the number of bytes that its streams hold.

    A stream holds the content that was received for it and that its virtual connection has not accepted yet.
    """

    __slots__ = ("_cap", "_machine", "_opened", "_owed", "_shared", "_threshold", "held")

    def __init__(self, machine: Machine, limits: Http2Limits, shared: Shared, opened: Callable[[], object] = lambda: None) -> None:
        self._shared = shared
        self._machine = machine
        self._opened = opened
        self._threshold = limits.connection_window // 2
        self._cap = limits.max_buffered
        self._owed = 0
        self.held = 0
        """Bytes of content that the connection's streams hold."""

    def received(self, size: int, held: int) -> None:
        """Record `size` bytes received, including padding. A stream holds `held` of them."""
        self._owed += size
        self.held += held
        self._shared.changed(held)
        self.open()

    def released(self, held: int) -> None:
        """Record that `held` bytes are no longer held: the virtual connection accepted them, or they were discarded."""
        self.held -= held
        self._shared.changed(-held)
        self.open()

    def open(self) -> None:
        """Credit the bytes received so far to the client, with one WINDOW_UPDATE.

        Does nothing until half of the window is due, while the streams hold more than `Http2Limits.max_buffered`, or while all connections
        hold more than `Http2Limits.max_buffered_by_all` (then `Shared` calls this again when there is room).
        """
        if self._owed >= self._threshold and self.held <= self._cap and self._shared.has_room(self):
            self._machine.h2.increment_flow_control_window(self._owed)
            self._owed = 0
            self._opened()  # wake the writer: no stream may have anything to send, and the client waits for this WINDOW_UPDATE


class StreamWindow:
    """The flow-control window of one stream: `128 << limits.buffer_index` bytes."""

    __slots__ = ("_machine", "_owed", "_stream", "_threshold")

    def __init__(self, machine: Machine, limits: Http2Limits, stream: int) -> None:
        self._machine = machine
        self._stream = stream
        self._threshold = (128 << limits.buffer_index) // 2
        self._owed = 0

    def taken(self, size: int) -> bool:
        """Credit `size` bytes that were accepted by the virtual connection or were padding. Return True if a WINDOW_UPDATE was queued.

        A WINDOW_UPDATE is queued once half of the window is due. Call this only while the client may still send on the stream.
        """
        self._owed += size
        if self._owed < self._threshold:
            return False
        self._machine.h2.increment_flow_control_window(self._owed, self._stream)
        self._owed = 0
        return True
