"""The manual as a site: every public name is in the reference and no other, every page is in one of its parts, and no link leads nowhere."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest

from docs import _errors, site

ROOT = Path(__file__).parent.parent.parent
DOCS = ROOT / "docs"


def test_every_public_name_is_in_the_reference_and_no_other() -> None:
    for name, module in site._reference.rooms():
        shown = re.findall(r"^## `(\w+)`$", site._reference.page(name, module), re.MULTILINE)
        assert shown == list(site._reference.public_names(module))
        assert all(hasattr(module, each) for each in shown)


def test_every_room_that_users_import_from_is_in_the_reference() -> None:
    rooms = {path.parent.name for path in (ROOT / "trio_tsconnect").glob("*/__init__.py") if not path.parent.name.startswith("_")}
    assert {*site._reference.ROOMS, "engine"} == {"", *rooms}  # engine shows `open_proxy` alone, which stands at the top


def test_nothing_in_the_reference_is_without_words() -> None:
    for name, module in site._reference.rooms():
        parts = re.split(r"^###? ", site._reference.page(name, module), flags=re.MULTILINE)[1:]
        bare = [part.split("\n")[0] for part in parts if not re.sub(r"```.*?```", "", part.partition("\n")[2], flags=re.DOTALL).strip()]
        assert bare == [], name


def test_every_page_is_in_a_part_of_the_manual() -> None:
    assert list(site.pages_missing()) == []


def test_diagrams_are_drawn_with_every_name_and_arrow() -> None:
    drawn = site._draw.draw("flowchart TD\n    a --> b\n    b --> c\n    c --> a\n    a --> c\n")
    assert (drawn.count("<rect"), drawn.count("marker-end")) == (3, 4)
    for page in DOCS.glob("*.md"):
        for diagram in site._MERMAID.findall(page.read_text(encoding="utf-8")):
            arrows = [line for line in diagram.splitlines() if "-->" in line]
            assert site._draw.draw(diagram).count("marker-end") == len(arrows), page.name


@pytest.mark.needs("sphinx-build")
def test_site_is_built_without_a_warning(tmp_path: Path) -> None:
    """A link that leads nowhere is a warning. What was built asks no other host for anything."""
    site.stage(tmp_path / "pages")
    command = [sys.executable, "-m", "sphinx", "-W", "--keep-going", "-q", "-b", "html", str(tmp_path / "pages"), str(tmp_path / "site")]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    for page in (tmp_path / "site").rglob("*.html"):
        fetched = re.findall(
            r'<(?:script|img|iframe)[^>]*\ssrc="(https?:[^"]+)"|<link[^>]*rel="stylesheet"[^>]*href="(https?:[^"]+)"',
            page.read_text("utf-8"),
        )
        assert fetched == [], page.name


def test_error_texts_are_found() -> None:
    rows = set(_errors.table().splitlines()[2:])
    assert len(rows) > 200
    assert "| hooks | `ConnectRefused` | the connection was refused: {reason} |" in rows
    assert "| message | `BadRequest` | The request has more than one Host field. |" in rows
    assert not [row for row in rows if "%s" in row or "%d" in row]
