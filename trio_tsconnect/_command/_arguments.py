"""What can be typed after `tsconnect`, and the exit status that comes of it."""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Callable, Sequence

from trio_tsconnect import ConfigError, __version__
from trio_tsconnect._command._check import check
from trio_tsconnect._command._demo import demo
from trio_tsconnect._command._logs import logstats, logtree
from trio_tsconnect._command._say import CommandError, say
from trio_tsconnect._command._serve import serve

_STATUSES = """\
exit status: 0 when all went well (after a drain too); 1 when the demo's log does not equal what was sent; 2 when what was typed, the
configuration, an address or a file cannot be used; 130 or 143 after a second SIGINT or SIGTERM.
"""


def main(arguments: Sequence[str] | None = None) -> int:
    """Do what the command line says; returns the exit status. Source: `sys.argv` unless `arguments` are given."""
    options = _parser().parse_args(arguments)
    run: Callable[[argparse.Namespace], int] = options.run
    try:
        status = run(options)
        sys.stdout.flush()
    except (CommandError, ConfigError) as exc:
        say(f"tsconnect: {exc}")
        return 2
    except BrokenPipeError:
        # Whoever read our output has seen enough. What Python still holds of it must not complain when the process ends.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0
    except KeyboardInterrupt:
        return 130
    return status


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="tsconnect", description="A programmable HTTP proxy and gateway, and tools for its log.", epilog=_STATUSES
    )
    parser.add_argument("--version", action="version", version=f"tsconnect {__version__}")
    verbs = parser.add_subparsers(title="commands", metavar="COMMAND", required=True)

    verb = verbs.add_parser("serve", help="serve what a configuration file says", description=_describe(serve))
    verb.add_argument("config", metavar="CONFIG", help="a TOML file")
    verb.set_defaults(run=lambda options: serve(options.config))

    verb = verbs.add_parser("check", help="judge a configuration file", description=_describe(check))
    verb.add_argument("config", metavar="CONFIG", help="a TOML file")
    verb.set_defaults(run=lambda options: check(options.config))

    verb = verbs.add_parser("demo", help="see the whole thing at work, and count it", description=_describe(demo))
    verb.add_argument("--json", action="store_true", help="print what was sent and what the log says as one JSON object")
    verb.set_defaults(run=lambda options: demo(as_json=options.json))

    verb = verbs.add_parser("logstats", help="count what a log says", description=_describe(logstats))
    verb.add_argument("files", metavar="FILE", nargs="+", help="a log of JSON lines, rotated ones oldest first; - is standard input")
    verb.add_argument("--json", action="store_true", help="print one JSON object")
    verb.set_defaults(run=lambda options: logstats(options.files, as_json=options.json))

    verb = verbs.add_parser("logtree", help="show which transaction caused which", description=_describe(logtree))
    verb.add_argument("files", metavar="FILE", nargs="+", help="a log of JSON lines, rotated ones oldest first; - is standard input")
    verb.set_defaults(run=lambda options: logtree(options.files))
    return parser


def _describe(function: Callable[..., int]) -> str:
    return (function.__doc__ or "").replace("`", "").replace("%", "%%")
