"""The way from a run's code to the worker that executes it."""

from __future__ import annotations

import contextlib
import threading
from collections import Counter
from collections.abc import Awaitable, Generator
from contextvars import ContextVar
from typing import Any, Final, Literal, Protocol

from headrace.durable.ops import Op
from headrace.errors import NotInRunError

LONGEST_NAME: Final = 200


class PutDown(BaseException):
    """Raised in the thread of a ``def`` task whose run is put down: it waits for longer than a worker keeps it.

    The function is left through its ``finally`` blocks, and called again, from the journal, when the wait is over.
    """


class Around(Protocol):
    """The hooks around waits."""

    async def call(self, moment: Literal["on_wait", "on_resume"], op: Op) -> None:
        """Calls them on the event loop."""
        ...

    def call_blocking(self, moment: Literal["on_wait", "on_resume"], op: Op) -> None:
        """Calls them in the thread of a ``def`` task."""
        ...


class Port(Protocol):
    """What a worker gives each run that it executes."""

    @property
    def names(self) -> Names:
        """The names of points that its code has come to."""
        ...

    @property
    def around(self) -> Around | None:
        """What is called around waits, where there is anything."""
        ...

    def perform(self, op: Op) -> Awaitable[Any]:
        """Does ``op``, on the event loop of an ``async def`` task."""
        ...

    def perform_blocking(self, op: Op) -> Any:
        """Does ``op``, in the thread of a ``def`` task."""
        ...


class Names:
    """Names of durable points: what they do and their key, with a counter only where both are repeated.

    So an edit elsewhere in the function does not shift them.
    """

    def __init__(self) -> None:
        self._counts: Counter[str] = Counter()
        self._lock = threading.Lock()

    def take(self, kind: str, label: str) -> str:
        """The name of the point that the code has come to now."""
        name = f"{kind}:{label}"[:LONGEST_NAME]
        with self._lock:
            self._counts[name] += 1
            count = self._counts[name]
        return name if count == 1 else f"{name}#{count}"


_current_port: ContextVar[Port | None] = ContextVar("headrace_current_port", default=None)


_INSIDE: Final = {
    "step": "a step: a step is over or not, and a replay does not call it again. Use it in the task's function, between "
    "steps, or make a task of the step.",
    "call": "a call for several runs (coalesce): there is no one run that would wait. Give the runs no coalescing task, or let each "
    "trigger a child.",
    "hook": "this hook: a replay does not call it again. Use it in the task's function, or in a middleware.",
}

_inside: ContextVar[str] = ContextVar("headrace_inside", default="")


def current_port(doing: str, instead: str, *, is_point: bool = True) -> Port:
    """The port of the current run. Raises NotInRunError, which says what was asked for and what to do instead.

    Where it is a point it is refused inside of steps and most hooks as well: a replay does not call these again, so it would
    not come to the point.
    """
    port = _current_port.get()
    if port is None:
        raise NotInRunError(f"{doing} works inside of a run only, and this code is not executed by a worker. {instead}")
    if is_point and (inside := _inside.get()):
        raise NotInRunError(f"{doing} can't be used inside of {_INSIDE[inside]}")
    return port


@contextlib.contextmanager
def inside_step() -> Generator[None]:
    """Refuses durable points inside the block: the function of a step."""
    token = _inside.set("step")
    try:
        yield
    finally:
        _inside.reset(token)


@contextlib.contextmanager
def inside_call() -> Generator[None]:
    """Refuses durable points inside the block: a call that is shared by runs."""
    token = _inside.set("call")
    try:
        yield
    finally:
        _inside.reset(token)


@contextlib.contextmanager
def inside_hook() -> Generator[None]:
    """Refuses durable points inside the block: a hook that no replay calls again."""
    token = _inside.set("hook")
    try:
        yield
    finally:
        _inside.reset(token)


def enter_port(port: Port) -> None:
    """Makes ``port`` that of the current run for the rest of the current context: an asyncio task has one of its own."""
    _current_port.set(port)


@contextlib.contextmanager
def entered_port(port: Port) -> Generator[None]:
    """Makes ``port`` that of the current run inside the block, for this thread or asyncio task. Workers use it."""
    token = _current_port.set(port)
    try:
        yield
    finally:
        _current_port.reset(token)
