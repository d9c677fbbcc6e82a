"""HPACK (RFC 7541), as this front end wants it of the library that h2 uses.

The law: what a peer may make us remember is bounded here, whatever it announces or permits.

Requests and responses of one connection repeat themselves. Once all fields of a head are in the table, the next head like it is the same few
bytes, for as long as the table does not change; so the last heads are kept beside the table, and forgotten when it changes.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from hpack import Decoder, Encoder
from hpack.table import HeaderTable

Pair = tuple[bytes, bytes]

MAX_TABLE = 4096
"""RFC 9113 §6.5.2: the size that every table has to begin with. Ours are never larger: it is our memory, and the time of each look-up."""
_MOST_KEPT = 64
_MOST_KEPT_BYTES = 65536
"""Of fields, decoded: an index of one byte stands for a field of any size."""

_STAND_IN = [(b":method", b"GET")]


class _Table(HeaderTable):
    """Tells when it has changed."""

    def __init__(self) -> None:
        super().__init__()
        self.changes = 0

    def add(self, name: bytes, value: bytes) -> None:
        self.changes += 1
        super().add(name, value)


class Fields(list[Pair]):
    """The fields of one head."""

    __slots__ = ("made",)

    def __init__(self, fields: Iterable[Pair]) -> None:
        super().__init__(fields)
        self.made: dict[bool, Any] = {}
        """What was made of them for a request without a body (True) and for one with (False): the next head like it is the same request."""


def _size(fields: Iterable[Pair]) -> int:
    return sum([len(name) + len(value) for name, value in fields])


class FieldDecoder(Decoder):
    """Keeps the fields that it decoded; who asked, which is h2, gets a head that there is nothing to say about."""

    def __init__(self, max_header_list_size: int) -> None:
        self._most = max_header_list_size
        super().__init__(max_header_list_size)
        self.header_table: _Table = _Table()
        self.fields: Fields = Fields(())
        """The fields of the head that was decoded last."""
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
        if self._kept_at == table.changes and len(self._kept) < _MOST_KEPT and len(data) < MAX_TABLE:
            size = _size(self.fields)
            if self._kept_bytes + size <= _MOST_KEPT_BYTES:
                self._kept_bytes += size
                self._kept[data] = self.fields
        return _STAND_IN

    @property
    def max_header_list_size(self) -> int:
        """What ends the connection. What was announced is less: a head between the two is answered with 431."""
        return self._most

    @max_header_list_size.setter
    def max_header_list_size(self, value: int) -> None:
        """h2 sets what was announced."""

    @property
    def header_table_size(self) -> int:
        return self.header_table.maxsize

    @header_table_size.setter
    def header_table_size(self, value: int) -> None:
        self.header_table.maxsize = value
        self.header_table.changes += 1


class SmallEncoder(Encoder):
    """Never uses more of its table than every peer has to have."""

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
            return  # the library would forget a change before this one that it has not told yet
        self.header_table.maxsize = value
        self.header_table.changes += 1
        if self.header_table.resized:
            # RFC 7541 §4.2: of all changes since the last head the smallest size is told, and the last
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
        if self._kept_at == table.changes and not resized and len(self._kept) < _MOST_KEPT and len(block) < MAX_TABLE:
            size = _size(key)
            if self._kept_bytes + size <= _MOST_KEPT_BYTES:
                self._kept_bytes += size
                self._kept[key] = block
        return block
