"""Configuration: frozen values validated on creation, remap and access rules, TOML files, and the plugins that such files name."""

from trio_tsconnect.config._access import AccessRule as AccessRule
from trio_tsconnect.config._access import admits as admits
from trio_tsconnect.config._access import check_access as check_access
from trio_tsconnect.config._checks import ConfigError as ConfigError
from trio_tsconnect.config._config import ProxyConfig as ProxyConfig
from trio_tsconnect.config._config import warnings as warnings
from trio_tsconnect.config._http2 import Http2Limits as Http2Limits
from trio_tsconnect.config._http2 import RateLimit as RateLimit
from trio_tsconnect.config._log import LogConfig as LogConfig
from trio_tsconnect.config._log import RotateConfig as RotateConfig
from trio_tsconnect.config._open_log import open_log as open_log
from trio_tsconnect.config._options import HttpConfig as HttpConfig
from trio_tsconnect.config._options import ListenConfig as ListenConfig
from trio_tsconnect.config._options import OriginConfig as OriginConfig
from trio_tsconnect.config._options import TlsFiles as TlsFiles
from trio_tsconnect.config._played import load_origin as load_origin
from trio_tsconnect.config._played import register_origin_scheme as register_origin_scheme
from trio_tsconnect.config._plugin_base import PluginBase as PluginBase
from trio_tsconnect.config._remap import Match as Match
from trio_tsconnect.config._remap import RemapRule as RemapRule
from trio_tsconnect.config._remap import RemapTable as RemapTable
