"""The report of a log as one HTML page.

Invariant: the page loads nothing and runs nothing, and text from the log never becomes an element of it.

All elements are made by `tag`, which escapes text, and the page forbids the browser to load or run anything (Content-Security-Policy).
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Mapping, Sequence
from importlib.resources import files
from pathlib import Path
from typing import Any

from trio_tsconnect._util import public
from trio_tsconnect.logstats import _charts, _scale, _timeline
from trio_tsconnect.logstats._markup import Markup, breakable, join_markup, tag

Row = Mapping[str, Any]
_MOST_BARS = 15
_MOST_TAGS = 40
_POLICY = "default-src 'none'; style-src 'unsafe-inline'; img-src data:"


@public("trio_tsconnect.logstats")
def write_report(path: str | os.PathLike[str], data: Mapping[str, Any]) -> None:
    """Write the report of `data` to a file, which is replaced at once when it is complete. Raises `OSError`."""
    target = Path(path)
    part = target.with_name(f"{target.name}.{os.getpid()}.part")
    try:
        part.write_text(to_html(data), encoding="utf-8")
        part.replace(target)
    finally:
        part.unlink(missing_ok=True)


@public("trio_tsconnect.logstats")
def to_html(data: Mapping[str, Any]) -> str:
    """Return the report of `data` as one self-contained HTML page. Its texts may be hostile; they are escaped.

    `data` has the keys ``title``, ``generated``, ``span``, ``totals``, ``connections``, ``streams_histogram``, ``latency_by_tag``,
    ``over_time``, ``statuses``, ``causes``, ``slowest`` and ``tree``. What is absent, None, empty or not a finite number is shown as
    missing. Durations are in seconds. The ``start`` of the transactions of a tree are on one clock; that of a state counts from the first
    state of its transaction.
    """
    sections = [
        _over_time(_rows(data, "over_time")),
        _latency(_rows(data, "latency_by_tag")),
        _section("Statuses", "what the clients got", _bars(_rows(data, "statuses"), _status, "few"), "half"),
        _section("Causes", "who ended transactions, and why", _bars(_rows(data, "causes"), _cause), "half"),
        _section("Connections", "network connections by protocol", _connections(_rows(data, "connections")), "half"),
        _section("Streams", "HTTP/2 connections by their number of streams", _streams(_rows(data, "streams_histogram")), "half"),
        _section("Slowest requests", "the ten that took longest", _slowest(_rows(data, "slowest"))),
        _tree(data.get("tree")),
    ]
    title = data.get("title") or "Traffic report"
    made = f", {_scale.date_and_time(data['generated'])}" if data.get("generated") else ""
    foot = tag("footer", "Made by trio_tsconnect from its log", made, ".")
    body = tag("body", _header(title, data), tag("main", *sections), foot)
    return f"<!DOCTYPE html>\n{tag('html', _head(title), body, lang='en')}\n"


def _rows(data: Mapping[str, Any], name: str) -> Sequence[Row]:
    return data.get(name) or ()


def _head(title: object) -> Markup:
    style = Markup(files("trio_tsconnect.logstats").joinpath("_report.css").read_text(encoding="utf-8"))
    return tag(
        "head",
        tag("meta", charset="utf-8"),
        tag("meta", http_equiv="Content-Security-Policy", content=_POLICY),
        tag("meta", name="viewport", content="width=device-width, initial-scale=1"),
        tag("meta", name="color-scheme", content="light dark"),
        tag("link", rel="icon", href="data:,"),  # without it, a browser asks the host for one
        tag("title", title),
        tag("style", style),
    )


# ---- sections ----------------------------------------------------------------------------------------------------------------


def _header(title: object, data: Mapping[str, Any]) -> Markup:
    totals: Mapping[str, Any] = data.get("totals") or {}
    errors, transactions = totals.get("errors"), totals.get("transactions")
    figures = [
        _figure("transactions", _scale.count(transactions), f"{_scale.count(totals.get('roots'))} roots"),
        _figure("internal", _scale.count(totals.get("internal")), f"{_scale.share(totals.get('internal'), transactions)} of all"),
        _figure("errors", _scale.count(errors), f"{_scale.share(errors, transactions)} of all", "error" if _scale.finite(errors) else ""),
        _figure("received", _scale.size(totals.get("request_bytes")), "request bodies"),
        _figure("sent", _scale.size(totals.get("response_bytes")), "response bodies"),
    ]
    span = _scale.span_words(data.get("span") or ())
    return tag("header", tag("p", "Traffic report", class_="eyebrow"), tag("h1", title), tag("p", span, class_="span"), tag("dl", *figures))


def _figure(name: str, value: str, note: str, class_: str = "") -> Markup:
    return tag("div", tag("dt", name), tag("dd", value, class_="figure"), tag("dd", note, class_="note"), class_=class_ or None)


def _section(title: str, words: str, content: Markup, class_: str = "full") -> Markup:
    return tag("section", tag("h2", title), tag("p", words, class_="words"), content, class_=class_)


def _missing(what: str) -> Markup:
    return tag("p", f"The log has no {what}.", class_="missing")


def _over_time(rows: Sequence[Row]) -> Markup:
    words = "latency from the median to the 99th percentile, then transactions, then errors; times in UTC"
    if not rows:
        return _section("Over time", words, _missing("transactions"))
    cells = [
        (
            _scale.date_and_time(row.get("start")),
            _scale.count(row.get("transactions")),
            _scale.count(row.get("errors")),
            _scale.seconds(row.get("p50")),
            _scale.seconds(row.get("p99")),
        )
        for row in rows
    ]
    numbers = _numbers(("from", "transactions", "errors", "p50", "p99"), cells)
    keys = [("median", "median"), ("high", "99th percentile"), ("volume", "transactions"), ("error", "errors")]
    counts = (
        _charts.counts_over_time(rows, "transactions", 78),
        _charts.counts_over_time(rows, "errors", 58, "error", clock=True),
    )
    charts = tag("figure", _charts.latency_over_time(rows), *counts, class_="levels")
    return _section("Over time", words, join_markup([charts, _legend(keys), numbers]))


def _latency(rows: Sequence[Row]) -> Markup:
    words = "by the tag of the opener, on a log scale"
    if not rows:
        return _section("Latency", words, _missing("transactions"))
    shown, hidden = rows[:_MOST_TAGS], len(rows) - _MOST_TAGS
    scale = _scale.LogScale.around(row.get(name) for row in shown for name in ("p50", "p90", "p99", "max"))
    heads = [_column("tag"), _column("requests", "n"), _column(_charts.latency_axis(scale), "plot")]
    heads += [_column(name, "n") for name in ("p50", "p90", "p99", "max")]
    body = [
        tag(
            "tr",
            tag("th", row.get("tag") or "no tag", scope="row"),
            _cell("requests", _scale.count(row.get("count"))),
            tag("td", _charts.latency_range(row, scale), class_="plot"),
            *(_cell(name, _scale.seconds(row.get(name))) for name in ("p50", "p90", "p99", "max")),
        )
        for row in shown
    ]
    table = tag("table", tag("thead", tag("tr", *heads)), tag("tbody", *body), class_="latency")
    keys = [("dot", "median"), ("stroke", "90th percentile"), ("small dot", "99th percentile"), ("thin", "longest")]
    return _section("Latency", words, join_markup([table, _left_out(hidden, "tags"), _legend(keys)]))


def _bars(rows: Sequence[Row], name_of: Callable[[Row], tuple[object, str]], class_: str = "") -> Markup:
    """Return a table with a bar for each row; long tables end with a row for the rest."""
    if not rows:
        return _missing("transactions")
    total = sum(_scale.whole(row.get("count")) for row in rows)
    most = max(_scale.whole(row.get("count")) for row in rows)
    shown = rows if len(rows) <= _MOST_BARS else rows[: _MOST_BARS - 1]
    body = [_bar_row(name_of(row), _scale.whole(row.get("count")), most, total) for row in shown]
    if rest := rows[len(shown) :]:
        body.append(_bar_row((f"{len(rest)} others", "other"), sum(_scale.whole(row.get("count")) for row in rest), most, total))
    return tag("table", tag("tbody", *body), class_=f"bars {class_}".strip())


def _bar_row(named: tuple[object, str], value: int, most: int, total: int) -> Markup:
    name, tone = named
    lane = _charts.bar(min(value / most, 1.0) if most else 0.0, tone)
    cells = [
        tag("td", lane, class_="plot"),
        tag("td", _scale.count(value), class_="n"),
        tag("td", _scale.share(value, total), class_="n note"),
    ]
    return tag("tr", tag("th", name, scope="row"), *cells)


def _status(row: Row) -> tuple[object, str]:
    status = str(row.get("status"))
    tone = {"2": "good", "3": "calm", "4": "warm", "5": "error"}.get(status[:1], "other")
    return (status if status.isdigit() else "none" if row.get("status") in (None, "none") else status), tone


def _cause(row: Row) -> tuple[object, str]:
    by, why = row.get("by"), row.get("why")
    tone = "good" if why in ("complete", "responded") else {"client": "warm", "origin": "error", "plugin": "plugin"}.get(str(by), "other")
    return join_markup([tag("span", breakable(why)), " ", tag("span", by, class_="by")]), tone


def _connections(rows: Sequence[Row]) -> Markup:
    if not rows:
        return _missing("connections")
    most = max(_scale.whole(row.get("connections")) for row in rows)
    heads = [_column("protocol"), _column("", "plot"), _column("connections", "n"), _column("transactions", "n")]
    body = [
        tag(
            "tr",
            tag("th", breakable(row.get("protocol")), scope="row"),
            tag("td", _charts.bar(_scale.whole(row.get("connections")) / most if most else 0.0), class_="plot"),
            tag("td", _scale.count(row.get("connections")), class_="n"),
            tag("td", _scale.count(row.get("transactions")), class_="n"),
        )
        for row in rows[:_MOST_BARS]
    ]
    table = tag("table", tag("thead", tag("tr", *heads)), tag("tbody", *body), class_="bars three")
    return join_markup([table, _left_out(len(rows) - _MOST_BARS, "protocols")])


def _streams(rows: Sequence[Row]) -> Markup:
    if not rows:
        return _missing("HTTP/2 connections")
    cells = [(_charts.streams_name(row), _scale.count(row.get("connections"))) for row in rows]
    return join_markup([tag("figure", _charts.histogram(rows)), _numbers(("streams", "connections"), cells)])


def _slowest(rows: Sequence[Row]) -> Markup:
    if not rows:
        return _missing("transactions")
    longest = max(_scale.finite(row.get("seconds")) or 0.0 for row in rows)
    names = (("time", "n"), ("", "plot"), ("status", "n"), ("request", ""), ("tag", ""), ("number", "n"))
    body = [_slow_row(row, longest) for row in rows[:10]]
    return tag("table", tag("thead", tag("tr", *(_column(*name) for name in names))), tag("tbody", *body), class_="slowest")


def _slow_row(row: Row, longest: float) -> Markup:
    seconds, status = _scale.finite(row.get("seconds")) or 0.0, row.get("status")
    number = f"#{row.get('transaction')}"
    within = f" in #{row.get('root')}" if row.get("root") not in (None, row.get("transaction")) else ""
    name, tone = _status({"status": status})
    return tag(
        "tr",
        tag("td", _scale.seconds(row.get("seconds")), class_="n lead"),
        tag("td", _charts.bar(seconds / longest if longest else 0.0), class_="plot"),
        tag("td", tag("span", "none" if status is None else name, class_=f"status {tone}"), class_="n"),
        tag("td", tag("b", row.get("method"), class_="method"), " ", row.get("url"), class_="url"),
        tag("td", row.get("tag") or "", class_="tag"),
        tag("td", number, within, class_="n note"),
    )


def _tree(tree: Mapping[str, Any] | None) -> Markup:
    words = "one request and those that plugins made for it; the critical path is what the client waited for"
    return _section("Timeline", words, _timeline.timeline(tree) if tree else _missing("request to show"))


# ---- pieces ------------------------------------------------------------------------------------------------------------------


def _column(name: object, class_: str = "") -> Markup:
    return tag("th", name, scope="col", class_=class_ or None)


def _cell(name: str, value: str) -> Markup:
    """Return a cell that says its column's name where the head of the table is not shown."""
    return tag("td", tag("span", f"{name} ", class_="said"), value, class_="n")


def _legend(keys: Iterable[tuple[str, str]]) -> Markup:
    return tag("ul", *(tag("li", tag("span", class_=f"swatch {kind}"), words) for kind, words in keys), class_="legend")


def _left_out(hidden: int, what: str) -> Markup:
    return tag("p", f"{_scale.count(hidden)} more {what} are not shown.", class_="note") if hidden > 0 else Markup("")


def _numbers(heads: Sequence[str], rows: Iterable[Sequence[str]]) -> Markup:
    """Return the numbers of a chart as a table that the reader opens."""
    body = [tag("tr", tag("th", first, scope="row"), *(tag("td", cell, class_="n") for cell in rest)) for first, *rest in rows]
    columns = [_column(name, "n" if index else "") for index, name in enumerate(heads)]
    table = tag("table", tag("thead", tag("tr", *columns)), tag("tbody", *body), class_="numbers")
    return tag("details", tag("summary", "the numbers"), tag("div", table, class_="scroll"))
