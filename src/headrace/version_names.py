"""What a version of code may be called: it stands in settings, options, URLs and lists."""

from __future__ import annotations

import re
from typing import Final

MAX_LENGTH: Final = 128

_NAME: Final = re.compile(r"[A-Za-z0-9][A-Za-z0-9._+@:~-]*")


def find_version_fault(text: str) -> str | None:
    """Why this can't be the name of a version, as the rest of a sentence about it; None where it can.

    >>> find_version_fault("2026.11.21-rc.1")
    >>> find_version_fault("feature/x")
    "is 'feature/x', but a version has letters, digits and any of . _ + @ : ~ - after the first character"
    """
    if len(text) > MAX_LENGTH:
        return f"has {len(text)} characters, but a version has {MAX_LENGTH} at most"
    if not _NAME.fullmatch(text):
        return f"is {text!r}, but a version has letters, digits and any of . _ + @ : ~ - after the first character"
    return None
