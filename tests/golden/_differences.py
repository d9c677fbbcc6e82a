"""Where this proxy differs from the recorded Traffic Server, why, and what it does instead: one table, and the page made of it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import attrs

from ._cases import CASES, NOT_COMPARED, Case, Outcome, Row

_BEFORE_REMAP = ("transaction_start", "read_request", "pre_remap")
_FORWARDED = (*_BEFORE_REMAP, "post_remap", "send_request")
SERVED = (*_FORWARDED, "read_response", "send_response", "transaction_close")
"""Hooks of a transaction that an origin answered."""
UNANSWERED = (*_FORWARDED, "send_response", "transaction_close")
"""Hooks of one that its origin did not answer, so that the proxy did."""
ABANDONED = (*_FORWARDED, "transaction_close")
"""Hooks of one whose client left before anything was answered."""
UNREADABLE = ("transaction_start", "send_response", "transaction_close")
"""Hooks of a request that did not parse."""
CUT = ("transaction_start", "transaction_close")
"""Hooks of a request that ended before its head did."""


@attrs.frozen(kw_only=True)
class Difference:
    """One case in which this proxy does something else, on purpose."""

    there: str
    """What Traffic Server 9.2.9 did."""
    here: str
    """What this proxy does."""
    reason: str
    """Why."""
    outcomes: Mapping[str, Outcome] = attrs.field(factory=dict)
    """By transport: what is expected instead of what was recorded."""
    refused_option: str | None = None
    """The option that `ConnectOptions` refuses, so that the case cannot be played."""


def _session(*transactions: tuple[str, ...]) -> tuple[str, ...]:
    return ("session_start", *(hook for transaction in transactions for hook in transaction), "session_close")


def _everywhere(outcome: Outcome) -> dict[str, Outcome]:
    return dict.fromkeys(("tcp", "tls", "virtual"), outcome)


def _but(name: str, **changes: Any) -> dict[str, Outcome]:
    """The recorded outcome with changes, over every transport."""
    case = CASES[name]
    return {transport: attrs.evolve(case.reference(transport), **changes) for transport in ("tcp", "tls", "virtual")}


def _refused(status: int) -> dict[str, Outcome]:
    """A request refused before it was looked at: the client's fault."""
    log = (Row(None, status, None, "client"),)
    return _everywhere(Outcome(statuses=(status,), bodies=(None,), hooks=_session(UNREADABLE), log=log))


_LENGTHLESS = Outcome(
    statuses=(200,),
    bodies=(b"POST 0 ",),
    hooks=_session(SERVED, CUT),
    log=(Row("POST", 200, 200, "nobody"), Row(None, None, None, "client")),
)
_TUNNEL = CASES["keepalive/websocket"].virtual
_TUNNEL = attrs.evolve(_TUNNEL, hooks=_session(SERVED))
_GONE = Outcome(statuses=(), bodies=(), hooks=_session(ABANDONED), log=(Row("GET", None, None, "client"),))
_OUT_OF_RANGE = "A silently changed option hides a mistake. ValueError names the option."
_LENGTHLESS_DIFFERENCE = Difference(
    there="411: a POST needs a length",
    here="The request has no body (200), and the five bytes begin another request, which the client leaves unfinished",
    reason="RFC 9112 §6.3: a request with neither Content-Length nor Transfer-Encoding has no body.",
    outcomes=_everywhere(_LENGTHLESS),
)

DIFFERENCES: dict[str, Difference] = {
    "S_idx_15": Difference(
        there="Accepts buffer index 15 and silently uses another", here="ValueError", reason=_OUT_OF_RANGE, refused_option="buffer_index"
    ),
    "S_idx_99": Difference(
        there="Accepts buffer index 99 and silently uses another", here="ValueError", reason=_OUT_OF_RANGE, refused_option="buffer_index"
    ),
    "S_idx_m1": Difference(
        there="Accepts buffer index -1 and silently uses another", here="ValueError", reason=_OUT_OF_RANGE, refused_option="buffer_index"
    ),
    "S_wm_m1": Difference(
        there="Accepts a water mark of -1, and ignores it", here="ValueError", reason=_OUT_OF_RANGE, refused_option="buffer_water_mark"
    ),
    "S_wm_1m": Difference(
        there="Accepts a water mark above the buffer's size, and ignores it",
        here="ValueError",
        reason="The water mark is implemented here. One above the window could never be reached.",
        refused_option="buffer_water_mark",
    ),
    "nodns": Difference(
        there="500 Cannot find server",
        here="502",
        reason="RFC 9110 §15.6.3: the origin could not be reached; the proxy did not fail.",
        outcomes=_but("nodns", statuses=(502,), log=(Row("GET", 502, None, "origin"),)),
    ),
    "badver": Difference(
        there="505, and the log says ERR_CONNECT_FAIL",
        here="505, and the log names the client as the cause",
        reason="No connection was tried.",
        outcomes=_refused(505),
    ),
    "hdr_nocolon": Difference(
        there="Forwards the request (200)",
        here="400, and the connection is closed",
        reason="RFC 9112 §5: a field line without a colon is malformed. Malformed requests are never forwarded.",
        outcomes=_refused(400),
    ),
    "lf_only": Difference(
        there="Accepts a bare LF as the end of a line (200)",
        here="400, and the connection is closed",
        reason="RFC 9112 §2.2 allows it, but if parties disagree about line ends, requests can be smuggled.",
        outcomes=_refused(400),
    ),
    "longuri": Difference(
        there="400 Invalid HTTP Request",
        here="414",
        reason="RFC 9112 §3: a request target that is longer than the server wishes to parse gets 414.",
        outcomes=_refused(414),
    ),
    "h2preface": Difference(
        there="On its port: speaks HTTP/2. On a virtual connection: 400",
        here="400",
        reason="A session is HTTP/1. The listener detects the protocol, with serve_auto.",
        outcomes=_refused(400),
    ),
    "loop": Difference(
        there="Over a socket it knows its own address and answers 400; over a virtual connection it sends the request to itself once",
        here="Sends the request to itself once, finds itself in Via, and forwards its own 400",
        reason="The proxy cannot know which addresses lead back to it; Via shows it (RFC 9110 §7.6.3).",
        outcomes=_everywhere(attrs.evolve(CASES["loop"].virtual, bodies=(None,))),
    ),
    "origin_rst": Difference(
        there="Sends a second time on a fresh connection, and fires READ_RESPONSE_HDR for responses that were never received",
        here="502 after one attempt; read_response does not fire",
        reason="RFC 9112 §9.3.1: a retry is for a reused connection that may have been closed. There is no response for the hook.",
        outcomes=_but("origin_rst", hooks=_session(UNANSWERED)),
    ),
    "origin_rst_post": Difference(
        there="Fires READ_RESPONSE_HDR for a response that was never received",
        here="read_response does not fire",
        reason="There is no response for the hook.",
        outcomes=_but("origin_rst_post", hooks=_session(UNANSWERED)),
    ),
    "post_nolen": _LENGTHLESS_DIFFERENCE,
    "keepalive/post_nolen": _LENGTHLESS_DIFFERENCE,
    "shutw_imm": Difference(
        there="The request is lost: no reply, no log line",
        here="The request is answered",
        reason="The end of input means that no more requests follow. What was written before it is not lost.",
        outcomes=_everywhere(CASES["get"].virtual),
    ),
    "close_before_resp": Difference(
        there="Over a virtual connection the transaction continues, and is logged with 200",
        here="The transaction is cancelled, and the log names the client: at once over a virtual connection, over TLS once it is watched",
        reason="A client that has closed, and not only ended its input, has gone. Nobody would receive the response.",
        outcomes={"virtual": _GONE, "tls": _GONE},
    ),
    "websocket": Difference(
        there="404: the target becomes ws://, for which there was no remap rule",
        here="101, and the tunnel carries the bytes",
        reason="A remap rule without a scheme matches any scheme. Traffic Server does too if it has such a rule (keepalive/websocket).",
        outcomes=_everywhere(_TUNNEL),
    ),
    "keepalive/websocket": Difference(
        there="POST_REMAP fires twice",
        here="post_remap fires once",
        reason="One request is remapped once.",
        outcomes=_everywhere(_TUNNEL),
    ),
}
"""By the name of the case."""


def expected(case: Case, transport: str) -> Outcome:
    """What a case must come to: what was recorded, unless the table says otherwise."""
    difference = DIFFERENCES.get(case.name)
    return (difference.outcomes if difference else {}).get(transport) or case.reference(transport)


_PAGE_HEAD = """\
# Where it differs from Traffic Server

The cases were recorded on a running Traffic Server 9.2.9. They are played against this proxy over TCP, over TLS and over a virtual
connection. In every case that is not in this table the following are the same as in Traffic Server: the statuses, the hooks in their order,
the bodies from the origin, and the log (method, both statuses, who ended it, tag and id).

Virtual connections are kept alive here as sockets are, so they are compared with what was recorded on a socket. The cases about the end
of a client's input are not played over TLS, because trio's TLS streams cannot close one direction only.

All cases are played with `http.half_close = "finish"`, which is what Traffic Server does. By default a client on a socket that ends its
input counts as gone once its transaction has lasted `http.gone_check_interval`, and gets no answer (`shutw_after`,
`keepalive/shutw_after`).

| case | Traffic Server 9.2.9 | here | why |
|---|---|---|---|
"""


def page() -> str:
    """The whole of docs/traffic_server.md."""
    rows = [
        f"| `{name}` | {difference.there} | {difference.here} | {difference.reason} |" for name, difference in sorted(DIFFERENCES.items())
    ]
    left_out = [f"- `{name}`: {what}" for name, what in sorted(NOT_COMPARED.items())]
    return _PAGE_HEAD + "\n".join([*rows, "", "Not compared, because this proxy does not have the feature:", "", *left_out, ""])
