"""h11: it parses heads and trailer sections.

The law: h11 is imported here and nowhere else, and of h11 only what parses: the readers that its state machine calls. What a connection may
do next is decided by the framing that `message/` derives from the head. To tell a second state machine every step of it (an event for each
head, piece and end, on both sides of a hop) was measured at 40 us a transaction, and a machine that is made anew for each head at 12 us a
head; neither told anybody anything new.

The readers have no public name. They have been where they are since h11 0.10 (2020); `tests/stream/test_machine.py` tells when they move.
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
    """One implementation of h11. `ModuleNotFoundError` when the `fast` extra is not installed."""
    return HeadParser("h11_mypyc" if name == "fast" else "h11")


class HeadParser:
    """What h11 makes of whole heads. `error` is raised for those that it cannot read."""

    def __init__(self, module: str) -> None:
        h11 = import_module(module)
        readers = import_module(f"{module}._readers")
        self.error: type[Exception] = h11.ProtocolError
        self._buffer = import_module(f"{module}._receivebuffer").ReceiveBuffer
        self._request = readers.maybe_read_from_IDLE_client
        self._response = readers.maybe_read_from_SEND_RESPONSE_server
        self._chunked = readers.ChunkedReader

    def request(self, head: bytes) -> Any:
        """An `h11.Request`."""
        buffer = self._buffer()
        buffer += head
        return self._request(buffer)

    def response(self, head: bytes) -> Any:
        """An `h11.Response`, or an `h11.InformationalResponse`."""
        buffer = self._buffer()
        buffer += head
        return self._response(buffer)

    def trailers(self, section: bytes) -> Any:
        """An `h11.EndOfMessage` with the fields of a trailer section."""
        buffer = self._buffer()
        buffer += b"0\r\n" + section
        return self._chunked()(buffer)
