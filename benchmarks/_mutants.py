"""Break the code, one line at a time, and see whether the tests notice: `make mutants`.

Each mutant is one small change to one line that decides something: a condition that never or always holds, a comparison that is one off, a guard
or a call that is left out. A seed draws a sample. The tests run once under coverage, which tells the tests that run each line; then these tests run
against each mutant, in a copy of the checkout. Survivors are listed with their lines. Read each: some change nothing that can be observed, and the others
need a test.
"""

from __future__ import annotations

import argparse
import ast
import itertools
import os
import random
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from queue import SimpleQueue
from typing import TypeVar

import attrs
import coverage

T = TypeVar("T")
ROOT = Path(__file__).parent.parent
ROOMS = ("message", "stream", "origin", "engine", "http2")
"""The rooms that are mutated."""
TESTS = (
    ("tests/engine", "tests/plugins"),
    ("tests/message", "tests/stream", "tests/rfc", "tests/asgi", "tests/clients", "tests/testing"),
    ("tests/http2",),
)
"""The tests that are asked: each group is measured by a process of its own."""
FIRST = 40
"""Tests that are asked first, drawn from those that run the line; if they notice nothing, all of those are."""
PATIENCE = 240
"""Seconds for these tests: a mutant that makes them hang has been noticed."""
SWAPS: dict[type[ast.cmpop], type[ast.cmpop]] = {
    ast.Lt: ast.LtE,
    ast.LtE: ast.Lt,
    ast.Gt: ast.GtE,
    ast.GtE: ast.Gt,
    ast.Eq: ast.NotEq,
    ast.NotEq: ast.Eq,
    ast.In: ast.NotIn,
    ast.NotIn: ast.In,
    ast.Is: ast.IsNot,
    ast.IsNot: ast.Is,
}


@attrs.frozen(order=True)
class Mutant:
    """One change: this stretch of a file becomes that text."""

    file: str
    line: int
    start: int
    end: int
    text: str

    def apply(self, source: bytes) -> bytes:
        """The source with the change."""
        return source[: self.start] + self.text.encode() + source[self.end :]

    def describe(self, source: bytes) -> str:
        """For the list."""
        before = " ".join(source[self.start : self.end].decode().split())
        return f"{self.file}:{self.line}: {before[:90]!r} -> {self.text[:60]!r}"


def mutants_of(file: Path) -> Iterator[Mutant]:
    """All mutants of one module."""
    source = file.read_bytes()
    starts = [0]
    for line in source.splitlines(keepends=True):
        starts.append(starts[-1] + len(line))

    def change(node: ast.AST, text: str) -> Mutant:
        assert isinstance(node, ast.expr | ast.stmt)
        assert node.end_lineno is not None
        assert node.end_col_offset is not None
        start, end = starts[node.lineno - 1] + node.col_offset, starts[node.end_lineno - 1] + node.end_col_offset
        return Mutant(str(file.relative_to(ROOT)), node.lineno, start, end, text)

    for node in _deciding(ast.parse(source)):
        match node:
            case ast.If(test=test) | ast.While(test=test) | ast.IfExp(test=test):
                yield change(test, "False")
                if not isinstance(node, ast.While):
                    yield change(test, "True")
            case ast.BoolOp(op=op, values=[*_, last]):
                yield change(last, "True" if isinstance(op, ast.And) else "False")
            case ast.Compare(left=left, ops=[op], comparators=[right]) if type(op) in SWAPS:
                swapped = ast.Compare(left, [SWAPS[type(op)]()], [right])
                yield change(node, f"({ast.unparse(swapped)})")
            case ast.Expr(value=ast.Call()) | ast.Expr(value=ast.Await()) | ast.AugAssign() | ast.Delete():
                yield change(node, "pass")
            case ast.Raise() if node.exc is not None:
                yield change(node, "pass")
            case ast.Call(func=ast.Name(id="min" | "max" as name), args=[_, _, *_]):
                other = "max" if name == "min" else "min"
                yield change(node.func, other)


def _deciding(tree: ast.AST) -> Iterator[ast.AST]:
    """The nodes of code that runs, without what is only said: types, texts, logging, representations."""
    for node in ast.iter_child_nodes(tree):
        match node:
            case ast.FunctionDef(name="__repr__" | "describe") | ast.Assert() | ast.Import() | ast.ImportFrom():
                continue
            case ast.If(test=ast.Name(id="TYPE_CHECKING")):
                continue
            case ast.Expr(value=ast.Call(func=ast.Attribute(value=ast.Name(id="logger")))):
                continue
        yield node
        yield from _deciding(node)


def sample(count: int, seed: int, rooms: list[str]) -> list[Mutant]:
    """So many mutants, an equal share of each room."""
    draw = random.Random(seed)
    chosen: list[Mutant] = []
    for room in rooms:
        every = [mutant for file in sorted((ROOT / "trio_tsconnect" / room).glob("*.py")) for mutant in mutants_of(file)]
        chosen += draw.sample(every, min(len(every), -(-count // len(rooms))))
    return sorted(chosen)


Covering = dict[tuple[str, int], list[str]]
"""For each line of each file the tests that run it."""


class Bench:
    """A copy of the checkout in which one mutant at a time is tested."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        skipped = shutil.ignore_patterns(".venv*", ".git", ".hypothesis", ".*_cache", "__pycache__", "dist", "build")
        shutil.copytree(ROOT, folder, ignore=skipped, dirs_exist_ok=True)

    def measure(self, tests: tuple[str, ...]) -> Covering:
        """Run these tests under coverage."""
        settings, data = self.folder / "coverage.ini", self.folder / "coverage.data"
        settings.write_text(f"[run]\nsource = trio_tsconnect\ndata_file = {data}\n", encoding="utf-8")
        self._run(
            ["-m", "coverage", "run", "--rcfile", str(settings), "-m", "pytest", "-q", "-p", "benchmarks._contexts", *_QUIET, *tests], 1800
        )
        found = coverage.CoverageData(str(data))
        found.read()
        return {
            (str(Path(file).relative_to(self.folder)), line): sorted(each for each in contexts if each)
            for file in found.measured_files()
            for line, contexts in found.contexts_by_lineno(file).items()
        }

    def notices(self, mutant: Mutant, tests: list[str]) -> bool:
        """True if the tests fail."""
        file = self.folder / mutant.file
        source = file.read_bytes()
        file.write_bytes(mutant.apply(source))
        try:
            return self._run(["-m", "pytest", "-x", "-q", *_QUIET, *tests], PATIENCE) != 0
        finally:
            file.write_bytes(source)

    def _run(self, command: list[str], patience: float) -> int:
        environment = {**os.environ, "PYTHONDONTWRITEBYTECODE": "1", "PYTHONPATH": str(self.folder)}
        try:
            return subprocess.run(
                [sys.executable, *command], cwd=self.folder, env=environment, capture_output=True, timeout=patience, check=False
            ).returncode
        except subprocess.TimeoutExpired:
            return -1


_QUIET = ("-p", "no:cacheprovider", "-o", "faulthandler_timeout=0")


def joined(parts: Iterable[Covering]) -> Covering:
    """What several measurements found."""
    whole: Covering = {}
    for part in parts:
        for line, tests in part.items():
            whole.setdefault(line, []).extend(tests)
    return whole


def main() -> int:
    """Measure, draw, break, test, count; exit status 1 if fewer than 85 in 100 were noticed."""
    parser = argparse.ArgumentParser(prog="make mutants", description=__doc__)
    parser.add_argument("--count", type=int, default=100, help="how many (default: %(default)s)")
    parser.add_argument("--seed", type=int, default=1, help="which (default: %(default)s)")
    parser.add_argument("--rooms", nargs="+", choices=ROOMS, default=list(ROOMS))
    parser.add_argument("--jobs", type=int, default=os.cpu_count() or 1, help="how many at once (default: %(default)s)")
    arguments = parser.parse_args()
    chosen = sample(arguments.count, arguments.seed, arguments.rooms)
    draw = random.Random(arguments.seed)
    with tempfile.TemporaryDirectory() as folder, ThreadPoolExecutor(arguments.jobs) as pool:
        benches: SimpleQueue[Bench] = SimpleQueue()
        for number in range(arguments.jobs):
            benches.put(Bench(Path(folder) / str(number)))

        def at_a_bench(work: Callable[[Bench], T]) -> T:
            bench = benches.get()
            try:
                return work(bench)
            finally:
                benches.put(bench)

        covering = joined(pool.map(lambda tests: at_a_bench(lambda bench: bench.measure(tests)), TESTS))
        print(f"{len(set(itertools.chain.from_iterable(covering.values())))} tests run {len(covering)} lines", flush=True)

        def examine(mutant: Mutant) -> bool:
            tests = covering.get((mutant.file, mutant.line), [])
            first = draw.sample(tests, min(len(tests), FIRST))
            noticed = bool(tests) and (
                at_a_bench(lambda bench: bench.notices(mutant, first))
                or (len(tests) > FIRST and at_a_bench(lambda bench: bench.notices(mutant, tests)))
            )
            verdict = "noticed " if noticed else "SURVIVED" if tests else "NOT RUN "
            print(f"{verdict} {mutant.describe((ROOT / mutant.file).read_bytes())}", flush=True)
            return noticed

        noticed = sum(pool.map(examine, chosen))
    print(f"{noticed} of {len(chosen)} noticed ({100 * noticed / len(chosen):.0f} in 100), seed {arguments.seed}")
    return 0 if noticed * 100 >= 85 * len(chosen) else 1


if __name__ == "__main__":
    sys.exit(main())
