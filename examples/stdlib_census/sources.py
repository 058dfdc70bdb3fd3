"""Which files are counted: the source of the standard library of the interpreter that runs this."""

from __future__ import annotations

import sysconfig
from collections.abc import Iterable, Iterator
from pathlib import Path

_SKIPPED = {"site-packages", "__pycache__"}


def find_library() -> Path:
    """The folder of the running interpreter's standard library."""
    return Path(sysconfig.get_path("stdlib"))


def list_sources() -> list[str]:
    """The library's Python files, relative to it, in order; without what was installed into it."""
    library = find_library()
    paths = (path.relative_to(library) for path in library.rglob("*.py") if path.is_file())
    return sorted(path.as_posix() for path in paths if not _SKIPPED.intersection(path.parts))


def read_sources(paths: Iterable[str]) -> Iterator[tuple[str, bytes]]:
    """Each path with the bytes of its file, read when it is asked for."""
    library = find_library()
    for path in paths:
        yield path, (library / path).read_bytes()
