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


def directed(request: Request, options: ConnectOptions | None, *, direct: bool) -> tuple[Request, ConnectOptions | None]:
    """Return the request and the options of its connection; with `direct`, the target of both is the URL of the request."""
    if not direct:
        return request, options
    if options is not None and options.target is not None:
        raise ValueError("direct=True takes the target from the URL, so the options must not have one")
    url, request = request.url, request.copy()
    request.url = url  # with its scheme: a child inherits that of the client otherwise
    return request, attrs.evolve(options or ConnectOptions(), target=(url.host, url.port))
