"""The machine: configuration, remap table, transaction states, hooks, origins, transaction, session, proxy."""

from trio_tsconnect.engine._open import open_proxy as open_proxy
from trio_tsconnect.engine._plugin import HOOKS as HOOKS
from trio_tsconnect.engine._plugin import Plugin as Plugin
from trio_tsconnect.engine._proxy import FrontEnd as FrontEnd
from trio_tsconnect.engine._proxy import Proxy as Proxy
from trio_tsconnect.engine._proxy import ProxyStatistics as ProxyStatistics
from trio_tsconnect.engine._session import Session as Session
from trio_tsconnect.engine._transaction import Transaction as Transaction
from trio_tsconnect.engine._tree import TreeNode as TreeNode
