"""What `Proxy.fetch` and `Transaction.fetch` share: the request of a URL, and the options of its connection."""

from __future__ import annotations

import attrs

from trio_tsconnect.hooks._connect import ConnectOptions
from trio_tsconnect.message import URL, Request


def as_request(what: Request | URL | str) -> Request:
    """Return the request itself, or a GET of a URL. Raise ValueError if the text is no absolute URL."""
    if isinstance(what, Request):
        return what
    url = URL.parse(what) if isinstance(what, str) else what
    return Request("GET", str(url), [("Host", url.authority)])


def connect_options(options: ConnectOptions | None, request: Request, *, direct: bool) -> ConnectOptions | None:
    """Return the options of the connection; with `direct`, their target is the host of the request."""
    if not direct:
        return options
    if options is not None and options.target is not None:
        raise ValueError("direct=True takes the target from the URL, so the options must not have one")
    url = request.url
    return attrs.evolve(options or ConnectOptions(), target=(url.host, url.port))
