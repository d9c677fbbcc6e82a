"""Aggregate: answer one request with the combined responses of several sources.

The plugin intercepts the request and is its origin. So access rules, the log and a client that disconnects are handled as with any other
origin. The requests to the sources are children of the transaction, and end with it.
"""

from __future__ import annotations

import json
import secrets
from functools import partial
from typing import Any, Literal

import attrs
import trio

from trio_tsconnect import ConfigError, ConnectOptions, ConnectRefused, FetchError, Plugin, Request, Response, Transaction
from trio_tsconnect._util import public
from trio_tsconnect.message import URL, Body, Framing, frame_response
from trio_tsconnect.plugins._asked import is_own, keep_target, place
from trio_tsconnect.plugins._options import as_tuple, check_url, field_names, number, one_of, path
from trio_tsconnect.stream import HTTP1Server

TAG = "aggregate"
"""The tag of the requests to the sources."""


def _source_url(_instance: Any, attribute: Any, value: Any) -> None:
    if not (isinstance(value, str) and value.startswith("/") and not value.startswith("//")):
        check_url(attribute.name, value)


@public("trio_tsconnect.plugins")
@attrs.resolve_types
@attrs.frozen(kw_only=True)
class Source:
    """One source of an aggregate."""

    name: str
    """The name of its part of the response."""
    url: str = attrs.field(validator=_source_url)
    """A URL, or a path on the host of the client's request."""


@attrs.define
class _Part:
    name: str
    status: int | None = None
    kind: str = ""
    body: bytes = b""
    error: str | None = None

    def to_json(self) -> dict[str, Any]:
        content: Any = None
        if self.error is None:
            content = self.body.decode("utf-8", "replace")
            if "json" in self.kind:
                try:
                    content = json.loads(content)
                except ValueError:
                    pass  # invalid JSON is passed on as a string
        return {"name": self.name, "status": self.status, "body": content, "error": self.error}


@public("trio_tsconnect.plugins")
class Aggregate(Plugin):
    """Answers GET and HEAD of one path with the responses of all sources, which are requested concurrently.

    As JSON: an array of `{"name", "status", "body", "error"}` in the order of the sources. A JSON body is a value; any other body is a
    string. As multipart: `multipart/mixed` with one part per source. A source that fails has an `error`. If all sources fail, the status is
    502, else 200.
    """

    @attrs.frozen(kw_only=True)
    class Options:
        """The options of `Aggregate`."""

        path: str = attrs.field(validator=path)
        """The path of the requests to answer. It needs no remap rule."""
        sources: tuple[Source, ...] = attrs.field(converter=as_tuple)
        """The sources to request, at least one."""
        format: Literal["json", "multipart"] = attrs.field(default="json", validator=one_of("json", "multipart"))
        """The format of the combined response: `json` or `multipart`."""
        fields: tuple[str, ...] = attrs.field(
            default=("Authorization", "Cookie", "Accept-Language"), converter=as_tuple, validator=field_names
        )
        """The client's fields to send to sources that are given by a path. Sources given by a URL get none of them."""
        timeout: float = attrs.field(default=10.0, validator=number(above=0))
        """Seconds for all sources together. A source that takes longer has an error."""
        max_body: int = attrs.field(default=1_048_576, validator=number(least=0, whole=True))
        """The largest response body of one source, in bytes. A source with a larger one has an error."""

    def __init__(self, options: Options) -> None:
        self.options = options
        if not options.sources:
            raise ConfigError("is empty, expected at least one source", key="sources")

    async def read_request(self, txn: Transaction) -> None:
        """Intercept the transaction if its path is that of the aggregate."""
        self._take_over(txn)

    async def post_remap(self, txn: Transaction) -> None:
        """Do the same for a plugin of a remap rule, whose `read_request` does not run. Keep the target of the plugin's own requests."""
        if is_own(txn, TAG):
            keep_target(txn)
        else:
            self._take_over(txn)

    def _take_over(self, txn: Transaction) -> None:
        uri = txn.url
        if txn.answered_by is None and uri is not None and uri.path == self.options.path and txn.request.method in ("GET", "HEAD"):
            txn.intercept(partial(self._serve, txn, uri, txn.log))

    async def _serve(self, txn: Transaction, uri: URL, log: dict[str, Any], stream: trio.abc.Stream) -> None:
        http = HTTP1Server(stream)
        await http.wait_for_request()
        request = await http.read_request()
        parts = [_Part(source.name) for source in self.options.sources]
        async with trio.open_nursery() as nursery:
            for source, part in zip(self.options.sources, parts, strict=True):
                nursery.start_soon(self._ask, txn, uri, source, part)
        failed = [part.name for part in parts if part.error is not None]
        if failed:
            log["failed_sources"] = failed
        kind, body = _as_json(parts) if self.options.format == "json" else _as_multipart(parts)
        response = Response(502 if len(failed) == len(parts) else 200, [("Content-Type", kind), ("Cache-Control", "no-store")])
        http.queue_response(response, frame_response(request.method, request.version, response, Body(Framing.LENGTH, len(body))))
        if request.method != "HEAD":
            http.queue_body(body)
        http.queue_end()
        await http.drain()

    async def _ask(self, txn: Transaction, base: URL, source: Source, part: _Part) -> None:
        here = source.url.startswith("/")
        uri = URL.parse(f"{base.scheme}://{base.authority}{source.url}" if here else source.url)
        options = ConnectOptions(
            tag=TAG, target=None if here else place(uri), internal=True, deadline=trio.current_time() + self.options.timeout
        )
        request = Request("GET", str(uri), [("Host", uri.authority), ("Accept-Encoding", "identity")])
        for name in self.options.fields if here else ():
            for value in txn.request.headers.get_all(name):
                request.headers.add(name, value)
        try:
            async with txn.fetch(request, options=options, raise_failures=False) as answer:
                part.status, part.kind = answer.status, answer.headers.get("content-type", "application/octet-stream")
                part.body = await answer.body.read(self.options.max_body)
                if answer.status >= 400:
                    part.error = f"status {answer.status}"
        except (ConnectRefused, FetchError) as exc:
            part.error = str(exc)


def _as_json(parts: list[_Part]) -> tuple[str, bytes]:
    return "application/json", json.dumps([part.to_json() for part in parts], ensure_ascii=False).encode()


def _as_multipart(parts: list[_Part]) -> tuple[str, bytes]:
    """Return the content type and body of a `multipart/mixed` message (RFC 2046 §5.1.3)."""
    # Random, so that no source can know the boundary and forge the end of its part.
    boundary = secrets.token_hex(16)
    pieces: list[bytes] = []
    for part in parts:
        status = "" if part.status is None else f"X-Status: {part.status}\r\n"
        error = "" if part.error is None else "X-Error: failed\r\n"
        name = json.dumps(part.name)  # a quoted string, with quotes and control characters escaped
        head = (
            f"--{boundary}\r\nContent-Disposition: inline; name={name}\r\nContent-Type: {part.kind or 'text/plain'}\r\n{status}{error}\r\n"
        )
        pieces += [head.encode("latin-1", "replace"), b"" if part.error else part.body, b"\r\n"]
    return f"multipart/mixed; boundary={boundary}", b"".join([*pieces, f"--{boundary}--\r\n".encode()])
