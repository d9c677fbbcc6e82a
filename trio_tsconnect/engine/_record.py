"""Making the log record of a transaction."""

from __future__ import annotations

from trio_tsconnect.engine._transaction import EngineTransaction
from trio_tsconnect.log import LogRecord
from trio_tsconnect.message import Headers
from trio_tsconnect.stream import TLSInfo


def make_record(txn: EngineTransaction) -> LogRecord:
    """Return the log record of a transaction that has ended."""
    session = txn.session
    client = session.client
    protocol = client.protocol
    if protocol == "http/1.1" and txn.version == "1.0":
        protocol = "http/1.0"
    assert txn.ended is not None
    noted = txn.noted or {}
    record = LogRecord(
        time=txn.wall_time,
        session=session.number,
        client_connection=client.connection or session.number,
        stream=client.stream,
        transaction=txn.number,
        parent=txn.parent.number if txn.parent else None,
        root=txn.root.number,
        depth=txn.depth,
        detached=session.detached,
        client_address=None if client.host in ("", "unknown") else client.host,
        client_protocol=protocol,
        tag=session.tag,
        id=session.id,
        internal=session.internal,
        method=txn.method,
        url=str(txn.url) if txn.url is not None else txn.seen_target,
        origin_url=txn.origin_url,
        remap_rule=txn.rule.from_ if txn.rule else None,
        status=txn.status,
        origin_status=txn.origin_status,
        request_bytes=txn.request_bytes,
        response_bytes=txn.response_bytes,
        origin_connection=txn.origin_id,
        origin_reused=txn.origin_reused,
        attempts=txn.attempts,
        milestones=dict(txn.milestones),  # a copy: the state CLOSED is entered after the record is written
        ended=txn.ended,
        plugin=dict(txn.plugin_log),
        deadline_left=txn.deadline_left and dict(txn.deadline_left),
        process=txn.core.process,
        client_port=client.port,
        host=_text(noted.get(b"host")),
        user_agent=_text(noted.get(b"user-agent")),
        referer=_text(noted.get(b"referer")),
        request_head_bytes=session.http.head_size if txn.has_request else 0,
        response_head_bytes=session.http.response_head_size if txn.status is not None else 0,
        origin_address=txn.origin_address,
        opened_by=session.opened_by,
    )
    if client.tls is not None:
        _add_tls(record, client.tls)
    record.request_headers = txn.noted_heads
    if (responded := txn.core.selected[1]) and txn.status is not None:
        record.response_headers = _heads(txn.response.headers, responded)
    if txn.trace is not None:
        record.trace_id, record.span_id, record.parent_span_id = txn.trace.trace, txn.trace.span, txn.trace.parent
    else:
        _add_trace_of_parent(record, txn)
    return record


def _add_trace_of_parent(record: LogRecord, txn: EngineTransaction) -> None:
    """Place a transaction without a trace of its own in that of the transaction that caused it, so that a trace has all its parts."""
    above = txn.parent
    while above is not None and above.trace is None:
        above = above.parent
    if above is not None and above.trace is not None:
        record.trace_id = above.trace.trace
        record.parent_span_id = above.trace.span if above is txn.parent else None


def _text(value: bytes | None) -> str | None:
    return None if value is None else value.decode("latin-1")


def _heads(headers: Headers, names: frozenset[bytes]) -> dict[str, str]:
    return {name.decode(): value for name in sorted(names) if (value := headers.get(name)) is not None}


def note(txn: EngineTransaction, headers: Headers) -> None:
    """Keep the fields of the request that the log needs, before a hook can change them."""
    wanted = txn.core.noted
    txn.noted = {name: value for _, name, value in headers.fields if name in wanted}
    if requested := txn.core.selected[0]:
        txn.noted_heads = _heads(headers, requested)


def _add_tls(record: LogRecord, tls: TLSInfo) -> None:
    record.tls_version, record.tls_cipher = tls.version, tls.cipher
    record.tls_server_name, record.tls_resumed = tls.server_name, tls.resumed
