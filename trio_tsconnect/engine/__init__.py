"""The engine: sessions and their transactions, from the first byte of a client to the log record."""

from trio_tsconnect.engine._open import open_proxy as open_proxy
