"""One request answered from several: a fan-out to sources, whose answers come back together.

The plugin is the origin of such a request, so access rules, the log and the client's leaving are as with any other origin; the requests to
the sources are children, and end with their parent.
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
from trio_tsconnect.message import Body, Framing, TargetURI, frame_response
from trio_tsconnect.plugins._asked import asked_for, is_own, keep_target, place
from trio_tsconnect.plugins._options import as_tuple, check_url, field_names, number, one_of, path
from trio_tsconnect.stream import HTTP1Server

TAG = "aggregate"
"""The tag of its requests."""


def _source_url(_instance: Any, attribute: Any, value: Any) -> None:
    if not (isinstance(value, str) and value.startswith("/") and not value.startswith("//")):
        check_url(attribute.name, value)


@public("trio_tsconnect.plugins")
@attrs.resolve_types
@attrs.frozen(kw_only=True)
class Source:
    """One of the places that an aggregate asks."""

    name: str
    """What its part of the answer is called."""
    url: str = attrs.field(validator=_source_url)
    """Where it is: a URL, or a path on the host that the client asked."""


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
                    pass  # then its text is what there is
        return {"name": self.name, "status": self.status, "body": content, "error": self.error}


@public("trio_tsconnect.plugins")
class Aggregate(Plugin):
    """Answers GET of one path with the answers of all its sources, asked at the same time.

    As JSON: an array of `{"name", "status", "body", "error"}` in the order of the sources, where a JSON body is a value and any other a string.
    As multipart: `multipart/mixed`, a part for each. A source that fails has an `error`; when all fail the status is 502.
    """

    @attrs.frozen(kw_only=True)
    class Options:
        """What `Aggregate` can be told."""

        path: str = attrs.field(validator=path)
        """The path that is answered; no remap rule is needed for it."""
        sources: tuple[Source, ...] = attrs.field(converter=as_tuple)
        """What is asked."""
        format: Literal["json", "multipart"] = attrs.field(default="json", validator=one_of("json", "multipart"))
        """How the answers are put together."""
        fields: tuple[str, ...] = attrs.field(
            default=("Authorization", "Cookie", "Accept-Language"), converter=as_tuple, validator=field_names
        )
        """The client's fields that sources given by a path get; other hosts get none."""
        timeout: float = attrs.field(default=10.0, validator=number(above=0))
        """Seconds for all of it; a source that takes longer has an error."""
        max_body: int = attrs.field(default=1_048_576, validator=number(least=0, whole=True))
        """Bytes of one source's answer; one that is larger has an error."""

    def __init__(self, options: Options) -> None:
        self.options = options
        if not options.sources:
            raise ConfigError("is empty, expected one source or more", key="sources")

    async def pre_remap(self, txn: Transaction) -> None:
        """Take it over, if it is for here."""
        self._take_over(txn)

    async def post_remap(self, txn: Transaction) -> None:
        """The same, where the plugin is one of a remap rule."""
        if is_own(txn, TAG):
            keep_target(txn)
        else:
            self._take_over(txn)

    def _take_over(self, txn: Transaction) -> None:
        uri = asked_for(txn)
        if uri is not None and uri.path.partition("?")[0] == self.options.path and txn.request.method in ("GET", "HEAD"):
            txn.intercept(partial(self._serve, txn, uri, txn.log))

    async def _serve(self, txn: Transaction, uri: TargetURI, log: dict[str, Any], stream: trio.abc.Stream) -> None:
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

    async def _ask(self, txn: Transaction, base: TargetURI, source: Source, part: _Part) -> None:
        here = source.url.startswith("/")
        uri = attrs.evolve(base, path=source.url) if here else TargetURI.parse(source.url)
        options = ConnectOptions(
            tag=TAG, target=None if here else place(uri), internal=True, deadline=trio.current_time() + self.options.timeout
        )
        request = Request("GET", str(uri), [("Host", uri.authority), ("Accept-Encoding", "identity")])
        for name in self.options.fields if here else ():
            for value in txn.request.headers.get_all(name):
                request.headers.add(name, value)
        try:
            async with txn.fetch(request, options=options) as answer:
                part.status, part.kind = answer.status, answer.headers.get("content-type", "application/octet-stream")
                part.body = await answer.body.read(self.options.max_body)
                if answer.status >= 400:
                    part.error = f"status {answer.status}"
        except (ConnectRefused, FetchError) as exc:
            part.error = str(exc)


def _as_json(parts: list[_Part]) -> tuple[str, bytes]:
    return "application/json", json.dumps([part.to_json() for part in parts], ensure_ascii=False).encode()


def _as_multipart(parts: list[_Part]) -> tuple[str, bytes]:
    """RFC 2046 §5.1.3. The boundary is random: no source can know it and end its part early."""
    boundary = secrets.token_hex(16)
    pieces: list[bytes] = []
    for part in parts:
        status = "" if part.status is None else f"X-Status: {part.status}\r\n"
        error = "" if part.error is None else "X-Error: failed\r\n"
        name = json.dumps(part.name)  # a quoted string, with what needs it escaped
        head = (
            f"--{boundary}\r\nContent-Disposition: inline; name={name}\r\nContent-Type: {part.kind or 'text/plain'}\r\n{status}{error}\r\n"
        )
        pieces += [head.encode("latin-1", "replace"), b"" if part.error else part.body, b"\r\n"]
    return f"multipart/mixed; boundary={boundary}", b"".join([*pieces, f"--{boundary}--\r\n".encode()])
