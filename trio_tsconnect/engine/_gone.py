"""Detection of clients that disconnect while their transaction waits.

Invariant: at most one task reads a client stream at any time.

Theory of operation
-------------------

While a transaction waits for an origin or a plugin, no task reads from the client. So a client that has gone is not detected, and the
work for it goes on. A virtual connection reports it by a callback (`watch_peer`). A socket must be read. That is hard in three ways:

- A close and a half-close look the same on a socket: the input ends. If every end of input cancelled the transaction, a client that sends
  its request, ends its output and waits for the response would get none. So a transaction shorter than `http.gone_check_interval` is not
  watched. After that `http.half_close` decides. The end of a TLS session always means gone, because nothing can be sent after it.
- What is read can be the next request, or the first bytes of a tunnel. So the reader puts it into the HTTP/1 buffer of the session, where
  both look for it. Above `_MOST_AHEAD` bytes it stops reading, so that a client cannot fill the memory, and polls the socket instead. The
  poll takes a half-close for a close.
- Other tasks read the same stream: the session between requests, the transaction for the request body, the tunnel. So the reader starts
  only after the request body was read to its end, never in a tunnel, and `stop` waits for its end before the next task reads.

A watcher per transaction would cost every request a task. Instead one sweep task per proxy looks at all sessions once in an interval and
starts readers where they are needed. So a reader starts one to two intervals after its transaction, and quick transactions cost nothing.
"""

from __future__ import annotations

import logging
from collections.abc import Collection

import trio

from trio_tsconnect.engine._core import Core
from trio_tsconnect.engine._session import EngineSession
from trio_tsconnect.stream import has_hung_up

logger = logging.getLogger("trio_tsconnect")
_MOST_AHEAD = 65536
"""Bytes in the session's buffer above which the reader stops reading. One more read may have added to them."""


class ClientReader:
    """Task that reads from the client of one session while the transaction waits."""

    def __init__(self, session: EngineSession) -> None:
        self._session = session
        self._scope = trio.CancelScope()
        self._done = trio.Event()

    async def run(self) -> None:
        """Read from the client into the session's buffer until the input ends, the client is gone, or `stop` is called.

        Call `session.client_is_gone()` if the client is gone. Errors of the stream count as gone; they are not raised.
        """
        session = self._session
        http = session.http
        try:
            with self._scope:
                while True:
                    if http.buffered >= _MOST_AHEAD:  # stop reading; poll: a half-close counts as gone here
                        await trio.sleep(session.core.config.http.gone_check_interval)
                        if has_hung_up(session.stream, half_close=session.core.config.http.half_close == "abort"):
                            session.client_is_gone()
                            return
                        continue
                    if not await http.fill():
                        # The end of a TLS session is not a half-close: nothing can be sent after it.
                        finished = isinstance(session.stream, trio.abc.HalfCloseableStream)
                        if session.core.config.http.half_close == "abort" or not finished:
                            session.client_is_gone()
                        return
        except (trio.BrokenResourceError, trio.ClosedResourceError):
            session.client_is_gone()
        except Exception:
            logger.exception("reading ahead from the client of session %d failed", session.number)
            session.client_is_gone()
        finally:
            session.input_reader = None
            self._done.set()

    async def stop(self) -> None:
        """Cancel the reader and wait until it has ended. After that another task may read the stream. Shielded from cancellation."""
        self._scope.cancel()
        with trio.CancelScope(shield=True):  # short: the reader ends at its next checkpoint
            await self._done.wait()


async def sweep(core: Core, sessions: Collection[EngineSession]) -> None:
    """Start a `ClientReader` for each transaction that has lasted `http.gone_check_interval` seconds while no task reads.

    Runs until cancelled. Only sessions without a virtual connection are looked at. While they have no transaction, this task sleeps
    without waking up.
    """
    interval = core.config.http.gone_check_interval
    while True:
        await core.activity.wait()
        await trio.sleep(interval)
        due = trio.current_time() - interval
        for session in list(sessions):
            txn = session.transaction
            if (
                txn is not None
                and session.nursery is not None
                and session.input_reader is None
                and not session.virtual
                and txn.started <= due
                and txn.may_watch_input
            ):
                session.input_reader = reader = ClientReader(session)
                session.nursery.start_soon(reader.run, name="client reader")
