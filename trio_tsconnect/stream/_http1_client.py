"""HTTP/1.1 as a client: requests are written, responses are read."""

from __future__ import annotations

import re
from typing import Any

from trio_tsconnect._util import public
from trio_tsconnect.message import (
    BadResponse,
    Body,
    Framing,
    Request,
    Response,
    check_response,
    check_switch,
    keep_alive,
    remove_listed,
    response_body,
)
from trio_tsconnect.stream._heads import request_to_bytes
from trio_tsconnect.stream._http1 import HTTP1Connection, to_headers
from trio_tsconnect.stream._refusals import refused_response

_SPACE_BEFORE_COLON = re.compile(rb"(?<=\n)([!#$%&'*+\-.^_`|~0-9A-Za-z]+)[ \t]+:")


@public("trio_tsconnect.stream")
class HTTP1Client(HTTP1Connection):
    """The side that writes requests and reads responses."""

    _error = BadResponse
    _reading_requests = False
    _method = "GET"
    _offered: list[str] = []  # noqa: RUF012 - never changed in place
    _persists = True

    def queue_request(self, request: Request, body: Body, *, target: str | None = None) -> None:
        """Add a request head, framed as `body` says. `target`: what stands on the request line, if not the request's own."""
        self._put(request_to_bytes(request, target or request.target))
        self._method = request.method
        self._offered = request.headers.tokens("upgrade") if "upgrade" in request.headers else []
        self._persists = keep_alive("1.1", request.headers)
        self._sending, self._unsent, self._sent = body, body.length, False
        self._body_read = False

    async def read_response(self) -> Response:
        """The next response head, an interim one (1xx) included, judged strictly.

        `BadResponse` for one that is not acceptable; `IncompleteMessage` when the input ends first.
        """
        head = await self._read_head()
        event = self._parse(head)
        response = Response(event.status_code, to_headers(event), event.reason.decode("latin-1"), event.http_version.decode("ascii"))
        check_response(response, self._method, any_status="status" in self.lenient)
        if response.status == 101:
            check_switch(response, self._offered)
        self._listed = remove_listed(response.headers)
        if response.status >= 200:
            self._expect_body(response_body(self._method, response))
        return response

    def _parse(self, head: bytes) -> Any:
        try:
            return self._parser.response(head)
        except self._parser.error as exc:
            # RFC 9112 §5.1: a proxy MUST remove white space between a response's field name and its colon.
            mended = _SPACE_BEFORE_COLON.sub(rb"\1:", head)
            if mended == head:
                raise refused_response(head, exc, self._method) from None
        return self._parse(mended)

    @property
    def request_sent(self) -> bool:
        """Whether the request was queued to its end."""
        return self._sent

    @property
    def reusable(self) -> bool:
        """Whether another request may follow: both messages complete, and not a byte too many (RFC 9112 §9.2)."""
        return (
            self._body_read
            and self._persists  # RFC 9112 §9.6: who has sent `close` sends no further request
            and self.request_sent
            and not self._buffer
            and not self._ended
            and not self._queue
            and not self._writing
            and self.body.framing is not Framing.CLOSE
        )
