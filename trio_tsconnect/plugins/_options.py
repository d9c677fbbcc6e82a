"""attrs validators for the options of plugins. Each raises `ConfigError` with the name of the option and the value that was expected."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from trio_tsconnect import ConfigError, Headers
from trio_tsconnect.message import URL

Validator = Callable[[Any, Any, Any], None]

_NOT_TO_BE_WRITTEN = frozenset(
    ["connection", "content-length", "keep-alive", "proxy-connection", "te", "trailer", "transfer-encoding", "upgrade", "expect"],
)


def refuse(key: str, expected: str, value: object) -> ConfigError:
    """Return the error for an option with an invalid value."""
    return ConfigError(f"must be {expected}, got {value!r}", key=key)


def number(*, above: float | None = None, least: float | None = None, most: float | None = None, whole: bool = False) -> Validator:
    """Return a validator for a number: greater than `above`, at least `least`, at most `most`, and an int if `whole`."""
    bounds = [f"more than {above:g}"] if above is not None else []
    bounds += [f"{least:g} or more"] if least is not None else []
    bounds += [f"at most {most:g}"] if most is not None else []
    expected = " and ".join([f"a {'whole ' if whole else ''}number", *bounds]).replace("number and", "number,", 1)

    def check(_instance: Any, attribute: Any, value: Any) -> None:
        good = isinstance(value, int if whole else (int, float)) and not isinstance(value, bool)
        if not good or not ((above is None or value > above) and (least is None or value >= least) and (most is None or value <= most)):
            raise refuse(attribute.name, expected, value)

    return check


def status(least: int = 200) -> Validator:
    """Return a validator for an HTTP status from `least` to 599."""
    return number(least=least, most=599, whole=True)


def url(_instance: Any, attribute: Any, value: Any) -> None:
    """Validate an absolute http or https URL."""
    check_url(attribute.name, value)


def check_url(key: str, value: object) -> None:
    """Validate an absolute http or https URL that is a part of an option."""
    try:
        scheme = URL.parse(value).scheme if isinstance(value, str) else ""
    except ValueError as exc:
        raise ConfigError(f"must be a URL such as http://service.example/path: {exc}", key=key) from None
    if scheme not in ("http", "https"):
        raise refuse(key, "an http or https URL", value)


def path(_instance: Any, attribute: Any, value: Any) -> None:
    """Validate a path that begins with `/` and has no query."""
    if not isinstance(value, str) or not value.startswith("/") or any(c in value for c in "?# ") or not value.isascii():
        raise refuse(attribute.name, "a path that begins with / and has no query", value)


def field_name(_instance: Any, attribute: Any, value: Any) -> None:
    """Validate the name of a field that a plugin may write."""
    check_field(attribute.name, value, "x")


def field_names(_instance: Any, attribute: Any, value: Any) -> None:
    """Validate names of fields that a plugin may write."""
    for index, name in enumerate(value):
        check_field(f"{attribute.name}[{index}]", name, "x")


def check_field(key: str, name: object, value: object) -> None:
    """Validate a field that a plugin may write: valid name and value, and neither a framing nor a hop-by-hop field."""
    if not isinstance(name, str) or not isinstance(value, str):
        raise refuse(key, "a field name" if not isinstance(name, str) else "a string", value if isinstance(name, str) else name)
    try:
        Headers([(name, value)])
    except ValueError as exc:
        raise ConfigError(f"is not a valid field: {exc}", key=key) from None
    if name.lower() in _NOT_TO_BE_WRITTEN:
        raise ConfigError("is a hop-by-hop or framing field, expected an end-to-end field", key=key)


def one_of(*choices: str) -> Validator:
    """Return a validator for one of the strings `choices`."""

    def check(_instance: Any, attribute: Any, value: Any) -> None:
        if value not in choices:
            raise refuse(attribute.name, " or ".join(f'"{choice}"' for choice in choices), value)

    return check


def flag(_instance: Any, attribute: Any, value: Any) -> None:
    """Validate a bool."""
    if not isinstance(value, bool):
        raise refuse(attribute.name, "true or false", value)


def text(_instance: Any, attribute: Any, value: Any) -> None:
    """Validate a string."""
    if not isinstance(value, str):
        raise refuse(attribute.name, "a string", value)


def as_tuple(value: Any) -> Any:
    """Convert an iterable to a tuple, and a single string to a tuple of one."""
    return (value,) if isinstance(value, str) else tuple(value)


def statuses(*, least: int) -> Validator:
    """Return a validator for a sequence of HTTP statuses, each from `least` to 599."""

    def check(_instance: Any, attribute: Any, value: Any) -> None:
        for index, status in enumerate(value):
            if isinstance(status, bool) or not isinstance(status, int) or not least <= status <= 599:
                raise refuse(f"{attribute.name}[{index}]", f"a status within {least}..599", status)

    return check
