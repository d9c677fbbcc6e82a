"""An origin that says what a test told it to, and remembers what it was asked.

The law: nothing that a script does, or does wrongly, leaves `serve` as an exception; it is kept in `failures`, where the `ts_origin`
fixture looks when the test is over.
"""

from __future__ import annotations

from collections import deque
from collections.abc import AsyncIterable, Awaitable, Callable

import attrs
import trio

from trio_tsconnect import Plugin, Transaction
from trio_tsconnect._util import public
from trio_tsconnect.message import NO_BODY, Headers, HeadersInput, MessageError, Request, Response, TargetURI, expects_continue, keep_alive
from trio_tsconnect.stream import HTTP1Server, IncompleteMessage, close_now
from trio_tsconnect.testing._answer import Answer, Fault, send_answer
from trio_tsconnect.testing._growing import Growing


@public("trio_tsconnect.testing")
class OriginRequest:
    """A request that has reached a scripted origin."""

    def __init__(self, http: HTTP1Server, head: Request, connection: int) -> None:
        self._http = http
        self._body = bytearray()
        self._to_continue = expects_continue(head) and not http.body_complete
        self.method: str = head.method
        """Its method."""
        self.target: str = head.target
        """The target as on the request line."""
        self.headers: Headers = head.headers
        """Its fields."""
        self.trailers: Headers | None = None
        """The fields after its body, once that was received."""
        self.complete: bool = http.body_complete
        """Whether all of its body was received."""
        self.connection: int = connection
        """Which of the origin's connections it came on, counted from 1."""

    @property
    def path(self) -> str:
        """The target without its query: what answers are found by."""
        return self.target.partition("?")[0]

    @property
    def body(self) -> bytes:
        """What was received of its body."""
        return bytes(self._body)

    async def receive(self) -> bytes:
        """The next piece of the body, as it comes; `b""` at its end. Says 100 (Continue) first, if that is waited for."""
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
        """Receive the rest, and return the whole body."""
        while await self.receive():
            pass
        return self.body

    def __repr__(self) -> str:
        return f"<OriginRequest {self.method} {self.target}, {len(self._body)} bytes of body>"


Handler = Callable[[OriginRequest], Awaitable[Answer]]
"""What answers a request whose body has not been read: it may receive it, wait for something, or answer at once."""


@public("trio_tsconnect.testing")
class ScriptedOrigin:
    """An origin server for tests, in memory: `serve` speaks HTTP/1.1 on any stream, as its script says.

    `proxy` reaches it by way of `plugin()`, which intercepts every transaction whose target is on this host; a network client by
    `trio.serve_tcp(origin.serve, 0)`. A request for which nothing is scripted gets 404.

    >>> origin = ScriptedOrigin("origin.test")
    >>> origin.answer("/hello", body="hello")
    >>> origin.answer("/cut", body=b"0123456789", fault="truncate", after=4)
    """

    def __init__(self, host: str = "origin.test") -> None:
        self.host = host
        """The name by which `plugin()` knows its transactions."""
        self.requests: Growing[OriginRequest] = Growing()
        """What has come, in the order in which the heads were read; `await origin.requests.wait(2)` waits for the second."""
        self.failures: list[Exception] = []
        """What handlers and bodies of answers have raised, and requests that were not acceptable."""
        self.connections: int = 0
        """How many connections it has served so far."""
        self.open_connections: int = 0
        """How many of them are open now."""
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
        """Answer requests for a path so; `reply` with an `Answer` says more. Called again it adds an answer: they are given in turn, the
        last for ever. `path`: as in the request; with a query it answers that query alone, without one any; a whole URL is one of this host.
        `method`: only requests with it; they are looked for first. The request's body is read before it is answered.
        """
        self.reply(path, Answer(status, body, headers=headers, fault=fault, after=after), method=method)

    def reply(self, path: str, answer: Answer | Handler, *, method: str | None = None) -> None:
        """Answer requests for a path with an `Answer`, or with what `await handler(request)` returns; otherwise as `answer`."""
        self._script.setdefault((method, self._path_of(path)), deque()).append(answer)

    def _path_of(self, path: str) -> str:
        if path.startswith("/"):
            return path
        try:
            uri = TargetURI.parse(path)
        except ValueError:
            raise ValueError(f'an answer is for a path that begins with "/", or for a URL of {self.host}, not for {path!r}') from None
        if uri.host != self.host:
            raise ValueError(f"this origin is {self.host}, and is never asked for {path!r}")
        return uri.path

    def plugin(self) -> Plugin:
        """A plugin that makes this the origin of every transaction whose target, once remapped, is on this host, whatever its port."""
        return _Intercept(self)

    async def serve(self, stream: trio.abc.Stream) -> None:
        """Answer the requests that come on a stream, one after another, and close it. Never raises but for a cancellation."""
        self.connections += 1
        self.open_connections += 1
        number = self.connections
        http = HTTP1Server(stream)
        try:
            while await http.wait_for_request():
                if not await self._serve_one(http, number):
                    return
        except (trio.BrokenResourceError, trio.ClosedResourceError, IncompleteMessage):
            pass  # whoever asked has gone
        except Exception as error:  # noqa: BLE001 - anybody's handler
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
                raise TypeError(f"the handler of {request.path} returned {answer!r} and not an Answer")
        persists = await send_answer(http, head, answer)
        return (
            persists and request.complete and keep_alive(head.version, head.headers) and "close" not in answer.headers.tokens("connection")
        )

    def _next_reply(self, request: OriginRequest) -> Answer | Handler:
        for method in (request.method, None):
            for path in (request.target, request.path):
                if replies := self._script.get((method, path)):
                    return replies.popleft() if len(replies) > 1 else replies[0]
        return Answer(404, f"nothing is scripted for {request.method} {request.path}\n", headers={"Content-Type": "text/plain"})

    def check(self) -> None:
        """Raise the first of `failures`, if there is one."""
        if self.failures:
            raise self.failures[0]

    def __repr__(self) -> str:
        return f"<ScriptedOrigin {self.host}, {len(self.requests)} requests, {self.open_connections} connections open>"


async def _answer_failure(http: HTTP1Server, error: Exception) -> None:
    """A request that is not acceptable is told so; where a script failed, the connection breaks."""
    try:
        if isinstance(error, MessageError):
            await http.stream.send_all(b"HTTP/1.1 %d -\r\nContent-Length: 0\r\nConnection: close\r\n\r\n" % error.status)
    except (trio.BrokenResourceError, trio.ClosedResourceError):
        pass


@attrs.define(eq=False)
class _Intercept(Plugin):
    origin: ScriptedOrigin

    async def post_remap(self, txn: Transaction) -> None:
        """Be the origin of what goes to its host."""
        if txn.request.method != "CONNECT" and TargetURI.parse(txn.request.target).host == self.origin.host:
            txn.intercept(self.origin.serve)
