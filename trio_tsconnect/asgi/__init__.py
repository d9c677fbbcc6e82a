"""An ASGI application as an origin in this process, on trio or on an asyncio loop of its own."""

from trio_tsconnect.asgi._origin import AsgiOrigin as AsgiOrigin
from trio_tsconnect.asgi._origin import AsgiPlugin as AsgiPlugin
from trio_tsconnect.asgi._origin import LifespanFailed as LifespanFailed
from trio_tsconnect.asgi._scheme import load_application as load_application
from trio_tsconnect.asgi._types import ClientDisconnected as ClientDisconnected
