"""HTTP/1.1 as a server: read requests, write responses."""

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
    """The connection to a client: reads requests and writes responses."""

    _error = BadRequest
    _reading_requests = True

    def skip_empty_lines(self) -> bool:
        """Drop up to 8 empty lines before a request line (RFC 9112 §2.2).

        Return True if other bytes follow them in the buffer, False if it is empty or holds a lone CR.
        """
        buffer = self._buffer
        self._head = b""
        for _ in range(_MOST_EMPTY_LINES):
            if buffer[:2] != b"\r\n":
                break
            del buffer[:2]
        return bool(buffer) and buffer != b"\r"

    async def wait_for_request(self) -> bool:
        """Wait for the first byte of a request. Return False if the input ends before it."""
        while not self.skip_empty_lines():
            if not await self.fill():
                return False
        return True

    async def read_request(self) -> Request:
        """Read and validate the next request head.

        Raise `BadRequest` if it is not valid: answer with its status, then close. Raise `IncompleteMessage` if the input ends first.
        """
        return self._parse(await self._read_head())

    def read_request_now(self) -> Request | None:
        """Do what `read_request` does, but return None if the buffer does not hold the complete head."""
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
        # h11 rejects an HTTP/1.1 request without Host. Hooks must see such a request first (it is answered after pre_remap), so parse it
        # with a Host that the caller removes. If there is one, this fails as well: h11 rejects two.
        try:
            return self._parser.request(head[:-2] + b"host: x\r\n\r\n")
        except self._parser.error:
            return None

    def seen_request_line(self) -> tuple[str | None, str | None, str]:
        """Return (method, target, version) of a head that is invalid or incomplete, for the log.

        Method and target are None if they cannot be determined. The version is "1.0" if the request line says so, else "1.1".
        """
        line = (self._head or bytes(self._buffer[: self.limits.request_line])).split(b"\n", 1)[0].rstrip(b"\r").decode("latin-1")
        words = line.split(" ")
        if not is_token(words[0].encode("latin-1")):
            return None, None, "1.1"  # the first word is not a method
        if len(words) < 2:
            return words[0], None, "1.1"
        version = words[-1].removeprefix("HTTP/") if len(words) > 2 and words[-1].startswith("HTTP/") else ""
        return words[0], " ".join(words[1:-1] if version else words[1:]), "1.0" if version == "1.0" else "1.1"

    def queue_response(self, response: Response, body: Body) -> None:
        """Queue a response head with the framing `body`. For an interim response (1xx) pass `NO_BODY`."""
        if response.status >= 200 or response.status == 101:
            self._expect_head()
        head = response_to_bytes(response)
        self.response_head_size: int = len(head)
        self._put(head)
        if response.status >= 200:
            self._sending, self._unsent, self._sent = body, body.length, False

    def take_back(self) -> bool:
        """Drop the output queue if it still holds the complete final head. Return True if it was dropped."""
        if not self._head_in_queue:
            return False
        self._head_in_queue = False
        self._queue.clear()
        self._queued = 0
        return True
