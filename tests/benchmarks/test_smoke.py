"""Each benchmark runs and comes to a figure, or says what is missing. What the figure is, is nobody's business here."""

from __future__ import annotations

import json
import math
import subprocess
import sys
from pathlib import Path

import pytest

from benchmarks.__main__ import SECTIONS, measure
from benchmarks._profile import KINDS, profile
from benchmarks._ratio import AGAIN, SMOKE, Absent, Figure, as_row, race, title_row

ROOT = Path(__file__).parent.parent.parent


@pytest.mark.parametrize("name", SECTIONS)
async def test_section_comes_to_a_figure_or_says_what_is_missing(name: str) -> None:
    shown: list[str] = []
    results = await measure([name], SMOKE, lambda result: shown.append(as_row(result)))
    assert results
    assert len(shown) == len(results)
    for result in results:
        assert isinstance(result, Absent) or (math.isfinite(result.ratio) and result.ratio > 0)


@pytest.mark.parametrize("kind", KINDS)
async def test_profile_names_functions_of_the_engine(kind: str) -> None:
    report = await profile(kind, 0.2)
    assert "by room: " in report  # on a busy machine the samples may be few, and of whatever room


async def test_race_gives_the_ratio_of_the_rates_and_the_first_against_itself() -> None:
    async def fast(_: int) -> float:
        return 30.0

    async def fast_again(_: int) -> float:
        return 20.0

    async def slow(_: int) -> float:
        return 10.0

    (figure,) = await race("speed", {"fast": fast, "slow": slow, AGAIN: fast_again}, SMOKE)
    assert isinstance(figure, Figure)
    assert (figure.against, figure.ratio, figure.same_code) == ("slow", 3.0, 1.5)
    assert as_row(figure).split() == ["speed", "slow", "3.00", "3.00..3.00", "1.50", "30", "10", "/s"]
    assert len(title_row()) <= 140


def test_command_prints_one_json_object() -> None:
    command = [sys.executable, "-m", "benchmarks", "--quick", "--json", "engine"]
    done = subprocess.run(command, cwd=ROOT, check=True, capture_output=True, timeout=60)
    assert json.loads(done.stdout)["figures"][0]["name"].startswith("engine in memory")


def test_a_short_soak_leaves_nothing_over() -> None:
    command = [sys.executable, "-m", "benchmarks._soak", "--seconds", "2", "--clients", "8"]
    done = subprocess.run(command, capture_output=True, text=True, cwd=ROOT, timeout=60, check=False)
    assert (done.returncode, done.stderr) == (0, "")
    assert "descriptors" in done.stdout
