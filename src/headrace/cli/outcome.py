"""Exit codes, and what ends a command early.

0 it worked · 1 the work failed (a run of the batch failed, a check found something) · 2 wrong usage · 3 configuration, or
nothing could be reached · 4 not found · 130 interrupted. They are kept: scripts may rely on them.
"""

from __future__ import annotations

from typing import Final

OK: Final = 0
FAILED: Final = 1
USAGE: Final = 2
UNREACHABLE: Final = 3
NOT_FOUND: Final = 4
INTERRUPTED: Final = 130


class CommandError(Exception):
    """Ends a command with a sentence on stderr and an exit code."""

    def __init__(self, message: str, code: int = FAILED) -> None:
        super().__init__(message)
        self.code = code
