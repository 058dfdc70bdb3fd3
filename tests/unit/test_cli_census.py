"""The demo's example: what it counts, and what it shows of it."""

from __future__ import annotations

import importlib.util
import sys
from typing import Any

import pytest

from headrace.cli.demo import find_example
from headrace.cli.output import describe_error


@pytest.fixture(scope="module")
def census() -> Any:
    spec = importlib.util.spec_from_file_location("census_tasks", find_example() / "tasks.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules["census_tasks"] = module
    spec.loader.exec_module(module)
    return module


SOURCE = b"""\
import os

class A:
    def short(self): pass

    async def long(self):
        for x in []:
            if x:
                pass
            elif x == 1:
                pass
            elif x == 2:
                with x:
                    pass
            else:
                pass

def outside():
    class B:
        pass
"""


def test_it_counts_functions_classes_lines_depth_and_the_longest(census):
    counts = census.take_census(census.Source("a.py", SOURCE))
    assert (counts.path, counts.lines, counts.functions, counts.classes) == ("a.py", 20, 3, 2)
    # class, def, for, if (elif is not nested), with
    assert counts.depth == 5
    assert (counts.longest, counts.longest_name) == (11, "long")
    assert counts.complexity == 55


def test_an_empty_file_counts_nothing(census):
    counts = census.take_census(census.Source("a.py", b""))
    assert (counts.lines, counts.functions, counts.classes, counts.depth, counts.longest) == (0, 0, 0, 0, 0)


def test_another_encoding_and_old_escapes_are_read(census):
    source = b"# -*- coding: latin-1 -*-\nname = '\xe9'\npattern = '\\d'\n"
    assert census.take_census(census.Source("a.py", source)).lines == 3


@pytest.mark.parametrize("source", [b"print 'old'", b"\xff", b"a = '\0'"])
def test_what_is_no_python_fails(census, source):
    with pytest.raises((SyntaxError, ValueError)):
        census.take_census(census.Source("a.py", source))


def test_nesting_beyond_the_stack_is_counted(census):
    source = b"\n".join(b" " * depth + b"if x:" for depth in range(90)) + b" pass"
    assert census.take_census(census.Source("a.py", source)).depth == 90


def test_the_hardest_come_first(census):
    def make(path: str, depth: int, longest: int) -> Any:
        return census.Counts(path, 1, 1, 1, depth, longest, "f")

    counts = [make("b", 2, 3), make("c", 9, 9), make("a", 3, 2), make("d", 0, 0)]
    assert [one.path for one in census.find_most_complex(counts, 3)] == ["c", "a", "b"]


@pytest.mark.parametrize(
    ("error", "said"),
    [
        ({"type": "BUILT_IN_ERROR", "name": "SyntaxError", "message": "bad\nsecond line"}, "SyntaxError: bad"),
        ({"type": "INTERNAL_ERROR", "code": "TASK_INPUT_ERROR", "message": "no"}, "TASK_INPUT_ERROR: no"),
        ({"type": "STRING_ERROR", "raw": "ended"}, "STRING_ERROR: ended"),
        (None, "unknown: "),
    ],
)
def test_an_error_is_told_in_a_line(error, said):
    assert describe_error(error) == said
