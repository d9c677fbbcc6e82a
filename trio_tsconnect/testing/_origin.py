"""An origin for tests that sends scripted responses and records the requests that it received.

Invariant: an `Exception` raised by a script never propagates out of `serve`. It is stored in `failures`, which the `ts_origin` fixture
checks at the end of the test.
"""

from __future__ import annotations

from collections import deque
from collections.abc import AsyncIterable, Awaitable, Callable

import attrs
import trio

from trio_tsconnect import Plugin, Transaction
from trio_tsconnect._util import public
from trio_tsconnect.message import NO_BODY, URL, Headers, HeadersInput, MessageError, Request, Response, expects_continue, keep_alive
from trio_tsconnect.stream import HTTP1Server, IncompleteMessage, close_now
from trio_tsconnect.testing._answer import Answer, Fault, send_answer
from trio_tsconnect.testing._growing import Growing


@public("trio_tsconnect.testing")
class OriginRequest:
    """A request that a scripted origin has received."""

    def __init__(self, http: HTTP1Server, head: Request, connection: int) -> None:
        self._http = http
        self._body = bytearray()
        self._to_continue = expects_continue(head) and not http.body_complete
        self.method: str = head.method
        """The method."""
        self.target: str = head.target
        """The target as on the request line."""
        self.headers: Headers = head.headers
        """The header fields."""
        self.trailers: Headers | None = None
        """The trailer fields, once the whole body was received; None without any."""
        self.complete: bool = http.body_complete
        """True if the whole body was received."""
        self.connection: int = connection
        """The number of the origin's connection on which the request was received, counted from 1."""

    @property
    def path(self) -> str:
        """The target without its query. Answers are looked up by it."""
        return self.target.partition("?")[0]

    @property
    def body(self) -> bytes:
        """The part of the body that was received so far."""
        return bytes(self._body)

    async def receive(self) -> bytes:
        """Return the next piece of the body, `b""` at its end. If the client expects it, send 100 (Continue) first."""
        if self.complete:
            return b""
        if self._to_continue:
            self._to_continue = False
            self._http.queue_response(Response(100), NO_BODY)
            await self._http.drain()
        piece = bytes(await self._http.receive_body())
        self._body += piece
        self.complete = self._http.body_complete
        self.trailers = self._http.trailers
        return piece

    async def read(self) -> bytes:
        """Receive the rest of the body, and return the whole body."""
        while await self.receive():
            pass
        return self.body

    def __repr__(self) -> str:
        return f"<OriginRequest {self.method} {self.target}, {len(self._body)} bytes of body>"


Handler = Callable[[OriginRequest], Awaitable[Answer]]
"""An async function that answers a request whose body was not read. It may read the body, wait for something, or answer at once."""


@public("trio_tsconnect.testing")
class ScriptedOrigin:
    """An origin server for tests, in memory: `serve` answers HTTP/1.1 requests on any stream as scripted.

    A proxy reaches it through `plugin()`, which intercepts every transaction whose target is on this host. A network client reaches it
    through `trio.serve_tcp(origin.serve, 0)`. A request without a scripted answer gets 404.

    >>> origin = ScriptedOrigin("origin.test")
    >>> origin.answer("/hello", body="hello")
    >>> origin.answer("/cut", body=b"0123456789", fault="truncate", after=4)
    """

    def __init__(self, host: str = "origin.test") -> None:
        self.host = host
        """The host name. `plugin()` intercepts the transactions whose target has this host."""
        self.requests: Growing[OriginRequest] = Growing()
        """The requests received, in the order in which their heads were read. `await origin.requests.wait(2)` waits for the second."""
        self.failures: list[Exception] = []
        """The exceptions of handlers and of answer bodies, and the parse errors of invalid requests."""
        self.connections: int = 0
        """The number of connections accepted so far."""
        self.open_connections: int = 0
        """The number of connections that are open now."""
        self._script: dict[tuple[str | None, str], deque[Answer | Handler]] = {}

    def answer(
        self,
        path: str,
        status: int = 200,
        body: bytes | str | AsyncIterable[bytes] = b"",
        *,
        method: str | None = None,
        headers: HeadersInput = (),
        fault: Fault | None = None,
        after: int | None = None,
    ) -> None:
        """Add an answer to requests for a path. `reply` takes an `Answer` with more options.

        Several answers for one path are sent in order; the last one is repeated. The request body is read before the answer is sent.

        `path`: the path of the request, or a URL on this host. With a query it matches only that query, without one any query. `method`:
        match only requests with this method; such answers take precedence over those without a method.
        """
        self.reply(path, Answer(status, body, headers=headers, fault=fault, after=after), method=method)

    def reply(self, path: str, answer: Answer | Handler, *, method: str | None = None) -> None:
        """Add an `Answer`, or a handler that returns one, to requests for a path. `path` and `method` are as for `answer`.

        A handler is called before the request body is read. It reads the body itself.
        """
        self._script.setdefault((method, self._path_of(path)), deque()).append(answer)

    def _path_of(self, path: str) -> str:
        if path.startswith("/"):
            return path
        try:
            uri = URL.parse(path)
        except ValueError:
            raise ValueError(f'path must begin with "/" or be a URL on {self.host}, not {path!r}') from None
        if uri.host != self.host:
            raise ValueError(f"path must be a URL on {self.host}, the host of this origin, not {path!r}")
        return uri.target

    def plugin(self) -> Plugin:
        """Return a plugin that makes this the origin of every transaction whose URL, before or after remap, is on this host, on any port."""
        return _Intercept(self)

    async def serve(self, stream: trio.abc.Stream) -> None:
        """Answer the requests on a stream, one after another, then close it. Raises only cancellations."""
        self.connections += 1
        self.open_connections += 1
        number = self.connections
        http = HTTP1Server(stream)
        try:
            while await http.wait_for_request():
                if not await self._serve_one(http, number):
                    return
        except (trio.BrokenResourceError, trio.ClosedResourceError, IncompleteMessage):
            pass  # the client has disconnected
        except Exception as error:  # noqa: BLE001 - from a test's handler; stored for `check`
            self.failures.append(error)
            await _answer_failure(http, error)
        finally:
            self.open_connections -= 1
            await close_now(stream)

    async def _serve_one(self, http: HTTP1Server, number: int) -> bool:
        head = await http.read_request()
        request = OriginRequest(http, head, number)
        self.requests.append(request)
        reply = self._next_reply(request)
        if isinstance(reply, Answer):
            await request.read()
            answer = reply
        else:
            answer = await reply(request)
            if not isinstance(answer, Answer):
                raise TypeError(f"the handler of {request.path} returned {answer!r}, expected an Answer")
        persists = await send_answer(http, head, answer)
        return (
            persists and request.complete and keep_alive(head.version, head.headers) and "close" not in answer.headers.tokens("connection")
        )

    def _next_reply(self, request: OriginRequest) -> Answer | Handler:
        for method in (request.method, None):
            for path in (request.target, request.path):
                if replies := self._script.get((method, path)):
                    return replies.popleft() if len(replies) > 1 else replies[0]
        return Answer(404, f"no answer is scripted for {request.method} {request.path}\n", headers={"Content-Type": "text/plain"})

    def check(self) -> None:
        """Raise the first of `failures`, if there are any."""
        if self.failures:
            raise self.failures[0]

    def __repr__(self) -> str:
        return f"<ScriptedOrigin {self.host}, {len(self.requests)} requests, {self.open_connections} connections open>"


async def _answer_failure(http: HTTP1Server, error: Exception) -> None:
    """Send the error status for an invalid request. For a failed script send nothing: the connection is closed by the caller."""
    try:
        if isinstance(error, MessageError):
            await http.stream.send_all(b"HTTP/1.1 %d -\r\nContent-Length: 0\r\nConnection: close\r\n\r\n" % error.status)
    except (trio.BrokenResourceError, trio.ClosedResourceError):
        pass


@attrs.define(eq=False)
class _Intercept(Plugin):
    origin: ScriptedOrigin

    async def pre_remap(self, txn: Transaction) -> None:
        """Intercept a transaction that has no route, if its URL is on the origin's host."""
        if not txn.has_route:
            self._take(txn)

    async def post_remap(self, txn: Transaction) -> None:
        """Intercept the transaction if its URL is on the origin's host."""
        self._take(txn)

    def _take(self, txn: Transaction) -> None:
        if txn.answered_by is None and txn.request.method != "CONNECT" and txn.request.url.host == self.origin.host:
            txn.intercept(self.origin.serve)
