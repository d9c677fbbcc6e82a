"""Expressions that select records: `status >= 500 and tag = "h2"`. Invariant: the SQL and the predicate of an expression select the same.

A comparison is true or false, never unknown: a missing value equals null and nothing else, and has no order.

    expression = term {"or" term}         term = factor {"and" factor}
    factor     = "not" factor | "(" expression ")" | name operator value | name ["not"] "in" "(" value {"," value} ")"
    operator   = "=" | "!=" | "<" | "<=" | ">" | ">="
    value      = "text" | number | true | false | null
"""

from __future__ import annotations

import json
import math
import operator
import re
from collections.abc import Callable, Iterator, Mapping
from datetime import UTC, datetime
from typing import Any

import attrs

from trio_tsconnect._util import public
from trio_tsconnect.log import LogRecord
from trio_tsconnect.logstats._fields import Kind, kind_of

Value = str | int | float | bool | None
Predicate = Callable[[LogRecord | Mapping[str, Any]], bool]

_TOKEN = re.compile(
    r"""\s*(?:
        (?P<text>"(?:[^"\\]|\\.)*")
      | (?P<number>-?\d+(?:\.\d+)?(?:[eE][-+]?\d+)?)(?![\w.])
      | (?P<name>[A-Za-z_][\w#-]*(?:\.[\w#-]+)*)
      | (?P<sign><=|>=|!=|[=<>(),])
    )""",
    re.VERBOSE,
)
_ORDERS: dict[str, Callable[[Any, Any], bool]] = {"<": operator.lt, "<=": operator.le, ">": operator.gt, ">=": operator.ge}
_WORDS: dict[str, Value] = {"true": True, "false": False, "null": None}
_DEEPEST = 100


class WhereError(ValueError):
    """An expression is invalid. The text is one line for the user."""


@attrs.frozen
class Compare:
    """A field compared with one value."""

    path: tuple[str, ...]
    """The dotted name of the field."""
    sign: str
    """The operator."""
    value: Value
    """The value. That of a time is a `datetime` in `moment`."""
    kind: Kind
    """The kind of the field."""
    moment: datetime | None = None
    """The value of a time."""


@attrs.frozen
class Not:
    """The negation of an expression."""

    inner: Expression
    """The expression."""


@attrs.frozen
class Both:
    """Two expressions, of which both or one must be true."""

    word: str
    """``and`` or ``or``."""
    left: Expression
    """The first."""
    right: Expression
    """The second."""


Expression = Compare | Not | Both


def parse(text: str) -> Expression:
    """Parse an expression. Raises `WhereError`."""
    return _Parser(text).whole()


@public("trio_tsconnect.logstats")
def check_where(text: str) -> None:
    """Raise `ValueError`, with one line for the user, if `text` is not an expression for `where`."""
    parse(text)


def names_in(expression: Expression) -> Iterator[str]:
    """Yield the first part of the name of each field in an expression."""
    match expression:
        case Compare():
            yield expression.path[0]
        case Not():
            yield from names_in(expression.inner)
        case Both():
            yield from names_in(expression.left)
            yield from names_in(expression.right)


# --- the parser ---------------------------------------------------------------------------------------------------------------


class _Parser:
    def __init__(self, text: str) -> None:
        self._text = text
        self._tokens = list(_tokens(text))
        self._at = 0
        self._depth = 0

    def whole(self) -> Expression:
        found = self._either()
        if self._peek()[1]:
            raise self._expected("and, or, or the end")
        return found

    def _either(self) -> Expression:
        found = self._both()
        while self._takes("or"):
            found = Both("or", found, self._both())
        return found

    def _both(self) -> Expression:
        found = self._factor()
        while self._takes("and"):
            found = Both("and", found, self._factor())
        return found

    def _factor(self) -> Expression:
        self._depth += 1
        if self._depth > _DEEPEST:
            raise WhereError(f"more than {_DEEPEST} nested parentheses or not")
        try:
            if self._takes("not"):
                return Not(self._factor())
            if self._takes("("):
                found = self._either()
                self._require(")")
                return found
            return self._comparison()
        finally:
            self._depth -= 1

    def _comparison(self) -> Expression:
        kind, name = self._next()
        if kind != "name" or name in {"and", "or", "in", *_WORDS}:
            raise self._expected("the name of a field", back=1)
        path = tuple(name.split("."))
        try:
            of = kind_of(path)
        except ValueError as error:
            raise WhereError(str(error)) from None
        if self._takes("not"):
            self._require("in")
            return Not(self._list(path, of))
        if self._takes("in"):
            return self._list(path, of)
        sign = self._next()[1]
        if sign not in {"=", "!=", *_ORDERS}:
            raise self._expected("=, !=, <, <=, >, >= or in", back=1)
        return _compare(path, sign, self._value(), of)

    def _list(self, path: tuple[str, ...], kind: Kind) -> Expression:
        self._require("(")
        found: Expression = _compare(path, "=", self._value(), kind)
        while self._takes(","):
            found = Both("or", found, _compare(path, "=", self._value(), kind))
        self._require(")")
        return found

    def _value(self) -> Value:
        kind, token = self._next()
        if kind == "text":
            try:
                return str(json.loads(token, strict=False))
            except ValueError:
                raise self._expected("a string with the escapes of JSON", back=1) from None
        if kind == "number":
            return _number(token)
        if kind == "name" and token in _WORDS:
            return _WORDS[token]
        raise self._expected('a "string", a number, true, false or null', back=1)

    def _peek(self) -> tuple[str, str]:
        return self._tokens[min(self._at, len(self._tokens) - 1)]

    def _next(self) -> tuple[str, str]:
        token = self._peek()
        self._at += 1
        return token

    def _takes(self, word: str) -> bool:
        found = self._peek() in {("name", word), ("sign", word)}
        self._at += found
        return found

    def _require(self, word: str) -> None:
        if not self._takes(word):
            raise self._expected(repr(word))

    def _expected(self, what: str, *, back: int = 0) -> WhereError:
        token = self._tokens[min(self._at - back, len(self._tokens) - 1)][1]
        return WhereError(f"expected {what}, not {token!r}" if token else f"expected {what} at the end of {self._text!r}")


def _tokens(text: str) -> Iterator[tuple[str, str]]:
    position, end = 0, len(text.rstrip())
    while position < end:
        found = _TOKEN.match(text, position)
        if found is None:
            raise WhereError(f"cannot read {text[position:end].strip()!r}")
        yield found.lastgroup or "", found[found.lastgroup or 0]
        position = found.end()
    yield "", ""


def _number(token: str) -> int | float:
    try:
        found = int(token) if re.fullmatch(r"-?\d{1,18}", token) else float(token)
    except ValueError:  # pragma: no cover - the pattern allows no other numbers
        raise WhereError(f"{token} is no number") from None
    if not math.isfinite(found):
        raise WhereError(f"{token} is too large")
    return found


def _compare(path: tuple[str, ...], sign: str, value: Value, kind: Kind) -> Compare:
    """Check that field, operator and value go together."""
    name = ".".join(path)
    if sign in _ORDERS and (value is None or isinstance(value, bool) or kind is Kind.BOOL):
        raise WhereError(f"{name} {sign} {json.dumps(value)}: only numbers, times and text have an order")
    fits = {
        Kind.INT: isinstance(value, int | float) and not isinstance(value, bool),
        Kind.FLOAT: isinstance(value, int | float) and not isinstance(value, bool),
        Kind.TEXT: isinstance(value, str),
        Kind.TIME: isinstance(value, str),
        Kind.BOOL: isinstance(value, bool),
        Kind.ANY: True,
    }[kind]
    if value is not None and not fits:
        raise WhereError(f"{name} is {kind.value}, and is compared with {json.dumps(value)}")
    moment = None
    if kind is Kind.TIME and isinstance(value, str):
        moment = as_moment(value)
        if moment is None:
            raise WhereError(f'{name} is a time such as "2026-11-22T20:55:04Z", not {json.dumps(value)}')
    return Compare(path, sign, value, kind, moment)


def as_moment(text: object) -> datetime | None:
    """Return an ISO time as a datetime in UTC, which it is taken to be in if it does not say; None if it is none."""
    try:
        found = datetime.fromisoformat(str(text))
        return (found if found.tzinfo else found.replace(tzinfo=UTC)).astimezone(UTC)
    except (ValueError, OverflowError):
        return None


# --- as a function ------------------------------------------------------------------------------------------------------------


def to_predicate(expression: Expression) -> Predicate:
    """Return a function that says whether a record, or its fields by JSON names, is selected."""
    test = _test(expression)
    return lambda record: test(record.as_dict() if isinstance(record, LogRecord) else record)


def _test(expression: Expression) -> Callable[[Mapping[str, Any]], bool]:
    match expression:
        case Not(inner):
            test = _test(inner)
            return lambda fields: not test(fields)
        case Both(word, left, right):
            first, second = _test(left), _test(right)
            if word == "and":
                return lambda fields: first(fields) and second(fields)
            return lambda fields: first(fields) or second(fields)
        case Compare(path, sign, value):
            wanted = value if expression.moment is None else expression.moment
            same, reads = _class(wanted), expression.kind is Kind.TIME
            compare: Callable[[Any, Any], bool] = _ORDERS.get(sign, operator.eq)

            def holds(fields: Mapping[str, Any]) -> bool:
                found = _look_up(fields, path)
                if reads:
                    found = as_moment(found)
                return _class(found) == same and compare(found, wanted)

            return holds if sign != "!=" else lambda fields: not holds(fields)
    raise AssertionError(expression)


def _class(value: object) -> str:
    """Return what a value can be compared with: a truth value is no number here."""
    if value is None or isinstance(value, bool):
        return type(value).__name__
    return "number" if isinstance(value, int | float) else type(value).__name__


def _look_up(fields: Mapping[str, Any], path: tuple[str, ...]) -> Any:
    found: Any = fields
    for name in path:
        found = found.get(name) if isinstance(found, Mapping) else None
    return found


# --- as SQL -------------------------------------------------------------------------------------------------------------------


def to_sql(expression: Expression) -> str:
    """Return the expression as a condition in DuckDB's SQL."""
    match expression:
        case Not(inner):
            return f"(NOT {to_sql(inner)})"
        case Both(word, left, right):
            return f"({to_sql(left)} {word.upper()} {to_sql(right)})"
        case Compare(sign="!="):
            return f"(NOT {_holds(expression)})"
        case Compare():
            return _holds(expression)
    raise AssertionError(expression)


def _holds(compare: Compare) -> str:
    column = _column(compare)
    value = literal(compare.value)
    if compare.kind is Kind.ANY:
        return _holds_any(column, compare, value)
    if compare.value is None:
        return f"({column} IS NULL)"
    if compare.moment is not None:
        value = f"TIMESTAMP {literal(compare.moment.replace(tzinfo=None).isoformat(' '))}"
    return f"coalesce({column} {compare.sign if compare.sign != '!=' else '='} {value}, false)"


def _column(compare: Compare) -> str:
    first, *rest = compare.path
    if compare.kind is Kind.ANY:
        return f"json_extract({_quoted(first)}, {_json_path(rest)})"
    if first in {"request_headers", "response_headers"}:
        return f"json_extract_string({_quoted(first)}, {_json_path(rest)})"
    return ".".join(map(_quoted, compare.path))


def _holds_any(column: str, compare: Compare, value: str) -> str:
    """Compare a JSON value, whose type is known only when it is read."""
    sign = compare.sign if compare.sign in _ORDERS else "="
    kind = f"coalesce(json_type({column}), 'NULL')"
    text = f"json_extract_string({column}, '$')"
    match compare.value:
        case None:
            return f"({kind} = 'NULL')"
        case bool():
            return f"({kind} = 'BOOLEAN' AND {text} = '{str(compare.value).lower()}')"
        case str():
            return f"({kind} = 'VARCHAR' AND {text} {sign} {value})"
    numbers = "'BIGINT', 'UBIGINT', 'HUGEINT', 'DOUBLE'"
    return f"({kind} IN ({numbers}) AND coalesce(TRY_CAST({text} AS DOUBLE) {sign} CAST({value} AS DOUBLE), false))"


def _json_path(names: list[str]) -> str:
    return literal("$" + "".join(f'."{name}"' for name in names))


def _quoted(name: str) -> str:
    return f'"{name}"'


def literal(value: Value) -> str:
    """Return a value as SQL writes it."""
    match value:
        case None:
            return "NULL"
        case bool():
            return str(value).lower()
        case str():
            return "'" + value.replace("'", "''") + "'"
        case float():
            return f"CAST('{value!r}' AS DOUBLE)"
    return str(value)
