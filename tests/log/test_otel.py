"""Records as spans: what they say, how they find their parents, and that no collector can hold up the loop."""

from __future__ import annotations

import socket
import sys
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import attrs
import pytest
import trio
from hypothesis import example, given
from hypothesis import strategies as st
from opentelemetry.exporter.otlp.proto.common.trace_encoder import encode_spans
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest
from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.trace import ReadableSpan
from opentelemetry.sdk.trace.export import SpanExporter, SpanExportResult
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from opentelemetry.trace import SpanKind, StatusCode
from trio.testing import wait_all_tasks_blocked

from trio_tsconnect import ClientInfo, ConnectOptions, ProxyConfig, RemapRule, Request, open_proxy
from trio_tsconnect.log import Ended, LogRecord, OtelLog
from trio_tsconnect.log._spans import to_span
from trio_tsconnect.plugins import AuthRequest, RequestId
from trio_tsconnect.testing import ScriptedOrigin

COMPLETE = Ended(by="proxy", why="complete", state="send_response")
NOBODY = Resource({})


def record(number: int = 7, **fields: Any) -> LogRecord:
    common: dict[str, Any] = {
        "transaction": number,
        "root": number,
        "process": 11,
        "time": 1_800_000_000.25,
        "method": "GET",
        "status": 200,
    }
    common |= {"url": "http://site.example:81/a/b?c=d", "milestones": {"read_request": 0.0, "release": 0.5}, "ended": COMPLETE}
    return LogRecord(**(common | fields))


def span_of(number: int = 7, **fields: Any) -> ReadableSpan:
    return to_span(record(number, **fields), NOBODY)


def said(**fields: Any) -> dict[str, Any]:
    return dict(span_of(**fields).attributes or {})


# ---- what a span says --------------------------------------------------------------------------------------------------------


def test_span_has_the_names_of_the_conventions() -> None:
    shown = said(
        client_address="192.0.2.7", client_port=4711, client_protocol="h2", user_agent="curl/8", referer="http://r.example/", tag="h2", id=3,
        remap_rule="//site.example/", attempts=2, tls_version="TLSv1.3", request_headers={"accept": "*/*"}, request_bytes=5, response_bytes=6,
    )  # fmt: skip
    expected = {
        "http.request.method": "GET", "url.full": "http://site.example:81/a/b?c=d", "url.scheme": "http", "url.path": "/a/b", "url.query": "c=d",
        "http.response.status_code": 200, "server.address": "site.example", "server.port": 81, "client.address": "192.0.2.7",
        "client.port": 4711, "network.protocol.version": "2", "user_agent.original": "curl/8", "tls.protocol.version": "1.3",
        "http.request.body.size": 5, "http.response.body.size": 6, "http.request.header.accept": ["*/*"],
        "http.request.header.referer": ["http://r.example/"], "tsconnect.tag": "h2", "tsconnect.id": 3, "tsconnect.rule": "//site.example/",
        "tsconnect.attempts": 2, "tsconnect.cause": "complete", "tsconnect.cause.by": "proxy", "tsconnect.transaction": 7,
    }  # fmt: skip
    assert {name: shown.get(name) for name in expected} == expected
    assert "error.type" not in shown
    assert None not in shown.values()


def test_span_begins_and_ends_with_its_transaction_and_has_its_milestones() -> None:
    span = span_of(milestones={"read_request": 0.0, "remap": 0.001, "release": 0.5})
    start = 1_800_000_000_250_000_000
    assert (span.start_time, span.end_time) == (start, start + 500_000_000)
    assert [(event.name, event.timestamp - start) for event in span.events] == [
        ("read_request", 0),
        ("remap", 1_000_000),
        ("release", 500_000_000),
    ]


def test_name_has_few_values() -> None:
    assert span_of().name == "GET"
    assert span_of(remap_rule="//site.example/shop/").name == "GET //site.example/shop/"
    assert span_of(method="BREW").name == span_of(method=None).name == "HTTP"
    assert (said(method="BREW")["http.request.method"], said(method="BREW")["http.request.method_original"]) == ("_OTHER", "BREW")


def test_kind_says_who_asked() -> None:
    assert span_of().kind is SpanKind.SERVER
    assert span_of(internal=True).kind is SpanKind.CLIENT


@pytest.mark.parametrize(
    ("status", "by", "why", "error"),
    [
        (200, "proxy", "complete", None),
        (404, "proxy", "complete", None),
        (503, "proxy", "complete", "503"),
        (500, "plugin", "responded", "500"),
        (502, "origin", "origin_refused", "origin_refused"),
        (200, "origin", "origin_truncated", "origin_truncated"),
        (500, "plugin", "plugin", "plugin"),
        (None, "proxy", "cancelled", "cancelled"),
        (404, "proxy", "no_remap_rule", None),
        (None, "client", "client_gone", None),
        (400, "client", "bad_host", None),
    ],
)
def test_status_is_an_error_where_a_server_failed(status: int | None, by: str, why: str, error: str | None) -> None:
    span = span_of(status=status, ended=Ended(by=by, why=why, state="read_response"))
    assert span.status.status_code is (StatusCode.ERROR if error else StatusCode.UNSET)
    assert dict(span.attributes or {}).get("error.type") == error


def test_credentials_of_a_url_are_not_exported() -> None:
    shown = said(url="http://ada:secret@site.example/a@b")
    assert shown["url.full"] == "http://REDACTED@site.example/a@b"
    assert "secret" not in str(shown)


@pytest.mark.parametrize("url", ["*", "http://[::1", "http://x:99999/", "//", "", None, "site.example:443"])
def test_odd_targets_have_no_address(url: str | None) -> None:
    assert "server.port" not in said(url=url)


ANY_TEXT = st.text(st.characters(exclude_categories=())) | st.sampled_from(["\ud800", "a" * 10_000, "\0"])
FIELDS: dict[str, st.SearchStrategy[Any]] = {
    each.name: ANY_TEXT | st.none()
    for each in attrs.fields(LogRecord)
    if str(each.type) == "str | None"
}  # fmt: skip
FIELDS |= {name: st.integers() for name in ("id", "transaction", "root", "depth", "session", "process", "request_bytes")}
FIELDS |= {name: st.none() | st.integers() for name in ("parent", "status", "stream", "client_port")}
FIELDS |= {
    "time": st.floats(),
    "milestones": st.dictionaries(ANY_TEXT, st.floats(), max_size=3),
    "request_headers": st.none() | st.dictionaries(ANY_TEXT, ANY_TEXT, max_size=2),
    "plugin": st.dictionaries(ANY_TEXT, ANY_TEXT | st.floats() | st.builds(object), max_size=2),
    "ended": st.builds(Ended, by=ANY_TEXT, why=ANY_TEXT, state=ANY_TEXT),
}


@given(st.fixed_dictionaries({}, optional=FIELDS))
@example({name: "\ud800" for name in FIELDS if name in {"url", "method", "user_agent", "tag"}} | {"plugin": {"\ud800": "\ud800"}})
@example({"milestones": {"\ud800": 0.0}, "request_headers": {"\ud800": "\ud800"}, "id": 2**64, "remap_rule": "\ud800"})
def test_any_record_is_a_span_that_can_be_sent(fields: dict[str, Any]) -> None:
    span = to_span(LogRecord(**fields), NOBODY)
    sent = ExportTraceServiceRequest.FromString(encode_spans([span]).SerializeToString()).resource_spans[0].scope_spans[0].spans[0]
    assert len(sent.attributes) == len(span.attributes or {})
    assert sent.end_time_unix_nano >= sent.start_time_unix_nano
    assert len(sent.trace_id) == 16
    assert len(sent.span_id) == 8


# ---- parents -----------------------------------------------------------------------------------------------------------------


def ids(span: ReadableSpan) -> tuple[int, int]:
    context = span.get_span_context()
    assert context is not None
    return context.trace_id, context.span_id


def parent_ids(span: ReadableSpan) -> tuple[int, int] | None:
    return span.parent and (span.parent.trace_id, span.parent.span_id)


@given(st.lists(st.integers(min_value=0), min_size=1, max_size=12), st.randoms(use_true_random=False))
def test_children_find_their_parents_in_any_order(choices: list[int], chance: Any) -> None:
    parents = {number: (choice % number or None) for number, choice in enumerate(choices, 1)}
    roots: dict[int, int] = {}
    for number, parent in parents.items():
        roots[number] = roots[parent] if parent else number
    order = list(parents)
    chance.shuffle(order)
    spans = {number: span_of(number, parent=parents[number], root=roots[number]) for number in order}
    assert len({ids(span) for span in spans.values()}) == len(spans)
    for number, parent in parents.items():
        assert parent_ids(spans[number]) == (ids(spans[parent]) if parent else None)


def test_ids_of_other_runs_and_processes_are_others() -> None:
    contexts = {ids(to_span(record(process=process), NOBODY, run)) for process in (1, 2) for run in (b"a", b"b")}
    assert len(contexts) == 4


def test_ids_of_the_record_are_used() -> None:
    trace, span, above = "4bf92f3577b34da6a3ce929d0e0e4736", "00f067aa0ba902b7", "b7ad6b7169203331"
    exported = span_of(trace_id=trace, span_id=span, parent_span_id=above)
    assert ids(exported) == (int(trace, 16), int(span, 16))
    assert parent_ids(exported) == (int(trace, 16), int(above, 16))
    assert exported.parent is not None
    assert exported.parent.is_remote


@pytest.mark.parametrize("value", ["", "0" * 32, "x" * 32, "4BF92F3577B34DA6A3CE929D0E0E4736", "4bf9", "٣" * 32])
def test_ids_that_are_none_are_derived(value: str) -> None:
    assert ids(span_of(trace_id=value)) == ids(span_of())
    assert parent_ids(span_of(5, parent=3, root=3, parent_span_id=value[:16])) == ids(span_of(3))


def test_child_that_began_a_trace_of_its_own_links_to_its_cause() -> None:
    cause = span_of(3)
    child = span_of(5, parent=3, root=3, trace_id="4bf92f3577b34da6a3ce929d0e0e4736", span_id="00f067aa0ba902b7")
    assert child.parent is None
    assert [(link.context.trace_id, link.context.span_id) for link in child.links] == [ids(cause)]


@pytest.mark.parametrize("traced", ["nobody", "all", "the rule"])
async def test_spans_of_a_tree_are_one_trace(traced: str) -> None:
    """The service is asked by a child, which ends first. With the plugin in the rule, the child has no trace of its own."""
    auth, app = ScriptedOrigin("auth.example"), ScriptedOrigin("app.example")
    auth.answer("/verify", 204)
    app.answer("/cart", body="apples")
    request_id = RequestId()
    checks = AuthRequest(AuthRequest.Options(url="http://auth.example/verify"))
    rule = RemapRule("//site.example/", "http://app.example/", plugins=[request_id, checks] if traced == "the rule" else [checks])
    plugins = [auth.plugin(), app.plugin(), *([request_id] if traced == "all" else [])]
    exporter, client = InMemorySpanExporter(), ConnectOptions(client=ClientInfo(address="192.0.2.7"))
    async with open_proxy(ProxyConfig(remap=[rule]), plugins=plugins, log=OtelLog(exporter=exporter, flush_interval=0)) as proxy:
        for _ in range(2):
            async with proxy.fetch(Request("GET", "/cart", {"Host": "site.example"}), options=client) as response:
                await response.body.read()
    spans = exporter.get_finished_spans()
    assert len(spans) == 4
    for child, parent in ((spans[0], spans[1]), (spans[2], spans[3])):
        assert (child.attributes or {})["tsconnect.tag"] == "auth_request"
        assert parent_ids(child) == ids(parent)
        assert parent.parent is None
    assert ids(spans[1])[0] != ids(spans[3])[0]
    if traced != "nobody":
        forwarded = app.requests[-1].headers["traceparent"]
        assert forwarded is not None
        assert forwarded.split("-")[1:3] == [f"{ids(spans[3])[0]:032x}", f"{ids(spans[3])[1]:016x}"]


# ---- a collector -------------------------------------------------------------------------------------------------------------


class Collector:
    """A collector that keeps what it receives, and answers with `status` when `let_go` is set."""

    def __init__(self) -> None:
        self.status = 200
        self.let_go = threading.Event()
        self.let_go.set()
        self.received: list[ExportTraceServiceRequest] = []
        self.fields: list[Any] = []
        self.url = ""

    @property
    def spans(self) -> list[Any]:
        return [span for each in self.received for part in each.resource_spans for scope in part.scope_spans for span in scope.spans]

    def take(self, handler: BaseHTTPRequestHandler) -> None:
        body = handler.rfile.read(int(handler.headers["Content-Length"]))
        self.let_go.wait(30)
        self.received.append(ExportTraceServiceRequest.FromString(body))
        self.fields.append(handler.headers)
        handler.send_response(self.status)
        handler.send_header("Content-Length", "0")
        handler.end_headers()


@pytest.fixture
def collector() -> Iterator[Collector]:
    kept = Collector()

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            kept.take(self)

        def log_message(self, *args: object) -> None:
            """Print nothing."""

        def handle(self) -> None:
            try:
                super().handle()
            except OSError:
                """The exporter has given up."""

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        kept.url = f"http://127.0.0.1:{server.server_port}/v1/traces"
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02})
        thread.start()
        yield kept
        kept.let_go.set()
        server.shutdown()
        thread.join()


async def export(log: OtelLog, records: Sequence[LogRecord]) -> None:
    async with trio.open_nursery() as nursery:
        nursery.start_soon(log.run)
        for each in records:
            log.write(each)
        await trio.lowlevel.checkpoint()
        log.close()


async def test_collector_receives_the_spans(collector: Collector, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("OTEL_SERVICE_NAME", raising=False)
    log = OtelLog(collector.url, headers={"api-key": "k"}, attributes={"deployment.environment.name": "test"}, max_batch=2)
    await export(log, [record(number) for number in (1, 2, 3)])
    assert [len(each.resource_spans[0].scope_spans[0].spans) for each in collector.received] == [2, 1]
    assert {span.name for span in collector.spans} == {"GET"}
    described = {each.key: each.value.string_value for each in collector.received[0].resource_spans[0].resource.attributes}
    assert (described["service.name"], described["deployment.environment.name"]) == ("trio_tsconnect", "test")
    assert collector.fields[0]["api-key"] == "k"
    assert (log.written, log.dropped) == (3, 0)
    assert repr(log) == "<OtelLog: 3 exported, 0 dropped, 0 pending>"


async def test_environment_names_the_service(collector: Collector, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OTEL_SERVICE_NAME", "gateway")
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_TRACES_ENDPOINT", collector.url)
    await export(OtelLog(), [record()])
    described = {each.key: each.value.string_value for each in collector.received[0].resource_spans[0].resource.attributes}
    assert described["service.name"] == "gateway"


async def test_refused_spans_are_counted_and_told_once(collector: Collector, capsys: pytest.CaptureFixture[str]) -> None:
    collector.status = 400
    log = OtelLog(collector.url, max_batch=1)
    await export(log, [record(1), record(2)])
    assert (log.written, log.dropped) == (0, 2)
    assert capsys.readouterr().err.count("cannot export spans, they are dropped") == 1


async def test_slow_collector_delays_nothing_and_what_does_not_fit_is_counted(collector: Collector) -> None:
    collector.let_go.clear()
    log = OtelLog(collector.url, flush_interval=0, max_pending=10, max_batch=4)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(log.run)
        log.write(record(0))
        await trio.sleep(0.05)  # the first batch is on its way
        began = time.perf_counter()
        for number in range(1, 1000):
            log.write(record(number))
        await trio.lowlevel.checkpoint()
        assert time.perf_counter() - began < 1
        assert log.dropped == 990
        collector.let_go.set()
        log.close()
    assert (log.written, log.dropped) == (10, 990)
    assert len(collector.spans) == 10


@pytest.mark.parametrize("how", ["close", "cancel"])
async def test_dead_collector_does_not_hold_up_the_end(collector: Collector, how: str, capsys: pytest.CaptureFixture[str]) -> None:
    collector.let_go.clear()
    log = OtelLog(collector.url, flush_interval=0, close_timeout=0.2)
    began = time.perf_counter()
    async with trio.open_nursery() as nursery:
        nursery.start_soon(log.run)
        log.write(record(1))
        await trio.sleep(0.05)
        log.write(record(2))
        if how == "close":
            log.close()
        else:
            nursery.cancel_scope.cancel()
    assert 0.2 <= time.perf_counter() - began < 5
    assert (log.written, log.dropped) == (0, 2)
    assert "spans that were not exported at the end: 2" in capsys.readouterr().err
    log.write(record(3))
    assert log.dropped == 3


async def test_collector_that_is_not_there_costs_its_timeout_at_the_end(capsys: pytest.CaptureFixture[str]) -> None:
    with socket.socket() as unused:  # bound, and not listening
        unused.bind(("127.0.0.1", 0))
        log = OtelLog(f"http://127.0.0.1:{unused.getsockname()[1]}/v1/traces", timeout=0.2)
        began = time.perf_counter()
        await export(log, [record(1), record(2)])
    assert time.perf_counter() - began < 4
    assert (log.written, log.dropped) == (0, 2)
    assert "cannot export spans, they are dropped: the collector did not accept them" in capsys.readouterr().err


class Exporter(SpanExporter):
    """An exporter that does what `act` says."""

    def __init__(self, act: Callable[[Sequence[ReadableSpan]], SpanExportResult]) -> None:
        self.act = act
        self.threads: set[int] = set()
        self.ended = threading.Event()

    def export(self, spans: Sequence[ReadableSpan]) -> SpanExportResult:
        self.threads.add(threading.get_ident())
        return self.act(spans)

    def shutdown(self) -> None:
        self.ended.set()
        raise RuntimeError("never mind")


@pytest.mark.parametrize("error", [RuntimeError("broken"), SystemExit(3), KeyboardInterrupt()])
async def test_exporter_that_raises_ends_nothing(error: BaseException, capsys: pytest.CaptureFixture[str]) -> None:
    results: list[BaseException | None] = [error, None]

    def act(spans: Sequence[ReadableSpan]) -> SpanExportResult:
        if (now := results.pop(0)) is not None:
            raise now
        return SpanExportResult.SUCCESS

    exporter = Exporter(act)
    log = OtelLog(exporter=exporter, max_batch=1)
    await export(log, [record(1), record(2)])
    assert (log.written, log.dropped) == (1, 1)
    told = capsys.readouterr().err
    assert f"they are dropped: {type(error).__name__}" in told
    assert "spans can be exported again" in told
    assert threading.get_ident() not in exporter.threads
    assert await trio.to_thread.run_sync(exporter.ended.wait, 10)


@pytest.mark.parametrize("flush_interval", [0.01, 60])
async def test_waits_for_more_before_it_exports(flush_interval: float) -> None:
    """Until the interval is over, or a batch is full."""
    sizes: list[int] = []
    all_there = threading.Event()

    def act(spans: Sequence[ReadableSpan]) -> SpanExportResult:
        sizes.append(len(spans))
        if sum(sizes) == 5:
            all_there.set()
        return SpanExportResult.SUCCESS

    log = OtelLog(exporter=Exporter(act), flush_interval=flush_interval, max_batch=3 if flush_interval == 60 else 512)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(log.run)
        log.write(record(0))
        if flush_interval == 60:
            await wait_all_tasks_blocked()  # it knows of one record, and waits
        for number in range(1, 5):
            log.write(record(number))
        assert await trio.to_thread.run_sync(all_there.wait, 10)
        assert sizes == ([3, 2] if flush_interval == 60 else [5])
        log.close()


async def test_log_that_never_ran_ends_at_once() -> None:
    exporter = Exporter(lambda spans: SpanExportResult.SUCCESS)
    log = OtelLog(exporter=exporter)
    log.close()
    assert await trio.to_thread.run_sync(exporter.ended.wait, 10)
    await log.run()
    with pytest.raises(RuntimeError, match="only once"):
        await log.run()


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"max_pending": 0}, "max_pending must be at least 1"),
        ({"max_batch": 0}, "max_batch must be at least 1"),
        ({"flush_interval": -1}, "flush_interval must be 0 or more"),
        ({"close_timeout": float("nan")}, "close_timeout must be 0 or more"),
        ({"timeout": 0}, "timeout must be greater than 0"),
    ],
)
def test_options_out_of_range_are_named(options: dict[str, Any], words: str) -> None:
    with pytest.raises(ValueError, match=words):
        OtelLog(**options)


def test_missing_extra_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in [name for name in sys.modules if name.startswith("opentelemetry") or name == "trio_tsconnect.log._spans"]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, "opentelemetry", None)
    with pytest.raises(ModuleNotFoundError, match=r"OtelLog needs the extra otel: pip install 'trio-tsconnect\[otel\]'"):
        OtelLog()
