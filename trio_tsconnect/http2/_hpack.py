"""HPACK (RFC 7541): a decoder and an encoder for h2, with bounded memory and a cache of repeated heads.

Invariant: the memory that a peer can make us use is bounded here, whatever SETTINGS it sends. A table has at most 4096 bytes, and a cache
at most 64 heads with 65536 bytes of decoded fields.

The requests and the responses of one connection repeat. Once all fields of a head are in the dynamic table, the next equal head is encoded
as the same few bytes, as long as the table does not change. So recent heads are cached, and the cache is cleared when the table changes.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from hpack import Decoder, Encoder
from hpack.table import HeaderTable

Pair = tuple[bytes, bytes]

MAX_TABLE = 4096
"""Bytes. The default of SETTINGS_HEADER_TABLE_SIZE (RFC 9113 §6.5.2). Our tables are never larger, to bound memory and look-up time."""
_MOST_KEPT = 64
"""Heads in a cache."""
_MOST_KEPT_BYTES = 65536
"""Bytes of decoded fields in a cache. Encoded bytes would be no bound: an index of one byte may stand for a field of 4 kB."""

_STAND_IN = [(b":method", b"GET")]
"""The head that h2 gets in place of every decoded head. h2 needs no more, because `_fields` validates the real one."""


class _Table(HeaderTable):
    """A dynamic table that counts its changes."""

    def __init__(self) -> None:
        super().__init__()
        self.changes = 0

    def add(self, name: bytes, value: bytes) -> None:
        self.changes += 1
        super().add(name, value)


class Fields(list[Pair]):
    """The decoded fields of one head."""

    __slots__ = ("made",)

    def __init__(self, fields: Iterable[Pair]) -> None:
        super().__init__(fields)
        self.made: dict[bool, Any] = {}
        """Cache of `read_request`: the request head for a request without a body (True) and with one (False)."""


def _size(fields: Iterable[Pair]) -> int:
    return sum([len(name) + len(value) for name, value in fields])


class FieldDecoder(Decoder):
    """A decoder that keeps the decoded fields in `fields`, and returns a stand-in head to its caller, which is h2.

    `max_header_list_size`: bytes of a decoded head as RFC 9113 §6.5.2 counts them. A larger head raises in `decode` (an HPACK bomb).
    """

    def __init__(self, max_header_list_size: int) -> None:
        self._most = max_header_list_size
        super().__init__(max_header_list_size)
        self.header_table: _Table = _Table()
        self.fields: Fields = Fields(())
        """The fields of the last head that was decoded."""
        self._kept: dict[bytes, Fields] = {}
        self._kept_at = self._kept_bytes = 0

    def decode(self, data: bytes, raw: bool = False) -> Iterable[Any]:
        table = self.header_table
        if self._kept_at != table.changes:
            self._kept.clear()
            self._kept_at, self._kept_bytes = table.changes, 0
        elif (kept := self._kept.get(data)) is not None:
            self.fields = kept
            return _STAND_IN
        self.fields = Fields((name, value) for name, value in super().decode(data, raw=True))
        # If decoding has changed the table, these bytes may mean something else next time, so they must not be cached.
        if self._kept_at == table.changes and len(self._kept) < _MOST_KEPT and len(data) < MAX_TABLE:
            size = _size(self.fields)
            if self._kept_bytes + size <= _MOST_KEPT_BYTES:
                self._kept_bytes += size
                self._kept[data] = self.fields
        return _STAND_IN

    @property
    def max_header_list_size(self) -> int:
        """Bytes; a larger head closes the connection. The size announced in SETTINGS may be lower: a head between the two gets a 431."""
        return self._most

    @max_header_list_size.setter
    def max_header_list_size(self, value: int) -> None:
        """Ignore the value: h2 assigns the size that was announced, which is too low."""

    @property
    def header_table_size(self) -> int:
        return self.header_table.maxsize

    @header_table_size.setter
    def header_table_size(self, value: int) -> None:
        self.header_table.maxsize = value
        self.header_table.changes += 1  # a smaller table evicts entries, and cached heads may refer to them


class SmallEncoder(Encoder):
    """An encoder whose table has at most `MAX_TABLE` bytes, even if the peer permits more."""

    def __init__(self) -> None:
        super().__init__()
        self.header_table: _Table = _Table()
        self._kept: dict[tuple[Pair, ...], bytes] = {}
        self._kept_at = self._kept_bytes = 0

    @property
    def header_table_size(self) -> int:
        return self.header_table.maxsize

    @header_table_size.setter
    def header_table_size(self, value: int) -> None:
        value = min(value, MAX_TABLE)
        if value == self.header_table.maxsize:
            return  # hpack would reset `resized`, and would not signal an earlier change that is still pending
        self.header_table.maxsize = value
        self.header_table.changes += 1
        if self.header_table.resized:
            # RFC 7541 §4.2: of all changes since the last head, signal the smallest size and the last one
            least = min([value, *self.table_size_changes])
            self.table_size_changes = [value] if value == least else [least, value]

    def encode(self, headers: Iterable[Any], huffman: bool = True) -> bytes:
        table, key = self.header_table, tuple(headers)
        if self._kept_at != table.changes:
            self._kept.clear()
            self._kept_at, self._kept_bytes = table.changes, 0
        elif (kept := self._kept.get(key)) is not None:
            return kept
        resized = table.resized
        block = super().encode(key, huffman)
        # A block that signals a table size must not be repeated, and one that has changed the table would be encoded differently next time.
        if self._kept_at == table.changes and not resized and len(self._kept) < _MOST_KEPT and len(block) < MAX_TABLE:
            size = _size(key)
            if self._kept_bytes + size <= _MOST_KEPT_BYTES:
                self._kept_bytes += size
                self._kept[key] = block
        return block
