"""What a configuration field may be, as attrs validators. One law: a refusal names the field, what was wrong and what was expected.

No value is ever coerced: `true` is not the number 1, and `"10"` is not 10, from Python and from a file alike.
"""

from __future__ import annotations

import difflib
from collections.abc import Callable, Iterable
from typing import Any

from trio_tsconnect._util import public

Validator = Callable[[Any, Any, Any], None]
"""The shape of an attrs validator: instance, attribute, value."""


@public("trio_tsconnect")
class ConfigError(ValueError):
    """A configuration that cannot be used; its text is one line: `FILE: KEY: what was wrong, what was expected`.

    FILE is left out for a value made in Python, and KEY where the fault is the file's as a whole.
    """

    def __init__(self, problem: str, *, key: str = "", file: str = "") -> None:
        super().__init__(": ".join(_one_line(part) for part in (file, key, problem) if part))
        self.problem = problem
        """What was wrong and what was expected."""
        self.key = key
        """Where it is: `http.remap_required`, `remap[0].from`; empty when it is no single key."""
        self.file = file
        """The configuration file as its caller named it; empty when the value was made in Python."""


def _one_line(text: str) -> str:
    # A quoted string in a file may hold a line end, and its key may too; the promise of one line is kept here, for all of them.
    return text if text.isprintable() else "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in text)


def shown(value: object) -> str:
    """The value as a configuration file would write it, cut to a readable length."""
    match value:
        case bool():
            text = "true" if value else "false"
        case str():
            text = f'"{value}"'
        case _:
            text = repr(value)
    return text if len(text) <= 80 else text[:77] + "..."


def did_you_mean(name: str, known: Iterable[str]) -> str:
    """`; did you mean "x"?` when a known name is near to the one given, else the known names."""
    names = list(known)
    near = difflib.get_close_matches(name, names, n=1, cutoff=0.65)
    return f'; did you mean "{near[0]}"?' if near else f", expected one of {', '.join(names)}"


def refuse(attribute: Any, expected: str, value: object) -> ConfigError:
    """The error for a field that holds something other than what was expected."""
    return ConfigError(f"must be {expected}, got {shown(value)}", key=attribute.name)


def is_number(value: object) -> bool:
    """True for an int or a float that is neither a bool nor NaN."""
    return isinstance(value, int | float) and not isinstance(value, bool) and value == value  # noqa: PLR0124 - NaN is not


def seconds(*, zero: bool = False, optional: bool = False) -> Validator:
    """A time in seconds: more than 0 (or from 0 on, where `zero`), `inf` allowed."""
    expected = "a number of seconds, " + ("0 or more" if zero else "more than 0")

    def check(_instance: Any, attribute: Any, value: Any) -> None:
        if value is None and optional:
            return
        if not is_number(value) or value < 0 or (value == 0 and not zero):
            raise refuse(attribute, expected, value)

    return check


def count(*, least: int, most: int | None = None, optional: bool = False, unit: str = "") -> Validator:
    """A whole number from `least` on, up to `most` if there is one."""
    expected = f"a whole number{unit}, {least} or more" if most is None else f"a whole number{unit}, {least} to {most}"

    def check(_instance: Any, attribute: Any, value: Any) -> None:
        if value is None and optional:
            return
        if not isinstance(value, int) or isinstance(value, bool) or value < least or (most is not None and value > most):
            raise refuse(attribute, expected, value)

    return check


def size(*, least: int, most: int | None = None, optional: bool = False) -> Validator:
    """A number of bytes from `least` on, up to `most` if there is one."""
    return count(least=least, most=most, optional=optional, unit=" of bytes")


def one_of(*choices: str) -> Validator:
    """One of the strings given."""
    expected = " or ".join(f'"{choice}"' for choice in choices)

    def check(_instance: Any, attribute: Any, value: Any) -> None:
        if not isinstance(value, str) or value not in choices:
            raise refuse(attribute, expected, value)

    return check


def flag(_instance: Any, attribute: Any, value: Any) -> None:
    """True or False, and nothing that is merely truthy."""
    if not isinstance(value, bool):
        raise refuse(attribute, "true or false", value)


def optional_flag(instance: Any, attribute: Any, value: Any) -> None:
    """True, False or None."""
    if value is not None:
        flag(instance, attribute, value)


def file_name(*, optional: bool) -> Validator:
    """The name of a file; whether the file is there is asked when a configuration file is read, and when it is used."""

    def check(_instance: Any, attribute: Any, value: Any) -> None:
        if value is None and optional:
            return
        if not isinstance(value, str) or not value or "\0" in value:
            raise refuse(attribute, "the name of a file", value)

    return check


def instance_of(*kinds: type, expected: str) -> Validator:
    """An instance of one of the classes given."""

    def check(_instance: Any, attribute: Any, value: Any) -> None:
        if not isinstance(value, kinds):
            raise refuse(attribute, expected, value)

    return check


def each(kind: type) -> Validator:
    """A tuple whose members are all of one class. An error names `PluginBase` as the class that users derive from it."""
    name = kind.__name__.removesuffix("Base")
    article = "an" if name[0] in "AEIOU" else "a"

    def check(_instance: Any, attribute: Any, value: Any) -> None:
        for index, member in enumerate(value):
            if not isinstance(member, kind):
                raise ConfigError(f"must be {article} {name}, got {shown(member)}", key=f"{attribute.name}[{index}]")

    return check


def as_tuple(value: Any) -> Any:
    """A converter: any iterable becomes a tuple, and a single value, a string too, a tuple of one."""
    if isinstance(value, str | bytes) or not isinstance(value, Iterable):
        return (value,)
    return tuple(value)
