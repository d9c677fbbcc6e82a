"""Header fields: ordered, case-insensitive, multi-valued. Names keep the case in which they were written.

Invariant: no `Headers` object holds a name or value that is invalid on the wire. The public methods validate their input and raise at the
line that passed it. Only `from_parsed` and `put` trust their caller, who must have validated the field.

Names and values are stored as bytes, because bytes are read and written. They are returned as `str`, decoded as ISO-8859-1, which maps
every byte to one character and back (RFC 9110 §5.5). A lookup is a linear search: for the ten or so fields of a real message it is faster
than an index, and it keeps the order without extra cost.
"""

from __future__ import annotations

import re
from collections.abc import Container, Iterable, Iterator, Mapping
from functools import lru_cache
from typing import TypeAlias, TypeVar, overload

from trio_tsconnect._util import public

Text: TypeAlias = str | bytes
Field: TypeAlias = tuple[bytes, bytes, bytes]
HeadersInput: TypeAlias = "Headers | Mapping[str, str] | Mapping[str, bytes] | Mapping[bytes, bytes] | Iterable[tuple[Text, Text]]"

_T = TypeVar("_T")

# RFC 9110 §5.6.2: token = 1*tchar
TCHARS = b"!#$%&'*+-.^_`|~0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz"
# RFC 9110 §5.5: field-vchar = VCHAR / obs-text, with SP and HTAB in between. All other control characters are invalid, and rejected.
VALUE_BYTES = bytes([0x09, *range(0x20, 0x7F), *range(0x80, 0x100)])

_BLANK = b" \t"
_NONE: frozenset[bytes] = frozenset()
_SHORT = 128
_MEMBER = re.compile(r'(?:[^",]|"(?:[^"\\]|\\.)*"?)+')


@public("trio_tsconnect.message")
def is_token(name: bytes) -> bool:
    """Return True if `name` is a token (RFC 9110 §5.6.2)."""
    return name != b"" and not name.translate(None, TCHARS)


# The caches hold only short keys of the exact types str and bytes. An instance of a subclass may equal a different value, and may keep
# other objects alive.


@lru_cache(maxsize=2048)
def _lower_short(name: str) -> bytes:
    return _lower_text(name)


def _lower_text(name: str) -> bytes:
    # A character outside ISO-8859-1 becomes "?", which no field name can contain: the lookup finds nothing.
    return name.encode("latin-1", "replace").lower()


def _lower(name: Text) -> bytes:
    if type(name) is str and len(name) < _SHORT:
        return _lower_short(name)
    return _lower_text(name) if isinstance(name, str) else name.lower()


def _checked(name: Text, value: Text) -> Field:
    if type(name) is str and type(value) is str and len(name) + len(value) < _SHORT:
        return _text_field(name, value)
    if type(name) is bytes and type(value) is bytes and len(name) + len(value) < _SHORT:
        return _bytes_field(name, value)
    return _check(name, value)


# Programs write mostly the same fields into every head. Two functions, because a str and its bytes have the same hash.
@lru_cache(maxsize=1024)
def _text_field(name: str, value: str) -> Field:
    return _check(name, value)


@lru_cache(maxsize=1024)
def _bytes_field(name: bytes, value: bytes) -> Field:
    return _check(name, value)


def _check(name: Text, value: Text) -> Field:
    if isinstance(name, str):
        raw = name.encode("latin-1", "replace")
    elif isinstance(name, bytes):
        raw = name
    else:
        raise TypeError(f"a field name must be str or bytes, not {type(name).__name__}")
    if not is_token(raw):
        raise ValueError(f"field name {_shown(raw)} is not a token (RFC 9110 §5.1)")
    return raw, raw.lower(), _checked_value(raw, value)


def _checked_value(name: bytes, value: Text) -> bytes:
    if isinstance(value, str):
        try:
            raw = value.encode("latin-1")
        except UnicodeEncodeError as error:
            raise ValueError(f"the value of field {_shown(name)} has a character outside ISO-8859-1 (RFC 9110 §5.5)") from error
    elif isinstance(value, bytes):
        raw = value
    else:
        raise TypeError(f"the value of field {_shown(name)} must be str or bytes, not {type(value).__name__}")
    if raw.translate(None, VALUE_BYTES) or (raw and (raw[0] in _BLANK or raw[-1] in _BLANK)):
        raise ValueError(f"the value of field {_shown(name)} {_value_offence(raw)} (RFC 9110 §5.5)")
    return raw


def _value_offence(value: bytes) -> str:
    bad = value.translate(None, VALUE_BYTES)
    if bad:
        return f"has the control character {bad[:1]!r}"
    return "begins or ends with a space or tab"


def _shown(name: bytes) -> str:
    text = name[:60].decode("latin-1")
    return repr(text + "..." if len(name) > 60 else text)


@public("trio_tsconnect")
class Headers:
    """The fields of one message: ordered, case-insensitive, multi-valued, mutable. Names keep the case in which they were written.

    Names and values are passed as `str` (ISO-8859-1) or `bytes`, and returned as `str`. A name that is not a token, and a value with a
    control character or with outer white space, raise a ValueError that names the field. `len` and iteration count field *lines*.
    `headers[name]` is all values of that name, joined by `", "` (RFC 9110 §5.3).

    >>> headers = Headers([("Accept", "text/html"), ("accept", "text/plain")])
    >>> headers["ACCEPT"]
    'text/html, text/plain'
    >>> headers["Accept"] = "*/*"
    >>> headers.items()
    [('Accept', '*/*')]
    """

    __slots__ = ("claimed", "fields")

    fields: list[Field]
    """(name as written, name in lower case, value) of each line, for fast reading. Change it through the methods, which validate."""
    claimed: frozenset[bytes]
    """The names, in lower case, that were passed to `claim`."""

    def __init__(self, items: HeadersInput = ()) -> None:
        self.claimed = _NONE
        if isinstance(items, Headers):
            self.fields, self.claimed = list(items.fields), items.claimed
            return
        # The check for a list comes first: an isinstance check of an abstract class takes as long as two fields.
        pairs: Iterable[tuple[Text, Text]] = items.items() if not isinstance(items, (list, tuple)) and isinstance(items, Mapping) else items
        self.fields = [_checked(name, value) for name, value in pairs]

    @classmethod
    def from_parsed(cls, fields: list[Field]) -> Headers:
        """Wrap a list of (raw name, lower-case name, value) without copying or validating it. The caller must have validated it."""
        headers = cls.__new__(cls)
        headers.fields = fields
        headers.claimed = _NONE
        return headers

    def __getitem__(self, name: Text) -> str:
        values = self._values(_lower(name))
        if not values:
            raise KeyError(name)
        return (values[0] if len(values) == 1 else b", ".join(values)).decode("latin-1")

    def __setitem__(self, name: Text, value: Text) -> None:
        self.put(_checked(name, value))

    def put(self, field: Field) -> None:
        """Do what `headers[name] = value` does, without validation. The caller must have validated the field."""
        lower, fields = field[1], self.fields
        names = [each[1] for each in fields]
        if lower not in names:
            fields.append(field)
            return
        position = names.index(lower)
        fields[position] = field
        if lower in names[position + 1 :]:
            fields[position + 1 :] = [each for each in fields[position + 1 :] if each[1] != lower]

    def __delitem__(self, name: Text) -> None:
        lower = _lower(name)
        if not self._values(lower):
            raise KeyError(name)
        self.remove((lower,))

    def __contains__(self, name: object) -> bool:
        if not isinstance(name, (str, bytes)):
            return False
        return _lower(name) in [field[1] for field in self.fields]

    def __len__(self) -> int:
        return len(self.fields)

    def __iter__(self) -> Iterator[str]:
        return iter(self.keys())

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, Headers):
            return NotImplemented
        return [field[1:] for field in self.fields] == [field[1:] for field in other.fields]

    def __repr__(self) -> str:
        shown = ", ".join(f"{name}: {value if len(value) <= 40 else value[:37] + '...'}" for name, value in self.items()[:12])
        more = f", and {len(self) - 12} more" if len(self) > 12 else ""
        return f"<Headers {shown}{more}>" if self.fields else "<Headers empty>"

    def _values(self, lower: bytes) -> list[bytes]:
        return [field[2] for field in self.fields if field[1] == lower]

    @overload
    def get(self, name: Text) -> str | None: ...
    @overload
    def get(self, name: Text, default: _T) -> str | _T: ...
    def get(self, name: Text, default: _T | None = None) -> str | _T | None:
        """Return all values of this name joined by ", ", or `default`."""
        values = self._values(_lower(name))
        if not values:
            return default
        return (values[0] if len(values) == 1 else b", ".join(values)).decode("latin-1")

    def raw_value(self, name: bytes) -> bytes | None:
        """Return what `get` returns, not decoded; None if there is no such field. `name` must be in lower case."""
        found: bytes | None = None
        for _, lower, value in self.fields:
            if lower == name:
                found = value if found is None else found + b", " + value
        return found

    def get_all(self, name: Text) -> list[str]:
        """Return the value of each line of this name, in order."""
        return [value.decode("latin-1") for value in self._values(_lower(name))]

    def add(self, name: Text, value: Text) -> None:
        """Append one line. Other lines of this name stay."""
        self.fields.append(_checked(name, value))

    def setdefault(self, name: Text, value: Text) -> str:
        """Add the field if the name is absent. Return its value, as `headers[name]` does."""
        if name not in self:
            self.add(name, value)
        return self[name]

    @overload
    def pop(self, name: Text) -> str | None: ...
    @overload
    def pop(self, name: Text, default: _T) -> str | _T: ...
    def pop(self, name: Text, default: _T | None = None) -> str | _T | None:
        """Remove all lines of this name. Return what `get` would have returned: `default` (None) if there were none."""
        value = self.get(name)
        if value is None:
            return default
        self.remove((_lower(name),))
        return value

    def remove(self, lowercase_names: Container[bytes]) -> None:
        """Remove every line whose lower-case name is in the container. Absent names are ignored."""
        for field in self.fields:
            if field[1] in lowercase_names:
                self.fields = [each for each in self.fields if each[1] not in lowercase_names]
                return

    def claim(self, *names: Text) -> None:
        """Reserve these names for the proxy: remove the fields of these names, also if spelled with underscores for hyphens. Later fields
        are kept.

        The proxy also drops trailers of these names when it forwards the message.
        """
        lower = {_lower(name) for name in names}
        self.claimed |= lower
        self.fields = [field for field in self.fields if field[1] not in lower and field[1].replace(b"_", b"-") not in lower]

    def keys(self) -> list[str]:
        """Return the name of each line, as written. A name is repeated if its lines are."""
        return [field[0].decode("latin-1") for field in self.fields]

    def items(self) -> list[tuple[str, str]]:
        """Return (name as written, value) of each line, in order."""
        return [(raw.decode("latin-1"), value.decode("latin-1")) for raw, _, value in self.fields]

    def raw(self) -> list[tuple[bytes, bytes]]:
        """Return (name as written, value) of each line, in order, as bytes."""
        return [(raw, value) for raw, _, value in self.fields]

    def copy(self) -> Headers:
        """Return another `Headers` with the same lines and claimed names."""
        return Headers(self)

    def tokens(self, name: Text) -> list[str]:
        """Return the members, in lower case, of the comma-separated list that all lines of this name form (RFC 9110 §5.6.1).

        Empty members are dropped, as RFC 9110 requires. A comma inside a quoted string does not separate members.
        """
        values = self._values(_lower(name))
        if not values:
            return []
        return [member.lower() for value in values for member in split_list(value.decode("latin-1"))]


@public("trio_tsconnect.message")
def split_list(value: str) -> list[str]:
    """Return the non-empty members of a comma-separated list. Commas inside quoted strings do not separate members (RFC 9110 §5.6.1)."""
    members = _MEMBER.findall(value) if '"' in value else value.split(",")
    return [stripped for member in members if (stripped := member.strip(" \t"))]
