"""`tsconnect demo`: run a proxy with several clients on loopback, then compare its log with what the clients sent.

It uses a TCP origin, a TLS listener, an HTTP/2 client made with the h2 package that has many concurrent streams on each of several
connections, an HTTP/1.1 client, and a plugin that sends requests to its own proxy.
"""

from __future__ import annotations

import importlib.util
import json

from trio_tsconnect._command._say import CommandError


def demo(*, as_json: bool) -> int:
    """Run an origin, a proxy, a TLS listener and three kinds of clients on loopback, and print the counts of the log. The exit status is 1
    if they do not match what the clients did.
    """
    for package in ("h2", "trustme"):
        if importlib.util.find_spec(package) is None:
            raise CommandError(f"the demo needs the package {package}: pip install 'trio-tsconnect[server,testing]'")
    from trio_tsconnect._command._demo_run import run

    result = run()
    print(json.dumps(result.as_dict(), indent=2) if as_json else result.to_text())
    return 0 if result.equal else 1
