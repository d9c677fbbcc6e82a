"""AuthRequest: ask an authorization service before a request is forwarded.

The request to the service is a child of the transaction: it has the same client, ends with the transaction, and is logged as its child.
"""

from __future__ import annotations

import attrs
import trio

from trio_tsconnect import ConnectOptions, ConnectRefused, FetchedResponse, FetchError, Guard, Headers, Request, Transaction
from trio_tsconnect._util import public
from trio_tsconnect.message import URL
from trio_tsconnect.plugins._asked import end_to_end, is_own, keep_target, place
from trio_tsconnect.plugins._options import as_tuple, field_names, number, statuses, url

# RFC 9110 §13.1 and §14.2: conditions and ranges refer to the client's resource. If the service answered them with 304 or 206, that would
# not say whether the request is allowed.
_OF_A_COPY = frozenset(b"if-match if-none-match if-modified-since if-unmodified-since if-range range".split())
TAG = "auth_request"
"""The tag of the requests to the service."""


@public("trio_tsconnect.plugins")
class AuthRequest(Guard):
    """Sends the head of each request to an authorization service.

    If the service answers 2xx, the request is forwarded. If it answers with one of `refusals`, the client gets that response. Any other
    response, no response in time, or an error is answered with 500.

    The service gets a GET without a body, with the client's fields, `X-Original-Method` and `X-Original-URL`. Fields that describe the
    body, conditions and ranges are removed, because they refer to the resource and not to this request. Internal requests, which code in
    this process makes, are not checked. Source: nginx's auth_request, Traffic Server's authproxy.
    """

    @attrs.frozen(kw_only=True)
    class Options:
        """The options of `AuthRequest`."""

        url: str = attrs.field(validator=url)
        """The URL of the service. A remap rule for its host is applied; a rule for any host is not."""
        fields: tuple[str, ...] = attrs.field(default=(), converter=as_tuple, validator=field_names)
        """The client's fields to send to the service. Empty: all of them."""
        copy: tuple[str, ...] = attrs.field(default=(), converter=as_tuple, validator=field_names)
        """Fields of the service's 2xx response to add to the request for the origin. The client's own fields of these names are removed."""
        refusals: tuple[int, ...] = attrs.field(default=(401, 403), converter=as_tuple, validator=statuses(least=300))
        """Statuses of the service, within 300..599, that are sent to the client with their fields and body. Add 302 for a login page, 429
        for a rate limit.
        """
        timeout: float = attrs.field(default=5.0, validator=number(above=0))
        """Seconds for the whole request to the service. If it takes longer, the client gets 500."""
        max_body: int = attrs.field(default=65536, validator=number(least=0, whole=True))
        """The largest body of a refusal, in bytes. A larger body is dropped; the status and the other fields are still sent."""

    def __init__(self, options: Options) -> None:
        self.options = options
        self._uri = URL.parse(options.url)

    async def post_remap(self, txn: Transaction) -> None:
        """Run `judge`, unless it ran in `read_request`. Keep the target of the plugin's own requests."""
        if is_own(txn, TAG):
            keep_target(txn)
        else:
            await super().post_remap(txn)

    async def judge(self, txn: Transaction) -> None:
        """Ask the service. Answer the transaction with a refusal or 500, or let it continue."""
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
        headers["X-Original-URL"] = str(txn.request.url if txn.url is None else txn.url)
        return Request("GET", str(self._uri), headers)

    def _let_through(self, txn: Transaction, answer: FetchedResponse) -> None:
        # Also when the service sends none of them: the origin must not take the client's own `X-User` for one of the service.
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
        txn.respond(500, "The authorization of this request could not be checked.\n", headers={"Cache-Control": "no-store"})
