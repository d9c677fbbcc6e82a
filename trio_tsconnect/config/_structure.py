"""Convert the tables of a configuration file to configuration values.

Invariant: an invalid file raises one `ConfigError`, for its first error, with the key of that error.

cattrs creates the values in strict mode: unknown keys are rejected and nothing is coerced. The classes validate their own fields, so a file
gets the same messages as a value created in Python. Option classes of plugins may have no validators, so their values are also checked
against the annotations.
"""

from __future__ import annotations

import os
import re
from collections.abc import Callable, MutableSequence
from pathlib import Path
from types import GenericAlias
from typing import TYPE_CHECKING, Any, TypeVar, get_args, get_origin

import attrs

from trio_tsconnect._util import did_you_mean
from trio_tsconnect.config._checks import ConfigError, shown
from trio_tsconnect.config._load import find_plugin, is_plain, judge, make_plugin, options_class
from trio_tsconnect.config._plugin_base import PluginBase

if TYPE_CHECKING:
    from cattrs import Converter

T = TypeVar("T")


def converter_of(folder: Path, *, strangers: bool = False) -> Converter:
    """Return a converter from tables to values. `strangers`: the classes belong to plugins and may not validate their own fields."""
    from cattrs import Converter

    converter = Converter(forbid_extra_keys=True, detailed_validation=True)

    def is_tuple_or_list(kind: Any) -> bool:
        return get_origin(kind) in (tuple, list)

    def is_optional_class(kind: Any) -> bool:
        return type(None) in get_args(kind) and any(map(attrs.has, get_args(kind)))

    # Plain values pass through unchanged: the classes validate them, with the same messages as for a value created in Python.
    plain_hook: Callable[[Any, Any], Any] = judge if strangers else lambda value, _kind: value
    for plain in (bool, int, float, str):
        converter.register_structure_hook(plain, plain_hook)
    converter.register_structure_hook_func(is_plain, plain_hook)
    converter.register_structure_hook_func(lambda kind: kind is PluginBase, lambda value, _kind: _plugin(value, folder))

    def optional_hook(kind: Any) -> Callable[[Any, Any], Any]:
        member = next(member for member in get_args(kind) if attrs.has(member))
        return lambda value, _kind: converter.structure(value, member)

    def list_hook(kind: Any) -> Callable[[Any, Any], Any]:
        members: Any = GenericAlias(MutableSequence, get_args(kind)[:1])
        made = get_origin(kind)
        return lambda value, _kind: made(converter.structure(_expect(value, list, "a list"), members))

    converter.register_structure_hook_factory(is_optional_class, optional_hook)
    converter.register_structure_hook_factory(is_tuple_or_list, list_hook)
    converter.register_structure_hook_factory(attrs.has, lambda kind: _table_hook(converter, kind, folder))
    return converter


def _table_hook(converter: Converter, kind: type, folder: Path) -> Callable[[Any, Any], Any]:
    from cattrs.gen import make_dict_structure_fn, override

    overrides = {f.name: override(rename=_key(f)) for f in attrs.fields(kind) if f.init}
    inner: Callable[[Any, Any], Any] = make_dict_structure_fn(kind, converter, **overrides)  # type: ignore[arg-type]  # names are fields here
    # `path` is True, or a function that tells whether the value is the path of a file.
    paths = {_key(field): field.metadata["path"] for field in attrs.fields(kind) if field.metadata.get("path")}

    def structure(value: Any, _kind: Any) -> Any:
        table = dict(_expect(value, dict, "a table"))
        for key, is_path in paths.items():
            if isinstance(table.get(key), str) and table[key] and (is_path is True or is_path(table[key])):
                table[key] = os.fspath(folder / table[key])
        if isinstance(to := table.get("to"), str) and to.startswith("unix:") and len(to) > len("unix:"):
            table["to"] = f"unix:{folder / to.removeprefix('unix:')}"
        return inner(table, _kind)

    return structure


def _expect(value: Any, kind: type, expected: str) -> Any:
    if not isinstance(value, kind):
        raise ConfigError(f"must be {expected}, got {shown(value)}")
    return value


def _key(field: Any) -> str:
    """Return the key of a field in a file. It differs from the field name for `from_` (`from` is a keyword) and for `[[plugin]]`."""
    return str(field.metadata.get("key") or field.name.rstrip("_"))


def _keys(kind: type) -> dict[str, str]:
    """Return the keys in a file for the fields of a class, by field name."""
    return {field.name: _key(field) for field in attrs.fields(kind) if field.init}


def first_fault(exc: BaseException, where: str = "", kind: type | None = None) -> ConfigError:
    """Return the first error that cattrs collected. An unknown key comes before the other errors of its table, as it may explain them."""
    from cattrs import AttributeValidationNote, ClassValidationError, ForbiddenExtraKeysError, IterableValidationError

    names = _keys(kind) if kind is not None and attrs.has(kind) else {}
    match exc:
        case ClassValidationError() | IterableValidationError():
            kind = exc.cl if isinstance(exc, ClassValidationError) else None
            located, others = exc.group_exceptions()
            unknown = [other for other in others if isinstance(other, ForbiddenExtraKeysError)]
            if unknown or not located:
                return first_fault((unknown or others)[0], where, kind)
            fault, note = located[0]
            if isinstance(note, AttributeValidationNote):
                return first_fault(fault, _join(where, _keys(exc.cl)[note.name]))
            return first_fault(fault, _join(where, f"[{note.index}]" if isinstance(note.index, int) else note.index))
        case ForbiddenExtraKeysError():
            name = min(exc.extra_fields)
            return ConfigError(f"unknown key{did_you_mean(name, _keys(exc.cl).values())}", key=_join(where, name))
        case KeyError():
            return ConfigError("is missing, and has no default", key=where)
        case ConfigError():
            name = re.split(r"[.\[]", exc.key, maxsplit=1)[0]
            return ConfigError(exc.problem, key=_join(where, names.get(name, name) + exc.key[len(name) :]))
        case ValueError() | TypeError():  # from a validator of a plugin: attrs passes the text first, then the values
            return ConfigError(str(exc.args[0]) if exc.args else "is not a valid value", key=where)
        case _:
            raise exc


def _join(where: str, key: str) -> str:
    return where + key if not where or not key or key.startswith("[") else f"{where}.{key}"


# --- plugins -------------------------------------------------------------------------------------------------------------------------


def _plugin(value: Any, folder: Path) -> PluginBase:
    """Create the plugin named by `"package.module:Class"` or by a table with `use` and `options`."""
    table = {"use": value} if isinstance(value, str) else dict(_expect(value, dict, "the name of a plugin, or a table with `use`"))
    for key in table.keys() - {"use", "options"}:
        raise ConfigError(f"unknown key{did_you_mean(key, ['use', 'options'])}", key=key)
    if "use" not in table:
        raise ConfigError("is missing, and has no default", key="use")
    use = "" if isinstance(value, str) else "use"
    plugin = _at(use, find_plugin, table["use"], folder)
    kind = _at(use, options_class, plugin)
    if kind is None:
        if "options" in table:
            raise ConfigError(f"{plugin.__qualname__} takes no options, expected none", key="options")
        return _at("", make_plugin, plugin, None)
    options = _at("options", _structure_options, table.get("options", {}), kind, folder)
    return _at("options", make_plugin, plugin, options)  # an error of the constructor is reported for its options


def _at(key: str, act: Callable[..., T], *given: Any) -> T:
    """Call `act`. Add `key` to the key of a `ConfigError`."""
    try:
        return act(*given)
    except ConfigError as exc:
        raise ConfigError(exc.problem, key=_join(key, exc.key)) from exc.__cause__


def _structure_options(table: Any, kind: type, folder: Path) -> Any:
    try:
        return converter_of(folder, strangers=True).structure(table, kind)
    except Exception as exc:
        raise first_fault(exc) from exc
