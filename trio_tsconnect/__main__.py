"""Run the `tsconnect` command with `python -m trio_tsconnect`."""

from __future__ import annotations

import sys

from trio_tsconnect._command import main

if __name__ == "__main__":
    sys.exit(main())
