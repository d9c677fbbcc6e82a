"""h11, and the few events that stand in for whole heads when our own serialiser has written them.

The law: h11 is imported here and nowhere else. It parses every head that is read, and follows every head that is written by way of an
event of the same method, status and framing: building and normalising the real event would cost more than parsing does.
"""

from __future__ import annotations

from functools import lru_cache
from typing import Any, Literal

import h11

from ..message import Body, Framing

Parser = Literal["h11", "fast"]


@lru_cache
def load_parser(name: Parser) -> Machines:
    """The machines of one implementation of h11. `ModuleNotFoundError` when the `fast` extra is not installed."""
    if name == "fast":
        import h11_mypyc  # type: ignore[import-not-found, import-untyped, unused-ignore]

        return Machines(h11_mypyc)
    return Machines(h11)


class Machines:
    """One implementation of h11: its module, and the cached events."""

    def __init__(self, module: Any) -> None:
        self.h11 = module
        self.error: type[Exception] = module.RemoteProtocolError
        self.request = lru_cache(maxsize=1024)(self._request)
        self.response = lru_cache(maxsize=4096)(self._response)
        self.end = module.EndOfMessage()

    def server(self) -> Any:
        """A fresh machine for the side that answers."""
        return self.h11.Connection(self.h11.SERVER, max_incomplete_event_size=1 << 30)

    def client(self) -> Any:
        """A fresh machine for the side that asks."""
        return self.h11.Connection(self.h11.CLIENT, max_incomplete_event_size=1 << 30)

    def _request(self, method: str, body: Body, upgrade: bool) -> Any:
        fields = [(b"host", b"x"), *_framing_fields(body)]
        if upgrade:
            fields += [(b"connection", b"upgrade"), (b"upgrade", b"x")]
        return self.h11.Request(method=method, target=b"/", headers=fields)

    def _response(self, status: int, body: Body) -> Any:
        if status < 200:
            return self.h11.InformationalResponse(status_code=status, headers=[], reason=b"-")
        return self.h11.Response(status_code=status, headers=_framing_fields(body), reason=b"-")


def _framing_fields(body: Body) -> list[tuple[bytes, bytes]]:
    match body.framing:
        case Framing.LENGTH:
            return [(b"content-length", b"%d" % body.length)]
        case Framing.CHUNKED:
            return [(b"transfer-encoding", b"chunked")]
        case _:
            return []
