"""Moments that a user gives: an ISO time, or a duration before now. Invariant: what is neither is refused with an example."""

from __future__ import annotations

import re
from datetime import UTC, datetime, timedelta

from trio_tsconnect._util import public
from trio_tsconnect.logstats._where import as_moment

_UNITS = {"s": 1, "m": 60, "h": 3600, "d": 86400, "w": 7 * 86400}
_DURATION = re.compile(r"(\d+(?:\.\d+)?)([smhdw])")


@public("trio_tsconnect.logstats")
def moment(text: str | datetime | None, *, now: datetime | None = None) -> datetime | None:
    """Return the moment that `text` names: an ISO time (UTC unless it says otherwise), or a duration such as ``15m`` before `now`.

    Raises `ValueError`.
    """
    if text is None:
        return None
    if isinstance(text, datetime):
        return as_moment(text.isoformat())
    if found := _DURATION.fullmatch(text.strip()):
        try:
            return (now or datetime.now(UTC)) - timedelta(seconds=float(found[1]) * _UNITS[found[2]])
        except OverflowError:
            pass
    elif at := as_moment(text.strip()):
        return at
    raise ValueError(f"{text!r} is no time, expected one such as 2026-11-22T20:55:04Z or a duration such as 15m, 2h or 3d")
