"""The machine: configuration, remap table, transaction states, hooks, origins, transaction, session, proxy."""

from trio_tsconnect.engine._connect import ConnectOptions as ConnectOptions
from trio_tsconnect.engine._errors import ConnectRefused as ConnectRefused
from trio_tsconnect.engine._errors import InvalidState as InvalidState
from trio_tsconnect.engine._fetch import FetchedResponse as FetchedResponse
from trio_tsconnect.engine._fetch import FetchError as FetchError
from trio_tsconnect.engine._open import open_proxy as open_proxy
from trio_tsconnect.engine._plugin import HOOKS as HOOKS
from trio_tsconnect.engine._plugin import Plugin as Plugin
from trio_tsconnect.engine._proxy import FrontEnd as FrontEnd
from trio_tsconnect.engine._proxy import Proxy as Proxy
from trio_tsconnect.engine._proxy import ProxyStatistics as ProxyStatistics
from trio_tsconnect.engine._session import Session as Session
from trio_tsconnect.engine._states import TRANSITIONS as TRANSITIONS
from trio_tsconnect.engine._states import State as State
from trio_tsconnect.engine._transaction import Transaction as Transaction
from trio_tsconnect.engine._tree import TreeNode as TreeNode
