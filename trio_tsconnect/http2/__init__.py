"""The HTTP/2 front end: each stream of a client connection becomes one virtual connection to the engine. Needs the extra `h2`."""

from trio_tsconnect.config import Http2Limits as Http2Limits
from trio_tsconnect.config import RateLimit as RateLimit
from trio_tsconnect.http2._auto import serve_auto as serve_auto
from trio_tsconnect.http2._frontend import serve_http2 as serve_http2
from trio_tsconnect.http2._tls import ssl_context as ssl_context
