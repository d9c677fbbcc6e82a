"""The whole of what a client has asked only a part of, or has not waited for, so that whatever caches behind the proxy gets all of it."""

from __future__ import annotations

import re
from typing import Any, Literal

import attrs
import trio

from trio_tsconnect import ConnectOptions, Plugin, Proxy, Request, Transaction
from trio_tsconnect._util import public
from trio_tsconnect.plugins._asked import asked_for, end_to_end, is_own
from trio_tsconnect.plugins._background import Background, Connect
from trio_tsconnect.plugins._options import as_tuple, number, refuse

TAG = "background_fetch"
"""The tag of its requests."""

_CONTENT_RANGE = re.compile(r"bytes [0-9]+-[0-9]+/([0-9]+)")  # RFC 9110 §14.4
_ONLY_A_PART = (b"range", b"if-range", b"if-match", b"if-none-match", b"if-modified-since", b"if-unmodified-since")
_OF_THE_PROXY = (b"via", b"forwarded", b"x-forwarded-for", b"x-forwarded-proto", b"x-forwarded-host")


def _occasions(_instance: Any, attribute: Any, value: Any) -> None:
    for index, occasion in enumerate(value):
        if occasion not in ("range", "abort"):
            raise refuse(f"{attribute.name}[{index}]", '"range" or "abort"', occasion)


@public("trio_tsconnect.plugins")
class BackgroundFetch(Plugin):
    """After a 206 to a GET, or when a client leaves in the middle of a 200, the whole is fetched once more, in the background.

    Nothing is fetched for requests with `Authorization` or `Cookie`: what they get is theirs alone. One URL is fetched once at a time. Source:
    Traffic Server's background_fetch plugin.
    """

    @attrs.frozen(kw_only=True)
    class Options:
        """What `BackgroundFetch` can be told."""

        after: tuple[Literal["range", "abort"], ...] = attrs.field(default=("range", "abort"), converter=as_tuple, validator=_occasions)
        """What makes it fetch: the answer to a `range`, a client that leaves (`abort`)."""
        max_size: int = attrs.field(default=1 << 30, validator=number(least=0, whole=True))
        """Bytes; what is known to be larger is not fetched."""
        concurrency: int = attrs.field(default=4, validator=number(least=1, whole=True))
        """Fetches that are under way at once; what is beyond is not fetched."""
        timeout: float = attrs.field(default=300.0, validator=number(above=0))
        """Seconds for one of them."""

    def __init__(self, options: Options | None = None) -> None:
        self.options: BackgroundFetch.Options = options or self.Options()
        self._background = Background(self.options.concurrency)

    async def run(self, proxy: Proxy) -> None:
        """Fetch."""
        await self._background.run()

    async def send_response(self, txn: Transaction) -> None:
        """A part goes to the client: fetch the whole."""
        if "range" not in self.options.after or not self._is_worth_it(txn) or txn.response.status != 206:
            return
        whole = _CONTENT_RANGE.fullmatch(txn.response.headers.get("content-range", ""))
        if whole is not None and int(whole[1]) <= self.options.max_size:
            options = self._options(txn)
            txn.log["fetch"] = self._start(txn, lambda: txn.connect(options, detach=True))

    async def transaction_close(self, txn: Transaction) -> None:
        """The client has left: fetch what it did not wait for. The transaction is over, so the fetch is a root of its own."""
        gone = txn.ended is not None and txn.ended.by == "client"
        if "abort" not in self.options.after or not gone or txn.origin_status != 200 or not self._is_worth_it(txn):
            return
        length = txn.response.headers.get("content-length", "0")
        if length.isdecimal() and int(length) <= self.options.max_size:
            options = self._options(txn)
            self._start(txn, lambda: txn.proxy.connect(options))

    def _is_worth_it(self, txn: Transaction) -> bool:
        if not txn.has_request or txn.request.method != "GET" or is_own(txn, TAG) or txn.origin_status is None:
            return False
        return "authorization" not in txn.request.headers and "cookie" not in txn.request.headers

    def _options(self, txn: Transaction) -> ConnectOptions:
        deadline = trio.current_time() + self.options.timeout
        return ConnectOptions(tag=TAG, id=txn.number, internal=True, client=txn.client, target=txn.session.target, deadline=deadline)

    def _start(self, txn: Transaction, connect: Connect) -> str:
        uri = asked_for(txn)
        if uri is None:
            return "refused"
        headers = end_to_end(txn.request.headers, body=False)
        headers.remove((*_ONLY_A_PART, *_OF_THE_PROXY))
        headers["Host"] = uri.authority
        return self._background.start(connect, Request("GET", str(uri), headers), key=str(uri))
