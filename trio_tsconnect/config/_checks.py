"""Validators for configuration fields, in the form that attrs expects.

Invariant: an error names the field, the given value, and what is expected. No value is coerced, neither from Python nor from a file:
`true` is not the number 1, and `"10"` is not 10.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

from trio_tsconnect._util import public

Validator = Callable[[Any, Any, Any], None]
"""An attrs validator, called with the instance, the attribute and the value. Raises `ConfigError`."""


@public("trio_tsconnect")
class ConfigError(ValueError):
    """The configuration is invalid. The message is one line: `FILE: KEY: what is wrong, what is expected`.

    FILE is left out for a value created in Python. KEY is left out if the error concerns the whole file.
    """

    def __init__(self, problem: str, *, key: str = "", file: str = "") -> None:
        super().__init__(": ".join(_one_line(part) for part in (file, key, problem) if part))
        self.problem = problem
        """What is wrong and what is expected."""
        self.key = key
        """Key with the error, such as `remap[0].from`. Empty if the error has no single key."""
        self.file = file
        """Configuration file, as the caller named it. Empty for a value created in Python."""


def _one_line(text: str) -> str:
    # Strings and quoted keys in a file may contain line ends. They are escaped here, so that every message is one line.
    return text if text.isprintable() else "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in text)


def shown(value: object) -> str:
    """Return the value as written in a configuration file, cut to at most 80 characters."""
    match value:
        case bool():
            text = "true" if value else "false"
        case str():
            text = f'"{value}"'
        case _:
            text = repr(value)
    return text if len(text) <= 80 else text[:77] + "..."


def refuse(attribute: Any, expected: str, value: object) -> ConfigError:
    """Return the `ConfigError` for a field whose value is not what was expected."""
    return ConfigError(f"must be {expected}, got {shown(value)}", key=attribute.name)


def is_number(value: object) -> bool:
    """Return True for an int or a float that is neither a bool nor NaN."""
    return isinstance(value, int | float) and not isinstance(value, bool) and value == value  # noqa: PLR0124 - NaN is not


def seconds(*, zero: bool = False, optional: bool = False) -> Validator:
    """Return a validator for a time in seconds: more than 0, or at least 0 if `zero`. `inf` is allowed."""
    expected = "a number of seconds, " + ("0 or more" if zero else "more than 0")

    def check(_instance: Any, attribute: Any, value: Any) -> None:
        if value is None and optional:
            return
        if not is_number(value) or value < 0 or (value == 0 and not zero):
            raise refuse(attribute, expected, value)

    return check


def count(*, least: int, most: int | None = None, optional: bool = False, unit: str = "") -> Validator:
    """Return a validator for an int from `least` to `most`; without `most` there is no upper bound."""
    expected = f"a whole number{unit}, {least} or more" if most is None else f"a whole number{unit}, {least} to {most}"

    def check(_instance: Any, attribute: Any, value: Any) -> None:
        if value is None and optional:
            return
        if not isinstance(value, int) or isinstance(value, bool) or value < least or (most is not None and value > most):
            raise refuse(attribute, expected, value)

    return check


def size(*, least: int, most: int | None = None, optional: bool = False) -> Validator:
    """Return a validator for a number of bytes from `least` to `most`; without `most` there is no upper bound."""
    return count(least=least, most=most, optional=optional, unit=" of bytes")


def one_of(*choices: str) -> Validator:
    """Return a validator for one of the given strings."""
    expected = " or ".join(f'"{choice}"' for choice in choices)

    def check(_instance: Any, attribute: Any, value: Any) -> None:
        if not isinstance(value, str) or value not in choices:
            raise refuse(attribute, expected, value)

    return check


def flag(_instance: Any, attribute: Any, value: Any) -> None:
    """Validate a bool. Other truthy or falsy values are rejected."""
    if not isinstance(value, bool):
        raise refuse(attribute, "true or false", value)


def optional_flag(instance: Any, attribute: Any, value: Any) -> None:
    """Validate a bool or None."""
    if value is not None:
        flag(instance, attribute, value)


def file_name(*, optional: bool) -> Validator:
    """Return a validator for a file name. It does not check that the file exists: that is checked when a configuration file is loaded."""

    def check(_instance: Any, attribute: Any, value: Any) -> None:
        if value is None and optional:
            return
        if not isinstance(value, str) or not value or "\0" in value:
            raise refuse(attribute, "the name of a file", value)

    return check


def instance_of(*kinds: type, expected: str) -> Validator:
    """Return a validator for an instance of one of the given classes. `expected` describes them in the error message."""

    def check(_instance: Any, attribute: Any, value: Any) -> None:
        if not isinstance(value, kinds):
            raise refuse(attribute, expected, value)

    return check


def each(kind: type, *, name: str = "") -> Validator:
    """Return a validator for a sequence of instances of one class. `name`: what errors call it, if not by its own name."""
    name = name or kind.__name__
    article = "an" if name[0] in "AEIOU" else "a"

    def check(_instance: Any, attribute: Any, value: Any) -> None:
        for index, member in enumerate(value):
            if not isinstance(member, kind):
                raise ConfigError(f"must be {article} {name}, got {shown(member)}", key=f"{attribute.name}[{index}]")

    return check


def as_tuple(value: Any) -> Any:
    """Convert any iterable to a tuple. A single value, including a string, becomes a tuple of one.

    Fields use converters of their own that call this one: type checkers take the type of a field's argument from its converter.
    """
    if isinstance(value, str | bytes) or not isinstance(value, Iterable):
        return (value,)
    return tuple(value)


def as_strings(value: Iterable[str]) -> tuple[str, ...]:
    """Convert strings, or a single one, to a tuple."""
    converted: tuple[str, ...] = as_tuple(value)
    return converted
