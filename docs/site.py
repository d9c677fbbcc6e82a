"""Builds the manual as a site: `make docs`. It reads without a network.

The pages that are written by hand are staged, the reference is generated beside them, and Sphinx makes HTML of all. Any warning, such as a link that
leads nowhere, is an error.
"""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

HERE = Path(__file__).parent
sys.path.insert(0, str(HERE.parent))

from docs import _draw, _reference

BUILD = HERE.parent / "build"
PARTS: dict[str, list[str]] = {
    "Tutorial": [
        "tutorial/index",
        "tutorial/embed",
        "tutorial/plugin",
        "tutorial/five_plugins",
        "tutorial/gateway",
        "tutorial/testing",
        "tutorial/deploy",
    ],
    "How to": [
        "howto/index",
        "howto/stream-an-api",
        "howto/authenticate",
        "howto/retry-elsewhere",
        "howto/test-a-client",
        "howto/multiplex-a-protocol",
        "howto/behind-haproxy",
        "howto/read-the-log",
        "howto/trace",
    ],
    "Reference": [
        "api",
        "transaction",
        "plugins",
        "log",
        "asgi",
        "testing",
        "log-report",
        "errors",
        "reference/index",
        "features",
        "performance",
    ],
    "Explanation": ["virtual_connections", "design", "traffic_server", "changelog"],
}
"""The four parts of the manual, and their pages in order."""
CONF = """
project = "trio_tsconnect"
copyright = "the trio_tsconnect authors"
extensions = ["myst_parser"]
html_theme = "furo"
html_title = "trio_tsconnect"
html_static_path = []
html_copy_source = False
html_show_sphinx = False
myst_heading_anchors = 4
myst_enable_extensions = ["html_image"]
suppress_warnings = ["misc.highlighting_failure"]
"""
_MERMAID = re.compile(r"```mermaid\n(.*?)```", re.DOTALL)
_TO_REPOSITORY = re.compile(r"\]\(\.\./(?!\.\.)([^)#]+)((?:#[^)]*)?)\)")
_REPOSITORY = "https://github.com/trio-tsconnect/trio_tsconnect/blob/main/"


def stage(folder: Path) -> None:
    """Put everything that Sphinx is to read into a folder."""
    shutil.rmtree(folder, ignore_errors=True)
    for source in sorted(HERE.rglob("*.md")):
        target = folder / source.relative_to(HERE)
        target.parent.mkdir(parents=True, exist_ok=True)
        depth = len(source.relative_to(HERE).parts) - 1
        target.write_text(_for_the_site(source.read_text(encoding="utf-8"), depth), encoding="utf-8")
    if (HERE / "images").is_dir():
        shutil.copytree(HERE / "images", folder / "images")
    changelog = (HERE.parent / "CHANGELOG.md").read_text(encoding="utf-8")
    (folder / "changelog.md").write_text(changelog, encoding="utf-8")
    (folder / "reference").mkdir()
    names = []
    for name, module in _reference.rooms():
        (folder / "reference" / f"{name}.md").write_text(_reference.page(name, module), encoding="utf-8")
        names.append(name)
    toctree = "\n".join(["```{toctree}", ":maxdepth: 1", "", *names, "```"])
    (folder / "reference" / "index.md").write_text(
        f"# Every public name\n\nFrom the docstrings, package by package.\n\n{toctree}\n", "utf-8"
    )
    index = (folder / "index.md").read_text(encoding="utf-8")
    trees = [
        "\n".join(
            ["```{toctree}", ":hidden:", f":caption: {part}", "", *(page for page in pages if (folder / f"{page}.md").exists()), "```"]
        )
        for part, pages in PARTS.items()
    ]
    (folder / "index.md").write_text("\n\n".join([index, *trees]) + "\n", encoding="utf-8")
    (folder / "conf.py").write_text(CONF, encoding="utf-8")


def _for_the_site(text: str, depth: int) -> str:
    text = _MERMAID.sub(lambda match: f"<div>{_draw.draw(match[1])}</div>\n", text)
    if depth == 0:  # what is beside docs/ is in the repository
        text = text.replace("](../CHANGELOG.md)", "](changelog.md)")
        text = _TO_REPOSITORY.sub(lambda match: f"]({_REPOSITORY}{match[1]}{match[2]})", text)
    return text


def pages_missing() -> Iterator[str]:
    """Pages that stand in docs/ and in no part of the manual, or in a part and nowhere."""
    listed = {page for pages in PARTS.values() for page in pages} | {"index"}
    there = {str(path.relative_to(HERE).with_suffix("")) for path in HERE.rglob("*.md")} | {"changelog", "reference/index"}
    yield from sorted(listed ^ there)


def main() -> int:
    """Stage and build; the exit status is Sphinx's."""
    stage(BUILD / "pages")
    command = ["-W", "--keep-going", "-q", "-b", "html", str(BUILD / "pages"), str(BUILD / "site")]
    status = subprocess.run([sys.executable, "-m", "sphinx", *command], check=False).returncode
    if not status:
        print(f"the manual: {(BUILD / 'site' / 'index.html').relative_to(HERE.parent)}")
    return status


if __name__ == "__main__":
    sys.exit(main())
