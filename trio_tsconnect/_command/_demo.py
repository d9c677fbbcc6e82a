"""`tsconnect demo`: everything at once on loopback, and then the question whether the log tells what happened.

Real parties throughout: a TCP origin, a TLS listener, an HTTP/2 client made with the h2 package that has many streams open at once on each
of several connections, an HTTP/1.1 client, and a plugin that asks the proxy it lives in.
"""

from __future__ import annotations

import importlib.util
import json

from trio_tsconnect._command._say import CommandError


def demo(*, as_json: bool) -> int:
    """Run an origin, a proxy, a TLS listener and three kinds of clients on loopback, and print what the log says of them; exit status 1
    if that is not what they did."""
    for package in ("h2", "trustme"):
        if importlib.util.find_spec(package) is None:
            raise CommandError(f"the demo needs the package {package}: pip install 'trio-tsconnect[server,testing]'")
    from trio_tsconnect._command._demo_run import run

    result = run()
    print(json.dumps(result.as_dict(), indent=2) if as_json else result.to_text())
    return 0 if result.equal else 1
