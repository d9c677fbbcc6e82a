"""BackgroundFetch: fetch the whole resource when a client got only a part of it, so that a cache behind the proxy gets all of it."""

from __future__ import annotations

import re
from typing import Any, Literal

import attrs
import trio

from trio_tsconnect import ConnectOptions, Plugin, Proxy, Request, Transaction
from trio_tsconnect._util import public
from trio_tsconnect.plugins._asked import end_to_end, is_own
from trio_tsconnect.plugins._background import Background, Connect
from trio_tsconnect.plugins._options import as_tuple, number, refuse

TAG = "background_fetch"
"""The tag of the background requests."""

_CONTENT_RANGE = re.compile(r"bytes [0-9]+-[0-9]+/([0-9]+)")  # RFC 9110 §14.4
_ONLY_A_PART = (b"range", b"if-range", b"if-match", b"if-none-match", b"if-modified-since", b"if-unmodified-since")
_OF_THE_PROXY = (b"via", b"forwarded", b"x-forwarded-for", b"x-forwarded-proto", b"x-forwarded-host")


def _occasions(_instance: Any, attribute: Any, value: Any) -> None:
    for index, occasion in enumerate(value):
        if occasion not in ("range", "abort"):
            raise refuse(f"{attribute.name}[{index}]", '"range" or "abort"', occasion)


@public("trio_tsconnect.plugins")
class BackgroundFetch(Plugin):
    """Fetches the whole resource in the background after a 206 to a GET, or after a client disconnects during a 200.

    Nothing is fetched for requests with `Authorization` or `Cookie`, whose responses may be private. A URL is not fetched again while it is
    being fetched. Source: Traffic Server's background_fetch plugin.
    """

    @attrs.frozen(kw_only=True)
    class Options:
        """The options of `BackgroundFetch`."""

        after: tuple[Literal["range", "abort"], ...] = attrs.field(default=("range", "abort"), converter=as_tuple, validator=_occasions)
        """The events after which to fetch: `range`, a 206 response; `abort`, a client that disconnects before the end of a 200."""
        max_size: int = attrs.field(default=1 << 30, validator=number(least=0, whole=True))
        """The largest resource to fetch, in bytes. After an `abort`, a resource of unknown size is fetched too."""
        concurrency: int = attrs.field(default=4, validator=number(least=1, whole=True))
        """The largest number of concurrent fetches. Fetches beyond it are dropped."""
        timeout: float = attrs.field(default=300.0, validator=number(above=0))
        """Seconds for one fetch."""

    def __init__(self, options: Options | None = None) -> None:
        self.options: BackgroundFetch.Options = options or self.Options()
        self._background = Background(self.options.concurrency)

    async def run(self, proxy: Proxy) -> None:
        """Run the background requests while the proxy is open."""
        await self._background.run()

    async def send_response(self, txn: Transaction) -> None:
        """Fetch the whole resource if the response is a 206."""
        if "range" not in self.options.after or not self._is_worth_it(txn) or txn.response.status != 206:
            return
        whole = _CONTENT_RANGE.fullmatch(txn.response.headers.get("content-range", ""))
        if whole is not None and int(whole[1]) <= self.options.max_size:
            options = self._options(txn)
            txn.log["fetch"] = self._start(txn, lambda: txn.connect(options, detach=True))

    async def transaction_close(self, txn: Transaction) -> None:
        """Fetch the whole resource if the client disconnected during a 200.

        The transaction has ended and can have no more children, so this request is a root.
        """
        gone = txn.ended is not None and txn.ended.by == "client"
        if "abort" not in self.options.after or not gone or txn.origin_status != 200 or not self._is_worth_it(txn):
            return
        length = txn.response.headers.get("content-length", "0")
        if length.isdecimal() and int(length) <= self.options.max_size:
            options = self._options(txn)
            txn.log["fetch"] = self._start(txn, lambda: txn.proxy.connect(options))

    def _is_worth_it(self, txn: Transaction) -> bool:
        if not txn.has_request or txn.request.method != "GET" or is_own(txn, TAG) or txn.origin_status is None:
            return False
        return "authorization" not in txn.request.headers and "cookie" not in txn.request.headers

    def _options(self, txn: Transaction) -> ConnectOptions:
        deadline = trio.current_time() + self.options.timeout
        return ConnectOptions(tag=TAG, id=txn.number, internal=True, client=txn.client, target=txn.session.target, deadline=deadline)

    def _start(self, txn: Transaction, connect: Connect) -> str:
        uri = txn.url
        if uri is None:
            return "refused"
        headers = end_to_end(txn.request.headers, body=False)
        headers.remove((*_ONLY_A_PART, *_OF_THE_PROXY))
        headers["Host"] = uri.authority
        return self._background.start(connect, Request("GET", str(uri), headers), key=str(uri))
