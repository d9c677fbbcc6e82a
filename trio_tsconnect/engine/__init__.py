"""The machine: sessions and their transactions, from the client's first byte to the record."""

from trio_tsconnect.engine._open import open_proxy as open_proxy
