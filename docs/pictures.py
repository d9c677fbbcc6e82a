"""Pictures of four pages of the built manual, at two widths, light and dark: `make pictures` puts them into build/pictures. Needs Chromium."""

from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path

BUILD = Path(__file__).parent.parent / "build"
PAGES = ("index", "tutorial/embed", "transaction", "reference/trio_tsconnect")
WIDTHS = (1280, 390)
SCHEMES = {"dark": 0, "light": 1}


def main() -> int:
    """Take them all."""
    chromium = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
    if chromium is None:
        print("Chromium is not installed (Debian: chromium)", file=sys.stderr)
        return 2
    folder = BUILD / "pictures"
    folder.mkdir(parents=True, exist_ok=True)
    for page in PAGES:
        for width in WIDTHS:
            for name, scheme in SCHEMES.items():
                picture = folder / f"{page.replace('/', '_')}_{width}_{name}.png"
                options = ["--headless=new", "--no-sandbox", "--disable-gpu", "--hide-scrollbars", f"--window-size={width},1000"]
                options += [f"--blink-settings=preferredColorScheme={scheme}", f"--screenshot={picture}"]
                subprocess.run(
                    [chromium, *options, (BUILD / "site" / f"{page}.html").as_uri()], check=True, capture_output=True, timeout=60
                )
                print(picture.relative_to(BUILD.parent))
    return 0


if __name__ == "__main__":
    sys.exit(main())
