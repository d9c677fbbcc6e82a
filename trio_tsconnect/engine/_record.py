"""Making the log record of a transaction."""

from __future__ import annotations

from trio_tsconnect.engine._transaction import EngineTransaction
from trio_tsconnect.log import LogRecord


def make_record(txn: EngineTransaction) -> LogRecord:
    """Return the log record of a transaction that has ended."""
    session = txn.session
    client = session.client
    protocol = client.protocol
    if protocol == "http/1.1" and txn.version == "1.0":
        protocol = "http/1.0"
    assert txn.ended is not None
    return LogRecord(
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
    )
