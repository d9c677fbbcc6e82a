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

OF_THE_BYTES = (b"content-digest", b"content-md5", b"digest", b"repr-digest", b"etag", b"accept-ranges")
"""The fields that are not true of a body with other bytes (RFC 9110 §8.8.3 and §14.3, RFC 9530)."""

_JSON = re.compile(r"application/(?:[\w.!#$&^+\-]+\+)?json[ \t]*(?:[;,]|$)", re.IGNORECASE)  # RFC 8259, RFC 6838 §4.2, RFC 6839 §3.1
_QUOTED = r'"(?:[^"\\]|\\.)*"?'  # the end may be missing: the time must not grow with the square of the length
_CHARSET = re.compile(rf"({_QUOTED})|;[ \t]*charset[ \t]*=[ \t]*(?:{_QUOTED}|[^ \t;,]*)", re.IGNORECASE)


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
        value = self._change(json.loads(self._body, parse_constant=_refuse))
        if inspect.isawaitable(value):
            value = await value
        return _write(value)


def _refuse(constant: str) -> Any:
    raise ValueError(f"{constant} is not JSON (RFC 8259 §6)")


def _write(value: Any) -> bytes:
    """Return `value` as JSON. Raise `ValueError` for a number that JSON does not have: `1e999` is read as infinity."""
    text = json.dumps(value, ensure_ascii=False, allow_nan=False, separators=(",", ":"))
    try:
        return text.encode()
    except UnicodeEncodeError:  # a lone surrogate, which JSON can write only as an escape (RFC 8259 §8.2)
        return json.dumps(value, allow_nan=False, separators=(",", ":")).encode()


@public("trio_tsconnect.plugins")
def change_response_json(txn: Transaction, change: Change, *, limit: int = 1 << 20) -> None:
    """Replace the JSON body of the response by `change(value)`. Call it in `read_response`.

    Only a body with a JSON Content-Type is changed, and no interim response. A compressed body is decoded. The new body is UTF-8, and the
    parameter `charset` of the Content-Type is removed. A body that is larger than `limit` bytes or invalid, a value that JSON cannot
    express (NaN, or a number as large as `1e999`), and an exception of `change`, end the transaction with 500. Raises `ValueError` for a
    part of a JSON body (206), and `UnknownCoding` if the body cannot be decoded; an exception that the hook does not catch gives 500 too.
    `ask_readable` avoids both: call it in `send_request`.
    """
    headers = txn.response.headers
    if txn.response.status < 200 or not _is_json(headers):
        return
    if txn.response.status == 206:  # it may happen to be valid JSON: an inner array, or a number
        raise ValueError("a part (206) of a JSON body cannot be changed: call ask_readable() in send_request")
    decode_response(txn, limit=limit)
    _describe(headers)
    txn.transform_response(_Json(change, limit))


@public("trio_tsconnect.plugins")
def change_request_json(txn: Transaction, change: Change, *, limit: int = 1 << 20) -> None:
    """Replace the JSON body of the request by `change(value)`. Call it in a hook from `read_request` to `send_request`.

    Only a body with a JSON Content-Type and without a content coding is changed. The new body is UTF-8, and the parameter `charset` of the
    Content-Type is removed. A body that is larger than `limit` bytes or invalid, a value that JSON cannot express (NaN, or a number as large
    as `1e999`), and an exception of `change`, end the transaction with 500.
    """
    headers = txn.request.headers
    if _is_json(headers) and not [coding for coding in headers.tokens("content-encoding") if coding != "identity"]:
        _describe(headers)
        txn.transform_request(_Json(change, limit))


def _is_json(headers: Headers) -> bool:
    return _JSON.match(headers.get("content-type", "")) is not None


def _describe(headers: Headers) -> None:
    """Remove what is not true of the new body. JSON has no parameter `charset` (RFC 8259 §11), and the new body is UTF-8."""
    headers.remove(OF_THE_BYTES)
    before = headers["Content-Type"]
    after = _CHARSET.sub(r"\1", before).rstrip()
    if after != before:
        headers["Content-Type"] = after
