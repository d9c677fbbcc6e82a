"""The questions: SQL files, in the dialect of the user. Invariant: what `tsconnect` asks DuckDB and what it prints for others is one text.

Each asks the table `records`: one row for each record, with the columns and the nested columns of the log, and `run`, which tells the runs
of the proxy in one log apart. (`process` does so as well, if no two runs have the same process id.)
"""

from __future__ import annotations

import re
from functools import cache
from importlib.resources import files
from typing import Any

from trio_tsconnect._util import lacks, public
from trio_tsconnect.logstats._fields import GROUPS, Kind, nearest

_BY = {
    "tag": "coalesce(nullif(tag, ''), '-')",
    "rule": "coalesce(nullif(remap_rule, ''), '-')",
    "origin": "coalesce(nullif(split_part(origin_url, '/', 3), ''), '-')",
    "plugin": "coalesce(nullif(split_part(opened_by, '.', 1), ''), '-')",
    "cause": "coalesce(nullif(ended.why, ''), '-')",
    "status": "coalesce(CAST(nullif(status, 0) AS VARCHAR), 'none')",
}
_ALL = "'all'"

QUESTIONS: tuple[str, ...] = (
    "connections",
    "streams",
    "streams_histogram",
    *(f"by_{by}" for by in _BY),
    "by_all",
    "statuses",
    "causes",
    "reuse",
    "internal",
    "totals",
    "slowest",
    "slowest_at_origin",
    "talkers",
    "over_time",
)
"""The names of the questions."""

DIALECTS: tuple[str, ...] = ("duckdb", "spark", "clickhouse", "trino", "bigquery", "snowflake")
"""The dialects of SQL."""


class UnknownQuestion(ValueError):
    """There is no question of this name."""


@public("trio_tsconnect.logstats")
def sql(question: str, dialect: str = "duckdb", *, width: int = 60, n: int = 10) -> str:
    """Return the SQL of a question, such as ``by_tag``, in a dialect. The extra ``logs`` translates it.

    `width` is the length of a span of the question ``over_time``, in seconds; `n` is how many rows ``slowest`` and
    similar return. Raises `ValueError` for an unknown name.
    """
    if dialect not in DIALECTS:
        raise ValueError(f"no dialect {dialect!r}{nearest(dialect, DIALECTS)}, expected one of {', '.join(DIALECTS)}")
    text = _text(question).replace("$width", str(int(width))).replace("$n", str(max(0, int(n))))
    return text if dialect == "duckdb" else _translated(text, dialect)


@cache
def _text(question: str) -> str:
    if question not in QUESTIONS:
        raise UnknownQuestion(f"no question {question!r}{nearest(question, QUESTIONS)}, expected one of {', '.join(QUESTIONS)}")
    name, by = ("by", question.removeprefix("by_")) if question.startswith("by_") else (question, "")
    text = (files("trio_tsconnect.logstats") / "sql" / f"{name}.sql").read_text(encoding="utf-8")
    return text.replace("$key", _BY.get(by, _ALL)).replace("$by", by) if by else text


def _translated(text: str, dialect: str) -> str:
    try:
        import sqlglot
    except ModuleNotFoundError as missing:
        raise lacks("logs", "translating SQL", missing) from missing
    comment = "".join(line + "\n" for line in text.splitlines() if line.startswith("--"))
    tree = sqlglot.parse_one(re.sub(r"^--.*\n", "", text, flags=re.MULTILINE), read="duckdb")
    for replace in (_percentiles, _paths):
        tree = tree.transform(lambda node, replace=replace: replace(node, dialect))
    return comment + str(tree.sql(dialect=dialect, pretty=True)) + "\n"


def _percentiles(node: Any, dialect: str) -> Any:
    """Replace exact percentiles, for which the others have approximate ones in their aggregates."""
    from sqlglot import exp

    if isinstance(node, exp.PercentileDisc | exp.Anonymous) and node.sql().lower().startswith(("quantile_disc", "percentile_disc")):
        value, quantile = node.expressions if isinstance(node, exp.Anonymous) else (node.this, node.expression)
        return (exp.Quantile if dialect == "clickhouse" else exp.ApproxQuantile)(this=value.copy(), quantile=quantile.copy())
    return node


def _paths(node: Any, dialect: str) -> Any:
    """Replace the dot between nested columns, which Snowflake writes as a colon."""
    from sqlglot import exp, parse_one

    if dialect == "snowflake" and isinstance(node, exp.Column) and node.table in GROUPS:
        return parse_one(f"{node.table}:{node.name}::{'VARCHAR' if GROUPS[node.table][0] is Kind.TEXT else 'DOUBLE'}", read=dialect)
    return node
