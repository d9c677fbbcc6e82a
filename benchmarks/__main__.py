"""`python -m benchmarks [--quick] [--json] [SECTION ...]`; with `--profile respond` or `--profile origin`: where a transaction spends its time."""

from __future__ import annotations

import argparse
import json
import platform
import sys
from collections.abc import Awaitable, Callable, Sequence
from importlib.metadata import version

import attrs
import trio

from benchmarks import _load, _log, _profile, _streams, _transactions
from benchmarks._ratio import FULL, QUICK, Effort, Result, as_row, title_row

SECTIONS: dict[str, Callable[[Effort], Awaitable[Sequence[Result]]]] = {
    "ping-pong": _streams.ping_pong,
    "bulk": _streams.bulk,
    "transaction": _transactions.keep_alive,
    "engine": _transactions.engine,
    "proxy": lambda effort: _load.proxies(effort.times(0.6, 5)),
    "log": lambda effort: _log.log(effort.times(1, 4)),
    "h2": lambda effort: _load.http2(effort.times(0.6, 5)),
}
"""What can be measured, in the order in which it is."""


async def measure(names: Sequence[str], effort: Effort, show: Callable[[Result], None]) -> list[Result]:
    """Run sections one after the other, and show each figure as it is there."""
    results: list[Result] = []
    for name in names:
        for result in await SECTIONS[name](effort):
            show(result)
            results.append(result)
    return results


def _setting() -> dict[str, str]:
    packages = {name: version(name) for name in ("trio", "h11", "attrs")}
    return {"python": platform.python_version(), "machine": f"{platform.system()} {platform.machine()}", **packages}


def main() -> None:
    """The command."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description="Ratios, each with a control: the same code against itself.")
    parser.add_argument("sections", nargs="*", metavar="SECTION", help=f"some of: {', '.join(SECTIONS)}; all of them by default")
    parser.add_argument("--quick", action="store_true", help="fewer and shorter rounds")
    parser.add_argument("--json", action="store_true", help="one JSON object instead of the table")
    parser.add_argument("--profile", choices=_profile.KINDS, help="sample where a keep-alive transaction spends its time instead")
    options = parser.parse_args()
    if unknown := set(options.sections) - set(SECTIONS):
        parser.error(f"no such section: {', '.join(sorted(unknown))}")
    if options.profile:
        print(trio.run(_profile.profile, options.profile, 2.0 if options.quick else 8.0))
        return
    names = [name for name in SECTIONS if name in options.sections] or list(SECTIONS)
    effort = QUICK if options.quick else FULL
    setting = _setting()
    if options.json:
        results = trio.run(measure, names, effort, lambda _: None)
        json.dump({"setting": setting, "figures": [attrs.asdict(result) for result in results]}, sys.stdout, indent=2)
        print()
        return
    print(", ".join(f"{name} {value}" for name, value in setting.items()))
    print("ratio: how many times as fast, the median of rounds; same code: the first against itself, which should be 1.00\n")
    print(title_row())
    trio.run(measure, names, effort, lambda result: print(as_row(result), flush=True))


if __name__ == "__main__":
    main()
