"""What `--reload-plugins` is made of: which modules are the user's, what has changed, and how the one proxy follows the other."""

from __future__ import annotations

import os
import sys
import sysconfig
from collections.abc import Awaitable, Callable, Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import trio
import trio.testing

from tests.engine._world import GET, Wire
from trio_tsconnect import ConfigError, MemoryLog, ProxyConfig
from trio_tsconnect._command._changes import Watched
from trio_tsconnect._command._generations import Generations
from trio_tsconnect._command._modules import imported_anew, own_files, own_modules, with_importers
from trio_tsconnect._command._reload import Reloader

LONG_AGO, NOW_OR_LATER = 0.0, float("inf")


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A folder whose modules can be imported; they are forgotten at the end."""
    before = set(sys.modules)
    monkeypatch.syspath_prepend(tmp_path)
    yield tmp_path
    for name in set(sys.modules) - before:
        if own_modules({name: sys.modules[name]}):
            del sys.modules[name]


def write(folder: Path, **sources: str) -> None:
    """Write modules; `pkg__sub` is `pkg/sub.py`, and `pkg__` the package itself."""
    for name, source in sources.items():
        parts = name.split("__")
        file = folder.joinpath(*parts[:-1], f"{parts[-1] or '__init__'}.py")
        file.parent.mkdir(exist_ok=True)
        file.write_text(source)


def load(name: str) -> Any:
    """As the import statement does it."""
    return __import__(name, fromlist=["x"])


# --- which modules are the user's -----------------------------------------------------------------------------------------------------


def module(name: str, file: str | None) -> ModuleType:
    made = ModuleType(name)
    made.__file__ = file
    return made


@pytest.mark.parametrize(
    ("name", "file"),
    [
        ("gate", "/home/someone/gate.py"),
        ("shop.gate", "/home/someone/project/shop/gate.py"),
        ("trio_tsconnect_more", "/home/someone/trio_tsconnect_more.py"),
    ],
)
def test_file_outside_of_the_libraries_is_the_users(name: str, file: str) -> None:
    assert own_modules({name: module(name, file)}) == {name: Path(file)}


@pytest.mark.parametrize(
    ("name", "file"),
    [
        ("sys", None),
        ("json", os.__file__),
        ("json.new", f"{sysconfig.get_path('stdlib')}/json/new.py"),
        ("h11", f"{sysconfig.get_path('purelib')}/h11/__init__.py"),
        ("h11", "/home/someone/.venv/lib/python3/site-packages/h11/__init__.py"),
        ("h11", "/usr/lib/python3/dist-packages/h11/__init__.py"),
        ("fast", "/home/someone/fast.so"),
        ("trio_tsconnect.plugins", "/home/someone/trio_tsconnect/plugins/__init__.py"),
        ("__main__", "/home/someone/run.py"),
    ],
)
def test_library_builtin_and_this_package_are_not(name: str, file: str | None) -> None:
    assert own_modules({name: module(name, file)}) == {}


def test_what_the_command_has_imported_is_ignored_and_so_is_what_is_no_module() -> None:
    modules: Any = {"gate": module("gate", "/home/someone/gate.py"), "odd": object(), "none": None}
    assert own_modules(modules, {"gate"}) == {}


@pytest.mark.parametrize(
    "statement",
    [
        "import words",
        "import words as other",
        "from words import ANSWER",
        "from words import *",
        "def later():\n    from words import ANSWER",
        "if True:\n    import os, words",
    ],
)
def test_module_that_imports_a_changed_one_is_stale(folder: Path, statement: str) -> None:
    write(folder, gate=statement, words="", other="import json")
    own = {name: folder / f"{name}.py" for name in ("gate", "words", "other")}
    assert with_importers({"words"}, own) == {"words", "gate"}


def test_importers_of_importers_are_stale_also_in_circles(folder: Path) -> None:
    write(folder, a="import b", b="import c", c="import a", d="import a", e="")
    own = {name: folder / f"{name}.py" for name in "abcde"}
    assert with_importers({"c"}, own) == {"a", "b", "c", "d"}


@pytest.mark.parametrize("statement", ["from . import words", "from .words import ANSWER", "import pkg.words", "from pkg import words"])
def test_imports_within_a_package_are_found(folder: Path, statement: str) -> None:
    write(folder, pkg__="", pkg__gate=statement, pkg__words="")
    own = {"pkg": folder / "pkg/__init__.py", "pkg.gate": folder / "pkg/gate.py", "pkg.words": folder / "pkg/words.py"}
    assert with_importers({"pkg.words"}, own) == {"pkg.words", "pkg.gate"}
    assert with_importers({"pkg"}, own) == {"pkg", "pkg.words", "pkg.gate"}


def test_relative_import_in_a_package_itself_starts_there(folder: Path) -> None:
    write(folder, pkg__="from .words import ANSWER", pkg__words="")
    assert with_importers({"pkg.words"}, {"pkg": folder / "pkg/__init__.py", "pkg.words": folder / "pkg/words.py"}) >= {"pkg"}


def test_source_that_cannot_be_read_imports_nothing(folder: Path) -> None:
    deep = "import words\n" + "(" * 10_000
    write(folder, broken="import words =", outside="from .... import words", words="", deep=deep, nested="x = " + "-" * 100_000 + "1")
    own = {name: folder / f"{name}.py" for name in ("broken", "outside", "words", "missing", "deep", "nested")}
    assert with_importers({"words"}, own) == {"words"}


# --- importing anew -------------------------------------------------------------------------------------------------------------------


def test_modules_are_imported_from_their_files_within_one_second_and_at_the_same_size(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys, "dont_write_bytecode", False)
    monkeypatch.setattr(sys, "pycache_prefix", None)
    write(folder, words="ANSWER = 1", gate="from words import ANSWER")
    old = load("gate")
    facts = (folder / "words.py").stat()
    write(folder, words="ANSWER = 2")
    os.utime(folder / "words.py", ns=(facts.st_atime_ns, facts.st_mtime_ns))
    with imported_anew({"gate", "words"}):
        new = load("gate")
    assert (old.ANSWER, new.ANSWER) == (1, 2)
    assert sys.modules["gate"] is new
    assert (sys.dont_write_bytecode, sys.pycache_prefix) == (False, None)


def test_after_a_failure_the_old_modules_are_there_and_the_new_ones_are_not(folder: Path) -> None:
    write(folder, pkg__="", pkg__words="ANSWER = 1", gate="from pkg import words")
    gate, words = load("gate"), load("pkg.words")
    package = sys.modules["pkg"]
    write(folder, pkg__words="ANSWER = 2", pkg__fresh="", gate="import pkg.words, pkg.fresh\n1 / 0")
    with pytest.raises(ZeroDivisionError), imported_anew({"gate", "pkg.words"}):
        load("gate")
    assert (sys.modules["gate"], sys.modules["pkg.words"], vars(package)["words"]) == (gate, words, words)
    assert "pkg.fresh" not in sys.modules
    assert not hasattr(package, "fresh")


def test_module_of_a_package_that_stays_is_not_found_in_the_package(folder: Path) -> None:
    write(folder, pkg__="", pkg__words="ANSWER = 1", gate="from pkg import words")
    load("gate")
    write(folder, pkg__words="ANSWER = 22")
    with imported_anew({"gate", "pkg.words"}):
        assert load("gate").words.ANSWER == 22


def test_old_code_still_reaches_the_modules_of_its_package(folder: Path) -> None:
    write(folder, pkg__="", pkg__words="ANSWER = 1", gate="import pkg.words")
    old = load("gate")
    write(folder, pkg__words="ANSWER = 22")
    with imported_anew({"gate", "pkg", "pkg.words"}):
        new = load("gate")
    assert (old.pkg.words.ANSWER, new.pkg.words.ANSWER) == (1, 22)


def test_library_that_a_failed_attempt_has_imported_stays(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delitem(sys.modules, "colorsys", raising=False)
    write(folder, gate="import colorsys\n1 / 0")
    with pytest.raises(ZeroDivisionError), imported_anew(set()):
        load("gate")
    assert "colorsys" in sys.modules


def test_files_that_an_exception_has_passed_include_those_of_its_causes(folder: Path) -> None:
    write(
        folder, outer="try:\n    import inner\nexcept Exception as e:\n    raise ExceptionGroup('x', [e])", inner="import worst", worst="="
    )
    with pytest.raises(ExceptionGroup) as caught:
        load("outer")
    caught.value.exceptions[0].__cause__ = caught.value  # a circle must not matter
    assert own_files(caught.value) >= {folder / f"{name}.py" for name in ("outer", "inner", "worst")}


def test_files_of_libraries_and_of_this_package_are_not_among_them(tmp_path: Path) -> None:
    (tmp_path / "proxy.toml").write_text("[[listen]]\naddress = 3")
    with pytest.raises(ConfigError) as caught:
        ProxyConfig.from_toml(tmp_path / "proxy.toml")
    assert own_files(caught.value) == {Path(__file__)}


# --- what has changed -----------------------------------------------------------------------------------------------------------------


def watched(*files: Path, since: float = NOW_OR_LATER) -> Watched:
    made = Watched()
    made.follow(files, since)
    return made


def test_file_that_is_written_has_changed_once(tmp_path: Path) -> None:
    file, other = tmp_path / "a.py", tmp_path / "b.py"
    file.write_text("a")
    other.write_text("b")
    files = watched(file, other)
    assert files.changed() == []
    file.write_text("longer")
    assert files.changed() == [file]
    assert files.changed() == []


def test_file_replaced_by_one_of_the_same_size_and_time_has_changed(tmp_path: Path) -> None:
    file, fresh = tmp_path / "a.py", tmp_path / "a.py.tmp"
    file.write_text("a")
    files = watched(file)
    fresh.write_text("b")
    facts = file.stat()
    os.utime(fresh, ns=(facts.st_atime_ns, facts.st_mtime_ns))
    fresh.rename(file)
    assert files.changed() == [file]


def test_missing_file_has_not_changed_until_it_is_back(tmp_path: Path) -> None:
    file = tmp_path / "a.py"
    file.write_text("a")
    files = watched(file)
    file.unlink()
    assert files.changed() == []
    file.write_text("ab")
    assert files.changed() == [file]


def test_new_file_has_changed_if_it_was_written_since(tmp_path: Path) -> None:
    file = tmp_path / "a.py"
    file.write_text("a")
    assert watched(file, since=LONG_AGO).changed() == [file]
    assert watched(file, since=NOW_OR_LATER).changed() == []


def test_following_again_forgets_no_change(tmp_path: Path) -> None:
    file = tmp_path / "a.py"
    file.write_text("a")
    files = watched(file)
    file.write_text("ab")
    files.follow([file], NOW_OR_LATER)
    assert files.changed() == [file]
    files.follow([], NOW_OR_LATER)
    file.write_text("abc")
    assert files.changed() == []


# --- the reload, without a process ----------------------------------------------------------------------------------------------------

PLUGIN = """
from trio_tsconnect import Plugin
import ts_words
class Gate(Plugin):
    async def read_request(self, txn):
        txn.respond(200, ts_words.ANSWER)
"""
CONFIG = '[[listen]]\naddress = "127.0.0.1:8080"\n[[plugin]]\nuse = "ts_gate:Gate"\n'


class Bench:
    """A proxy with a plugin of two modules, and its reloader."""

    def __init__(self, folder: Path, nursery: trio.Nursery) -> None:
        self.folder, self.file = folder, folder / "proxy.toml"
        self.file.write_text(CONFIG)
        write(folder, ts_gate=PLUGIN, ts_words="ANSWER = 'one'")
        ignored = frozenset(sys.modules)
        self.config = ProxyConfig.from_toml(self.file)
        self.reloader = Reloader(str(self.file), self.config, ignored=ignored, since=NOW_OR_LATER)
        self.log = MemoryLog()
        self.proxies = Generations(nursery, self.log)

    async def reload(self, *names: str) -> None:
        await self.reloader.reload([self.folder / name for name in names], self.proxies)

    async def ask(self) -> bytes:
        return (await Wire(self.proxies.current.connect()).ask(GET)).body


async def on_a_bench(folder: Path, act: Callable[[Bench], Awaitable[None]]) -> Bench:
    with trio.fail_after(60):
        async with trio.open_nursery() as nursery:
            bench = Bench(folder, nursery)
            await bench.proxies.replace(bench.config)
            assert await bench.ask() == b"one"
            await act(bench)
            bench.proxies.end()
    assert bench.proxies.living == ()
    return bench


async def test_new_code_answers_and_the_proxies_share_the_log(
    folder: Path, autojump_clock: trio.testing.MockClock, capsys: pytest.CaptureFixture[str]
) -> None:
    async def act(bench: Bench) -> None:
        write(folder, ts_words="ANSWER = 'two'")
        await bench.reload("ts_words.py")
        assert await bench.ask() == b"two"
        assert len(bench.proxies.living) == 2
        await trio.sleep(1)
        assert len(bench.proxies.living) == 1

    bench = await on_a_bench(folder, act)
    assert [record.status for record in bench.log.records] == [200, 200]
    said = capsys.readouterr().err
    assert said.startswith("reloaded in ")
    assert said.endswith(" ms: ts_words.py changed\n")


async def test_task_of_a_plugin_ends_with_its_proxy_and_modules_that_have_not_changed_keep_their_state(
    folder: Path, autojump_clock: trio.testing.MockClock
) -> None:
    run = "    async def run(self, proxy):\n        ts_words.SEEN.append('begun')\n        try:\n            await proxy.wait_until_draining()\n"
    run += "            await trio.sleep_forever()\n        finally:\n            ts_words.SEEN.append('ended')\n"

    async def act(bench: Bench) -> None:
        write(folder, ts_gate=PLUGIN + run + "import trio\n", ts_words="ANSWER = 'two'; SEEN = []")
        await bench.reload("ts_gate.py", "ts_words.py")
        seen = sys.modules["ts_words"].SEEN
        await trio.testing.wait_all_tasks_blocked()
        await bench.reload("ts_gate.py")
        await trio.testing.wait_all_tasks_blocked()
        assert seen == ["begun"] * 2
        await trio.sleep(1)
        assert seen == ["begun", "begun", "ended"]

    await on_a_bench(folder, act)


async def test_message_names_eight_files(folder: Path, autojump_clock: trio.testing.MockClock, capsys: pytest.CaptureFixture[str]) -> None:
    async def act(bench: Bench) -> None:
        await bench.reload(*(f"{number}.py" for number in range(9)))
        assert capsys.readouterr().err.endswith(": 0.py, 1.py, 2.py, 3.py, 4.py, 5.py, 6.py, 7.py and 1 more changed\n")

    await on_a_bench(folder, act)


async def test_replaced_proxy_takes_first_requests_for_a_moment(folder: Path, autojump_clock: trio.testing.MockClock) -> None:
    async def act(bench: Bench) -> None:
        wire = Wire(bench.proxies.current.connect())
        await bench.reload("ts_words.py")
        await trio.sleep(0.1)
        assert (await wire.ask(GET)).status == 200

    await on_a_bench(folder, act)


BROKEN = [
    ({"ts_words": "ANSWER = ="}, "plugin[0].use: ts_gate cannot be imported (SyntaxError: ", "{folder}/ts_words.py, line 1)"),
    ({"ts_gate": "\nimport ts_nowhere"}, 'plugin[0].use: ts_gate cannot be imported: it needs the module "ts_nowhere"', ""),
    ({"ts_gate": "\n1/0"}, "plugin[0].use: ts_gate cannot be imported (ZeroDivisionError: ", "{folder}/ts_gate.py, line 2)"),
    ({"ts_gate": "raise SystemExit(3)"}, "plugin[0].use: ts_gate cannot be imported (SystemExit: 3", ", line 1)"),
    ({"ts_gate": PLUGIN + "    def __init__(self):\n        1/0\n"}, "plugin[0]: Gate cannot be created (", "{folder}/ts_gate.py, line 8)"),
    ({"ts_gate": PLUGIN + "    def __init__(self):\n        exit(3)\n"}, "SystemExit: 3 (", "ts_gate.py:8 in Gate.__init__)"),
    ({"ts_gate": ""}, 'plugin[0].use: there is no "Gate" in ts_gate', ""),
]


@pytest.mark.parametrize(("sources", "problem", "end"), BROKEN)
async def test_code_that_cannot_be_used_changes_nothing_and_is_named(
    folder: Path,
    autojump_clock: trio.testing.MockClock,
    capsys: pytest.CaptureFixture[str],
    sources: dict[str, str],
    problem: str,
    end: str,
) -> None:
    (name,) = sources

    async def act(bench: Bench) -> None:
        modules, proxy = (sys.modules["ts_gate"], sys.modules["ts_words"]), bench.proxies.current
        write(folder, **sources)
        await bench.reload(f"{name}.py")
        (line,) = capsys.readouterr().err.splitlines()
        assert line.startswith(f"{name}.py changed, but the proxy goes on as before: ")
        assert problem in line
        assert line.endswith(end.format(folder=folder))
        assert bench.proxies.current is proxy
        assert await bench.ask() == b"one"
        assert (sys.modules["ts_gate"], sys.modules["ts_words"]) == modules
        write(folder, ts_gate=PLUGIN, ts_words="ANSWER = 'three'")
        await bench.reload("ts_words.py")
        assert await bench.ask() == b"three"

    await on_a_bench(folder, act)


async def test_all_that_has_changed_since_the_last_success_is_loaded(folder: Path, autojump_clock: trio.testing.MockClock) -> None:
    async def act(bench: Bench) -> None:
        write(folder, ts_words="ANSWER = 'two'", ts_gate="=")
        await bench.reload("ts_words.py", "ts_gate.py")
        write(folder, ts_gate=PLUGIN)
        await bench.reload("ts_gate.py")
        assert await bench.ask() == b"two"

    await on_a_bench(folder, act)


async def test_origin_that_cannot_be_loaded_changes_nothing(
    folder: Path, autojump_clock: trio.testing.MockClock, capsys: pytest.CaptureFixture[str]
) -> None:
    async def act(bench: Bench) -> None:
        bench.file.write_text(CONFIG + '[[remap]]\nfrom = "/"\nto = "asgi+trio:ts_app:app"\n')
        write(folder, ts_app="def app(:")
        await bench.reload("proxy.toml")
        assert "SyntaxError" in capsys.readouterr().err
        assert await bench.ask() == b"one"

    await on_a_bench(folder, act)


async def test_proxy_that_cannot_be_opened_changes_nothing(
    folder: Path, autojump_clock: trio.testing.MockClock, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """`open_proxy` loads the origins a second time, and may fail where the file was loaded."""

    def fail(_to: str) -> None:
        raise ConfigError("not today")

    async def act(bench: Bench) -> None:
        bench.file.write_text(CONFIG + '[[remap]]\nfrom = "/"\nto = "asgi+trio:ts_app:app"\n')
        write(folder, ts_app="def app(): pass")
        monkeypatch.setattr("trio_tsconnect.engine._open.load_origin", fail)
        await bench.reload("proxy.toml")
        assert capsys.readouterr().err == "proxy.toml changed, but the proxy goes on as before: not today\n"
        assert await bench.ask() == b"one"
        assert "ts_app" not in sys.modules

    await on_a_bench(folder, act)


@pytest.mark.parametrize(
    ("before", "after", "said"),
    [
        ("8080", "8081", "; listen changed too: that needs a restart"),
        ("[[plugin]]", "[log]\npath = 'log'\n[[plugin]]", "; log changed too: that needs a restart"),
        ("[[plugin]]", "[http]\nvia = 'x'\n[[plugin]]", ""),
    ],
)
async def test_settings_that_need_a_restart_are_named(
    folder: Path,
    autojump_clock: trio.testing.MockClock,
    capsys: pytest.CaptureFixture[str],
    before: str,
    after: str,
    said: str,
) -> None:
    async def act(bench: Bench) -> None:
        bench.file.write_text(CONFIG.replace(before, after))
        await bench.reload("proxy.toml")
        assert capsys.readouterr().err.endswith(f"proxy.toml changed{said}\n")

    await on_a_bench(folder, act)


async def test_warning_is_repeated_only_if_it_is_new(
    folder: Path, autojump_clock: trio.testing.MockClock, capsys: pytest.CaptureFixture[str]
) -> None:
    async def act(bench: Bench) -> None:
        bench.file.write_text(CONFIG + "[origin]\nverify = false\n")
        for expected in (1, 0):
            await bench.reload("proxy.toml")
            assert capsys.readouterr().err.count("warning: ") == expected

    await on_a_bench(folder, act)


async def test_after_a_failure_the_files_beside_are_watched_too(folder: Path, autojump_clock: trio.testing.MockClock) -> None:
    async def act(bench: Bench) -> None:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(bench.reloader.run, bench.proxies)
            write(folder, ts_gate="from ts_pkg import ts_new\n" + PLUGIN, ts_words="ANSWER = 'two'", ts_pkg__="", ts_pkg__ts_new="=")
            await trio.sleep(1)
            write(folder, ts_pkg__ts_new="import ts_pkg.ts_newer")  # it was never imported
            await trio.sleep(1)
            assert await bench.ask() == b"one"
            write(folder, ts_pkg__ts_newer="")  # it is new
            await trio.sleep(1)
            assert await bench.ask() == b"two"
            nursery.cancel_scope.cancel()

    await on_a_bench(folder, act)


async def test_end_lets_all_drain_at_once(folder: Path, autojump_clock: trio.testing.MockClock) -> None:
    async def act(bench: Bench) -> None:
        await bench.reload("ts_words.py")

    began = trio.current_time()
    await on_a_bench(folder, act)
    assert trio.current_time() - began < 0.5
