"""The laws of the house, read off the syntax tree of every module: who may know whom, and where each dependency lives.

Each law is a function from a module to its complaints. Each is shown to bite on a few lines that break it, and not on the same lines
put right; then it is held against the package.
"""

from __future__ import annotations

import ast
import importlib
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from types import FunctionType, ModuleType

import attrs
import pytest

PACKAGE = "trio_tsconnect"
ROOT = Path(__file__).parent.parent / PACKAGE

ROOMS_BELOW: dict[str, set[str]] = {
    "message": set(),
    "stream": {"message"},
    "log": {"message"},
    "config": {"message", "stream", "log"},
    "hooks": {"message", "stream", "log", "config"},
    "origin": {"message", "stream", "log", "config", "hooks"},
    "engine": {"message", "stream", "log", "config", "hooks", "origin"},
}
"""The core, and what each of its rooms may import. Every other room is an edge."""

EDGES = {"http2", "clients", "asgi", "logstats", "plugins", "testing", "__main__"}
"""The edges of the design; a folder that is none of all these is an edge too."""

FOUNDATION = {"_contain", "_util", "_version"}
"""Modules beside the rooms, which all may import and which import no room."""

FRONT = ""
"""The package's own `__init__`, which shows what the core makes."""

LONGEST_MODULE = 450


@attrs.frozen
class Module:
    """One module of the package, by its dotted name below the package."""

    name: str
    """`stream._pipe`; a package's `__init__` has the package's name, and the front has none."""
    source: str
    """Its text."""
    is_init: bool = False
    """Whether it is an `__init__`."""
    tree: ast.Module = attrs.field(init=False, eq=False)
    """Its syntax tree."""

    @tree.default
    def _parse(self) -> ast.Module:
        return ast.parse(self.source)

    @property
    def room(self) -> str:
        """The folder it stands in, or for a module beside the rooms its own name."""
        return self.name.partition(".")[0]

    @property
    def is_edge(self) -> bool:
        return self.room not in {FRONT, *FOUNDATION, *ROOMS_BELOW}


@attrs.frozen
class Import:
    """One name that a module imports."""

    line: int
    """Where."""
    path: str
    """The whole dotted path, the imported name included: `trio_tsconnect.stream._pipe.Pipe`, `h11`."""

    @property
    def inside(self) -> list[str] | None:
        """The path below the package, or None for a module of others."""
        first, *rest = self.path.split(".")
        return rest if first == PACKAGE else None


def imports(module: Module) -> Iterator[Import]:
    """Every import, wherever it stands: in a function or under TYPE_CHECKING it is still something the module knows."""
    here = [PACKAGE, *module.name.split(".")] if module.name else [PACKAGE]
    package = here if module.is_init else here[:-1]
    for node in ast.walk(module.tree):
        if isinstance(node, ast.Import):
            yield from (Import(node.lineno, alias.name) for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            base = package[: len(package) - node.level + 1] if node.level else []
            base = base + (node.module.split(".") if node.module else [])
            yield from (Import(node.lineno, ".".join([*base, alias.name])) for alias in node.names)


def imports_of_rooms(module: Module) -> Iterator[tuple[Import, str, list[str]]]:
    """The imports that leave the module's own room for another: the import, that room, and the rest of the path."""
    for each in imports(module):
        if each.inside is None:
            continue
        room, *rest = each.inside or [FRONT]
        if room not in known_rooms():
            room, rest = FRONT, each.inside
        if room != module.room:
            yield each, room, rest


def known_rooms() -> set[str]:
    return {path.name for path in ROOT.iterdir() if path.is_dir()} | EDGES | FOUNDATION | set(ROOMS_BELOW)


# --- the laws -----------------------------------------------------------------------------------------------------------------


def imports_point_downwards(module: Module) -> Iterator[str]:
    if module.is_edge:
        return
    if module.room == FRONT:
        allowed = ROOMS_BELOW.keys() | FOUNDATION
    elif module.room in FOUNDATION:
        allowed = set()
    else:
        allowed = ROOMS_BELOW[module.room] | FOUNDATION
    for each, room, _ in imports_of_rooms(module):
        if room not in allowed:
            yield f"line {each.line}: {module.room or 'the front'} must not know {room or 'the front'}"


def a_room_is_entered_by_its_front_door(module: Module) -> Iterator[str]:
    """A folder is a public face, a file is private."""
    for each, room, rest in imports_of_rooms(module):
        if room not in FOUNDATION and any(part.startswith("_") and not part.endswith("__") for part in rest):
            yield f"line {each.line}: {each.path} is private"


def no_room_takes_everything(module: Module) -> Iterator[str]:
    yield from (f"line {each.line}: {each.path}" for each in imports(module) if each.path.endswith(".*"))


def what_http_means_needs_no_loop(module: Module) -> Iterator[str]:
    if module.room == "message":
        foreign = {"trio", "h11", "h11_mypyc", "h2", "socket", "ssl", "asyncio", "anyio"}
        yield from (f"line {each.line}: {each.path}" for each in imports(module) if each.path.split(".")[0] in foreign)


def h11_lives_in_stream(module: Module) -> Iterator[str]:
    if module.room != "stream":
        yield from (f"line {each.line}: {each.path}" for each in imports(module) if each.path.split(".")[0] in {"h11", "h11_mypyc"})


def nobody_asks_for_the_socket(module: Module) -> Iterator[str]:
    """Above the listener a client is a stream. (`trio.socket` is a module, and asks nobody.)"""
    if module.room not in {"message", "log", "engine", "http2"}:
        return
    for node in ast.walk(module.tree):
        if isinstance(node, ast.Attribute) and node.attr == "socket" and ast.unparse(node) != "trio.socket":
            yield f"line {node.lineno}: {ast.unparse(node)}"


def an_init_only_shows_names(module: Module) -> Iterator[str]:
    if not module.is_init:
        return
    for position, node in enumerate(module.tree.body):
        match node:
            case ast.Expr(value=ast.Constant(value=str())) if position == 0:
                continue
            case ast.ImportFrom(module="__future__"):
                continue
            case ast.ImportFrom(names=[ast.alias(name=name, asname=shown)]) if name == shown:
                continue
        yield f"line {node.lineno}: {ast.unparse(node).splitlines()[0]}"


def a_module_fits_the_mind(module: Module) -> Iterator[str]:
    lines = len(module.source.splitlines())
    if lines > LONGEST_MODULE:
        yield f"{lines} lines are more than {LONGEST_MODULE}"


def a_module_says_what_it_is(module: Module) -> Iterator[str]:
    if not ast.get_docstring(module.tree):
        yield "line 1: no docstring"


def public_names_are_explained(module: Module) -> Iterator[str]:
    """Every class and function at the top of a module that has no underscore; an overload is explained by what it overloads."""
    for node in module.tree.body:
        if not isinstance(node, ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef) or node.name.startswith("_"):
            continue
        overload = any(ast.unparse(decorator).split(".")[-1] == "overload" for decorator in node.decorator_list)
        if not overload and not ast.get_docstring(node):
            yield f"line {node.lineno}: {node.name} has no docstring"


def bytes_travel_in_a_memory_channel(modules: list[Module]) -> Iterator[str]:
    """A pipe is made with `trio.open_memory_channel`, where `Pipe` is defined; a deque beside an unused channel is no pipe."""
    pipes = [module for module in modules if module.room == "stream" and defines_a_pipe(module)]
    if not pipes:
        yield "stream: no module defines Pipe"
    for module in pipes:
        called = [node.func for node in ast.walk(module.tree) if isinstance(node, ast.Call)]
        # The channel's type may be given: open_memory_channel[bytes](1).
        functions = [function.value if isinstance(function, ast.Subscript) else function for function in called]
        if not any(ast.unparse(function).split(".")[-1] == "open_memory_channel" for function in functions):
            yield f"{module.name}: a pipe without a memory channel"
        if any(each.path == "collections.deque" for each in imports(module)):
            yield f"{module.name}: a pipe with a deque"


def defines_a_pipe(module: Module) -> bool:
    return any(isinstance(node, ast.ClassDef) and node.name.strip("_") in {"Pipe"} for node in module.tree.body)


LAWS = [
    imports_point_downwards,
    a_room_is_entered_by_its_front_door,
    no_room_takes_everything,
    what_http_means_needs_no_loop,
    h11_lives_in_stream,
    nobody_asks_for_the_socket,
    an_init_only_shows_names,
    a_module_fits_the_mind,
    a_module_says_what_it_is,
    public_names_are_explained,
]

# --- the laws bite ------------------------------------------------------------------------------------------------------------

BROKEN = [
    (imports_point_downwards, Module("message._headers", "from ..stream import Pipe")),
    (imports_point_downwards, Module("message._headers", "from .. import stream")),
    (imports_point_downwards, Module("message._headers", "from trio_tsconnect.engine import Proxy")),
    (imports_point_downwards, Module("log._record", "from ..stream import ClientInfo")),
    (imports_point_downwards, Module("stream._pipe", "def f():\n    import trio_tsconnect.log")),
    (imports_point_downwards, Module("engine._proxy", "from ..http2 import serve_http2")),
    (imports_point_downwards, Module("engine._proxy", "from .. import Proxy")),
    (imports_point_downwards, Module("engine._proxy", "import trio_tsconnect")),
    (imports_point_downwards, Module("_util", "from .message import Headers")),
    (imports_point_downwards, Module("", "from .http2 import serve_http2 as serve_http2", is_init=True)),
    (imports_point_downwards, Module("engine", "from ..clients import HttpxTransport as HttpxTransport", is_init=True)),
    (a_room_is_entered_by_its_front_door, Module("http2._server", "from ..engine._proxy import Proxy")),
    (a_room_is_entered_by_its_front_door, Module("http2._server", "from trio_tsconnect.engine import _proxy")),
    (a_room_is_entered_by_its_front_door, Module("http2._server", "from .. import _secret")),
    (a_room_is_entered_by_its_front_door, Module("__main__", "import trio_tsconnect.config._toml")),
    (a_room_is_entered_by_its_front_door, Module("engine._proxy", "from ..stream._pipe import Pipe")),
    (no_room_takes_everything, Module("engine._proxy", "from ..stream import *")),
    (what_http_means_needs_no_loop, Module("message._headers", "import trio.abc")),
    (what_http_means_needs_no_loop, Module("message._headers", "from h11 import Request")),
    (h11_lives_in_stream, Module("engine._session", "import h11")),
    (h11_lives_in_stream, Module("http2._server", "def f():\n    from h11_mypyc import Connection")),
    (nobody_asks_for_the_socket, Module("engine._session", "stream.socket.getpeername()")),
    (nobody_asks_for_the_socket, Module("http2._server", "peer = self.stream.transport_stream.socket")),
    (an_init_only_shows_names, Module("stream", '"""Bytes."""\n__all__ = ["x"]', is_init=True)),
    (an_init_only_shows_names, Module("stream", "from ._pipe import Pipe", is_init=True)),
    (an_init_only_shows_names, Module("stream", "import trio", is_init=True)),
    (a_module_fits_the_mind, Module("stream._pipe", "\n" * (LONGEST_MODULE + 1))),
    (a_module_says_what_it_is, Module("stream._pipe", "import trio")),
    (public_names_are_explained, Module("stream._pipe", "class Pipe:\n    pass")),
    (public_names_are_explained, Module("stream._pipe", "async def open_pipe(): ...")),
]

SOUND = [
    (
        imports_point_downwards,
        Module("engine._proxy", "from ..stream import Pipe\nfrom .._util import public\nfrom ._session import Session"),
    ),
    (imports_point_downwards, Module("http2._server", "from .. import Proxy\nfrom ..clients import HttpxTransport")),
    (
        imports_point_downwards,
        Module("", "from .engine import Proxy as Proxy\nfrom ._version import __version__ as __version__", is_init=True),
    ),
    (
        a_room_is_entered_by_its_front_door,
        Module("http2._server", "from .. import Proxy\nfrom ..engine import Session\nfrom ._frames import _pad"),
    ),
    (a_room_is_entered_by_its_front_door, Module("__main__", "from . import __version__\nfrom ._util import public")),
    (what_http_means_needs_no_loop, Module("stream._pipe", "import trio")),
    (h11_lives_in_stream, Module("stream._http1", "import h11")),
    (nobody_asks_for_the_socket, Module("engine._origins", "trio.socket.getaddrinfo")),
    (nobody_asks_for_the_socket, Module("stream._client_info", "stream.socket.getpeername()")),
    (an_init_only_shows_names, Module("stream", '"""Bytes."""\nfrom ._pipe import Pipe as Pipe', is_init=True)),
    (a_module_fits_the_mind, Module("stream._pipe", "\n" * LONGEST_MODULE)),
    (a_module_says_what_it_is, Module("stream._pipe", '"""Bytes."""')),
    (public_names_are_explained, Module("stream._pipe", "@overload\ndef pair(): ...\ndef _pair(): ...")),
]


def label(value: object) -> str:
    return value.source.strip().replace("\n", "; ")[:60] if isinstance(value, Module) else value.__name__  # type: ignore[attr-defined]


@pytest.mark.parametrize(("law", "module"), BROKEN, ids=label)
def test_law_complains_of_a_module_that_breaks_it(law, module: Module) -> None:
    assert list(law(module))


@pytest.mark.parametrize(("law", "module"), SOUND, ids=label)
def test_law_lets_a_sound_module_be(law, module: Module) -> None:
    assert list(law(module)) == []


def test_law_of_the_memory_channel_complains_of_pipes_made_otherwise() -> None:
    sound = "class Pipe:\n    def __init__(self):\n        self.ends = trio.open_memory_channel[bytes](1)"
    assert list(bytes_travel_in_a_memory_channel([Module("stream._pipe", sound)])) == []
    assert list(bytes_travel_in_a_memory_channel([Module("stream._pipe", "from collections import deque\n" + sound)]))
    assert list(bytes_travel_in_a_memory_channel([Module("stream._pipe", "class Pipe:\n    pass")]))
    assert list(bytes_travel_in_a_memory_channel([Module("stream._other", "trio.open_memory_channel(1)")]))


# --- the package keeps them ---------------------------------------------------------------------------------------------------


@cache
def package() -> list[Module]:
    modules = []
    for path in sorted(ROOT.rglob("*.py")):
        parts = list(path.relative_to(ROOT).with_suffix("").parts)
        is_init = parts[-1] == "__init__"
        modules.append(Module(".".join(parts[:-1] if is_init else parts), path.read_text(), is_init=is_init))
    return modules


@pytest.mark.parametrize("law", LAWS, ids=label)
def test_package_keeps_the_law(law) -> None:
    modules = package()
    assert {module.room for module in modules} >= set(ROOMS_BELOW)
    assert [f"{module.name or PACKAGE}: {complaint}" for module in modules for complaint in law(module)] == []


def test_pipes_are_made_of_memory_channels() -> None:
    assert list(bytes_travel_in_a_memory_channel(package())) == []


# --- circles ------------------------------------------------------------------------------------------------------------------

LARGEST_CIRCLE = 2
"""Modules that may know each other, types counted: two that are one thing in two files."""


def graph(modules: list[Module]) -> dict[str, set[str]]:
    """For each module those that it imports, for types or for good; a name that a room shows counts as the module that defines it."""
    known = {module.name: module for module in modules}

    def defining(path: list[str]) -> str | None:
        for length in range(len(path), -1, -1):
            module = known.get(".".join(path[:length]))
            if module is None:
                continue
            if module.is_init and length < len(path):
                for each in imports(module):
                    if each.inside and each.inside[-1] == path[length] and each.inside[:-1] != path[:length]:
                        return defining(each.inside)
            return None if module.is_init else module.name
        return None

    found: dict[str, set[str]] = {}
    for module in modules:
        if not module.is_init:
            targets = {defining(each.inside) for each in imports(module) if each.inside}
            found[module.name] = {target for target in targets if target and target != module.name}
    return found


def circles(edges: dict[str, set[str]]) -> list[set[str]]:
    """The sets of modules that can be reached from each other (Tarjan's algorithm would be faster, and longer)."""
    reach = {name: set(targets) for name, targets in edges.items()}
    for middle, beyond in reach.items():
        for targets in reach.values():
            if middle in targets:
                targets |= beyond
    found: list[set[str]] = []
    for name, targets in reach.items():
        circle = {other for other in targets if name in reach.get(other, ())}
        if name in targets and circle not in found:
            found.append(circle)
    return found


def rooms_drawn(edges: dict[str, set[str]]) -> str:
    """The rooms, and which knows which, as a diagram; what follows from other arrows is left out."""
    known: dict[str, set[str]] = {}
    for module, targets in edges.items():
        room = module.partition(".")[0]
        if room not in FOUNDATION:
            known.setdefault(room, set()).update({target.partition(".")[0] for target in targets} - {room} - FOUNDATION)
    lines = ["```mermaid", "flowchart TD"]
    for room in sorted(known):
        beyond = set().union(*(reachable(known, other) for other in known[room]))
        lines += [f"    {room.strip('_')} --> {other.strip('_')}" for other in sorted(known[room] - beyond)]
    return "\n".join([*lines, "```"])


def reachable(known: dict[str, set[str]], room: str) -> set[str]:
    """The rooms that a room knows, and those that they know."""
    direct = known.get(room, set())
    return direct.union(*(reachable(known, other) for other in direct))


def test_circles_are_found() -> None:
    modules = [
        Module("a", "", is_init=True),
        Module("a._x", "from trio_tsconnect.b import Z"),
        Module("b", "from trio_tsconnect.b._z import Z as Z", is_init=True),
        Module("b._z", "from typing import TYPE_CHECKING\nif TYPE_CHECKING:\n    from trio_tsconnect.c._w import W"),
        Module("c._w", "def f():\n    from trio_tsconnect.a._x import X"),
        Module("c._v", "from trio_tsconnect.c._w import W"),
    ]
    assert circles(graph(modules)) == [{"a._x", "b._z", "c._w"}]


def test_modules_know_each_other_in_one_direction() -> None:
    assert [sorted(circle) for circle in circles(graph(package())) if len(circle) > LARGEST_CIRCLE] == []


def test_rooms_know_each_other_in_one_direction() -> None:
    for circle in circles(graph(package())):
        assert len({name.partition(".")[0] for name in circle}) == 1, sorted(circle)


def test_diagram_of_the_rooms_is_what_the_code_says() -> None:
    """Where this fails: put what is expected into docs/design.md."""
    assert rooms_drawn(graph(package())) in (ROOT.parent / "docs" / "design.md").read_text(encoding="utf-8")


# --- the faces ----------------------------------------------------------------------------------------------------------------


def faces() -> list[str]:
    """The packages that users import from: a file is private, and so is a folder that begins with an underscore."""
    rooms = sorted(path.parent.name for path in ROOT.glob("*/__init__.py") if not path.parent.name.startswith("_"))
    return [PACKAGE, *(f"{PACKAGE}.{room}" for room in rooms)]


def shown_elsewhere(face: ModuleType) -> Iterator[str]:
    """What a traceback, a repr or a trio task name would give under a module that it cannot be imported from: `@public` was forgotten."""
    for name, thing in vars(face).items():
        if not name.startswith("_") and isinstance(thing, type | FunctionType):
            module = thing.__module__
            if module not in faces() or getattr(importlib.import_module(module), thing.__name__, None) is not thing:
                yield f"{name} shows {module}.{thing.__name__}"


@pytest.mark.parametrize("face", faces())
def test_what_a_face_shows_is_known_by_its_public_path(face: str) -> None:
    assert list(shown_elsewhere(importlib.import_module(face))) == []


def test_what_is_known_by_a_private_path_or_by_one_where_it_is_not_is_complained_of() -> None:
    face = ModuleType(f"{PACKAGE}.stream")
    for name, module in [("A", "stream._pipe"), ("B", "stream")]:
        setattr(face, name, type(name, (), {"__module__": f"{PACKAGE}.{module}"}))
    assert list(shown_elsewhere(face)) == ["A shows trio_tsconnect.stream._pipe.A", "B shows trio_tsconnect.stream.B"]
