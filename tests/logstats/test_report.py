"""The report: a page that stays whole whatever a log contains, asks no host for anything, and shows every number."""

from __future__ import annotations

import copy
import math
import re
import struct
import threading
from collections.abc import Iterator
from html.parser import HTMLParser
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from docs import _sample_report, pictures
from trio_tsconnect.logstats import _charts, _markup, _scale, _timeline, to_html, write_report

VOID = {"meta", "link", "wbr"}
TEXT = {"html", "head", "title", "style", "body", "header", "main", "section", "footer", "figure", "details", "summary"}
BLOCKS = {"h1", "h2", "p", "dl", "div", "dt", "dd", "ul", "li", "span", "b", "table", "thead", "tbody", "tr", "th", "td"}
SHAPES = {"svg", "desc", "rect", "line", "circle", "text"}
ELEMENTS = VOID | TEXT | BLOCKS | SHAPES
GEOMETRY = {"width", "height", "x", "y", "x1", "x2", "y1", "y2", "cx", "cy", "r", "rx"}

ATTRIBUTES = GEOMETRY | {
    "lang",
    "charset",
    "http-equiv",
    "content",
    "name",
    "rel",
    "href",
    "class",
    "role",
    "scope",
    "title",
    "aria-hidden",
}


class Page(HTMLParser):
    """Parses a page, and fails where an element is not closed or is not one of those that a report is made of."""

    def __init__(self, source: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.words: list[str] = []
        self.classes: list[str] = []
        self.links: list[str | None] = []
        self.feed(source)
        self.close()
        assert self.open == []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        assert tag in ELEMENTS
        assert {name for name, _ in attrs} <= ATTRIBUTES
        assert len({name for name, _ in attrs}) == len(attrs)
        for name, value in attrs:
            if name in GEOMETRY:
                assert value is not None
                assert re.fullmatch(r"-?\d+(\.\d+)?", value) or (value.endswith("%") and 0 <= float(value[:-1]) <= 100)
        self.classes += (dict(attrs).get("class") or "").split()
        self.links += [value for name, value in attrs if name == "href"]
        if tag not in VOID:
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.handle_starttag(tag, attrs)
        self.handle_endtag(tag)

    def handle_data(self, data: str) -> None:
        if self.open and self.open[-1] != "style":
            self.words.append(data)

    def handle_comment(self, data: str) -> None:
        raise AssertionError(f"a comment: {data}")

    @property
    def all_words(self) -> str:
        return "".join(self.words)


CHARS = st.characters(exclude_categories=())  # surrogates too: a JSON escape can make one
HOSTILE = st.one_of(
    st.text(CHARS),
    st.sampled_from(
        ["</style><script>", '"><img src=//x onerror=alert(1)>', "' onload='x", "<!--", "]]>", "</title>", "&lt;", "\u202e", "\0"]
    ),
)
VALUE = HOSTILE | st.floats() | st.integers() | st.none() | st.booleans()


def rows(*names: str) -> st.SearchStrategy[Any]:
    return st.none() | st.lists(st.fixed_dictionaries(dict.fromkeys(names, VALUE)), max_size=4)


STATES = st.lists(
    st.fixed_dictionaries({"name": VALUE | st.sampled_from(list(_timeline.STATES)), "start": VALUE, "seconds": VALUE}), max_size=3
)


def nodes(children: st.SearchStrategy[Any]) -> st.SearchStrategy[Any]:
    fields = {"transaction": VALUE, "label": VALUE, "start": VALUE, "seconds": VALUE, "states": STATES, "critical": st.booleans()}
    return st.fixed_dictionaries({**fields, "children": children})


DATA = st.fixed_dictionaries(
    {
        "title": VALUE,
        "generated": VALUE,
        "span": st.lists(VALUE, max_size=2),
        "totals": st.dictionaries(st.sampled_from(list(_sample_report.sample()["totals"])), VALUE),
        "connections": rows("protocol", "connections", "transactions"),
        "streams_histogram": rows("low", "high", "connections"),
        "latency_by_tag": rows("tag", "count", "p50", "p90", "p99", "max"),
        "over_time": rows("start", "transactions", "errors", "p50", "p99"),
        "statuses": rows("status", "count"),
        "causes": rows("by", "why", "count"),
        "slowest": rows("transaction", "root", "method", "url", "status", "tag", "seconds"),
        "tree": st.none() | st.recursive(nodes(st.just([])), lambda below: nodes(st.lists(below, max_size=3)), max_leaves=5),
    }
)


@given(DATA)
def test_no_log_breaks_out_of_the_page(data: dict[str, Any]) -> None:
    source = to_html(data)
    page = Page(source)
    source.encode()
    assert page.links == ["data:,"]


@given(HOSTILE)
def test_every_text_of_a_log_is_shown_as_text(hostile: str) -> None:
    data = _sample_report.sample()
    data["title"] = data["tree"]["label"] = data["slowest"][0]["url"] = data["latency_by_tag"][0]["tag"] = f"x{hostile}"
    words = Page(to_html(data)).all_words
    assert words.count(_markup.text(f"x{hostile}")) >= 5  # the title twice: in the head and in the page


@given(HOSTILE)
def test_attribute_holds_any_text(hostile: str) -> None:
    class Attributes(HTMLParser):
        def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
            found.append((tag, attrs))

    found: list[Any] = []
    Attributes().feed(_markup.tag("p", class_=hostile, aria_label="x"))
    assert found == [("p", [("class", _markup.text(hostile)), ("aria-label", "x")])]


@given(st.text(CHARS))
def test_text_is_one_line_of_what_can_be_seen(value: str) -> None:
    shown = _markup.text(value)
    assert shown.isprintable()
    assert len(shown) <= 10 * _markup.LONGEST_TEXT + 10


def test_long_texts_keep_both_ends() -> None:
    shown = _markup.text("a" * 10_000 + "z" * 10_000)
    assert (shown[0], shown[-1]) == ("a", "z")
    assert len(shown) == _markup.LONGEST_TEXT + 3


def test_page_forbids_scripts_and_loads_nothing() -> None:
    source = to_html(_sample_report.sample())
    assert "Content-Security-Policy" in source
    assert "default-src &#x27;none&#x27;" in source
    for word in ("<script", "@import", "url(", "src=", "@font-face"):
        assert word not in source


def test_page_has_every_number() -> None:
    data = _sample_report.sample()
    words = Page(to_html(data)).all_words
    for expected in (
        "182,940",
        "1,287",
        "3.48 GB",
        "704",
        "410 ms",
        "12.4 s",
        "origin_response_timeout",
        "4,120",
        "#93341 in #93340",
        "190 ms",
    ):
        assert expected in words
    for row in data["over_time"]:
        assert _scale.seconds(row["p50"]) in words
        assert f"{row['transactions']:,}" in words


@pytest.mark.parametrize("name", list(_sample_report.sample()))
@pytest.mark.parametrize("nothing", [None, (), "absent"])
def test_what_is_missing_leaves_the_rest(name: str, nothing: object) -> None:
    data = _sample_report.sample() | {name: nothing}
    if nothing == "absent":
        del data[name]
    Page(to_html(data))


def test_empty_log_says_so() -> None:
    words = Page(to_html({})).all_words
    assert words.count("The log has no ") == 8
    assert "no transactions" in words


@pytest.mark.parametrize("value", [0.0, math.nan, math.inf, -1.0, 1e300, None])
def test_one_bucket_of_any_duration(value: float | None) -> None:
    data = copy.deepcopy(_sample_report.sample())
    for name in ("over_time", "latency_by_tag", "streams_histogram", "statuses", "slowest"):
        data[name] = data[name][:1]
    for row in (*data["over_time"], *data["latency_by_tag"], *data["slowest"], data["tree"], *data["tree"]["states"]):
        row.update({key: value for key in ("p50", "p90", "p99", "max", "seconds") if key in row})
    source = to_html(data)
    Page(source)
    assert "nan" not in source
    assert "inf" not in source


# ---- charts ------------------------------------------------------------------------------------------------------------------

NUMBERS = st.lists(st.floats() | st.integers() | st.none(), max_size=8)


@given(NUMBERS, st.floats() | st.none())
def test_any_value_has_a_place_on_a_log_scale(values: list[float | None], other: float | None) -> None:
    scale = _scale.LogScale.around(values)
    assert 0 < scale.low < scale.high
    assert 0 <= scale.place(other) <= 1
    ticks = scale.ticks()
    assert 1 <= len(ticks) <= 6
    assert ticks == sorted(set(ticks))
    known = sorted(number for value in values if (number := _scale.finite(value)) is not None)
    places = [scale.place(value) for value in known]
    assert places == sorted(places)


@given(st.lists(st.floats(min_value=1e-6, max_value=1e6), min_size=1, max_size=4))
def test_log_scale_holds_its_values(values: list[float]) -> None:
    scale = _scale.LogScale.around(values)
    assert scale.low <= min(values) * 1.00001
    assert max(values) <= scale.high * 1.00001


@given(st.floats() | st.integers())
def test_linear_ticks_reach_the_highest(highest: float) -> None:
    ticks = _scale.linear_ticks(highest)
    assert ticks[0] == 0
    assert 2 <= len(ticks) <= 6
    if 1e-9 < highest < 1e18:
        assert ticks[-1] >= highest * 0.99999


@pytest.mark.parametrize(
    ("value", "words"),
    [
        (0.0000123, "12.3 µs"), (0.00123, "1.23 ms"), (0.9999, "1.00 s"), (12.34, "12.3 s"), (90, "90.0 s"), (150, "2.50 min"),
        (7200, "2.00 h"), (0, "0 s"), (None, "–"), (math.nan, "–"), ("7", "–"), (True, "–"),
    ],
)  # fmt: skip
def test_durations_have_three_digits_and_a_unit(value: object, words: str) -> None:
    assert _scale.seconds(value) == words


@pytest.mark.parametrize(("value", "words"), [(0.5, "500 ms"), (1.5, "1.5 s"), (10.0, "10 s"), (0.1, "100 ms"), (1e-6, "1 µs")])
def test_ticks_have_no_digits_that_say_nothing(value: float, words: str) -> None:
    assert _scale.tick_seconds(value) == words


@pytest.mark.parametrize(("part", "words"), [(0, "0.0 %"), (1, "<0.1 %"), (9999, "99.9 %"), (10000, "100.0 %"), (5000, "50.0 %")])
def test_part_is_not_rounded_to_nothing_or_to_all(part: int, words: str) -> None:
    assert _scale.share(part, 10000) == words


def test_span_names_the_day_once() -> None:
    assert _scale.span_words(["2026-11-22T18:00:00Z", "2026-11-22T19:01:30Z"]) == "22 November 2026, 18:00:00 – 19:01:30 UTC (1 h 1 min)"
    assert _scale.span_words(["2026-11-22T18:00:00Z", "2026-11-24T18:00:00Z"]).endswith("– 24 November 2026, 18:00:00 UTC (2 d)")
    assert _scale.span_words([]) == "no transactions"


def test_rare_errors_are_seen() -> None:
    row = {"start": "2026-11-22T18:00:00Z", "transactions": 1, "errors": 0}
    drawn = _charts.counts_over_time([row, row | {"transactions": 1_000_000}], "transactions", 78)
    assert drawn.count("<rect") == 2
    assert 'height="1.5"' in drawn
    assert _charts.counts_over_time([row], "errors", 58).count("<rect") == 0
    assert '<rect class="bar" x="0" y="5" width="2"' in _charts.bar(1e-9)
    assert 'width="0.000%"' in _charts.bar(0)


def test_range_goes_from_the_median_to_the_99th_percentile() -> None:
    drawn = _charts.latency_range({"p50": 0.01, "p90": 0.1, "p99": 1.0, "max": 10.0}, _scale.LogScale(0.01, 10.0))
    assert '<line class="range" x1="0.000%" x2="66.667%"' in drawn
    assert '<line class="whisker" x1="66.667%" x2="100.000%"' in drawn
    assert '<line class="p90" x1="33.333%" x2="33.333%"' in drawn


# ---- the timeline ------------------------------------------------------------------------------------------------------------


def node(number: int, start: float, seconds: float, *children: dict[str, Any], critical: bool = False) -> dict[str, Any]:
    states = [
        {"name": "remap", "start": start, "seconds": seconds / 2},
        {"name": "release", "start": start + seconds / 2, "seconds": seconds / 2},
    ]
    fields = {"transaction": number, "label": f"GET {number}", "start": start, "seconds": seconds, "states": states}
    return fields | {"critical": critical, "children": list(children)}


def test_children_stand_below_their_parent_indented_and_the_critical_path_is_marked() -> None:
    source = _timeline.timeline(node(1, 0, 4, node(2, 1, 1, node(3, 1, 0.5)), node(4, 2, 2, critical=True), critical=True))
    page = Page(source)
    assert [name for name in page.classes if name in ("d0", "d1", "d2")] == ["d0", "d1", "d2", "d1"]
    assert page.classes.count("critical") == page.classes.count("path") - 1 == 2  # and once in the legend
    order = [page.all_words.index(f"#{number} ") for number in (1, 2, 3, 4)]
    assert order == sorted(order)


@pytest.mark.parametrize("clock", ["of the tree", "of the transaction"])
def test_states_stand_where_their_transaction_was(clock: str) -> None:
    child = node(2, 10.0, 10.0)
    if clock == "of the transaction":
        for state in child["states"]:
            state["start"] -= 10.0
    source = _timeline.timeline(node(1, 0.0, 20.0, child))
    assert '<rect class="state proxy" x="50.000%" width="25.000%"' in source.replace("<title>remap: 5.00 s</title>", "").replace(
        "></rect>", "/>"
    )
    assert '<rect class="state release" x="75.000%" width="25.000%"' in source.replace("<title>release: 5.00 s</title>", "")


def test_deep_and_large_trees_are_cut_and_what_is_missing_is_counted() -> None:
    deep = node(0, 0, 1)
    for number in range(5000):
        deep = node(number, 0, 1, deep)
    assert "4,801 more transactions are not shown." in _timeline.timeline(deep)


# ---- the file ----------------------------------------------------------------------------------------------------------------


def test_file_is_replaced_whole_or_not_at_all(tmp_path: Path) -> None:
    path = tmp_path / "report.html"
    write_report(path, _sample_report.sample())
    before = path.read_text(encoding="utf-8")
    assert before == to_html(_sample_report.sample())
    with pytest.raises(AttributeError):
        write_report(path, {"causes": [7]})
    with pytest.raises(OSError, match=r"nowhere"):
        write_report(tmp_path / "nowhere" / "report.html", {})
    (tmp_path / "folder").mkdir()
    with pytest.raises(OSError, match=r"folder"):
        write_report(tmp_path / "folder", {})
    (tmp_path / "folder").rmdir()
    assert path.read_text(encoding="utf-8") == before
    assert list(tmp_path.iterdir()) == [path]


@pytest.fixture
def requests() -> Iterator[tuple[int, list[str]]]:
    """A web server: its port, and the paths that were asked for."""
    asked: list[str] = []

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            asked.append(self.path)
            self.send_error(404)

        def log_message(self, *args: object) -> None:
            """Print nothing."""

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02})
        thread.start()
        yield server.server_port, asked
        server.shutdown()
        thread.join()


@pytest.mark.needs("chromium")
@pytest.mark.parametrize("width", [1280, 390])
def test_browser_draws_the_page_and_asks_no_host(tmp_path: Path, requests: tuple[int, list[str]], width: int) -> None:
    port, asked = requests
    data = _sample_report.sample()
    hostile = f'"><img src="http://127.0.0.1:{port}/x"><script src="http://127.0.0.1:{port}/y"></script>'
    data["title"] = data["slowest"][0]["url"] = hostile
    write_report(tmp_path / "report.html", data)
    picture = tmp_path / "report.png"
    pictures.take("chromium", tmp_path / "report.html", picture, width, 1000, scheme=1)
    content = picture.read_bytes()
    assert content.startswith(b"\x89PNG")
    assert struct.unpack(">II", content[16:24]) == (width, 1000)
    assert len(content) > 30_000  # an empty page of this size has a tenth of that
    assert asked == []
