"""Every block of code in README.md and docs/ runs as a test, from top to bottom of its document, in a directory of its own.

- `python`: runs; what it defines is there for the blocks below it. One that defines `async def main()` and does not run it itself has it
  run, by `trio.run`.
- `toml`: parses.
- `console`: after a line `<!-- run -->`, each line that begins with `$ ` is run by the shell, and must print what stands below it, where
  `...` stands for anything.
- After a line `<!-- file: NAME -->` a block of `python` or `toml` is first written into the document's directory.
"""

from __future__ import annotations

import doctest
import inspect
import os
import re
import subprocess
import sys
import tempfile
import tomllib
from collections.abc import Callable, Iterable
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import trio
from sybil import Document, Example, Region, Sybil
from sybil.evaluators.python import PythonEvaluator
from sybil.integration.pytest import SybilItem
from sybil.parsers.markdown import CodeBlockParser
from xdist.scheduler import LoadScopeScheduling  # type: ignore[import-untyped]

LIMIT = 60
"""Seconds that a block may take; one that waits for ever must not take the run with it."""

evaluate = PythonEvaluator()


def mark_above(document: Document, start: int) -> str:
    found = re.search(r"<!-- ([^\n]*) -->\s*\Z", document.text[:start])
    return found[1] if found else ""


def write_if_named(example: Example) -> None:
    mark = mark_above(example.document, example.start)
    if mark.startswith("file: "):
        Path(mark.removeprefix("file: ")).write_text(example.parsed)


def run_python(example: Example) -> None:
    write_if_named(example)
    example.namespace["__name__"] = "__main__"
    example.namespace.pop("main", None)
    evaluate(example)
    main = example.namespace.get("main")
    if inspect.iscoroutinefunction(main) and "trio.run(" not in example.parsed:

        async def within_limit() -> None:
            with trio.fail_after(LIMIT):
                await main()

        trio.run(within_limit)


def parse_toml(example: Example) -> None:
    write_if_named(example)
    tomllib.loads(example.parsed)


def split_step(step: str) -> tuple[str, str]:
    """A command, which goes on after a backslash at the end of a line, and what it should print."""
    command, rest = "", step
    while command.endswith("\\\n") or not command:
        line, _, rest = rest.partition("\n")
        command += line + "\n"
    return command, rest


def run_console(example: Example) -> str | None:
    path = os.pathsep.join([str(Path(sys.executable).parent), os.environ["PATH"]])
    for step in re.split(r"^\$ ", example.parsed, flags=re.MULTILINE)[1:]:
        command, printed = split_step(step)
        done = subprocess.run(
            command,
            shell=True,
            check=False,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            timeout=LIMIT,
            env=os.environ | {"PATH": path},
        )
        if not doctest.OutputChecker().check_output(printed, done.stdout, doctest.ELLIPSIS):
            return f"$ {command}\nshould print:\n{printed}\nbut exits with {done.returncode} and prints:\n{done.stdout}"
    return None


def parse_console(document: Document) -> Iterable[Region]:
    for region in CodeBlockParser("console", run_console)(document):
        if mark_above(document, region.start) == "run":
            yield region


def enter_directory(namespace: dict[str, Any]) -> None:
    namespace["_home"] = Path.cwd()
    namespace["_directory"] = tempfile.TemporaryDirectory()
    os.chdir(namespace["_directory"].name)


def leave_directory(namespace: dict[str, Any]) -> None:
    os.chdir(namespace["_home"])
    namespace["_directory"].cleanup()


pytest_collect_file = Sybil(
    parsers=[CodeBlockParser("python", run_python), CodeBlockParser("toml", parse_toml), parse_console],
    patterns=["README.md", "CONTRIBUTING.md", "docs/*.md", "docs/*/*.md"],
    setup=enter_directory,
    teardown=leave_directory,
).pytest()


class OneByOne(LoadScopeScheduling):  # type: ignore[misc]
    """Deals out tests one by one, so that no worker ends long after the others; but a document whole, for its blocks build on each other."""

    def _split_scope(self, nodeid: str) -> str:
        path = nodeid.partition("::")[0]
        return path if path.endswith(".md") else nodeid


def pytest_xdist_make_scheduler(config: pytest.Config, log: Any) -> OneByOne | None:
    return OneByOne(config, log) if config.getvalue("dist") == "loadscope" else None


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    # Sybil shortens tracebacks, and stumbles over those of one entry (a cause, a member of a group), which hides what failed.
    for item in items:
        if isinstance(item, SybilItem):
            vars(item)["_traceback_filter"] = partial(shorten, item._traceback_filter)


def shorten(shortened: Callable[[pytest.ExceptionInfo], Any], failure: pytest.ExceptionInfo) -> Any:
    try:
        return shortened(failure)
    except IndexError:
        return failure.traceback
