"""Documents to try it with: files that one names, or the texts that come with the packages installed here."""

from __future__ import annotations

from collections.abc import Iterator
from importlib.metadata import distributions
from pathlib import Path

from .documents import Document

_SUFFIXES = {".md", ".rst", ".txt"}
_NAMES = ("METADATA", "LICENSE", "LICENCE", "COPYING", "NOTICE", "AUTHORS", "README")


def read_files(paths: list[Path]) -> Iterator[Document]:
    """A document for each file, and for each text file below a folder; its path is its id."""
    for path in paths:
        found = sorted(path.rglob("*")) if path.is_dir() else [path]
        for file in found:
            if file.is_file() and (file == path or _is_text(file)):
                yield Document(file.as_posix(), read_text(file))


def read_installed() -> Iterator[Document]:
    """Licenses, descriptions and notes of the installed packages, each tagged with its package and its kind."""
    seen: set[str] = set()
    for distribution in sorted(distributions(), key=lambda one: one.name.lower()):
        for file in sorted(distribution.files or [], key=str):
            path = Path(str(file.locate()))
            if ".dist-info" not in str(file) or not _is_text(path) or not path.is_file() or str(file) in seen:
                continue
            seen.add(str(file))
            kind = "description" if file.name == "METADATA" else "license"
            yield Document(file.as_posix(), read_text(path), [f"package:{distribution.name}", kind])


def read_text(path: Path) -> str:
    """A file's text; what is no UTF-8 is replaced, and so are NUL characters, which PostgreSQL's text can't hold."""
    return path.read_text(encoding="utf-8", errors="replace").replace("\0", "\N{REPLACEMENT CHARACTER}")


def _is_text(path: Path) -> bool:
    return path.suffix.lower() in _SUFFIXES or path.name.upper().startswith(_NAMES)
