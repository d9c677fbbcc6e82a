"""Plugins and access rules in configuration files: what is found, what it is given, and the line that tells of what cannot be."""

from __future__ import annotations

import importlib
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from trio_tsconnect import AccessRule, ConfigError, Plugin, ProxyConfig

MODULE = """
from __future__ import annotations
from typing import Literal
import attrs
from trio_tsconnect import ConfigError, Plugin

class Plain(Plugin):
    pass

class NotOne:
    pass

@attrs.frozen(kw_only=True)
class Part:
    name: str
    weight: float = 1.0

class Rich(Plugin):
    @attrs.frozen(kw_only=True)
    class Options:
        rate: float = attrs.field(validator=attrs.validators.gt(0))
        count: int = 1
        text: str = ""
        flag: bool = False
        level: Literal["low", "high"] = "low"
        maybe: int | None = None
        names: tuple[str, ...] = ()
        numbers: list[int] = []
        table: dict[str, str] = {}
        parts: tuple[Part, ...] = ()
        part: Part | None = None
        by_name: dict[str, Part] = {}
        file: str = attrs.field(default="", metadata={"path": True})
        from_: str = ""

    def __init__(self, options):
        self.options = options
        if options.text == "wrong":
            raise ConfigError("must not be wrong", key="text")
        if options.text == "worse":
            raise RuntimeError("so it goes")

class Unfit(Plugin):
    Options = dict
"""


@pytest.fixture
def folder(tmp_path: Path) -> Iterator[Path]:
    """A folder with a module of plugins in it, which nobody has heard of before or does afterwards."""
    before, modules = list(sys.path), set(sys.modules)
    (tmp_path / "ts_beside.py").write_text(MODULE)
    (tmp_path / "ts_broken.py").write_text("1 / 0")
    (tmp_path / "ts_needy.py").write_text("import ts_not_there")
    yield tmp_path
    sys.path[:] = before
    for name in set(sys.modules) - modules:
        if name.startswith("ts_"):
            del sys.modules[name]


def load(folder: Path, text: str) -> ProxyConfig:
    (folder / "proxy.toml").write_text(text)
    return ProxyConfig.from_toml(folder / "proxy.toml")


def fault(folder: Path, text: str) -> str:
    with pytest.raises(ConfigError) as caught:
        load(folder, text)
    line = str(caught.value)
    assert len(line.splitlines()) == 1
    assert line.startswith(f"{folder}/proxy.toml: ")
    return line.removeprefix(f"{folder}/proxy.toml: ")


def options(folder: Path, lines: str) -> Any:
    (plugin,) = load(folder, f'[[plugin]]\nuse = "ts_beside:Rich"\n[plugin.options]\nrate = 1\n{lines}').plugins
    return plugin.options  # type: ignore[attr-defined]


# --- what is found ----------------------------------------------------------------------------------------------------------------


def test_plugins_stand_in_the_order_of_the_file(folder: Path) -> None:
    config = load(
        folder,
        """
        [[plugin]]
        use = "trio_tsconnect.plugins:RequestId"
        [[plugin]]
        use = "ts_beside:Plain"
        [[remap]]
        from = "/"
        to = "http://o"
        plugins = ["ts_beside:Plain", { use = "ts_beside:Rich", options = { rate = 2.5 } }]
        """,
    )
    assert [type(plugin).__name__ for plugin in config.plugins] == ["RequestId", "Plain"]
    assert [type(plugin).__name__ for plugin in config.remap[0].plugins] == ["Plain", "Rich"]
    assert config.remap[0].plugins[1].options.rate == 2.5  # type: ignore[attr-defined]
    assert all(isinstance(plugin, Plugin) for plugin in (*config.plugins, *config.remap[0].plugins))


def test_a_module_beside_the_file_hides_no_other(folder: Path) -> None:
    (folder / "json.py").write_text("raise SystemExit")
    load(folder, '[[plugin]]\nuse = "ts_beside:Plain"')
    assert sys.path[-1] == str(folder)


def test_the_path_stays_as_it_is_for_a_module_that_is_installed(folder: Path) -> None:
    load(folder, '[[plugin]]\nuse = "trio_tsconnect.plugins:RequestId"')
    assert str(folder) not in sys.path


def test_an_installed_plugin_is_found_by_its_name(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    info = folder / "ts_beside-1.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: ts-beside\nVersion: 1\n")
    (info / "entry_points.txt").write_text(
        "[trio_tsconnect.plugins]\nplain = ts_beside:Plain\nlost = ts_beside:Lost\nno_plugin = ts_beside:NotOne\n"
    )
    monkeypatch.syspath_prepend(str(folder))
    importlib.invalidate_caches()
    assert [type(plugin).__name__ for plugin in load(folder, 'plugin = ["plain"]').plugins] == ["Plain"]
    assert fault(folder, 'plugin = ["plian"]') == 'plugin[0]: no plugin "plian" is installed; did you mean "plain"?'
    assert fault(folder, 'plugin = ["lost"]').startswith('plugin[0]: the plugin "lost" cannot be imported (AttributeError: ')
    assert fault(folder, 'plugin = ["no_plugin"]') == 'plugin[0]: "no_plugin" is not a plugin, expected a subclass of trio_tsconnect.Plugin'


EXPECTED = 'expected "package.module:Class" or the name of an installed plugin'


@pytest.mark.parametrize(
    ("text", "line"),
    {
        "plugin = 1": "plugin: must be a list, got 1",
        "plugin = [1]": "plugin[0]: must be the name of a plugin, or a table with `use`, got 1",
        '[[plugin]]\nuse = "ts_beside:Plain"\noption = {}': 'plugin[0].option: unknown key; did you mean "options"?',
        "[[plugin]]\noptions = {}": "plugin[0].use: is missing, and has no default",
        "[[plugin]]\nuse = 3": 'plugin[0].use: must be "package.module:Class" or the name of an installed plugin, got 3',
        '[[plugin]]\nuse = ""': 'plugin[0].use: must be "package.module:Class" or the name of an installed plugin, got ""',
        '[[plugin]]\nuse = "a b:C"': f'plugin[0].use: "a b:C" does not name a class, {EXPECTED}',
        '[[plugin]]\nuse = "ts_nowhere:C"': 'plugin[0].use: there is no module "ts_nowhere", expected one that is installed, or beside this file',
        '[[plugin]]\nuse = "ts_beside.sub:C"': (
            'plugin[0].use: there is no module "ts_beside.sub", expected one that is installed, or beside this file'
        ),
        '[[plugin]]\nuse = "ts_needy:C"': 'plugin[0].use: ts_needy cannot be imported: it needs the module "ts_not_there"',
        '[[plugin]]\nuse = "ts_broken:C"': "plugin[0].use: ts_broken cannot be imported (ZeroDivisionError: division by zero in FOLDER/ts_broken.py, line 1)",
        '[[plugin]]\nuse = "ts_beside:Plane"': 'plugin[0].use: there is no "Plane" in ts_beside (FOLDER/ts_beside.py); did you mean "Plain"?',
        '[[plugin]]\nuse = "ts_beside:NotOne"': 'plugin[0].use: "ts_beside:NotOne" is not a plugin, expected a subclass of trio_tsconnect.Plugin',
        '[[plugin]]\nuse = "ts_beside:Part"': 'plugin[0].use: "ts_beside:Part" is not a plugin, expected a subclass of trio_tsconnect.Plugin',
        '[[plugin]]\nuse = "ts_beside:Unfit"': ("plugin[0].use: Unfit.Options must be an attrs class: the plugin cannot be configured"),
        '[[plugin]]\nuse = "ts_beside:Plain"\noptions = {}': "plugin[0].options: Plain takes no options, expected none",
        '[[remap]]\nfrom = "/"\nto = "http://o"\nplugins = ["ts_nowhere:C"]': (
            'remap[0].plugins[0]: there is no module "ts_nowhere", expected one that is installed, or beside this file'
        ),
    }.items(),
)
def test_a_plugin_that_cannot_be_had_is_told_in_a_line(folder: Path, text: str, line: str) -> None:
    assert fault(folder, text).replace(str(folder), "FOLDER") == line


def test_module_that_the_standard_library_hides_is_told_with_its_file(folder: Path) -> None:
    (folder / "code.py").write_text(MODULE)
    said = fault(folder, '[[plugin]]\nuse = "code:Plain"')
    assert said.startswith('plugin[0].use: there is no "Plain" in code (')
    assert "which shadows code.py beside this file: rename code.py" in said


@pytest.mark.parametrize(("text", "line"), [("def f(:", 1), ("x = 1\nimport sys\nsys.exit('no')", 3), ("x = 1\n\nraise ValueError(x)", 3)])
def test_module_that_fails_is_told_with_file_and_line(folder: Path, text: str, line: int) -> None:
    name = f"ts_fails_{line}_{len(text)}"
    (folder / f"{name}.py").write_text(text)
    said = fault(folder, f'[[plugin]]\nuse = "{name}:C"')
    assert f"in {folder / name}.py, line {line}" in said
    assert "\n" not in said


# --- its options ------------------------------------------------------------------------------------------------------------------


def test_options_become_what_they_are_annotated_with(folder: Path) -> None:
    found = options(
        folder,
        """
        count = 3
        level = "high"
        maybe = 4
        names = ["a", "b"]
        numbers = [1, 2]
        table = { x = "y" }
        parts = [{ name = "p" }, { name = "q", weight = 2 }]
        part = { name = "r" }
        by_name = { s = { name = "t" } }
        file = "there.txt"
        from = "here"
        """,
    )
    assert (found.rate, found.count, found.level, found.maybe, found.from_) == (1, 3, "high", 4, "here")
    assert (found.names, found.numbers, found.table) == (("a", "b"), [1, 2], {"x": "y"})
    assert [(part.name, part.weight) for part in found.parts] == [("p", 1.0), ("q", 2)]
    assert (found.part.name, found.by_name["s"].name) == ("r", "t")
    assert found.file == str(folder / "there.txt")


@pytest.mark.parametrize(
    ("text", "line"),
    {
        "count = 1.5": "options.count: must be a whole number, got 1.5",
        "count = true": "options.count: must be a whole number, got true",
        'count = "1"': 'options.count: must be a whole number, got "1"',
        "text = 1": "options.text: must be a string, got 1",
        "flag = 1": "options.flag: must be true or false, got 1",
        'level = "medium"': 'options.level: must be "low" or "high", got "medium"',
        'maybe = "x"': 'options.maybe: must be a whole number, got "x"',
        'names = "abc"': 'options.names: must be a list, got "abc"',
        "names = [1]": "options.names[0]: must be a string, got 1",
        'numbers = "12"': 'options.numbers: must be a list, got "12"',
        "table = 1": "options.table: must be a table in which each value is a string, got 1",
        "table = { x = 1 }": "options.table: must be a table in which each value is a string, got {'x': 1}",
        "parts = [{ name = 1 }]": "options.parts[0].name: must be a string, got 1",
        "parts = [{}]": "options.parts[0].name: is missing, and has no default",
        "part = { nmae = 'x' }": 'options.part.nmae: unknown key; did you mean "name"?',
        "by_name = { s = { name = 1 } }": "options.by_name.s.name: must be a string, got 1",
        "cuont = 1": 'options.cuont: unknown key; did you mean "count"?',
        'text = "wrong"': "options.text: must not be wrong",
    }.items(),
)
def test_an_option_of_another_kind_is_refused_by_its_key(folder: Path, text: str, line: str) -> None:
    assert fault(folder, f'[[plugin]]\nuse = "ts_beside:Rich"\n[plugin.options]\nrate = 1\n{text}') == f"plugin[0].{line}"


def test_a_constructor_that_fails_is_named_with_its_line(folder: Path) -> None:
    said = fault(folder, '[[plugin]]\nuse = "ts_beside:Rich"\n[plugin.options]\nrate = 1\ntext = "worse"')
    source = (folder / "ts_beside.py").read_text().splitlines()
    line = next(number for number, text in enumerate(source, 1) if "so it goes" in text)
    place = f"in {folder / 'ts_beside.py'}, line {line}"
    assert said == f"plugin[0].options: Rich cannot be created (RuntimeError: so it goes {place})"


def test_a_validator_of_attrs_speaks_in_the_same_line(folder: Path) -> None:
    assert fault(folder, '[[plugin]]\nuse = "ts_beside:Rich"\noptions = { rate = -1 }') == "plugin[0].options: 'rate' must be > 0: -1"


def test_options_that_are_needed_are_asked_for_without_a_table_too(folder: Path) -> None:
    assert fault(folder, 'plugin = ["ts_beside:Rich"]') == "plugin[0].options.rate: is missing, and has no default"
    assert fault(folder, '[[plugin]]\nuse = "ts_beside:Rich"\noptions = 1') == "plugin[0].options: must be a table, got 1"


# --- access rules -----------------------------------------------------------------------------------------------------------------


def test_access_rules_of_the_proxy_and_of_a_remap_rule(folder: Path) -> None:
    config = load(
        folder,
        """
        [[access]]
        action = "allow"
        clients = ["10.0.0.0/8"]
        methods = ["GET", "HEAD"]
        [[access]]
        action = "deny"
        [[remap]]
        from = "/"
        to = "http://o"
        access = [{ action = "allow", internal = true, certificates = ["CN=ops"] }, { action = "deny" }]
        """,
    )
    assert config.access == (AccessRule(action="allow", clients=("10.0.0.0/8",), methods=("GET", "HEAD")), AccessRule(action="deny"))
    assert config.remap[0].access == (AccessRule(action="allow", internal=True, certificates=("CN=ops",)), AccessRule(action="deny"))


@pytest.mark.parametrize(
    ("text", "line"),
    {
        '[[access]]\naction = "refuse"': 'access[0].action: must be "allow" or "deny", got "refuse"',
        '[[access]]\naction = "deny"\nclient = "x"': 'access[0].client: unknown key; did you mean "clients"?',
        '[[access]]\naction = "deny"\nclients = "10.0.0.1"': 'access[0].clients: must be a list, got "10.0.0.1"',
        '[[access]]\naction = "deny"\nclients = ["x"]': (
            'access[0].clients[0]: must be an address or a network, such as "10.0.0.0/8" or "2001:db8::/32", got "x"'
        ),
        '[[remap]]\nfrom = "/"\nto = "http://o"\naccess = [{ action = "deny", methods = ["post"] }]': (
            'remap[0].access[0].methods[0]: must be a method in upper case, got "post"; did you mean "POST"?'
        ),
    }.items(),
)
def test_an_access_rule_that_cannot_be_meant_is_told_in_a_line(folder: Path, text: str, line: str) -> None:
    assert fault(folder, text) == line
