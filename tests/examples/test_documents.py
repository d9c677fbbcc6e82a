"""What the documents promise is there: each public name in the reference, and for each feature the test that is said to prove it."""

from __future__ import annotations

import importlib
import inspect
import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]

ROWS = [
    [cell.strip() for cell in line.strip("|").split("|")]
    for line in (ROOT / "docs" / "features.md").read_text().splitlines()
    if line.startswith("| ") and not line.startswith("| feature")
]


@pytest.mark.parametrize("room", ["", ".http2", ".clients", ".logstats", ".testing"])
def test_every_public_name_is_in_the_reference(room: str) -> None:
    reference = (ROOT / "docs" / "api.md").read_text()
    module = vars(importlib.import_module(f"trio_tsconnect{room}"))
    names = [name for name, value in module.items() if name[0] != "_" and not inspect.ismodule(value)]
    assert [name for name in names if not re.search(rf"\b{name}\b", reference)] == []


def test_there_is_a_checklist() -> None:
    assert len(ROWS) > 100


@pytest.mark.parametrize(("feature", "proof"), [pytest.param(*row, id=row[0]) for row in ROWS])
def test_what_is_said_to_prove_a_feature_is_there(feature: str, proof: str) -> None:
    if proof == "not there yet":
        return
    for each in proof.split("<br>"):
        name = each.strip("`")
        if name.startswith("make "):
            assert f"\n{name.removeprefix('make ')}:" in (ROOT / "Makefile").read_text()
        else:
            path, _, test = name.partition("::")
            assert re.search(rf"^(async )?def {test}\(", (ROOT / path).read_text(), re.MULTILINE), f"{feature}: there is no {name}"
