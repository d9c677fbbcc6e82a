"""The plugins that come with the proxy, one module each. They use only public names of the other packages."""

from trio_tsconnect.plugins._aggregate import Aggregate as Aggregate
from trio_tsconnect.plugins._aggregate import Source as Source
from trio_tsconnect.plugins._auth_request import AuthRequest as AuthRequest
from trio_tsconnect.plugins._background_fetch import BackgroundFetch as BackgroundFetch
from trio_tsconnect.plugins._decode import CODINGS as CODINGS
from trio_tsconnect.plugins._decode import Decode as Decode
from trio_tsconnect.plugins._decode import UnknownCoding as UnknownCoding
from trio_tsconnect.plugins._decode import ask_readable as ask_readable
from trio_tsconnect.plugins._decode import decode_response as decode_response
from trio_tsconnect.plugins._error_pages import ErrorPages as ErrorPages
from trio_tsconnect.plugins._header_rewrite import HeaderRewrite as HeaderRewrite
from trio_tsconnect.plugins._header_rewrite import HeaderRule as HeaderRule
from trio_tsconnect.plugins._health_check import HealthCheck as HealthCheck
from trio_tsconnect.plugins._json import change_request_json as change_request_json
from trio_tsconnect.plugins._json import change_response_json as change_response_json
from trio_tsconnect.plugins._mirror import Mirror as Mirror
from trio_tsconnect.plugins._prefetch import Prefetch as Prefetch
from trio_tsconnect.plugins._rate_limit import RateLimit as RateLimit
from trio_tsconnect.plugins._rate_limit_store import MemoryStore as MemoryStore
from trio_tsconnect.plugins._rate_limit_store import RateLimitStore as RateLimitStore
from trio_tsconnect.plugins._rate_limit_store import RedisStore as RedisStore
from trio_tsconnect.plugins._request_id import RequestId as RequestId
