"""An ASGI application as the origin, in this process: on trio, or on an asyncio loop in its own thread."""

from trio_tsconnect.asgi._origin import AsgiOrigin as AsgiOrigin
from trio_tsconnect.asgi._origin import AsgiPlugin as AsgiPlugin
from trio_tsconnect.asgi._origin import LifespanFailed as LifespanFailed
from trio_tsconnect.asgi._scheme import load_application as load_application
from trio_tsconnect.asgi._types import ClientDisconnected as ClientDisconnected
