"""What the demo sends, and what its log should say of that."""

from __future__ import annotations

from typing import Any

import attrs

from trio_tsconnect.logstats import Summary

STREAMS = (20, 40, 60, 80, 100)
"""HTTP/2 streams, for each connection."""
HTTP1 = (30, 30, 30)
"""HTTP/1.1 requests, for each connection."""
VIRTUAL = (25, 25)
"""A plugin's requests, for each virtual connection."""
TAG = "demo-plugin"
"""What the plugin calls its connections."""


@attrs.frozen(kw_only=True)
class Sent:
    """What the clients did, counted by themselves: for each connection of a kind, how many good answers came."""

    h2: list[int]
    """Streams of each HTTP/2 connection."""
    http1: list[int]
    """Requests of each HTTP/1.1 connection."""
    virtual: list[int]
    """Requests of each of the plugin's virtual connections."""


@attrs.frozen(kw_only=True)
class Result:
    """What was sent, what the log says, and how much faster no socket is."""

    sent: Sent
    """The clients' counts."""
    logged: Summary
    """The log's."""
    virtual_rate: float
    """Requests per second over one virtual connection."""
    loopback_rate: float
    """Requests per second over one TCP connection on loopback."""
    ratio: float
    """The median over the rounds of the one divided by the other."""
    seconds: float
    """How long it all took."""

    @property
    def equal(self) -> bool:
        """Whether the log says what was sent, and the clients got an answer to each request they were to send."""
        return self.sent == Sent(h2=list(STREAMS), http1=list(HTTP1), virtual=list(VIRTUAL)) and self._logged() == self._expected()

    def _expected(self) -> dict[str, Any]:
        sent = self.sent
        return {
            "transactions": sum(sent.h2) + sum(sent.http1) + sum(sent.virtual),
            "connections": {"h2": len(sent.h2), "http/1.1": len(sent.http1), f"internal/{TAG}": len(sent.virtual)},
            "streams": sorted(sent.h2),
            "statuses": {"-": {"2xx": sum(sent.http1)}, "h2": {"2xx": sum(sent.h2)}, TAG: {"2xx": sum(sent.virtual)}},
        }

    def _logged(self) -> dict[str, Any]:
        logged = self.logged
        return {
            "transactions": logged.transactions,
            "connections": dict(logged.client_connections),
            "streams": sorted(logged.streams_per_connection.values()),
            "statuses": {tag: dict(counts) for tag, counts in logged.statuses.items()},
        }

    def as_dict(self) -> dict[str, Any]:
        """For `--json`."""
        return {
            "sent": self._expected(),
            "logged": self._logged(),
            "equal": self.equal,
            "summary": self.logged.as_dict(),
            "requests_per_second": {"virtual": round(self.virtual_rate), "loopback": round(self.loopback_rate)},
            "virtual_to_loopback": round(self.ratio, 2),
            "seconds": round(self.seconds, 2),
        }

    def to_text(self) -> str:
        """For a terminal."""
        if self.equal:
            sent = self._expected()
            verdict = f"This equals what was sent: {sent['transactions']} requests on {sum(sent['connections'].values())} connections."
        else:
            verdict = f"This does NOT equal what was sent: {self._expected()}\nbut the log says: {self._logged()}"
        rates = f"{self.virtual_rate:,.0f} requests/s over one virtual connection, {self.loopback_rate:,.0f} over one on loopback"
        return f"{self.logged.to_text()}\n\n{verdict}\nvirtual / loopback = {self.ratio:.2f} (median over rounds of pairs; {rates})\n{self.seconds:.1f} s in all"
