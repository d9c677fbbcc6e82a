"""Mirror: send a copy of requests to a second origin, and drop its responses."""

from __future__ import annotations

import random

import attrs
import trio

from trio_tsconnect import ConnectOptions, Plugin, Proxy, Request, Transaction
from trio_tsconnect._util import public
from trio_tsconnect.message import URL
from trio_tsconnect.plugins._asked import end_to_end, has_body, is_own, keep_target, place
from trio_tsconnect.plugins._background import Background
from trio_tsconnect.plugins._options import as_tuple, number, url

TAG = "mirror"
"""The tag of the copies."""


@public("trio_tsconnect.plugins")
class Mirror(Plugin):
    """Sends a copy of requests to a second origin, with the path of the request to the first origin, and with `X-Mirror: 1`.

    The copy is detached: it neither delays the response nor ends with it. A request is not copied if its body is larger than `max_body` or
    has no Content-Length, or while `concurrency` copies are in progress. The log record has the result as `mirrored`: "started", "busy",
    "body" or "refused".
    """

    @attrs.frozen(kw_only=True)
    class Options:
        """The options of `Mirror`."""

        to: str = attrs.field(validator=url)
        """The URL of the second origin. If it has a path, that is put before the path of the request."""
        fraction: float = attrs.field(default=1.0, validator=number(above=0, most=1))
        """The fraction of requests to copy, chosen at random: 0.1 is one in ten."""
        methods: tuple[str, ...] = attrs.field(default=("GET", "HEAD"), converter=as_tuple)
        """The methods to copy. A copied POST is processed twice, once by each origin."""
        max_body: int = attrs.field(default=65536, validator=number(least=0, whole=True))
        """The largest request body to copy, in bytes. The whole body is read before the request is sent to the first origin."""
        concurrency: int = attrs.field(default=16, validator=number(least=1, whole=True))
        """The largest number of concurrent copies. Requests beyond it are not copied."""
        timeout: float = attrs.field(default=30.0, validator=number(above=0))
        """Seconds for one copy."""

    def __init__(self, options: Options) -> None:
        self.options = options
        self._to = URL.parse(options.to)
        self._background = Background(options.concurrency)
        self._random = random.Random()

    async def run(self, proxy: Proxy) -> None:
        """Send the copies while the proxy is open."""
        await self._background.run()

    async def post_remap(self, txn: Transaction) -> None:
        """Start a copy of the request if the options select it."""
        options = self.options
        if is_own(txn, TAG):
            keep_target(txn)
            return
        if txn.internal or txn.request.method not in options.methods or self._random.random() >= options.fraction:
            return
        body = b""
        if has_body(txn.request):
            length = txn.request.headers.get("content-length")
            if length is None or int(length) > options.max_body:
                txn.log["mirrored"] = "body"
                return
            body = await txn.read_request_body(options.max_body)
        connect = ConnectOptions(tag=TAG, internal=True, target=place(self._to), deadline=trio.current_time() + options.timeout)
        txn.log["mirrored"] = self._background.start(lambda: txn.connect(connect, detach=True), self._copy(txn), body)

    def _copy(self, txn: Transaction) -> Request:
        path, query = txn.request.url.path, txn.request.url.query
        uri = attrs.evolve(self._to, path=self._to.path.rstrip("/") + path if path.startswith("/") else path, query=query)
        headers = end_to_end(txn.request.headers, body=True)
        headers["Host"] = uri.authority
        headers["X-Mirror"] = "1"
        return Request(txn.request.method, str(uri), headers)
