"""An answer for whoever asks if the proxy is alive: from the proxy itself, so no origin is troubled."""

from __future__ import annotations

import json

import attrs

from trio_tsconnect import Plugin, Transaction
from trio_tsconnect._util import public
from trio_tsconnect.plugins._asked import asked_for
from trio_tsconnect.plugins._options import as_tuple, flag, path, status


@public("trio_tsconnect.plugins")
class HealthCheck(Plugin):
    """Answers GET and HEAD of one path, whatever the remap rules and access rules say, with 503 once the proxy drains."""

    @attrs.frozen(kw_only=True)
    class Options:
        """What `HealthCheck` can be told."""

        path: str = attrs.field(default="/healthz", validator=path)
        """The path that is asked for."""
        hosts: tuple[str, ...] = attrs.field(default=(), converter=as_tuple)
        """Only on these hosts; empty for any."""
        body: str = "ok\n"
        """What is answered while all is well."""
        draining_status: int = attrs.field(default=503, validator=status())
        """The status once the proxy takes no new clients, so that a balancer sends them elsewhere."""
        statistics: bool = attrs.field(default=False, validator=flag)
        """Answer with what the proxy holds, as JSON, instead of the body."""

    def __init__(self, options: Options | None = None) -> None:
        self.options: HealthCheck.Options = options or self.Options()

    async def read_request(self, txn: Transaction) -> None:
        """Answer, if it is for here."""
        options, uri = self.options, asked_for(txn)
        if uri is None or uri.path.partition("?")[0] != options.path or txn.request.method not in ("GET", "HEAD"):
            return
        if options.hosts and uri.host not in options.hosts:
            return
        draining = txn.proxy.draining
        body, kind = ("draining\n" if draining else options.body), "text/plain; charset=utf-8"
        if options.statistics:
            body, kind = json.dumps({"draining": draining, **attrs.asdict(txn.proxy.statistics())}), "application/json"
        headers = [("Content-Type", kind), ("Cache-Control", "no-store")]
        txn.respond(options.draining_status if draining else 200, body, headers=headers)
