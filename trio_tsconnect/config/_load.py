"""Import the plugins that a configuration file names, and create them with their options.

Invariant: a plugin that cannot be imported or created raises a `ConfigError` that says what is wrong and what is expected.

A plugin is named `package.module:Class`, or by a name that an installed package has registered in the entry point group
`trio_tsconnect.plugins`. A class that takes options has an attrs class `Options` as an attribute, and is called with an instance of it. Any
other class is called without arguments.
"""

from __future__ import annotations

import importlib
import importlib.metadata
import os
import re
import sys
import traceback
from collections.abc import Mapping, MutableSequence
from pathlib import Path
from types import NoneType, UnionType
from typing import Any, Final, Literal, Union, get_args, get_origin

import attrs

from trio_tsconnect._util import did_you_mean
from trio_tsconnect.config._checks import ConfigError, shown
from trio_tsconnect.config._plugin_base import PluginBase

GROUP: Final = "trio_tsconnect.plugins"
"""Entry point group in which installed packages register their plugins."""

_PATH = re.compile(r"(?P<module>[^\W\d]\w*(?:\.[^\W\d]\w*)*):(?P<name>[^\W\d]\w*(?:\.[^\W\d]\w*)*)")
_EXPECTED = 'expected "package.module:Class" or the name of an installed plugin'


def find_plugin(use: object, folder: Path) -> type[PluginBase]:
    """Return the plugin class named `use`. Modules in `folder` are found too, after all other modules. Raises `ConfigError`."""
    if not isinstance(use, str) or not use:
        raise ConfigError(f'must be "package.module:Class" or the name of an installed plugin, got {shown(use)}')
    found = _import(use, folder) if ":" in use else _installed(use)
    if not (isinstance(found, type) and issubclass(found, PluginBase)):
        raise ConfigError(f"{shown(use)} is not a plugin, expected a subclass of trio_tsconnect.Plugin")
    return found


def _import(use: str, folder: Path) -> object:
    path = _PATH.fullmatch(use)
    if path is None:
        raise ConfigError(f"{shown(use)} does not name a class, {_EXPECTED}")
    found: object = import_module(path["module"], folder)
    for name in path["name"].split("."):
        try:
            found = getattr(found, name)
        except AttributeError:
            near = did_you_mean(name, _plugins_in(vars(found)))
            hint = near if near.startswith(";") else f", {_EXPECTED}"
            raise ConfigError(f"there is no {shown(name)} in {path['module']}{_which_file(path['module'], folder)}{hint}") from None
    return found


def _plugins_in(names: Mapping[str, object]) -> list[str]:
    """Return the names of plugin classes, except the base classes that a module imports in order to derive from them."""
    bases = ("trio_tsconnect", "trio_tsconnect.config")
    return [n for n, v in names.items() if isinstance(v, type) and issubclass(v, PluginBase) and v.__module__ not in bases]


def import_module(name: str, folder: Path) -> object:
    """Import a module by its dotted name. `folder` is searched last. Raises `ConfigError` if the module is missing or its import fails."""
    top = name.partition(".")[0]
    beside = (folder / f"{top}.py").is_file() or (folder / top).is_dir()
    if beside and os.fspath(folder) not in sys.path:  # appended, so that it does not shadow installed modules
        sys.path.append(os.fspath(folder))
        importlib.invalidate_caches()
    try:
        return importlib.import_module(name)
    except ModuleNotFoundError as exc:
        if exc.name and (exc.name == name or name.startswith(f"{exc.name}.")):
            raise ConfigError(f"there is no module {shown(exc.name)}, expected one that is installed, or beside this file") from exc
        raise ConfigError(f"{name} cannot be imported: it needs the module {shown(exc.name)}") from exc
    except (Exception, SystemExit) as exc:
        raise ConfigError(f"{name} cannot be imported ({type(exc).__name__}: {exc}{_where(exc)})") from exc


def _which_file(module: str, folder: Path) -> str:
    """Return the file of the imported module, in parentheses, and a hint if it shadows a module of the same name in `folder`."""
    found = getattr(sys.modules.get(module), "__file__", None) or "which is built in"
    beside = folder / f"{module.partition('.')[0]}.py"
    hidden = beside.is_file() and not (found and Path(found).resolve().is_relative_to(folder.resolve()))
    return f" ({found}{f', which shadows {beside.name} beside this file: rename {beside.name}' if hidden else ''})"


def _where(exc: BaseException) -> str:
    """Return the file and line of the failure, outside the import system."""
    if isinstance(exc, SyntaxError) and exc.filename:
        return f" in {exc.filename}, line {exc.lineno}"
    frames = [frame for frame in traceback.extract_tb(exc.__traceback__) if "importlib" not in frame.filename]
    return f" in {frames[-1].filename}, line {frames[-1].lineno}" if len(frames) > 1 else ""


def _installed(name: str) -> object:
    known = {point.name: point for point in importlib.metadata.entry_points(group=GROUP)}
    point = known.get(name)
    if point is None:
        near = did_you_mean(name, known) if known else ""
        hint = near if near.startswith(";") else f", {_EXPECTED}"
        raise ConfigError(f"no plugin {shown(name)} is installed{hint}")
    try:
        return point.load()
    except (Exception, SystemExit) as exc:  # SystemExit: the module may call sys.exit() when it is imported
        raise ConfigError(f"the plugin {shown(name)} cannot be imported ({type(exc).__name__}: {exc}{_where(exc)})") from exc


def options_class(plugin: type[PluginBase]) -> type | None:
    """Return the attrs class of the options of a plugin, or None if it takes none."""
    options = getattr(plugin, "Options", None)
    if options is None:
        return None
    if not isinstance(options, type) or not attrs.has(options):
        raise ConfigError(f"{plugin.__qualname__}.Options must be an attrs class: the plugin cannot be configured")
    return options


def make_plugin(plugin: type[PluginBase], options: Any) -> PluginBase:
    """Create a plugin, with its options if it takes any. Any exception becomes a `ConfigError`."""
    make: Any = plugin
    try:
        made: PluginBase = make() if options is None else make(options)
    except ConfigError:
        raise
    except Exception as exc:
        raise ConfigError(f"{plugin.__qualname__} cannot be created ({type(exc).__name__}: {exc}{_where(exc)})") from exc
    return made


def is_plain(kind: Any) -> bool:
    """Return True if `judge` can check values of this type: any type except attrs classes, lists, and tables of attrs classes."""
    origin, members = get_origin(kind), get_args(kind)
    if origin in (dict, Mapping):
        return is_plain(members[1])
    return not attrs.has(kind) and origin not in (tuple, list, MutableSequence)


def judge(value: Any, kind: Any) -> Any:
    """Return the value if it has the annotated type `kind`. Raises `ConfigError` otherwise. Nothing is coerced."""
    if not _is(value, kind):
        raise ConfigError(f"must be {_called(kind)}, got {shown(value)}")
    return value


def _is(value: Any, kind: Any) -> bool:
    origin, members = get_origin(kind), get_args(kind)
    if kind in (bool, str, NoneType, None):
        return isinstance(value, kind or NoneType)
    if kind is int:
        return isinstance(value, int) and not isinstance(value, bool)
    if kind is float:
        return isinstance(value, int | float) and not isinstance(value, bool)
    if origin is Literal:
        return any(value == member and type(value) is type(member) for member in members)
    if origin in (Union, UnionType):
        return any(_is(value, member) for member in members)
    if kind is dict or origin in (dict, Mapping):
        inner = members[1] if members else Any
        return isinstance(value, dict) and all(_is(each, inner) for each in value.values())
    if kind in (list, tuple) or origin in (list, tuple):
        inner = members[0] if members else Any
        return isinstance(value, list) and all(_is(each, inner) for each in value)
    return True  # any other annotation is left to the plugin to check


_NAMES: dict[Any, str] = {bool: "true or false", str: "a string", int: "a whole number", float: "a number", dict: "a table"}


def _called(kind: Any) -> str:
    members = get_args(kind)
    if get_origin(kind) is Literal:
        return " or ".join(shown(member) for member in members)
    if get_origin(kind) in (Union, UnionType):
        return " or ".join(_called(member) for member in members if member is not NoneType)
    if get_origin(kind) in (dict, Mapping):
        return "a table" if members[1] is Any else f"a table in which each value is {_called(members[1])}"
    if get_origin(kind) in (list, tuple):
        return "a list"
    return _NAMES.get(kind, "another type")
