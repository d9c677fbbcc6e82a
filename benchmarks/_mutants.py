"""Break the code, one line at a time, and see whether the tests notice: `make mutants`.

Each mutant is one small change to one line that decides something: a condition that never or always holds, a comparison that is one off, a guard
or a call that is left out. A seed draws a sample. The tests of the rooms concerned run against each mutant in a copy of the checkout; with `--whole`, a
mutant that they do not notice meets the whole suite. Survivors are listed with their lines. Read each: some change nothing that can be observed, and the
others need a test.
"""

from __future__ import annotations

import argparse
import ast
import os
import random
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from queue import SimpleQueue

import attrs

ROOT = Path(__file__).parent.parent
ROOMS = {
    "message": ["tests/message", "tests/rfc", "tests/stream", "tests/engine"],
    "stream": ["tests/stream", "tests/rfc", "tests/engine"],
    "origin": ["tests/engine", "tests/rfc"],
    "engine": ["tests/engine", "tests/rfc", "tests/plugins"],
    "http2": ["tests/http2"],
}
"""The rooms that are mutated, and the tests that are asked first."""
PATIENCE = 120
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


class Bench:
    """A copy of the checkout in which one mutant at a time is tested."""

    def __init__(self, folder: Path, *, whole: bool) -> None:
        self.folder = folder
        self._whole = whole
        skipped = shutil.ignore_patterns(".venv*", ".git", ".hypothesis", ".*_cache", "__pycache__", "dist")
        shutil.copytree(ROOT, folder, ignore=skipped, dirs_exist_ok=True)

    def notices(self, mutant: Mutant) -> bool:
        """Whether the tests fail."""
        file = self.folder / mutant.file
        source = file.read_bytes()
        file.write_bytes(mutant.apply(source))
        try:
            room = Path(mutant.file).parts[1]
            return not self._pass(ROOMS[room], PATIENCE) or (self._whole and not self._pass(["tests"], 5 * PATIENCE))
        finally:
            file.write_bytes(source)

    def _pass(self, tests: list[str], patience: float) -> bool:
        command = [sys.executable, "-m", "pytest", "-x", "-q", "-p", "no:cacheprovider", "-o", "faulthandler_timeout=0", *tests]
        environment = {**os.environ, "PYTHONDONTWRITEBYTECODE": "1", "PYTHONPATH": str(self.folder)}
        try:
            done = subprocess.run(command, cwd=self.folder, env=environment, capture_output=True, timeout=patience, check=False)
        except subprocess.TimeoutExpired:
            return False
        return done.returncode == 0


def main() -> int:
    """Draw, break, test, count; exit status 1 where fewer than 85 in 100 were noticed."""
    parser = argparse.ArgumentParser(prog="make mutants", description=__doc__)
    parser.add_argument("--count", type=int, default=100, help="how many (default: %(default)s)")
    parser.add_argument("--seed", type=int, default=1, help="which (default: %(default)s)")
    parser.add_argument("--rooms", nargs="+", choices=list(ROOMS), default=list(ROOMS))
    parser.add_argument("--jobs", type=int, default=os.cpu_count() or 1, help="how many at once (default: %(default)s)")
    parser.add_argument("--whole", action="store_true", help="ask the whole suite about those that the tests of the rooms do not notice")
    arguments = parser.parse_args()
    chosen = sample(arguments.count, arguments.seed, arguments.rooms)
    with tempfile.TemporaryDirectory() as folder:
        benches: SimpleQueue[Bench] = SimpleQueue()
        for number in range(arguments.jobs):
            benches.put(Bench(Path(folder) / str(number), whole=arguments.whole))

        def examine(mutant: Mutant) -> bool:
            bench = benches.get()
            try:
                noticed = bench.notices(mutant)
            finally:
                benches.put(bench)
            print(f"{'noticed ' if noticed else 'SURVIVED'} {mutant.describe((ROOT / mutant.file).read_bytes())}", flush=True)
            return noticed

        with ThreadPoolExecutor(arguments.jobs) as pool:
            noticed = sum(pool.map(examine, chosen))
    print(f"{noticed} of {len(chosen)} noticed ({100 * noticed / len(chosen):.0f} in 100), seed {arguments.seed}")
    return 0 if noticed * 100 >= 85 * len(chosen) else 1


if __name__ == "__main__":
    sys.exit(main())
