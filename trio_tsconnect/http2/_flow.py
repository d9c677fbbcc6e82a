"""Flow control towards us (RFC 9113 §5.2): when a client may send more of its request bodies.

The law: the connection's window is opened as soon as bytes have come, a stream's only when its virtual connection took them. So a stream that
nobody reads from closes its own window and no other; what it holds is at most that window, and what all hold together has a cap.
"""

from __future__ import annotations

from collections.abc import Callable

from trio_tsconnect.config import Http2Limits
from trio_tsconnect.http2._limits import Shared
from trio_tsconnect.http2._protocol import Machine


class ConnectionWindow:
    """The window that all streams share, and the sum of what they hold."""

    __slots__ = ("_cap", "_machine", "_opened", "_owed", "_shared", "_threshold", "held")

    def __init__(self, machine: Machine, limits: Http2Limits, shared: Shared, opened: Callable[[], object] = lambda: None) -> None:
        self._shared = shared
        self._machine = machine
        self._opened = opened
        self._threshold = limits.connection_window // 2
        self._cap = limits.max_buffered
        self._owed = 0
        self.held = 0
        """Bytes that came for streams which have not passed them on."""

    def received(self, size: int, held: int) -> None:
        """So many bytes came, padding included, of which so many are held."""
        self._owed += size
        self.held += held
        self._shared.changed(held)
        self.open()

    def released(self, held: int) -> None:
        """So many bytes are held no longer: passed on, or dropped with their stream."""
        self.held -= held
        self._shared.changed(-held)
        self.open()

    def open(self) -> None:
        """Let the client send what is owed to it, unless too much is held, here or by all."""
        if self._owed >= self._threshold and self.held <= self._cap and self._shared.has_room(self):
            self._machine.h2.increment_flow_control_window(self._owed)
            self._owed = 0
            self._opened()  # the client is to hear of it, also when no stream has anything to say


class StreamWindow:
    """The window of one stream."""

    __slots__ = ("_machine", "_owed", "_stream", "_threshold")

    def __init__(self, machine: Machine, limits: Http2Limits, stream: int) -> None:
        self._machine = machine
        self._stream = stream
        self._threshold = (128 << limits.buffer_index) // 2
        self._owed = 0

    def taken(self, size: int) -> bool:
        """So many bytes were passed on, or were padding. Only while the client may still send. Whether the window was opened."""
        self._owed += size
        if self._owed < self._threshold:
            return False
        self._machine.h2.increment_flow_control_window(self._owed, self._stream)
        self._owed = 0
        return True
