"""Pictures of four pages of the built manual and of a report, at two widths, light and dark: `make pictures` puts them into build/pictures.

Needs Chromium. Without a built manual there are only the pictures of the report.
"""

from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path

HERE = Path(__file__).parent
sys.path.insert(0, str(HERE.parent))  # as a script it finds only what is beside it

from docs import _sample_report
from trio_tsconnect.logstats import write_report

BUILD = HERE.parent / "build"
PAGES = ("index", "tutorial/embed", "transaction", "reference/trio_tsconnect")
WIDTHS = (1280, 390)
SCHEMES = {"dark": 0, "light": 1}


REPORT_HEIGHTS = {1280: 2800, 390: 4760}
"""The report is taken whole: the height of the window for each width."""


def take(chromium: str, page: Path, picture: Path, width: int, height: int, scheme: int) -> None:
    """Take one picture of a page. Raises `subprocess.SubprocessError` if the browser fails."""
    options = ["--headless=new", "--no-sandbox", "--disable-gpu", "--hide-scrollbars", f"--window-size={width},{height}"]
    options += [f"--blink-settings=preferredColorScheme={scheme}", f"--screenshot={picture}"]
    subprocess.run([chromium, *options, page.as_uri()], check=True, capture_output=True, timeout=60)


def main() -> int:
    """Take them all."""
    chromium = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
    if chromium is None:
        print("Chromium is not installed (Debian: chromium)", file=sys.stderr)
        return 2
    folder = BUILD / "pictures"
    folder.mkdir(parents=True, exist_ok=True)
    write_report(folder / "report.html", _sample_report.sample())
    pages = {page: BUILD / "site" / f"{page}.html" for page in PAGES if (BUILD / "site").is_dir()} | {"report": folder / "report.html"}
    for name, page in pages.items():
        for width in WIDTHS:
            for tone, scheme in SCHEMES.items():
                picture = folder / f"{name.replace('/', '_')}_{width}_{tone}.png"
                take(chromium, page, picture, width, REPORT_HEIGHTS[width] if name == "report" else 1000, scheme)
                print(picture.relative_to(BUILD.parent))
    return 0


if __name__ == "__main__":
    sys.exit(main())
