"""Requests in the background: detached from the transaction that caused them, and limited in number.

Invariant: a request beyond the limit is dropped, not queued. Background requests never delay or fail the transaction that caused them.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import attrs
import trio

from trio_tsconnect import ConnectRefused, Request, VirtualConnection
from trio_tsconnect.message import NO_BODY, Body, Framing, MessageError, frame_request
from trio_tsconnect.stream import HTTP1Client, IncompleteMessage

Connect = Callable[[], VirtualConnection]


@attrs.frozen(eq=False)
class _Job:
    connection: VirtualConnection
    request: Request
    body: bytes
    key: object


class Background:
    """The background requests of one plugin. Hooks call `start`; the plugin's `run` awaits `run`."""

    def __init__(self, concurrency: int) -> None:
        self._concurrency = concurrency
        self._jobs, self._todo = trio.open_memory_channel[_Job](math.inf)  # bounded by `_under_way`; `send_nowait` never blocks
        self._under_way = 0
        self._keys: set[object] = set()

    def start(self, connect: Connect, request: Request, body: bytes = b"", *, key: object = None) -> str:
        """Start a request in the background; its response is read to the end and dropped. Synchronous.

        Returns "started", or the reason why not: "busy" (`concurrency` requests are in progress), "refused" (`connect` raised
        `ConnectRefused`), or "known" (a request with the same `key` is in progress).
        """
        if key is not None and key in self._keys:
            return "known"
        if self._under_way >= self._concurrency:
            return "busy"
        try:
            connection = connect()
        except ConnectRefused:
            return "refused"
        self._under_way += 1
        self._keys.add(key)
        self._jobs.send_nowait(_Job(connection, request, body, key))
        return "started"

    async def run(self) -> None:
        """Run the started requests, until cancelled."""
        async with trio.open_nursery() as nursery:
            try:
                async for job in self._todo:
                    nursery.start_soon(self._do, job, name=f"{job.connection.tag} in the background")
            finally:
                self._give_up()

    def _give_up(self) -> None:
        while True:
            try:
                job = self._todo.receive_nowait()
            except trio.WouldBlock:
                return
            job.connection.abort("closed")
            self._forget(job)

    def _forget(self, job: _Job) -> None:
        self._under_way -= 1
        self._keys.discard(job.key)

    async def _do(self, job: _Job) -> None:
        try:
            async with job.connection:
                await _exchange(job)
        finally:
            self._forget(job)


async def _exchange(job: _Job) -> None:
    """Send one request, and read and drop its response. Errors are ignored here: the log record of the request has them."""
    http = HTTP1Client(job.connection)
    try:
        http.queue_request(job.request, frame_request(job.request, Body(Framing.LENGTH, len(job.body)) if job.body else NO_BODY))
        async with trio.open_nursery() as nursery:  # concurrently, because the response may arrive before the body was sent
            nursery.start_soon(_send, http, job.body)
            while (await http.read_response()).status < 200:
                pass
            while await http.receive_body():
                pass
            nursery.cancel_scope.cancel()
    except* (IncompleteMessage, MessageError, trio.BrokenResourceError):
        pass


async def _send(http: HTTP1Client, body: bytes) -> None:
    try:
        if body:
            http.queue_body(body)
        http.queue_end()
        await http.drain()
    except trio.BrokenResourceError:
        pass  # the reader gets the response, or notices the broken connection
