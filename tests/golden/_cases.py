"""The recorded cases, read into the words of this project: our hook names, our record fields, responses split by their framing."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import attrs

HOOKS = {
    "SSN_START": "session_start",
    "TXN_START": "transaction_start",
    "READ_REQUEST_HDR": "read_request",
    "PRE_REMAP": "pre_remap",
    "POST_REMAP": "post_remap",
    "SEND_REQUEST_HDR": "send_request",
    "READ_RESPONSE_HDR": "read_response",
    "SEND_RESPONSE_HDR": "send_response",
    "TXN_CLOSE": "transaction_close",
    "SSN_CLOSE": "session_close",
}
"""Traffic Server's hooks and ours. Those of its cache and its name lookup have no counterpart."""

BLAME = {
    "TCP_MISS": "nobody",
    "ERR_INVALID_REQ": "client",
    "ERR_CLIENT_ABORT": "client",
    "ERR_CLIENT_READ_ERROR": "client",
    "ERR_INVALID_URL": "client or proxy",
    "ERR_LOOP_DETECTED": "client or proxy",
    "ERR_PROXY_DENIED": "proxy",
    "ERR_CONNECT_FAIL": "origin",
    "ERR_READ_ERROR": "origin",
    "ERR_READ_TIMEOUT": "origin",
    "ERR_UNKNOWN": "origin",
}
"""Traffic Server's result code (crc), and by whom our log may say that the transaction ended."""

NOT_COMPARED = {
    "cache_a": "a cache",
    "purge": "a cache",
}
"""Cases about what this proxy has no counterpart of, and what that is."""

CLIENTS = {"S_addr_denied": "192.0.2.66", "S_addr_getonly": "192.0.2.67"}
"""Cases about who the client is, and the address that it has; `_drive` has the access rules for them."""

FOUNDATION = (
    *("get", "get_abs", "post_cl", "ka2", "head", "head_then_get", "pipe3", "unkhost", "refused", "nodns", "nohost", "badline", "badver"),
    *("unkmethod", "r204", "r401", "origin_closemid", "slowhdr", "post_dupcl"),
    *("S_id0", "S_idneg", "S_idx_0", "S_tagNULL", "S_tagEMPTY"),
)
"""The cases that must come out the same, byte for byte, over every transport."""


@attrs.frozen(kw_only=True)
class Answer:
    """One response, or interim response, as the client read it."""

    status: int
    fields: tuple[tuple[str, str], ...]
    """Names in lower case."""
    body: bytes
    """Without its chunking; what follows a 101 counts as its body."""
    complete: bool
    """Whether all of the body came that the head announced."""


@attrs.frozen
class Row:
    """What the log says of one transaction."""

    method: str | None
    """None: the request did not parse, and nothing is asked of the name."""
    status: int | None
    origin_status: int | None
    blame: str
    """By whom it ended: client, origin, proxy, plugin, nobody; or two of them, joined by "or"."""


@attrs.frozen(kw_only=True)
class Outcome:
    """All of a case's outcome that is compared."""

    statuses: tuple[int, ...]
    """Interim responses included."""
    bodies: tuple[bytes | None, ...]
    """None where the proxy itself wrote the response."""
    hooks: tuple[str, ...]
    """Empty: no transaction came to be, and nothing is said about the session."""
    log: tuple[Row, ...]


@attrs.frozen(kw_only=True)
class Case:
    """One recorded case."""

    name: str
    """Those recorded with virtual connections kept alive begin with "keepalive/"."""
    steps: tuple[tuple[str, ...], ...]
    """What the client did, in order."""
    tag: str | None
    """As given to the call; "" is a tag that was given and is empty."""
    id: int
    """The numeric id given to the call."""
    logged_tag: str | None
    """As the log has it, or would have had it."""
    client: str | None
    """The address that the client has; None is whatever its connection says."""
    buffer_index: int | None
    """None is the default."""
    buffer_water_mark: int | None
    """None is the default."""
    virtual: Outcome
    """Over TSHttpConnectPlugin."""
    network: Outcome | None
    """Over TSNetConnect to its own port; None where that was not recorded."""

    def reference(self, transport: str) -> Outcome:
        """What to compare a transport with: sockets with the network; so too virtual connections, for ours keep alive as sockets do."""
        if self.network is None or (self.name in _ABOUT_BEING_VIRTUAL and transport == "virtual"):
            return self.virtual
        if transport == "virtual" and _ENDS_BY_ITS_CLIENT.intersection(step[0] for step in self.steps):
            return self.virtual
        return self.network


_ABOUT_BEING_VIRTUAL = frozenset({"onlyinternal"})
"""Cases in which the two are not to be treated alike."""
_ENDS_BY_ITS_CLIENT = frozenset({"close", "abort"})
"""Steps that a virtual connection passes on at once, and a socket when it is next written to."""


def split_answers(reply: bytes, methods: tuple[str | None, ...]) -> tuple[Answer, ...]:
    """Cut what a client read into responses (RFC 9112 §6.3), given the method that each final response answers."""
    answers: list[Answer] = []
    pending = list(methods)
    while reply:
        head, end, rest = reply.partition(b"\r\n\r\n")
        assert end, f"a head without an end: {head[:200]!r}"
        status_line, *lines = head.decode("latin-1").split("\r\n")
        status = int(status_line.split(" ")[1])
        fields = tuple((name.lower(), value.strip()) for name, _, value in (line.partition(":") for line in lines))
        final = status >= 200
        method = (pending.pop(0) if pending else None) if final else None
        body, reply, complete = _split_body(status, method, dict(fields), rest)
        answers.append(Answer(status=status, fields=fields, body=body, complete=complete))
    return tuple(answers)


def _split_body(status: int, method: str | None, fields: dict[str, str], rest: bytes) -> tuple[bytes, bytes, bool]:
    if status == 101:
        return rest, b"", True
    if method == "HEAD" or status < 200 or status in (204, 304):
        return b"", rest, True
    if fields.get("transfer-encoding", "").lower() == "chunked":
        return _split_chunks(rest)
    if "content-length" in fields:
        length = int(fields["content-length"])
        if b"<HTML>" in rest[:length]:  # Traffic Server's error pages are recorded without their last lines
            length = min(length, len(rest))
        return rest[:length], rest[length:], len(rest) >= length
    return rest, b"", True


def _split_chunks(rest: bytes) -> tuple[bytes, bytes, bool]:
    body = b""
    while rest:
        size, _, rest = rest.partition(b"\r\n")
        length = int(size, 16)
        if not length:
            return body, rest.removeprefix(b"\r\n"), True
        body, rest = body + rest[:length], rest[length + 2 :]
    return body, b"", False


def _status(text: str) -> int | None:
    return int(text) or None


def _row(entry: dict[str, str], parsed: bool) -> Row:
    method = entry["cqtx"].split(" ")[0] if parsed else None
    return Row(method, _status(entry["pssc"]), _status(entry["sssc"]), BLAME.get(entry["crc"], "nobody"))


def _outcome(recorded: dict[str, Any]) -> Outcome:
    hooks = tuple(HOOKS[name] for name in recorded["hooks"] if name in HOOKS)
    starts = [at for at, hook in enumerate(hooks) if hook == "transaction_start"]
    parsed = ["read_request" in hooks[at : at + 2] for at in starts] or [True]
    log = tuple(_row(entry, did) for entry, did in zip(recorded["log"], parsed, strict=bool(hooks)))
    answers = split_answers(recorded["reply"].encode("latin-1"), tuple(row.method for row in log))
    return Outcome(statuses=tuple(answer.status for answer in answers), bodies=bodies(answers, log), hooks=hooks, log=log)


def bodies(answers: tuple[Answer, ...], log: tuple[Row, ...]) -> tuple[bytes | None, ...]:
    """The bodies of the responses, None for those that did not come from the origin."""
    rows = iter(row for row in log if row.status is not None)
    found: list[bytes | None] = []
    for answer in answers:
        row = next(rows, None) if answer.status >= 200 or answer.status == 101 else None
        found.append(answer.body if row is None or row.origin_status is not None else None)
    return tuple(found)


def _option(value: object) -> int | None:
    return value if isinstance(value, int) else None


def _case(name: str, entry: dict[str, Any]) -> Case:
    log = entry["virtual"]["log"]
    options = entry.get("options") or {"tag": entry["case"], "pid": int(log[0]["piid"]) if log else 1}
    tags = {"S_tagNULL": None, "S_tagEMPTY": ""}
    return Case(
        name=name,
        steps=tuple(tuple(step) for step in entry["steps"]),
        tag=tags.get(name, options["tag"]),
        id=options["pid"],
        logged_tag={"*": None, "-": None}.get(pitag := log[0]["pitag"] if log else options["tag"], pitag),
        client=CLIENTS.get(name),
        buffer_index=_option(options.get("idx")),
        buffer_water_mark=_option(options.get("wm")),
        virtual=_outcome(entry["virtual"]),
        network=_outcome(entry["network"]) if "network" in entry else None,
    )


def _load() -> dict[str, Case]:
    recorded = json.loads((Path(__file__).parent / "golden.json").read_text(encoding="utf-8"))
    cases = {entry["case"]: _case(entry["case"], entry) for entry in recorded["default"]}
    cases |= {(name := f"keepalive/{entry['case']}"): _case(name, entry) for entry in recorded["keepalive_internal_vc=1"]}
    # The recorder told its connections apart by their tag, so those without one have no hooks; the request is that of "get".
    for name in ("S_tagNULL", "S_tagEMPTY"):
        cases[name] = attrs.evolve(cases[name], virtual=attrs.evolve(cases[name].virtual, hooks=cases["get"].virtual.hooks))
    return {name: case for name, case in cases.items() if name.removeprefix("keepalive/") not in NOT_COMPARED}


CASES = _load()
"""Every case that is compared, by name."""
