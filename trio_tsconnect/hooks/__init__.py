"""The API for plugins: the hooks, the interfaces of transaction, session and proxy, and the states of a transaction."""

from trio_tsconnect.hooks._connect import ConnectOptions as ConnectOptions
from trio_tsconnect.hooks._data import DataKey as DataKey
from trio_tsconnect.hooks._errors import ConnectRefused as ConnectRefused
from trio_tsconnect.hooks._errors import InvalidState as InvalidState
from trio_tsconnect.hooks._errors import OriginFailure as OriginFailure
from trio_tsconnect.hooks._guard import Guard as Guard
from trio_tsconnect.hooks._guard import is_guard as is_guard
from trio_tsconnect.hooks._plugin import HOOKS as HOOKS
from trio_tsconnect.hooks._plugin import HookMethod as HookMethod
from trio_tsconnect.hooks._plugin import Hooks as Hooks
from trio_tsconnect.hooks._plugin import Plugin as Plugin
from trio_tsconnect.hooks._plugin import name_plugins as name_plugins
from trio_tsconnect.hooks._plugin import plugin_name as plugin_name
from trio_tsconnect.hooks._proxy import FrontEnd as FrontEnd
from trio_tsconnect.hooks._proxy import Proxy as Proxy
from trio_tsconnect.hooks._proxy import ProxyStatistics as ProxyStatistics
from trio_tsconnect.hooks._session import Session as Session
from trio_tsconnect.hooks._states import TRANSITIONS as TRANSITIONS
from trio_tsconnect.hooks._states import State as State
from trio_tsconnect.hooks._transaction import AnyTransform as AnyTransform
from trio_tsconnect.hooks._transaction import Serve as Serve
from trio_tsconnect.hooks._transaction import Transaction as Transaction
from trio_tsconnect.hooks._transaction import Transform as Transform
from trio_tsconnect.hooks._tree import TreeNode as TreeNode
