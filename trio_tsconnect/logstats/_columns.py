"""The columns of the table `records`. Invariant: a record that goes through the table and back has the same fields."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from datetime import datetime
from typing import TYPE_CHECKING, Any

from trio_tsconnect._util import lacks
from trio_tsconnect.log import LogRecord
from trio_tsconnect.logstats._fields import FIELDS, GROUPS, KINDS, Kind
from trio_tsconnect.logstats._where import literal

if TYPE_CHECKING:
    from duckdb import DuckDBPyConnection

_TYPES = {Kind.INT: "BIGINT", Kind.FLOAT: "DOUBLE", Kind.TEXT: "VARCHAR", Kind.BOOL: "BOOLEAN", Kind.TIME: "VARCHAR"}
_ALWAYS = set(LogRecord().as_dict())

_BATCH = 1000


def _type(name: str) -> str:
    if name in KINDS:
        return _TYPES[KINDS[name]]
    kind, names = GROUPS[name]
    return "JSON" if names is None else "STRUCT(" + ", ".join(f'"{inner}" {_TYPES[kind]}' for inner in names) + ")"


COLUMNS: dict[str, str] = {name: _type(name) for name in FIELDS}
"""The types of the columns as they are read from JSON, in the order of the line."""

LIGHT: tuple[str, ...] = (
    *("time", "session", "client_connection", "stream", "transaction", "parent", "client_protocol", "tag", "id", "internal", "status"),
    *("origin_url", "remap_rule", "request_bytes", "response_bytes", "origin_connection", "origin_reused", "milestones", "ended"),
    *("process", "opened_by"),
)
"""The columns that a summary needs."""

LIGHT_TYPES = {"milestones": 'STRUCT("release" DOUBLE)', "ended": 'STRUCT("by" VARCHAR, "why" VARCHAR)'}
"""What a summary needs of columns that have columns."""


def as_fields(row: dict[str, Any]) -> dict[str, Any]:
    """Return a row as the record that it was, by JSON names."""
    fields: dict[str, Any] = {}
    for name, value in row.items():
        if value is None and name not in _ALWAYS:
            continue
        if isinstance(value, datetime):
            value = f"{value:%Y-%m-%dT%H:%M:%S.%f}Z"
        elif isinstance(value, str) and name in GROUPS:
            value = json.loads(value)
        elif isinstance(value, dict) and name != "ended":
            value = {state: seconds for state, seconds in value.items() if seconds is not None}
        fields[name] = value
    return fields


def glob_literal(path: str) -> str:
    """Return a path as SQL writes it, where no character stands for others."""
    return literal("".join(f"[{char}]" if char in "*?[" else char for char in path))


def parquet_select(connection: DuckDBPyConnection, path: str, columns: Sequence[str]) -> str:
    """Return what to select from a Parquet file to get these columns. Those that it lacks are null."""
    there = {row[0]: row[1] for row in connection.execute(f"DESCRIBE SELECT * FROM read_parquet({glob_literal(path)})").fetchall()}
    return ", ".join(_parquet_column(name, there.get(name)) for name in columns)


def _parquet_column(name: str, found: str | None) -> str:
    if found is None:
        return "NULL"
    if name == "time":
        return 'try_cast("time" AS TIMESTAMP)'
    if COLUMNS[name].startswith("STRUCT"):
        return f'CAST(from_json(to_json("{name}"), {literal(_shape(name))}) AS {COLUMNS[name]})'
    if COLUMNS[name] == "JSON":
        return f'CAST("{name}" AS JSON)' if found in ("JSON", "VARCHAR") else f'to_json("{name}")'
    return f'try_cast("{name}" AS {COLUMNS[name]})'


def _shape(name: str) -> str:
    kind, names = GROUPS[name]
    return json.dumps(dict.fromkeys(names or (), _TYPES[kind]))


def parquet_records(path: str) -> Iterator[dict[str, Any]]:
    """Yield the records of a Parquet file, by their JSON names, in their order. Needs the extra ``logs``."""
    try:
        import duckdb
    except ModuleNotFoundError as missing:
        raise lacks("logs", f"reading {path}", missing) from missing
    open(path, "rb").close()  # for its own error
    with duckdb.connect(config={"threads": 1}) as connection:
        result = connection.execute(f"SELECT {parquet_select(connection, path, list(COLUMNS))} FROM read_parquet({glob_literal(path)})")
        while rows := result.fetchmany(_BATCH):
            for row in rows:
                fields = as_fields(dict(zip(COLUMNS, row, strict=True)))
                if fields["transaction"] is not None:
                    yield fields
