"""The arguments of the commands that read logs. Invariant: what selects records has the same name in every one of them."""

from __future__ import annotations

import argparse
import json
from collections.abc import Callable
from typing import Any

from trio_tsconnect._command._logjoin import DIALECT_NAMES, logconvert, logjoin, logsql
from trio_tsconnect._command._logs import logstats
from trio_tsconnect._command._logtop import logtop
from trio_tsconnect._command._logtree import logtree
from trio_tsconnect._command._say import CommandError
from trio_tsconnect._command._source import LogFiles
from trio_tsconnect.logstats import check_where, moment

_FILES = "a log of JSON lines, or Parquet; rotated files oldest first; - is standard input"


def add_log_commands(verbs: Any, describe: Callable[[Callable[..., int]], str]) -> None:
    """Add the commands that read logs."""
    verb = verbs.add_parser("logstats", help="count connections, streams and transactions in a log", description=describe(logstats))
    _add_files(verb)
    verb.add_argument("--json", action="store_true", help="print one JSON object")
    verb.add_argument("--html", metavar="FILE", help="write a report as one HTML file instead")
    verb.add_argument("--follow", action="store_true", help="print the counts again while the log grows")
    verb.set_defaults(run=lambda options: logstats(_source(options), as_json=options.json, html=options.html, live=options.follow))

    verb = verbs.add_parser("logtop", help="print the slowest transactions of a log, or the busiest clients", description=describe(logtop))
    _add_files(verb)
    verb.add_argument("--by", default="total", help="total (default), origin, two states such as acquire_origin..send_request, or client")
    verb.add_argument("-n", type=int, default=10, metavar="N", help="how many; 10 by default")
    verb.add_argument("--json", action="store_true", help="print one JSON array")
    verb.add_argument("--follow", action="store_true", help="print them again while the log grows")
    verb.set_defaults(run=lambda options: logtop(_source(options), by=options.by, n=options.n, as_json=options.json, live=options.follow))

    _add_logtree(verbs, describe)

    verb = verbs.add_parser("logjoin", help="join a log with one of your own", description=describe(logjoin))
    _add_files(verb, one=True)
    verb.add_argument("rows", metavar="PLUGINLOG", help="JSON lines, or CSV if the name ends with .csv")
    verb.add_argument("--on", default="tag,id", metavar="FIELDS", help="tag,id (default), transaction, or other fields of a record")
    verb.add_argument("--json", action="store_true", help="print one JSON object for each pair")
    verb.set_defaults(run=lambda options: logjoin(_source(options), options.rows, on=options.on, as_json=options.json))

    verb = verbs.add_parser("logconvert", help="write a log as Parquet, CSV or Combined Log Format", description=describe(logconvert))
    _add_files(verb, several="+")
    verb.add_argument("out", metavar="OUT", help="a file; its name ends with .parquet, .csv or .combined.log")
    verb.set_defaults(run=lambda options: logconvert(_source(options), options.out))

    verb = verbs.add_parser("logsql", help="print questions about logs as SQL", description=describe(logsql))
    verb.add_argument("question", metavar="QUESTION", nargs="?", help="one of those that are printed without it")
    verb.add_argument("--dialect", default="duckdb", choices=DIALECT_NAMES, help="duckdb by default")
    verb.set_defaults(run=lambda options: logsql(options.question, dialect=options.dialect))


def _add_logtree(verbs: Any, describe: Callable[[Callable[..., int]], str]) -> None:
    verb = verbs.add_parser("logtree", help="print the transactions of a log as a tree", description=describe(logtree))
    _add_files(verb)
    verb.add_argument("--transaction", type=int, metavar="N", help="the tree with this transaction")
    verb.add_argument("--root", type=int, metavar="N", help="the tree with this root")
    verb.add_argument("--tag", metavar="T", help="trees with a transaction of this tag")
    verb.add_argument("--id", type=int, metavar="N", help="and of this id")
    verb.add_argument("--slowest", type=int, metavar="N", help="the N trees whose roots took the longest")
    verb.add_argument("--json", action="store_true", help="print one JSON object for each tree")
    verb.set_defaults(
        run=lambda options: logtree(_source(options), selected=_selected(options), slowest=options.slowest, as_json=options.json)
    )


def _selected(options: argparse.Namespace) -> str | None:
    wanted = {name: getattr(options, name) for name in ("transaction", "root", "tag", "id")}
    return " and ".join(f"{name} = {json.dumps(value)}" for name, value in wanted.items() if value is not None) or None


def _add_files(verb: argparse.ArgumentParser, *, one: bool = False, several: str = "+") -> None:
    if one:
        verb.add_argument("files", metavar="LOG", nargs=1, help=_FILES)
    else:
        verb.add_argument("files", metavar="FILE", nargs=several, help=_FILES)
    verb.add_argument("--since", metavar="TIME", help="only transactions that began then or later: an ISO time, or a duration such as 15m")
    verb.add_argument("--until", metavar="TIME", help="only transactions that began before")
    verb.add_argument("--where", metavar="EXPR", help="only transactions of which this is true, such as 'status >= 500 and tag = \"h2\"'")


def _source(options: argparse.Namespace) -> LogFiles:
    try:
        if options.where is not None:
            check_where(options.where)
    except ValueError as error:
        raise CommandError(f"--where: {error}") from error
    moments = {}
    for name in ("since", "until"):
        try:
            moments[name] = moment(getattr(options, name))
        except ValueError as error:
            raise CommandError(f"--{name}: {error}") from error
    return LogFiles(files=options.files, where=options.where, **moments)
