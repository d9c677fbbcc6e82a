"""HTTP/1.1 as a server: requests are read, responses are written."""

from __future__ import annotations

from typing import Any

from trio_tsconnect._util import public
from trio_tsconnect.message import BadRequest, Body, Request, Response, check_request, is_token, remove_listed, request_body
from trio_tsconnect.stream._heads import response_to_bytes
from trio_tsconnect.stream._http1 import HTTP1Connection, to_headers
from trio_tsconnect.stream._refusals import refused_request

_MOST_EMPTY_LINES = 8


@public("trio_tsconnect.stream")
class HTTP1Server(HTTP1Connection):
    """The side that reads requests and writes responses."""

    _error = BadRequest
    _reading_requests = True

    def skip_empty_lines(self) -> bool:
        """Drop empty lines before a request line (RFC 9112 §2.2), up to a few; whether a request has begun to arrive."""
        buffer = self._buffer
        self._head = b""
        for _ in range(_MOST_EMPTY_LINES):
            if buffer[:2] != b"\r\n":
                break
            del buffer[:2]
        return bool(buffer) and buffer != b"\r"

    async def wait_for_request(self) -> bool:
        """Wait for the first byte of a request; False when the input ends before one."""
        while not self.skip_empty_lines():
            if not await self.fill():
                return False
        return True

    async def read_request(self) -> Request:
        """The next request head, judged strictly.

        `BadRequest` for one that is not acceptable (its status says how to answer, then close); `IncompleteMessage` when the input ends first.
        """
        return self._parse(await self._read_head())

    def read_request_now(self) -> Request | None:
        """As `read_request`, but None where it would wait: when not all of the head has been read from the stream yet."""
        head = self._head_now()
        return None if head is None else self._parse(head)

    def _parse(self, head: bytes) -> Request:
        hostless = False
        try:
            event = self._parser.request(head)
        except self._parser.error as exc:
            event, hostless = self._without_host(head), True
            if event is None:
                raise refused_request(head, exc) from None
        request = Request(event.method.decode("ascii"), event.target.decode("ascii"), to_headers(event), event.http_version.decode("ascii"))
        if hostless:
            del request.headers[b"host"]
        check_request(request)
        self._listed = remove_listed(request.headers)
        self._expect_body(request_body(request))
        return request

    def _without_host(self, head: bytes) -> Any:
        # h11 refuses an HTTP/1.1 request without Host while parsing; plugins are to see it first, and it is answered after pre_remap.
        if b"\nhost:" in head.lower():
            return None
        try:
            return self._parser.request(head[:-2] + b"host: x\r\n\r\n")
        except self._parser.error:
            return None

    def seen_request_line(self) -> tuple[str | None, str | None, str]:
        """For the log: method, target and version of a head that was not acceptable or not complete, as far as they can be told."""
        line = (self._head or bytes(self._buffer[: self.limits.request_line])).split(b"\n", 1)[0].rstrip(b"\r").decode("latin-1")
        words = line.split(" ")
        if not is_token(words[0].encode("latin-1")):
            return None, None, "1.1"  # it has not even begun as a request
        if len(words) < 2:
            return words[0], None, "1.1"
        version = words[-1].removeprefix("HTTP/") if len(words) > 2 and words[-1].startswith("HTTP/") else ""
        return words[0], " ".join(words[1:-1] if version else words[1:]), "1.0" if version == "1.0" else "1.1"

    def queue_response(self, response: Response, body: Body) -> None:
        """Add a response head, framed as `body` says; an interim one (1xx) with `NO_BODY`."""
        if response.status >= 200 or response.status == 101:
            self._expect_head()
        self._put(response_to_bytes(response))
        if response.status >= 200:
            self._sending, self._unsent, self._sent = body, body.length, False

    def take_back(self) -> bool:
        """Drop the final head that is queued, and what follows it, where nothing of it was handed to the stream; whether it was so."""
        if not self._head_in_queue:
            return False
        self._head_in_queue = False
        self._queue.clear()
        self._queued = 0
        return True
