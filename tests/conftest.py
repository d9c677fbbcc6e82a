"""What every test here can count on: repeatable examples, and a run that says by name what it left out."""

from __future__ import annotations

import os
import shutil
import sys
from collections import Counter
from collections.abc import Iterator
from importlib.util import find_spec
from pathlib import Path

import pytest
from hypothesis import HealthCheck, settings

# A run of the suite shows the same examples every time: a failure that comes and goes is nobody's. No example has a deadline,
# for the clock of a busy machine is no property of the code. A test must not set max_examples, or `make fuzz` has no say in it.
settings.register_profile("repeatable", derandomize=True, deadline=None, database=None)
settings.register_profile("long", deadline=None, max_examples=10_000, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile(os.environ.get("HYPOTHESIS_PROFILE", "repeatable"))

SOURCES = {
    "basedpyright": "the dependency group check",
    "chromium": "Debian: chromium",
    "curl": "Debian: curl",
    "duckdb": "the extra logs",
    "h2load": "Debian: nghttp2-client",
    "mypy": "the dependency group check",
    "nc": "Debian: netcat-openbsd",
    "nghttp": "Debian: nghttp2-client",
    "nginx": "Debian: nginx-light",
    "redis-server": "Debian: redis-server",
    "sphinx-build": "the dependency group docs",
    "sqlglot": "the extra logs",
}
MODULES = {"duckdb", "sqlglot"}
"""Those that are no programs, and are imported."""
WHERE = os.pathsep.join([str(Path(sys.executable).parent), os.environ["PATH"]])

left_out = pytest.StashKey[dict[str, int]]()
no_programs: dict[str, int] = {}


def missing_programs(item: pytest.Item) -> Iterator[str]:
    for mark in item.iter_markers("needs"):
        yield from (name for name in mark.args if is_missing(name))


def is_missing(name: str) -> bool:
    return find_spec(name) is None if name in MODULES else shutil.which(name, path=WHERE) is None


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    missing = {item: program for item in items for program in missing_programs(item)}
    config.stash[left_out] = dict(Counter(missing.values()))
    if missing:
        config.hook.pytest_deselected(items=list(missing))
        items[:] = [item for item in items if item not in missing]


def pytest_sessionfinish(session: pytest.Session) -> None:
    # Under xdist it is the workers that collect, all of them the same tests; the process that prints hears of it from each.
    if hasattr(session.config, "workeroutput"):
        session.config.workeroutput["left_out"] = session.config.stash[left_out]


@pytest.hookimpl(optionalhook=True)
def pytest_testnodedown(node) -> None:
    if "left_out" in getattr(node, "workeroutput", {}):
        node.config.stash[left_out] = node.workeroutput["left_out"]


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter, config: pytest.Config) -> None:
    for program, count in sorted(config.stash.get(left_out, no_programs).items()):
        tests = "1 test that needs" if count == 1 else f"{count} tests that need"
        terminalreporter.write_line(f"left out: {tests} {program} ({SOURCES[program]})")
