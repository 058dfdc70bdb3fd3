"""Which asyncio tasks belong to a run, and whether all of them do nothing but wait for something durable.

A run may start tasks of its own (gather, TaskGroup, create_task). It can be put down only when none of them is in the
middle of anything else: a task that waits for a socket would have to begin again. What can't be told counts as busy.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Callable, Container, Generator
from contextvars import Context, ContextVar
from types import CodeType
from typing import Any, Final

Tasks = set["asyncio.Task[Any]"]

_current_tasks: ContextVar[Tasks | None] = ContextVar("headrace_current_tasks", default=None)

_JOINS: Final = {"TaskGroup.__aexit__", "_wait", "TaskGroup._wait_tasks"}
"""Where asyncio (and anyio) wait for tasks of their own: each of these is looked at by itself."""

_AS_COMPLETED: Final = "_wait_for_one"
"""Where asyncio.as_completed does: through a queue of its own."""

_LOCK_FILES: Final = ("/asyncio/locks.py", "/asyncio/queues.py")
_LOCKS_OF_ANYIO: Final = ("Lock.", "Semaphore.", "CapacityLimiter.", "Event.", "Condition.")


def track_tasks(tasks: Tasks) -> None:
    """From here on tasks that the current one creates, and those again, are put into ``tasks``."""
    _current_tasks.set(tasks)


@contextlib.contextmanager
def tracking_loop() -> Generator[None]:
    """Makes the running loop track tasks. Goes through whatever task factory it has already."""
    loop = asyncio.get_running_loop()
    before: Callable[..., Any] | None = loop.get_task_factory()

    def make_task(loop: asyncio.AbstractEventLoop, coro: Any, *, context: Context | None = None, **options: Any) -> Any:
        chosen: dict[str, Any] = options if context is None else {**options, "context": context}
        task = before(loop, coro, **chosen) if before else asyncio.Task(coro, loop=loop, **chosen)
        tasks = _current_tasks.get() if context is None else context.get(_current_tasks)
        if tasks is not None:
            tasks.add(task)
            task.add_done_callback(tasks.discard)
        return task

    loop.set_task_factory(make_task)
    try:
        yield
    finally:
        loop.set_task_factory(before)


def all_wait(tasks: Tasks, durable: Container[asyncio.Future[Any]], *, locks: bool = False) -> bool:
    """Whether every task waits for one of the futures ``durable``, or for others of ``tasks``.

    With ``locks`` also a task that waits for a lock, a semaphore or a queue does: who lets it go on is most likely one of
    ``tasks`` again, but that can't be told.
    """
    return all(_waits(task, tasks, durable, locks=locks) for task in tasks if not task.done())


def _waits(task: asyncio.Task[Any], tasks: Tasks, durable: Container[asyncio.Future[Any]], *, locks: bool) -> bool:
    waiter: asyncio.Future[Any] | None = getattr(task, "_fut_waiter", None)
    if waiter is None or waiter.done():
        return False  # it is about to go on
    if waiter in durable or waiter in tasks:
        return True
    children: Any = getattr(waiter, "_children", None)  # of a gather
    if children is not None:
        open_ones = [child for child in children if not child.done()]
        return bool(open_ones) and all(child in tasks or child in durable for child in open_ones)
    codes = _list_codes(task)
    if not codes:
        return False
    innermost = codes[-1]
    if innermost.co_qualname in _JOINS and _is_join(innermost.co_filename):
        return True
    if any(code.co_name == _AS_COMPLETED and _is_join(code.co_filename) for code in codes):
        return True
    return locks and (innermost.co_filename.endswith(_LOCK_FILES) or _is_lock_of_anyio(innermost))


def _list_codes(task: asyncio.Task[Any]) -> list[CodeType]:
    """The code in which a task stands: the coroutines of its chain of awaits, the innermost last."""
    here: Any = task.get_coro()
    codes: list[CodeType] = []
    while here is not None:
        found = getattr(here, "cr_code", None) or getattr(here, "gi_code", None) or getattr(here, "ag_code", None)
        if found is None:
            break
        codes.append(found)
        here = getattr(here, "cr_await", None) or getattr(here, "gi_yieldfrom", None) or getattr(here, "ag_await", None)
    return codes


def _is_join(file: str) -> bool:
    return "/asyncio/" in file or "/anyio/" in file


def _is_lock_of_anyio(code: CodeType) -> bool:
    return "/anyio/" in code.co_filename and code.co_qualname.startswith(_LOCKS_OF_ANYIO)
