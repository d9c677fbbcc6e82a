"""Transports that let third-party HTTP clients send their requests over `connect()`. Each needs the extra that installs its library."""

from trio_tsconnect.clients._extras import HttpxTransport as HttpxTransport
