"""A census of Python's standard library: one run a source file, which counts what stands in it.

``headrace demo`` sends every file of the running interpreter's library as one batch, and reduces the counts to a table.
Some files of the library's own tests are broken on purpose: their runs fail, and are shown as failed.
"""

from __future__ import annotations

import ast
import sysconfig
import warnings
from collections.abc import Iterable, Iterator
from pathlib import Path

import msgspec

from headrace import Retry, task

_FUNCTIONS = (ast.FunctionDef, ast.AsyncFunctionDef)
_NESTING = (
    *_FUNCTIONS,
    *(ast.ClassDef, ast.If, ast.For, ast.AsyncFor, ast.While, ast.With, ast.AsyncWith, ast.Try, ast.TryStar, ast.Match),
)


class Source(msgspec.Struct, frozen=True):
    """A file: its path in the library, and its bytes (base64 on the wire), because not all of them are UTF-8."""

    path: str
    content: bytes


class Counts(msgspec.Struct, frozen=True):
    """What stands in a file. ``depth`` is its deepest nesting of blocks, ``longest`` the lines of its longest function."""

    path: str
    lines: int
    functions: int
    classes: int
    depth: int
    longest: int

    @property
    def complexity(self) -> int:
        """The measure by which files are compared: deep and long together is what is hard to read."""
        return self.depth * self.longest


# A file that does not parse today won't do so in a second: one attempt is enough.
@task(id="stdlib-census", queue="census", retry=Retry(max_attempts=1))
def take_census(source: Source) -> Counts:
    """Parses a file and counts. Raises SyntaxError or ValueError where it is no Python of this version."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # about escapes that were fine when the file was written
        tree = ast.parse(source.content, source.path)
    nodes = list(_walk(tree))
    functions = [node for node, _ in nodes if isinstance(node, _FUNCTIONS)]
    return Counts(
        path=source.path,
        lines=len(source.content.splitlines()),
        functions=len(functions),
        classes=sum(isinstance(node, ast.ClassDef) for node, _ in nodes),
        depth=max(depth for _, depth in nodes),
        longest=max(((node.end_lineno or node.lineno) - node.lineno + 1 for node in functions), default=0),
    )


def list_sources() -> list[Path]:
    """Every Python file of the running interpreter's standard library, without what was installed beside it."""
    library = _library()
    paths = (path.relative_to(library) for path in library.rglob("*.py"))
    return sorted(path for path in paths if "site-packages" not in path.parts)


def read_sources(paths: Iterable[Path]) -> Iterator[Source]:
    """The files, read one by one as they are asked for."""
    library = _library()
    for path in paths:
        yield Source(path.as_posix(), (library / path).read_bytes())


def find_most_complex(counts: Iterable[Counts], number: int = 10) -> list[Counts]:
    """The files that are hardest to read, the hardest first."""
    return sorted(counts, key=lambda count: (-count.complexity, count.path))[:number]


def _library() -> Path:
    return Path(sysconfig.get_path("stdlib"))


def _walk(tree: ast.AST) -> Iterator[tuple[ast.AST, int]]:
    """Every node and how many blocks it stands in; without recursion, which some files are made to exhaust."""
    waiting: list[tuple[ast.AST, int]] = [(tree, 0)]
    while waiting:
        node, outside = waiting.pop()
        depth = outside + isinstance(node, _NESTING)
        yield node, depth
        waiting.extend((child, depth) for child in ast.iter_child_nodes(node))
