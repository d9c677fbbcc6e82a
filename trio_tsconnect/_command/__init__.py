"""The `tsconnect` command, with one module for each subcommand; `_logs` has two."""

from trio_tsconnect._command._arguments import main as main
