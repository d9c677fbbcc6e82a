"""A name for every request, which the origin, the client and the log agree on: a request id, and the trace context of the W3C.

Source of the latter: https://www.w3.org/TR/trace-context/, level 1, §3.
"""

from __future__ import annotations

import re
import secrets
from weakref import WeakKeyDictionary

import attrs

from trio_tsconnect import Plugin, Transaction
from trio_tsconnect._util import public
from trio_tsconnect.plugins._options import field_name, flag

_ID = re.compile(r"[A-Za-z0-9._~:+/=@-]{1,128}")
# §3.2: version "-" trace-id "-" parent-id "-" trace-flags; later versions may append "-" and more.
_TRACEPARENT = re.compile(r"(?P<version>[0-9a-f]{2})-(?P<trace>[0-9a-f]{32})-(?P<parent>[0-9a-f]{16})-(?P<flags>[0-9a-f]{2})(?P<more>-.*)?")


@attrs.frozen
class TraceContext:
    """Where a request stands in a trace."""

    trace: str
    """32 hexadecimal digits: the whole."""
    span: str
    """16 hexadecimal digits: this request."""
    parent: str | None
    """Those of the request that it is part of; None where the trace begins."""
    flags: str
    """Two hexadecimal digits; the last bit says whether the trace is recorded."""

    def to_field(self) -> str:
        """The value of `traceparent` that continues it."""
        return f"00-{self.trace}-{self.span}-{self.flags}"

    def child(self) -> TraceContext:
        """A part of it."""
        return TraceContext(self.trace, secrets.token_hex(8), self.span, self.flags)


def parse_traceparent(value: str | None) -> TraceContext | None:
    """What a `traceparent` says, with its `parent-id` as the span; None when it is not valid, and the trace has to begin anew (§3.2.2)."""
    match = _TRACEPARENT.fullmatch(value or "")
    if match is None or match["version"] == "ff" or (match["version"] == "00" and match["more"]):
        return None
    if not match["trace"].strip("0") or not match["parent"].strip("0"):
        return None
    return TraceContext(
        match["trace"], match["parent"], None, match["flags"] if match["version"] == "00" else f"0{int(match['flags'], 16) & 1}"
    )


@public("trio_tsconnect.plugins")
class RequestId(Plugin):
    """Gives every request an id and a place in a trace: for the origin, for the client, and as `request_id`, `trace_id`, `span_id` in the record.

    A request that code in the process makes as a child of another has its parent's id, and its span lies within its parent's.
    """

    @attrs.frozen(kw_only=True)
    class Options:
        """What `RequestId` can be told."""

        field: str = attrs.field(default="X-Request-Id", validator=field_name)
        """The field that carries the id."""
        trust_client: bool = attrs.field(default=False, validator=flag)
        """Keep an id that the client sends, when it is at most 128 harmless characters; false replaces it, as any client can invent one."""
        answer: bool = attrs.field(default=True, validator=flag)
        """Tell the client the id, in the same field of the response."""
        trace: bool = attrs.field(default=True, validator=flag)
        """Continue the client's `traceparent`, or begin a trace; false leaves the field as it is."""
        sampled: bool = attrs.field(default=False, validator=flag)
        """Whether a trace that begins here says that it is recorded."""

    def __init__(self, options: Options | None = None) -> None:
        self.options: RequestId.Options = options or self.Options()
        self._ids: WeakKeyDictionary[Transaction, tuple[str, TraceContext | None]] = WeakKeyDictionary()

    async def read_request(self, txn: Transaction) -> None:
        """Name it."""
        self._name(txn)

    async def post_remap(self, txn: Transaction) -> None:
        """Name it, where the plugin is one of a remap rule and is asked only now."""
        if txn not in self._ids:
            self._name(txn)

    async def send_response(self, txn: Transaction) -> None:
        """Tell the client."""
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
            headers.pop("tracestate")  # §3.3: it means nothing without the trace it was about
            context = TraceContext(secrets.token_hex(16), secrets.token_hex(8), None, "01" if self.options.sampled else "00")
        else:
            context = above.child()
        headers.claim("traceparent")
        headers.add("traceparent", context.to_field())
        txn.log["trace_id"], txn.log["span_id"] = context.trace, context.span
        if context.parent is not None:
            txn.log["parent_span_id"] = context.parent
        return context
