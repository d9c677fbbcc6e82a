"""The interface to h11, which parses heads and trailer sections.

Invariant: h11 is imported in this module only, and only its parsing functions are used: the readers that its state machine calls. The
framing that `message/` derives from the head decides what a connection may do next. The state machine of h11 would add no information.
Feeding it all events (each head, piece and end, on both sides of a hop) was measured at 40 us per transaction; a new state machine for each
head cost 12 us.

The readers are not public API of h11. They have had these names since h11 0.10 (2020). `tests/stream/test_machine.py` fails if they change.
"""

from __future__ import annotations

from functools import lru_cache
from importlib import import_module
from typing import Any, Literal

from trio_tsconnect._util import public

Parser = Literal["h11", "fast"]


@public("trio_tsconnect.stream")
@lru_cache
def load_parser(name: Parser) -> HeadParser:
    """Return the parser of one implementation of h11. Raise `ModuleNotFoundError` if its extra (`fast`) is not installed."""
    return HeadParser("h11_mypyc" if name == "fast" else "h11")


class HeadParser:
    """A parser of complete heads and trailer sections. Its methods raise `error`, an exception type, for input that h11 cannot parse."""

    def __init__(self, module: str) -> None:
        h11 = import_module(module)
        readers = import_module(f"{module}._readers")
        self.error: type[Exception] = h11.ProtocolError
        self._buffer = import_module(f"{module}._receivebuffer").ReceiveBuffer
        self._request = readers.maybe_read_from_IDLE_client
        self._response = readers.maybe_read_from_SEND_RESPONSE_server
        self._chunked = readers.ChunkedReader

    def request(self, head: bytes) -> Any:
        """Parse a request head; return an `h11.Request`."""
        buffer = self._buffer()
        buffer += head
        return self._request(buffer)

    def response(self, head: bytes) -> Any:
        """Parse a response head; return an `h11.Response` or an `h11.InformationalResponse`."""
        buffer = self._buffer()
        buffer += head
        return self._response(buffer)

    def trailers(self, section: bytes) -> Any:
        """Parse a trailer section; return an `h11.EndOfMessage` with its fields."""
        buffer = self._buffer()
        # The reader of h11 expects the last chunk before the trailer section.
        buffer += b"0\r\n" + section
        return self._chunked()(buffer)
