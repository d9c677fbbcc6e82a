"""The arguments of the `tsconnect` command, and its exit status."""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Callable, Sequence

from trio_tsconnect import ConfigError, __version__
from trio_tsconnect._command._check import check
from trio_tsconnect._command._demo import demo
from trio_tsconnect._command._log_arguments import add_log_commands
from trio_tsconnect._command._say import CommandError, say
from trio_tsconnect._command._serve import serve

_STATUSES = """\
exit status: 0 on success, also after a drain; 1 if the log of the demo does not match what was sent, or if
logjoin joined nothing; 2 if the arguments, the configuration,
an address or a file cannot be used; 130 or 143 after a second SIGINT or SIGTERM.
"""


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command with `arguments`, by default those of `sys.argv`, and return the exit status.

    Raises `SystemExit` after `--help` and `--version`, and for invalid arguments.
    """
    options = _parser().parse_args(arguments)
    run: Callable[[argparse.Namespace], int] = options.run
    try:
        status = run(options)
        sys.stdout.flush()
    except (CommandError, ConfigError) as exc:
        say(f"tsconnect: {exc}")
        return 2
    except BrokenPipeError:
        # The reader of our output has closed it. Redirect it, so that Python's flush at exit does not fail on what is still buffered.
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

    verb = verbs.add_parser("serve", help="serve the listeners of a configuration file", description=_describe(serve))
    verb.add_argument("config", metavar="CONFIG", help="a TOML file")
    verb.add_argument(
        "--reload-plugins",
        action="store_true",
        help="for developers: load the file and your plugins again when they change, and finish requests in progress",
    )
    verb.set_defaults(run=lambda options: serve(options.config, reload_plugins=options.reload_plugins))

    verb = verbs.add_parser("check", help="validate a configuration file", description=_describe(check))
    verb.add_argument("config", metavar="CONFIG", help="a TOML file")
    verb.set_defaults(run=lambda options: check(options.config))

    verb = verbs.add_parser("demo", help="run a proxy with clients, and compare its log with what they sent", description=_describe(demo))
    verb.add_argument("--json", action="store_true", help="print what was sent and what was logged as one JSON object")
    verb.set_defaults(run=lambda options: demo(as_json=options.json))

    add_log_commands(verbs, _describe)
    return parser


def _describe(function: Callable[..., int]) -> str:
    return (function.__doc__ or "").replace("`", "").replace("%", "%%")
