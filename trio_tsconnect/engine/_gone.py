"""Clients that leave while their transaction waits.

The law: at any moment exactly one task reads a client stream. A virtual connection tells by itself when its peer has gone; a socket has to
be read, so a transaction that has waited for longer than `http.gone_check_interval`, and whose request was read to its end, gets a reader.
One sweep task per proxy starts these: a quick transaction pays nothing, and its half-closed client is always answered.

What such a reader reads is the beginning of the next request: it goes into the session's HTTP/1 buffer, bounded, for the session to find.
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


class ClientReader:
    """The reader of one session's client, while its transaction waits."""

    def __init__(self, session: EngineSession) -> None:
        self._session = session
        self._scope = trio.CancelScope()
        self._done = trio.Event()

    async def run(self) -> None:
        """Read ahead until the client goes, its input ends, or enough is read."""
        session = self._session
        http = session.http
        try:
            with self._scope:
                while True:
                    if http.buffered >= _MOST_AHEAD:  # enough for the next requests; from here on only a reset is looked for
                        await trio.sleep(session.core.config.http.gone_check_interval)
                        if has_hung_up(session.stream, half_close=session.core.config.http.half_close == "abort"):
                            session.client_is_gone()
                            return
                        continue
                    if not await http.fill():
                        # the end of a TLS session is no half-close: nothing can be sent any more
                        finished = isinstance(session.stream, trio.abc.HalfCloseableStream)
                        if session.core.config.http.half_close == "abort" or not finished:
                            session.client_is_gone()
                        return
        except (trio.BrokenResourceError, trio.ClosedResourceError):
            session.client_is_gone()
        except Exception:
            logger.exception("the client of session %d cannot be watched", session.number)
            session.client_is_gone()
        finally:
            session.input_reader = None
            self._done.set()

    async def stop(self) -> None:
        """End it, so that the session may read."""
        self._scope.cancel()
        with trio.CancelScope(shield=True):  # it ends at its next checkpoint
            await self._done.wait()


async def sweep(core: Core, sessions: Collection[EngineSession]) -> None:
    """Start readers for transactions of sockets that have waited long enough, until cancelled. Sleeps without a wake-up while there are none."""
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
