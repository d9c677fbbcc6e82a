"""HealthCheck: answer health checks by the proxy itself, without an origin."""

from __future__ import annotations

import json

import attrs

from trio_tsconnect import Plugin, Transaction
from trio_tsconnect._util import public
from trio_tsconnect.plugins._options import as_tuple, flag, path, status


@public("trio_tsconnect.plugins")
class HealthCheck(Plugin):
    """Answers GET and HEAD of one path without an origin: 200, or `draining_status` while the proxy drains.

    Access rules and guards apply to it: allow the addresses of your load balancers.
    """

    @attrs.frozen(kw_only=True)
    class Options:
        """The options of `HealthCheck`."""

        path: str = attrs.field(default="/healthz", validator=path)
        """The path of the health check."""
        hosts: tuple[str, ...] = attrs.field(default=(), converter=as_tuple)
        """The hosts on which to answer. Empty: all hosts."""
        body: str = "ok\n"
        """The body of the response while the proxy is not draining."""
        draining_status: int = attrs.field(default=503, validator=status())
        """The status of the response while the proxy drains, so that a load balancer sends clients to another proxy."""
        statistics: bool = attrs.field(default=False, validator=flag)
        """Respond with the proxy's statistics as JSON in place of `body`."""

    def __init__(self, options: Options | None = None) -> None:
        self.options: HealthCheck.Options = options or self.Options()

    async def read_request(self, txn: Transaction) -> None:
        """Answer the transaction if it is a health check."""
        options, url = self.options, txn.url
        if url is None or url.path != options.path or txn.request.method not in ("GET", "HEAD"):
            return
        if options.hosts and url.host not in options.hosts:
            return
        draining = txn.proxy.draining
        body, kind = ("draining\n" if draining else options.body), "text/plain; charset=utf-8"
        if options.statistics:
            body, kind = json.dumps({"draining": draining, **attrs.asdict(txn.proxy.statistics())}), "application/json"
        headers = [("Content-Type", kind), ("Cache-Control", "no-store")]
        txn.respond(options.draining_status if draining else 200, body, headers=headers)
