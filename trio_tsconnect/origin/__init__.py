"""Origins (TCP, TLS, Unix sockets, plugins that intercept) and the pool of connections to them."""

from trio_tsconnect.origin._intercept import InterceptOrigin as InterceptOrigin
from trio_tsconnect.origin._origin import TLS as TLS
from trio_tsconnect.origin._origin import Origin as Origin
from trio_tsconnect.origin._origin import TCPOrigin as TCPOrigin
from trio_tsconnect.origin._origin import UnixOrigin as UnixOrigin
from trio_tsconnect.origin._pool import Holder as Holder
from trio_tsconnect.origin._pool import OriginConnection as OriginConnection
from trio_tsconnect.origin._pool import Pool as Pool
