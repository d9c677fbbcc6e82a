"""What the documents promise is there: each public name in the reference, and for each feature the test that is said to prove it."""

from __future__ import annotations

import importlib
import inspect
import re
import tomllib
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
REFERENCE, _, NOT_THERE_YET = (ROOT / "docs" / "api.md").read_text().partition("\n## Not there yet\n")

ROWS = [
    [cell.strip() for cell in line.strip("|").split("|")]
    for line in (ROOT / "docs" / "features.md").read_text().splitlines()
    if line.startswith("| ") and not line.startswith("| feature")
]


@pytest.mark.parametrize("room", ["", ".asgi", ".clients", ".http2", ".log", ".logstats", ".plugins", ".testing"])
def test_every_public_name_is_in_the_reference(room: str) -> None:
    module = vars(importlib.import_module(f"trio_tsconnect{room}"))
    names = [name for name, value in module.items() if name[0] != "_" and not inspect.ismodule(value)]
    assert names
    assert [name for name in names if not re.search(rf"\b{name}\b", REFERENCE)] == []


def names_to_come() -> list[tuple[str, str]]:
    rows = re.findall(r"^\| `(trio_tsconnect[.\w]*)`(?:: | with )(.*?) \|", NOT_THERE_YET, re.MULTILINE)
    return [(room, name) for room, names in rows for name in re.findall(r"`(\w+)", names) if name != "logs"]


@pytest.mark.parametrize(("room", "name"), names_to_come())
def test_a_name_that_is_said_to_be_missing_is(room: str, name: str) -> None:
    assert not hasattr(importlib.import_module(room), name), "it has come: move it up into the reference"


def test_some_names_are_still_missing() -> None:
    assert {"Httpx2Transport", "blocking", "stream_contract", "simulate", "ts_network"} <= {name for _, name in names_to_come()}


def test_every_extra_is_in_the_reference() -> None:
    extras = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["optional-dependencies"]
    assert [name for name in extras if f"`{name}`" not in REFERENCE] == []


def test_there_is_a_checklist() -> None:
    assert len(ROWS) > 100


@pytest.mark.parametrize(("feature", "proof"), [pytest.param(*row, id=row[0]) for row in ROWS])
def test_what_is_said_to_prove_a_feature_is_there(feature: str, proof: str) -> None:
    if proof == "not there yet":
        return
    for each in proof.split("<br>"):
        name = each.strip("`")
        if name.startswith("make "):
            assert re.search(rf"^{name.removeprefix('make ')}:", (ROOT / "Makefile").read_text(), re.MULTILINE)
        else:
            path, _, test = name.partition("::")
            assert re.search(rf"^(async )?def {test}\(", (ROOT / path).read_text(), re.MULTILINE), f"{feature}: there is no {name}"


@pytest.mark.parametrize("page", ["README.md", "CHANGELOG.md", *sorted(f"docs/{path.name}" for path in (ROOT / "docs").glob("*.md"))])
def test_what_a_page_points_at_is_there(page: str) -> None:
    text = (ROOT / page).read_text()
    linked = [(ROOT / page).parent / path for path in re.findall(r"\]\((?!https?:|#)([^)#]+)", text)]
    named = [ROOT / path for path in re.findall(r"`((?:examples|tests|docs|benchmarks)/[\w./]+\.(?:py|md|toml))\b", text)]
    assert [str(path.relative_to(ROOT)) for path in linked + named if not path.exists()] == []
