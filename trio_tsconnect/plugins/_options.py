"""What the options of plugins may be, as attrs validators; each refusal names the option and what was expected of it."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from trio_tsconnect import ConfigError, Headers
from trio_tsconnect.message import TargetURI

Validator = Callable[[Any, Any, Any], None]

_NOT_TO_BE_WRITTEN = frozenset(
    ["connection", "content-length", "keep-alive", "proxy-connection", "te", "trailer", "transfer-encoding", "upgrade", "expect"],
)


def refuse(key: str, expected: str, value: object) -> ConfigError:
    """The error for an option that holds something other than what was expected."""
    return ConfigError(f"must be {expected}, got {value!r}", key=key)


def number(*, above: float | None = None, least: float | None = None, most: float | None = None, whole: bool = False) -> Validator:
    """A number within bounds."""
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
    """A final HTTP status."""
    return number(least=least, most=599, whole=True)


def url(_instance: Any, attribute: Any, value: Any) -> None:
    """An absolute URL of an HTTP origin."""
    check_url(attribute.name, value)


def check_url(key: str, value: object) -> None:
    """The same, of a part of an option."""
    try:
        scheme = TargetURI.parse(value).scheme if isinstance(value, str) else ""
    except ValueError as exc:
        raise ConfigError(f"must be a URL such as http://service.example/path: {exc}", key=key) from None
    if scheme not in ("http", "https"):
        raise refuse(key, "an http or https URL", value)


def path(_instance: Any, attribute: Any, value: Any) -> None:
    """A path that begins with `/`, without a query."""
    if not isinstance(value, str) or not value.startswith("/") or any(c in value for c in "?# ") or not value.isascii():
        raise refuse(attribute.name, "a path that begins with / and has no query", value)


def field_name(_instance: Any, attribute: Any, value: Any) -> None:
    """The name of a field that a plugin may write."""
    check_field(attribute.name, value, "x")


def field_names(_instance: Any, attribute: Any, value: Any) -> None:
    """Names of fields."""
    for index, name in enumerate(value):
        check_field(f"{attribute.name}[{index}]", name, "x")


def check_field(key: str, name: object, value: object) -> None:
    """A field that may be written: sound, and none that frames a message or belongs to one connection."""
    if not isinstance(name, str) or not isinstance(value, str):
        raise refuse(key, "a field name" if not isinstance(name, str) else "a string", value if isinstance(name, str) else name)
    try:
        Headers([(name, value)])
    except ValueError as exc:
        raise ConfigError(f"is not a sound field: {exc}", key=key) from None
    if name.lower() in _NOT_TO_BE_WRITTEN:
        raise ConfigError("belongs to the connection or frames the message, expected a field that travels from end to end", key=key)


def one_of(*choices: str) -> Validator:
    """One of the strings given."""

    def check(_instance: Any, attribute: Any, value: Any) -> None:
        if value not in choices:
            raise refuse(attribute.name, " or ".join(f'"{choice}"' for choice in choices), value)

    return check


def flag(_instance: Any, attribute: Any, value: Any) -> None:
    """True or False."""
    if not isinstance(value, bool):
        raise refuse(attribute.name, "true or false", value)


def as_tuple(value: Any) -> Any:
    """A converter: a list becomes a tuple, one string a tuple of it."""
    return (value,) if isinstance(value, str) else tuple(value)


def statuses(*, least: int) -> Validator:
    """Statuses of responses, each from `least` to 599."""

    def check(_instance: Any, attribute: Any, value: Any) -> None:
        for index, status in enumerate(value):
            if isinstance(status, bool) or not isinstance(status, int) or not least <= status <= 599:
                raise refuse(f"{attribute.name}[{index}]", f"a status within {least}..599", status)

    return check
