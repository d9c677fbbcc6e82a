"""A log that exports each record as a span of OpenTelemetry.

Invariant: no record is lost without being counted, and the loop never waits for the collector.

`write` appends to a deque. One task takes batches from it, and a worker thread turns each into spans and sends it. A batch that the
exporter did not deliver is counted as dropped: the exporter has retried already, and a trace is worth less than the memory to keep it.
As in `JsonLinesLog`, the task is shielded, a second task converts a cancellation into `close`, and the time limit is measured in a thread.
"""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import trio

from trio_tsconnect._contain import describe
from trio_tsconnect._util import lacks, public
from trio_tsconnect.log._log import Log
from trio_tsconnect.log._record import LogRecord
from trio_tsconnect.log._sink import complain

if TYPE_CHECKING:
    from opentelemetry.sdk.trace.export import SpanExporter


@public("trio_tsconnect.log")
class OtelLog(Log):
    """A log that exports a span for each transaction to an OpenTelemetry collector. Needs the extra `otel`.

    `endpoint` is the URL of the collector for OTLP over HTTP, with its path: ``http://localhost:4318/v1/traces``. If it is None, the
    variables of the environment that OpenTelemetry defines apply (``OTEL_EXPORTER_OTLP_ENDPOINT`` and others). `headers` are sent with
    each export. `attributes` describe this process; ``service.name`` is ``trio_tsconnect`` unless they or the environment set it.
    `exporter` takes the place of OTLP: any exporter of spans of the SDK.

    A span is exported at most `flush_interval` seconds late, at most `max_batch` of them at once. A larger batch suits a distant collector,
    but a thread that encodes spans takes turns with the loop. If `max_pending` records wait already, further ones are dropped and counted.
    So is a batch that the collector did not accept within `timeout` seconds, retries included. After `close`, an export that does not
    return is abandoned after `close_timeout` seconds. `run` can be called once.
    """

    def __init__(
        self,
        endpoint: str | None = None,
        *,
        headers: Mapping[str, str] | None = None,
        attributes: Mapping[str, str] | None = None,
        exporter: SpanExporter | None = None,
        flush_interval: float = 1.0,
        max_pending: int = 8192,
        max_batch: int = 128,
        timeout: float = 10.0,
        close_timeout: float = 5.0,
    ) -> None:
        for name, number in (("max_pending", max_pending), ("max_batch", max_batch)):
            if number < 1:
                raise ValueError(f"{name} must be at least 1, not {number}")
        for name, seconds in (("flush_interval", flush_interval), ("close_timeout", close_timeout)):
            if not seconds >= 0:
                raise ValueError(f"{name} must be 0 or more, not {seconds}")
        if not timeout > 0:
            raise ValueError(f"timeout must be greater than 0, not {timeout}")
        self.flush_interval = flush_interval
        self.max_pending = max_pending
        self.max_batch = max_batch
        self.written: int = 0
        self.dropped: int = 0
        self.close_timeout: float = min(close_timeout, threading.TIMEOUT_MAX)
        self._exporting = _exporting(endpoint, headers, timeout, exporter, attributes or {})
        self._pending: deque[LogRecord] = deque()
        self._batch: list[LogRecord] = []
        self._wake_at = 1
        self._wake = trio.Event()
        self._closed = trio.Event()
        self._started = False
        self._failing = False
        self._finished = threading.Event()

    # ---- what others call --------------------------------------------------------------------------------------------------------

    def write(self, record: LogRecord) -> None:
        """Accept `record`. If `max_pending` records wait already, or if the log has ended, count it as dropped."""
        pending = self._pending
        if self._finished.is_set() or len(pending) + len(self._batch) >= self.max_pending:
            self.dropped += 1
            return
        pending.append(record)
        if len(pending) >= self._wake_at:
            self._wake.set()

    def close(self) -> None:
        """Tell `run` to export the accepted records and to return."""
        self._closed.set()
        self._wake.set()
        if not self._started and not self._pending:  # `run` may never be called
            self._finish()

    # ---- the exporting task ------------------------------------------------------------------------------------------------------

    async def run(self) -> None:
        """Export records until the log is closed, then export the rest and return. Cancellation closes the log.

        Raises `RuntimeError` if it is called twice.
        """
        if self._started:
            raise RuntimeError("run() of a log can be called only once; create a new log")
        self._started = True
        if self._finished.is_set():
            return
        async with trio.open_nursery() as nursery:
            with trio.CancelScope(shield=True) as exporting:
                nursery.start_soon(self._end_in_time, exporting)
                try:
                    await self._export_until_closed()
                finally:
                    self._finish()
            nursery.cancel_scope.cancel()

    async def _end_in_time(self, exporting: trio.CancelScope) -> None:
        try:
            await self._closed.wait()
        finally:
            self.close()
            if not self._finished.is_set():
                with trio.CancelScope(shield=True):
                    in_time = await trio.to_thread.run_sync(self._finished.wait, self.close_timeout, limiter=trio.CapacityLimiter(1))
                if not in_time:
                    exporting.cancel()

    async def _export_until_closed(self) -> None:
        limiter = trio.CapacityLimiter(1)  # the default limiter may be used up by slow threads of other code
        while self._pending or not self._closed.is_set():
            await self._until_woken_at(1)
            with trio.move_on_after(self.flush_interval):
                await self._until_woken_at(min(self.max_batch, self.max_pending))
            while self._pending:
                await self._export_batch(limiter)

    async def _until_woken_at(self, count: int) -> None:
        """Wait for `count` pending records, or for `close`."""
        self._wake_at = count
        if len(self._pending) < count and not self._closed.is_set():
            self._wake = trio.Event()
            await self._wake.wait()

    async def _export_batch(self, limiter: trio.CapacityLimiter) -> None:
        self._batch = [self._pending.popleft() for _ in range(min(self.max_batch, len(self._pending)))]
        error = await trio.to_thread.run_sync(self._try, self._batch, abandon_on_cancel=True, limiter=limiter)
        if error is None:
            self.written += len(self._batch)
        else:
            self.dropped += len(self._batch)
        if (error is not None) is not self._failing:  # tell the first failure, and the first success after it
            self._failing = error is not None
            complain(f"cannot export spans, they are dropped: {error}" if error else "spans can be exported again")
        self._batch = []

    def _try(self, batch: list[LogRecord]) -> str | None:
        """Export once, in a worker thread. Return what failed, or None."""
        try:
            return self._exporting.export(batch)
        except BaseException as failure:  # noqa: BLE001 - the exporter of a caller may raise anything, and the log goes on
            return describe(failure)

    def _finish(self) -> None:
        lost = len(self._pending) + len(self._batch)
        self.dropped += lost
        self._pending.clear()
        self._batch = []
        if lost:
            complain(f"spans that were not exported at the end: {lost}")
        # In a thread, which ends with the process: the exporter of a caller may wait here, and an abandoned export gives up sooner.
        threading.Thread(target=self._exporting.end, name="end of OtelLog", daemon=True).start()
        self._finished.set()

    def __repr__(self) -> str:
        return f"<OtelLog: {self.written} exported, {self.dropped} dropped, {len(self._pending) + len(self._batch)} pending>"


class _Exporting:
    """An exporter of the SDK, and what describes this process. Its methods block, so they are called in threads."""

    def __init__(self, exporter: SpanExporter, spans: Any, described: Any, success: object) -> None:
        self._exporter, self._spans, self._described, self._success = exporter, spans, described, success

    def export(self, batch: list[LogRecord]) -> str | None:
        """Export the spans of `batch`. Return what failed, or None."""
        result = self._exporter.export([self._spans.to_span(record, self._described) for record in batch])
        return None if result is self._success else "the collector did not accept them"

    def end(self) -> None:
        """Shut the exporter down."""
        try:
            self._exporter.shutdown()
        except Exception as error:  # noqa: BLE001 - the exporter of a caller may raise anything
            complain(f"the exporter of spans failed to shut down: {error!r}")


def _exporting(
    endpoint: str | None,
    headers: Mapping[str, str] | None,
    timeout: float,
    exporter: SpanExporter | None,
    attributes: Mapping[str, str],
) -> _Exporting:
    """Return the exporter. Raise `ModuleNotFoundError`, which names the extra, if the SDK is not installed."""
    try:
        from opentelemetry.sdk.trace.export import SpanExportResult

        from trio_tsconnect.log import _spans

        if exporter is None:
            from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter

            exporter = OTLPSpanExporter(endpoint, headers=dict(headers) if headers else None, timeout=timeout)
    except ModuleNotFoundError as missing:
        raise lacks("otel", "OtelLog", missing) from None
    return _Exporting(exporter, _spans, _spans.resource(attributes), SpanExportResult.SUCCESS)
