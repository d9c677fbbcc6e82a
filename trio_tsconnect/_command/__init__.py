"""What the `tsconnect` command does, a module for each of its verbs."""

from trio_tsconnect._command._arguments import main as main
