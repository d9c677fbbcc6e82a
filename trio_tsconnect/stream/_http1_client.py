"""HTTP/1.1 as a client: write requests, read responses."""

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
    """The connection to a server: writes requests and reads responses."""

    _error = BadResponse
    _reading_requests = False
    _method = "GET"
    _offered: list[str] = []  # noqa: RUF012 - never mutated
    _persists = True

    def queue_request(self, request: Request, body: Body, *, target: str | None = None) -> None:
        """Queue a request head with the framing `body`. `target` replaces the target of the request on the request line."""
        self._put(request_to_bytes(request, target or request.target))
        self._method = request.method
        self._offered = request.headers.tokens("upgrade")
        self._persists = keep_alive("1.1", request.headers)
        self._sending, self._unsent, self._sent = body, body.length, False
        self._body_read = False

    async def read_response(self) -> Response:
        """Read and validate the next response head, which may be interim (1xx).

        Raise `BadResponse` if it is not valid, and `IncompleteMessage` if the input ends first.
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
        """True if the request was queued completely."""
        return self._sent

    @property
    def reusable(self) -> bool:
        """True if another request may be sent: both messages are complete, and no excess byte was received (RFC 9112 §9.2)."""
        return (
            self._body_read
            and self._persists  # RFC 9112 §9.6: after `close` a client sends no further request
            and self.request_sent
            and not self._buffer
            and not self._ended
            and not self._queue
            and not self._writing
            and self.body.framing is not Framing.CLOSE
        )
