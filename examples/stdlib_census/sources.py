"""Which files are counted: the source of the standard library of the interpreter that runs this."""

from __future__ import annotations

import sysconfig
from collections.abc import Iterator
from pathlib import Path


def list_sources() -> list[str]:
    """Paths of the library's Python files, without what was installed into it."""
    return sorted(map(str, _walk(Path(sysconfig.get_path("stdlib")))))


def _walk(folder: Path) -> Iterator[Path]:
    for entry in folder.iterdir():
        if entry.is_dir() and entry.name not in {"site-packages", "__pycache__"}:
            yield from _walk(entry)
        elif entry.suffix == ".py" and entry.is_file():
            yield entry
