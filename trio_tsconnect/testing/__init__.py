"""Tools for tests of clients and servers, which run the real engine in memory."""

from trio_tsconnect.testing._answer import Answer as Answer
from trio_tsconnect.testing._answer import Fault as Fault
from trio_tsconnect.testing._exchange import ExchangeFailed as ExchangeFailed
from trio_tsconnect.testing._exchange import Reply as Reply
from trio_tsconnect.testing._exchange import exchange as exchange
from trio_tsconnect.testing._growing import Growing as Growing
from trio_tsconnect.testing._origin import OriginRequest as OriginRequest
from trio_tsconnect.testing._origin import ScriptedOrigin as ScriptedOrigin
