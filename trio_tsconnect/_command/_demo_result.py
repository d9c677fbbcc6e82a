"""What the demo sends, and the comparison with its log."""

from __future__ import annotations

from typing import Any

import attrs

from trio_tsconnect.logstats import Summary

STREAMS = (20, 40, 60, 80, 100)
"""The number of HTTP/2 streams on each connection."""
HTTP1 = (30, 30, 30)
"""The number of HTTP/1.1 requests on each connection."""
VIRTUAL = (25, 25)
"""The number of the plugin's requests on each virtual connection."""
TAG = "demo-plugin"
"""The tag of the plugin's connections."""


@attrs.frozen(kw_only=True)
class Sent:
    """The clients' own counts: the number of 200 responses on each connection."""

    h2: list[int]
    """The counts of the HTTP/2 connections."""
    http1: list[int]
    """The counts of the HTTP/1.1 connections."""
    virtual: list[int]
    """The counts of the plugin's virtual connections."""


@attrs.frozen(kw_only=True)
class Result:
    """What was sent, what was logged, and the speed of a virtual connection compared with a socket."""

    sent: Sent
    """The clients' counts."""
    logged: Summary
    """The counts of the log."""
    virtual_rate: float
    """Requests per second over one virtual connection."""
    loopback_rate: float
    """Requests per second over one TCP connection on loopback."""
    ratio: float
    """The median over all rounds of the virtual rate divided by the loopback rate."""
    seconds: float
    """The duration of the demo in seconds."""

    @property
    def equal(self) -> bool:
        """True if each request of the clients got a 200 response, and the log matches the clients' counts."""
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
        """Return the result as a JSON-serializable dict, for `--json`."""
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
        """Return the result as text for a terminal."""
        if self.equal:
            sent = self._expected()
            verdict = f"This equals what was sent: {sent['transactions']} requests on {sum(sent['connections'].values())} connections."
        else:
            verdict = f"This does NOT equal what was sent: {self._expected()}\nThe log has: {self._logged()}"
        rates = f"{self.virtual_rate:,.0f} requests/s over one virtual connection, {self.loopback_rate:,.0f} over one on loopback"
        return f"{self.logged.to_text()}\n\n{verdict}\nvirtual / loopback = {self.ratio:.2f} (median over rounds of pairs; {rates})\n{self.seconds:.1f} s in all"
