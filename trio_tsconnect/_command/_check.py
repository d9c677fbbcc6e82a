"""`tsconnect check`."""

from __future__ import annotations

from trio_tsconnect import ProxyConfig
from trio_tsconnect.config import warnings


def check(file: str) -> int:
    """Validate a configuration file without serving it. Prints one line if it is valid, and a warning for each probable mistake."""
    config = ProxyConfig.from_toml(file)
    listeners, rules = _count(len(config.listen), "listener"), _count(len(config.remap), "remap rule")
    print(f"{file}: OK ({listeners}, {rules})")
    if not config.listen:
        print("warning: listen: there is nothing to listen on, so `tsconnect serve` will reject this file")
    for warning in warnings(config):
        print(f"warning: {warning}")
    return 0


def _count(number: int, what: str) -> str:
    return f"{number} {what}" if number == 1 else f"{number} {what}s"
