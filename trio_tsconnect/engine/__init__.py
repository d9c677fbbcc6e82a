"""The machine: configuration, remap table, transaction states, hooks, origins, transaction, session, proxy."""

from trio_tsconnect.engine._config import ConfigError as ConfigError
from trio_tsconnect.engine._config import HttpConfig as HttpConfig
from trio_tsconnect.engine._config import ListenConfig as ListenConfig
from trio_tsconnect.engine._config import LogConfig as LogConfig
from trio_tsconnect.engine._config import OriginConfig as OriginConfig
from trio_tsconnect.engine._config import ProxyConfig as ProxyConfig
from trio_tsconnect.engine._config import TlsFiles as TlsFiles
from trio_tsconnect.engine._config import warnings as warnings
from trio_tsconnect.engine._connect import ConnectOptions as ConnectOptions
from trio_tsconnect.engine._errors import ConnectRefused as ConnectRefused
from trio_tsconnect.engine._errors import InvalidState as InvalidState
from trio_tsconnect.engine._fetch import FetchedResponse as FetchedResponse
from trio_tsconnect.engine._fetch import FetchError as FetchError
from trio_tsconnect.engine._plugin import HOOKS as HOOKS
from trio_tsconnect.engine._plugin import Plugin as Plugin
from trio_tsconnect.engine._proxy import FrontEnd as FrontEnd
from trio_tsconnect.engine._proxy import Proxy as Proxy
from trio_tsconnect.engine._proxy import ProxyStatistics as ProxyStatistics
from trio_tsconnect.engine._proxy import open_proxy as open_proxy
from trio_tsconnect.engine._remap import Match as Match
from trio_tsconnect.engine._remap import RemapRule as RemapRule
from trio_tsconnect.engine._remap import RemapTable as RemapTable
from trio_tsconnect.engine._session import Session as Session
from trio_tsconnect.engine._states import TRANSITIONS as TRANSITIONS
from trio_tsconnect.engine._states import State as State
from trio_tsconnect.engine._transaction import Transaction as Transaction
