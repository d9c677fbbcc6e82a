"""Filters: small expressions over the fields of a record, such as ``status >= 500 and tag = "h2"``.

Invariant: a filter that was parsed never raises. A comparison with a missing value, or of values that have no order, is false.

    expression  = term, { "or", term }
    term        = factor, { "and", factor }
    factor      = "not", factor | "(", expression, ")" | comparison
    comparison  = value, [ operator, value | [ "not" ], "in", ( list | value ) ]
    list        = "(", value, { ",", value }, ")"
    operator    = "=" | "==" | "!=" | "<" | "<=" | ">" | ">="
    value       = field | text in quotes | number | "true" | "false" | "null"

A field alone is true if it has a value that is not false, 0 or empty. `a in b` is true if the text `a` is a part of the text `b`.
"""

from __future__ import annotations

import operator
import re
from collections.abc import Callable, Mapping
from typing import Any

import attrs

from trio_tsconnect._util import did_you_mean, public
from trio_tsconnect.log._fields import BY_NAME, MILESTONES, Kind, getter, seconds_taken, unix_time
from trio_tsconnect.log._record import LogRecord

Record = LogRecord | Mapping[str, Any]
Predicate = Callable[[Record], bool]

_TOKEN = re.compile(
    r"""\s*(?:(?P<text>"(?:[^"\\]|\\.)*"|'(?:[^'\\]|\\.)*')|(?P<number>-?\d+(?:\.\d+)?(?:[eE][+-]?\d+)?)(?![\w.])"""
    r"""|(?P<name>[A-Za-z_][\w-]*(?:\.[\w-]+)*)|(?P<sign><=|>=|!=|==|[=<>(),]))""",
    re.DOTALL,
)
_WORDS = frozenset({"and", "or", "not", "in", "true", "false", "null"})
_SIGNS: dict[str, Callable[[Any, Any], Any]] = {
    "=": operator.eq,
    "==": operator.eq,
    "!=": operator.ne,
    "<": operator.lt,
    "<=": operator.le,
    ">": operator.gt,
    ">=": operator.ge,
}
_ORDERS = frozenset({"<", "<=", ">", ">="})
_DEEPEST = 50
_NAMES = (*BY_NAME, "duration", "ended.by", "ended.why", "ended.state")


@public("trio_tsconnect.log")
class FilterError(ValueError):
    """A filter cannot be parsed. The message says where, what is wrong and what is expected."""

    def __init__(self, problem: str, position: int) -> None:
        super().__init__(f"position {position}: {problem}")
        self.problem = problem
        """What is wrong and what is expected."""
        self.position = position
        """Where, counted in characters from 1."""


@attrs.frozen
class _Token:
    kind: str
    text: str
    at: int


@attrs.frozen
class _Value:
    get: Callable[[Record], Any]
    kind: Kind | None
    """Type of the values; None if it is not known before."""
    at: int
    literal: bool = False


@public("trio_tsconnect.log")
def parse_filter(text: str) -> Callable[[LogRecord | Mapping[str, Any]], bool]:
    """Return a function that tells whether a record matches the expression. Raises `FilterError`.

    The function accepts a `LogRecord`, or a record that was read from a log, and gives the same result for both.

    >>> parse_filter('status >= 500 or ended.why != "complete"')(LogRecord(status=502))
    True
    """
    return _Parser(text).whole()


class _Parser:
    def __init__(self, text: str) -> None:
        self._tokens = _tokens(text)
        self._next = 0
        self._depth = 0

    def whole(self) -> Predicate:
        found = self._expression()
        if self._here.kind != "end":
            raise self._fault("expected and, or, or the end")
        return found

    @property
    def _here(self) -> _Token:
        return self._tokens[self._next]

    def _fault(self, expected: str) -> FilterError:
        token = self._here
        return FilterError(f"{f'{token.text} is not expected here' if token.text else 'the expression ends here'}, {expected}", token.at)

    def _take(self, *texts: str) -> _Token | None:
        token = self._here
        if token.kind in ("word", "sign") and token.text in texts:
            self._next += 1
            return token
        return None

    def _expression(self) -> Predicate:
        parts = [self._term()]
        while self._take("or"):
            parts.append(self._term())
        return parts[0] if len(parts) == 1 else lambda record: any(part(record) for part in parts)

    def _term(self) -> Predicate:
        parts = [self._factor()]
        while self._take("and"):
            parts.append(self._factor())
        return parts[0] if len(parts) == 1 else lambda record: all(part(record) for part in parts)

    def _factor(self) -> Predicate:
        self._depth += 1
        if self._depth > _DEEPEST:
            raise FilterError(f"more than {_DEEPEST} levels of parentheses and not, expected fewer", self._here.at)
        try:
            if self._take("not"):
                inner = self._factor()
                return lambda record: not inner(record)
            if self._take("("):
                inner = self._expression()
                if not self._take(")"):
                    raise self._fault("expected )")
                return inner
            return self._comparison()
        finally:
            self._depth -= 1

    def _comparison(self) -> Predicate:
        left = self._value()
        if sign := self._take(*_SIGNS):
            return _compare(left, sign, self._value())
        if self._take("not"):
            if not self._take("in"):
                raise self._fault("expected in")
            inside = self._membership(left)
            return lambda record: not inside(record)
        if self._take("in"):
            return self._membership(left)
        get = left.get
        return lambda record: bool(get(record))

    def _membership(self, left: _Value) -> Predicate:
        if not self._take("("):
            return _part_of(left, self._value())
        values = [self._value()]
        while self._take(","):
            values.append(self._value())
        if not self._take(")"):
            raise self._fault("expected , or )")
        tests = [_compare(left, _Token("sign", "=", value.at), value) for value in values]
        return lambda record: any(test(record) for test in tests)

    def _value(self) -> _Value:
        token = self._here
        self._next += 1
        match token.kind, token.text:
            case "text", text:
                return _literal(re.sub(r"\\(.)", r"\1", text[1:-1], flags=re.DOTALL), "text", token.at)
            case "number", text:
                whole = re.fullmatch(r"-?\d{1,18}", text)
                return _literal(int(text) if whole else float(text), "number", token.at)
            case "word", "true" | "false" as text:
                return _literal(text == "true", "true or false", token.at)
            case "word", "null":
                return _literal(None, None, token.at)
            case "name", name:
                return _field(name, token.at)
        self._next -= 1
        raise self._fault("expected a field, text in quotes, or a number")


def _tokens(text: str) -> list[_Token]:
    tokens: list[_Token] = []
    at = 0
    end = len(text.rstrip())
    while at < end:
        found = _TOKEN.match(text, at)
        if found is None:
            start = at + len(text[at:]) - len(text[at:].lstrip())
            raise FilterError(f"{text[start]!r} is not expected here, expected a field, a value or an operator", start + 1)
        kind = found.lastgroup or ""
        part = found[kind]
        tokens.append(_Token("word" if kind == "name" and part in _WORDS else kind, part, found.start(kind) + 1))
        at = found.end()
    return [*tokens, _Token("end", "", end + 1)]


def _literal(value: object, kind: Kind | None, at: int) -> _Value:
    return _Value(lambda _record: value, kind, at, literal=True)


def _field(path: str, at: int) -> _Value:
    first, *rest = path.split(".")
    if path == "duration":
        return _Value(_duration, "number", at)
    field = BY_NAME.get(first)
    if field is None or (rest and field.kind != "table"):
        raise FilterError(f"there is no field {path}{did_you_mean(path, _NAMES)}", at)
    known = MILESTONES if field.name in ("milestones", "deadline_left") else field.members
    if rest and known is not None and (len(rest) > 1 or rest[0] not in known):
        raise FilterError(f"there is no field {path}{did_you_mean(path, [f'{first}.{name}' for name in known])}", at)
    if first.endswith("_headers") and rest:
        rest = [".".join(rest).lower()]
    kind = _kind_of(field.kind, field.unit, field.members, rest)
    get = getter([first, *rest])
    return _Value(lambda record: unix_time(get(record)), "time", at) if kind == "time" else _Value(get, kind, at)


def _kind_of(kind: Kind, unit: str, members: tuple[str, ...] | None, rest: list[str]) -> Kind | None:
    if kind != "table" or not rest:
        return kind
    return "number" if unit else "text" if members else None


def _duration(record: Record) -> float | None:
    if isinstance(record, LogRecord):
        return seconds_taken(record)
    milestones = record.get("milestones")
    times = milestones.values() if isinstance(milestones, Mapping) else ()
    return max((value for value in times if isinstance(value, int | float)), default=None)


def _compare(left: _Value, sign: _Token, right: _Value) -> Predicate:
    left, right = _as_time(left, right), _as_time(right, left)
    _check_kinds(left, sign, right)
    get_left, get_right, holds = left.get, right.get, _SIGNS[sign.text]

    def test(record: Record) -> bool:
        try:
            return bool(holds(get_left(record), get_right(record)))
        except TypeError:  # a missing value, or values of a plugin that have no order
            return False

    return test


def _as_time(value: _Value, beside: _Value) -> _Value:
    """Return text that is compared with a time as a time."""
    if beside.kind != "time" or value.kind != "text" or not value.literal:
        return value
    text = value.get({})
    seconds = unix_time(text)
    if seconds is None:
        raise FilterError(f'"{text}" is not a time, expected such as "2026-11-22T20:55:04Z"', value.at)
    return _literal(seconds, "time", value.at)


_SORTS: dict[Kind | None, str] = {"whole number": "number", "number": "number", "time": "number"}


def _check_kinds(left: _Value, sign: _Token, right: _Value) -> None:
    if left.kind is None or right.kind is None:
        return
    if "table" in (left.kind, right.kind):
        table = left if left.kind == "table" else right
        raise FilterError("a table has no value of its own, expected one of its members, such as ended.why", table.at)
    one, other = _SORTS.get(left.kind, left.kind), _SORTS.get(right.kind, right.kind)
    if one != other:
        raise FilterError(f"this is {_called(other)}, expected {_called(one)}", right.at)
    if sign.text in _ORDERS and one == "true or false":
        raise FilterError(f"{sign.text} does not compare true with false, expected = or !=", sign.at)


def _called(kind: str) -> str:
    return kind if kind in ("text", "true or false") else f"a {kind}"


def _part_of(left: _Value, right: _Value) -> Predicate:
    for value in (left, right):
        if value.kind not in ("text", None):
            raise FilterError("in looks for text in text, or for a value in a list such as (200, 304)", value.at)
    get_left, get_right = left.get, right.get

    def test(record: Record) -> bool:
        one, other = get_left(record), get_right(record)
        return isinstance(one, str) and isinstance(other, str) and one in other

    return test
