"""Logs as a table of DuckDB. Invariant: what is counted here is what `summarize` counts, only faster.

The lines are parsed once, into a temporary database on disk with only the columns that are asked for. DuckDB turns a line that is not JSON
into a row of nulls, so such lines are counted; their places are looked up afterwards, and only if there are any.
"""

from __future__ import annotations

import gzip
import os
import shutil
import sys
import tempfile
import threading
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from datetime import datetime
from itertools import groupby
from typing import TYPE_CHECKING, Any

from trio_tsconnect._util import lacks, public
from trio_tsconnect.logstats._columns import COLUMNS, LIGHT, LIGHT_TYPES, as_fields, glob_literal, parquet_select
from trio_tsconnect.logstats._count import seconds_between, stream_key
from trio_tsconnect.logstats._group import Group, Reuse, rate
from trio_tsconnect.logstats._questions import sql
from trio_tsconnect.logstats._read import MOST_PLACES, Path, Records
from trio_tsconnect.logstats._select import in_order
from trio_tsconnect.logstats._summary import Summary
from trio_tsconnect.logstats._top import Slow, Talker, interval
from trio_tsconnect.logstats._tree import Node, tree
from trio_tsconnect.logstats._where import Expression, as_moment, literal, names_in, parse, to_sql

if TYPE_CHECKING:
    from duckdb import DuckDBPyConnection

_MEMORY = "640MB"
_THREADS = 2
_SMALL = 4 << 20
_FEW = 8
_EXACT = 1_000_000
_BATCH = 1000
_STANDARD_INPUT = "standard input"


@public("trio_tsconnect.logstats")
class Unreadable(ValueError):
    """DuckDB cannot read a file, for example a damaged compressed one. Reading line by line may be able to."""


@public("trio_tsconnect.logstats")
class LogTable:
    """Logs as the table `records` of a temporary database. `open_table` makes one."""

    def __init__(self, connection: DuckDBPyConnection) -> None:
        self.connection: DuckDBPyConnection = connection
        """The connection to DuckDB, for queries of your own."""
        self.dropped: int = 0
        """The number of records that the log dropped, as it states itself."""
        self.skipped: int = 0
        """The number of lines that are not records."""
        self.skipped_at: list[str] = []
        """File, line and reason of the first of these lines."""
        self.approximate: bool = False
        """Whether percentiles are approximate, because exact ones of so many records do not fit into the memory."""

    def ask(self, question: str, *, width: int = 60, n: int = 10) -> list[dict[str, Any]]:
        """Return the rows of a question such as ``by_tag``. `sql` shows its text, and says what `width` and `n` are."""
        text = sql(question, width=width, n=n)
        return self.rows(text.replace("quantile_disc(", "approx_quantile(") if self.approximate else text)

    def rows(self, query: str) -> list[dict[str, Any]]:
        """Return the rows of a query."""
        result = self.connection.execute(query)
        names = [column[0] for column in result.description or ()]
        return [dict(zip(names, row, strict=True)) for row in result.fetchall()]

    def records(self, condition: str = "true", *, order: str = "") -> Iterator[tuple[int, dict[str, Any]]]:
        """Yield the number of the run and the record, by its JSON names, of each record for which a condition in SQL is true."""
        # A cursor, as a query on the connection itself would end this one.
        result = self.connection.cursor().execute(f"SELECT * FROM records WHERE {condition}{f' ORDER BY {order}' if order else ''}")
        names = [column[0] for column in result.description or ()]
        while rows := result.fetchmany(_BATCH):
            for row in rows:
                fields = dict(zip(names, row, strict=True))
                yield fields.pop("run"), as_fields(fields)

    def summary(self) -> Summary:
        """Return what `summarize` returns. Percentiles are exact up to a million records."""
        (totals,) = self.ask("totals")
        span = (iso(totals["first"]), iso(totals["last"])) if totals["first"] is not None else None
        seconds = seconds_between(span)
        groups = {by: self._groups(by, seconds) for by in ("tag", "rule", "origin", "plugin", "cause", "status")}
        statuses: dict[str, dict[str, int]] = {}
        for row in self.ask("statuses"):
            statuses.setdefault(row["tag"], {})[row["class"]] = row["transactions"]
        return Summary(
            transactions=totals["transactions"],
            client_connections={row["protocol"]: row["connections"] for row in self.ask("connections")},
            streams_per_connection={stream_key(row["run"], row["connection"]): int(row["streams"]) for row in self.ask("streams")},
            statuses=statuses,
            ended={group.name: group.transactions for group in groups["cause"]},
            dropped=self.dropped,
            skipped=self.skipped,
            skipped_at=tuple(self.skipped_at),
            span=span,
            total=next(iter(self._groups("all", seconds)), None),
            groups=groups,
            reuse=[Reuse(**row) for row in self.ask("reuse")],
            internal={row["plugin"]: row["requests"] for row in self.ask("internal")},
        )

    def slowest(self, n: int = 10, *, by: str = "total") -> list[Slow]:
        """Return what the function `slowest` returns."""
        measure = interval(by).as_sql()
        found = self.records(f"({measure}) IS NOT NULL", order=f"{measure} DESC, run, transaction LIMIT {max(0, int(n))}")
        return [Slow(seconds=interval(by).of(fields) or 0.0, run=run, record=fields) for run, fields in found]

    def talkers(self, n: int = 10) -> list[Talker]:
        """Return what the function `talkers` returns."""
        return [Talker(**row | {name: int(row[name]) for name in Talker.COUNTS}) for row in self.ask("talkers", n=n)]

    def trees(
        self, *, where: str | None = None, since: datetime | None = None, until: datetime | None = None, slowest: int | None = None
    ) -> list[Node]:
        """Return what `find_trees` returns."""
        condition = _condition(None if where is None else parse(where), since, until)
        root = "coalesce(nullif(root, 0), transaction)"
        query = f"SELECT DISTINCT run, {root} AS root FROM records WHERE {condition}"
        if slowest is not None:
            query = (
                f"SELECT r.run, chosen.root FROM records AS r JOIN ({query}) AS chosen"
                " ON r.run = chosen.run AND coalesce(nullif(r.root, 0), r.transaction) = chosen.root WHERE r.parent IS NULL"
                f" ORDER BY r.milestones.release DESC NULLS LAST, r.run, chosen.root LIMIT {max(0, int(slowest))}"
            )
        parts = [
            tree(fields for _, fields in self.records(f"run = {int(row['run'])} AND {root} = {int(row['root'])}"))
            for row in self.rows(query)
        ]
        return in_order(parts, slowest)

    def _groups(self, by: str, span: float | None) -> list[Group]:
        return [Group(max=row.pop("longest"), per_second=rate(row["transactions"], span), **row) for row in self.ask(f"by_{by}")]


@public("trio_tsconnect.logstats")
@contextmanager
def open_table(
    *paths: Path,
    where: str | None = None,
    since: datetime | None = None,
    until: datetime | None = None,
    columns: Iterable[str] | None = None,
    progress: Callable[[float], None] | None = None,
) -> Iterator[LogTable]:
    """Load logs (JSON lines or Parquet, plain or compressed) into a temporary database, and yield it. Needs the extra ``logs``.

    `where`, `since` and `until` select records as in `read_records`. `columns` are the fields to load, by default all. `progress` is called
    from another thread with the share that has been read, from 0 to 1. Raises `OSError` for a file that cannot be opened.
    """
    try:
        import duckdb
    except ModuleNotFoundError as missing:
        raise lacks("logs", "this", missing) from missing
    selects = None if where is None else parse(where)
    needed = set(COLUMNS if columns is None else columns) | {"transaction", "process"}
    needed |= set(names_in(selects)) if selects is not None else set()
    needed |= {"time"} if since or until else set()
    with tempfile.TemporaryDirectory(prefix="tsconnect-") as folder:
        names = [_readable(path, folder) for path in paths]
        settings: dict[str, str | bool | int | float | list[str]] = {
            "memory_limit": _MEMORY,
            "threads": _THREADS,
            "temp_directory": folder,
            "autoinstall_known_extensions": False,
            "autoload_known_extensions": False,
        }
        # A database on disk compresses its tables, and takes longer to make.
        place = os.path.join(folder, "log.db") if sum(map(os.path.getsize, names)) > _SMALL else ":memory:"
        with duckdb.connect(place, config=settings) as connection:
            table = LogTable(connection)
            try:
                with _watched(connection, progress):
                    _load(connection, names, _types(needed, small=columns is LIGHT and selects is None, names=names))
                _count_missing(table, names)
                table.approximate = table.rows("SELECT count(*) AS rows FROM lines")[0]["rows"] > _EXACT
                _number_runs(connection)
            except duckdb.Error as error:
                raise Unreadable(str(error).splitlines()[0]) from error
            connection.execute(f"CREATE VIEW records AS SELECT * EXCLUDE (dropped) FROM numbered WHERE {_condition(selects, since, until)}")
            yield table


def _readable(path: Path, folder: str) -> str:
    """Return the name of a file that can be opened. Standard input is copied into one."""
    if path == "-":
        name = os.path.join(folder, _STANDARD_INPUT)
        with open(name, "wb") as file:
            shutil.copyfileobj(sys.stdin.buffer, file)
        return name
    name = os.path.abspath(os.fspath(path))
    open(name, "rb").close()
    return name


LIGHT_COLUMNS: Sequence[str] = LIGHT
"""The columns that `LogTable.summary` needs."""


def _condition(selects: Expression | None, since: datetime | None, until: datetime | None) -> str:
    parts = ["transaction IS NOT NULL"]
    for sign, limit in ((">=", since), ("<", until)):
        if limit is not None and (at := as_moment(limit.isoformat())):
            parts.append(f"coalesce(time {sign} TIMESTAMP {literal(at.replace(tzinfo=None).isoformat(' '))}, false)")
    if selects is not None:
        parts.append(to_sql(selects))
    return " AND ".join(parts)


def _types(needed: set[str], *, small: bool, names: Sequence[str]) -> dict[str, str]:
    """Return the types of the columns to load. A summary needs only the end of all milestones, and a value less is much time less."""
    types = {name: of for name, of in COLUMNS.items() if name in needed}
    return types | LIGHT_TYPES if small and not any(name.endswith(".parquet") for name in names) else types


def _load(connection: DuckDBPyConnection, names: Sequence[str], columns: Mapping[str, str]) -> None:
    quoted = [f'"{name}"' for name in columns]
    declared = ", ".join(f'"{name}" {"TIMESTAMP" if name == "time" else of}' for name, of in columns.items())
    connection.execute(f"CREATE TABLE lines ({declared}, dropped BIGINT)")
    for is_parquet, group in groupby(names, lambda name: name.endswith(".parquet")):
        if is_parquet:
            for name in group:
                select = parquet_select(connection, name, list(columns))
                connection.execute(f"INSERT INTO lines SELECT {select}, NULL FROM read_parquet({glob_literal(name)})")
            continue
        files = ", ".join(map(glob_literal, group))
        types = ", ".join(f"{literal(name)}: {literal(of)}" for name, of in columns.items())
        select = ", ".join('try_cast("time" AS TIMESTAMP)' if name == '"time"' else name for name in quoted)
        connection.execute(
            f"INSERT INTO lines SELECT {select}, dropped FROM read_json([{files}], columns = {{{types}, 'dropped': 'BIGINT'}},"
            " format = 'newline_delimited', ignore_errors = true)"
        )


def _count_missing(table: LogTable, names: Sequence[str]) -> None:
    found = table.connection.execute(
        "SELECT count(*) FILTER (dropped IS NULL), coalesce(sum(dropped), 0) FROM lines WHERE transaction IS NULL"
    ).fetchone()
    assert found is not None
    table.skipped, table.dropped = int(found[0]), int(found[1])
    if table.skipped:
        rows = table.connection.execute(
            f"SELECT rowid FROM lines WHERE transaction IS NULL AND dropped IS NULL ORDER BY rowid LIMIT {MOST_PLACES}"
        )
        table.skipped_at = list(_places(table.connection, names, [row[0] for row in rows.fetchall()]))


def _places(connection: DuckDBPyConnection, names: Sequence[str], rows: list[int]) -> Iterator[str]:
    """Yield file, line and reason of the lines that became these rows, in order. A row is a line that is not empty."""
    row = 0
    waiting = iter(rows)
    wanted = next(waiting, None)
    for name in names:
        if wanted is None:
            return
        if name.endswith(".parquet"):
            count = connection.execute(f"SELECT count(*) FROM read_parquet({glob_literal(name)})").fetchone()
            end = row + (count[0] if count else 0)
            while wanted is not None and wanted < end:
                yield f"{name}, row {wanted - row + 1}: not a log record"
                wanted = next(waiting, None)
            row = end
            continue
        with gzip.open(name) if name.endswith(".gz") else open(name, "rb") as file:
            shown = "-" if os.path.basename(name) == _STANDARD_INPUT else name
            for number, line in enumerate(file, 1):
                if not line.strip():
                    continue
                if row == wanted:
                    yield _reason(line, shown, number)
                    wanted = next(waiting, None)
                    if wanted is None:
                        return
                row += 1


def _reason(line: bytes, name: str, number: int) -> str:
    reader = Records((), "skip")
    for _ in reader.take(line, name, number):
        pass
    return reader.skipped_at[0] if reader.skipped_at else f"{name}, line {number}: not a log record: its numbers are too large"


def _number_runs(connection: DuckDBPyConnection) -> None:
    """Make the table `numbered`: the lines with the number of the run that wrote each. The rules are those of `Runs`."""
    several = connection.execute(
        "SELECT EXISTS (SELECT 1 FROM lines WHERE coalesce(transaction, 0) <> 0"
        " GROUP BY coalesce(process, 0), transaction HAVING count(*) > 1)"
        " OR (SELECT count(DISTINCT coalesce(process, 0)) > 1 FROM lines WHERE transaction IS NOT NULL)"
    ).fetchone()
    if several is None or not several[0]:
        connection.execute("CREATE VIEW numbered AS SELECT *, 0 AS run FROM lines")
        return
    first = dict(
        connection.execute("SELECT coalesce(process, 0), min(rowid) FROM lines WHERE transaction IS NOT NULL GROUP BY 1").fetchall()
    )
    starts = [(start, process) for process, start in first.items()]
    again = connection.execute(
        "SELECT row, process, before FROM (SELECT rowid AS row, coalesce(process, 0) AS process,"
        " lag(rowid) OVER (PARTITION BY coalesce(process, 0), transaction ORDER BY rowid) AS before"
        " FROM lines WHERE coalesce(transaction, 0) <> 0) WHERE before IS NOT NULL ORDER BY row"
    )
    while rows := again.fetchmany(_BATCH):
        for row, process, before in rows:
            if before >= first[process]:
                first[process] = row
                starts.append((row, process))
    runs = [(process, start, run) for run, (start, process) in enumerate(sorted(starts))]
    if len(runs) <= _FEW:  # the latest first
        cases = " ".join(f"WHEN coalesce(process, 0) = {process} AND rowid >= {start} THEN {run}" for process, start, run in runs[::-1])
        connection.execute(f"CREATE VIEW numbered AS SELECT *, CASE {cases} END AS run FROM lines")
        return
    connection.execute("CREATE TABLE runs (process BIGINT, start BIGINT, run BIGINT)")
    connection.executemany("INSERT INTO runs VALUES (?, ?, ?)", runs)
    connection.execute(
        "CREATE TABLE numbered AS SELECT lines.*, runs.run FROM lines ASOF JOIN runs"
        " ON coalesce(lines.process, 0) = runs.process AND lines.rowid >= runs.start"
        " WHERE lines.transaction IS NOT NULL ORDER BY lines.rowid"
    )
    connection.execute("DROP TABLE lines")


@contextmanager
def _watched(connection: DuckDBPyConnection, progress: Callable[[float], None] | None) -> Iterator[None]:
    """Report the progress of queries from a thread, as DuckDB tells it to others only."""
    if progress is None:
        yield
        return
    done = threading.Event()

    def watch() -> None:
        while not done.wait(0.2):
            with suppress(Exception):
                progress(max(0.0, float(connection.query_progress())) / 100)

    thread = threading.Thread(target=watch, daemon=True)
    thread.start()
    try:
        yield
    finally:
        done.set()
        thread.join()


def iso(time: datetime) -> str:
    """Return a time as the log writes it."""
    return f"{time:%Y-%m-%dT%H:%M:%S.%f}Z"
