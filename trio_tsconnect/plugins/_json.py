"""Change a JSON body as a value: it is read whole, within a limit, and written again.

Invariant: a body that cannot be changed is not forwarded. A plugin that removes something secret would otherwise let it through.
"""

from __future__ import annotations

import inspect
import json
import re
from collections.abc import Awaitable, Callable
from typing import Any

from trio_tsconnect import Headers, Transaction
from trio_tsconnect._util import public
from trio_tsconnect.plugins._decode import decode_response

Change = Callable[[Any], Any | Awaitable[Any]]
"""Gets the value of a body and returns the new one. May be a coroutine function. It may change the value in place and return it."""

_JSON = re.compile(r"application/(?:[\w.\-]+\+)?json\b", re.IGNORECASE)  # RFC 8259, RFC 6839 §3.1
_OF_THE_OLD_BODY = (b"content-digest", b"content-md5", b"digest", b"repr-digest", b"etag", b"accept-ranges")


class _Json:
    """The transform: collects the body, then writes the new one."""

    holds_head = True

    def __init__(self, change: Change, limit: int) -> None:
        self._change = change
        self._limit = limit
        self._body = bytearray()

    def feed(self, data: bytes) -> bytes:
        self._body += data
        if len(self._body) > self._limit:
            raise ValueError(f"the JSON body is larger than {self._limit} bytes")
        return b""

    async def finish(self) -> bytes:
        if not self._body:
            return b""
        value = self._change(json.loads(self._body))
        if inspect.isawaitable(value):
            value = await value
        return json.dumps(value, ensure_ascii=False, separators=(",", ":")).encode()


@public("trio_tsconnect.plugins")
def change_response_json(txn: Transaction, change: Change, *, limit: int = 1 << 20) -> None:
    """Replace the JSON body of the response by `change(value)`. Call it in `read_response`.

    Only a body with a JSON Content-Type is changed, and no interim response. A compressed body is decoded. A body that is larger than
    `limit` bytes or invalid, a part of one (206), and an exception of `change`, end the transaction with 500. Raises `UnknownCoding` if the
    body cannot be decoded. `ask_readable` avoids both: call it in `send_request`.
    """
    headers = txn.response.headers
    if txn.response.status < 200 or not _is_json(headers):
        return
    decode_response(txn, limit=limit)
    headers.remove(_OF_THE_OLD_BODY)
    txn.transform_response(_Json(change, limit))


@public("trio_tsconnect.plugins")
def change_request_json(txn: Transaction, change: Change, *, limit: int = 1 << 20) -> None:
    """Replace the JSON body of the request by `change(value)`. Call it in a hook from `read_request` to `send_request`.

    Only a body with a JSON Content-Type and without a content coding is changed. A body that is larger than `limit` bytes or invalid, and
    an exception of `change`, end the transaction with 500.
    """
    headers = txn.request.headers
    if _is_json(headers) and not [coding for coding in headers.tokens("content-encoding") if coding != "identity"]:
        headers.remove(_OF_THE_OLD_BODY)
        txn.transform_request(_Json(change, limit))


def _is_json(headers: Headers) -> bool:
    return _JSON.match(headers.get("content-type", "")) is not None
