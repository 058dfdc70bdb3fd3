"""The command line: one file a command group, every option with a twin in the environment."""

from __future__ import annotations

import sys

from headrace.cli.app import run_command


def main() -> None:
    """Runs the command that the command line names, and ends with its exit code."""
    sys.exit(run_command(sys.argv[1:]))


__all__ = ["main"]
