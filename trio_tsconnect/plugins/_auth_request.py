"""Ask another service whether a request may go on, before its origin is asked.

The question is a child of the transaction: it has the same client, ends with it, and stands in the log below it.
"""

from __future__ import annotations

import attrs
import trio

from trio_tsconnect import ConnectOptions, ConnectRefused, FetchedResponse, FetchError, Headers, Plugin, Request, Transaction
from trio_tsconnect._util import public
from trio_tsconnect.message import TargetURI
from trio_tsconnect.plugins._asked import end_to_end, is_own, keep_target, place
from trio_tsconnect.plugins._options import as_tuple, field_names, number, statuses, url

# RFC 9110 §13.1 and §14.2: about the resource, of which the service has no copy; its 304 or 206 would be no answer to the question.
_OF_A_COPY = frozenset(b"if-match if-none-match if-modified-since if-unmodified-since if-range range".split())
TAG = "auth_request"
"""The tag of its requests."""


@public("trio_tsconnect.plugins")
class AuthRequest(Plugin):
    """Sends the head of each request to an auth service. 2xx: it goes on; one of `refusals`: that is the answer; anything else, or none: 500.

    The service gets a GET without a body, with the client's fields, `X-Original-Method` and `X-Original-URL`; not with those that are about the
    body or a stored copy of the resource (conditions, ranges), for it is not the resource that is asked for. Requests that code in the process
    makes for itself, and children of a request that was let through, are not asked about. Source: nginx's auth_request, Traffic Server's authproxy.
    """

    @attrs.frozen(kw_only=True)
    class Options:
        """What `AuthRequest` can be told."""

        url: str = attrs.field(validator=url)
        """Where the service is asked. A remap rule for its host decides where that is; one for any host does not."""
        fields: tuple[str, ...] = attrs.field(default=(), converter=as_tuple, validator=field_names)
        """The client's fields that the service gets; empty for all of them."""
        copy: tuple[str, ...] = attrs.field(default=(), converter=as_tuple, validator=field_names)
        """Fields of the service's 2xx that the origin gets; the client's own of these names never reach it."""
        refusals: tuple[int, ...] = attrs.field(default=(401, 403), converter=as_tuple, validator=statuses(least=300))
        """Statuses of the service that are the client's answer, with their fields and body: add 302 for a login page, 429 for a limit."""
        timeout: float = attrs.field(default=5.0, validator=number(above=0))
        """Seconds for the whole question; past it 500."""
        max_body: int = attrs.field(default=65536, validator=number(least=0, whole=True))
        """Bytes of a refusal's body; a larger one is left out."""

    def __init__(self, options: Options) -> None:
        self.options = options
        self._uri = TargetURI.parse(options.url)

    async def post_remap(self, txn: Transaction) -> None:
        """Ask."""
        if is_own(txn, TAG):
            keep_target(txn)
            return
        if txn.internal:
            return
        options = ConnectOptions(tag=TAG, internal=True, target=place(self._uri), deadline=trio.current_time() + self.options.timeout)
        log = txn.log
        try:
            async with txn.fetch(self._question(txn), options=options) as answer:
                log["status"] = answer.status
                if 200 <= answer.status < 300:
                    self._let_through(txn, answer)
                elif answer.status in self.options.refusals:
                    await self._deny(txn, answer)
                else:
                    self._fail(txn)
        except (ConnectRefused, FetchError) as exc:
            log["error"] = str(exc)
            self._fail(txn)

    def _question(self, txn: Transaction) -> Request:
        headers = end_to_end(txn.request.headers, body=False)
        headers.remove(_OF_A_COPY)
        if self.options.fields:
            wanted = {name.lower() for name in self.options.fields}
            headers = Headers([(name, value) for name, value in headers.items() if name.lower() in wanted])
        headers["Host"] = self._uri.authority
        headers["X-Original-Method"] = txn.request.method
        headers["X-Original-URL"] = txn.url or ""
        return Request("GET", str(self._uri), headers)

    def _let_through(self, txn: Transaction, answer: FetchedResponse) -> None:
        txn.request.headers.claim(*self.options.copy)
        for name in self.options.copy:
            for value in answer.headers.get_all(name):
                txn.request.headers.add(name, value)

    async def _deny(self, txn: Transaction, answer: FetchedResponse) -> None:
        headers = end_to_end(answer.headers, body=True)
        headers.remove((b"via", b"date"))
        try:
            body = await answer.body.read(self.options.max_body)
        except FetchError:
            body = b""
            headers.remove((b"content-type", b"content-encoding"))
        txn.respond(answer.status, body, headers=headers)

    def _fail(self, txn: Transaction) -> None:
        txn.respond(500, "It could not be found out whether you may do this.\n", headers={"Cache-Control": "no-store"})
