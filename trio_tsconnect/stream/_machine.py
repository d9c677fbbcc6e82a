"""h11: it parses heads and trailer sections.

The law: h11 is imported here and nowhere else. Each head gets a fresh machine, which costs 1 us: what a connection may do next is decided
by the framing that `message/` derives from the head, and a second state machine that has to be told every step of it (an event for each
head, piece and end, on both sides of a hop) was measured at 40 us a transaction and told nobody anything new.
"""

from __future__ import annotations

from functools import lru_cache
from typing import Any, Literal

import h11

from trio_tsconnect._util import public

Parser = Literal["h11", "fast"]


@public("trio_tsconnect.stream")
@lru_cache
def load_parser(name: Parser) -> Machines:
    """The machines of one implementation of h11. `ModuleNotFoundError` when the `fast` extra is not installed."""
    if name == "fast":
        import h11_mypyc  # type: ignore[import-not-found, import-untyped, unused-ignore]

        return Machines(h11_mypyc)
    return Machines(h11)


class Machines:
    """One implementation of h11."""

    def __init__(self, module: Any) -> None:
        self._module = module
        self.error: type[Exception] = module.RemoteProtocolError
        self.any_request: Any = module.Request(
            method="GET", target="/", headers=[("host", "x"), ("connection", "upgrade"), ("upgrade", "x")]
        )

    def server(self) -> Any:
        """A fresh machine for the side that answers."""
        return self._module.Connection(self._module.SERVER, max_incomplete_event_size=1 << 30)

    def client(self) -> Any:
        """A fresh machine for the side that asks."""
        return self._module.Connection(self._module.CLIENT, max_incomplete_event_size=1 << 30)
