"""A census of Python's standard library: one run a source file, which counts what stands in it."""

from __future__ import annotations

import ast
import warnings
from collections.abc import Iterable, Iterator

import msgspec

from headrace import Retry, task

_FUNCTIONS = (ast.FunctionDef, ast.AsyncFunctionDef)
_LOOPS = (ast.For, ast.AsyncFor, ast.While)
_BLOCKS = (*_FUNCTIONS, *_LOOPS, ast.ClassDef, ast.If, ast.With, ast.AsyncWith, ast.Try, ast.TryStar, ast.Match)


class Source(msgspec.Struct, frozen=True):
    """A file: its path in the library, and its bytes (base64 on the wire), because not all of them are UTF-8."""

    path: str
    content: bytes


class Counts(msgspec.Struct, frozen=True):
    """What stands in a file. ``depth`` is its deepest nesting of blocks, ``longest`` its longest function in lines."""

    path: str
    lines: int
    functions: int
    classes: int
    depth: int
    longest: int
    longest_name: str

    @property
    def complexity(self) -> int:
        """What files are compared by: deep and long together is what is hard to read."""
        return self.depth * self.longest


# A file that does not parse now will not a second later either: one attempt is enough.
@task(id="stdlib-census", queue="census", retry=Retry(max_attempts=1))
def take_census(source: Source) -> Counts:
    """Parses a file and counts. Raises SyntaxError or ValueError where it is no Python of this version."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of escapes that were fine when the file was written
        tree = ast.parse(source.content, source.path)
    nodes = list(_walk_blocks(tree))
    functions = [(_count_lines(node), node.name) for node, _ in nodes if isinstance(node, _FUNCTIONS)]
    longest, longest_name = max(functions, default=(0, ""))
    return Counts(
        path=source.path,
        lines=len(source.content.splitlines()),
        functions=len(functions),
        classes=sum(isinstance(node, ast.ClassDef) for node, _ in nodes),
        depth=max((depth for _, depth in nodes), default=0),
        longest=longest,
        longest_name=longest_name,
    )


def find_most_complex(counts: Iterable[Counts], number: int = 10) -> list[Counts]:
    """The files that are hardest to read, the hardest first."""
    return sorted(counts, key=lambda count: (-count.complexity, count.path))[:number]


def _count_lines(function: ast.FunctionDef | ast.AsyncFunctionDef) -> int:
    return (function.end_lineno or function.lineno) - function.lineno + 1


def _walk_blocks(tree: ast.AST) -> Iterator[tuple[ast.AST, int]]:
    """Every block and how deep it lies, 1 for the outermost. Not recursive: some files are made to exhaust the stack."""
    waiting: list[tuple[ast.AST, int]] = [(tree, 0)]
    while waiting:
        node, outside = waiting.pop()
        depth = outside
        if isinstance(node, _BLOCKS):
            depth += 1
            yield node, depth
        for child in ast.iter_child_nodes(node):
            # `elif` is an `if` within an `else`, but nobody reads it as nested
            is_elif = isinstance(node, ast.If) and isinstance(child, ast.If) and node.orelse == [child]
            waiting.append((child, outside if is_elif else depth))
