"""The modules of the user: which they are, which of them import which, and how they are imported anew.

Invariant: if new code cannot be used, `sys.modules` and the packages in it are as they were before the attempt.

Only modules that the user writes are imported anew. Libraries stay: many cannot be imported twice, and nobody edits them here. A new import
makes a second module with the same name. Objects of the first one go on with the code that they have.
"""

from __future__ import annotations

import ast
import importlib
import os
import sys
import sysconfig
import traceback
from collections.abc import Collection, Iterator, Mapping
from contextlib import contextmanager
from functools import cache
from importlib.util import resolve_name
from pathlib import Path
from types import ModuleType

_MISSING = object()
_PACKAGE = Path(__file__).parent.parent


def own_modules(modules: Mapping[str, ModuleType], ignored: Collection[str] = ()) -> dict[str, Path]:
    """Return the files of the modules that the user has written, by name.

    That is every Python file outside of the standard library, of the folders of installed packages, and of this package. `ignored` are
    names of modules that do not count: those that the command itself has imported.
    """
    files = {name: _file_of(module) for name, module in list(modules.items()) if name not in ignored}
    return {name: Path(file) for name, file in files.items() if file and _is_own(name, file)}


def _file_of(module: object) -> str | None:
    file = vars(module).get("__file__") if isinstance(module, ModuleType) else None  # `sys.modules` may contain other objects
    return file if isinstance(file, str) and file.endswith(".py") else None


def _is_own(name: str, file: str) -> bool:
    return name.partition(".")[0] not in ("__main__", "trio_tsconnect") and not _is_library(file)


@cache
def _is_library(file: str) -> bool:
    path = Path(os.path.realpath(file))
    if {"site-packages", "dist-packages"} & {*Path(file).parts, *path.parts}:
        return True
    return any(path.is_relative_to(os.path.realpath(sysconfig.get_path(key))) for key in ("stdlib", "platstdlib"))


def own_files(exc: BaseException) -> set[Path]:
    """Return the files of the user that an exception has passed, or in which Python found an error of syntax, with those of its causes."""
    found: set[str] = set()
    seen: dict[int, BaseException] = {}
    left: list[BaseException | None] = [exc]
    while left:
        each = left.pop()
        if each is None or id(each) in seen:
            continue
        seen[id(each)] = each
        found.update(frame.f_code.co_filename for frame, _ in traceback.walk_tb(each.__traceback__))
        if isinstance(each, SyntaxError) and each.filename:
            found.add(each.filename)
        left += [each.__cause__, each.__context__, *(each.exceptions if isinstance(each, BaseExceptionGroup) else ())]
    return {Path(file) for file in found if file.endswith(".py") and not _is_library(file) and not Path(file).is_relative_to(_PACKAGE)}


def with_importers(changed: Collection[str], own: Mapping[str, Path]) -> set[str]:
    """Return the names `changed`, and those of the modules in `own` that import them, also through others."""
    imports = {name: _imports(name, file) for name, file in own.items() if name not in changed}
    found = set(changed)
    while more := {name for name, imported in imports.items() if name not in found and imported & found}:
        found |= more
    return found


def _imports(name: str, file: Path) -> set[str]:
    """Return the names that a module imports. It imports the packages that contain it, too."""
    parts = name.split(".")
    found = {".".join(parts[:count]) for count in range(1, len(parts))}
    try:
        tree = ast.parse(file.read_bytes())
    except (OSError, SyntaxError, ValueError, RecursionError, MemoryError):  # the last two: Python cannot parse what nests too deeply
        return found
    package = name if file.name == "__init__.py" else name.rpartition(".")[0]
    for node in ast.walk(tree):
        found.update(_imported_by(node, package))
    return found


def _imported_by(node: ast.AST, package: str) -> Iterator[str]:
    if isinstance(node, ast.Import):
        for alias in node.names:
            yield from _with_packages(alias.name)
    elif isinstance(node, ast.ImportFrom):
        relative = "." * node.level + (node.module or "")
        try:
            module = resolve_name(relative, package)
        except ImportError:
            return  # it goes beyond the top package: the import fails as well
        yield from _with_packages(module)
        yield from (f"{module}.{alias.name}" for alias in node.names)


def _with_packages(name: str) -> Iterator[str]:
    while name:
        yield name
        name = name.rpartition(".")[0]


@contextmanager
def imported_anew(names: Collection[str], ignored: Collection[str] = ()) -> Iterator[None]:
    """Forget the modules `names`, so that the block imports them from their files. If the block raises, they are as before.

    Compiled files are neither read nor written meanwhile: Python compares whole seconds and sizes, and would take an edit within one second
    for the old file.
    """
    before = dict(sys.modules)
    # A package that is imported anew keeps its modules: old code may still reach them through it.
    parents = {name: _take_from_parent(name) for name in names if name.rpartition(".")[0] not in names}
    for name in names:
        sys.modules.pop(name, None)
    importlib.invalidate_caches()
    writes, prefix = sys.dont_write_bytecode, sys.pycache_prefix
    sys.dont_write_bytecode, sys.pycache_prefix = True, os.devnull
    try:
        yield
    except BaseException:
        _put_back(names, before, parents, ignored)
        raise
    finally:
        sys.dont_write_bytecode, sys.pycache_prefix = writes, prefix


def _take_from_parent(name: str) -> object:
    """Remove a module from its package and return it. `from package import module` would find it there, and import nothing."""
    parent, _, child = name.rpartition(".")
    return vars(sys.modules[parent]).pop(child, _MISSING) if parent in sys.modules else _MISSING


def _put_back(names: Collection[str], before: Mapping[str, ModuleType], parents: Mapping[str, object], ignored: Collection[str]) -> None:
    # Libraries that were imported in the block stay: many of them cannot be imported twice.
    for name in own_modules(sys.modules, ignored):
        if sys.modules[name] is not before.get(name):
            _take_from_parent(name)
            del sys.modules[name]
    sys.modules.update((name, before[name]) for name in names if name in before)
    for name, module in parents.items():
        parent, _, child = name.rpartition(".")
        if module is not _MISSING:
            setattr(before[parent], child, module)
