"""RequestId: give every request an id, which the origin, the client and the log share, and a W3C trace context.

Source of the trace context: https://www.w3.org/TR/trace-context/, level 1, §3.
"""

from __future__ import annotations

import re
import secrets
from weakref import WeakKeyDictionary

import attrs

from trio_tsconnect import Plugin, Transaction
from trio_tsconnect._util import public
from trio_tsconnect.message import TraceContext, parse_traceparent
from trio_tsconnect.plugins._options import field_name, flag

_ID = re.compile(r"[A-Za-z0-9._~:+/=@-]{1,128}")


@public("trio_tsconnect.plugins")
class RequestId(Plugin):
    """Gives every request an id and a trace context, and sends them to the origin. The client gets the id.

    The log record has `request_id` among the entries of the plugin, and the fields `trace_id`, `span_id` and `parent_span_id`. A child of another request gets the
    id of its parent, unless it has its own, and its span is within the parent's span.
    """

    @attrs.frozen(kw_only=True)
    class Options:
        """The options of `RequestId`."""

        field: str = attrs.field(default="X-Request-Id", validator=field_name)
        """The name of the field with the id."""
        trust_client: bool = attrs.field(default=False, validator=flag)
        """Keep the id that a client sends, if it consists of at most 128 letters, digits and `._~:+/=@-`. If false, it is replaced, because
        a client can send any id.
        """
        answer: bool = attrs.field(default=True, validator=flag)
        """Send the id to the client, in the same field of the response."""
        trace: bool = attrs.field(default=True, validator=flag)
        """Continue the client's `traceparent` if it is valid, else begin a new trace. If false, the field is not changed."""
        sampled: bool = attrs.field(default=False, validator=flag)
        """Set the sampled flag, which means that the trace is recorded, in traces that begin here."""

    def __init__(self, options: Options | None = None) -> None:
        self.options: RequestId.Options = options or self.Options()
        self._ids: WeakKeyDictionary[Transaction, tuple[str, TraceContext | None]] = WeakKeyDictionary()

    async def read_request(self, txn: Transaction) -> None:
        """Give the request its id and trace context."""
        self._name(txn)

    async def post_remap(self, txn: Transaction) -> None:
        """Do the same for a plugin of a remap rule, whose `read_request` does not run."""
        if txn not in self._ids:
            self._name(txn)

    async def send_response(self, txn: Transaction) -> None:
        """Send the id to the client."""
        if self.options.answer and (known := self._ids.get(txn)) is not None:
            txn.response.headers[self.options.field] = known[0]

    def _name(self, txn: Transaction) -> None:
        headers = txn.request.headers
        parent = self._ids.get(txn.parent) if txn.parent is not None else None
        given = headers.get(self.options.field)
        trusted = (self.options.trust_client or txn.internal) and given is not None and _ID.fullmatch(given) is not None
        request_id = given if trusted and given is not None else parent[0] if parent is not None else secrets.token_hex(16)
        headers.claim(self.options.field)
        headers.add(self.options.field, request_id)
        txn.log["request_id"] = request_id
        trace = self._trace(txn, parent[1] if parent is not None else None) if self.options.trace else None
        self._ids[txn] = (request_id, trace)

    def _trace(self, txn: Transaction, parent: TraceContext | None) -> TraceContext:
        headers = txn.request.headers
        above = parse_traceparent(headers.get("traceparent")) or parent
        if above is None:
            headers.pop("tracestate")  # §3.3: it is meaningless without its `traceparent`
            context = TraceContext(secrets.token_hex(16), secrets.token_hex(8), None, "01" if self.options.sampled else "00")
        else:
            context = above.child()
        headers.claim("traceparent")
        headers.add("traceparent", context.to_field())
        txn.trace = context
        return context
