"""HTTP clients of others that ride `connect()`: each a transport for a library that its extra installs."""

from trio_tsconnect.clients._extras import HttpxTransport as HttpxTransport
