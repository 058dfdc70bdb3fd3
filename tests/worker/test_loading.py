"""From what the command line names to tasks."""

from __future__ import annotations

import sys
from collections.abc import Generator
from pathlib import Path

import pytest

from headrace import tasks
from headrace.errors import ConfigurationError
from headrace.worker.loading import load_tasks

CODE = """
from headrace.tasks import task
from {name}_neighbour import FACTOR

@task(id="{name}.double")
def double(x: int) -> int:
    return x * FACTOR

@task(id="{name}.half")
def half(x: int) -> int:
    return x // FACTOR

chosen = [half]
by_name = {{"d": double}}
nothing = 3
"""


@pytest.fixture
def project(tmp_path: Path, request: pytest.FixtureRequest) -> Generator[Path]:
    """A module with tasks in a folder that nothing else knows; what loading it changed is put back."""
    name = "loaded_" + "".join(filter(str.isalnum, request.node.name))
    (tmp_path / f"{name}_neighbour.py").write_text("FACTOR = 2\n")
    file = tmp_path / f"{name}.py"
    file.write_text(CODE.format(name=name))
    path, modules = sys.path[:], set(sys.modules)
    known = dict(tasks.registry)
    yield file
    sys.path[:] = path
    for module in set(sys.modules) - modules:
        del sys.modules[module]
    tasks.registry.clear()
    tasks.registry.update(known)


def ids(target: str) -> list[str]:
    return sorted(task_id.rpartition(".")[2] for task_id in load_tasks(target))


def test_a_file_with_its_neighbours(project: Path) -> None:
    assert ids(str(project)) == ["double", "half"]


def test_a_module_of_the_folder_that_one_stands_in(project: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(project.parent)
    assert ids(project.stem) == ["double", "half"]
    assert ids(f"{project.name}") == ["double", "half"], "the same again, as a file"


@pytest.mark.parametrize(("name", "expected"), [("double", ["double"]), ("chosen", ["half"]), ("by_name", ["double"])])
def test_a_name_in_it(project: Path, name: str, expected: list[str]) -> None:
    assert ids(f"{project}:{name}") == expected


@pytest.mark.parametrize(
    ("target", "said"),
    [
        ("{file}:missing", "has no 'missing'"),
        ("{file}:nothing", "holds no task"),
        ("{folder}/missing.py", "no file"),
        ("no_such_module_at_all", "no module 'no_such_module_at_all'"),
        ("no_such_package.at_all", "no module"),
        ("json", "holds no task"),
        ("{folder}/broken.py", "ZeroDivisionError"),
        ("{folder}/lacking.py", "not_there_at_all"),
        ("{folder}/wrong.py", "SyntaxError"),
    ],
)
def test_what_is_wrong_is_said(project: Path, target: str, said: str) -> None:
    (project.parent / "broken.py").write_text("1 / 0\n")
    (project.parent / "lacking.py").write_text("import not_there_at_all\n")
    (project.parent / "wrong.py").write_text("def\n")
    with pytest.raises(ConfigurationError, match=said):
        load_tasks(target.format(file=project, folder=project.parent))
