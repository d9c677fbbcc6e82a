"""Format strings with the codes of Traffic Server, such as ``%<chi> "%<cqtx>" %<pssc>``.

Invariant: a record becomes one line of printable ASCII, in which no value contains the character that follows it in the format string,
unless that is a letter or a digit. So what a client sends cannot move a column.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any

import attrs

from trio_tsconnect._util import did_you_mean, public
from trio_tsconnect.log._codes import BY_CODE
from trio_tsconnect.log._fields import BY_NAME, FIELDS, MILESTONES, getter
from trio_tsconnect.log._json import iso_time, to_json
from trio_tsconnect.log._record import LogRecord

_PLACE = re.compile(r"%<(?:\{(?P<inner>[^{}<>]*)\})?(?P<code>[A-Za-z0-9_.\-]*)>")
_TOKEN = re.compile(r"[!#$%&'*+\-.^_`|~0-9A-Za-z]+")
_SHORT = {'"': '\\"', "\\": "\\\\", "\n": "\\n", "\r": "\\r", "\t": "\\t", "\b": "\\b", "\v": "\\v"}
_UNSAFE = re.compile(r'["\\]|[^ -~]')
_OF_FIELDS = {code: field.name for field in FIELDS for code in field.codes if field.kind != "table"}
_CONTAINERS = ("cqh", "psh", "ms", "msdms")
_HEADS = {"cqh": "request_headers", "psh": "response_headers"}

Get = Callable[[LogRecord], Any]


@public("trio_tsconnect.log")
class FormatError(ValueError):
    """A format cannot be used. The message says what is wrong and what is expected."""


@attrs.frozen
class Template:
    """A compiled format string."""

    write: Callable[[LogRecord], bytes]
    """Returns the line of a record, with the line end."""
    request_headers: frozenset[str]
    """Names of the request fields that it writes, in lower case."""
    response_headers: frozenset[str]
    """Names of the response fields that it writes, in lower case."""


def escape(text: str, also: re.Pattern[str] = _UNSAFE) -> str:
    """Return text with quotes, backslashes and all but printable ASCII escaped as in Apache httpd."""
    return also.sub(_escape, text)


def _escape(found: re.Match[str]) -> str:
    text = found[0]
    return _SHORT.get(text) or "".join(f"\\x{byte:02x}" for byte in text.encode("utf-8", "surrogatepass"))


def written(value: object, unsafe: re.Pattern[str] = _UNSAFE) -> str:
    """Return a value as text in a line; "-" for None and for empty text."""
    match value:
        case None | "":
            return "-"
        case bool():
            return "1" if value else "0"
        case int():
            return f"{value:d}" if value.bit_length() < 2000 else to_json(repr(value.bit_length()))
        case str():
            return escape(value, unsafe)
        case _:
            return escape(to_json(value), unsafe)


def compile_template(text: str) -> Template:
    """Compile a format string. Raises `FormatError` for an unknown code, field or milestone, with the nearest name."""
    parts: list[str] = []
    gets: list[tuple[Get, re.Pattern[str]]] = []
    heads: dict[str, set[str]] = {"cqh": set(), "psh": set()}
    done = 0
    for place in _places(text):
        parts.append(_literal(text[done : place.start()]))
        done = place.end()
        gets.append((_get(place["inner"], place["code"], heads), _unsafe_before(text[done : done + 1])))
    tail = _literal(text[done:])
    steps = tuple(zip(parts, gets, strict=True))

    def write(record: LogRecord) -> bytes:
        text = "".join([f"{literal}{written(get(record), unsafe)}" for literal, (get, unsafe) in steps])
        return f"{text}{tail}\n".encode("ascii")

    return Template(write, frozenset(heads["cqh"]), frozenset(heads["psh"]))


def _places(text: str) -> list[re.Match[str]]:
    places = list(_PLACE.finditer(text))
    starts = {place.start() for place in places}
    for found in re.finditer("%<", text):
        if found.start() not in starts:
            raise FormatError(f"position {found.start() + 1}: the code is not complete, expected %<code> or %<{{name}}code>")
    return places


def _literal(text: str) -> str:
    if unfit := re.search(r"[^ -~\t]", text):
        raise FormatError(f"{unfit[0]!r} cannot be in a line, expected printable ASCII or a tab")
    return text


def _unsafe_before(character: str) -> re.Pattern[str]:
    """Return the pattern of what is escaped in a value that this character follows."""
    if not character or character.isalnum() or character == "%":
        return _UNSAFE
    return re.compile(f'["\\\\{re.escape(character)}]|[^ -~]')


def _get(inner: str | None, code: str, heads: dict[str, set[str]]) -> Get:
    if inner is not None:
        return _of_container(inner, code, heads)
    if code in BY_CODE:
        if code == "psct":
            heads["psh"].add("content-type")
        return BY_CODE[code].get
    name = _OF_FIELDS.get(code, code)
    first, *rest = name.split(".")
    field = BY_NAME.get(first)
    if field is None or (rest and field.kind != "table"):
        if code in _CONTAINERS:
            raise FormatError(f"%<{code}> needs a name, such as {_example(code)}")
        raise FormatError(f"unknown code %<{code}>{did_you_mean(code, [*BY_CODE, *_OF_FIELDS, *BY_NAME])}")
    _check_member(name, rest)
    for container, table in _HEADS.items():
        if table == first and rest:
            heads[container].add(name.partition(".")[2].lower())
            return _head(table, name.partition(".")[2].lower())
    return _time_of if name == "time" else getter([first, *rest])


def _check_member(name: str, rest: list[str]) -> None:
    field = BY_NAME[name.partition(".")[0]]
    if rest and field.members is not None and rest[0] not in field.members:
        raise FormatError(f"unknown field {name}{did_you_mean(rest[0], field.members)}")


def _time_of(record: LogRecord) -> str | None:
    return iso_time(record.time)


def _of_container(inner: str, code: str, heads: dict[str, set[str]]) -> Get:
    if code in _HEADS:
        if not _TOKEN.fullmatch(inner):
            raise FormatError(f"%<{{{inner}}}{code}> does not name a field, expected such as {_example(code)}")
        heads[code].add(inner.lower())
        return _head(_HEADS[code], inner.lower())
    if code in ("ms", "msdms"):
        return _milliseconds(inner, code)
    raise FormatError(f"unknown code %<{{...}}{code}>{did_you_mean(code, _CONTAINERS)}")


def _head(table: str, name: str) -> Get:
    return lambda record: (getattr(record, table) or {}).get(name)


def _milliseconds(inner: str, code: str) -> Get:
    later, minus, earlier = inner.partition("-")
    for name in (later, earlier) if minus or code == "msdms" else (later,):
        if name not in MILESTONES:
            raise FormatError(f"unknown milestone {name!r} in %<{{{inner}}}{code}>{did_you_mean(name, MILESTONES)}")

    def get(record: LogRecord) -> str | None:
        end, start = record.milestones.get(later), record.milestones.get(earlier) if minus else 0.0
        return None if end is None or start is None else f"{(end - start) * 1000:.3f}"

    return get


def _example(code: str) -> str:
    return "%<{User-Agent}" + code + ">" if code in _HEADS else "%<{send_response-remap}" + code + ">"
