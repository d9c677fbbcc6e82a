"""What the documents promise is there: each public name in the reference, and for each feature the test that is said to prove it."""

from __future__ import annotations

import ast
import importlib
import inspect
import re
import tomllib
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import TypeVar

import pytest

from trio_tsconnect.message import Failure, outcome

ROOT = Path(__file__).parents[2]
REFERENCE, _, NOT_THERE_YET = (ROOT / "docs" / "api.md").read_text().partition("\n## Not there yet\n")

ENDED = REFERENCE.partition("\n### How a transaction ended\n")[2].partition("\n## ")[0]
CAUSES = re.findall(r"^\| `(\w+)` \| ([a-z, ]+) \| (.+?) \| .{10,} \|$", ENDED, re.MULTILINE)
"""Cause, parties and statuses of each row."""

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


@pytest.mark.parametrize("failure", Failure)
def test_every_failure_is_in_the_reference_with_what_follows_from_it(failure: Failure) -> None:
    result = outcome(failure)
    assert (result.why, result.by, str(result.status or "none")) in CAUSES


BY_AND_WHY = {"cancel", "end", "Ended"}
"""What is called with a party and a cause."""
WHY = {"BadRequest", "BadResponse", "error", "_error", "ConnectionFault", "StreamFault"}
WHY |= {"abort", "close", "closed", "reset", "_close_streams"}
"""What is called with a cause among other things; it is known by its form."""


def causes_in_the_code() -> Iterator[tuple[str, str, int | None]]:
    """Each cause that is written somewhere: what is called with it, the cause itself, and the status beside it."""
    for path in sorted((ROOT / "trio_tsconnect").rglob("*.py")):
        for node in ast.walk(ast.parse(path.read_text())):
            match node:
                case ast.Call(func=ast.Name(id=name) | ast.Attribute(attr=name), args=[_, *args]) if name in BY_AND_WHY:
                    yield from ((name, text, None) for text in constants(args, str))
                case ast.Call(func=ast.Name(id=name) | ast.Attribute(attr=name), args=args) if name in WHY:
                    yield from ((name, text, next(constants(args, int), None)) for text in constants(args, str) if has_form(text))
                case ast.Assign(targets=[ast.Name(id="cause")], value=value):
                    yield from (("", text, None) for text in constants([value], str) if has_form(text))
                case ast.arguments(args=[*_, ast.arg(arg="cause")], defaults=[*_, ast.Constant(value=str(text))]):
                    yield "", text, None


Kind = TypeVar("Kind", str, int)


def constants(nodes: Iterable[ast.expr], kind: type[Kind]) -> Iterator[Kind]:
    """Those that stand there by themselves, or as one of two."""
    for node in nodes:
        for each in (node.body, node.orelse) if isinstance(node, ast.IfExp) else (node,):
            if isinstance(each, ast.Constant) and isinstance(each.value, kind):
                yield each.value


def has_form(text: str) -> bool:
    return re.fullmatch("[a-z][a-z0-9]*(_[a-z0-9]+)+", text) is not None


def test_every_cause_is_in_the_reference_and_no_other() -> None:
    written = {cause for _, cause, _ in causes_in_the_code()}
    listed = {cause for cause, _, _ in CAUSES}
    assert {"malformed_head", "bad_chunk", "parent_ended", "closed", "complete", "responded", "enhance_your_calm", "broken_off"} <= written
    assert sorted(cause for cause in written if f"`{cause}`" not in ENDED) == []
    assert sorted(listed - written - {failure.value for failure in Failure}) == []


def test_the_status_of_a_bad_message_is_in_the_reference() -> None:
    for kind, cause, status in causes_in_the_code():
        party, usual = {"BadRequest": ("client", 400), "BadResponse": ("origin", 502)}.get(kind, ("", 0))
        if party:
            ends = [end for why, by, code in CAUSES if why == cause for end in zip(by.split(", "), code.split(", "), strict=True)]
            assert (party, str(status or usual)) in ends, cause


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
