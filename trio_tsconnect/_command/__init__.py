"""The `tsconnect` command, with one module for each subcommand; `_logjoin` has three."""

from trio_tsconnect._command._arguments import main as main
