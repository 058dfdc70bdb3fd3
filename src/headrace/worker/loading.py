"""From a name to tasks: what the command line names, and how a child process finds a task of its parent's again."""

from __future__ import annotations

import importlib
import importlib.util
import sys
from collections.abc import Iterable
from pathlib import Path
from types import ModuleType
from typing import Any, Final, cast

import msgspec

from headrace.errors import ConfigurationError
from headrace.hooks import Place
from headrace.tasks import Task, collect_tasks, registry

_MAIN: Final = "__main__"
_SCRIPT: Final = "__headrace_main__"


class Source(msgspec.Struct, frozen=True):
    """Where a task is written: enough for another process to load it."""

    module: str
    file: str | None
    task: str


def load_tasks(target: str) -> dict[str, Task[Any, Any]]:
    """The tasks that ``target`` names, by id: ``tasks.py``, ``package.module``, or ``module:name`` for one name in it.

    The name may hold a task, or a list, tuple, set or dict of tasks. Raises ConfigurationError where there is no such module
    or file, where it fails to import (the cause is chained), or where it holds no task.
    """
    where, _, name = target.partition(":")
    found = _tasks_in(_import_target(where), name)
    if not found:
        raise ConfigurationError(
            f"{target!r} holds no task: decorate a function with @task from headrace, and import it there if it is elsewhere."
        )
    return found


def find_source(task: Task[Any, Any]) -> Source:
    """Where ``task`` is written. Raises ConfigurationError where no other process could find it."""
    if "<locals>" in task.fn.__qualname__:
        raise ConfigurationError(
            f"Task {task.id!r} has isolation='process' but is defined within a function, where no other process can find "
            "it. Move it to the top level of its module."
        )
    file = getattr(sys.modules.get(task.fn.__module__), "__file__", None)
    return Source(task.fn.__module__, str(Path(file).absolute()) if file else None, task.id)


def load_source(source: Source) -> Task[Any, Any]:
    """The task that ``find_source`` described, in this process. Raises ConfigurationError where it is not there any more."""
    _import_source(source)
    found = registry.get(source.task)
    if found is None:
        raise ConfigurationError(f"Task {source.task!r} is no longer in module {source.module}. Restart the worker.")
    return found


def load_places(places: Iterable[Place]) -> None:
    """Imports the modules that register hooks for all tasks, where that has not happened in this process."""
    for place in places:
        _import_source(Source(place.module, place.file, ""))


def _tasks_in(module: ModuleType, name: str) -> dict[str, Task[Any, Any]]:
    if not name:
        return collect_tasks(module)
    try:
        value: Any = getattr(module, name)
    except AttributeError:
        raise ConfigurationError(f"Module {module.__name__} has no {name!r}.") from None
    if isinstance(value, Task):
        return {value.id: value}
    members: Any = value.values() if hasattr(value, "values") else value
    if not isinstance(members, Iterable):
        return {}
    return {task.id: task for task in cast("Iterable[Any]", members) if isinstance(task, Task)}


def _import_target(where: str) -> ModuleType:
    try:
        if where.endswith(".py") or "/" in where:
            return _import_file(Path(where))
        sys.path.insert(0, str(Path.cwd()))  # as `python -m` does: the project that one stands in
        return importlib.import_module(where)
    except ConfigurationError:
        raise
    except ModuleNotFoundError as error:
        if error.name and (where == error.name or where.startswith(error.name + ".")):
            raise ConfigurationError(f"There is no module {where!r}: give a file (tasks.py) or module:name.") from None
        raise ConfigurationError(f"{where} can't be imported: {error}") from error
    except Exception as error:
        raise ConfigurationError(f"{where} can't be imported: {type(error).__name__}: {error}") from error


def _import_file(path: Path) -> ModuleType:
    file = path.absolute()
    if not file.is_file():
        raise ConfigurationError(f"There is no file {path}: give a Python file with tasks, or a module.")
    sys.path.insert(0, str(file.parent))  # as `python tasks.py` does: its neighbours can be imported
    return _execute_file(file.stem, file)


def _import_source(source: Source) -> ModuleType:
    name = _SCRIPT if source.module == _MAIN else source.module
    if name in sys.modules:
        return sys.modules[name]
    if source.file is not None and _origin_of(name) != source.file:
        return _execute_file(name, Path(source.file))
    return importlib.import_module(name)


def _origin_of(name: str) -> str | None:
    try:
        spec = importlib.util.find_spec(name)
    except (ImportError, ValueError):  # its package is not there
        return None
    return spec.origin if spec else None


def _execute_file(name: str, file: Path) -> ModuleType:
    spec = importlib.util.spec_from_file_location(name, file)
    if spec is None or spec.loader is None:
        raise ConfigurationError(f"{file} is no Python file.")
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module
    try:
        spec.loader.exec_module(module)
    except BaseException:
        sys.modules.pop(name, None)
        raise
    return module
