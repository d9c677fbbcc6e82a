"""Prefetch: fetch what a client will probably ask for next, so that a cache behind the proxy has it."""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any
from urllib.parse import urljoin

import attrs
import trio

from trio_tsconnect import ConfigError, ConnectOptions, Headers, Plugin, Proxy, Request, Transaction
from trio_tsconnect._util import public
from trio_tsconnect.message import URL, split_list
from trio_tsconnect.plugins._asked import is_own
from trio_tsconnect.plugins._background import Background
from trio_tsconnect.plugins._options import as_tuple, field_names, number

TAG = "prefetch"
"""The tag of the background requests."""

_LINK = re.compile(r"\s*<([^>]*)>(.*)")
_REL = re.compile(r';\s*rel\s*=\s*(?:"([^"]*)"|([^\s;",]+))', re.IGNORECASE)


def _pattern(_instance: Any, attribute: Any, value: Any) -> None:
    if value is None:
        return
    try:
        groups = re.compile(value).groupindex
    except (re.error, TypeError) as exc:
        raise ConfigError(f"is not a valid regular expression: {exc}", key=attribute.name) from None
    if "n" not in groups:
        raise ConfigError("has no group (?P<n>...), expected one around the number of the series", key=attribute.name)


@public("trio_tsconnect.plugins")
class Prefetch(Plugin):
    """Fetches in the background the links that a 200 to a GET announces in `Link: <...>; rel=prefetch`, and the next numbers of a series.

    The requests pass through the proxy and its remap rules like those of the client, and go only to the host that the client asked for.
    Their responses are read and dropped. Source: Traffic Server's prefetch plugin.
    """

    @attrs.frozen(kw_only=True)
    class Options:
        """The options of `Prefetch`."""

        rels: tuple[str, ...] = attrs.field(default=("prefetch", "preload", "next"), converter=as_tuple)
        """The link relations (RFC 8288) to fetch."""
        pattern: str | None = attrs.field(default=None, validator=_pattern)
        """A regular expression that matches the whole path of a series, with a group `(?P<n>...)` for the number, such as
        `/video/(?P<n>[0-9]+)[.]ts`.
        """
        ahead: int = attrs.field(default=1, validator=number(least=1, most=100, whole=True))
        """How many of the next numbers of a series to fetch."""
        fields: tuple[str, ...] = attrs.field(
            default=("Accept", "Accept-Encoding", "Accept-Language"), converter=as_tuple, validator=field_names
        )
        """Fields of the client's request to copy to the background requests."""
        concurrency: int = attrs.field(default=16, validator=number(least=1, whole=True))
        """The largest number of concurrent requests. Requests beyond it are dropped."""
        timeout: float = attrs.field(default=30.0, validator=number(above=0))
        """Seconds for one request."""

    def __init__(self, options: Options | None = None) -> None:
        self.options: Prefetch.Options = options or self.Options()
        self._pattern = re.compile(self.options.pattern) if self.options.pattern else None
        self._background = Background(self.options.concurrency)

    async def run(self, proxy: Proxy) -> None:
        """Run the background requests while the proxy is open."""
        await self._background.run()

    async def send_response(self, txn: Transaction) -> None:
        """Start the requests for the links of the response and for the next numbers of the series."""
        if not txn.has_request or txn.request.method != "GET" or txn.response.status != 200 or is_own(txn, TAG):
            return
        uri = txn.url
        if uri is None or txn.origin_status is None:
            return
        for url in dict.fromkeys(self._next(uri, txn.response.headers)):
            txn.log.setdefault(self._start(txn, url), []).append(url)

    def _start(self, txn: Transaction, url: str) -> str:
        headers = Headers([("Host", URL.parse(url).authority)])
        for name in self.options.fields:
            for value in txn.request.headers.get_all(name):
                headers.add(name, value)
        connect = ConnectOptions(tag=TAG, internal=True, target=txn.session.target, deadline=trio.current_time() + self.options.timeout)
        return self._background.start(lambda: txn.connect(connect, detach=True), Request("GET", url, headers), key=url)

    def _next(self, uri: URL, headers: Headers) -> Iterator[str]:
        yield from self._links(uri, headers)
        path = uri.path
        if self._pattern is not None and (match := self._pattern.fullmatch(path)) is not None and match["n"].isdecimal():
            digits, start, end = match["n"], match.start("n"), match.end("n")
            for step in range(1, self.options.ahead + 1):
                number = str(int(digits) + step).zfill(len(digits))
                yield str(attrs.evolve(uri, path=path[:start] + number + path[end:]))

    def _links(self, uri: URL, headers: Headers) -> Iterator[str]:
        for value in headers.get_all("link"):
            for member in split_list(value):
                link = _LINK.match(member)
                rel = _REL.search(link[2]) if link else None
                if link is None or rel is None or not set((rel[1] or rel[2]).lower().split()) & set(self.options.rels):
                    continue
                try:
                    target = URL.parse(urljoin(str(uri), link[1]).partition("#")[0])
                except ValueError:
                    continue  # not a valid HTTP URL
                # Only the client's own origin: a response must not make the proxy send requests to other servers.
                if place_of(target) == place_of(uri):
                    yield str(target)


def place_of(uri: URL) -> tuple[str, str, int]:
    """Return scheme, host and port, which are equal for two URIs of the same origin."""
    return uri.scheme, uri.host, uri.port
