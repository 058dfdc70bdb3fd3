"""The version of the code that a worker runs: where nobody names one, a hash of the files in which its tasks are written."""

from __future__ import annotations

import hashlib
import inspect
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from headrace.tasks import Task


def find_version(tasks: Iterable[Task[Any, Any]]) -> str:
    """Twelve hexadecimal digits that change with any of these tasks' source files.

    Workers that serve different tasks out of the same files run the same version.
    """
    files: set[Path] = set()
    homeless: list[str] = []
    for task in tasks:
        if found := _file_of(task):
            files.add(Path(found))
        else:
            homeless.append(task.id)
    digest = hashlib.sha256()
    for file in sorted(files):
        digest.update(file.name.encode())
        digest.update(file.read_bytes())
    for task_id in sorted(homeless):
        digest.update(task_id.encode())
    return digest.hexdigest()[:12]


def _file_of(task: Task[Any, Any]) -> str | None:
    try:
        file = inspect.getsourcefile(inspect.unwrap(task.fn))
    except TypeError:  # something callable that is no function of Python's
        return None
    return file if file and Path(file).is_file() else None
